"""`komad mrcz`."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import subprocess
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import mrcfile
import mrcz as python_mrcz
import numpy as np
import pytest
import tifffile

from komad.arrays import thread_count
from komad.cli import exits
from komad.config import Archive, Processing, WatchFolder
from komad.errors import DiskFullError, KomadError, MovieError
from komad.formats import movies
from komad.formats.images import read_image
from komad.formats.mrcz import read_metadata
from komad.repack.many import run
from komad.repack.pack import pack
from komad.repack.unpack import Form, unpack
from komad.simulate.eer import write_eer_frames
from tests.cli.conftest import Komad
from tests.formats.files import counts, mrc_bytes, packed_4_bit, write_mrc_movie, write_tiff_movie
from tests.formats.test_mrc_writer import motioncor2_archive


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    """A folder with a movie of each mode, and two TIFF."""
    folder = tmp_path / "camera"
    folder.mkdir()
    write_mrc_movie(folder / "signed.mrc", counts((3, 20, 31), "int8"), 0, imod_flags=1)
    bright = counts((3, 20, 31), "uint8", mean=150)
    (folder / "unsigned.mrc").write_bytes(mrc_bytes(bright.shape, 0, bright.tobytes(), imod_flags=0))
    write_mrc_movie(folder / "mode1.mrc", counts((3, 20, 31), "int16", mean=300), 1)
    write_mrc_movie(folder / "mode2.mrc", counts((3, 20, 31), "float32") / 3, 2)
    write_mrc_movie(folder / "mode6.mrc", counts((3, 20, 31), "uint16", mean=40000), 6)
    write_mrc_movie(folder / "mode12.mrc", counts((3, 20, 31), "float32"), 12)
    four = np.random.default_rng(1).integers(0, 16, (3, 20, 31)).astype(np.uint8)
    (folder / "mode101.mrc").write_bytes(mrc_bytes(four.shape, 101, packed_4_bit(four)))
    return folder


def data_of(path: Path) -> bytes:
    """All behind the header."""
    return path.read_bytes()[1024:]


def test_every_mode_comes_back_bit_for_bit(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """pack, then unpack: mode, mark of the bytes, pixels to the last bit, and pixel size are the camera's."""
    originals = sorted(camera.iterdir())
    assert komad("mrcz", "pack", camera, "-o", tmp_path / "archive").code == 0
    assert len(list((tmp_path / "archive").iterdir())) == len(originals) == 7
    outcome = komad("mrcz", "unpack", tmp_path / "archive", "-o", tmp_path / "back")
    assert outcome.code == 0
    for original in originals:
        back = tmp_path / "back" / original.name
        assert data_of(back) == data_of(original)
        said, was = movies.read_header(back), movies.read_header(original)
        assert (said.mrc_mode, said.dtype, said.pixel_size_angstrom) == (was.mrc_mode, was.dtype, 1.25)
    assert "unsigned.mrc  mode 0" in outcome.err
    assert "programs that take mode 0 as signed" in outcome.err
    assert "mode6.mrc  mode 6" in outcome.err
    assert "RELION 3.1 reads those above 32767 as negative" in outcome.err


@pytest.mark.parametrize("codec", ["zstd", "lz4", "lz4hc", "zlib", "blosclz"])
def test_python_mrcz_reads_what_was_packed(komad: Komad, tmp_path: Path, codec: str) -> None:
    """The peer gives the same pixels and optics, and the metadata say from what."""
    frames = counts((3, 20, 31), "int16", mean=300)
    movie = write_mrc_movie(tmp_path / "m.mrc", frames, 1)
    options = ("--codec", codec, "--level", "3", "--pixel-size", "0.85", "--voltage", "300")
    assert komad("mrcz", "pack", movie, *options, "--dose-per-frame", "1.5").code == 0
    read, header = python_mrcz.readMRC(str(tmp_path / "m.mrcz"))
    np.testing.assert_array_equal(read, frames)
    assert (header["compressor"], header["voltage"]) == (codec, 300.0)
    np.testing.assert_allclose(header["pixelsize"], 0.85, rtol=1e-6)
    source = header["packed_from"]
    assert (source["name"], source["size_bytes"]) == ("m.mrc", movie.stat().st_size)
    assert header["acquisition"]["dose_per_frame"] == 1.5


