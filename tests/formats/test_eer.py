"""Reading EER movies."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from komad.errors import MovieError, MovieShortError, MovieTruncatedError
from komad.formats import movies
from komad.model import EerRendering, MovieFormat
from komad.simulate.eer import CODINGS, Coding, acquisition, encode, write_eer
from tests.formats.test_tiff import link_of, page_directories, tag_value_at

SHAPE = (40, 56)
PIXEL_SIZE = 0.75
FALCON_4 = CODINGS[65001]


def draw(
    n_raw: int, coding: Coding = FALCON_4, shape: tuple[int, int] = SHAPE, mean: float = 0.1
) -> list[np.ndarray]:
    """Raw frames of electrons (n, 2) as (y, x) in sub-pixels, without symmetry: more in later rows and raw frames."""
    rng = np.random.default_rng(4)
    n_pixels = shape[0] * shape[1]
    raw_frames = []
    for index in range(n_raw):
        rate = 2 * mean * np.arange(n_pixels) / n_pixels * (0.5 + index / n_raw)
        y, x = np.divmod(np.flatnonzero(rng.random(n_pixels) < rate), shape[1])
        y_in, x_in = rng.integers(0, [1 << coding.y_bits, 1 << coding.x_bits], (len(y), 2)).T
        raw_frames.append(np.stack([(y << coding.y_bits) + y_in, (x << coding.x_bits) + x_in], axis=1))
    return raw_frames


def rendered(
    raw_frames: list[np.ndarray],
    rendering: EerRendering,
    coding: Coding = FALCON_4,
    shape: tuple[int, int] = SHAPE,
) -> np.ndarray:
    """What frames must be, electron by electron."""
    zoom = rendering.upsampling.bit_length() - 1
    ny, nx = shape
    frames = np.zeros((len(rendering.ends), ny << zoom, nx << zoom), int)
    for index, electrons in enumerate(raw_frames):
        frame = np.searchsorted(rendering.ends, index, side="right")
        y, x = electrons.T
        np.add.at(frames[frame], (y >> coding.y_bits - zoom, x >> coding.x_bits - zoom), 1)
    return frames


@pytest.fixture
def raw_frames() -> list[np.ndarray]:
    """Electrons of the movie."""
    return draw(7)


@pytest.fixture
def movie(tmp_path: Path, raw_frames: list[np.ndarray]) -> Path:
    """A small movie in a classic TIFF file, which is easily damaged."""
    path = tmp_path / "m.eer"
    told = acquisition(n_raw_frames=7, shape=SHAPE, total_dose_e_per_px=0.7, pixel_size_angstrom=PIXEL_SIZE)
    write_eer(path, raw_frames, SHAPE, metadata=told, big=False)
    return path


@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("upsampling", [1, 2, 4])
@pytest.mark.parametrize(
    "coding",
    [*CODINGS.values(), Coding(compression=65002, run_bits=9, y_bits=3, x_bits=4)],
    ids=[*CODINGS, "13+3"],
)
def test_frames_are_sums_of_raw_frames(tmp_path: Path, coding: Coding, upsampling: int, big: bool) -> None:
    """Every electron is counted once, in its frame and at its place, for each compression and upsampling."""
    raw = [*draw(5, coding), np.empty((0, 2), int), *draw(1, coding, mean=0.004), *draw(1, coding, mean=2)]
    path = tmp_path / "m.eer"
    write_eer(path, raw, SHAPE, coding=coding, big=big)
    movies.check_complete(path)
    rendering = EerRendering(ends=(1, 4, 6, 8), upsampling=upsampling)
    if upsampling > 1 << min(coding.x_bits, coding.y_bits):
        with pytest.raises(MovieError, match=r"places to 1/2 of a pixel.*eer_upsampling to 2 or less"):
            movies.read_frames(path, rendering)
        return
    read = movies.read_frames(path, rendering)
    np.testing.assert_array_equal(read, rendered(raw, rendering, coding))
    assert read.dtype == np.uint8


def test_header_as_the_file_lies(movie: Path, raw_frames: list[np.ndarray]) -> None:
    """Without a rendering each raw frame is a frame; what the metadata tell is in pixels of the camera."""
    header = movies.read_header(movie)
    assert movies.identify(movie) is header.format is MovieFormat.EER
    assert (header.shape, header.dtype, header.mrc_mode) == ((7, *SHAPE), "uint8", None)
    assert header.pixel_size_angstrom == PIXEL_SIZE
    assert header.eer == EerRendering(ends=(1, 2, 3, 4, 5, 6, 7))
    assert dict(header.facts) == {
        "eer_compression": 65001,
        "picture_pages": 0,
        "exposure_time_s": pytest.approx(7 / 248, rel=1e-4),
        "total_dose_e_per_px": 0.7,
        "dose_rate_e_per_px_s": pytest.approx(0.7 * 248 / 7, rel=1e-4),
        "camera": "Falcon 4i",
        "serial_number": "SIM0001",
        "acquired_at": "2024-06-11T12:00:00.000+02:00",
    }
    np.testing.assert_array_equal(movies.read_frames(movie), rendered(raw_frames, header.eer))


def test_header_as_rendered(movie: Path) -> None:
    """Frames, their pixels and their size are those of the rendering."""
    rendering = EerRendering(ends=(3, 7), upsampling=2)
    with movies.open_movie(movie, rendering) as reader:
        header = reader.header
        assert (header.shape, header.pixel_size_angstrom, header.eer) == ((2, 80, 112), 0.375, rendering)
        np.testing.assert_array_equal(reader.read_frame(1), movies.read_frames(movie, rendering)[1])


@pytest.mark.parametrize(("n_raw", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_counts_never_overflow(tmp_path: Path, n_raw: int, dtype: type) -> None:
    """A pixel that is hit in every raw frame counts them all; beyond 255 counts have 16 bits."""
    write_eer(tmp_path / "m.eer", [np.array([[4, 9]])] * n_raw, (3, 5))
    (frame,) = movies.read_frames(tmp_path / "m.eer", EerRendering(ends=(n_raw,)))
    assert frame.dtype == dtype
    assert frame[1, 2] == frame.sum() == n_raw


@pytest.mark.parametrize("n_threads", [1, 3, 64])
@pytest.mark.parametrize("upsampling", [1, 4])
def test_all_threads_sum_few_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_threads: int, upsampling: int
) -> None:
    """However many threads share the raw frames of a frame, of several bands of rows, none is lost; each is told."""
    monkeypatch.setenv("KOMAD_THREADS", str(n_threads))
    shape = (150, 400)
    raw = draw(9, shape=shape)
    write_eer(tmp_path / "m.eer", raw, shape)
    rendering = EerRendering(ends=(4, 9), upsampling=upsampling)
    told: list[int] = []
    read = movies.read_frames(tmp_path / "m.eer", rendering, on_frame=told.append)
    np.testing.assert_array_equal(read, rendered(raw, rendering, shape=shape))
    assert told == [0, 1]


@pytest.mark.parametrize("told", [{"numberOfFrames": (7, "")}, None])
def test_pictures_are_left_out(
    tmp_path: Path, raw_frames: list[np.ndarray], told: dict[str, Any] | None
) -> None:
    """The camera's own picture before the raw frames is no frame, with metadata or without."""
    path = tmp_path / "m.eer"
    picture = np.ones(SHAPE, np.uint16)
    write_eer(path, raw_frames, SHAPE, final_image=picture, metadata=told)
    assert movies.read_header(path).facts["picture_pages"] == 1
    assert movies.read_header(path).n_frames == 7
    np.testing.assert_array_equal(
        movies.read_frames(path), rendered(raw_frames, EerRendering(ends=tuple(range(1, 8))))
    )


