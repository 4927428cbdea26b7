"""Valid small files of every kind that komad reads, as bytes: what the damage is done to."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import blosc
import numpy as np
import tifffile
import zstandard

from komad.formats.mrcz import write_mrcz
from komad.formats.star import Table, dumps
from komad.model import OutlierPixels, StackFacts, StackSum
from komad.simulate.eer import CODINGS, acquisition, write_eer
from komad.work.stack_sums import pack
from tests.formats.dm_files import write_dm
from tests.formats.files import counts, mrc_bytes, packed_4_bit
from tests.ingest.conftest import epu_text, mdoc_text

FRAMES = (2, 12, 17)
"""Shape of most movies."""
ARCHIVED = (2, 40, 64)
"""Large enough that blosc compresses them."""
IMAGE = (12, 17)
MOVIE = "a_Fractions.mrc"
"""Name of the movie that sidecars describe."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that is read without an error."""

    name: str
    data: bytes


def _mrc() -> list[File]:
    files = []
    for mode, dtype in ((0, "int8"), (1, "int16"), (2, "float32"), (6, "uint16"), (12, "float16")):
        for order in "<>":
            data = counts(FRAMES, dtype).astype(np.dtype(dtype).newbyteorder(order)).tobytes()
            files.append(File(f"mode{mode}{order}.mrc", mrc_bytes(FRAMES, mode, data, order=order)))
    files.append(File("packed.mrc", mrc_bytes(FRAMES, 101, packed_4_bit(counts(FRAMES)))))
    frames = counts(FRAMES).tobytes()
    files.append(File("unsigned.mrc", mrc_bytes(FRAMES, 0, frames, imod_flags=0, extended=bytes(128))))
    return files


def _with_temporary(write: Callable[[Path], object], name: str) -> File:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        return File(name, path.read_bytes())


def _plain_mrcz(dtype: str, mode: int, codec: str, number: int) -> File:
    """As python-mrcz writes them: no checksums, so that blosc sees every damage."""
    frames = counts(ARCHIVED, dtype, mean=0.5)
    chunks = b"".join(blosc.compress(each.tobytes(), each.itemsize, cname=codec) for each in frames)
    header = json.dumps({"camera": "K2", "frames": [1, 2]}).encode()
    data = bytearray(mrc_bytes(ARCHIVED, 1000 * number + mode, chunks, extended=header))
    if number % 2:
        data[104:108] = b"json"
    return File(f"{codec}_{dtype}.mrcz", bytes(data))


def _mrcz() -> list[File]:
    def write(path: Path) -> None:
        write_mrcz(
            path,
            counts(ARCHIVED),
            pixel_size_angstrom=1.0,
            voltage_kv=300.0,
            cs_mm=2.7,
            metadata={"stem": "a"},
        )

    return [
        _with_temporary(write, "own.mrcz"),
        _plain_mrcz("uint16", 6, "blosclz", 1),
        _plain_mrcz("float32", 2, "lz4", 2),
        _plain_mrcz("int8", 0, "zlib", 5),
        _plain_mrcz("int16", 1, "zstd", 6),
    ]


def _tiff_file(name: str, frames: np.ndarray, *, big: bool = False, order: str = "<", **page: object) -> File:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, byteorder=order, bigtiff=big) as tiff:
        for frame in frames:
            tiff.write(frame, contiguous=False, metadata=None, **page)
    return File(name, stream.getvalue())


def _tiff() -> list[File]:
    small, tiled = counts(FRAMES), counts((2, 20, 33), "uint16")
    return [
        _tiff_file("plain.tif", small),
        _tiff_file("plain_big_endian.tif", counts(FRAMES, "int16"), order=">", rowsperstrip=5),
        _tiff_file("plain_float.tif", counts(FRAMES, "float32"), resolution=(1e8, 1e8), resolutionunit=3),
        _tiff_file("plain_half.tif", counts(FRAMES, "float16")),
        _tiff_file("lzw.tif", small, compression="lzw", rowsperstrip=4),
        _tiff_file("lzw_big.tif", counts(FRAMES, "uint16"), compression="lzw", big=True),
        _tiff_file("lzw_tiles.tif", tiled, compression="lzw", tile=(16, 16)),
        _tiff_file("deflate.tif", small, compression="adobe_deflate", rowsperstrip=6),
        _tiff_file("deflate_predictor.tif", tiled, compression="zlib", predictor=True, tile=(16, 16)),
        _tiff_file("deflate_float.tif", counts(FRAMES, "float32"), compression="zlib", predictor=True),
        _tiff_file("zstd.tif", small, compression="zstd", rowsperstrip=7),
        _tiff_file("zstd_predictor.tif", tiled, compression="zstd", predictor=True, order=">", big=True),
    ]


