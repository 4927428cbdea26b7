"""A small picture of a micrograph with its motion tracks, for people."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from komad.output.tracks import Tracks

MAX_SIDE_PX, MIN_SIDE_PX = 1024, 512
MIN_ANGSTROM_PER_PX = 3.0
"""Finer pictures are binned to this, as far as the smallest side allows: at low dose only noise shows in them."""
OVERSAMPLING = 2
"""Lines and letters are drawn this much larger and averaged down: Pillow draws without anti-aliasing."""
EARLY_COLOUR = np.array([255.0, 225.0, 60.0])
LATE_COLOUR = np.array([235.0, 40.0, 90.0])
SHADOW = (0, 0, 0, 150)
"""Under a track, so that it stands out from bright places, too."""
LOCAL_ROOM = 0.9
"""Side of the box that holds a local track, in distances to the next place: tracks never meet."""

Point = tuple[float, float]


def thumbnail_png(
    micrograph: npt.NDArray[np.float32],  # (ny, nx), row 0 at the bottom
    *,
    pixel_size_angstrom: float,
    tracks: Tracks,
    caption: str,
) -> bytes:
    """Draw the micrograph and the magnified ways of the specimen.

    A track starts at a white ring and turns from yellow to red as the exposure grows. With local motion each place
    shows the part that differs from the whole frame, and the whole frame's own track is in the corner of the strip;
    without, that one is in the middle of the picture. The scale bar counts for the picture and, divided by the stated
    factors, for the tracks.

    Returns
    -------
    bytes
        A PNG of at most 1024 px a side plus a strip below it.
    """
    binned = area_bin(micrograph, binning(max(micrograph.shape), pixel_size_angstrom))
    scale = pixel_size_angstrom * micrograph.shape[1] / binned.shape[1]  # Å per thumbnail pixel
    height, width = binned.shape
    strip = strip_px(width)
    picture = Image.new("RGB", (width, height + strip))
    picture.paste(Image.fromarray(to_grey(binned)[::-1]), (0, 0))  # a PNG starts at the top

    overlay = Image.new("RGBA", (picture.width * OVERSAMPLING, picture.height * OVERSAMPLING))
    draw = ImageDraw.Draw(overlay)
    length = nice_length(0.15 * width * scale)
    if tracks.local_angstrom is None:
        factor = _draw_whole(draw, tracks, (0.0, 0.0, width, height), scale, room=0.3)
        scales = f"{length:g} Å, track ×{factor:g}: {length / factor:.3g} Å"
        key_end = width
    else:
        local = _draw_local(draw, tracks, tracks.local_angstrom, (height, width), scale)
        key_end = width - strip
        box = (key_end, height, width, height + strip)
        draw.rectangle([OVERSAMPLING * edge for edge in box], fill=(45, 45, 45))
        whole = _draw_whole(draw, tracks, box, scale, room=0.75)
        scales = f"{length:g} Å, local ×{local:g}: {length / local:.3g} Å, whole ×{whole:g}: {length / whole:.3g} Å"
    _draw_strip(draw, tracks, caption, scales, top=height, right=key_end, bar_px=length / scale, strip=strip)
    picture = Image.alpha_composite(picture.convert("RGBA"), overlay.reduce(OVERSAMPLING)).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def strip_px(width: int) -> int:
    """Height of the caption under a picture."""
    return round(6.5 * _font_px(width))


def _font_px(width: int) -> int:
    return min(18, max(12, width // 56))


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
    """The largest step by which the track still fits the room."""
    extent = float(np.ptp(track_angstrom, axis=0).max()) if len(track_angstrom) > 1 else 0.0
    return largest_step(extent, room_angstrom)


def largest_step(extent: float, room: float) -> float:
    """The largest of 1, 1.5, 2, 3, 5, 7, 10, 15, ... 1000 by which `extent` still fits the room."""
    steps = [step * power for power in (1.0, 10.0, 100.0) for step in (1, 1.5, 2, 3, 5, 7)] + [1000.0]
    return max((step for step in steps if step * extent <= room), default=1.0)


def track_px(
    track_angstrom: npt.NDArray[np.float64],  # (n, 2) as (y, x)
    *,
    factor: float,
    angstrom_per_px: float,
    middle: Point,
) -> list[Point]:
    """Points (x from the left, y from the top) of the track, its box centred at `middle`."""
    centred = track_angstrom - (track_angstrom.max(axis=0) + track_angstrom.min(axis=0)) / 2
    y, x = (centred * (factor / angstrom_per_px)).T
    return list(zip((middle[0] + x).tolist(), (middle[1] - y).tolist(), strict=True))


def _draw_whole(
    draw: ImageDraw.ImageDraw,
    tracks: Tracks,
    box: tuple[float, float, float, float],
    angstrom_per_px: float,
    *,
    room: float,
) -> float:
    """Draw the track of the whole frame into a box (left, top, right, bottom); gives its magnification."""
    left, top, right, bottom = box
    side = min(right - left, bottom - top)
    factor = track_magnification(tracks.whole_angstrom, room_angstrom=room * side * angstrom_per_px)
    if len(tracks.whole_angstrom) > 1:
        middle = ((left + right) / 2, (top + bottom) / 2)
        points = track_px(
            tracks.whole_angstrom, factor=factor, angstrom_per_px=angstrom_per_px, middle=middle
        )
        _draw_track(draw, points, tracks.progress, thickness=max(2.0, min(3.0, side / 60)), dots=True)
    return factor


def _draw_local(
    draw: ImageDraw.ImageDraw,
    tracks: Tracks,
    local_angstrom: npt.NDArray[np.float64],  # (n_used, n_places, 2)
    shape: tuple[int, int],
    angstrom_per_px: float,
) -> float:
    """Draw a track around each place; gives their common magnification."""
    centres = tracks.places * np.array(shape)
    extent = float(np.ptp(local_angstrom, axis=0).max())
    factor = largest_step(extent, LOCAL_ROOM * spacing(centres) * angstrom_per_px)
    for place, (y, x) in enumerate(centres):
        points = track_px(
            local_angstrom[:, place],
            factor=factor,
            angstrom_per_px=angstrom_per_px,
            middle=(x, shape[0] - y),
        )
        _draw_track(draw, points, tracks.progress, thickness=max(2.0, max(shape) / 340), dots=False)
    return factor


def spacing(places: npt.NDArray[np.float64]) -> float:
    """Distance from a place to its nearest neighbour, the median over (n, 2) places."""
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return float(np.median(distances.min(axis=1)))


def _draw_track(
    draw: ImageDraw.ImageDraw,
    points: Sequence[Point],
    progress: npt.NDArray[np.float64],
    *,
    thickness: float,
    dots: bool,
) -> None:
    """A line through `points`; `dots` marks every frame."""
    large = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]
    width = round(thickness * OVERSAMPLING)
    draw.line(large, fill=SHADOW, width=width + 2 * OVERSAMPLING, joint="curve")
    for index in range(len(large) - 1):
        colour = colour_at(float(progress[index + 1]))
        draw.line(large[index : index + 2], fill=colour, width=width)
        _disc(draw, large[index + 1], radius=(0.9 if dots else 0.5) * width, fill=colour)
    _disc(draw, large[0], radius=(1.6 if dots else 1.3) * width, fill=None, outline=(255, 255, 255))


def colour_at(progress: float) -> tuple[int, int, int]:
    """Yellow at the start of the exposure, red at its end."""
    red, green, blue = (round(value) for value in EARLY_COLOUR * (1 - progress) + LATE_COLOUR * progress)
    return red, green, blue


def _disc(
    draw: ImageDraw.ImageDraw,
    centre: Point,
    *,
    radius: float,
    fill: tuple[int, ...] | None,
    outline: tuple[int, ...] | None = None,
) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(box, fill=fill, outline=outline, width=OVERSAMPLING)


def _draw_strip(
    draw: ImageDraw.ImageDraw,
    tracks: Tracks,
    caption: str,
    scales: str,
    *,
    top: int,
    right: int,
    bar_px: float,
    strip: int,
) -> None:
    """Three lines from the left: scale bar, colour key, caption."""
    first, second, third = ((top + strip * part) * OVERSAMPLING for part in (0.2, 0.5, 0.8))
    margin = strip / 8 * OVERSAMPLING
    font = _font(round(strip / 6.5) * OVERSAMPLING)

    end = margin + bar_px * OVERSAMPLING
    draw.line([(margin, first), (end, first)], fill="white", width=4 * OVERSAMPLING)
    draw.text((end + margin, first), scales, fill="white", font=font, anchor="lm")

    draw.text((margin, second), tracks.first, fill="white", font=font, anchor="lm")
    start = margin + font.getlength(tracks.first) + margin / 2
    key_px = round(min(bar_px, right / 4) * OVERSAMPLING)
    half = strip / 26 * OVERSAMPLING
    for step in range(key_px):
        colour = colour_at(step / key_px)
        draw.line([(start + step, second - half), (start + step, second + half)], fill=colour)
    draw.text((start + key_px + margin / 2, second), tracks.last, fill="white", font=font, anchor="lm")

    draw.text((margin, third), caption, fill="white", font=font, anchor="lm")


def nice_length(angstrom: float) -> float:
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
