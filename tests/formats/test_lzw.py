"""Decoding LZW."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from komad.formats.lzw import decode


def encoded(pixels: np.ndarray) -> np.ndarray:
    """LZW as another program writes it."""
    return np.frombuffer(imagecodecs.lzw_encode(pixels.tobytes()), dtype=np.uint8)


def test_example_of_the_specification() -> None:
    """The example of TIFF 6.0, section 13: codes 256 7 258 8 8 258 6 6 257."""
    codes = [256, 7, 258, 8, 8, 258, 6, 6, 257]
    bits = "".join(f"{code:09b}" for code in codes).ljust(88, "0")
    data = np.array([int(bits[i : i + 8], 2) for i in range(0, 88, 8)], dtype=np.uint8)
    out = np.empty(9, dtype=np.uint8)
    assert decode(data, out) == 9
    assert out.tolist() == [7, 7, 7, 8, 8, 7, 7, 6, 6]


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 300, 70_000])
@pytest.mark.parametrize("mean", [0.0, 0.05, 0.8, 6.0, 120.0])
def test_counts_come_back(n: int, mean: float) -> None:
    """Every width of code, long runs, and tables that fill up and begin again."""
    pixels = np.random.default_rng(n).poisson(mean, n).astype(np.uint8)
    out = np.full(n, 255, dtype=np.uint8)
    assert decode(encoded(pixels), out) == n
    np.testing.assert_array_equal(out, pixels)


def test_data_that_end_early() -> None:
    """The bytes that could be decoded are counted, and right."""
    pixels = np.random.default_rng(0).poisson(0.8, 5000).astype(np.uint8)
    data = encoded(pixels)
    out = np.empty(5000, dtype=np.uint8)
    n_bytes = decode(data[: len(data) // 2], out)
    assert 1000 < n_bytes < 4000
    np.testing.assert_array_equal(out[:n_bytes], pixels[:n_bytes])


def test_more_data_than_room() -> None:
    """Nothing is written behind the end of the output."""
    pixels = np.zeros(5000, dtype=np.uint8)
    room = np.full(200, 9, dtype=np.uint8)
    assert decode(encoded(pixels), room[:100]) == 100
    assert (room[:100] == 0).all()
    assert (room[100:] == 9).all()


def test_damaged_data_stay_inside_the_output() -> None:
    """Whatever the bytes are, the decoder ends, and writes nothing outside (imagecodecs ends the process here)."""
    random = np.random.default_rng(0)
    data = encoded(random.poisson(0.8, 3000).astype(np.uint8)).copy()
    room = np.full(3200, 9, dtype=np.uint8)
    for _ in range(2000):
        damaged = data.copy()
        damaged[random.integers(0, len(data), 3)] = random.integers(0, 256, 3)
        n_bytes = decode(damaged, room[100:3100])
        assert 0 <= n_bytes <= 3000
        assert (room[:100] == 9).all()
        assert (room[3100:] == 9).all()


@pytest.mark.parametrize(("code", "decoded"), [(258, "ABAB"), (259, "ABBB"), (260, "AB"), (511, "AB")])
def test_codes_that_are_not_in_the_table(code: int, decoded: str) -> None:
    """The string that is just being made may be named; decoding stops at a later one."""
    bits = f"{256:09b}{ord('A'):09b}{ord('B'):09b}{code:09b}".ljust(40, "0")
    data = np.array([int(bits[i : i + 8], 2) for i in range(0, 40, 8)], dtype=np.uint8)
    out = np.zeros(50, dtype=np.uint8)
    assert out[: decode(data, out)].tobytes().decode() == decoded
