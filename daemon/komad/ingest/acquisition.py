"""Optics and dose of a movie, from all that is known of it.

Order of precedence, for each value by itself:

1. supplied by the operator (`komad supply`, options of `komad process`),
2. configuration: `acquisition` of the watched folder,
3. sidecar: SerialEM's `.mdoc` or EPU's `.xml` (the time of a frame: exposure time by number of frames),
4. header of the movie (pixel size only),
5. the default, for spherical aberration, amplitude contrast, pre-exposure and optics group.

What is written in the configuration therefore wins over what the microscope says; where they disagree by more than
2 % a note says so. The dose per frame and a list of doses are one value in two forms, of one source: the list, where
that source has both.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from komad.config import AcquisitionSettings, Processing
from komad.errors import ParameterError
from komad.ingest.reading import Reading
from komad.model import Acquisition, MovieHeader
from komad.optics.exposure import VOLTAGE_KV

DISAGREEMENT = 0.02
"""Two sources that differ by more than this fraction are worth a person's look."""


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
    values: dict[str, Any] = AcquisitionSettings().model_dump()
    sources: dict[str, str] = {}
    doubts = {
        field: "; ".join(filter(None, (said.get(field) for said in (reading.doubts, doubted, header_doubts))))
        for field in reading.doubts.keys() | doubted.keys() | header_doubts.keys()
    }
    notes = {"sidecar": doubts["sidecar"]} if "sidecar" in doubts else {}
    for field in values:
        said = [(source, given[field]) for source, given in offers if given.get(field) is not None]
        if said:
            sources[field], values[field] = said[0]
        # Why a source was not used matters only where no better one was found.
        doubt = doubts.get(field, "") if not said or said[0][0] == "header" else ""
        note = "; ".join(filter(None, (_disagreement(said), doubt)))
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
    offers: list[tuple[str, Mapping[str, Any]]] = [("supplied", _checked(supplied or {}))]
    if bound is not None:
        for kept in ("supplied", "configuration"):
            named = [field for field, source in bound.sources.items() if source == kept]
            offers.append((kept, {field: getattr(bound, field) for field in named}))
    offers.append(("configuration", settings.model_dump(include=settings.model_fields_set)))
    doubted = _out_of_range(header, reading)
    said = {**reading.values, **_frame_time(header, reading)}
    offers.append((reading.name, {field: value for field, value in said.items() if field not in doubted}))
    offers.append(("header", _from_header(header)[0]))
    return _with_one_list(offers)


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
        reasons = "".join(f" ({acquisition.notes[row[1]]})" for row in unknown if row[1] in acquisition.notes)
        return (
            f"{names} unknown: set {settings} of this folder in the configuration, "
            f"or run `komad supply {options}`{way_out}{reasons}"
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


def _checked(supplied: Mapping[str, object]) -> dict[str, object]:
    """Apply the ranges of the configuration to supplied values; None is as good as not given."""
    given = {field: value for field, value in supplied.items() if value is not None}
    try:
        return AcquisitionSettings.model_validate(given).model_dump(include=set(given))
    except ValidationError as error:
        problems = "; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())
        raise ParameterError(f"the value supplied cannot be used: {problems}") from error


def _from_header(header: MovieHeader) -> tuple[dict[str, float], dict[str, str]]:
    """Pixel size when the header's is to be believed, else why not; the readers leave out what cannot be one."""
    pixel_size = header.pixel_size_angstrom
    if pixel_size is None:
        return {}, {}
    if pixel_size == 1.0:
        return {}, {
            "pixel_size_angstrom": "the header says exactly 1 Å, which programs write when they do not know"
        }
    return {"pixel_size_angstrom": pixel_size}, {}


def _out_of_range(header: MovieHeader, reading: Reading) -> dict[str, str]:
    """What a sidecar says that could not be configured, and why: it is measured as the configuration is."""
    doubts = {}
    for field, value in {**reading.values, **_frame_time(header, reading)}.items():
        try:
            AcquisitionSettings.model_validate({field: value})
        except ValidationError as error:
            doubts[field] = f"{reading.name} says {value!r}: {error.errors()[0]['msg'].lower()}"
    return doubts


def _frame_time(header: MovieHeader, reading: Reading) -> dict[str, float]:
    """Exposure time of a frame; sidecars tell that of the whole movie."""
    whole = reading.facts.get("exposure_time_s")
    return {"frame_time_s": whole / header.n_frames} if isinstance(whole, float | int) and whole > 0 else {}


def _disagreement(said: list[tuple[str, Any]]) -> str:
    """Name the sources that say something else than the first, which is used."""
    if not said or isinstance(said[0][1], str):
        return ""
    source, used = said[0]
    differing = [
        f"{other} says {value:g}" for other, value in said[1:] if abs(value - used) > DISAGREEMENT * abs(used)
    ]
    return f"{source} says {used:g} and is used, but {', '.join(differing)}" if differing else ""
