"""EPU's `.xml` beside a movie: SI units, and a pixel size that belongs to another image.

`pixelSize` is of the image that EPU shows, whose width is `ReadoutArea/width`; for a K3 that is 2880 pixels while the
movie has 5760 or 11520. `Dose` is that of the whole exposure, in e/m².
"""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree as ET

from komad.ingest.reading import Reading, Value, content, finite, n_frames_exposed, same_count, times_finer
from komad.model import MovieHeader

MOST_BYTES = 16 << 20
"""EPU writes some tens of kilobytes."""

_METRE_IN_ANGSTROM = 1e10
_METRE_IN_UM = 1e6
_PER_SQUARE_METRE_IN_PER_SQUARE_ANGSTROM = 1e-20

_NUMBERS = {
    "exposure_time_s": ("microscopeData/acquisition/camera/ExposureTime", 1.0),
    "defocus_um": ("microscopeData/optics/Defocus", _METRE_IN_UM),
    "magnification": ("microscopeData/optics/TemMagnification/NominalMagnification", 1.0),
    "stage_x_um": ("microscopeData/stage/Position/X", _METRE_IN_UM),
    "stage_y_um": ("microscopeData/stage/Position/Y", _METRE_IN_UM),
    "stage_z_um": ("microscopeData/stage/Position/Z", _METRE_IN_UM),
    "tilt_degree": ("microscopeData/stage/Position/A", 180 / math.pi),
    "beam_shift_x": ("microscopeData/optics/BeamShift/_x", 1.0),
    "beam_shift_y": ("microscopeData/optics/BeamShift/_y", 1.0),
    "image_shift_x": ("microscopeData/optics/ImageShift/_x", 1.0),
    "image_shift_y": ("microscopeData/optics/ImageShift/_y", 1.0),
    "beam_tilt_x": ("microscopeData/optics/BeamTilt/_x", 1.0),
    "beam_tilt_y": ("microscopeData/optics/BeamTilt/_y", 1.0),
}


class _Document:
    """Look-up by tag names without their name spaces, which differ between elements and versions."""

    def __init__(self, root: ET.Element) -> None:
        self._root = root
        self._pairs: dict[str, ET.Element] = {}
        for pair in root.iterfind(".//{*}KeyValueOfstringanyType"):
            key, value = pair.find("{*}Key"), pair.find("{*}Value")
            if key is not None and key.text and value is not None:
                self._pairs[key.text] = value

    def text(self, path: str) -> str:
        return (self._root.findtext("/".join("{*}" + tag for tag in path.split("/"))) or "").strip()

    def number(self, path: str) -> float | None:
        return finite(self.text(path))

    def custom(self, key: str) -> str:
        """Value of a key of the key-value lists (CustomData, CameraSpecificInput), its nested texts joined."""
        value = self._pairs.get(key)
        return "" if value is None else "".join(value.itertext()).strip()


class _Tree(ET.TreeBuilder):
    """A tree without a document type: EPU writes none, and entities are declared only there."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:  # noqa: ARG002 - the parser's names
        raise ValueError("it declares a document type, as EPU never does")


def read(path: Path, header: MovieHeader) -> Reading:
    """Read what EPU says of a movie.

    Raises
    ------
    OSError
        The sidecar cannot be read.
    ValueError
        It is not EPU's XML, or not complete yet.
    """
    try:
        root = ET.fromstring(content(path, MOST_BYTES), ET.XMLParser(target=_Tree()))  # noqa: S314 - no entities
    except (ET.ParseError, LookupError) as error:  # LookupError: an encoding that nobody knows
        raise ValueError(f"not complete XML: {error}") from error
    if not root.tag.endswith("}MicroscopeImage"):
        raise ValueError("not EPU's description of an image")
    document = _Document(root)
    volts = document.number("microscopeData/gun/AccelerationVoltage")
    found: dict[str, tuple[Value | None, str]] = {
        "pixel_size_angstrom": _pixel_size(document, header),
        "dose_per_frame": _dose_per_frame(document, header),
        "voltage_kv": (volts and volts / 1000, ""),
    }
    return Reading.of(path.name, found, _facts(document))


def _pixel_size(document: _Document, header: MovieHeader) -> tuple[float | None, str]:
    """Pixel size of the movie in Å, or None and why."""
    metres = document.number("SpatialScale/pixelSize/x/numericValue")
    unit = document.text("SpatialScale/pixelSize/x/unit/_x003C_Symbol_x003E_k__BackingField")
    width = document.number("microscopeData/acquisition/camera/ReadoutArea/width")
    height = document.number("microscopeData/acquisition/camera/ReadoutArea/height")
    if not metres or not width or not height:
        return None, ""
    if unit != "m":
        return None, f"pixelSize is in {unit or 'an unknown unit'}, not in m"
    finer = times_finer((header.nx, header.ny), (width, height))
    if finer is None:
        return None, (
            f"the readout area of {width:g} x {height:g} pixels "
            f"is not the field of the movie, {header.nx} x {header.ny}"
        )
    return metres * _METRE_IN_ANGSTROM / finer, ""


def _dose_per_frame(document: _Document, header: MovieHeader) -> tuple[float | None, str]:
    """Dose of each frame in e/Å², or None and why. The fractions are not the raw frames of an EER movie."""
    n_frames = header.n_frames
    total = finite(document.custom("Dose"))
    if not total or total <= 0:
        return None, ""
    n_fractions = finite(document.custom("FractionationSettings")) if header.eer is None else None
    if n_fractions and not same_count(n_fractions, n_frames):
        return None, f"the dose is for {n_fractions:g} fractions, the movie has {n_frames} frames"
    return total * _PER_SQUARE_METRE_IN_PER_SQUARE_ANGSTROM / (n_fractions or n_frames_exposed(header)), ""


def _facts(document: _Document) -> dict[str, float | str]:
    facts: dict[str, float | str] = {}
    for name, (path, factor) in _NUMBERS.items():
        number = document.number(path)
        if number is not None:
            facts[name] = number * factor
    target = finite(document.custom("AppliedDefocus"))
    if target is not None:
        facts["target_defocus_um"] = target * _METRE_IN_UM
    words = {
        "acquired_at": document.text("microscopeData/acquisition/acquisitionDateTime"),
        "camera": document.custom("DetectorCommercialName"),
    }
    return facts | {name: word for name, word in words.items() if word}
