"""References bound by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from komad.config import ReferenceSettings
from komad.errors import ReferenceFileError
from komad.ingest import references
from komad.ingest.references import bind
from komad.model import MovieFormat, References


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


@pytest.mark.parametrize(
    ("name", "movie_format", "kind", "is_response", "rows_as_eer"),
    [
        ("Gain.GAIN", MovieFormat.EER, "auto", False, True),
        ("gain.mrc", MovieFormat.EER, "auto", True, False),
        ("gain.tif", MovieFormat.EER, "auto", True, False),
        ("gain.gain", MovieFormat.TIFF, "auto", False, False),
        ("gain.mrc", MovieFormat.MRC, "auto", False, False),
        ("gain.gain", None, "auto", False, False),
        ("gain.gain", MovieFormat.EER, "response", True, True),
        ("gain.mrc", MovieFormat.EER, "factor", False, False),
        ("gain.tif", MovieFormat.TIFF, "response", True, False),
    ],
)
def test_what_a_gain_means(
    tmp_path: Path,
    name: str,
    movie_format: MovieFormat | None,
    kind: str,
    is_response: bool,
    rows_as_eer: bool,
) -> None:
    """As for RELION: of EER movies a `.gain` is the factor in the camera's rows, any other the response. Or as set."""
    (tmp_path / name).write_bytes(b"gain")
    settings = ReferenceSettings.model_validate({"gain": tmp_path / name, "gain_kind": kind})
    bound = bind(settings, None, movie_format)
    assert (bound.gain_is_response, bound.gain_rows_as_eer) == (is_response, rows_as_eer)
    assert not bind(
        ReferenceSettings.model_validate({"gain_kind": kind}), None, MovieFormat.EER
    ).gain_is_response


def test_when_relion_finds_the_same_gain(tmp_path: Path) -> None:
    """Its file may be named to RELION only where that reads the same factor from it."""

    def same(name: str, movie_format: MovieFormat, **settings: object) -> bool:
        (tmp_path / name).write_bytes(b"gain")
        settings["gain"] = tmp_path / name
        return bind(ReferenceSettings.model_validate(settings), None, movie_format).as_relion_reads(
            movie_format
        )

    assert same("a.gain", MovieFormat.EER)
    assert same("a.mrc", MovieFormat.EER)
    assert same("a.tif", MovieFormat.TIFF)
    assert not same("a.mrc", MovieFormat.EER, gain_kind="factor")
    assert not same("a.mrc", MovieFormat.MRC, gain_kind="response")
    assert not same("a.mrc", MovieFormat.MRC, gain_rot=1)
    assert not same("a.dm4", MovieFormat.MRC)
    assert not References().as_relion_reads(MovieFormat.MRC)
