"""What a RELION job holds, as text: the lists of movies and micrographs, the motion of a movie, its options. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from komad.export.relion_pipeline import IMPORT, Job
from komad.export.session import Entry
from komad.formats import star
from komad.formats.star import Table
from komad.output.schema import MovieDetails

PICTURES = (
    "micrograph",
    "micrograph_no_dw",
    "even",
    "odd",
    "even_weighted",
    "odd_weighted",
    "power_spectrum",
)
"""Kinds of files that a job links to."""
MOVIE_NAME, GAIN_NAME = "rlnMicrographMovieName", "rlnMicrographGainName"
EER_LABELS = "_rlnEER"
"""How those begin that say how raw frames become frames."""
DEFAULT_GROUPS_FOR_PS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What a movie is called within the project."""

    movie: str
    micrograph: str
    """Of its files in the job, without the endings."""
    gain: str | None

    def file(self, entry: Entry, name: str) -> str:
        """`name` in the output folder -> its name in the project."""
        return self.micrograph + name.removeprefix(entry.stem)


def safe_name(text: str) -> str:
    """Give a name that RELION and the programs it calls can handle: no spaces, quotes or other signs."""
    return re.sub(r"[^A-Za-z0-9_.+=-]", "_", text)


def movies_star(optics: Table, movies: Sequence[tuple[Entry, Names]]) -> str:
    """`movies.star` of the Import job: the movies that RELION finds."""
    columns = {label: values for label, values in optics.columns.items() if label != "rlnMicrographPixelSize"}
    rows = {
        MOVIE_NAME: [names.movie for _, names in movies],
        "rlnOpticsGroup": [entry.row["rlnOpticsGroup"] for entry, _ in movies],
    }
    return star.dumps([Table("optics", columns, loop=True), Table("movies", rows, loop=True)])


def micrographs_star(optics: Table, micrographs: Sequence[tuple[Entry, Names]]) -> str:
    """`corrected_micrographs.star` of the job: komad's own, with the names that its files have in the project."""
    labels = dict.fromkeys(label for entry, _ in micrographs for label in entry.row)
    common = [label for label in labels if all(label in entry.row for entry, _ in micrographs)]
    columns = {
        label: [_in_project(entry.row[label], entry, names) for entry, names in micrographs]
        for label in common
    }
    used = {entry.row["rlnOpticsGroup"] for entry, _ in micrographs}
    kept = [number in used for number in optics.columns["rlnOpticsGroup"]]
    groups = {
        label: [value for value, is_kept in zip(values, kept, strict=True) if is_kept]
        for label, values in optics.columns.items()
    }
    return star.dumps([Table("optics", groups, loop=True), Table("micrographs", columns, loop=True)])


def _in_project(value: Any, entry: Entry, names: Names) -> Any:
    return names.file(entry, value) if value in entry.files.values() else value


def motion_star(text: str, names: Names) -> str:
    """`<stem>.star` of a movie with the names that movie and gain have in the project; all else to the letter.

    A movie that is no EER file any more has its frames: nothing is said of raw ones.
    """
    gone = (f"_{GAIN_NAME} ",) if names.movie.endswith(".eer") else (f"_{GAIN_NAME} ", EER_LABELS)
    lines = [line for line in text.splitlines() if not line.startswith(gone)]
    place = next(place for place, line in enumerate(lines) if line.startswith(f"_{MOVIE_NAME} "))
    named = {MOVIE_NAME: names.movie} | ({} if names.gain is None else {GAIN_NAME: names.gain})
    written = star.dumps([Table("general", named, loop=False)]).splitlines()
    lines[place : place + 1] = [line for line in written if line.startswith("_")]
    return "\n".join(lines) + "\n"


def job_star(job: Job, options: Mapping[str, str], *, has_words: bool) -> str:
    """`job.star`: what RELION's window shows of the job; options that are not named have its defaults."""
    general: dict[str, Any] = (
        {"rlnJobTypeLabel": job.kind.label, "rlnJobIsContinue": 0, "rlnJobIsTomo": 0}
        if has_words
        else {"rlnJobType": job.kind.number, "rlnJobIsContinue": 0}
    )
    columns = {"rlnJobOptionVariable": list(options), "rlnJobOptionValue": list(options.values())}
    return star.dumps([Table("job", general, loop=False), Table("joboptions_values", columns, loop=True)])


def import_options(folder: str, optics: Mapping[str, Any]) -> dict[str, str]:
    """Options of the Import job; RELION has one pixel size for all of its movies, here that of the first group."""
    return {
        "do_raw": "Yes",
        "is_multiframe": "Yes",
        "do_other": "No",
        "fn_in_raw": f"{folder}/*",
        "optics_group_name": str(optics["rlnOpticsGroupName"]),
        "angpix": f"{optics['rlnMicrographOriginalPixelSize']:g}",
        "kV": f"{optics['rlnVoltage']:g}",
        "Cs": f"{optics['rlnSphericalAberration']:g}",
        "Q0": f"{optics['rlnAmplitudeContrast']:g}",
    }


def motion_options(import_job: Job, details: MovieDetails, gain: str | None) -> dict[str, str]:
    """Options of the MotionCorr job, as RELION names what komad did with its first movie."""
    assert import_job.kind is IMPORT
    processing, acquisition = details.processing, details.acquisition
    no_flip, no_rotation = "No flipping (0)", "No rotation (0)"  # the gain of the job is turned already
    return {
        "input_star_mics": import_job.output,
        "do_own_motioncor": "Yes",
        "first_frame_sum": str(processing.get("skip_first", 0) + 1),
        "last_frame_sum": "-1",
        "dose_per_frame": f"{acquisition.dose_per_frame or 1:g}",
        "pre_exposure": f"{acquisition.pre_exposure:g}",
        "bin_factor": f"{processing.get('bin_factor', 1):g}",
        "do_dose_weighting": "Yes" if details.dose_weighted else "No",
        "do_save_noDW": "Yes" if "micrograph_no_dw" in details.files else "No",
        "do_save_ps": "Yes" if "power_spectrum" in details.files else "No",
        "group_for_ps": str(DEFAULT_GROUPS_FOR_PS),
        "fn_gain_ref": gain or "",
        "gain_rot": no_rotation,
        "gain_flip": no_flip,
    }