def test_picture_before_any_raw_frame(tmp_path: Path) -> None:
    """A picture with a movie's metadata, but no raw frame yet, is a movie that is not all there."""
    path, picture = tmp_path / "m.eer", np.ones(SHAPE, np.uint16)
    write_eer(path, [], SHAPE, final_image=picture, metadata={"numberOfFrames": (7, "")})
    with pytest.raises(MovieTruncatedError, match="no raw frame, but a picture alone"):
        movies.read_header(path)


def test_list_in_several_strips(tmp_path: Path) -> None:
    """One list goes through all strips of its page, wherever they lie."""
    (electrons,) = draw(1)
    y, x = electrons.T
    order = np.argsort((y >> 2) * SHAPE[1] + (x >> 2))
    pixels = ((y >> 2) * SHAPE[1] + (x >> 2))[order]
    strip = encode(pixels, ((y % 4 << 2) | x % 4)[order].astype(np.uint8), SHAPE[0] * SHAPE[1], FALCON_4)
    first, second = strip[:101], strip[101:]
    at = {"second": 8, "first": 8 + len(second), "tables": 8 + len(strip), "page": 8 + len(strip) + 16}
    tables = struct.pack("<4I", at["first"], at["second"], len(first), len(second))
    entries = [
        (256, 4, 1, SHAPE[1]), (257, 4, 1, SHAPE[0]), (259, 3, 1, 65001),
        (273, 4, 2, at["tables"]), (278, 4, 1, SHAPE[0] // 2), (279, 4, 2, at["tables"] + 8),
    ]  # fmt: skip
    page = (
        struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        + bytes(4)
    )
    path = tmp_path / "m.eer"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, at["page"]) + second + first + tables + page)
    np.testing.assert_array_equal(movies.read_frames(path), rendered([electrons], EerRendering(ends=(1,))))


