"""A small picture of a micrograph with its motion track, for people."""

from __future__ import annotations

import importlib.util
import io
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

MAX_SIDE_PX, MIN_SIDE_PX = 1024, 512
MIN_ANGSTROM_PER_PX = 3.0
"""Finer pictures are binned to this, as far as the smallest side allows: at low dose only noise shows in them."""
STRIP_PX = 34
"""Height of the caption under the picture."""
OVERSAMPLING = 2
"""Lines and letters are drawn this much larger and averaged down: Pillow draws without anti-aliasing."""
EARLY_COLOUR = np.array([255.0, 225.0, 60.0])
LATE_COLOUR = np.array([235.0, 40.0, 90.0])


def thumbnail_png(
    micrograph: npt.NDArray[np.float32],  # (ny, nx), row 0 at the bottom
    *,
    pixel_size_angstrom: float,
    displacement_angstrom: npt.NDArray[np.float64],  # (n_frames, 2) as (y, x); NaN where a frame was skipped
    caption: str,
) -> bytes:
    """Draw the micrograph and the magnified path of the specimen.

    Returns
    -------
    bytes
        A PNG of at most 1024 px a side plus a caption strip. The track starts at a white ring in the middle and
        turns from yellow to red; the scale bar counts for the picture and, divided by the stated factor, for the track.
    """
    binned = area_bin(micrograph, binning(max(micrograph.shape), pixel_size_angstrom))
    scale = pixel_size_angstrom * micrograph.shape[1] / binned.shape[1]  # Å per thumbnail pixel
    grey = Image.fromarray(to_grey(binned)[::-1])  # a PNG starts at the top
    height, width = binned.shape
    picture = Image.new("RGB", (width, height + STRIP_PX))
    picture.paste(grey, (0, 0))

    overlay = Image.new("RGBA", (picture.width * OVERSAMPLING, picture.height * OVERSAMPLING))
    draw = ImageDraw.Draw(overlay)
    used = displacement_angstrom[np.isfinite(displacement_angstrom).all(axis=1)]
    factor = track_magnification(used, room_angstrom=0.3 * min(height, width) * scale)
    if len(used) > 1:
        _draw_track(draw, track_px(used, factor=factor, angstrom_per_px=scale, height=height, width=width))
    _draw_strip(draw, top=height, width=width, angstrom_per_px=scale, factor=factor, caption=caption)
    picture = Image.alpha_composite(picture.convert("RGBA"), overlay.reduce(OVERSAMPLING)).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def binning(side_px: int, pixel_size_angstrom: float) -> int:
    """Pixels per side that become one."""
    wanted = min(round(MIN_ANGSTROM_PER_PX / pixel_size_angstrom), side_px // MIN_SIDE_PX)
    return max(math.ceil(side_px / MAX_SIDE_PX), wanted)


def area_bin(image: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    """Means over `factor` x `factor` pixels; rows and columns that are left over at the end are cut off."""
    height, width = (max(1, size // factor) for size in image.shape)
    blocks = image[: height * factor, : width * factor].reshape(height, -1, width, factor)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def to_grey(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Grey levels between the 0.5th and the 99.5th percentile, so that a few hot pixels do not set the contrast."""
    finite = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.percentile(finite, (0.5, 99.5))
    return np.clip((finite - low) * (255.0 / max(high - low, 1e-12)), 0, 255).astype(np.uint8)


def track_magnification(track_angstrom: npt.NDArray[np.float64], *, room_angstrom: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... 1000 by which the track still fits the room."""
    extent = float(np.ptp(track_angstrom, axis=0).max()) if len(track_angstrom) > 1 else 0.0
    steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
    return max((step for step in steps if step * extent <= room_angstrom), default=1.0)


def track_px(
    track_angstrom: npt.NDArray[np.float64],  # (n, 2) as (y, x)
    *,
    factor: float,
    angstrom_per_px: float,
    height: int,
    width: int,
) -> list[tuple[float, float]]:
    """Points (x from the left, y from the top) of the track, its box centred in the picture."""
    centred = track_angstrom - (track_angstrom.max(axis=0) + track_angstrom.min(axis=0)) / 2
    y, x = (centred * (factor / angstrom_per_px)).T
    return list(zip((width / 2 + x).tolist(), (height / 2 - y).tolist(), strict=True))


def _draw_track(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]]) -> None:
    large = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]
    for index in range(len(large) - 1):
        late = index / max(1, len(large) - 2)
        colour = tuple(int(value) for value in EARLY_COLOUR * (1 - late) + LATE_COLOUR * late)
        draw.line(large[index : index + 2], fill=colour, width=3 * OVERSAMPLING)
        _disc(draw, large[index + 1], radius=2.5 * OVERSAMPLING, fill=colour)
    _disc(draw, large[0], radius=4 * OVERSAMPLING, fill=None, outline=(255, 255, 255))


def _disc(
    draw: ImageDraw.ImageDraw,
    centre: tuple[float, float],
    *,
    radius: float,
    fill: tuple[int, ...] | None,
    outline: tuple[int, ...] | None = None,
) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(box, fill=fill, outline=outline, width=OVERSAMPLING)


def _draw_strip(
    draw: ImageDraw.ImageDraw, *, top: int, width: int, angstrom_per_px: float, factor: float, caption: str
) -> None:
    """Scale bar on the left of the strip, caption on the right of it."""
    length = _nice_length(0.15 * width * angstrom_per_px)
    margin, middle = 10 * OVERSAMPLING, (top + STRIP_PX / 2) * OVERSAMPLING
    end = margin + length / angstrom_per_px * OVERSAMPLING
    draw.line([(margin, middle), (end, middle)], fill="white", width=4 * OVERSAMPLING)
    font = _font(13 * OVERSAMPLING)
    label = f"{length:g} Å, track ×{factor:g}: {length / factor:g} Å     {caption}"
    draw.text((end + margin, middle), label, fill="white", font=font, anchor="lm")


def _nice_length(angstrom: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not longer."""
    power = 10.0 ** math.floor(math.log10(angstrom))
    return power * max(step for step in (1, 2, 5) if step * power <= angstrom * (1 + 1e-9))


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: Pillow's own font has no Å. Found without importing matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)
