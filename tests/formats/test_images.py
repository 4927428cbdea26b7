"""Gain, dark and defect references, and micrographs."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from komad.errors import DiskFullError, OutputError, ParameterError, ReferenceFileError
from komad.formats import images, movies
from tests.formats.files import SHARED_DATA, counts, write_mrc_movie, write_tiff_movie


@pytest.mark.parametrize("dtype", ["float32", "uint16", "int16", "float16"])
def test_gain_from_mrc_and_tiff_is_the_same(tmp_path: Path, dtype: str) -> None:
    """Both come as float32 in MRC row order."""
    gain = np.random.default_rng(0).integers(0, 99, (9, 14)).astype(dtype)
    mode = {"float32": 2, "uint16": 6, "int16": 1, "float16": 12}[dtype]
    write_mrc_movie(tmp_path / "gain.mrc", gain[None], mode)
    write_tiff_movie(tmp_path / "gain.tif", gain[None], compression="lzw")
    for name in ("gain.mrc", "gain.tif"):
        read = images.read_image(tmp_path / name)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, gain)


def test_real_gain_with_wrong_nz() -> None:
    """A Direct Electron gain that claims 32766 pictures and holds one is read as that one."""
    path = SHARED_DATA / "odd_files" / "de_gain_wrong_nz.mrc"
    if not path.exists():
        pytest.skip("the real files are not beside this checkout")
    gain = images.read_image(path)
    assert gain.shape == (128, 256)
    assert 0.95 < gain.mean() < 1.05
    np.testing.assert_array_equal(gain.ravel(), np.fromfile(path, "<f4", offset=1024))


def test_gain_with_wrong_nz(tmp_path: Path) -> None:
    """A header that counts more pictures than fit is believed only where not exactly one fits."""
    pictures = counts((3, 9, 14), "float32")
    path = write_mrc_movie(tmp_path / "gain.mrc", pictures[:1], 2)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<i", raw, 8, 500)
    path.write_bytes(raw)
    np.testing.assert_array_equal(images.read_image(path), pictures[0])
    path.write_bytes(raw + pictures[1:].tobytes())
    with pytest.raises(ReferenceFileError, match="holds 500 pictures"):
        images.read_image(path)


@pytest.mark.parametrize("suffix", ["mrc", "tif"])
def test_reference_of_several_pictures(tmp_path: Path, suffix: str) -> None:
    """A movie named as reference is refused."""
    path = tmp_path / f"gain.{suffix}"
    write = write_mrc_movie if suffix == "mrc" else write_tiff_movie
    write(path, counts((3, 9, 14), "int16"), **({"mode": 1} if suffix == "mrc" else {}))
    with pytest.raises(
        ReferenceFileError, match=f"gain.{suffix} holds 3 pictures; a reference is a single one"
    ):
        images.read_image(path)


def test_reference_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, truncated and foreign files are reference errors that name the file."""
    gain = write_mrc_movie(tmp_path / "gain.mrc", counts((1, 9, 14), "float32"), 2)
    gain.write_bytes(gain.read_bytes()[:-5])
    (tmp_path / "text.mrc").write_text("gain " * 999)
    for name, message in (
        ("gone.mrc", "No such file"),
        ("gain.mrc", "5 bytes are missing"),
        ("text.mrc", "no MRC file"),
        (".", "is a directory"),
    ):
        with pytest.raises(ReferenceFileError, match=message) as caught:
            images.read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_real_defect_map(tmp_path: Path) -> None:
    """The defect map of a K3 (5760 x 4092) marks the pixels that are not zero."""
    packed = SHARED_DATA / "k3_motioncor2" / "k3_defect_map.mrc.gz"
    if not packed.exists():
        pytest.skip("the real files are not beside this checkout")
    (tmp_path / "defects.mrc").write_bytes(gzip.decompress(packed.read_bytes()))
    raw = np.fromfile(tmp_path / "defects.mrc", np.int8, offset=1024).reshape(4092, 5760)
    np.testing.assert_array_equal(images.read_defects(tmp_path / "defects.mrc", (4092, 5760)), raw != 0)
    with pytest.raises(ReferenceFileError, match="has 5760 x 4092 pixels, the frames 4092 x 5760"):
        images.read_defects(tmp_path / "defects.mrc", (5760, 4092))


def test_defect_map_from_tiff_is_flipped(tmp_path: Path) -> None:
    """A TIFF map is in the row order of TIFF frames."""
    drawn = np.zeros((8, 9), np.uint8)
    drawn[0, 2] = 1
    tifffile.imwrite(tmp_path / "defects.tif", drawn)
    assert np.argwhere(images.read_defects(tmp_path / "defects.tif", (8, 9))).tolist() == [[7, 2]]