@pytest.mark.parametrize(
    "metadata", [b"<metadata><item name", b"\xff\xfe", b"<!DOCTYPE a [<!ENTITY b 'c'>]>"]
)
def test_metadata_that_cannot_be_read(movie: Path, metadata: bytes) -> None:
    """Electrons are read without them; nothing is told of the exposure."""
    raw = movie.read_bytes()
    start, end = raw.index(b"<metadata>"), raw.index(b"</metadata>") + len(b"</metadata>")
    movie.write_bytes(raw[:start] + metadata.ljust(end - start) + raw[end:])
    header = movies.read_header(movie)
    assert dict(header.facts) == {"eer_compression": 65001, "picture_pages": 0}
    assert (header.pixel_size_angstrom, header.n_frames) == (None, 7)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ((3, 8), "has 7 raw frames, and is to be rendered from 8"),
        ((3, 3, 7), "frames of no raw frame"),
    ],
)
def test_rendering_of_another_file(movie: Path, ends: tuple[int, ...], message: str) -> None:
    """A rendering that does not fit is refused with both numbers."""
    with pytest.raises(MovieError, match=message):
        movies.open_movie(movie, EerRendering(ends=ends))


def test_every_cut_is_noticed(movie: Path) -> None:
    """Wherever a copy was cut off, the movie is not taken for complete, and may be later."""
    whole = movie.read_bytes()
    for end in range(0, len(whole), 7):
        movie.write_bytes(whole[:end])
        with pytest.raises(MovieTruncatedError):
            movies.check_complete(movie)


def test_raw_frames_that_are_still_to_come(movie: Path) -> None:
    """A chain that is closed after fewer raw frames than announced is whole, and may be one that is being written."""
    raw = bytearray(movie.read_bytes())
    struct.pack_into("<I", raw, link_of(raw, page_directories(raw)[4]), 0)
    movie.write_bytes(raw)
    header = movies.read_header(movie)
    assert (header.n_frames, header.facts["raw_frames_announced"]) == (5, 7)
    movies.check_complete(movie)
    with pytest.raises(MovieShortError, match="has 5 raw frames, and its metadata announce 7"):
        movies.check_finished(movie)
    movie.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(MovieTruncatedError) as caught:  # not whole, however long it is waited for
        movies.check_finished(movie)
    assert not isinstance(caught.value, MovieShortError)


def tag(number: int, value: int, *pages: int) -> Callable[[bytearray], None]:
    """Damage: a tag of some pages (all, when none is named) has another value."""

    def change(raw: bytearray) -> None:
        directories = page_directories(raw)
        for page in pages or range(len(directories)):
            place = tag_value_at(raw, directories[page], number)
            form = {3: "<H", 4: "<I"}[struct.unpack_from("<H", raw, place - 6)[0]]
            struct.pack_into(form, raw, place, value)

    return change


