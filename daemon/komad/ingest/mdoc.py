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
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from komad.ingest.reading import Reading, same_count, times_finer
from komad.model import MovieHeader

CHIPS = ((5760, 4092), (3838, 3710))
"""Physical pixels of K3 and K2, the longer side first."""

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
    "magnification": ("Magnification", 0),
}
_WORDS = {
    "acquired_at": "DateTime",
    "gain_reference": "GainReference",
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
        """Return the numbers of a key, here or at the head of the file; () when there are none."""
        try:
            return tuple(float(word) for word in self.word(key).split())
        except ValueError:
            return ()

    def number(self, key: str) -> float | None:
        """Return the only or first number of a key."""
        return next(iter(self.numbers(key)), None)

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


def read(path: Path, movie_name: str, header: MovieHeader, *, named: bool) -> Reading | None:
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

    Returns
    -------
    Reading or None
        None when no section is about this movie.

    Raises
    ------
    OSError
        The sidecar cannot be read.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    if not named and movie_name.casefold() not in text.casefold():
        return None
    section = _section_of(movie_name, list(parse(text)), named=named)
    if section is None:
        return None
    found = {
        "pixel_size_angstrom": _pixel_size(section, header),
        "dose_per_frame": _dose_per_frame(section, header.n_frames),
        "voltage_kv": (section.number("Voltage"), ""),
    }
    return Reading.of(path.name, found, _facts(section))


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


def _dose_per_frame(section: Section, n_frames: int) -> tuple[float | None, str]:
    """Dose of each frame in e/Å², or None and why. Zero means that SerialEM has no dose calibration."""
    listed = section.numbers("FrameDosesAndNumber")
    doses, counts = listed[::2], listed[1::2]
    if doses and len(doses) == len(counts) and min(doses) > 0:
        if not same_count(sum(counts), n_frames):
            return None, f"FrameDosesAndNumber is for {sum(counts):g} frames, the movie has {n_frames}"
        if max(doses) > 1.02 * min(doses):
            return None, "the frames have different doses (FrameDosesAndNumber)"
        return sum(d * n for d, n in zip(doses, counts, strict=True)) / sum(counts), ""
    total, saved = section.number("ExposureDose"), section.number("NumSubFrames")
    if total and saved and total > 0:
        if not same_count(saved, n_frames):
            return None, f"NumSubFrames is {saved:g}, the movie has {n_frames}"
        return total / saved, ""
    return None, ""


def _facts(section: Section) -> dict[str, float | str]:
    facts: dict[str, float | str] = {}
    for name, (key, place) in _NUMBERS.items():
        numbers = section.numbers(key)
        if len(numbers) > place:
            facts[name] = numbers[place]
    facts.update({name: section.word(key) for name, key in _WORDS.items() if section.word(key)})
    return facts
