"""A session in which workers and daemons are killed and stopped while files come broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import chaos, installation


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", [1])
def test_chaos(tmp_path: Path, numba_cache: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file ends once, as a verified archive with its micrograph or failed with the reason that fits."""
    settings = installation.settings_at(tmp_path, numba_cache)
    attacks = chaos.random_attacks(100, seed)
    account = chaos.run(settings, n_movies=500, per_s=20, seed=seed, attacks=attacks)
    with capsys.disabled():
        print(f"\n{account}")  # noqa: T201 - the figures
    assert account.faults == []
    assert min(account.n_kills, account.n_stops, account.n_restarts) > 0
