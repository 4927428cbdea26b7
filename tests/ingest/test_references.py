"""References bound by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from komad.config import ReferenceSettings
from komad.errors import ReferenceFileError
from komad.ingest import references
from komad.ingest.references import bind
from komad.model import References


def test_a_private_copy_named_by_its_content(tmp_path: Path) -> None:
    """The copy has the content, its hash as a name, and stays when the original changes."""
    gain = tmp_path / "Gain.MRC"
    gain.write_bytes(b"first gain")
    settings = ReferenceSettings(gain=gain, gain_rot=1, gain_flip=2)
    first = bind(settings, tmp_path / "state/references")
    assert first.gain is not None
    sha256 = hashlib.sha256(b"first gain").hexdigest()
    assert first.gain.sha256 == sha256
    assert first.gain.path == tmp_path / f"state/references/{sha256}.mrc"
    assert first.gain.original_path == gain
    assert (first.gain_rot, first.gain_flip) == (1, 2)

    gain.write_bytes(b"second gain, taken at noon")
    second = bind(settings, tmp_path / "state/references")
    assert second.gain is not None
    assert second.gain.sha256 != sha256
    assert first.gain.path.read_bytes() == b"first gain"
    assert second.gain.path.read_bytes() == b"second gain, taken at noon"


def test_the_same_content_is_kept_once(tmp_path: Path) -> None:
    """Two files of the same content, and many movies, share one copy that is not written again."""
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_bytes(b"gain")
    directory = tmp_path / "references"
    first = bind(ReferenceSettings(gain=tmp_path / "a.tif"), directory)
    assert first.gain is not None
    written_ns = first.gain.path.stat().st_mtime_ns
    bind(ReferenceSettings(gain=tmp_path / "b.tif", dark=tmp_path / "a.tif"), directory)
    assert [path.stat().st_mtime_ns for path in directory.iterdir()] == [written_ns]


def test_a_large_reference_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as size and mtime stay, a reference is not read again for the next movie."""
    (tmp_path / "gain.mrc").write_bytes(b"gain")
    read: list[Path] = []
    sha256 = references._sha256
    monkeypatch.setattr(references, "_sha256", lambda path: read.append(path) or sha256(path))
    for _ in range(3):
        bind(ReferenceSettings(gain=tmp_path / "gain.mrc"), tmp_path / "kept")
    assert [path.name for path in read].count("gain.mrc") == 1


def test_one_off_jobs_make_no_copy(tmp_path: Path) -> None:
    """Without a directory the file itself is bound, with its hash."""
    (tmp_path / "defects.txt").write_text("1 2 3 4")
    bound = bind(ReferenceSettings(defects=tmp_path / "defects.txt"), None)
    assert bound.defects is not None
    assert bound.defects.path == bound.defects.original_path == tmp_path / "defects.txt"
    assert bound.defects.sha256 == hashlib.sha256(b"1 2 3 4").hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["defects.txt"]


def test_nothing_configured(tmp_path: Path) -> None:
    """No references named: none bound, nothing written."""
    assert bind(ReferenceSettings(), tmp_path / "references") == References()
    assert not (tmp_path / "references").exists()


@pytest.mark.parametrize("kind", ["gain", "dark", "defects"])
@pytest.mark.parametrize("problem", ["missing", "empty", "folder"])
def test_a_reference_that_cannot_be_used_stops(tmp_path: Path, kind: str, problem: str) -> None:
    """A named file that is missing, empty or no file is an error that names it and says what to do."""
    path = tmp_path / "reference.mrc"
    if problem == "empty":
        path.touch()
    if problem == "folder":
        path.mkdir()
    with pytest.raises(ReferenceFileError) as caught:
        bind(ReferenceSettings(**{kind: path}), tmp_path / "references")
    assert str(path) in str(caught.value)
    assert f"references.{kind} in the configuration" in str(caught.value)


def test_a_reference_that_changes_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is not what was hashed is thrown away, and the error says so."""
    (tmp_path / "gain.mrc").write_bytes(b"half of a g")

    def copy_of_a_later_state(source: Path, target: Path) -> None:
        target.write_bytes(b"half of a gain reference")

    monkeypatch.setattr(references.shutil, "copyfile", copy_of_a_later_state)
    with pytest.raises(ReferenceFileError, match="changed while it was read"):
        bind(ReferenceSettings(gain=tmp_path / "gain.mrc"), tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []
