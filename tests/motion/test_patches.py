"""Patches of the field, and groups of frames."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from komad.motion.patches import MAX_GROUPS, PATCH_ANGSTROM, Layout, group_frames, lay_patches

FloatArray = npt.NDArray[np.float64]

FIELD = (300, 400)


def sides(layout: Layout) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """First and last + 1 of the rows, and of the columns, of patches; each once and in order."""
    rows = sorted({(window[0].start, window[0].stop) for window in layout.windows})
    return rows, sorted({(window[1].start, window[1].stop) for window in layout.windows})


def test_patches_reach_the_edges_of_the_field() -> None:
    """In rows and columns of patches of the same size, each sharing at least half of itself with the next one."""
    layout = lay_patches(FIELD, small_pixel=4.0, n_patches=None, overlap=0.5)
    assert layout is not None
    rows, columns = sides(layout)
    assert len(layout.windows) == len(rows) * len(columns)
    for parts, length in ((rows, FIELD[0]), (columns, FIELD[1])):
        assert parts[0][0] == 0
        assert parts[-1][1] == length
        assert len({last - first for first, last in parts}) == 1
        side = parts[0][1]
        assert 0.85 * PATCH_ANGSTROM / 4.0 < side <= PATCH_ANGSTROM / 4.0
        for (_, last), (first, _) in pairwise(parts):
            assert last - first >= 0.5 * side - 1
    assert layout.taper.shape == (rows[0][1], columns[0][1])


def test_patches_know_their_middles() -> None:
    """Row and column of the middle, the middle of a pixel being its index; in the order of the windows."""
    layout = lay_patches(FIELD, small_pixel=4.0, n_patches=None, overlap=0.5)
    assert layout is not None
    expected = [np.mean(np.indices(FIELD)[(slice(None), *window)], axis=(1, 2)) for window in layout.windows]
    np.testing.assert_allclose(layout.centres, expected)


@pytest.mark.parametrize("n_patches", [(5, 3), (2, 4), (6, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_as_many_patches_as_asked(n_patches: tuple[int, int], overlap: float) -> None:
    """Along (x, y), from edge to edge, sharing as much as asked or a little less."""
    layout = lay_patches(FIELD, small_pixel=4.0, n_patches=n_patches, overlap=overlap)
    assert layout is not None
    rows, columns = sides(layout)
    assert (len(columns), len(rows)) == n_patches
    for parts, length in ((rows, FIELD[0]), (columns, FIELD[1])):
        assert parts[0][0] <= 0.05 * length
        assert parts[-1][1] >= 0.95 * length
        side = parts[0][1] - parts[0][0]
        for (_, last), (first, _) in pairwise(parts):
            assert (last - first) / side == pytest.approx(overlap, abs=0.1)


@pytest.mark.parametrize(
    ("shape", "n_patches"), [((60, 60), None), ((80, 300), None), (FIELD, (1, 1)), (FIELD, (40, 40))]
)
def test_no_patches_where_they_would_say_nothing(
    shape: tuple[int, int], n_patches: tuple[int, int] | None
) -> None:
    """In a field too small for patches, with a single one, and with so many that each is too small."""
    assert lay_patches(shape, small_pixel=4.0, n_patches=n_patches, overlap=0.5) is None


def test_patches_that_overlap_count_less() -> None:
    """Each pixel counts once in all: the more patches share, the smaller the share of each."""
    layouts = [lay_patches(FIELD, small_pixel=4.0, n_patches=(4, 4), overlap=part) for part in (0, 0.5, 0.75)]
    shares = [layout.share for layout in layouts if layout is not None]
    assert shares[0] > shares[1] > shares[2] > 0
    assert shares[0] == pytest.approx(1, abs=0.25)


def check_groups(groups: list[npt.NDArray[np.intp]], n_frames: int) -> None:
    """Every frame once, in order."""
    np.testing.assert_array_equal(np.concatenate(groups), np.arange(n_frames))


@pytest.mark.parametrize("n_frames", [1, 2, 7, 40, 400])
@pytest.mark.parametrize("dose", [0.05, 0.3, 1.0, 8.0])
def test_groups_by_exposure(n_frames: int, dose: float) -> None:
    """Every frame once; about MAX_GROUPS groups at most; none of less than about 1 e/Å² but single frames."""
    moments = dose * (np.arange(n_frames) + 0.5)
    groups = group_frames(moments, 0)
    check_groups(groups, n_frames)
    assert len(groups) <= MAX_GROUPS + 2
    for group in groups[:-1]:
        assert len(group) == 1 or len(group) * dose >= 0.999
        assert (len(group) - 1) * dose <= 1.0 + 0.3 * moments[-1]


def test_groups_are_denser_early() -> None:
    """Motion slows down: later groups are never shorter, and the last whole one is much longer than the first."""
    groups = group_frames(0.5 * (np.arange(80) + 0.5), 0)
    lengths = [len(group) for group in groups[:-1]]
    assert lengths == sorted(lengths)
    assert lengths[-1] >= 2 * lengths[0]


def test_groups_follow_doses_that_differ() -> None:
    """Frames of ten times the dose stand alone; weak ones before them are added."""
    moments = np.cumsum(np.r_[np.full(20, 0.2), np.full(10, 2.0)])
    groups = group_frames(moments, 0)
    check_groups(groups, 30)
    assert min(len(group) for group in groups[:2]) >= 4
    assert max(len(group) for group in groups if group[0] >= 20) <= 2


@pytest.mark.parametrize(("per_group", "expected"), [(1, 10), (2, 5), (4, 2), (10, 1), (30, 1)])
def test_groups_of_a_fixed_size(per_group: int, expected: int) -> None:
    """As many frames as asked, or about: what is left over is shared out."""
    groups = group_frames(np.arange(10.0), per_group)
    check_groups(groups, 10)
    assert len(groups) == expected
    assert np.ptp([len(group) for group in groups]) <= 1
