"""The files of the stack sums: total, frame means and outliers of one movie, in the state directory."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from komad.errors import OutputError
from komad.formats.atomic import atomic_file
from komad.model import Movie, OutlierPixels, StackFacts, StackSum
from komad.store import StackSumRow


def save(directory: Path, movie: Movie, stack_sum: StackSum) -> StackSumRow:
    """Write a movie's stack sum into `directory`; gives the row that tells of it.

    Raises
    ------
    DiskFullError, OutputError
        The file cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {directory}: {error.strerror}") from error
    name = f"{movie.movie_id}.npz"
    with atomic_file(directory / name) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            total=stack_sum.total,
            frame_means=stack_sum.frame_means,
            facts=np.array(list(asdict(stack_sum.facts).values())),
            n_found=np.array(
                [stack_sum.outliers.n_hot, stack_sum.outliers.n_dead, stack_sum.outliers.n_defects]
            ),
            yx=stack_sum.outliers.yx,
            keep=stack_sum.outliers.keep,
            frame=stack_sum.outliers.frame,
        )
    ny, nx = stack_sum.total.shape
    return StackSumRow(
        file=name,
        n_frames=len(stack_sum.frame_means),
        ny=ny,
        nx=nx,
        dtype=stack_sum.total.dtype.name,
        mean=float(stack_sum.frame_means.sum()),
        n_outliers=len(stack_sum.outliers),
        frame_means=stack_sum.frame_means.astype("<f8").tobytes(),
    )


def load(path: Path) -> StackSum | None:
    """Read a stack sum; None when the file is gone or damaged (it can be made again)."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            names = [each.name for each in fields(StackFacts)]
            n_hot, n_dead, n_defects = arrays["n_found"].tolist()
            return StackSum(
                total=arrays["total"],
                frame_means=arrays["frame_means"],
                outliers=OutlierPixels(
                    yx=arrays["yx"],
                    keep=arrays["keep"],
                    frame=arrays["frame"],
                    n_hot=n_hot,
                    n_dead=n_dead,
                    n_defects=n_defects,
                ),
                facts=StackFacts(**dict(zip(names, arrays["facts"].tolist(), strict=True))),
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
