"""Which configuration is meant, and what is wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from komad.cli.locate import config_path, read_places
from komad.config import Settings, load_settings
from komad.errors import ConfigError
from tests.cli.conftest import Komad


def test_option_then_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    """--config wins over $KOMAD_CONFIG, which wins over ./komad.toml."""
    monkeypatch.chdir(tmp_path)
    assert config_path(None) == Path("komad.toml")
    monkeypatch.setenv("KOMAD_CONFIG", "/elsewhere/komad.toml")
    assert config_path(None) == Path("/elsewhere/komad.toml")
    assert config_path(Path("mine.toml")) == Path("mine.toml")


def test_no_configuration_is_exit_code_3(
    komad: Komad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the places, and the command that prints one."""
    monkeypatch.chdir(tmp_path)
    outcome = komad("status")
    assert outcome.code == 3
    assert "KOMAD_CONFIG" in outcome.err
    assert "komad config example" in outcome.err


CONFIGURATIONS = {
    "nothing": "",
    "everything": 'state_directory = "s"\n[output]\ndirectory = "o"\narchive_directory = "/a"\n'
    '[[watch]]\ndirectory = "~/c"\n[[watch]]\ndirectory = "../d"\n',
}


@pytest.mark.parametrize("text", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.parametrize(
    "environment",
    [{}, {"KOMAD_OUTPUT__DIRECTORY": "e", "KOMAD_STATE_DIRECTORY": "/t"}],
    ids=["file", "environment"],
)
def test_places_are_those_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, environment: dict[str, str]
) -> None:
    """The quick look at the paths agrees with the full loader, defaults and environment included."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "komad.toml"
    path.write_text(text)
    places, settings = read_places(path), load_settings(path)
    assert places.state == settings.state_directory
    assert places.output == settings.output.directory
    assert places.archive == settings.archive_directory
    assert places.watched == tuple(folder.directory for folder in settings.watch)


@pytest.mark.parametrize("text", ["a = ", "watch = 3\n", "output = 3\n"])
def test_places_of_a_broken_file_are_an_error(tmp_path: Path, text: str) -> None:
    """Not TOML, or not ours."""
    path = tmp_path / "komad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"komad\.toml"):
        read_places(path)


def test_check_tells_what_is_right(komad: Komad, config: Path) -> None:
    """Folders with their free space."""
    outcome = komad("config", "check", config)
    assert outcome.code == 0
    assert "is right" in outcome.out
    assert f"{config.parent / 'camera'}: " in outcome.out


def test_check_names_every_problem(komad: Komad, config: Path) -> None:
    """An unknown key and a value out of range, both with their place; exit code 3, no traceback."""
    config.write_text("[output]\nfloat61 = true\n[processing]\nbin_factor = 9\n")
    outcome = komad("config", "check", config)
    assert outcome.code == 3
    assert "output.float61" in outcome.err
    assert "processing.bin_factor" in outcome.err
    assert "Traceback" not in outcome.err


def test_check_misses_a_gain(komad: Komad, config: Path) -> None:
    """A reference that is named and not there is found before the daemon runs."""
    config.write_text('[[watch]]\ndirectory = "camera"\n[watch.references]\ngain = "gone.mrc"\n')
    outcome = komad("config", "check", config)
    assert outcome.code == 3
    assert "gone.mrc" in outcome.err


def test_check_looks_at_the_session_of_epu(komad: Komad, config: Path) -> None:
    """A folder that is missing, one without Images-Disc1, and the right one."""
    session = config.parent / "supervisor"
    config.write_text('[[watch]]\ndirectory = "camera"\nepu_session = "supervisor"\n')

    def said() -> str:
        return komad("config", "check", config).out.partition(f"EPU      {session}: ")[2].strip()

    assert said() == "not there (yet)"
    session.mkdir()
    assert said().startswith("has no Images-Disc1 (yet)")
    (session / "Images-Disc1").mkdir()
    assert said() == "is there"


def test_check_refuses_a_tolerance_without_groups(komad: Komad, config: Path) -> None:
    """It would do nothing."""
    config.write_text('[[watch]]\ndirectory = "camera"\nbeam_shift_tolerance = 0.01\n')
    outcome = komad("config", "check", config)
    assert outcome.code == 3
    assert (
        'watch.0: beam_shift_tolerance is for optics groups: set optics_groups = "beam_shift"' in outcome.err
    )


def test_example_is_a_configuration_with_the_defaults(komad: Komad, tmp_path: Path) -> None:
    """Written to a file it loads; an existing file is left alone."""
    path = tmp_path / "new.toml"
    assert komad("config", "example", path).code == 0
    assert load_settings(path).processing == Settings().processing
    assert path.read_text() == komad("config", "example").out
    assert komad("config", "example", path).code == 2


def test_presets_are_listed_when_the_name_is_wrong(komad: Komad) -> None:
    """Every preset is printed under its name."""
    outcome = komad("config", "example", "--preset", "nonsense")
    assert outcome.code == 2
    assert "k3_counting" in outcome.err
    assert "[[watch]]" in komad("config", "example", "--preset", "k3_counting").out


def test_help_teaches_each_command(komad: Komad) -> None:
    """An example for every command, and the exit codes."""
    assert "Exit codes: 0 done" in komad("--help").out
    commands = ["run", "process", "status", "jobs", "show", "retry", "supply", "simulate", "demo", "doctor"]
    for command in [[name] for name in commands] + [["config", "check"], ["config", "example"]]:
        outcome = komad(*command, "--help")
        assert outcome.code == 0
        assert f"Example: komad {' '.join(command)}" in outcome.out


def test_starting_the_command_imports_nothing_heavy() -> None:
    """Neither the help nor the status waits for numpy, numba, scipy, SQLAlchemy or the configuration tree."""
    code = (
        "import sys, komad.cli, komad.status.text, komad.status.json, komad.store.overview, komad.store.listing;"
        "print([name for name in ('numpy', 'numba', 'scipy', 'sqlalchemy', 'pydantic_settings', 'komad.config') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_version(komad: Komad) -> None:
    """Name and number."""
    assert komad("--version").out.startswith("komad 0.")


def test_check_says_where_nothing_can_be_written(
    komad: Komad, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the place of the output folder, and a folder without permission; komad may run as another user."""
    config.with_name("komad-output").touch()
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != config.parent)
    outcome = komad("config", "check", config)
    assert outcome.code == 0
    assert f"; but {config.parent / 'komad-output'} is no folder" in outcome.out
    assert f"; but this user may not write to {config.parent}" in outcome.out
