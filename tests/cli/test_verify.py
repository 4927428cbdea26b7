"""`komad verify`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from komad.formats.mrcz import write_mrcz
from komad.output.manifest import MANIFEST, record_archive
from tests.cli.conftest import Komad
from tests.output.test_manifest import ENTRY


def archive(directory: Path, name: str, *, listed: bool = True, seed: int = 1) -> Path:
    """Write an archive, with its line in the manifest."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    frames = np.random.default_rng(seed).poisson(3, (3, 64, 64)).astype(np.uint8)
    written = write_mrcz(
        path, frames, pixel_size_angstrom=1.0, voltage_kv=300, cs_mm=2.7, metadata={"note": "x" * 50}
    )
    if listed:
        facts = {"archive": name, "archive_bytes": written.n_bytes, "archive_xxh3": written.xxh3}
        record_archive(directory, replace(ENTRY, stem=path.stem, **facts))
    return path


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A folder of three archives."""
    for number, name in enumerate(("a.mrcz", "b.mrcz", "c.mrcz")):
        archive(tmp_path / "archives", name, seed=number)
    return tmp_path / "archives"


def flip(path: Path, offset: int) -> None:
    """Turn one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def findings(komad: Komad, *arguments: str | Path) -> tuple[int, dict[str, str]]:
    """Exit code, and the trouble by archive."""
    outcome = komad("verify", *arguments, "--json")
    report = json.loads(outcome.out)
    assert report["sound"] is (outcome.code == 0)
    return outcome.code, {finding["archive"]: finding["trouble"] for finding in report["findings"]}


def test_sound_archives_copied_elsewhere(komad: Komad, archives: Path, tmp_path: Path) -> None:
    """A copy is checked by what lies in it alone; all is said in one line."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(archives, copy)
    shutil.rmtree(archives)
    outcome = komad("verify", copy)
    assert (outcome.code, outcome.out.splitlines()) == (0, [outcome.out.strip()])
    assert outcome.out.startswith("3 archives, ")
    assert outcome.out.strip().endswith(f"in {copy}: 3 sound")


@pytest.mark.parametrize("place", ["header", "metadata", "first frame", "last byte"])
def test_one_bit_anywhere(komad: Komad, archives: Path, place: str) -> None:
    """A single bit that rots is found wherever it lies, and the other archives are sound."""
    path = archives / "b.mrcz"
    size_bytes = path.stat().st_size
    start = 1024 + int.from_bytes(path.read_bytes()[92:96], "little")
    offset = {"header": 60, "metadata": 1024 + 12, "first frame": start + 40, "last byte": size_bytes - 1}[
        place
    ]
    flip(path, offset)
    assert findings(komad, archives) == (1, {"b.mrcz": "damaged"})


def test_missing_cut_off_and_unlisted(komad: Komad, archives: Path) -> None:
    """Each has its name; what the manifest lacks is no damage as long as its own checksums hold."""
    archive(archives, "old.mrcz", listed=False)
    assert findings(komad, archives) == (0, {"old.mrcz": "unlisted"})
    flip(archives / "old.mrcz", -5)
    (archives / "a.mrcz").unlink()
    (archives / "c.mrcz").write_bytes((archives / "c.mrcz").read_bytes()[:-100])
    assert findings(komad, archives) == (
        1,
        {"a.mrcz": "missing", "c.mrcz": "damaged", "old.mrcz": "damaged"},
    )


def test_another_archive_under_the_name(komad: Komad, archives: Path) -> None:
    """An archive that is sound in itself but not the one that was made is found by its checksum."""
    shutil.copy(archives / "a.mrcz", archives / "b.mrcz")
    assert findings(komad, archives) == (1, {"b.mrcz": "damaged"})


def test_since(komad: Komad, archives: Path) -> None:
    """Only what was made then or later is read; older damage is not looked for."""
    flip(archives / "a.mrcz", -5)
    lines = (archives / MANIFEST).read_text().splitlines()
    old = json.loads(lines[0]) | {"at": "2020-01-01T00:00:00.000+00:00"}
    (archives / MANIFEST).write_text("\n".join([json.dumps(old), *lines[1:]]) + "\n")
    yesterday = (datetime.now().astimezone() - timedelta(days=1)).strftime("%Y-%m-%d")
    assert findings(komad, archives, "--since", yesterday, "--jobs", "2") == (0, {})
    assert findings(komad, archives) == (1, {"a.mrcz": "damaged"})


def test_without_a_manifest(komad: Komad, archives: Path, tmp_path: Path) -> None:
    """Archives are checked by their own checksums; a folder without any is a wrong argument."""
    (archives / MANIFEST).unlink()
    code, found = findings(komad, archives)
    assert (code, set(found.values())) == (0, {"unlisted"})
    for wrong in (tmp_path / "gone", tmp_path):
        assert komad("verify", wrong).code == 2


def test_the_configured_folder(komad: Komad, config: Path) -> None:
    """Without a folder it is the archive directory of the configuration; cut lines of its manifest are told."""
    (config.parent / "komad-output").mkdir()
    archive(config.parent / "komad-output", "a.mrcz")
    with (config.parent / "komad-output" / MANIFEST).open("a") as file:
        file.write("{\n")
    outcome = komad("verify", "--config", config)
    assert outcome.code == 0
    assert "1 sound" in outcome.out
    assert "1 lines of the manifest say nothing" in outcome.out
