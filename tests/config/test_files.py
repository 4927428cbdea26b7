"""The configuration files that are shipped."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import komad
from komad.config import Settings, WatchFolder, load_settings

CONFIG = Path(__file__).parents[2] / "config"
TEXT = (CONFIG / "komad.toml").read_text(encoding="utf-8")

UNCOMMENTED = re.sub(r"^# (\[.*\]|[a-z_0-9]+ = .*)$", r"\1", TEXT, flags=re.MULTILINE)
"""The file with the options that have no default, and the example of a watched folder, switched on."""


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as {'output.directory': ..., ...}; the watched folder as 'watch.*'."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) or key == "watch":
            result |= flat(value[0] if key == "watch" else value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def defaults(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every option of the settings tree and its default, in the same form."""
    result: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name == "watch":
            result |= defaults(WatchFolder, "watch.")
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            result |= defaults(field.annotation, f"{prefix}{name}.")
        else:
            result[prefix + name] = plain(field.get_default())
    return result


def plain(value: Any) -> Any:
    """As TOML has it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def test_every_option_is_there_and_nothing_else() -> None:
    """The documented keys are exactly those of the model, options without a default included."""
    assert set(flat(tomllib.loads(UNCOMMENTED))) == set(defaults(Settings))


def test_every_value_is_the_default() -> None:
    """What the file says is what komad does without it; only options without a default show an example."""
    documented = flat(tomllib.loads(UNCOMMENTED))
    expected = defaults(Settings)
    without_default = {key for key, value in expected.items() if value is None} | {"watch.directory"}
    assert {key: value for key, value in documented.items() if key not in without_default} == {
        key: value for key, value in expected.items() if key not in without_default
    }


def test_the_file_as_it_is_sets_the_defaults(tmp_path: Path) -> None:
    """Loaded unchanged, the file is the same as an empty one; options without a default are commented out."""
    for directory, text in (("shipped", TEXT), ("empty", "")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "komad.toml").write_text(text, encoding="utf-8")
    shipped = load_settings(tmp_path / "shipped/komad.toml").model_dump(exclude={"state_directory", "output"})
    empty = load_settings(tmp_path / "empty/komad.toml").model_dump(exclude={"state_directory", "output"})
    assert shipped == empty


def test_the_file_loads_with_everything_switched_on(tmp_path: Path) -> None:
    """The examples of options without a default are valid values."""
    (tmp_path / "komad.toml").write_text(UNCOMMENTED, encoding="utf-8")
    assert load_settings(tmp_path / "komad.toml").watch[0].acquisition.voltage_kv == 300.0


def test_every_option_is_read_by_the_program() -> None:
    """No option is documented and then never looked at."""
    package = Path(komad.__file__).parent
    sources = [path for path in package.rglob("*.py") if path != package / "config.py"]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in defaults(Settings) if name.rsplit(".", 1)[-1] not in read} == set()


def test_every_option_is_explained() -> None:
    """Above each option, or the group of options it stands in, there is a comment."""
    lines = UNCOMMENTED.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[a-z_0-9]+ = ", line):
            above = number - 1
            while re.match(r"[a-z_0-9]+ = ", lines[above]):
                above -= 1
            assert lines[above].startswith("# "), line


def test_limits_are_those_of_the_program() -> None:
    """Where a number has a lower and an upper limit, the comment above it names both, as `0 to 50`."""
    for section in ("watching", "output", "processing", "koma", "gain_check", "archive", "workers", "queue"):
        for name, field in type(getattr(Settings(), section)).model_fields.items():
            limits = {
                kind: f"{getattr(limit, kind):g}"
                for limit in field.metadata
                for kind in ("gt", "ge", "le")
                if hasattr(limit, kind)
            }
            if "le" in limits:
                least = "above 0" if "gt" in limits else limits["ge"]
                comment = TEXT.split(f"\n{name} = ")[0].rsplit("\n\n", 1)[-1]
                assert f"{least} to {limits['le']}" in comment, name


def test_choices_are_all_named() -> None:
    """Where a value is one of a few words, the comment names each of them."""
    for section, name in (
        ("processing", "outlier_fill"),
        ("koma", "mode"),
        ("koma", "method"),
        ("gain_check", "action"),
        ("archive", "codec"),
        ("log", "level"),
        ("log", "format"),
    ):
        field = type(getattr(Settings(), section)).model_fields[name]
        table = TEXT.split(f"\n[{section}]\n")[1]
        comment = table.split(f"\n{name} = ")[0].rsplit("\n\n", 1)[-1] if section != "log" else TEXT
        assert all(word in comment for word in get_args(field.annotation)), name


@pytest.mark.parametrize("preset", sorted(path.name for path in (CONFIG / "presets").glob("*.toml")))
def test_presets_load(preset: str) -> None:
    """Each preset is a complete configuration with one watched folder."""
    settings = load_settings(CONFIG / "presets" / preset)
    [folder] = settings.watch
    assert folder.acquisition.voltage_kv == 300.0
    assert settings.state_directory == Path("/var/lib/komad")


def test_presets_of_each_camera() -> None:
    """The presets that the documentation names are there, with the patterns of their cameras."""
    patterns = {
        path.stem: load_settings(path).watch[0].patterns for path in (CONFIG / "presets").glob("*.toml")
    }
    assert patterns == {
        "k3_counting": ("*.tif", "*.tiff"),
        "k3_superresolution": ("*.tif", "*.tiff"),
        "falcon4i_eer": ("*.eer",),
        "falcon3_ceta_mrc": ("*_fractions.mrc", "*_fractions.mrcs"),
    }
    assert load_settings(CONFIG / "presets/k3_superresolution.toml").processing.bin_factor == 2.0
