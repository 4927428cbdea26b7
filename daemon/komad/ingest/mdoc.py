"""SerialEM's `.mdoc`: text in sections of `key = value`, in any order.

A `[FrameSet = n]` section describes a movie, a `[ZValue = n]` section an image that may have been made from one; both
name the movie in `SubFramePath`, as the camera computer (Windows) sees it.

`PixelSpacing` and `Binning` belong to the image that SerialEM showed, not to the frames that the camera saved: a
Direct Electron movie of 8192 pixels may be described by its 1024 pixel image. Of the movie only the size in pixels is
known here, so its pixel size is worked out from one of two facts, or left unknown:

- The movie has exactly the size of a K2 or K3 chip, or twice that (super-resolution). SerialEM counts binning from the
  physical pixel of these cameras (super-resolution is 0.5), so that PixelSpacing / Binning is the physical pixel.
- The size of the image is given, and the movie covers the same field at the same, or a 2, 4, 8, ... times finer or
  coarser sampling on both axes.

`FrameDosesAndNumber` holds pairs of e/Å² per frame and number of frames with it, `ExposureDose` is their sum; both are
zero without a dose calibration. In a file of a tilt series each section is a tilt, with the movie of its own.
"""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from komad.ingest.reading import Reading, Value, content, finite, n_frames_exposed, same_count, times_finer
from komad.model import MovieHeader

CHIPS = ((5760, 4092), (3838, 3710))
"""Physical pixels of K3 and K2, the longer side first."""

MOST_EARLIER = 10_000.0
"""Tilts: more before this one, and one of the doses is wrong."""

_NUMBERS = {
    "exposure_time_s": ("ExposureTime", 0),
    "defocus_um": ("Defocus", 0),
    "target_defocus_um": ("TargetDefocus", 0),
    "stage_x_um": ("StagePosition", 0),
    "stage_y_um": ("StagePosition", 1),
    "stage_z_um": ("StageZ", 0),
    "tilt_degree": ("TiltAngle", 0),
    "image_shift_x_um": ("ImageShift", 0),
    "image_shift_y_um": ("ImageShift", 1),
    "rotation_and_flip": ("RotationAndFlip", 0),
    "magnification": ("Magnification", 0),
}
_WORDS = {
    "acquired_at": "DateTime",
    "gain_reference": "GainReference",
    "defect_file": "DefectFile",
    "navigator_label": "NavigatorLabel",
    "hole_and_position": "MultishotHoleAndPosition",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One section, together with the values at the head of the file."""

    kind: str
    """FrameSet, ZValue, T (a title), ..."""
    values: Mapping[str, str]
    head: Mapping[str, str]

    def word(self, key: str) -> str:
        """Return the value of a key, here or at the head of the file; '' when there is none."""
        return self.values.get(key) or self.head.get(key, "")

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return the numbers of a key, here or at the head of the file; () when there are none, or not only such."""
        numbers = [finite(word) for word in self.word(key).split()]
        return tuple(number for number in numbers if number is not None) if None not in numbers else ()

    def number(self, key: str) -> float | None:
        """Return the only or first number of a key."""
        return next(iter(self.numbers(key)), None)

    @property
    def taken_at(self) -> tuple[int, ...]:
        """When it was taken, to be compared; () when that is not said, or not as SerialEM says it."""
        for form in ("%d-%b-%y %H:%M:%S", "%d-%b-%Y %H:%M:%S", "%Y-%m-%d %H:%M:%S"):
            with suppress(ValueError):
                return tuple(time.strptime(self.word("DateTime"), form))
        return ()

    @property
    def movie_name(self) -> str:
        """File name of the movie, without the folders of the camera computer."""
        return PureWindowsPath(self.word("SubFramePath")).name


def parse(text: str) -> Iterator[Section]:
    """Yield the sections of a file. A last line without its end is left out: it may still be in writing."""
    text = text[: text.rfind("\n") + 1]
    top, *blocks = re.split(r"^\s*\[", text, flags=re.MULTILINE)
    head = _pairs(top)
    for block in blocks:
        title, _, body = block.partition("]")
        yield Section(kind=title.partition("=")[0].strip(), values=_pairs(body), head=head)


def _pairs(text: str) -> dict[str, str]:
    split = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in split if equals}


