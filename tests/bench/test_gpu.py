"""The benchmark of the GPU itself, small, on a device that the host plays."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.bench import gpu
from tests.device import device_on_the_host


@pytest.mark.soak  # of the bench alone; what it runs is tested elsewhere
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_everything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages, memory against the plan, rates, the difference from the CPU, and a session of each format."""
    monkeypatch.setattr(gpu, "REPEATS", 1)
    monkeypatch.setattr(gpu, "COPIED_BYTES", 2**20)
    with device_on_the_host():
        gpu.main(tmp_path, ((256, 224, 6),), n_movies=1, n_workers=(1,))
    told = capsys.readouterr().out
    for words in ("host, 9 GB", "CUDA 12.8", "motion ", "all frames stay", "host to device", "% of a copy"):
        assert words in told
    assert "largest difference from the CPU's pictures" in told
    for kind in ("mrc ", "tif ", "mrcz"):
        assert f"1 worker(s), 1 movies {kind}" in told
    assert told.count("4 of 4 jobs done") == 3
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and ends with a status that is not zero."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SystemExit) as end:
        gpu.main(tmp_path)
    assert "no GPU was measured" in str(end.value)
