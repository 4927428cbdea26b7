"""`komad demo`: a simulated microscope, the real daemon, and how close it came to the truth."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from komad.cli import exits
from komad.cli.locate import Places, read_places

if TYPE_CHECKING:
    from komad.simulate import MovieSpec

MARK = "# Written by `komad demo`.\n"
TIME_LIMIT_S = 115.0
LARGEST_ERROR_PX = 0.2
"""For movies of USUAL_SIZE pixels a side; smaller ones hold less of the specimen, so their error is larger."""
USUAL_SIZE = 2048
STOP_LIMIT_S = 20.0
"""Given to the daemon to end by itself."""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all of it.")] = Path(
        "komad-demo"
    ),
    movies: Annotated[int, typer.Option("--movies", "-n", min=1, help="Movies in the session.")] = 3,
    size: Annotated[int, typer.Option("--size", min=512, help="Pixels per side.")] = 2048,
    frames: Annotated[int, typer.Option("--frames", min=6, help="Frames per movie.")] = 24,
    interval: Annotated[float, typer.Option("--interval", min=0, help="Seconds from movie to movie.")] = 5.0,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal movies.")] = 1,
) -> None:
    """Simulate a short session, run the real daemon on it, and compare the measured motion with the truth.

    Takes less than two minutes on two cores. Ends with exit code 1 if a movie failed or the motion is off.

    Example: komad demo -o /tmp/komad-demo
    """
    from komad.simulate import MovieSpec

    started = time.monotonic()
    spec = MovieSpec(
        n_frames=frames, ny=size, nx=size, dose_per_frame=2.0, max_count=127, local_motion=0.0, seed=seed
    )
    config = _prepare(output, spec)
    camera = output / "camera"
    print(
        f"A simulated microscope writes {movies} movies of {size} x {size} x {frames} into {camera}.",
        flush=True,
    )
    with _microscope(camera, spec, movies, interval), _daemon(config, output / "komad.log") as daemon:
        finished = _follow(read_places(config), movies, daemon, deadline=started + TIME_LIMIT_S)
    if not finished:
        print(f"The session did not end well; look into {output / 'komad.log'}.", file=sys.stderr)
        raise typer.Exit(exits.MOVIES_FAILED)
    good = _report(output, size)
    print(f"All of it took {time.monotonic() - started:.0f} s.")
    if not good:
        raise typer.Exit(exits.MOVIES_FAILED)


def _prepare(output: Path, spec: MovieSpec) -> Path:
    """Make the folder and its configuration; an earlier demo in it is removed, anything else is refused."""
    config = output / "komad.toml"
    if config.is_file() and config.read_text(encoding="utf-8").startswith(MARK):
        shutil.rmtree(output)
    if output.exists() and any(output.iterdir()):
        raise typer.BadParameter(f"{output} holds other files; name an empty folder with -o")
    (output / "camera").mkdir(parents=True)
    config.write_text(
        f"""{MARK}
state_directory = "state"

[[watch]]
directory = "camera"

[watch.acquisition]
pixel_size_angstrom = {spec.pixel_size_angstrom}
voltage_kv = {spec.voltage_kv}
dose_per_frame = {spec.dose_per_frame}

[watch.references]
gain = "camera/gain.mrc"

[watching]
sweep_interval_s = 1.0

[output]
directory = "output"
min_free_gb = 0.5
""",
        encoding="utf-8",
    )
    return config


@contextmanager
def _microscope(camera: Path, spec: MovieSpec, n_movies: int, interval_s: float) -> Iterator[None]:
    """Write the session in a thread; ready when the gain reference is there."""
    from komad.simulate.microscope import run_session

    stop = threading.Event()
    thread = threading.Thread(
        target=run_session,
        args=(camera, spec, n_movies, interval_s),
        kwargs={"stop": stop},
        name="microscope",
        daemon=True,
    )
    thread.start()
    try:
        # The truth of the first movie is written after the gain reference is complete.
        while thread.is_alive() and not any(camera.glob("*_truth.json")):
            time.sleep(0.05)
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `komad run` beside us, in a session of its own so that Ctrl-C reaches it through us only."""
    command = [sys.executable, "-m", "komad", "run", "--config", str(config)]
    with log.open("wb") as file:
        daemon = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        yield daemon
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(daemon.pid, signal.SIGKILL)  # its workers too
            daemon.wait()


def _follow(places: Places, n_movies: int, daemon: subprocess.Popen[bytes], *, deadline: float) -> bool:
    """Show the status until every movie is corrected; False when one failed, the daemon died or time is up."""
    from rich.live import Live
    from rich.text import Text

    from komad.cli.status import current_view
    from komad.errors import StoreError
    from komad.status.text import render

    with Live(Text("The daemon starts."), auto_refresh=False) as live:
        while time.monotonic() < deadline and daemon.poll() is None:
            time.sleep(0.5)
            try:
                view = current_view(places)
            except StoreError:
                continue  # no database yet
            live.update(render(view), refresh=True)
            if view.counts.failed:
                return False
            if view.counts.corrected >= n_movies:
                return True
    return False


def _report(output: Path, size: int) -> bool:
    """Print the comparison with the truth and where to look; whether the motion is right everywhere."""
    from komad.cli.demo_report import compare, draw

    results, camera = output / "output", output / "camera"
    truths = sorted(camera.glob("*_truth.json"))
    stems = [path.name.removesuffix("_truth.json") for path in truths]
    comparisons = [
        compare(results / f"{stem}.json", truth) for stem, truth in zip(stems, truths, strict=True)
    ]
    limit_px = LARGEST_ERROR_PX * max(1.0, USUAL_SIZE / size) ** 1.5
    print("\nMeasured motion against the truth, RMS per axis:")
    for comparison in comparisons:
        verdict = "" if comparison.rms_px <= limit_px else "  too far off"
        print(f"  {comparison.stem}: {comparison.rms_px:.3f} px{verdict}")
    most = max(comparisons, key=lambda comparison: comparison.extent_px)
    draw(
        output / "demo.png",
        comparisons,
        stem=most.stem,
        movie=camera / f"{most.stem}.mrc",
        gain=camera / "gain.mrc",
        micrograph=results / f"{most.stem}_noDW.mrc",
    )
    print(
        f"\nLook at\n  {output / 'demo.png'}   the session in one picture\n"
        f"  {results}   micrographs, thumbnails, corrected_micrographs.star, processed.jsonl\n"
        f"  {output / 'komad.toml'}   the configuration; `komad show {stems[0]} --config {output / 'komad.toml'}`"
    )
    return all(comparison.rms_px <= limit_px for comparison in comparisons)
