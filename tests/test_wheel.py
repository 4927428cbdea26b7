"""The wheel alone, outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel holds, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("komad-*.whl")
    subprocess.run([*pip, "install", *options, "--target", folder / "site", wheel], check=True)
    return folder / "site"


def is_source(path: Path) -> bool:
    """Not what Python and numba keep beside the code."""
    return "__pycache__" not in path.parts


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """Run Python in `folder` with the installed komad; gives what it printed."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_wheel_has_every_file(installed: Path) -> None:
    """Each module and each data file of the package is in the wheel as it is, and no test."""
    package = ROOT / "daemon" / "komad"
    sources = [path.relative_to(package) for path in package.rglob("*") if path.is_file() and is_source(path)]
    assert {".py", ".cu"} <= {path.suffix for path in sources}
    for path in sources:
        assert (installed / "komad" / path).read_bytes() == (package / path).read_bytes()
    assert not (installed / "tests").exists()


def test_wheel_runs_its_own_code(installed: Path, tmp_path: Path) -> None:
    """Away from the checkout its own code runs, not that of the checkout."""
    where = run(installed, tmp_path, "-c", "import komad.cli.main, komad.app; print(komad.__file__)").strip()
    assert Path(where).is_relative_to(installed)
    assert "Usage" in run(installed, tmp_path, "-m", "komad", "process", "--help")


@pytest.mark.soak  # compiles every loop
def test_wheel_processes_a_movie(installed: Path, tmp_path: Path) -> None:
    """Installed from the wheel, komad simulates a movie and makes its micrographs, all data files on board."""
    size = ["--size", "256", "--frames", "4"]
    run(installed, tmp_path, "-m", "komad", "simulate", "-o", "camera", *size)
    (movie,) = (path for path in (tmp_path / "camera").glob("*.mrc") if "gain" not in path.name)
    optics = ["--voltage", "300", "--dose-per-frame", "1.2"]
    run(
        installed,
        tmp_path,
        "-m",
        "komad",
        "process",
        str(movie),
        "-o",
        "out",
        "--gain",
        "camera/gain.mrc",
        *optics,
    )
    assert (tmp_path / "out" / f"{movie.stem}.star").exists()
    assert (tmp_path / "out" / f"{movie.stem}.mrcz").exists()


def test_wheel_brings_its_configuration_and_migrations(installed: Path, tmp_path: Path) -> None:
    """The example configuration, the presets and the database's migrations come with the wheel."""
    assert "state_directory" in run(installed, tmp_path, "-m", "komad", "config", "example")
    assert "5760" in run(installed, tmp_path, "-m", "komad", "config", "example", "--preset", "k3_counting")
    run(
        installed,
        tmp_path,
        "-c",
        "from pathlib import Path; from komad.store import Store; Store(Path('state')).open().close()",
    )
    assert (tmp_path / "state" / "komad.sqlite").exists()
    assert "Type=notify" in (installed / "komad" / "systemd" / "komad.service").read_text()
