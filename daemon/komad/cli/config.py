"""`komad config`: check a configuration, print an example."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from komad.cli.locate import config_path

app = typer.Typer(
    no_args_is_help=True, help="Check a configuration, or print one that explains every option."
)


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="The file; when left out the one that `komad run` takes.")
    ] = None,
) -> None:
    """Read a configuration, look at every folder and reference that it names, and say what is wrong.

    Example: komad config check /etc/komad/komad.toml
    """
    from komad.app import check_references
    from komad.config import load_settings
    from komad.status.places import look

    path = config_path(file)
    settings = load_settings(path)
    check_references(settings, None)
    print(f"{path} is right")
    wanted = [("watch", folder.directory) for folder in settings.watch]
    wanted += [("output", settings.output.directory), ("archive", settings.archive_directory)]
    for place in look([*wanted, ("state", settings.state_directory)]):
        if place.free_bytes is None:
            print(f"  {place.role:8} {place.path}: not there (yet)")
        else:
            note = "" if place.role == "watch" else _note_on_writing(place.path)
            print(f"  {place.role:8} {place.path}: {place.free_bytes / 1e9:.0f} GB free{note}")
    for folder in settings.watch:
        if folder.epu_session is not None:
            print(f"  EPU      {folder.epu_session}: {_look_at_session(folder.epu_session)}")
        if folder.tilt_series_mdoc is not None:
            there = "is there" if folder.tilt_series_mdoc.exists() else "not there (yet)"
            print(f"  tilts    {folder.tilt_series_mdoc}: {there}")
    if not settings.watch:
        print("  nothing is watched: add a [[watch]] table")


def _look_at_session(directory: Path) -> str:
    """What is in the place of an EPU session."""
    if not directory.exists():
        return "not there (yet)"
    if not directory.is_dir():
        return "is no folder; name the one that has Images-Disc1 in it"
    names = [entry.name.lower() for entry in directory.iterdir()]
    if not any(name.startswith(("images-disc", "gridsquare_")) for name in names):
        return "has no Images-Disc1 (yet); if it never will, name the folder that has it"
    return "is there"


def _note_on_writing(directory: Path) -> str:
    """Say so when this user cannot make files or the folder there; komad's user may be another one."""
    there = next(place for place in (directory, *directory.parents) if place.exists())
    if not there.is_dir():
        return f"; but {there} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"; but this user may not write to {there}"


@app.command()
def example(
    file: Annotated[Path | None, typer.Argument(help="Write it there instead of printing it.")] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="The settings for a camera; a wrong name lists them.")
    ] = None,
) -> None:
    """Print the configuration with every option, its meaning and its default.

    Example: komad config example komad.toml
    """
    from komad.formats.atomic import write_text

    text = _shipped(preset).read_text(encoding="utf-8")
    if file is None:
        print(text, end="")
    elif file.exists():
        raise typer.BadParameter(f"{file} is there already; name a new file")
    else:
        write_text(file, text)
        print(f"wrote {file}; look through it, then `komad config check {file}`")


def _shipped(preset: str | None) -> Path:
    """The example, inside the installed package or at the root of a checkout."""
    import komad

    package = Path(komad.__file__).parent
    installed = package / "config_files"
    directory = installed if installed.is_dir() else package.parents[1] / "config"
    if preset is None:
        return directory / "komad.toml"
    presets = {path.stem: path for path in sorted((directory / "presets").glob("*.toml"))}
    if preset not in presets:
        raise typer.BadParameter(f"there is no preset {preset!r}; there are {', '.join(presets)}")
    return presets[preset]
