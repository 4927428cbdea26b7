"""EER movies as the camera writes them, read back by others."""

import numpy as np
import pytest
import tifffile

from komad.errors import ParameterError
from komad.simulate.eer import CODINGS, Coding, acquisition, write_eer, write_eer_frames
from tests.formats.files import eer_electrons

SHAPE = (40, 56)


def draw(rate: float, coding: Coding, seed: int = 0) -> np.ndarray:
    """Electrons (n, 2) at random places, more of them at the end of the frame than at its start."""
    rng = np.random.default_rng(seed)
    n_pixels = SHAPE[0] * SHAPE[1]
    pixels = np.flatnonzero(rng.random(n_pixels) < rate * np.arange(n_pixels) / n_pixels)
    y, x = np.divmod(pixels, SHAPE[1])
    y_in, x_in = rng.integers(0, [1 << coding.y_bits, 1 << coding.x_bits], (len(pixels), 2)).T
    return np.stack([(y << coding.y_bits) + y_in, (x << coding.x_bits) + x_in], axis=1)


@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
def test_electrons_are_where_they_were_put(tmp_path, coding, big):
    """Dense, sparse, full and empty raw frames are read back bit by bit, whatever order they came in."""
    full = [(y << coding.y_bits, x << coding.x_bits) for y in range(SHAPE[0]) for x in range(SHAPE[1])]
    corners = [full[0], full[SHAPE[1]], full[-1]]
    raw_frames = [
        draw(0.1, coding),
        draw(0.004, coding),
        np.array(full),
        np.empty((0, 2), int),
        np.array(corners),
    ]
    path = tmp_path / "m.eer"
    write_eer(path, [raw[::-1] for raw in raw_frames], SHAPE, coding=coding, big=big)
    found = eer_electrons(path)
    assert [sorted(electrons) for electrons in found] == [
        sorted(map(tuple, raw.tolist())) for raw in raw_frames
    ]


def test_peer_decodes_the_runs(tmp_path):
    """The peer (imagecodecs) finds the same pixels, and the same quarter pixels, in a file of 7 + 4 bits."""
    electrons = draw(0.05, CODINGS[65001])
    write_eer(tmp_path / "m.eer", [electrons], SHAPE, metadata={"numberOfFrames": (1, "")})
    quarters = np.zeros((4 * SHAPE[0], 4 * SHAPE[1]), bool)
    quarters[tuple(electrons.T)] = True
    with tifffile.TiffFile(tmp_path / "m.eer") as tiff:
        assert tiff.is_eer
        whole = quarters.reshape(SHAPE[0], 4, SHAPE[1], 4).any(axis=(1, 3))
        np.testing.assert_array_equal(tiff.pages[0].asarray(), whole)
    with tifffile.TiffFile(tmp_path / "m.eer", superres=2) as tiff:
        np.testing.assert_array_equal(tiff.pages[0].asarray(), quarters)


def test_metadata_is_read_by_the_peer(tmp_path):
    """Acquisition values are on the first page, numbers as numbers, with their units."""
    told = acquisition(n_raw_frames=2, shape=SHAPE, total_dose_e_per_px=0.5, pixel_size_angstrom=0.75)
    write_eer(
        tmp_path / "m.eer", [draw(0.1, CODINGS[65001])] * 2, SHAPE, metadata=told | {"a<b": ('"&"', "")}
    )
    with tifffile.TiffFile(tmp_path / "m.eer") as tiff:
        found = tiff.eer_metadata
    assert found["numberOfFrames"] == 2
    assert found["totalDose"] == 0.5
    assert found["totalDose.unit"] == "e/pixel"
    assert found["sensorPixelSize.width"] == pytest.approx(0.75e-10)
    assert found["meanDoseRate"] * found["exposureTime"] == pytest.approx(0.5, rel=1e-3)
    assert found["a<b"] == '"&"'


def test_final_image_comes_first(tmp_path):
    """The camera's own picture is a page without compression before the raw frames."""
    picture = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE)
    write_eer(tmp_path / "m.eer", [draw(0.1, CODINGS[65001])], SHAPE, final_image=picture)
    with tifffile.TiffFile(tmp_path / "m.eer") as tiff:
        assert [int(page.compression) for page in tiff.pages] == [1, 65001]
        np.testing.assert_array_equal(tiff.pages[0].asarray(), picture)


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
def test_raw_frames_add_up_to_the_counts(tmp_path, coding):
    """Groups of raw frames sum to the counts; no pixel has two electrons in a raw frame; places fill the pixel."""
    counts = np.random.default_rng(5).integers(0, 6, (2, *SHAPE)).astype(np.uint8)
    path = tmp_path / "m.eer"
    done = list(
        write_eer_frames(path, counts, pixel_size_angstrom=0.8, coding=coding, raw_frames_per_frame=5)
    )
    assert done == [1, 2]
    sums = np.zeros_like(counts)
    places = np.zeros((1 << coding.y_bits, 1 << coding.x_bits), int)
    numbers = []
    for index, raw in enumerate(eer_electrons(path)):
        y, x = np.array(raw).T
        np.add.at(sums[index // 5], (y >> coding.y_bits, x >> coding.x_bits), 1)
        np.add.at(places, (y % len(places), x % len(places.T)), 1)
        numbers.append(len(raw))
    np.testing.assert_array_equal(sums, counts)
    expected = counts.sum() / places.size
    assert abs(places - expected).max() < 5 * np.sqrt(expected)
    assert np.ptp(numbers) < 0.1 * np.mean(numbers)


def test_what_the_camera_cannot_see_is_refused(tmp_path):
    """Two electrons in a pixel, one outside, and more counts than raw frames say so."""
    path = tmp_path / "m.eer"
    with pytest.raises(ParameterError, match="two in one pixel"):
        write_eer(path, [np.array([[0, 0], [3, 3]])], SHAPE)
    with pytest.raises(ParameterError, match="outside 40 x 56"):
        write_eer(path, [np.array([[0, 4 * 56]])], SHAPE)
    with pytest.raises(ParameterError, match="max_count = 3"):
        list(
            write_eer_frames(
                path, np.full((1, 4, 4), 4, np.uint8), pixel_size_angstrom=1, raw_frames_per_frame=3
            )
        )
