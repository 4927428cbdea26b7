"""A short session with everything that goes wrong in the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import chaos, installation


@pytest.mark.slow
@pytest.mark.timeout(600)  # compiles all loops where none are kept
def test_chaos(tmp_path: Path, numba_cache: Path) -> None:
    """Every file ends once, as a verified archive with its micrograph or failed with the reason that fits."""
    settings = installation.settings_at(tmp_path, numba_cache)
    attacks: list[chaos.Attack] = ["stop worker", "kill daemon"]
    account = chaos.run(settings, n_movies=10, per_s=10, seed=2, attacks=attacks)
    assert account.faults == []
    assert (account.n_stops, account.n_restarts) == (1, 1)
