"""The thumbnail, read back as a picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from komad.output.thumbnail import (
    STRIP_PX,
    area_bin,
    binning,
    thumbnail_png,
    to_grey,
    track_magnification,
    track_px,
)

STILL = np.zeros((3, 2))


def picture(image: np.ndarray, displacement: np.ndarray = STILL, pixel_size: float = 1.0) -> np.ndarray:
    """(height, width, 3) of the thumbnail, row 0 at the top."""
    png = thumbnail_png(
        image.astype(np.float32),
        pixel_size_angstrom=pixel_size,
        displacement_angstrom=displacement,
        caption="x",
    )
    return np.asarray(Image.open(io.BytesIO(png)))


def coloured(pixels: np.ndarray) -> np.ndarray:
    """Where red is far above blue: the track is yellow to red, all else is grey."""
    return pixels[..., 0].astype(int) - pixels[..., 2] > 80


def test_size_is_limited_and_the_strip_is_below() -> None:
    """4096 x 5760 becomes 682 x 960 plus the strip; a small picture keeps its size."""
    assert picture(np.zeros((4096, 5760))).shape == (4096 // 6 + STRIP_PX, 960, 3)
    assert picture(np.zeros((100, 200))).shape == (100 + STRIP_PX, 200, 3)


@pytest.mark.parametrize(
    ("side", "pixel_size", "factor"),
    [(8192, 0.4, 8), (4096, 0.83, 4), (2048, 0.83, 4), (2048, 3.1, 2), (600, 0.83, 1)],
)
def test_binning_shows_more_than_noise(side: int, pixel_size: float, factor: int) -> None:
    """At most 1024 px; to 3 Å per pixel while 512 px are left."""
    assert binning(side, pixel_size) == factor


def test_row_0_is_at_the_bottom() -> None:
    """A bright first row of the array is the last line of the picture."""
    image = np.zeros((64, 64))
    image[:8] = 1
    grey = picture(image)[..., 0]
    assert grey[60, 60] == 255
    assert grey[2, 60] == 0


def test_area_binning_keeps_the_mean() -> None:
    """Means of blocks, the rest cut off."""
    image = np.arange(35, dtype=np.float32).reshape(5, 7)
    binned = area_bin(image, 2)
    assert binned.shape == (2, 3)
    assert binned[0, 0] == pytest.approx(image[:2, :2].mean())
    assert binned.mean() == pytest.approx(image[:4, :6].mean())


def test_hot_pixels_do_not_set_the_contrast() -> None:
    """One pixel at a million leaves the rest of the grey levels where they were."""
    image = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)
    spoiled = image.copy()
    spoiled[5, 5] = 1e6
    difference = np.abs(to_grey(image).astype(int) - to_grey(spoiled).astype(int))
    assert np.median(difference) <= 1


def test_not_finite_values_do_not_spoil_the_picture() -> None:
    """NaN and infinity become something; the rest keeps its contrast."""
    image = np.random.default_rng(0).normal(size=(64, 64))
    image[0, :3] = np.nan, np.inf, -np.inf
    assert 200 < np.ptp(picture(image)[:64, :, 0]) <= 255


def test_track_points_up_and_right_for_positive_displacement() -> None:
    """Up for y, right for x, magnified, centred in the picture."""
    points = track_px(
        np.array([[0.0, 0.0], [2.0, 4.0]]), factor=10, angstrom_per_px=2.0, height=100, width=200
    )
    assert points == [(90.0, 55.0), (110.0, 45.0)]


def test_magnification_is_the_largest_that_fits() -> None:
    """A track of 8 Å in 300 Å of room: 20 times; a still specimen: the largest; a long way: 1."""
    assert track_magnification(np.array([[0.0, 0.0], [8.0, 1.0]]), room_angstrom=300) == 20
    assert track_magnification(STILL, room_angstrom=300) == 1000
    assert track_magnification(np.array([[0.0, 0.0], [800.0, 1.0]]), room_angstrom=300) == 1


def test_track_is_drawn_and_skipped_frames_are_left_out() -> None:
    """Coloured pixels run along the way; NaN frames do not matter; no motion, no line."""
    image = np.random.default_rng(0).normal(size=(256, 256))
    moved = np.array([[np.nan, np.nan], [0, 0], [5, 5], [10, 10]], float)
    track = coloured(picture(image, moved))
    ys, xs = np.nonzero(track)
    assert len(ys) > 50
    assert np.corrcoef(ys, xs)[0, 1] < -0.95  # up and to the right
    assert coloured(picture(image, np.full((4, 2), np.nan))).sum() == 0
