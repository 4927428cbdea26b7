"""Gain, dark and defect references, and micrographs."""

from __future__ import annotations

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


ASYMMETRIC = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("name", ["gain.mrc", "gain.tif", "GAIN.TIFF", "20240101_EER_GainReference.gain"])
def test_a_reference_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    """Written and read, each format gives the same picture in MRC row order, and the input stays."""
    images.write_reference(tmp_path / name, ASYMMETRIC)
    np.testing.assert_array_equal(images.read_image(tmp_path / name), ASYMMETRIC)
    np.testing.assert_array_equal(ASYMMETRIC, np.arange(1, 13).reshape(3, 4))


def test_rows_of_a_written_reference(tmp_path: Path) -> None:
    """Other programs see the first row of a TIFF at the top: it is the last one in MRC order."""
    images.write_reference(tmp_path / "gain.mrc", ASYMMETRIC)
    images.write_reference(tmp_path / "gain.gain", ASYMMETRIC)
    with mrcfile.open(tmp_path / "gain.mrc") as mrc:
        np.testing.assert_array_equal(mrc.data, ASYMMETRIC)
        assert b"komad gain reference" in bytes(mrc.header.label[0])
    stored = tifffile.imread(tmp_path / "gain.gain")
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, ASYMMETRIC[::-1])


def test_a_reference_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    """A name that is taken, or of no known format, is refused before anything is written."""
    (tmp_path / "gain.tif").write_text("the only one")
    with pytest.raises(ParameterError, match=r"gain\.tif is there already and is kept"):
        images.write_reference(tmp_path / "gain.tif", ASYMMETRIC)
    with pytest.raises(ParameterError, match=r"ends in \.gain, \.mrc, \.tif, \.tiff"):
        images.write_reference(tmp_path / "gain.dm4", ASYMMETRIC)
    assert [path.name for path in tmp_path.iterdir()] == ["gain.tif"]
    assert (tmp_path / "gain.tif").read_text() == "the only one"


def test_a_reference_is_not_replaced_by_a_micrograph(tmp_path: Path) -> None:
    """What `komad gain` wrote is no result of a movie: it is kept."""
    images.write_reference(tmp_path / "a.mrc", ASYMMETRIC)
    with pytest.raises(OutputError, match="was not written by komad"):
        images.write_mrc(tmp_path / "a.mrc", ASYMMETRIC, pixel_size_angstrom=1.0)


def test_a_reference_of_values_that_are_no_numbers(tmp_path: Path) -> None:
    """They are written as 0, which makes them defects for every program."""
    images.write_reference(tmp_path / "a.mrc", np.array([[np.nan, 2], [np.inf, -1]], np.float32))
    assert images.read_image(tmp_path / "a.mrc").tolist() == [[0, 2], [0, -1]]
