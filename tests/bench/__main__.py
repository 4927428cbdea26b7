"""`make bench`: everything, or the parts named on the command line."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from komad.simulate import MovieSpec
from tests.bench import (
    accuracy,
    archive,
    eer,
    folder,
    formats,
    gpu,
    koma,
    queue,
    scaling,
    session,
    single,
    status,
)
from tests.bench.suite import CASES

PARTS = (
    "archive",
    "eer",
    "queue",
    "session",
    "status",
    "single",
    "formats",
    "folder",
    "scaling",
    "koma",
    "accuracy",
)
ON_A_GPU = "gpu"
"""Only where it is asked for: it fails where there is none."""


def main() -> None:
    """Run the parts asked for."""
    arguments = _arguments()
    nx, ny = arguments.size
    spec = MovieSpec(ny=ny, nx=nx, n_frames=arguments.frames, max_count=127)
    with tempfile.TemporaryDirectory(prefix="komad-bench-") as temporary:
        place = arguments.keep or Path(temporary)
        one_movie = place / f"{nx}x{ny}x{spec.n_frames}"
        print(f"{os.cpu_count()} cores", flush=True)
        for part in (archive, queue, session, status):
            if part.__name__.rsplit(".", 1)[-1] in arguments.parts:
                part.main()
        if "eer" in arguments.parts:
            eer.main(arguments.eer_frames)
        if "single" in arguments.parts:
            single.main(one_movie, spec, arguments.repeats)
        if "formats" in arguments.parts:
            formats.main(one_movie, spec, arguments.repeats)
        if "folder" in arguments.parts:
            folder.main(one_movie, spec)
        if ON_A_GPU in arguments.parts:
            gpu.main(place)
        if "scaling" in arguments.parts:
            scaling.main(place)
        if "koma" in arguments.parts:
            koma.main(arguments.pictures)
        if "accuracy" in arguments.parts:
            accuracy.main(
                place,
                only=arguments.only,
                n_seeds=arguments.seeds,
                seed_offset=arguments.seed_offset,
                relion=arguments.relion,
                frc=arguments.frc,
                out=arguments.out,
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, help=", ".join((*PARTS, ON_A_GPU)))
    parser.add_argument("--keep", type=Path, help="folder for simulated movies, used again by the next run")
    one = parser.add_argument_group("single, formats, folder")
    one.add_argument("--size", type=_size, default=(4096, 4096), help="4096, or 5760x4092 (x, y)")
    one.add_argument("--frames", type=int, default=40)
    one.add_argument("--repeats", type=int, default=3)
    events = parser.add_argument_group("eer")
    events.add_argument("--eer-frames", type=int, default=4, help="40 make a usual movie")
    pattern = parser.add_argument_group("koma")
    pattern.add_argument("--pictures", type=Path, help="folder for the figures of docs/koma.md")
    suite = parser.add_argument_group("accuracy")
    suite.add_argument(
        "--only", action="append", default=[], choices=[case.name for case in CASES], help="may be repeated"
    )
    suite.add_argument("--seeds", type=int, default=1, help="movies of each kind")
    suite.add_argument("--seed-offset", type=int, default=0, help="other movies of the same kinds")
    suite.add_argument("--no-relion", dest="relion", action="store_false", help="komad alone")
    suite.add_argument("--no-frc", dest="frc", action="store_false", help="displacement fields only: faster")
    suite.add_argument("--out", type=Path, help="JSON file for all figures, the FRC of every band too")
    arguments = parser.parse_args()
    known = (*PARTS, ON_A_GPU)
    if unknown := set(arguments.parts) - set(known):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return arguments


def _size(text: str) -> tuple[int, int]:
    """(nx, ny) from `4096` or `5760x4092`."""
    nx, _, ny = text.partition("x")
    return int(nx), int(ny or nx)


if __name__ == "__main__":
    main()
