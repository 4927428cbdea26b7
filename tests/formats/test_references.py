"""Gain, dark and defects as arrays that fit the frames."""

from pathlib import Path

import numpy as np
import pytest

from komad.detector.gain import orient
from komad.errors import ReferenceFileError as WrongReferenceError
from komad.formats.images import write_mrc
from komad.formats.references import load
from komad.model import ReferenceFile, References
from tests.formats.files import write_mrc_movie

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


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_gain_without_a_usable_pixel(tmp_path: Path, value: float) -> None:
    """A gain that would leave nothing of a movie is an error that names the file and the way out."""
    path = write_mrc_movie(tmp_path / "gain.mrc", np.full((1, 2, 3), value, np.float32), 2)
    gain = ReferenceFile(path=path, original_path=path, sha256=f"all {value}")
    with pytest.raises(WrongReferenceError, match=r"gain\.mrc: .* no pixel above zero.*komad gain estimate"):
        load(References(gain=gain), (2, 3))


def test_defects_outside_are_told(tmp_path: Path) -> None:
    """How many defects do not lie in the frames goes with the references; nothing is said when all do."""
    for name, text, warnings in (("a", "0 0 1 1", 0), ("b", "0 0 1 1\n7 0 1 1", 1)):
        path = tmp_path / f"{name}.txt"
        path.write_text(text)
        loaded = load(References(defects=ReferenceFile(path=path, original_path=path, sha256=name)), (2, 3))
        assert len(loaded.warnings) == warnings
    assert "1 of 2 defects" in loaded.warnings[0]
    assert "b.txt lie outside of frames of 3 x 2 pixels" in loaded.warnings[0]