def _eer() -> list[File]:
    """Three raw frames of each compression, in classic and big TIFF, with metadata and without."""
    told = acquisition(n_raw_frames=3, shape=IMAGE, total_dose_e_per_px=0.9, pixel_size_angstrom=0.8)
    files = []
    for coding, metadata in itertools.product(CODINGS.values(), (told, None)):
        pixels = [np.argwhere(counts(IMAGE, mean=0.3, seed=seed)) for seed in range(3)]
        raw_frames = [np.left_shift(each, [coding.y_bits, coding.x_bits]) for each in pixels]
        write = partial(
            write_eer,
            raw_frames=raw_frames,
            shape=IMAGE,
            coding=coding,
            metadata=metadata,
            big=metadata is None,
        )
        files.append(_with_temporary(write, f"{coding.compression}{'' if metadata else '_big'}.eer"))
    picture = partial(write, metadata=told, final_image=counts(IMAGE, "uint16"))
    return [*files, _with_temporary(picture, "picture.eer")]


def _packed() -> list[File]:
    movie = mrc_bytes(ARCHIVED, 0, counts(ARCHIVED).tobytes(), imod_flags=0)
    piped = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return [
        File("a.mrc.gz", gzip.compress(movie)),
        File("a.mrc.bz2", bz2.compress(movie, 1)),
        File("streams.mrc.bz2", bz2.compress(movie[:3000]) + bz2.compress(movie[3000:])),
        File("a.mrc.xz", lzma.compress(movie)),
        File("streams.mrc.xz", lzma.compress(movie[:3000]) + lzma.compress(movie[3000:])),
        File("a.mrc.zst", zstandard.compress(movie)),
        File("piped.mrc.zst", piped.compress(movie) + piped.flush()),
    ]


def _dm() -> list[File]:
    """Both versions and orders, a movie and a picture."""
    movie, picture = counts(FRAMES, "int16"), counts(IMAGE, "float32")
    return [
        _with_temporary(partial(write_dm, frames=frames, version=version, order=order), f"{name}.dm{version}")
        for version, order in itertools.product((3, 4), "<>")
        for name, frames in (("movie", movie), ("picture", picture))
    ]


FALCON = b"<defects><row>2</row><col>3-4</col><area>1,2,2,4</area><point>4,3</point></defects>"


def _images() -> list[File]:
    gain = 1 + 0.1 * counts(IMAGE, "float32")
    one = gain[None]
    nz = bytearray(mrc_bytes((1, *IMAGE), 2, gain.tobytes()))
    nz[8:12] = (32766).to_bytes(4, "little")  # as Direct Electron
    return [
        File("gain.mrc", mrc_bytes((1, *IMAGE), 2, gain.tobytes())),
        File("gain_nz.mrc", bytes(nz)),
        File("gain_half.mrc", mrc_bytes((1, *IMAGE), 12, gain.astype(np.float16).tobytes())),
        _tiff_file("gain.gain", one, extratags=[(65100, 2, len(FALCON), FALCON, True)]),
        _with_temporary(partial(write_dm, frames=gain.astype(np.float32)), "gain.dm4"),
        _tiff_file("gain_lzw.tif", one, compression="lzw"),
        _tiff_file("gain_zstd.tif", one, compression="zstd", tile=(16, 16)),
    ]


SERIALEM = b"""CameraSizeX 17
CameraSizeY 12
RotationAndFlip 0
WasScaled 0
UsableArea 1 1 11 16
BadColumns 3 4
BadRows 5
PartialBadColumn 7 1 2 5
PartialBadRow 8 1 2 5
BadPixels 1 2 3 4
"""


