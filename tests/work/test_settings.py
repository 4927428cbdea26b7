"""Settings that only a running worker shows."""

import json

from komad.config import Settings
from komad.store import Store
from komad.store.listing import list_jobs
from komad.work.supervisor import Supervisor
from tests.work.conftest import MakeMovie, counts, wait_until


def test_archive_folder_stack_sums_and_no_read_ahead(
    settings: Settings, store: Store, make_movie: MakeMovie
) -> None:
    """Archives lie where they should, old stack sums go, and without reading ahead one movie is in hand at a time."""
    archives = settings.output.directory.parent / "archives"
    changed = settings.model_copy(
        update={
            "output": settings.output.model_copy(
                update={"archive_directory": archives, "power_spectrum": False, "thumbnail": False}
            ),
            "workers": settings.workers.model_copy(update={"read_ahead": False}),
        }
    )
    for number, stem in enumerate("abc"):
        store.add_movie(make_movie(stem, seed=number))
    supervisor = Supervisor(store, changed)
    supervisor.start()
    try:
        wait_until(
            lambda: {job.state for job in list_jobs(settings.state_directory)} == {"done"},
            tick=supervisor.tick,
        )
    finally:
        supervisor.kill()
    assert {path.name for path in archives.iterdir()} == {"a.mrcz", "b.mrcz", "c.mrcz", "archives.jsonl"}
    ends = {path.name.removeprefix("a") for path in settings.output.directory.glob("a*")}
    assert ends == {".mrc", "_noDW.mrc", "_EVN.mrc", "_ODD.mrc", ".json", ".star"}
    for number, stem in enumerate("abc"):
        details = json.loads((settings.output.directory / f"{stem}.json").read_text())
        assert details["largest_count"] == counts(number).max()
    with store.read() as connection:
        events = connection.exec_driver_sql(
            "SELECT movie_id, event FROM job_events JOIN jobs USING (job_id) WHERE event IN ('claim', 'finish')"
            " ORDER BY event_id"
        ).all()
    assert [tuple(row) for row in events] == [
        (movie_id, event) for movie_id in (1, 2, 3) for event in ("claim", "finish", "claim", "finish")
    ]
