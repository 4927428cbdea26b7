"""Which configuration a command means, and the few paths of it that a status needs."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from komad.errors import ConfigError

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Configuration file; when left out $KOMAD_CONFIG, ./komad.toml, /etc/komad/komad.toml.",
        show_default=False,
    ),
]

LEASE_TIMEOUT_S = 15.0
"""As in `komad.config.Queue`, whose import takes too long here."""
MIN_FREE_GB = 5.0
"""As in `komad.config.Output`."""
STANDARD_PLACES = (Path("komad.toml"), Path("/etc/komad/komad.toml"))


def config_path(option: Path | None) -> Path:
    """Give the configuration file that is meant: the option, $KOMAD_CONFIG, ./komad.toml, /etc/komad/komad.toml.

    Raises
    ------
    ConfigError
        None of them is there.
    """
    if option is not None:
        return option
    if named := os.environ.get("KOMAD_CONFIG"):
        return Path(named)
    for place in STANDARD_PLACES:
        try:
            if place.is_file():
                return place
        except PermissionError:
            return place  # reading it tells
    raise ConfigError(
        "there is no configuration: name one with --config or $KOMAD_CONFIG; looked for "
        f"{' and '.join(str(place) for place in STANDARD_PLACES)}; `komad config example` prints one"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where a session reads and writes, and after how long its workers count as silent."""

    state: Path
    output: Path
    archive: Path
    watched: tuple[Path, ...]
    lease_timeout_s: float
    min_free_gb: float

    def roles(self) -> list[tuple[str, Path]]:
        """Pairs of role and path, as the status looks at them."""
        return [
            *(("watch", path) for path in self.watched),
            ("output", self.output),
            ("archive", self.archive),
            ("state", self.state),
        ]


def read_places(path: Path) -> Places:
    """Read only the paths of a configuration, as `komad.config.load_settings` would resolve them.

    Loading and checking the whole of it takes half of the time that a status may take.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no paths where they belong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # among them tomllib's own, and numbers that are too long
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}; name it with --config"
        ) from error
    try:
        return _places(values, path.resolve().parent)
    except (TypeError, AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a komad configuration; `komad config check {path}` says why"
        ) from error


def _places(values: dict[str, Any], base: Path) -> Places:
    output, queue = values.get("output", {}), values.get("queue", {})

    def at(value: str) -> Path:
        return Path(os.path.normpath(base / Path(value).expanduser()))

    directory = at(os.environ.get("KOMAD_OUTPUT__DIRECTORY") or output.get("directory", "komad-output"))
    archive = os.environ.get("KOMAD_OUTPUT__ARCHIVE_DIRECTORY") or output.get("archive_directory")
    return Places(
        state=at(os.environ.get("KOMAD_STATE_DIRECTORY") or values.get("state_directory", "komad-state")),
        output=directory,
        archive=directory if archive is None else at(archive),
        watched=tuple(at(folder["directory"]) for folder in values.get("watch", [])),
        lease_timeout_s=float(
            os.environ.get("KOMAD_QUEUE__LEASE_TIMEOUT_S") or queue.get("lease_timeout_s", LEASE_TIMEOUT_S)
        ),
        min_free_gb=float(
            os.environ.get("KOMAD_OUTPUT__MIN_FREE_GB") or output.get("min_free_gb", MIN_FREE_GB)
        ),
    )
