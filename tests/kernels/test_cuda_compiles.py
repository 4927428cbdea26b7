"""NVIDIA's compilers take the CUDA sources, where they are installed; no device is needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from komad.kernels.cuda import device

# What a source is compiled with: types of a pixel, few or many running sums.
COUNTS: list[dict[str, object]] = [{"COUNT": it} for it in ("unsigned char", "short", "float", "double")]
CHOICES: dict[str, list[dict[str, object]]] = {
    "alignment.cu": [{}],
    "frames.cu": COUNTS,
    "fused.cu": [{"N_SUMS": n} for n in (1, 7, 16)],
    "koma.cu": COUNTS,
    "pattern.cu": [{}],
    "spectra.cu": [{}],
}
CAPABILITIES = (70, 75, 80, 90)
"""From the oldest that CUDA 12 knows."""


def macros(source: str) -> list[tuple[tuple[str, object], ...]]:
    """The choices as `device` has them."""
    return [tuple(sorted(choice.items())) for choice in CHOICES[source]]


def test_no_source_is_left_out() -> None:
    """Every source is tried."""
    assert {path.name for path in device.SOURCES.glob("*.cu")} == set(CHOICES)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("source", CHOICES)
def test_nvcc(source: str, tmp_path: Path) -> None:
    """Without a warning, and with all that a thread keeps in its registers."""
    code = tmp_path / source
    code.write_text(device.text(source), encoding="utf-8")
    command = ["nvcc", "-arch=sm_90", "-Werror=all-warnings", "-Xptxas=--warn-on-spills", "-cubin"]
    choice = macros(source)[-1]  # it takes seconds each
    subprocess.run([*command, *device.options(choice), "-o", str(tmp_path / "out"), str(code)], check=True)


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    """The compiler that CuPy calls when a program runs."""
    cupy = pytest.importorskip("cupy", reason="no CuPy", exc_type=ImportError)
    try:
        cupy.cuda.nvrtc.getVersion()
    except RuntimeError:
        pytest.skip("no NVRTC")
    return cupy.cuda.nvrtc


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("source", CHOICES)
def test_nvrtc(nvrtc: Any, source: str, capability: int) -> None:
    """As CuPy compiles them: the text alone, with its options, for devices old and new."""
    if capability not in nvrtc.getSupportedArchs():
        pytest.skip(f"this NVRTC knows no sm_{capability}")
    for choice in macros(source):
        program = nvrtc.createProgram(device.text(source), source, (), ())
        options = (*device.options(choice), "-ftz=true", f"-arch=sm_{capability}")
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError:
            pytest.fail(nvrtc.getProgramLog(program))
        assert b"ELF" in nvrtc.getCUBIN(program)[:8]
        nvrtc.destroyProgram(program)
