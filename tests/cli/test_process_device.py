"""`komad process --device`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from komad.cli import exits
from komad.formats.images import read_image
from komad.simulate import MovieSpec
from komad.simulate.microscope import run_session
from komad.work.devices import Choice, WorkerDevice
from tests.cli.conftest import Komad
from tests.device import device_on_the_host


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_on_a_gpu(komad: Komad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures are those of the CPU, KOMA taken off, and the process sees the one GPU that is meant."""
    spec = MovieSpec(
        n_frames=6, ny=224, nx=256, pixel_size_angstrom=1.5, dose_per_frame=3.0, particles_per_um2=4000
    )
    run_session(tmp_path / "camera", spec, 2, 0.0)
    gpu = WorkerDevice(device="cuda:1", memory_fraction=0.5, visible="GPU-2", name="a GPU")
    monkeypatch.setattr("komad.cli.oneoff.choose", lambda *_: Choice(devices=(gpu,), reason=""))
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")
    options = ("--gain", tmp_path / "camera" / "gain.mrc", "--pixel-size", "1.5", "--voltage", "300")
    command = ("process", *sorted((tmp_path / "camera").glob("movie_*.mrc")), *options, "--koma", "-o")
    assert komad(*command, tmp_path / "cpu").code == 0
    with device_on_the_host():
        outcome = komad(*command, tmp_path / "gpu", "--device", "cuda:1")
    assert outcome.code == 0, outcome.err
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-2"
    pictures = sorted(path.name for path in (tmp_path / "cpu").glob("*.mrc"))
    assert len(pictures) == 2 * 4
    for name in pictures:
        ours, theirs = (read_image(tmp_path / side / name) for side in ("gpu", "cpu"))
        assert np.sqrt(np.square(ours - theirs).mean()) < 1e-4 * theirs.std(), name


def test_a_gpu_that_is_not_there(komad: Komad, tmp_path: Path) -> None:
    """A device that is none is a wrong value; one that cannot be used stops everything, with the reason."""
    (tmp_path / "a.mrc").touch()
    command = ("process", tmp_path / "a.mrc", "-o", tmp_path / "out", "--device")
    wrong = komad(*command, "gpu")
    assert wrong.code == exits.USAGE
    assert "--device" in wrong.err
    missing = komad(*command, "cuda:77")
    assert missing.code in {exits.CONFIG, exits.DEVICE}
    assert "cuda:77" in missing.err or "CuPy is not installed" in missing.err