def test_archives_of_python_mrcz(komad: Komad, tmp_path: Path) -> None:
    """Those of the peer are unpacked, packed with another codec, and keep what they say."""
    frames = counts((3, 20, 31), "uint16")
    python_mrcz.writeMRC(
        frames, str(tmp_path / "p.mrcz"), meta={"note": "x"}, compressor="lz4", pixelsize=1.06, voltage=200.0
    )
    assert komad("mrcz", "unpack", tmp_path / "p.mrcz").code == 0
    with mrcfile.open(tmp_path / "p.mrc") as mrc:
        assert mrc.header.mode == 6
        np.testing.assert_array_equal(mrc.data, frames)
        assert mrc.voxel_size.x == pytest.approx(1.06)
    assert komad("mrcz", "pack", tmp_path / "p.mrcz", "-o", tmp_path / "z", "--codec", "zstd").code == 0
    info = json.loads(komad("mrcz", "info", tmp_path / "z" / "p.mrcz", "--json").out)["files"][0]
    assert (info["codec"], info["voltage_kv"], info["pixel_size_angstrom"]) == ("zstd", 200.0, 1.06)
    assert (info["metadata"]["note"], info["checksums"]) == ("x", True)


def test_eer_movies_are_packed_before_they_are_unpacked(komad: Komad, tmp_path: Path) -> None:
    """Raw frames one by one would fill the disk; frames that were made of them come out as they are."""
    frames = counts((2, 20, 31), "uint8", mean=3).clip(0, 20)
    assert list(write_eer_frames(tmp_path / "m.eer", frames, pixel_size_angstrom=1.5)) == [1, 2]
    for option in ("--mode=6", "--dry-run"):
        outcome = komad("mrcz", "unpack", tmp_path / "m.eer", option)
        assert outcome.code == exits.MOVIES_FAILED
        assert "an EER movie of 50 raw frames" in outcome.err
        assert "komad mrcz pack" in outcome.err
    assert not (tmp_path / "m.mrc").exists()
    assert komad("mrcz", "pack", tmp_path / "m.eer", "--eer-grouping", "25").code == 0
    assert komad("mrcz", "unpack", tmp_path / "m.mrcz").code == 0
    np.testing.assert_array_equal(mrcfile.read(tmp_path / "m.mrc").view(np.uint8), frames)


@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd", "none"])
def test_tiff_there_and_back(komad: Komad, tmp_path: Path, compression: str) -> None:
    """A TIFF movie is packed and comes out as TIFF, pixels, type and pixel size kept."""
    frames = counts((3, 20, 31), "uint16")
    per_cm = 1e8 / 0.83
    write_tiff_movie(
        tmp_path / "m.tif",
        frames,
        compression="lzw",
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
    )
    assert komad("mrcz", "pack", tmp_path / "m.tif").code == 0
    archive = tmp_path / "m.mrcz"
    assert komad("mrcz", "unpack", archive, "--tiff", compression, "-o", tmp_path / "b").code == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b" / "m.tif")[:, ::-1], frames)
    assert movies.read_header(tmp_path / "b" / "m.tif").pixel_size_angstrom == 0.83


def test_compressed_mrc_is_packed_in_its_order(komad: Komad, tmp_path: Path) -> None:
    """A movie that can only be unpacked from its start is packed all the same, under the name of the movie."""
    frames = counts((30, 20, 31), "int16")
    movie = write_mrc_movie(tmp_path / "m.mrc", frames, 1)
    (tmp_path / "m.mrc.gz").write_bytes(gzip.compress(movie.read_bytes()))
    assert komad("mrcz", "pack", tmp_path / "m.mrc.gz", "-o", tmp_path / "z").code == 0
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "z" / "m.mrcz"), frames)