def last_list(pattern: bytes) -> Callable[[bytearray], None]:
    """Damage: the last raw frame's list is something else."""

    def change(raw: bytearray) -> None:
        page = page_directories(raw)[-1]
        (at,), (length,) = (
            struct.unpack_from("<I", raw, tag_value_at(raw, page, each)) for each in (273, 279)
        )
        raw[at : at + length] = (pattern * length)[:length]

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            tag(256, 55, 3),
            r"page 4 is 55 x 40 pixels .* the first raw frame 56 x 40 pixels .* cannot be summed",
        ),
        (
            tag(259, 65000, 2),
            r"page 3 is .* compression 65000 \(8 \+ 2 \+ 2 bits\), .* compression 65001 \(7",
        ),
        (tag(257, 0), "page 1 is 56 x 0 pixels, which no frame is"),
        (tag(256, 1 << 20), "page 1 is 1048576 x 40 pixels, which no frame is"),
        (tag(257, 1 << 19), "has .* bytes, and 524288 x 56 pixels without any electron take"),
        (
            tag(257, 38),
            r"raw frame (\d) of 7 \(page \1, byte \d+\) is damaged: its list has a run that passes the last",
        ),
        (tag(257, 41), "raw frame 7 of 7 .* is damaged: its list ends before the last pixel"),
        (last_list(b"\0"), "raw frame 7 of 7 .* its list ends before the last pixel"),
        (last_list(b"\xff"), "raw frame 7 of 7 .* its list has a run that passes the last pixel"),
        (tag(273, 0, 1), r"raw frame 2 of 7 .* has strips that were never written"),
        (tag(279, 1 << 30, 1), "its strips .*: they lie over each other"),
        (tag(279, 3, 1), "raw frame 2 of 7 .* is damaged: its list has 3 bytes"),
    ],
)
def test_what_is_wrong_is_told_with_the_place(
    movie: Path, damage: Callable[[bytearray], None], message: str
) -> None:
    """Pages that differ, sizes that cannot be, lists that do not end at the last pixel: each is refused."""
    raw = bytearray(movie.read_bytes())
    damage(raw)
    movie.write_bytes(raw)
    with pytest.raises(MovieError, match=message) as caught:
        movies.read_frames(movie)
    assert str(caught.value).startswith(str(movie))


def test_any_list_in_the_middle_is_checked(movie: Path) -> None:
    """A raw frame that the quick check does not decode is named when its frame is."""
    raw = bytearray(movie.read_bytes())
    (at,) = struct.unpack_from("<I", raw, tag_value_at(raw, page_directories(raw)[3], 273))
    raw[at : at + 40] = b"\xff" * 40
    movie.write_bytes(raw)
    movies.check_complete(movie)
    with pytest.raises(MovieError, match=r"raw frame 4 of 7 .* is damaged"):
        movies.read_frames(movie, EerRendering(ends=(7,)))


@pytest.mark.parametrize(
    ("widths", "message"), [((3, 2, 2), "runs of 3 bits and places of 2"), ((7, 9, 2), r"places of 9 \+ 2")]
)
def test_widths_that_no_camera_writes(tmp_path: Path, widths: tuple[int, int, int], message: str) -> None:
    """The bit depths of compression 65002 are checked before anything is decoded."""
    path = tmp_path / "m.eer"
    write_eer(path, draw(1, CODINGS[65002]), SHAPE, coding=CODINGS[65002], big=False)
    raw = bytearray(path.read_bytes())
    for number, width in zip((65007, 65008, 65009), widths, strict=True):
        tag(number, width)(raw)
    path.write_bytes(raw)
    with pytest.raises(MovieError, match=message):
        movies.read_header(path)


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_convert_to_tiff") is None, reason="RELION is not installed")
@pytest.mark.parametrize(("compression", "upsampling"), [(65000, 1), (65001, 1), (65001, 2)])
def test_frames_are_those_of_relion(tmp_path: Path, compression: int, upsampling: int) -> None:
    """RELION renders the same counts, row for row in MRC order; it leaves out the raw frames that are left over."""
    shape, coding = (4096, 4096), CODINGS[compression]  # it takes no other size
    write_eer(tmp_path / "m.eer", draw(3, coding, shape, mean=0.005), shape, coding=coding)
    options = f"--eer_grouping 2 --eer_upsampling {upsampling} --compression none".split()
    command = ["relion_convert_to_tiff", "--i", "m.eer", "--o", "tiff/", *options]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = tifffile.imread(tmp_path / "tiff" / "m.tif")[::-1]  # RELION turns the rows of every TIFF over
    ours = movies.read_frames(tmp_path / "m.eer", EerRendering(ends=(2, 3), upsampling=upsampling))
    assert theirs.any()
    np.testing.assert_array_equal(ours[0], theirs)
