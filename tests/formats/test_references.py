"""Gain, dark and defects as arrays that fit the frames."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

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
    [((3, 2), "try gain_rot = 1 or 3"), ((6, 4), "try gain_rot = 1 or 3"), ((1, 1), "this camera and mode")]
    + [((n * 2, n * 3), "this camera and mode") for n in (3, 8)]
    + [((4, 3), "this camera and mode")],
)
def test_wrong_size(tmp_path: Path, shape: tuple[int, int], advice: str) -> None:
    """A gain that cannot be brought to the frames is refused with both sizes and what to try."""
    gain = reference(tmp_path / "gain.mrc")
    with pytest.raises(WrongReferenceError, match=rf"gain\.mrc.*3 x 2.*{shape[1]} x {shape[0]}.*{advice}"):
        load(References(gain=gain), shape)


def counts_of(detector: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", n: int) -> "np.ndarray":
    """What a detector of these responses, lit evenly, counts in pixels of n x n, by the plainest loops."""
    ny, nx = detector.shape[0] // n, detector.shape[1] // n
    return np.array(
        [[detector[n * y : n * y + n, n * x : n * x + n].sum() for x in range(nx)] for y in range(ny)]
    )


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("gain_rot", [0, 1])
def test_a_gain_for_super_resolution_corrects_counting_frames(tmp_path: Path, n: int, gain_rot: int) -> None:
    """Even light comes out even: responses are averaged, not factors; a bad part makes the pixel bad. It is told."""
    detector = np.random.default_rng(n).uniform(0.5, 2.0, (3 * n, 5 * n))
    for value in (0, -1, np.nan, np.inf):
        fine = 1 / detector
        fine[n, 2 * n + 1] = value
        path = write_mrc_movie(tmp_path / "gain.mrc", np.rot90(fine, gain_rot)[None], 2)
        gain = ReferenceFile(path=path, original_path=path, sha256=f"{n} {gain_rot} {value}")
        loaded = load(References(gain=gain, gain_rot=gain_rot), (3, 5))
        corrected = loaded.gain * counts_of(detector, n)
        assert corrected[1, 2] == 0
        corrected[1, 2] = n * n
        np.testing.assert_allclose(corrected, n * n, rtol=1e-5)
        assert f"the response of {n} x {n} of its pixels was averaged" in loaded.warnings[0]
        assert "the frames are 5 x 3" in loaded.warnings[0]


@pytest.mark.parametrize("n", [2, 4])
def test_a_gain_for_counting_serves_super_resolution(tmp_path: Path, n: int) -> None:
    """Each pixel gets the factor of the one that holds it, and the warning says what that cannot do."""
    loaded = load(References(gain=reference(tmp_path / "g.mrc"), gain_flip=1), (2 * n, 3 * n))
    np.testing.assert_array_equal(loaded.gain, np.kron(IMAGE[::-1], np.ones((n, n))))
    assert loaded.gain.flags.c_contiguous
    assert (
        f"each of its pixels stands for {n} x {n}, and what differs between these stays" in loaded.warnings[0]
    )


@pytest.mark.parametrize("n", [1, 2])
def test_a_response_becomes_the_factor(tmp_path: Path, n: int) -> None:
    """Even light comes out even, with the mean of the response; zero stays zero, a bad pixel."""
    detector = np.random.default_rng(3).uniform(50, 200, (3 * n, 5 * n))
    seen = detector.copy()
    seen[n, n] = 0
    path = write_mrc_movie(tmp_path / "gain.mrc", seen[None], 2)
    gain = ReferenceFile(path=path, original_path=path, sha256=str(n))
    factor = load(References(gain=gain, gain_is_response=True), (3, 5)).gain
    good = np.ones((3, 5), bool)
    good[1, 1] = False
    counts = counts_of(detector, n)
    assert factor[1, 1] == 0
    np.testing.assert_allclose(factor[good] * counts[good], counts[good].mean(), rtol=1e-5)
    assert factor.dtype == np.float32


def test_a_response_for_finer_frames(tmp_path: Path) -> None:
    """It is repeated, with the mean 1 over the factors' reciprocals."""
    loaded = load(References(gain=reference(tmp_path / "g.mrc"), gain_is_response=True), (4, 6))
    np.testing.assert_allclose(loaded.gain, np.kron(3.5 / IMAGE, np.ones((2, 2))), rtol=1e-6)


def test_rows_of_a_falcon_gain_for_eer(tmp_path: Path) -> None:
    """The first row of the file is that of an EER movie's frames, before it is turned; for others it is the last."""
    path = tmp_path / "a.gain"
    tifffile.imwrite(path, IMAGE)
    gain = ReferenceFile(path=path, original_path=path, sha256="a")
    np.testing.assert_array_equal(load(References(gain=gain, gain_rows_as_eer=True), (2, 3)).gain, IMAGE)
    np.testing.assert_array_equal(load(References(gain=gain), (2, 3)).gain, IMAGE[::-1])
    turned = load(References(gain=gain, gain_rot=1, gain_rows_as_eer=True), (3, 2)).gain
    np.testing.assert_array_equal(turned, np.rot90(IMAGE, -1))


def test_dark_counts_of_other_pixels(tmp_path: Path) -> None:
    """Dark counts stay as many: those of fine pixels add up, those of coarse ones are shared out."""
    dark = reference(tmp_path / "dark.mrc", np.arange(24, dtype=np.float32).reshape(4, 6))
    coarse, fine = load(References(dark=dark), (2, 3)), load(References(dark=dark), (8, 12))
    np.testing.assert_array_equal(coarse.dark, [[14, 22, 30], [62, 70, 78]])
    assert fine.dark[2:4, 2:4].tolist() == [[7 / 4, 7 / 4], [7 / 4, 7 / 4]]
    assert coarse.dark.sum() == fine.dark.sum() == np.arange(24).sum()
    assert "2 x 2 of its pixels were added up" in coarse.warnings[0]
    assert "each of its pixels was shared out among 2 x 2" in fine.warnings[0]
    with pytest.raises(
        WrongReferenceError, match=r"dark\.mrc: the dark reference is 6 x 4 .* turned by a quarter"
    ):
        load(References(dark=dark), (6, 4))
    with pytest.raises(WrongReferenceError, match="give the reference of this camera and mode"):
        load(References(dark=dark), (5, 6))


def test_a_defect_map_of_other_pixels(tmp_path: Path) -> None:
    """A coarse pixel is bad where one of its parts is; a bad coarse pixel is bad in all of its parts."""
    image = np.zeros((4, 6), np.float32)
    image[1, 4] = 1
    bad = reference(tmp_path / "bad.mrc", image)
    coarse, fine = load(References(defects=bad), (2, 3)), load(References(defects=bad), (8, 12))
    assert np.argwhere(coarse.defects).tolist() == [[0, 2]]
    assert np.argwhere(fine.defects).tolist() == [[2, 8], [2, 9], [3, 8], [3, 9]]
    assert "bad.mrc: the defect map is 6 x 4 pixels, the frames are 3 x 2" in coarse.warnings[0]
    assert load(References(defects=bad), (4, 6)).warnings == ()


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