def read(
    path: Path, movie_name: str, header: MovieHeader, *, named: bool, tilt_series: bool = False
) -> Reading | None:
    """Read what a `.mdoc` says of a movie.

    Parameters
    ----------
    path
        The sidecar.
    movie_name, header
        The movie's file name, and what its file says.
    named
        The sidecar is named after the movie: its only section counts even if it names another file (movies get
        renamed).
    tilt_series
        The sections are the tilts of one series, whatever their angles are.

    Returns
    -------
    Reading or None
        None when no section is about this movie.

    Raises
    ------
    OSError
        The sidecar cannot be read.
    ValueError
        It is no file, or too long for one.
    """
    text = text_of(path)
    if not named and movie_name.casefold() not in text.casefold():
        return None
    sections = list(parse(text))
    section = _section_of(movie_name, sections, named=named)
    if section is None:
        return None
    found: dict[str, tuple[Value | None, str]] = {
        "pixel_size_angstrom": _pixel_size(section, header),
        **(
            _doses(section, header.n_frames)
            if header.eer is None
            else _whole_dose(section, n_frames_exposed(header))
        ),
        "voltage_kv": (section.number("Voltage"), ""),
    }
    earlier = earlier_exposures(section, sections, tilt_series=tilt_series)
    return Reading.of(path.name, found, _facts(section), earlier_exposures=earlier)


def text_of(path: Path) -> str:
    """Read a `.mdoc` with any ends of lines; a byte order mark says what it is in, as editors on Windows leave it.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no file, or too long for one.
    """
    raw = content(path)
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = raw.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _section_of(movie_name: str, sections: list[Section], *, named: bool) -> Section | None:
    about = [section for section in sections if section.movie_name.casefold() == movie_name.casefold()]
    if about:
        return about[-1]  # A file name that was used again: the last one is on disk.
    for kind in ("FrameSet", "ZValue") if named else ():
        alone = [section for section in sections if section.kind == kind]
        if alone:
            return alone[0] if len(alone) == 1 else None
    return None


def _pixel_size(section: Section, header: MovieHeader) -> tuple[float | None, str]:
    """Pixel size of the movie in Å, or None and why."""
    spacing, binning = section.number("PixelSpacing"), section.number("Binning")
    if not spacing or spacing <= 0:
        return None, ""
    size = (max(header.nx, header.ny), min(header.nx, header.ny))
    direct_electron = any(key.startswith("DE12-") for key in section.values)
    if binning and not direct_electron:
        for chip in CHIPS:
            for fold in (1, 2):
                if size == (chip[0] * fold, chip[1] * fold):
                    return spacing / binning / fold, ""
    image = section.numbers("UncroppedSize") or section.numbers("ImageSize")
    if len(image) == 2 and all(image) and (binning is None or binning >= 1):
        finer = times_finer(size, (max(map(abs, image)), min(map(abs, image))))
        if finer:
            return spacing / finer, ""
    return None, (
        f"PixelSpacing {spacing:g} Å (binning {binning or 0:g}) is of the image shown, "
        f"and how the movie of {header.nx} x {header.ny} pixels is sampled cannot be told"
    )


