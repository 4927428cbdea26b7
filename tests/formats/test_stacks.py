"""Stacks that are written picture by picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mrcfile
import numpy as np
import numpy.typing as npt
import pytest

from komad.errors import OutputError
from komad.formats.images import is_foreign
from komad.formats.movies import read_frames
from komad.formats.stacks import write_stack


def pictures(n: int = 3) -> npt.NDArray[np.float32]:
    """Pictures of different brightness."""
    rng = np.random.default_rng(0)
    return (rng.normal(0, 1, (n, 20, 30)) + np.arange(n)[:, None, None]).astype(np.float32)


def test_the_stack_is_a_standard_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mrcfile finds nothing wrong, reads the same pictures as an image stack, and the header has their statistics."""
    path, stack = tmp_path / "m_Stk.mrcs", pictures()
    assert write_stack(path, iter(stack), pixel_size_angstrom=1.25) == 3
    assert mrcfile.validate(path), capsys.readouterr().out
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data, stack)
        assert mrc.is_image_stack()
        assert mrc.voxel_size.x == mrc.voxel_size.y == pytest.approx(1.25)
        assert mrc.header.dmin == stack.min()
        assert mrc.header.dmax == stack.max()
        assert mrc.header.dmean == pytest.approx(stack.mean(), rel=1e-5)
        assert mrc.header.rms == pytest.approx(stack.std(), rel=1e-5)


def test_our_own_reader_reads_it(tmp_path: Path) -> None:
    """The stack can be given to komad again as a movie."""
    path, stack = tmp_path / "m_Stk.mrcs", pictures(2)
    write_stack(path, iter(stack), pixel_size_angstrom=1.0)
    np.testing.assert_array_equal(read_frames(path), stack)


def test_a_stack_of_ours_is_replaced_and_no_other(tmp_path: Path) -> None:
    """A later run writes over its own stack; a movie of this name is kept."""
    path = tmp_path / "m_Stk.mrcs"
    write_stack(path, iter(pictures(1)), pixel_size_angstrom=1.0)
    assert not is_foreign(path)
    write_stack(path, iter(pictures(2)), pixel_size_angstrom=1.0)
    with mrcfile.open(path) as mrc:
        assert len(mrc.data) == 2
    foreign = tmp_path / "movie.mrcs"
    foreign.write_bytes(b"x" * 2000)
    with pytest.raises(OutputError, match="not written by komad"):
        write_stack(foreign, iter(pictures()), pixel_size_angstrom=1.0)
    assert foreign.read_bytes() == b"x" * 2000


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    """The stack appears complete or not at all."""

    def broken() -> Iterator[npt.NDArray[np.float32]]:
        yield pictures()[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_stack(tmp_path / "m_Stk.mrcs", broken(), pixel_size_angstrom=1.0)
    with pytest.raises(OutputError, match="no picture"):
        write_stack(tmp_path / "m_Stk.mrcs", iter(()), pixel_size_angstrom=1.0)
    assert list(tmp_path.iterdir()) == []
