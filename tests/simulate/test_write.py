"""Movie files, read back by others."""

import mrcfile
import numpy as np
import pytest
import tifffile

from komad.errors import ParameterError
from komad.simulate.write import write_frames, write_movie


@pytest.fixture
def frames() -> np.ndarray:
    """Counts without any symmetry."""
    return np.random.default_rng(3).integers(0, 16, (4, 30, 41)).astype(np.uint8)


def test_mode_0_is_marked_unsigned(tmp_path, frames):
    """Bytes above 127 survive in mode 0; the IMOD stamp is there and says unsigned."""
    path = tmp_path / "m.mrc"
    bright = frames + 200
    write_movie(path, bright, "mrc", pixel_size_angstrom=0.83)
    raw = path.read_bytes()
    assert len(raw) == 1024 + bright.size
    assert np.frombuffer(raw, "<i4", 4).tolist() == [41, 30, 4, 0]
    assert np.frombuffer(raw, "<i4", 2, 152).tolist() == [1146047817, 0]
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data.view(np.uint8), bright)
        assert mrc.voxel_size.x == pytest.approx(0.83)
        assert mrc.voxel_size.y == pytest.approx(0.83)


def test_mode_6_holds_16_bits(tmp_path, frames):
    """Mode 6 is read by mrcfile as unsigned 16-bit."""
    path = tmp_path / "m.mrc"
    large = frames.astype(np.uint16) * 4000
    write_movie(path, large, "mrc-uint16", pixel_size_angstrom=1.0)
    with mrcfile.open(path) as mrc:
        assert mrc.data.dtype == np.uint16
        np.testing.assert_array_equal(mrc.data, large)


def test_mode_101_packs_the_low_half_first(tmp_path, frames):
    """Two counts per byte, the even column low; odd rows are padded to a byte."""
    path = tmp_path / "m.mrc"
    write_movie(path, frames, "mrc-4bit", pixel_size_angstrom=1.0)
    raw = path.read_bytes()
    assert np.frombuffer(raw, "<i4", 4).tolist() == [41, 30, 4, 101]
    packed = np.frombuffer(raw, np.uint8, offset=1024).reshape(4, 30, 21)
    unpacked = np.stack([packed & 15, packed >> 4], axis=-1).reshape(4, 30, 42)
    np.testing.assert_array_equal(unpacked[:, :, :41], frames)
    assert not unpacked[:, :, 41].any()
    write_movie(path, np.array([[[1, 2, 3]]], np.uint8), "mrc-4bit", pixel_size_angstrom=1.0)
    assert path.read_bytes()[1024:] == b"\x21\x03"


def test_tiff_has_its_top_row_first(tmp_path, frames):
    """Pages are LZW and upside down against the array's MRC row order."""
    path = tmp_path / "m.tif"
    write_movie(path, frames, "tiff-lzw", pixel_size_angstrom=0.83)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 4
        assert tiff.pages[0].compression == tifffile.COMPRESSION.LZW
        np.testing.assert_array_equal(np.stack([page.asarray() for page in tiff.pages]), frames[:, ::-1])


@pytest.mark.parametrize(("file_format", "limit"), [("mrc", 255), ("mrc-4bit", 15)])
def test_counts_that_do_not_fit_are_refused(tmp_path, file_format, limit):
    """Nothing is silently cut to fewer bits."""
    path = tmp_path / "m.mrc"
    with pytest.raises(ParameterError, match=f"max_count = {limit}"):
        write_movie(path, np.full((1, 4, 4), limit + 1, np.uint16), file_format, pixel_size_angstrom=1.0)
    assert not path.exists()


@pytest.mark.parametrize("file_format", ["mrc", "mrc-uint16", "mrc-4bit", "tiff-lzw", "eer"])
def test_file_grows_frame_by_frame(tmp_path, frames, file_format):
    """After each frame the file is longer; after the last it is complete."""
    path = tmp_path / "m"
    sizes = [path.stat().st_size for _ in write_frames(path, frames, file_format, pixel_size_angstrom=1.0)]
    assert len(sizes) == 4
    assert sizes == sorted(set(sizes))
    again = tmp_path / "n"
    write_movie(again, frames, file_format, pixel_size_angstrom=1.0)
    assert again.stat().st_size == path.stat().st_size


def test_header_is_valid_mrc2014(tmp_path):
    """The peer finds nothing wrong with the header but the statistics that cameras do not compute."""
    path = tmp_path / "m.mrc"
    write_movie(path, np.zeros((2, 3, 4), np.uint8), "mrc", pixel_size_angstrom=1.5)
    with mrcfile.open(path) as mrc:
        assert mrc.header.nversion == 20140
        assert mrc.header.map == b"MAP "
        assert mrc.is_image_stack()
        assert mrc.header.dmax < mrc.header.dmin