def _doses(section: Section, n_frames: int) -> dict[str, tuple[Value | None, str]]:
    """Dose of each frame in e/Å², one for all or a list where they differ; or None and why."""
    listed = section.numbers("FrameDosesAndNumber")
    doses, counts = listed[::2], listed[1::2]
    if (
        doses
        and len(doses) == len(counts)
        and min(doses) >= 0 < max(doses)
        and min(counts) >= 0 < sum(counts)
    ):
        if not same_count(sum(counts), n_frames):
            doubt = f"FrameDosesAndNumber is for {sum(counts):g} frames, the movie has {n_frames}"
            return {"dose_per_frame": (None, doubt)}
        if max(doses) > 1.02 * min(doses):
            return _different_doses(doses, counts, n_frames)
        return {"dose_per_frame": (sum(d * n for d, n in zip(doses, counts, strict=True)) / sum(counts), "")}
    total, saved = section.number("ExposureDose"), section.number("NumSubFrames")
    if total and saved and total > 0:
        if not same_count(saved, n_frames):
            return {"dose_per_frame": (None, f"NumSubFrames is {saved:g}, the movie has {n_frames}")}
        return {"dose_per_frame": (total / saved, "")}
    return {}


def _whole_dose(section: Section, n_frames: int) -> dict[str, tuple[Value | None, str]]:
    """Dose of a raw frame of an EER movie, in e/Å²: the frames that SerialEM counts are not those."""
    listed = section.numbers("FrameDosesAndNumber")
    total = sum(dose * count for dose, count in zip(listed[::2], listed[1::2], strict=False))
    total = total or section.number("ExposureDose") or 0.0
    return {"dose_per_frame": (total / n_frames, "")} if total > 0 else {}


def _different_doses(
    doses: tuple[float, ...], counts: tuple[float, ...], n_frames: int
) -> dict[str, tuple[Value | None, str]]:
    each = tuple(dose for dose, count in zip(doses, counts, strict=True) for _ in range(round(count)))
    if len(each) < n_frames:
        doubt = f"FrameDosesAndNumber has different doses for {len(each)} frames, the movie has {n_frames}"
        return {"dose_per_frame": (None, doubt)}
    return {"frame_doses": (each[:n_frames], "")}  # cameras drop frames at the end


def earlier_exposures(section: Section, sections: Sequence[Section], *, tilt_series: bool) -> float:
    """Dose of the tilts that were taken before, as a multiple of this one's.

    Their doses are `PriorRecordDose` and `ExposureDose`; without a dose calibration they are as the exposure times, or
    all equal.

    Returns
    -------
    float
        0 for the first tilt, and where the file is of no tilt series: unless `tilt_series` says so, it is one when
        more than two thirds of its movies have an angle of their own (others are of many places at one angle).
    """
    tilts = [each for each in sections if each.movie_name and abs(each.number("TiltAngle") or 0) <= 180]
    tilts = [each for each in tilts if each.numbers("TiltAngle")]
    angles = {round(2 * each.numbers("TiltAngle")[0]) for each in tilts}
    if section not in tilts or not (tilt_series or 3 * len(angles) > 2 * len(tilts)):
        return 0.0
    prior, own = section.number("PriorRecordDose"), section.number("ExposureDose")
    if prior is not None and own and 0 <= prior / own <= MOST_EARLIER:
        return prior / own
    tilts = _in_time(tilts)
    before = tilts[: tilts.index(section)]
    for key in ("ExposureDose", "ExposureTime"):
        amounts = [each.number(key) or 0.0 for each in (section, *before)]
        if min(amounts) > 0 and sum(amounts[1:]) / amounts[0] <= MOST_EARLIER:
            return sum(amounts[1:]) / amounts[0]
    return float(len(before))


def _in_time(tilts: list[Section]) -> list[Section]:
    """Sort as they were taken (a file may have been sorted by angle); as they stand where a time is missing."""
    if not all(tilt.taken_at for tilt in tilts):
        return tilts
    return sorted(tilts, key=lambda tilt: tilt.taken_at)


def _facts(section: Section) -> dict[str, float | str]:
    facts: dict[str, float | str] = {}
    for name, (key, place) in _NUMBERS.items():
        numbers = section.numbers(key)
        if len(numbers) > place:
            facts[name] = numbers[place]
    facts.update({name: section.word(key) for name, key in _WORDS.items() if section.word(key)})
    return facts
