"""All files of one movie, in the promised order: whoever sees `<stem>.star` sees all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from komad import __version__
from komad.config import Output, Processing
from komad.formats import atomic, images, star
from komad.model import MicrographResult, Movie, OutlierPixels, ReferenceFile
from komad.output.detector import detector_notes, detector_record, detector_summary
from komad.output.motion import expected_error_angstrom, finite, motion_lengths_px, motion_record
from komad.output.polynomial import frame_weights, nearest_polynomial
from komad.output.relion import in_relions_frames, movie_tables, shares_of_frames
from komad.output.thumbnail import thumbnail_png
from komad.output.tracks import motion_tracks

WRITERS = 2
"""Files of a movie that are written at the same time: one computes while another waits for its disk."""
SCHEMA_VERSION = 1
"""Of `<stem>.json`, `processed.jsonl` and `session.json`; raised when a key changes its meaning or goes away."""

SUFFIXES = {
    "micrograph": ".mrc",
    "micrograph_no_dw": "_noDW.mrc",
    "even": "_EVN.mrc",
    "odd": "_ODD.mrc",
    "even_weighted": "_EVN_DW.mrc",
    "odd_weighted": "_ODD_DW.mrc",
    "dose_range": "_DWS.mrc",
    "aligned_stack": "_Stk.mrcs",
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


def withdraw_micrograph(directory: Path, stem: str) -> None:
    """Remove the `.star` of an earlier run, so that its set does not look complete while a new one is made.

    `write_micrograph` does it, too; call it before anything else is written under the movie's names.

    Raises
    ------
    OutputError
        The directory cannot be made or written to.
    """
    _make_room(directory, [directory / f"{stem}{SUFFIXES['motion']}"])


def write_micrograph(
    result: MicrographResult,
    movie: Movie,
    *,
    directory: Path,
    archive_path: Path | None,
    output: Output,
    outliers: OutlierPixels,
    aligned_stack: bool = False,
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
    outliers
        The pixels that were replaced; those that are bad in all frames are RELION's `hot_pixels`, hits in single
        frames stand in the JSON.
    aligned_stack
        Whether this run has written the aligned stack, under its name; if not, one of an earlier run goes.

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
    made = {*pictures, "details", "motion"}
    made |= {
        kind for kind, wanted in (("thumbnail", output.thumbnail), ("aligned_stack", aligned_stack)) if wanted
    }
    kinds = [kind for kind in SUFFIXES if kind in made]
    paths = {kind: directory / f"{movie.stem}{SUFFIXES[kind]}" for kind in SUFFIXES}
    _make_room(directory, [paths["motion"], *(path for kind, path in paths.items() if kind not in kinds)])

    # These in any order; what says that a movie is complete comes after them.
    with ThreadPoolExecutor(WRITERS, "komad-files") as writers:
        # The picture for people takes longest, so it begins first.
        thumbnails = ["thumbnail"] if "thumbnail" in kinds else []
        written: list[Future[object]] = [
            writers.submit(_write_thumbnail, paths[kind], result, movie) for kind in thumbnails
        ]
        written += [
            writers.submit(
                images.write_mrc,
                paths[kind],
                picture.image,
                pixel_size_angstrom=picture.pixel_size_angstrom,
                float16=picture.float16,
            )
            for kind, picture in pictures.items()
        ]
    for future in written:
        future.result()
    files = {kind: paths[kind].name for kind in kinds}
    summary = summarise(result, movie, files=files, archive_path=archive_path)
    motion = in_relions_frames(result.motion, movie.header)
    weights = frame_weights(movie.acquisition, len(result.motion.shifts_px))
    polynomial = nearest_polynomial(motion, shares_of_frames(movie.header) @ weights)
    motion_star = star.dumps(
        movie_tables(
            movie,
            motion,
            polynomial,
            outliers.throughout_yx,
            processing=Processing.model_validate(dict(movie.processing)),
            warnings=warnings_of(result, movie),
        )
    )
    sizes = {
        paths[kind].name: paths[kind].stat().st_size for kind in kinds if kind not in ("details", "motion")
    }
    sizes[paths["motion"].name] = len(motion_star.encode())
    summary["output_bytes"] = sum(sizes.values())
    details = {
        **summary,
        **bound_values(movie),
        "largest_count": result.largest_count,
        "motion": motion_record(result.motion, movie, polynomial),
        "detector": detector_record(result.detector, outliers),
        "file_sizes_bytes": sizes,
    }
    atomic.write_text(paths["details"], _json(details) + "\n")
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
        "even_weighted": result.sum_even_weighted,
        "odd_weighted": result.sum_odd_weighted,
        "dose_range": result.sum_dose_range,
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
    atomic.make_directory(directory)
    for path in outdated:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise atomic.explained(path, error) from error


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
        "exposure_before": (
            None
            if acquisition.earlier_exposures is None
            else acquisition.exposure_before(movie.header.n_frames)
        ),
        "optics_group": acquisition.optics_group,
        "motion_px": motion_px,
        "motion_angstrom": {name: length * pixel_size for name, length in motion_px.items()},
        "motion_kind": result.motion.kind,
        "shift_error_px": finite(result.motion.shift_error_px),
        "expected_error_angstrom": expected_error_angstrom(result.motion, movie),
        "n_outliers": result.n_outliers,
        "detector": detector_summary(result.detector),
        "mean_e_per_px_frame": finite(result.mean_e_per_px_frame),
        "timings_s": {stage: round(seconds, 4) for stage, seconds in result.timings_s.items()},
        "warnings": warnings_of(result, movie),
    }


def warnings_of(result: MicrographResult, movie: Movie) -> list[str]:
    """What a person should know of the movie: stages, detector, and sources of parameters that disagree."""
    sources = (f"{name}: {note}" for name, note in movie.acquisition.notes.items())
    return [*result.warnings, *detector_notes(result.detector), *sources]


def _write_thumbnail(path: Path, result: MicrographResult, movie: Movie) -> None:
    micrograph = result.sum_unweighted if result.sum_dose_weighted is None else result.sum_dose_weighted
    pixel_size = movie.acquisition.pixel_size_angstrom or result.pixel_size_angstrom
    lengths = {name: px * pixel_size for name, px in motion_lengths_px(result.motion, movie).items()}
    caption = f"motion {lengths['total']:.1f} Å, early {lengths['early']:.1f} Å"
    if result.motion.local is not None:
        caption += f"; local {lengths['local_rms']:.1f} Å, corners {lengths['local_corner']:.1f} Å"
    png = thumbnail_png(
        micrograph,
        pixel_size_angstrom=result.pixel_size_angstrom,
        tracks=motion_tracks(result.motion, movie, pixel_size_angstrom=pixel_size),
        caption=caption,
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
            "gain_is_response": references.gain_is_response,
            "gain_rows_as_eer": references.gain_rows_as_eer,
            "dark": _reference(references.dark),
            "defects": _reference(references.defects),
        },
        "processing": dict(movie.processing),
    }


def _reference(file: ReferenceFile | None) -> dict[str, str] | None:
    return None if file is None else {"path": str(file.original_path), "sha256": file.sha256}


def _json(value: object, depth: int = 0) -> str:
    """JSON with a line per key, and per entry of a list of lists: a frame is a line, not a number."""
    if isinstance(value, Mapping) and value:
        inner = [f"{json.dumps(str(name))}: {_json(entry, depth + 1)}" for name, entry in value.items()]
        brackets = "{}"
    elif isinstance(value, list) and any(isinstance(entry, list) for entry in value):
        inner = [json.dumps(entry, allow_nan=False) for entry in value]
        brackets = "[]"
    else:
        return json.dumps(value, allow_nan=False)
    indent = "\n" + " " * (depth + 1)
    return brackets[0] + indent + f",{indent}".join(inner) + indent[:-1] + brackets[1]
