"""What is done to a file: as disks, copies and half-written headers do it, and as a person with a bad mind would."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import struct
import zlib
from collections.abc import Callable
from random import Random

import zstandard

from komad.formats.mrcz import CHECKSUMS
from tests.fuzz.corpus import File

Damage = Callable[[bytearray, Random], None]

ABSURD = (
    -1,
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    1000,
    4096,
    32766,
    32767,
    65535,
    65536,
    10**6,
    2**20,
    2**24,
    2**28,
    2**30,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
WORDS = (
    "",
    "0",
    "-1",
    "1",
    "2",
    "nan",
    "-nan",
    "inf",
    "-inf",
    "1e400",
    "-1e308",
    "1e308",
    "1e-320",
    "-0",
    "0.0",
    "1_0",
    "٣",
    "0x10",
    "9" * 30,
    "9" * 5000,
    "1" * 400 + ".5",
    "1000000000",
    "-999999960 1",
    "1e9 2 -1e9",
    "\0",
    "é",
    "[",
    "]",
    "=",
    "#",
    "'",
    '"',
    "a b",
    "../../../etc/passwd",
    r"..\..\x.mrc",
    r"\\host\share\x.mrc",
    "C:",
    "/dev/zero",
    "data_",
    "loop_",
    "_a",
    "_a #1",
    "\u2028",
    "\r",
    "\x85",
    "%s%n",
    "${HOME}",
    "True",
    "null",
    "01-Jan-99 25:61:61",
)
"""What is written in place of a number or a name."""
XML = (
    "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/hostname'>]>",
    "<!DOCTYPE a [" + "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(12)) + "]>",
    "<!DOCTYPE a [<!ENTITY b '" + "x" * 5000 + "'>]>",
    "&b;",
    "&l1;",
    "&l12;",
    "&#0;",
    "&#x10ffff;",
    "<a>" * 3000,
    "<![CDATA[",
    "<!--",
    "<?xml version='1.0' encoding='utf-7'?>",
    "<?xml version='1.0' encoding='no-such'?>",
    "<?xml version='1.0' encoding='idna'?>",
    "<a:Key>Dose</a:Key>",
)
JSON = (
    "[" * 100_000,
    '{"a":' * 100_000,
    "9" * 5000,
    "[]",
    "null",
    "NaN",
    '"a"',
    "{}",
    '{"a": 1e400}',
    '{"a": "\\ud800"}',
    '{"frame_crc32": null}',
    '{"frame_crc32": {}}',
    '{"frame_crc32": ["a", []]}',
    '{"frame_crc32": [1e400, -1]}',
    '{"dtype": []}',
    "{" * 50,
    '{"movie": [1]}',
    '{"a": Infinity}',
)
TOML = (
    "a = " + "[" * 5000,
    "a = " + "{a=" * 5000,
    "[" + "a." * 5000 + "a]",
    "watch = 1",
    "[[watch]]",
    "[watch]",
    "output = 'x'",
    "state_directory = []",
    "state_directory = '\\u0000'",
    "state_directory = '~nobody-there/x'",
    "[processing]\nbin_factor = nan",
    "[koma]\nradius = 9999999999999999999999",
    "x = 1979-05-27",
    "[output]\ndirectory = 1",
    "[[watch]]\ndirectory = '~nobody-there'",
    "[[watch]]\ndirectory = ''",
    "[[watch]]\ndirectory = 'm'\nignore = ['[', '(((']",
)
MRC_FIELDS = (0, 4, 8, 12, 28, 32, 36, 40, 44, 48, 76, 80, 84, 88, 92, 96, 104, 108, 152, 156, 208, 212, 220)
CHUNK_FIELDS = (0, 1, 2, 3, 4, 8, 12, 16, 20)
"""Bytes of a blosc header, and the first of what follows it."""
SIZE_OF_TYPE = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}


def damaged(files: list[File], special: tuple[Damage, ...], rng: Random) -> File:
    """One of the files with one to four faults."""
    file = rng.choice(files)
    data = bytearray(file.data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        if special and rng.random() < 0.65:
            rng.choice(special)(data, rng)
        elif rng.random() < 0.1:
            _splice(data, rng, rng.choice(files).data)
        else:
            rng.choice(PLAIN)(data, rng)
    return File(file.name, bytes(data))


def _place(data: bytearray, rng: Random, length: int = 1) -> int:
    """Somewhere, and every third time near the start, where headers are."""
    last = max(0, len(data) - length)
    return rng.randint(0, min(last, 300) if rng.random() < 0.3 else last)


def _flip_bits(data: bytearray, rng: Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _truncate(data: bytearray, rng: Random) -> None:
    del data[_place(data, rng) :]


def _extend(data: bytearray, rng: Random) -> None:
    data += (
        rng.randbytes(rng.choice((1, 16, 1000))) if rng.random() < 0.5 else bytes(rng.choice((1, 512, 4096)))
    )


def _remove(data: bytearray, rng: Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 16, 100))]


def _repeat(data: bytearray, rng: Random) -> None:
    at, length = _place(data, rng), rng.choice((1, 4, 16, 512))
    data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))


def _blank(data: bytearray, rng: Random) -> None:
    at = _place(data, rng)
    end = min(len(data), at + rng.choice((1, 4, 64, 512, 4096)))
    data[at:end] = bytes([rng.choice((0, 0, 255, rng.randrange(256)))]) * (end - at)


def _random_bytes(data: bytearray, rng: Random) -> None:
    at = _place(data, rng)
    end = min(len(data), at + rng.choice((1, 2, 4, 16, 64)))
    data[at:end] = rng.randbytes(end - at)


def _swap(data: bytearray, rng: Random) -> None:
    a, b, length = _place(data, rng, 64), _place(data, rng, 64), rng.choice((4, 16, 64))
    first, second = data[a : a + length], data[b : b + length]
    if len(first) == len(second):
        data[a : a + length], data[b : b + length] = second, first


def _absurd(data: bytearray, rng: Random, at: int | None = None) -> None:
    size = rng.choice((1, 2, 4, 4, 4, 8))
    place = _place(data, rng, size) if at is None else at
    _put(data, place, size, rng.choice(ABSURD), rng.choice(("little", "little", "big")))


def _put(data: bytearray, at: int, size: int, number: int, order: str) -> None:
    if at + size <= len(data):
        data[at : at + size] = (number % 256**size).to_bytes(size, order)  # type: ignore[arg-type]


def _splice(data: bytearray, rng: Random, other: bytes) -> None:
    data[_place(data, rng) :] = other[rng.randint(0, len(other)) :]


PLAIN: tuple[Damage, ...] = (
    _flip_bits,
    _truncate,
    _extend,
    _remove,
    _repeat,
    _blank,
    _random_bytes,
    _swap,
    _absurd,
)


def _mrc_field(data: bytearray, rng: Random) -> None:
    at = rng.choice(MRC_FIELDS)
    if rng.random() < 0.3:
        number = struct.pack(
            rng.choice("<>") + "f", rng.choice((0, -1, 1e38, 1e-45, float("nan"), float("inf"), 200))
        )
        data[at : at + 4] = number[: max(0, len(data) - at)]
    elif at == 12 and rng.random() < 0.8:
        _put(
            data,
            at,
            4,
            1000 * rng.choice((0, 0, 1, 2, 5, 6, 9, 15)) + rng.choice((0, 1, 2, 6, 7, 8, 12, 101)),
            "little",
        )
    else:
        _absurd(data, rng, at)


def _chunks(data: bytearray) -> list[tuple[int, int]]:
    """(offset, length) of the blosc chunks that can be walked to."""
    if len(data) < 1024:
        return []
    offset, found = 1024 + int.from_bytes(data[92:96], "little"), []
    while offset + 16 <= len(data) and len(found) < 10:
        length = int.from_bytes(data[offset + 12 : offset + 16], "little")
        found.append((offset, length))
        offset += max(16, length)
    return found


def _chunk_field(data: bytearray, rng: Random) -> None:
    for offset, length in rng.sample(found := _chunks(data), min(1, len(found))):
        if rng.random() < 0.6:
            _absurd(data, rng, offset + rng.choice(CHUNK_FIELDS))
        else:  # inside, where the codec's own headers and lengths are
            at = offset + 16 + rng.randrange(max(1, min(length, 4096) - 16))
            data[at : at + 2] = rng.randbytes(len(data[at : at + 2]))
    if rng.random() < 0.7:
        _true_checksums(data)


def _true_checksums(data: bytearray) -> None:
    """As one would who wants the damage to reach the codec."""
    raw = bytes(data[1024 : 1024 + int.from_bytes(data[92:96], "little")])
    try:
        metadata = json.loads(raw)
        metadata[CHECKSUMS] = [zlib.crc32(data[at : at + length]) for at, length in _chunks(data)]
        text = json.dumps(metadata).encode()
    except (ValueError, TypeError, RecursionError):
        return
    if len(text) <= len(raw):
        data[1024 : 1024 + len(raw)] = text.ljust(len(raw))


def _json(data: bytearray, rng: Random) -> None:
    if len(data) < 1024:
        return
    text, length = rng.choice(JSON).encode(), int.from_bytes(data[92:96], "little")
    if rng.random() < 0.2:  # behind the data
        data[104:108] = bytes(4)
        data += text
        return
    data[1024 : 1024 + length] = text
    data[92:96] = len(text).to_bytes(4, "little")
    data[104:108] = b"json"


def _tags(data: bytearray) -> tuple[str, bool, list[tuple[int, int]]]:
    """Byte order, whether it is a big TIFF, and (directory, offset of an entry) of all tags."""
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    found: list[tuple[int, int]] = []
    number, entry, link = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "I")
    try:
        (offset,) = struct.unpack_from(link, data, 8 if big else 4)
        for _ in range(20):
            if not offset:
                break
            (n_tags,) = struct.unpack_from(number, data, offset)
            first = offset + struct.calcsize(number)
            found += [(offset, first + entry * tag) for tag in range(min(n_tags, 50))]
            (offset,) = struct.unpack_from(link, data, first + entry * n_tags)
    except (struct.error, OverflowError):
        pass
    return order, big, found


def _tiff_tag(data: bytearray, rng: Random) -> None:
    order, big, tags = _tags(data)
    if not tags:
        return
    _, at = rng.choice(tags)
    name = "little" if order == "<" else "big"
    count_bytes, value_at, value_bytes = (8, at + 12, 8) if big else (4, at + 8, 4)
    what = rng.random()
    if what < 0.1:
        codes = (
            254,
            256,
            257,
            258,
            259,
            262,
            266,
            273,
            277,
            278,
            279,
            282,
            284,
            317,
            322,
            323,
            324,
            325,
            338,
            339,
            270,
            305,
            700,
            34412,
            33628,
            34118,
            50838,
            65000,
            34665,
            330,
            rng.randrange(65536),
        )
        _put(data, at, 2, rng.choice(codes), name)
    elif what < 0.2:
        _put(data, at + 2, 2, rng.choice((*SIZE_OF_TYPE, 0, 99)), name)
    elif what < 0.4:
        _put(data, at + 4, count_bytes, rng.choice(ABSURD), name)
    elif what < 0.8:
        _put(data, value_at, rng.choice((2, value_bytes)), rng.choice(ABSURD), name)
    else:
        _put(
            data,
            value_at,
            2,
            rng.choice((1, 5, 7, 8, 32946, 50000, 32773, 34925, 65000, 2, 3, rng.randrange(65536))),
            name,
        )


def _tiff_link(data: bytearray, rng: Random) -> None:
    """The chain of pages leads somewhere else."""
    order, big, tags = _tags(data)
    directories = sorted({directory for directory, _ in tags})
    if not directories:
        return
    n_tags = sum(directory == directories[-1] for directory, _ in tags)
    links = [8 if big else 4, directories[-1] + (8 + 20 * n_tags if big else 2 + 12 * n_tags)]
    target = rng.choice(
        (*directories, len(data), len(data) - 2, 1, rng.randrange(len(data)), rng.choice(ABSURD))
    )
    _put(data, rng.choice(links), 8 if big else 4, target, "little" if order == "<" else "big")


def _tiff_strip(data: bytearray, rng: Random) -> None:
    """Bytes in the pixels, where the decoders are: half of a file is that."""
    at = _place(data, rng, 8)
    data[at : at + 8] = rng.choice((rng.randbytes(8), bytes(8), b"\xff" * 8))[: len(data) - at]


def _word(data: bytearray, rng: Random) -> None:
    """Another word in place of one."""
    words = list(re.finditer(rb"[^\s=<>\"',]+", data))
    if words:
        place = rng.choice(words)
        data[place.start() : place.end()] = rng.choice(WORDS).encode()


def _number(data: bytearray, rng: Random) -> None:
    """Another number in place of one."""
    numbers = list(re.finditer(rb"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", data))
    if numbers:
        place = rng.choice(numbers)
        data[place.start() : place.end()] = rng.choice(WORDS[:24]).encode()


def _lines(data: bytearray, rng: Random) -> None:
    lines = bytes(data).split(b"\n")
    at = rng.randrange(len(lines))
    what = rng.randrange(4)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(at, rng.choice(lines))
    elif what == 2:
        lines.insert(at, b" ".join(rng.choice(WORDS).encode() for _ in range(rng.randint(1, 5))))
    else:
        lines[at] *= rng.choice((2, 100))
    data[:] = b"\n".join(lines)


def _repacked(data: bytearray, rng: Random) -> None:
    """Another movie inside, well compressed: a field of its header, its end, or much behind it."""
    for signature, unpack, pack in (
        (b"\x1f\x8b", gzip.decompress, gzip.compress),
        (b"BZh", bz2.decompress, bz2.compress),
        (b"\xfd7zXZ", lzma.decompress, lzma.compress),
        (
            b"\x28\xb5\x2f\xfd",
            lambda raw: zstandard.ZstdDecompressor().decompressobj().decompress(raw),
            zstandard.compress,
        ),
    ):
        if data.startswith(signature):
            try:
                movie = bytearray(unpack(bytes(data)))
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, zstandard.ZstdError):
                return
            match rng.randrange(4):
                case 0:
                    movie += bytes(rng.choice((1, 1000, 3000, 1 << 25)))
                case 1:
                    del movie[rng.randrange(1 + len(movie)) :]
                case _:
                    _mrc_field(movie, rng)
            data[:] = pack(bytes(movie))


def _dm_number(data: bytearray, rng: Random) -> None:
    """A number of the tree: how a value is defined, or one near by."""
    marks = [match.end() for match in re.finditer(b"%%%%", data)] or [0]
    form = rng.choice((">I", ">Q", "<I"))
    at = rng.choice(marks) + rng.choice((0, 4, 8, 12, 16, 24, -8, -12, -20))
    if 0 <= at <= len(data) - struct.calcsize(form):
        value = rng.choice((0, 1, 3, 15, 18, 20, 255, 1 << 20, (1 << 31) - 1, (1 << 32) - 1))
        struct.pack_into(form, data, at, value)


def _inserted(texts: tuple[str, ...]) -> Damage:
    def insert(data: bytearray, rng: Random) -> None:
        spots = [match.end() for match in re.finditer(rb"[>\n]", data)] + [0]
        at = rng.choice(spots)
        data[at:at] = rng.choice(texts).encode() + rng.choice((b"", b"\n"))

    return insert


_TEXT: tuple[Damage, ...] = (_word, _number, _number, _lines)
SPECIAL: dict[str, tuple[Damage, ...]] = {
    "mrc": (_mrc_field,),
    "mrcz": (_mrc_field, _chunk_field, _chunk_field, _chunk_field, _json),
    "tiff": (_tiff_tag, _tiff_tag, _tiff_tag, _tiff_link, _tiff_strip, _tiff_strip),
    "eer": (_tiff_tag, _tiff_tag, _tiff_link, _tiff_strip, _tiff_strip),
    "packed": (_repacked,),
    "dm": (_dm_number, _dm_number),
    "gain": (_mrc_field, _tiff_tag, _tiff_strip),
    "defects": (*_TEXT, _mrc_field, _tiff_tag),
    "mdoc": _TEXT,
    "epu": (*_TEXT, _inserted(XML)),
    "doses": _TEXT,
    "star": _TEXT,
    "sums": (),
    "config": (*_TEXT, _inserted(TOML)),
}
"""Reader -> what is done to its files beyond plain damage: by somebody who knows the format."""
