"""All files of one movie, in the promised order: whoever sees `<stem>.star` sees all of them."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from komad import __version__
from komad.config import Output, Processing
from komad.errors import OutputError
from komad.formats import atomic, images, star
from komad.model import MicrographResult, MotionModel, Movie, ReferenceFile
from komad.model.motion import early_late_px, path_length_px
from komad.output.relion import movie_tables
from komad.output.thumbnail import thumbnail_png

WRITERS = 2
"""Files of a movie that are written at the same time: one computes while another waits for its disk."""
SCHEMA_VERSION = 1
"""Of `<stem>.json`, `processed.jsonl` and `session.json`; raised when a key changes its meaning or goes away."""

SUFFIXES = {
    "micrograph": ".mrc",
    "micrograph_no_dw": "_noDW.mrc",
    "even": "_EVN.mrc",
    "odd": "_ODD.mrc",
    "power_spectrum": "_PS.mrc",
    "thumbnail": ".png",
    "details": ".json",
    "motion": ".star",
}
"""Kind of file -> what follows the stem, in the order of writing."""


@dataclass(frozen=True, slots=True)
class _Picture:
    image: npt.NDArray[np.float32]
    pixel_size_angstrom: float
    float16: bool


def write_micrograph(
    result: MicrographResult,
    movie: Movie,
    *,
    directory: Path,
    archive_path: Path | None,
    output: Output,
    outliers_yx: npt.NDArray[np.int32],
) -> dict[str, object]:
    """Write every file of a movie into `directory`; `<stem>.star` is last.

    Each file appears complete under its name or not at all. When the movie was processed before, its old `.star` goes
    first, and files that this run does not make go too, so that a set is never a mixture.

    Parameters
    ----------
    result, movie
        The pictures and numbers, and what is known of the movie.
    archive_path
        The MRCZ archive; None when there is none.
    outliers_yx
        (n_outliers, 2) as (y, x): the pixels that were replaced, for RELION's `hot_pixels`.

    Returns
    -------
    dict
        What an index needs, plain values for JSON; see `summarise`.

    Raises
    ------
    OutputError, DiskFullError
        A file cannot be written.
    """
    pictures = _pictures(result, output)
    kinds = [*pictures, *(["thumbnail"] if output.thumbnail else []), "details", "motion"]
    paths = {kind: directory / f"{movie.stem}{SUFFIXES[kind]}" for kind in SUFFIXES}
    _make_room(directory, [paths["motion"], *(path for kind, path in paths.items() if kind not in kinds)])

    # These in any order; what says that a movie is complete comes after them.
    with ThreadPoolExecutor(WRITERS, "komad-files") as writers:
        written = [
            writers.submit(
                images.write_mrc,
                paths[kind],
                picture.image,
                pixel_size_angstrom=picture.pixel_size_angstrom,
                float16=picture.float16,
            )
            for kind, picture in pictures.items()
        ]
        if "thumbnail" in kinds:
            written.append(writers.submit(_write_thumbnail, paths["thumbnail"], result, movie))
    for future in written:
        future.result()
    processing = Processing.model_validate(dict(movie.processing))
    motion_star = star.dumps(movie_tables(movie, result.motion, outliers_yx, processing=processing))
    sizes = {
        paths[kind].name: paths[kind].stat().st_size for kind in kinds if kind not in ("details", "motion")
    }
    sizes[paths["motion"].name] = len(motion_star.encode())

    files = {kind: paths[kind].name for kind in kinds}
    summary = {
        **summarise(result, movie, files=files, archive_path=archive_path),
        "output_bytes": sum(sizes.values()),
    }
    details = {
        **summary,
        **bound_values(movie),
        "motion": _motion(result.motion, movie),
        "file_sizes_bytes": sizes,
    }
    atomic.write_text(paths["details"], json.dumps(details, indent=1, allow_nan=False) + "\n")
    atomic.write_text(paths["motion"], motion_star)
    return summary


def _pictures(result: MicrographResult, output: Output) -> dict[str, _Picture]:
    """Kind -> picture, in the order of writing. `<stem>.mrc` is the best sum there is."""
    weighted = result.sum_dose_weighted
    sums = {
        "micrograph": result.sum_unweighted if weighted is None else weighted,
        "micrograph_no_dw": None if weighted is None else result.sum_unweighted,
        "even": result.sum_even,
        "odd": result.sum_odd,
    }
    pictures = {
        kind: _Picture(image, result.pixel_size_angstrom, output.float16)
        for kind, image in sums.items()
        if image is not None
    }
    if result.power_spectrum is not None:
        pixel_size = result.power_spectrum_pixel_size_angstrom
        pictures["power_spectrum"] = _Picture(result.power_spectrum, pixel_size, float16=False)
    return pictures


def _make_room(directory: Path, outdated: list[Path]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in outdated:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write to the output directory {directory}: {error.strerror} ({error.filename}); "
            "check that it is mounted and that komad's user may write there"
        ) from error


def summarise(
    result: MicrographResult, movie: Movie, *, files: dict[str, str], archive_path: Path | None
) -> dict[str, object]:
    """What `processed.jsonl`, the STAR index and the database keep of a movie; plain values."""
    acquisition = movie.acquisition
    pixel_size = acquisition.pixel_size_angstrom or result.pixel_size_angstrom
    motion_px = motion_lengths_px(result.motion, movie)
    return {
        "schema_version": SCHEMA_VERSION,
        "komad_version": __version__,
        "stem": movie.stem,
        "movie": str(movie.path),
        "written_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "files": files,
        "archive": None if archive_path is None else str(archive_path),
        "dose_weighted": result.sum_dose_weighted is not None,
        "n_frames": movie.header.n_frames,
        "movie_pixel_size_angstrom": pixel_size,
        "pixel_size_angstrom": result.pixel_size_angstrom,
        "voltage_kv": acquisition.voltage_kv,
        "cs_mm": acquisition.cs_mm,
        "amplitude_contrast": acquisition.amplitude_contrast,
        "dose_per_frame": acquisition.dose_per_frame,
        "optics_group": acquisition.optics_group,
        "motion_px": motion_px,
        "motion_angstrom": {name: length * pixel_size for name, length in motion_px.items()},
        "shift_error_px": _finite(result.motion.shift_error_px),
        "n_outliers": result.n_outliers,
        "mean_e_per_px_frame": _finite(result.mean_e_per_px_frame),
        "timings_s": {stage: round(seconds, 4) for stage, seconds in result.timings_s.items()},
        "warnings": [*result.warnings, *(f"{name}: {note}" for name, note in acquisition.notes.items())],
    }


def motion_lengths_px(motion: MotionModel, movie: Movie) -> dict[str, float]:
    """Path length in pixels of the movie: total, early (first 4 e/Å²), late."""
    early, late = early_late_px(motion.shifts_px, movie.acquisition.exposure(len(motion.shifts_px)))
    return {"total": path_length_px(motion.shifts_px), "early": early, "late": late}


def _write_thumbnail(path: Path, result: MicrographResult, movie: Movie) -> None:
    micrograph = result.sum_unweighted if result.sum_dose_weighted is None else result.sum_dose_weighted
    pixel_size = movie.acquisition.pixel_size_angstrom or result.pixel_size_angstrom
    lengths = {name: px * pixel_size for name, px in motion_lengths_px(result.motion, movie).items()}
    png = thumbnail_png(
        micrograph,
        pixel_size_angstrom=result.pixel_size_angstrom,
        displacement_angstrom=result.motion.displacement_px * pixel_size,
        caption=f"motion {lengths['total']:.1f} Å, early {lengths['early']:.1f} Å",
    )
    atomic.write_bytes(path, png)


def bound_values(movie: Movie) -> dict[str, object]:
    """What was bound to the movie when it was found, plain values; the archive keeps the same."""
    references = movie.references
    return {
        "movie_file": {
            "path": str(movie.path),
            "size_bytes": movie.size_bytes,
            "mtime_ns": movie.mtime_ns,
            "fingerprint_sha256": movie.fingerprint,
            "found_at": movie.found_at,
        },
        "header": asdict(movie.header),
        "acquisition": asdict(movie.acquisition),
        "references": {
            "gain": _reference(references.gain),
            "gain_rot": references.gain_rot,
            "gain_flip": references.gain_flip,
            "dark": _reference(references.dark),
            "defects": _reference(references.defects),
        },
        "processing": dict(movie.processing),
    }


def _reference(file: ReferenceFile | None) -> dict[str, str] | None:
    return None if file is None else {"path": str(file.original_path), "sha256": file.sha256}


def _motion(motion: MotionModel, movie: Movie) -> dict[str, object]:
    """Per-frame shifts as [y, x], None for a frame that was skipped; frame 0 is the first of the movie."""
    pixel_size = movie.acquisition.pixel_size_angstrom or math.nan

    def rows(shifts: npt.NDArray[np.float64]) -> list[list[float] | None]:
        return [row.tolist() if np.isfinite(row).all() else None for row in shifts.round(5)]

    return {
        "shifts_yx_px": rows(motion.shifts_px),
        "shifts_yx_angstrom": rows(motion.shifts_px * pixel_size),
        "shift_error_px": _finite(motion.shift_error_px),
        "supported": motion.supported,
        "n_iterations": motion.n_iterations,
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None