def test_defect_boxes(tmp_path: Path) -> None:
    """Boxes are x, y, width, height from 0 in MRC row order; comments and blank lines are passed over."""
    (tmp_path / "defects.txt").write_text("# columns\n3 0 1 8\n\n0 5\t9 2  # rows\n")
    expected = np.zeros((8, 9), bool)
    expected[:, 3] = True
    expected[5:7, :] = True
    np.testing.assert_array_equal(images.read_defects(tmp_path / "defects.txt", (8, 9)), expected)


@pytest.mark.parametrize(
    "line", ["1 2 3", "1 2 3 x", "1 2 3 4 5", "0 0 0 4", "-1 0 2 2", "8 0 2 1", "0 7 1 2"]
)
def test_bad_defect_box(tmp_path: Path, line: str) -> None:
    """A line that is no box, or a box outside the frames, is named."""
    (tmp_path / "defects.txt").write_text(f"0 0 9 8\n{line}\n")
    with pytest.raises(ReferenceFileError, match=rf"defects\.txt, line 2: .*{line}"):
        images.read_defects(tmp_path / "defects.txt", (8, 9))


def test_missing_defects(tmp_path: Path) -> None:
    """A defect file that is not there, or empty as after a failed copy, is a reference error."""
    (tmp_path / "empty.txt").touch()
    for name, message in (("gone.txt", "cannot be read"), ("empty.txt", "is empty")):
        with pytest.raises(ReferenceFileError, match=rf"{name} {message}"):
            images.read_defects(tmp_path / name, (8, 9))


@pytest.mark.parametrize("float16", [False, True])
def test_written_micrograph_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], float16: bool
) -> None:
    """The reference package finds mode, pixel size and statistics right, and our reader reads it back."""
    image = np.random.default_rng(0).normal(30, 5, (33, 47)).astype(np.float32)
    before = image.copy()
    images.write_mrc(tmp_path / "m.mrc", image, pixel_size_angstrom=0.885, float16=float16)
    assert mrcfile.validate(tmp_path / "m.mrc"), capsys.readouterr().out
    with mrcfile.open(tmp_path / "m.mrc") as mrc:
        stored = mrc.data.astype(np.float64)
        assert int(mrc.header.mode) == (12 if float16 else 2)
        assert float(mrc.voxel_size.x) == pytest.approx(0.885, rel=1e-6)
        assert float(mrc.header.dmean) == pytest.approx(stored.mean(), rel=1e-5)
        assert (float(mrc.header.dmin), float(mrc.header.dmax)) == (stored.min(), stored.max())
        assert b"komad" in bytes(mrc.header.label[0])
    np.testing.assert_array_equal(images.read_image(tmp_path / "m.mrc"), stored)
    np.testing.assert_allclose(stored, image, rtol=5e-4 if float16 else 0)
    np.testing.assert_array_equal(image, before)
    assert movies.read_header(tmp_path / "m.mrc").pixel_size_angstrom == 0.885


def test_micrograph_is_the_same_each_time(tmp_path: Path) -> None:
    """Writing again gives the same bytes: no time of day is inside."""
    image = counts((9, 14), "float32")
    for name in ("a.mrc", "b.mrc"):
        images.write_mrc(tmp_path / name, image, pixel_size_angstrom=1.0)
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()


def test_unknown_pixel_size(tmp_path: Path) -> None:
    """Without a pixel size the header says none."""
    images.write_mrc(tmp_path / "m.mrc", counts((9, 14), "float32"), pixel_size_angstrom=None)
    assert movies.read_header(tmp_path / "m.mrc").pixel_size_angstrom is None


def test_values_too_large_for_16_bits(tmp_path: Path) -> None:
    """A value that would become infinite is an error, and no file is written."""
    with pytest.raises(ParameterError, match="values up to 70000 do not fit into 16-bit floats"):
        images.write_mrc(
            tmp_path / "m.mrc", np.full((4, 4), 7e4, np.float32), pixel_size_angstrom=1.0, float16=True
        )
    assert not list(tmp_path.iterdir())


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told as such, and nothing is left on it."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFullError):
        images.write_mrc(tmp_path / "m.mrc", counts((9, 14), "float32"), pixel_size_angstrom=1.0)
    assert not list(tmp_path.iterdir())


def test_a_file_of_somebody_else_is_kept(tmp_path: Path) -> None:
    """A movie, or anything else that has the name of a result, is not replaced; a result of an earlier run is."""
    movie, picture = tmp_path / "a.mrc", np.ones((8, 8), np.float32)
    with mrcfile.new(movie) as mrc:
        mrc.set_data(np.zeros((2, 8, 8), np.int8))
    before = movie.read_bytes()
    with pytest.raises(OutputError, match=r"a\.mrc exists and was not written by komad; it is kept"):
        images.write_mrc(movie, picture, pixel_size_angstrom=1.0)
    assert movie.read_bytes() == before
    for _ in range(2):
        images.write_mrc(tmp_path / "b.mrc", picture, pixel_size_angstrom=1.0)
    np.testing.assert_array_equal(images.read_image(tmp_path / "b.mrc"), picture)