def test_frames_in_files_are_packed_as_a_movie(komad: Komad, tmp_path: Path) -> None:
    """The path with {frame} in it is the movie; its archive has the frames in the order of their numbers."""
    frames = counts((3, 20, 30), "uint16")
    for number in (9, 11, 10):
        write_mrc_movie(tmp_path / f"a_{number}.mrc", frames[[number - 9]], 6)
    for number in range(1, 8):
        shutil.copy(tmp_path / "a_9.mrc", tmp_path / f"a_{number}.mrc")
    assert "number 8 is missing" in komad("mrcz", "pack", tmp_path / "a_{frame}.mrc").err
    shutil.copy(tmp_path / "a_9.mrc", tmp_path / "a_8.mrc")
    assert komad("mrcz", "pack", tmp_path / "a_{frame}.mrc").code == 0
    assert np.array_equal(movies.read_frames(tmp_path / "a.mrcz")[-3:], frames)


def test_a_mode_that_cannot_hold_a_movie(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """It is refused with one that can, the others are done, and the exit code tells."""
    outcome = komad("mrcz", "unpack", camera, "--pattern", "*.mrc", "--mode", "101", "-o", tmp_path / "b")
    assert outcome.code == 1
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["mode101.mrc"]
    assert "do not fit mode 101: take mode 0 or mode 6" in outcome.err
    assert "1 of 7 files" in outcome.err
    assert komad("mrcz", "unpack", camera / "mode1.mrc", "--mode", "101", "--tiff", "lzw").code == 2
    assert komad("mrcz", "unpack", camera / "mode1.mrc", "--mode", "6", "--signed").code == 2
    unknown = komad("mrcz", "unpack", camera / "mode1.mrc", "--mode", "3", "-o", tmp_path / "c")
    assert (unknown.code, "MRC mode 3 is not written; possible are 0, 1, 2, 6" in unknown.err) == (2, True)


def test_nothing_is_replaced(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """Neither what is there, unless it is said, nor what was given, nor one new file by another."""
    archive = tmp_path / "archive" / "mode1.mrcz"
    archive.parent.mkdir()
    archive.write_text("mine")
    outcome = komad("mrcz", "pack", camera / "mode1.mrc", "-o", archive.parent)
    assert (outcome.code, archive.read_text()) == (1, "mine")
    assert "is there already: --overwrite replaces it" in outcome.err
    assert komad("mrcz", "pack", camera / "mode1.mrc", "-o", archive.parent, "--overwrite").code == 0
    assert movies.read_header(archive).n_frames == 3
    outcome = komad("mrcz", "unpack", camera / "mode1.mrc", "--mode", "6", "--overwrite")
    assert outcome.code == 1
    assert "one of the files that you gave" in outcome.err
    write_tiff_movie(camera / "mode1.tif", counts((2, 8, 8)))
    outcome = komad("mrcz", "pack", camera / "mode1.mrc", camera / "mode1.tif", "-o", tmp_path / "c")
    assert outcome.code == 1
    assert "is made of" in outcome.err
    assert movies.read_header(tmp_path / "c" / "mode1.mrcz").n_frames == 3


def test_dry_run(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """It says where each would go, finds what would fail, and writes nothing."""
    (camera / "bad.mrc").write_text("hello" * 1000)
    outcome = komad("mrcz", "pack", camera, "-o", tmp_path / "z", "--dry-run")
    assert outcome.code == 1
    assert f"-> {tmp_path / 'z' / 'mode6.mrcz'}" in outcome.err
    assert "bad.mrc is no MRC file" in outcome.err
    assert "7 of 8 files would be written; nothing was done" in outcome.err
    assert not (tmp_path / "z").exists()


def test_one_bad_movie_stops_no_other(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """Cut off and foreign files are told, the others are packed."""
    (camera / "bad.mrc").write_text("hello" * 1000)
    (camera / "cut.mrc").write_bytes((camera / "mode6.mrc").read_bytes()[:-10])
    outcome = komad("mrcz", "pack", camera, "-o", tmp_path / "z")
    assert outcome.code == 1
    assert "holds 2 of 3 frames" in outcome.err
    assert len(list((tmp_path / "z").iterdir())) == 7


def test_a_disk_without_room(
    komad: Komad, camera: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Sizes are compared with what is free before anything is written; the exit code is that of the disk."""
    archive = tmp_path / "z"
    assert komad("mrcz", "pack", camera / "mode6.mrc", "-o", archive).code == 0
    free = type("Usage", (), {"free": 1024 + 3 * 20 * 31 * 2 - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    outcome = komad("mrcz", "unpack", archive, "-o", tmp_path / "b")
    assert outcome.code == 6
    assert "are needed: free space, or choose another folder with --output" in outcome.err
    assert not list((tmp_path / "b").iterdir())
    free.free += 1
    assert komad("mrcz", "unpack", archive, "-o", tmp_path / "b").code == 0


def test_a_full_disk_ends_all() -> None:
    """What fails for want of space fails for every movie: no further one is begun."""
    begun: list[Path] = []

    def full(path: Path, _: object) -> None:
        begun.append(path)
        raise DiskFullError("no space")

    with pytest.raises(DiskFullError):
        list(run([Path(str(number)) for number in range(50)], full, jobs=1))
    assert len(begun) < 50


def test_ctrl_c_leaves_no_halves(camera: Path, tmp_path: Path) -> None:
    """When the consumer stops, movies that are being written end at their next frame, and nothing of them stays."""
    write_mrc_movie(camera / "long.mrc", counts((200, 20, 31), "int16"), 1)
    begun, gone_on = threading.Event(), threading.Event()
    errors: list[KomadError] = []

    def work(source: Path, frame_done: Callable[[int], None]) -> None:
        def slowly(index: int) -> None:
            begun.set()
            gone_on.wait(10)
            frame_done(index)

        if source.name != "long.mrc":
            begun.wait(10)
            return
        target, folder = tmp_path / "long.mrcz", WatchFolder(directory=Path())
        try:
            pack(source, target, archive=Archive(), folder=folder, processing=Processing(), on_frame=slowly)
        except KomadError as error:
            errors.append(error)
            raise

    outcomes = run([camera / "long.mrc", Path("short")], work, jobs=2)
    assert next(outcomes).source == Path("short")
    threading.Timer(0.3, gone_on.set).start()
    outcomes.close()
    assert [error.code for error in errors] == ["interrupted"]
    assert [path.name for path in tmp_path.iterdir()] == ["camera"]


def test_info(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """Type, codec, sizes, optics and origin, in words and for scripts; a bad file is told beside the others."""
    komad("mrcz", "pack", camera / "mode6.mrc", "-o", tmp_path, "--voltage", "300", "--dose-per-frame", "1.2")
    archive = tmp_path / "mode6.mrcz"
    text = komad("mrcz", "info", archive).out
    for words in (
        "3 of 31 x 20 pixels, uint16, mode 6",
        "mrcz, zstd",
        "1.25 Å",
        "300 kV",
        "1.2 e/Å²",
        "one for each",
    ):
        assert words in text
    assert str(camera / "mode6.mrc") in text
    (tmp_path / "bad.mrcz").write_text("hello" * 1000)
    outcome = komad("mrcz", "info", tmp_path / "bad.mrcz", archive, camera, "--json")
    assert outcome.code == 1
    found = {Path(each["file"]).name: each for each in json.loads(outcome.out)["files"]}
    assert len(found) == 8
    assert (found["mode6.mrcz"]["checksums"], found["mode6.mrc"]["checksums"]) == (True, False)
    assert found["mode6.mrcz"]["dose_per_frame"] == 1.2
    assert found["mode6.mrcz"]["pixel_bytes"] == 3 * 20 * 31 * 2
    assert "mode101.mrc" in komad("mrcz", "info", camera).out


def test_verify_names_every_damaged_frame(komad: Komad, tmp_path: Path) -> None:
    """Not only the first one; and frames behind a broken link of the chain are told as lost."""
    movie = write_mrc_movie(tmp_path / "m.mrc", counts((9, 40, 50), "int16"), 1)
    komad("mrcz", "pack", movie)
    archive = tmp_path / "m.mrcz"
    assert komad("mrcz", "verify", archive).out == "1 of 1 files are whole\n"
    with movies.open_movie(archive) as reader:
        chunks = reader.chunks
    raw = bytearray(archive.read_bytes())
    for index in (1, 2, 4):
        raw[chunks[index][0] + 40] ^= 1
    archive.write_bytes(raw)
    outcome = komad("mrcz", "verify", archive)
    assert outcome.code == 1
    assert "damaged: frames 2-3, 5 (counted from 1)" in outcome.err
    raw[chunks[6][0]] ^= 0xFF
    archive.write_bytes(raw)
    row = json.loads(komad("mrcz", "verify", archive, "--json").out)["files"][0]
    assert (row["frames"], row["unreachable"], row["sound"]) == ([2, 3, 5], [7, 8, 9], False)


def test_verify_decodes_where_there_is_no_checksum(komad: Komad, tmp_path: Path) -> None:
    """Archives of python-mrcz and movies of cameras are decoded."""
    python_mrcz.writeMRC(counts((3, 40, 50), "int16"), str(tmp_path / "p.mrcz"), compressor="zlib")
    write_tiff_movie(tmp_path / "t.tif", counts((3, 40, 50)), compression="deflate")
    assert komad("mrcz", "verify", tmp_path / "p.mrcz", tmp_path / "t.tif").code == 0
    with movies.open_movie(tmp_path / "p.mrcz") as reader:
        offset, length = reader.chunks[2]
    raw = bytearray((tmp_path / "p.mrcz").read_bytes())
    raw[offset + 20 : offset + length] = b"\xff" * (length - 20)
    (tmp_path / "p.mrcz").write_bytes(raw)
    assert "damaged: frame 3" in komad("mrcz", "verify", tmp_path / "p.mrcz", tmp_path / "t.tif").err


def test_cat(komad: Komad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame, counted from 1, or the sum, as an MRC picture; a terminal is spared."""
    frames = counts((4, 20, 31), "uint8", mean=60)
    (tmp_path / "m.mrc").write_bytes(mrc_bytes(frames.shape, 0, frames.tobytes(), imod_flags=0))
    assert komad("mrcz", "cat", tmp_path / "m.mrc", "--frame", "3", "-o", tmp_path / "f.mrc").code == 0
    np.testing.assert_array_equal(read_image(tmp_path / "f.mrc"), frames[2])
    assert komad("mrcz", "cat", tmp_path / "m.mrc", "--sum", "-o", tmp_path / "s.mrc").code == 0
    with mrcfile.open(tmp_path / "s.mrc") as mrc:
        np.testing.assert_array_equal(mrc.data, frames.sum(axis=0))
        assert mrc.voxel_size.x == pytest.approx(1.25)
    assert (
        "frames 1 to 4" in komad("mrcz", "cat", tmp_path / "m.mrc", "--frame", "5", "-o", tmp_path / "x").err
    )
    assert "there already" in komad("mrcz", "cat", tmp_path / "m.mrc", "--sum", "-o", tmp_path / "s.mrc").err
    assert komad("mrcz", "cat", tmp_path / "m.mrc").code == 2
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    outcome = komad("mrcz", "cat", tmp_path / "m.mrc", "--sum")
    assert outcome.code == 2
    assert "no text for a terminal" in outcome.err


def test_sums_of_16_bits_and_more(komad: Komad, tmp_path: Path) -> None:
    """Sums that fit no 16 bits are floats, and exact."""
    frames = np.full((3, 8, 9), 30000, np.uint16)
    movie = write_mrc_movie(tmp_path / "m.mrc", frames, 6)
    komad("mrcz", "cat", movie, "--sum", "-o", tmp_path / "s.mrc")
    with mrcfile.open(tmp_path / "s.mrc") as mrc:
        assert mrc.header.mode == 2
        assert (mrc.data == 90000).all()


def test_motioncor2_archives_there_and_back(komad: Komad, tmp_path: Path) -> None:
    """Counts and gain reference come out of one, and go into one with the bytes that MotionCor2 expects."""
    frames = np.random.default_rng(1).integers(0, 16, (3, 8, 11)).astype(np.uint8)
    gain = np.random.default_rng(2).random((8, 11)).astype(np.float32)
    (tmp_path / "a.mrc").write_bytes(motioncor2_archive(frames, gain))
    assert "gain reference  in its header" in komad("mrcz", "info", tmp_path / "a.mrc").out
    outcome = komad("mrcz", "pack", tmp_path / "a.mrc")
    assert (outcome.code, "--save-gain writes it" in outcome.err) == (0, True)
    assert komad("mrcz", "pack", tmp_path / "a.mrc", "-o", tmp_path / "z", "--save-gain").code == 0
    np.testing.assert_array_equal(read_image(tmp_path / "z" / "a_gain.mrc"), gain)
    np.testing.assert_array_equal(read_image(tmp_path / "a.mrc"), gain)
    again = komad(
        *("mrcz", "unpack", tmp_path / "a.mrcz", "-o", tmp_path / "b"),
        *("--motioncor2-gain", tmp_path / "z" / "a_gain.mrc"),
    )
    assert again.code == 0
    raw = (tmp_path / "b" / "a.mrc").read_bytes()
    assert struct.unpack_from("<4i", raw) == (11, 8, 3, 101)
    assert raw[1024:] == gain.tobytes() + packed_4_bit(frames)


def test_memory_does_not_grow_with_the_movie(tmp_path: Path) -> None:
    """A movie is packed and unpacked with a few frames in memory, however long it is."""
    one = np.random.default_rng(0).integers(0, 16, (1024, 1024)).astype(np.uint8)
    frames = np.stack([one] * 40)
    write_mrc_movie(tmp_path / "m.mrc", frames, 0)
    folder = WatchFolder(directory=Path())

    def packed() -> None:
        pack(
            *(tmp_path / "m.mrc", tmp_path / "m.mrcz"),
            archive=Archive(),
            folder=folder,
            processing=Processing(),
        )

    for work in (packed, lambda: unpack(tmp_path / "m.mrcz", tmp_path / "b.mrc", Form(mode=6))):
        tracemalloc.start()
        work()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < (4 * thread_count() + 8) * one.nbytes
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "b.mrc"), frames)


def test_a_movie_that_changes_is_no_archive(
    komad: Komad, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A movie that is written while it is packed leaves no archive."""
    from komad.formats import reader as readers

    read = readers.LazyFrames.__getitem__

    def growing(self: readers.LazyFrames, index: int) -> np.ndarray:
        with (camera / "mode6.mrc").open("ab") as file:
            file.write(b"x")
        return read(self, index)

    monkeypatch.setattr(readers.LazyFrames, "__getitem__", growing)
    outcome = komad("mrcz", "pack", camera / "mode6.mrc", "-o", tmp_path / "z")
    assert outcome.code == 1
    assert "changed while it was packed" in outcome.err
    assert not list((tmp_path / "z").iterdir())


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_image_handler") is None, reason="RELION is not installed")
@pytest.mark.parametrize(("mode", "mean"), [(0, 2), (1, 150), (2, 150), (6, 150), (101, 2)])
def test_relion_reads_what_was_unpacked(komad: Komad, tmp_path: Path, mode: int, mean: int) -> None:
    """RELION's own statistics of the last frame are those of the frame."""
    frames = counts((3, 64, 64), "uint8", mean=mean)
    (tmp_path / "m.mrc").write_bytes(mrc_bytes(frames.shape, 0, frames.tobytes(), imod_flags=0))
    assert komad("mrcz", "pack", tmp_path / "m.mrc").code == 0
    assert komad("mrcz", "unpack", tmp_path / "m.mrcz", "--mode", str(mode), "-o", tmp_path / "b").code == 0
    stack = (tmp_path / "b" / "m.mrc").rename(tmp_path / "b" / "m.mrcs")
    done = subprocess.run(
        ["relion_image_handler", "--i", stack, "--stats"], capture_output=True, text=True, check=True
    )
    last = [line for line in done.stdout.splitlines() if "avg=" in line][-1]
    assert float(last.split("avg=")[1].split()[0]) == pytest.approx(frames[-1].mean(), rel=1e-4)
    assert f"maxval= {frames[-1].max()}" in last


def test_metadata_are_kept_through_other_codecs(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """An archive that is packed anew still tells what the camera wrote, and comes out so."""
    komad("mrcz", "pack", camera / "mode101.mrc", "-o", tmp_path / "1")
    komad("mrcz", "pack", tmp_path / "1" / "mode101.mrcz", "-o", tmp_path / "2", "--codec", "lz4")
    assert read_metadata(tmp_path / "2" / "mode101.mrcz")["header"]["mrc_mode"] == 101
    komad("mrcz", "unpack", tmp_path / "2")
    assert data_of(tmp_path / "2" / "mode101.mrc") == data_of(camera / "mode101.mrc")
    with pytest.raises(MovieError):
        movies.read_header(tmp_path / "2" / "nothing.mrc")
