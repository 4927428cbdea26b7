"""Optics and dose of a movie, from all that is known of it.

Order of precedence, for each value by itself:

1. supplied by the operator (`komad supply`, options of `komad process`),
2. configuration: `acquisition` of the watched folder,
3. sidecar: SerialEM's `.mdoc` or EPU's `.xml` (the time of a frame: exposure time by number of frames),
4. header of the movie (pixel size; of EER movies also exposure time, and the dose that the camera counted; of MRCZ
   movies optics and dose that komad kept in them),
5. the default, for spherical aberration, amplitude contrast, pre-exposure and optics group.

What is written in the configuration therefore wins over what the microscope says; where they disagree by more than
2 % a note says so. The dose of the whole movie, the dose per frame and a list of doses are one value in three forms, of
one source: the list, where that source has several, else that of the whole movie.

All of it is about the file as it was written: frames are raw frames where the movie is EER, and pixels the camera's
(`komad.ingest.rendering` goes on from there).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from komad.config import AcquisitionSettings, Processing
from komad.errors import ParameterError
from komad.ingest.reading import Reading, n_frames_exposed
from komad.ingest.rendering import as_written, header_as_written, rendered
from komad.model import Acquisition, Movie, MovieFormat, MovieHeader
from komad.optics.exposure import VOLTAGE_KV

DISAGREEMENT = 0.02
"""Two sources that differ by more than this fraction are worth a person's look."""
COUNTED_DISAGREEMENT = 0.25
"""The same for a dose that the camera counted: the specimen and coinciding electrons take their part of what people
measured without them."""
MOST_DOSE = 500.0
"""e/Å² of a whole EER movie: more, and the dose of a frame was given for that of a raw frame."""


def resolve(
    header: MovieHeader,
    settings: AcquisitionSettings,
    reading: Reading,
    *,
    supplied: Mapping[str, object] | None = None,
    bound: Acquisition | None = None,
) -> Acquisition:
    """Choose each value from the best source that has it.

    Parameters
    ----------
    header, settings, reading
        What the file, the configuration and the sidecar say.
    supplied
        Fields of `Acquisition` -> values that an operator gave.
    bound
        The acquisition as it was bound to the movie earlier: what was supplied or configured then, stays.

    Raises
    ------
    ParameterError
        A supplied value is out of range, or there is no such field.
    """
    offers = _offers(header, settings, reading, supplied, bound)
    header_doubts = _from_header(header)[1]
    doubted = _out_of_range(header, reading)
    values: dict[str, Any] = AcquisitionSettings().model_dump(exclude={"total_dose"})
    sources: dict[str, str] = {}
    doubts = {
        field: "; ".join(filter(None, (said.get(field) for said in (reading.doubts, doubted, header_doubts))))
        for field in reading.doubts.keys() | doubted.keys() | header_doubts.keys()
    }
    notes = {"sidecar": doubts["sidecar"]} if "sidecar" in doubts else {}
    if n_frames_exposed(header) > header.n_frames:
        notes["exposure"] = (
            f"the file has {header.n_frames} raw frames and announces {n_frames_exposed(header)}: the exposure was "
            "stopped, or the file was cut off; dose and time of the whole exposure are taken for those announced"
        )
    for field in values:
        said = [(source, given[field]) for source, given in offers if given.get(field) is not None]
        if said:
            sources[field], values[field] = said[0]
        # Why a source was not used matters only where no better one was found.
        doubt = doubts.get(field, "") if not said or said[0][0] == "header" else ""
        note = "; ".join(filter(None, (_disagreement(field, said, header), doubt)))
        if note:
            notes[field] = note
    return Acquisition(
        **values,
        earlier_exposures=reading.earlier_exposures,
        sources=sources,
        notes=notes,
        facts=dict(reading.facts),
    )


def _offers(
    header: MovieHeader,
    settings: AcquisitionSettings,
    reading: Reading,
    supplied: Mapping[str, object] | None,
    bound: Acquisition | None,
) -> list[tuple[str, Mapping[str, Any]]]:
    """(source, its values) from the best source to the worst; a list of doses has its mean beside it."""
    offers: list[tuple[str, Mapping[str, Any]]] = [("supplied", _given(_checked(supplied or {}), header))]
    if bound is not None:
        for kept in ("supplied", "configuration"):
            named = [field for field, source in bound.sources.items() if source == kept]
            offers.append((kept, {field: getattr(bound, field) for field in named}))
    offers.append(("configuration", _given(settings, header)))
    doubted = _out_of_range(header, reading)
    said = {**reading.values, **_frame_time(header, reading.facts)}
    offers.append((reading.name, {field: value for field, value in said.items() if field not in doubted}))
    own = _from_header(header)[0]
    sizes = [given.get("pixel_size_angstrom") for given in (*(given for _, given in offers), own)]
    offers.append(("header", own | _counted_dose(header, next(filter(None, sizes), None))))
    return _with_one_list(offers)


