"""What a sweep finds, and what it passes over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from komad.config import WatchFolder
from komad.watch.sweep import RECHECK_EVERY, KnownFiles, Selection, look, sweep


def names(directory: Path, **settings: object) -> list[str]:
    """Relative paths of the movies that a sweep finds."""
    folder = WatchFolder(directory=directory, **settings)
    found = sweep(Selection(folder), KnownFiles(()), turn=0)
    assert not found.errors
    return sorted(str(Path(path).relative_to(directory)) for path in found.files)


def fill(directory: Path, *paths: str) -> None:
    """Make files, and the folders they lie in."""
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(b"x")


def test_finds_movies_by_name_in_all_folders(incoming: Path) -> None:
    """Movies of the usual suffixes are found at every depth, in upper case too."""
    fill(
        incoming,
        "a.mrc",
        "b.MRCS",
        "grid/square/c.tif",
        "d.tiff",
        "note.txt",
        "e.mrc.mdoc",
        "f.xml",
        "g.tif.gz",
    )
    assert names(incoming) == ["a.mrc", "b.MRCS", "d.tiff", "grid/square/c.tif"]


def test_not_recursive(incoming: Path) -> None:
    """Without `recursive` sub-folders are left alone."""
    fill(incoming, "a.mrc", "sub/b.mrc")
    assert names(incoming, recursive=False) == ["a.mrc"]


@pytest.mark.parametrize(
    "name",
    [
        ".a.mrc",
        "a.mrc.tmp",
        "a.mrc.part",
        "a.mrc.filepart",
        "a.mrc~",
        "gain.mrc",
        "x_gain.tif",
        "CountRef_1.mrc",
    ],
)
def test_ignores_temporary_names_and_references(incoming: Path, name: str) -> None:
    """Temporary names and gain references are no movies, whatever patterns are watched."""
    fill(incoming, name, "movie.mrc")
    assert names(incoming, patterns=("*",)) == ["movie.mrc"]


def test_ignores_folders_by_name(incoming: Path) -> None:
    """A folder with an ignored name is not entered."""
    fill(incoming, ".staging/a.mrc", "atlas/b.mrc", "c.mrc")
    assert names(incoming, ignore=(".*", "atlas")) == ["c.mrc"]


def test_links_to_files_yes_to_folders_no(incoming: Path, tmp_path: Path) -> None:
    """A linked movie is found; a linked folder, a loop and a dangling link are passed over."""
    fill(tmp_path, "elsewhere/a.mrc")
    (incoming / "linked.mrc").symlink_to(tmp_path / "elsewhere/a.mrc")
    (incoming / "folder").symlink_to(tmp_path / "elsewhere")
    (incoming / "loop").symlink_to(incoming)
    (incoming / "dangling.mrc").symlink_to(tmp_path / "nowhere")
    assert names(incoming) == ["linked.mrc"]


def test_a_folder_named_like_a_movie_is_no_movie(incoming: Path) -> None:
    """Only files are movies."""
    fill(incoming, "raw.tif/a.mrc")
    assert names(incoming) == ["raw.tif/a.mrc"]


def test_references_and_other_watched_folders_are_left_out(incoming: Path) -> None:
    """A configured reference is no movie, and a nested watched folder looks after itself."""
    fill(incoming, "correction.mrc", "a.mrc", "second/b.mrc")
    left_out = [incoming, incoming / "second", incoming / "correction.mrc"]
    selection = Selection(WatchFolder(directory=incoming), left_out)
    assert list(sweep(selection, KnownFiles(()), turn=0).files) == [str(incoming / "a.mrc")]
    assert selection.covers(str(incoming / "a.mrc"))
    assert not selection.covers(str(incoming / "second/b.mrc"))


def test_covers_agrees_with_the_sweep(incoming: Path) -> None:
    """An event's path is judged by the same rules as a sweep's."""
    fill(incoming, "a.mrc", "sub/b.tif", ".hidden/c.mrc", "sub/.d.mrc", "sub/e.txt")
    selection = Selection(WatchFolder(directory=incoming))
    every = [str(path) for path in incoming.rglob("*") if path.is_file()]
    swept = sweep(selection, KnownFiles(()), turn=0).files
    assert {path for path in every if selection.covers(path)} == set(swept)
    assert len(swept) == 2


def test_missing_folder_is_an_error_not_a_crash(tmp_path: Path) -> None:
    """A folder that is not there is reported with the reason."""
    found = sweep(Selection(WatchFolder(directory=tmp_path / "away")), KnownFiles(()), turn=0)
    assert found.errors == {str(tmp_path / "away"): "No such file or directory"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_folder_does_not_hide_the_rest(incoming: Path) -> None:
    """A sub-folder without permission is reported; the others are swept."""
    fill(incoming, "a.mrc", "private/b.mrc")
    (incoming / "private").chmod(0)
    found = sweep(Selection(WatchFolder(directory=incoming)), KnownFiles(()), turn=0)
    (incoming / "private").chmod(0o700)
    assert list(found.files) == [str(incoming / "a.mrc")]
    assert found.errors == {str(incoming / "private"): "Permission denied"}


def test_an_unreadable_sub_folder_does_not_hide_the_rest(
    incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input/output error in one folder is reported; the others are swept."""
    fill(incoming, "a.mrc", "broken/b.mrc")
    scandir = os.scandir

    def failing(path: str) -> object:
        if path.endswith("broken"):
            raise OSError(5, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    found = sweep(Selection(WatchFolder(directory=incoming)), KnownFiles(()), turn=0)
    assert list(found.files) == [str(incoming / "a.mrc")]
    assert found.errors == {str(incoming / "broken"): "Input/output error"}


def test_known_files_are_passed_over_until_they_are_overwritten(incoming: Path) -> None:
    """A known file is not found again; overwritten, it is, within the eight sweeps of a round."""
    fill(incoming, *(f"{i}.mrc" for i in range(40)))
    paths = [str(path) for path in incoming.iterdir()]
    known = KnownFiles((path, look(path).size_bytes, look(path).mtime_ns) for path in paths)
    selection = Selection(WatchFolder(directory=incoming))
    assert all(not sweep(selection, known, turn=turn).files for turn in range(RECHECK_EVERY))
    (incoming / "7.mrc").write_bytes(b"another movie")
    found = [sweep(selection, known, turn=turn).files for turn in range(RECHECK_EVERY)]
    assert [set(files) for files in found if files] == [{str(incoming / "7.mrc")}]
