"""Gain, dark and defects as arrays that fit the frames."""

from pathlib import Path

import numpy as np
import pytest

from komad.errors import ReferenceFileError as WrongReferenceError
from komad.formats.images import write_mrc
from komad.formats.references import load, orient
from komad.model import ReferenceFile, References

IMAGE = np.arange(1, 7, dtype=np.float32).reshape(2, 3)


def reference(
    path: Path, image: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]" = IMAGE
) -> ReferenceFile:
    """Write a picture as a reference."""
    write_mrc(path, image, pixel_size_angstrom=1.0)
    return ReferenceFile(path=path, original_path=path, sha256=path.read_bytes()[-24:].hex())


@pytest.mark.parametrize(
    ("gain_rot", "gain_flip", "expected"),
    [
        (0, 0, [[1, 2, 3], [4, 5, 6]]),
        (1, 0, [[4, 1], [5, 2], [6, 3]]),
        (2, 0, [[6, 5, 4], [3, 2, 1]]),
        (3, 0, [[3, 6], [2, 5], [1, 4]]),
        (0, 1, [[4, 5, 6], [1, 2, 3]]),
        (0, 2, [[3, 2, 1], [6, 5, 4]]),
        (1, 1, [[6, 3], [5, 2], [4, 1]]),
        (1, 2, [[1, 4], [2, 5], [3, 6]]),
    ],
)
def test_orientation(gain_rot: int, gain_flip: int, expected: list[list[float]]) -> None:
    """The gain is turned first and then flipped, in array terms as the conventions say."""
    np.testing.assert_array_equal(orient(IMAGE, gain_rot=gain_rot, gain_flip=gain_flip), expected)


def test_load(tmp_path: Path) -> None:
    """The gain is turned, dark and defects are not; what is not named is None."""
    gain = reference(tmp_path / "gain.mrc")
    dark = reference(tmp_path / "dark.mrc", IMAGE.T.copy())
    defects = reference(tmp_path / "defects.mrc", (IMAGE.T > 5).astype(np.float32))
    loaded = load(References(gain=gain, gain_rot=1, dark=dark, defects=defects), (3, 2))
    np.testing.assert_array_equal(loaded.gain, [[4, 1], [5, 2], [6, 3]])
    np.testing.assert_array_equal(loaded.dark, IMAGE.T)
    np.testing.assert_array_equal(loaded.defects, [[False, False], [False, False], [False, True]])
    assert load(References(), (3, 2)).gain is None


@pytest.mark.parametrize(
    ("shape", "advice"),
    [((3, 2), "try gain_rot = 1 or 3"), ((4, 6), "half as large"), ((1, 1), "this camera and mode")],
)
def test_wrong_size(tmp_path: Path, shape: tuple[int, int], advice: str) -> None:
    """A gain of another size is refused with both sizes and what to try."""
    gain = reference(tmp_path / "gain.mrc")
    with pytest.raises(WrongReferenceError, match=rf"gain\.mrc.*3 x 2.*{shape[1]} x {shape[0]}.*{advice}"):
        load(References(gain=gain), shape)


def test_super_resolution_gain_for_counting_movies(tmp_path: Path) -> None:
    """A gain of twice the size is recognised as one for super-resolution."""
    gain = reference(tmp_path / "gain.mrc", np.ones((4, 6), np.float32))
    with pytest.raises(WrongReferenceError, match="twice as large"):
        load(References(gain=gain), (2, 3))


def test_references_are_read_once(tmp_path: Path) -> None:
    """The next movie with the same reference gets the same array, though the file is gone."""
    gain = reference(tmp_path / "gain.mrc")
    first = load(References(gain=gain), (2, 3)).gain
    (tmp_path / "gain.mrc").unlink()
    assert load(References(gain=gain), (2, 3)).gain is first