def _given(settings: AcquisitionSettings, header: MovieHeader) -> dict[str, Any]:
    """What was given, the dose of the whole exposure as the dose of each of its frames."""
    given = settings.model_dump(include=settings.model_fields_set - {"total_dose"})
    if settings.total_dose is None:
        return given
    return given | {"dose_per_frame": settings.total_dose / n_frames_exposed(header)}


def _with_one_list(offers: list[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Give each list of doses its mean as dose per frame, and keep the list of the source whose dose is used."""
    result: list[tuple[str, Mapping[str, Any]]] = []
    known = False
    for source, given in offers:
        doses = given.get("frame_doses")
        dose = fmean(doses) if doses else given.get("dose_per_frame")
        kept = None if known else doses
        result.append((source, {**given, "dose_per_frame": dose, "frame_doses": kept}))
        known = known or dose is not None
    return result


def missing_parameters(acquisition: Acquisition, processing: Processing) -> str:
    """Say what must be known before the movie can be corrected, and what to do; '' when nothing is missing."""
    needed = [
        ("pixel size", "pixel_size_angstrom", "--pixel-size", True),
        ("voltage", "voltage_kv", "--voltage", True),
        ("dose per frame", "dose_per_frame", "--dose-per-frame", processing.dose_weighting),
    ]
    unknown = [row for row in needed if row[3] and getattr(acquisition, row[1]) is None]
    if unknown:
        names = " and ".join(row[0] for row in unknown)
        settings = ", ".join(f"acquisition.{row[1]}" for row in unknown)
        options = " ".join(f"{row[2]} ..." for row in unknown)
        way_out = ", or switch processing.dose_weighting off" if unknown == needed[2:] else ""
        whole = (
            "; --total-dose and acquisition.total_dose give the dose of the whole movie"
            if needed[2] in unknown
            else ""
        )
        reasons = why_unknown(acquisition, [row[1] for row in unknown])
        return (
            f"{names} unknown: set {settings} of this folder in the configuration, "
            f"or run `komad supply {options}`{way_out}{whole}{reasons}"
        )
    if processing.dose_weighting and acquisition.earlier_exposures is None:
        return (
            "place in the tilt series unknown: no .mdoc that watch.tilt_series_mdoc (--tilt-mdoc) names lists this "
            "movie (yet), so that the dose before it is not known"
            + (f" ({acquisition.notes['sidecar']})" if "sidecar" in acquisition.notes else "")
        )
    by_dose_rate = processing.gain_gamma == "k2" or isinstance(processing.gain_gamma, tuple)
    if by_dose_rate and acquisition.frame_time_s is None:
        return (
            "time of a frame unknown, and with it the dose rate that processing.gain_gamma needs: set "
            "acquisition.frame_time_s of this folder in the configuration, or give gain_gamma as one number"
        )
    voltage = acquisition.voltage_kv
    if processing.dose_weighting and not VOLTAGE_KV[0] <= (voltage or 0.0) <= VOLTAGE_KV[-1]:
        return (
            f"voltage is {voltage:g} kV (from {acquisition.sources.get('voltage_kv', 'an unknown source')}), dose "
            f"weighting is defined from 100 to 300 kV: correct acquisition.voltage_kv of this folder, "
            f"or switch processing.dose_weighting off"
        )
    return ""


def why_unknown(acquisition: Acquisition, fields: Iterable[str]) -> str:
    """Why sources of these values were not used, for the end of a sentence."""
    return "".join(f" ({acquisition.notes[name]})" for name in fields if name in acquisition.notes)


def with_supplied(movie: Movie, values: Mapping[str, Any], *, overwrite: bool) -> Acquisition:
    """Take values that an operator supplied into what is known of a movie; all that was said of others stays.

    Parameters
    ----------
    values
        Fields of `AcquisitionSettings` -> values in range, about the file as it was written.
    overwrite
        Also where there is a value; else only what has no source yet.
    """
    rendering = movie.header.eer
    known = movie.acquisition if rendering is None else as_written(movie.acquisition, rendering)
    [(_, given)] = _with_one_list([("supplied", _given(_checked(values), header_as_written(movie.header)))])
    given = {name: value for name, value in given.items() if value is not None or given["dose_per_frame"]}
    used = {name: value for name, value in given.items() if overwrite or name not in known.sources}
    if "dose_per_frame" not in used:
        used.pop("frame_doses", None)
    if not used:
        return movie.acquisition
    notes = {name: note for name, note in known.notes.items() if name not in used}
    sources = {**known.sources, **dict.fromkeys(used, "supplied")}
    if "dose_per_frame" in used and used["frame_doses"] is None:  # a list from before must not overrule it
        sources.pop("frame_doses", None)
    known = replace(known, **used, sources=sources, notes=notes)
    return known if rendering is None else rendered(known, rendering)


def _checked(supplied: Mapping[str, object]) -> AcquisitionSettings:
    """Apply the ranges of the configuration to supplied values; None is as good as not given."""
    given = {field: value for field, value in supplied.items() if value is not None}
    try:
        return AcquisitionSettings.model_validate(given)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join([*map(str, problem["loc"]), problem["msg"]]) for problem in error.errors()
        )
        raise ParameterError(f"the value supplied cannot be used: {problems}") from error


def _from_header(header: MovieHeader) -> tuple[dict[str, float], dict[str, str]]:
    """Time of a frame, and pixel size when it is to be believed, else why not; the readers leave out what cannot be."""
    time = _frame_time(header, header.facts) | _kept_in_archive(header)
    pixel_size = header.pixel_size_angstrom
    if pixel_size is None:
        return time, {}
    if pixel_size == 1.0:
        return time, {
            "pixel_size_angstrom": "the header says exactly 1 Å, which programs write when they do not know"
        }
    return time | {"pixel_size_angstrom": pixel_size}, {}


def _kept_in_archive(header: MovieHeader) -> dict[str, float]:
    """Optics and dose that an MRCZ movie holds, as they were when it was made; those that could be configured."""
    if header.format is not MovieFormat.MRCZ:
        return {}
    kept = {}
    for field, value in header.facts.items():
        if field in AcquisitionSettings.model_fields and isinstance(value, float | int):
            with suppress(ValidationError):
                AcquisitionSettings.model_validate({field: value})
                kept[field] = float(value)
    return kept


def _counted_dose(header: MovieHeader, pixel_size_angstrom: float | None) -> dict[str, float]:
    """Dose of a frame as the camera counted it, e/Å²; the header says that of the whole movie, in e/px."""
    counted = header.facts.get("total_dose_e_per_px")
    if not isinstance(counted, float | int) or not counted > 0 or pixel_size_angstrom is None:
        return {}
    return {"dose_per_frame": counted / pixel_size_angstrom**2 / n_frames_exposed(header)}


def _out_of_range(header: MovieHeader, reading: Reading) -> dict[str, str]:
    """What a sidecar says that could not be configured, and why: it is measured as the configuration is."""
    doubts = {}
    for field, value in {**reading.values, **_frame_time(header, reading.facts)}.items():
        try:
            AcquisitionSettings.model_validate({field: value})
        except ValidationError as error:
            doubts[field] = f"{reading.name} says {value!r}: {error.errors()[0]['msg'].lower()}"
    return doubts


def _frame_time(header: MovieHeader, facts: Mapping[str, float | str]) -> dict[str, float]:
    """Exposure time of a frame; sidecars and headers tell that of the whole movie."""
    whole = facts.get("exposure_time_s")
    return (
        {"frame_time_s": whole / n_frames_exposed(header)}
        if isinstance(whole, float | int) and whole > 0
        else {}
    )


def _disagreement(field: str, said: list[tuple[str, Any]], header: MovieHeader) -> str:
    """Name the sources that say something else than the first, which is used; and a dose that cannot be."""
    if not said or not isinstance(said[0][1], float | int):
        return ""
    source, used = said[0]
    # Of EER movies people know the dose of the whole.
    of_whole = header.eer is not None and field == "dose_per_frame"
    scale, unit = (n_frames_exposed(header), " e/Å² for the whole movie") if of_whole else (1, "")
    differing = [
        f"{other} says {scale * value:g}{unit}"
        for other, value in said[1:]
        if abs(value - used) > _tolerance(field, other) * abs(used)
    ]
    notes = (
        [f"{source} says {scale * used:g}{unit} and is used, but {', '.join(differing)}"] if differing else []
    )
    if of_whole and scale * used > MOST_DOSE:
        notes.append(
            f"{scale * used:g}{unit} are more than any specimen is given: dose_per_frame is that of a raw frame, of "
            f"which there are {header.n_frames}; total_dose that of all"
        )
    return "; ".join(notes)


def _tolerance(field: str, source: str) -> float:
    return COUNTED_DISAGREEMENT if (field, source) == ("dose_per_frame", "header") else DISAGREEMENT
