"""Compiled loops: where they are kept, and that many processes compile each of them once."""

import fcntl
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from komad import compiler

SCRIPT = """
import numpy as np
from komad import kernels
print(kernels.sum_frames(np.ones((2, 8, 8), np.uint8))[0][0, 0])
"""


def test_loops_compile_without_a_place_to_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no writable folder anywhere the compiled code goes into a private one, not to an error."""
    monkeypatch.setattr(compiler, "_is_writable", lambda _: False)
    monkeypatch.setattr(compiler.config, "CACHE_DIR", "")
    double = compiler.compiled()(lambda x: 2 * x)
    assert double(21) == 42
    assert "komad-numba-" in compiler.config.CACHE_DIR


def test_a_named_cache_is_used(tmp_path: Path) -> None:
    """NUMBA_CACHE_DIR decides where compiled code is kept."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "2", done.stderr
    assert list((tmp_path / "cache").rglob("*.nbi"))


def test_a_loop_waits_while_another_process_compiles_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever needs a loop that another process is compiling waits until that one is done, or has died."""
    monkeypatch.setattr(compiler.config, "CACHE_DIR", str(tmp_path))
    double = compiler.compiled()(lambda x: 2 * x)
    folder = Path(compiler.config.CACHE_DIR)
    folder.mkdir(exist_ok=True)
    name = f"{__name__}.{double.py_func.__qualname__}.lock"
    with (folder / name).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        asks = threading.Thread(target=double, args=(21,))
        asks.start()
        asks.join(0.5)
        assert asks.is_alive()
        assert not double.signatures
    asks.join(60)
    assert len(double.signatures) == 1


def test_other_kernels_have_another_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in any of their files, also in one that holds constants only, is a version of its own."""
    shutil.copytree(compiler.KERNELS, tmp_path / "kernels")
    assert compiler.digest(tmp_path / "kernels") == compiler.digest(compiler.KERNELS)
    with (tmp_path / "kernels/plan.py").open("a") as file:
        file.write("# another version")
    assert compiler.digest(tmp_path / "kernels") != compiler.digest(compiler.KERNELS)
    monkeypatch.setattr(compiler.config, "CACHE_DIR", str(tmp_path))
    for _ in range(2):
        compiler.compiled()(lambda x: x)
        assert Path(compiler.config.CACHE_DIR) == tmp_path / compiler.digest(compiler.KERNELS)


def test_read_only_folders_are_recognised(tmp_path: Path) -> None:
    """A folder that cannot be made, or is a file, is no place."""
    (tmp_path / "file").write_text("")
    assert compiler._is_writable(tmp_path / "new")
    assert not compiler._is_writable(tmp_path / "file" / "below")