def _defects() -> list[File]:
    bad = (counts(IMAGE) > 4).astype(np.uint8)
    return [
        File("boxes.txt", b"# x y width height\n0 0 1 12\n3 4 2 2\n16 11 1 1\n"),
        File("serialem.txt", SERIALEM),
        File("map.mrc", mrc_bytes((1, *IMAGE), 0, bad.tobytes())),
        _tiff_file("map.tif", bad[None], compression="lzw"),
    ]


def _mdoc() -> list[File]:
    shown = {
        "PixelSpacing": 1.1,
        "Binning": 1,
        "ImageSize": "17 12",
        "ExposureTime": 2.0,
        "TargetDefocus": -1.5,
    }
    path = {"SubFramePath": rf"D:\frames\{MOVIE}"}
    dose = {"ExposureDose": 40.0, "NumSubFrames": 2, "DateTime": "20-Nov-24  10:00:00", "StageZ": -3.25}
    tilts = "\r\n".join(
        mdoc_text("ZValue", **path, **shown, TiltAngle=3 * tilt, ExposureDose=3, NumSubFrames=2)
        for tilt in range(3)
    )
    return [
        File(
            f"{MOVIE}.mdoc",
            mdoc_text(**path, **shown, **dose, StagePosition="10.5 -3", Magnification=81000).encode(),
        ),
        File(f"{MOVIE}.mdoc", mdoc_text(**path, **shown, FrameDosesAndNumber="1.5 1 2.5 1").encode()),
        File("series.mdoc", tilts.encode()),
        File("session.mdoc", (tilts + mdoc_text(**path, **shown, PriorRecordDose=10, TiltAngle=9)).encode()),
    ]


def _epu() -> list[File]:
    plain = epu_text(width=17, height=12, n_fractions=2)
    return [
        File("a.xml", plain.encode()),
        File("a.xml", plain.lstrip("\ufeff").encode("utf-16")),
        File("a.xml", epu_text(width=34, height=24, n_fractions=0).encode()),
    ]


def _star() -> list[File]:
    tables = [
        Table("optics", {"rlnOpticsGroupName": ["a b", "c"], "rlnVoltage": [300.0, 200.0]}, loop=True),
        Table(
            "general",
            {"rlnMicrographMovieName": "m/a b.mrc", "rlnImageSizeX": 4096},
            loop=False,
            comments=("x",),
        ),
    ]
    return [File("a.star", dumps(tables).encode())]


def _sums() -> list[File]:
    total = counts(IMAGE, "uint16")
    yx = np.array([[1, 2], [3, 4]], np.int32)
    outliers = OutlierPixels(
        yx=yx, keep=np.zeros(2, np.float32), frame=np.array([-1, 1], np.int32), n_hot=1, n_dead=0, n_defects=0
    )
    numbers = [float(n) for n in range(1, 1 + len(StackFacts.__dataclass_fields__))]
    facts = StackFacts(**dict(zip(StackFacts.__dataclass_fields__, numbers, strict=True)))
    return [
        File("1.sum", pack(StackSum(total=total, frame_means=np.ones(2), outliers=outliers, facts=facts)))
    ]


TOML = b"""state_directory = "state"
[[watch]]
directory = "movies"
patterns = ["*.mrc", "*.tif"]
acquisition = {pixel_size_angstrom = 1.0, voltage_kv = 300, frame_doses = [1.0, 2.5]}
references = {gain = "gain.mrc", gain_rot = 1}
[output]
directory = "results"
float16 = false
[processing]
magnification = [1.003, 0.998, 34.0]
gain_gamma = "k2"
n_patches = [5, 5]
[workers]
devices = ["cpu"]
"""


def _doses() -> list[File]:
    return [File("doses.txt", b"# e/A2\n1.5\n1.25e0\n2\n"), File("fm.txt", b"10 1 0.5\n30 1 1.25 # late\n")]


CORPUS: dict[str, Callable[[], list[File]]] = {
    "mrc": _mrc,
    "mrcz": _mrcz,
    "tiff": _tiff,
    "packed": _packed,
    "eer": _eer,
    "dm": _dm,
    "gain": _images,
    "defects": _defects,
    "mdoc": _mdoc,
    "epu": _epu,
    "doses": _doses,
    "star": _star,
    "sums": _sums,
    "config": lambda: [File("komad.toml", TOML)],
}
"""Reader -> its valid files."""
