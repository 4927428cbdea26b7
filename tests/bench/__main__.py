"""`make bench`: everything, or the parts named on the command line."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from komad.simulate import MovieSpec
from tests.bench import accuracy, archive, folder, queue, single, status

PARTS = ["archive", "queue", "status", "single", "folder", "accuracy"]


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, help=", ".join(PARTS))
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=4, help="movies per case of `accuracy`")
    parser.add_argument(
        "--keep", type=Path, help="folder for the simulated movie, used again by the next run"
    )
    arguments = parser.parse_args()
    spec = MovieSpec(ny=arguments.size, nx=arguments.size, n_frames=arguments.frames, max_count=127)
    with tempfile.TemporaryDirectory(prefix="komad-bench-") as temporary:
        place = arguments.keep or Path(temporary)
        print(f"{os.cpu_count()} cores")
        for part in (archive, queue, status):
            if part.__name__.rsplit(".", 1)[-1] in arguments.parts:
                part.main()
        if "single" in arguments.parts:
            single.main(place, spec, arguments.repeats)
        if "folder" in arguments.parts:
            folder.main(place, spec)
        if "accuracy" in arguments.parts:
            accuracy.main(arguments.seeds)


if __name__ == "__main__":
    main()
