"""The thumbnail, read back as a picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from komad.output.thumbnail import (
    area_bin,
    binning,
    colour_at,
    largest_step,
    nice_length,
    spacing,
    strip_px,
    thumbnail_png,
    to_grey,
    track_magnification,
    track_px,
)
from komad.output.tracks import Tracks

STILL = np.zeros((3, 2))


def tracks(whole: np.ndarray, local: np.ndarray | None = None, places: np.ndarray | None = None) -> Tracks:
    """Tracks with an even exposure."""
    return Tracks(
        whole_angstrom=whole,
        local_angstrom=local,
        places=np.array([[0.5, 0.5]]) if places is None else places,
        progress=np.linspace(0, 1, len(whole)),
        first="0",
        last="40 e/Å²",
    )


def picture(
    image: np.ndarray,
    whole: np.ndarray = STILL,
    pixel_size: float = 1.0,
    local: np.ndarray | None = None,
    places: np.ndarray | None = None,
) -> np.ndarray:
    """(height, width, 3) of the thumbnail, row 0 at the top."""
    png = thumbnail_png(
        image.astype(np.float32),
        pixel_size_angstrom=pixel_size,
        tracks=tracks(whole, local, places),
        caption="x",
    )
    return np.asarray(Image.open(io.BytesIO(png)))


def coloured(pixels: np.ndarray) -> np.ndarray:
    """Where red is far above blue: the track is yellow to red, all else is grey."""
    return pixels[..., 0].astype(int) - pixels[..., 2] > 80


def test_size_is_limited_and_the_strip_is_below() -> None:
    """4096 x 5760 becomes 682 x 960 plus the strip; a small picture keeps its size."""
    assert picture(np.zeros((4096, 5760))).shape == (4096 // 6 + strip_px(960), 960, 3)
    assert picture(np.zeros((100, 200))).shape == (100 + strip_px(200), 200, 3)


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
    points = track_px(np.array([[0.0, 0.0], [2.0, 4.0]]), factor=10, angstrom_per_px=2.0, middle=(100, 50))
    assert points == [(90.0, 55.0), (110.0, 45.0)]


def test_magnification_is_the_largest_that_fits() -> None:
    """A track of 8 Å in 300 Å of room: 30 times; a still specimen: the largest; a long way: 1."""
    assert track_magnification(np.array([[0.0, 0.0], [8.0, 1.0]]), room_angstrom=300) == 30
    assert track_magnification(STILL, room_angstrom=300) == 1000
    assert track_magnification(np.array([[0.0, 0.0], [800.0, 1.0]]), room_angstrom=300) == 1
    assert largest_step(1.0, 69.0) == 50


def test_scale_bar_is_a_round_length() -> None:
    """1, 2 or 5 times a power of ten, not longer than asked for."""
    assert [nice_length(length) for length in (7.3, 100.0, 499.0, 0.3)] == pytest.approx([5, 100, 200, 0.2])


def test_track_is_drawn() -> None:
    """Coloured pixels run along the way; a single frame is no way."""
    image = np.random.default_rng(0).normal(size=(256, 256))
    moved = np.array([[0, 0], [5, 5], [10, 10]], float)
    ys, xs = np.nonzero(coloured(picture(image, moved)[:256]))
    assert len(ys) > 50
    assert np.corrcoef(ys, xs)[0, 1] < -0.9  # up and to the right
    assert (ys.mean(), xs.mean()) == pytest.approx((128, 128), abs=5)
    assert coloured(picture(image, moved[:1])[:256]).sum() == 0


def test_colour_tells_the_exposure() -> None:
    """A track to the right: green fades from yellow at its start to red at its end, as in the key."""
    pixels = picture(np.zeros((256, 256)), np.array([[0, 0], [0, 5], [0, 10]], float))[:256]
    xs = np.nonzero(coloured(pixels))[1]
    row = pixels[128]
    assert row[xs.min() + 12, 1] > row[xs.max() - 8, 1] + 60
    assert colour_at(0.0) == (255, 225, 60)
    assert colour_at(1.0) == (235, 40, 90)


def test_local_tracks_stand_at_their_places_and_point_where_the_specimen_went() -> None:
    """Places by y from the bottom: the lower ones go up, the upper ones right; the whole frame is in the strip."""
    up, right = np.array([[0, 0], [4, 0], [8, 0]], float), np.array([[0, 0], [0, 4], [0, 8]], float)
    places = np.array([[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])
    local = np.stack([up, up, right, right], axis=1)
    track = coloured(picture(np.zeros((400, 400)), up, local=local, places=places))
    low, high = np.argwhere(track[200:400, :200]), np.argwhere(track[:200, 200:])
    for points in (low, high):
        assert (points.min(axis=0) + points.max(axis=0)) / 2 == pytest.approx((100, 100), abs=4)
    assert np.ptp(low, axis=0)[0] > 5 * np.ptp(low, axis=0)[1]
    assert np.ptp(high, axis=0)[1] > 5 * np.ptp(high, axis=0)[0]
    assert track[400:, -strip_px(400) :].sum() > 20


def test_local_tracks_do_not_meet() -> None:
    """The longest track stays within its cell, whatever its length in Å."""
    places = np.stack(np.meshgrid([0.125, 0.375, 0.625, 0.875], [0.125, 0.375, 0.625, 0.875]), -1).reshape(
        -1, 2
    )
    for length in (0.3, 2.0, 9.0):
        way = np.array([[0, 0], [0, length]])
        shown = picture(np.zeros((512, 512)), way, local=np.repeat(way[:, None], 16, axis=1), places=places)
        lines = coloured(shown)[:512].any(axis=0)
        edges = [round(512 * part) for part in (0.25, 0.5, 0.75)]
        assert lines.sum() > 4 * 40
        assert not any(lines[edge - 2 : edge + 2].any() for edge in edges)


def test_spacing_is_that_of_neighbours() -> None:
    """A grid of 3 by 5: the shorter distance."""
    places = np.stack(np.meshgrid(10.0 * np.arange(3), 8.0 * np.arange(5)), -1).reshape(-1, 2)
    assert spacing(places) == 8
