"""RELION's own list of jobs, `default_pipeline.star`, and the lock by which its programs keep out of each other's way.

Source: what RELION 3.1.3 writes, and its reading of it. 3.1 has numbers for the types of jobs and files, 4 and 5 have
words for them; 4 and 5 read the numbers, too, so a new project has these, and one that is there is added to as it is.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from komad.errors import OutputError
from komad.formats import atomic, star
from komad.formats.star import Table, read_star

PIPELINE = "default_pipeline.star"
LOCK = ".relion_lock"
HAS_CHANGED = ".pipeline_has_changed"
"""RELION's window reads the list anew when this appears."""
LOCK_WAIT_S, LOCK_TRIES = 3.0, 40
"""As RELION itself waits."""
SUCCEEDED = {False: 2, True: "Succeeded"}
COUNTER = "rlnPipeLineJobCounter"
PROCESS, ALIAS = "rlnPipeLineProcessName", "rlnPipeLineProcessAlias"
NODE, TO, FROM, EDGE = (
    "rlnPipeLineNodeName",
    "rlnPipeLineEdgeToNode",
    "rlnPipeLineEdgeFromNode",
    "rlnPipeLineEdgeProcess",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of job, and of the file that it leaves, in the words of each version."""

    folder: str
    number: int
    label: str
    output: str
    output_number: int
    output_label_4: str
    output_label_5: str


IMPORT = Kind(
    folder="Import",
    number=0,
    label="relion.import.movies",
    output="movies.star",
    output_number=0,
    output_label_4="MicrographMoviesData.star.relion",
    output_label_5="MicrographMovieGroupMetadata.star.relion",
)
MOTION = Kind(
    folder="MotionCorr",
    number=1,
    label="relion.motioncorr.own",
    output="corrected_micrographs.star",
    output_number=1,
    output_label_4="MicrographsData.star.relion.motioncorr",
    output_label_5="MicrographGroupMetadata.star.relion.motioncorr",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job of a project."""

    kind: Kind
    number: int
    alias: str

    @property
    def name(self) -> str:
        """`Import/job001`, without the slash that RELION puts at its end."""
        return f"{self.kind.folder}/job{self.number:03}"

    @property
    def output(self) -> str:
        """The file that other jobs take, from the folder of the project."""
        return f"{self.name}/{self.kind.output}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """The list of a project."""

    tables: Mapping[str, Table]
    version: int
    """RELION's number for the layout."""
    has_words: bool
    """Types are words (RELION 4 and 5), not numbers (3.1)."""
    has_depth: bool
    """As RELION 5 writes."""

    @property
    def next_job(self) -> int:
        """The first number that is free."""
        general = self.tables.get("pipeline_general")
        return 1 if general is None else int(general.columns.get(COUNTER, 1))

    def has(self, job: Job) -> bool:
        """Whether the job is in the list."""
        table = self.tables.get("pipeline_processes")
        return table is not None and f"{job.name}/" in table.columns.get(PROCESS, ())

    def takes_alias(self, alias: str) -> bool:
        """Whether a job has this alias."""
        table = self.tables.get("pipeline_processes")
        return table is not None and alias in table.columns.get(ALIAS, ())

    def with_jobs(self, jobs: Sequence[Job]) -> Pipeline:
        """The list with these jobs in a row, each taking what the one before it leaves; they have succeeded."""
        rows: dict[str, list[dict[str, Any]]] = {
            "pipeline_processes": [],
            "pipeline_nodes": [],
            "pipeline_input_edges": [],
            "pipeline_output_edges": [],
        }
        for place, job in enumerate(jobs):
            name = f"{job.name}/"
            rows["pipeline_processes"].append(
                {PROCESS: name, ALIAS: f"{job.kind.folder}/{job.alias}/", **self._types_of(job)}
            )
            rows["pipeline_nodes"].append({NODE: job.output, **self._output_types_of(job)})
            rows["pipeline_output_edges"].append({EDGE: name, TO: job.output})
            if place:
                rows["pipeline_input_edges"].append({FROM: jobs[place - 1].output, EDGE: name})
        counter = max([self.next_job, *(job.number + 1 for job in jobs)])
        general = self.tables.get("pipeline_general", Table("pipeline_general", {}, loop=False))
        tables = {
            **self.tables,
            "pipeline_general": Table("pipeline_general", {**general.columns, COUNTER: counter}, loop=False),
        }
        for block, new in rows.items():
            tables[block] = _extended(tables.get(block, Table(block, {}, loop=True)), new)
        return Pipeline(
            tables=tables, version=self.version, has_words=self.has_words, has_depth=self.has_depth
        )

    def _types_of(self, job: Job) -> dict[str, Any]:
        if self.has_words:
            return {
                "rlnPipeLineProcessTypeLabel": job.kind.label,
                "rlnPipeLineProcessStatusLabel": SUCCEEDED[True],
            }
        return {"rlnPipeLineProcessType": job.kind.number, "rlnPipeLineProcessStatus": SUCCEEDED[False]}

    def _output_types_of(self, job: Job) -> dict[str, Any]:
        if not self.has_words:
            return {"rlnPipeLineNodeType": job.kind.output_number}
        if self.has_depth:
            return {
                "rlnPipeLineNodeTypeLabel": job.kind.output_label_5,
                "rlnPipeLineNodeTypeLabelDepth": 1,
            }
        return {"rlnPipeLineNodeTypeLabel": job.kind.output_label_4}

    def dumps(self) -> str:
        """The text of the file; RELION leaves out loops without rows, and so does this."""
        order = (
            "pipeline_general",
            "pipeline_processes",
            "pipeline_nodes",
            "pipeline_input_edges",
            "pipeline_output_edges",
        )
        names = [*order, *(name for name in self.tables if name not in order)]
        tables = [self.tables[name] for name in names if name in self.tables]
        full = [table for table in tables if not table.loop or any(map(len, table.columns.values()))]
        return star.dumps(full, version=self.version)


def _extended(table: Table, rows: Sequence[Mapping[str, Any]]) -> Table:
    labels = [*table.columns, *(label for row in rows for label in row if label not in table.columns)]
    n_before = len(next(iter(table.columns.values()), ()))
    columns = {
        label: [*table.columns.get(label, ["None"] * n_before), *(row.get(label, "None") for row in rows)]
        for label in dict.fromkeys(labels)
    }
    return Table(table.name, columns, loop=True)


def read_pipeline(project: Path) -> Pipeline:
    """Read the list of a project; an empty one where it has none yet.

    Raises
    ------
    StarError
        It is damaged.
    """
    path = project / PIPELINE
    if not path.exists():
        return Pipeline(tables={}, version=30001, has_words=False, has_depth=False)
    tables = read_star(path)
    version = re.search(r"^# version (\d+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    number = 30001 if version is None else int(version[1])
    labels = {label for table in tables.values() for label in table.columns}
    words = {"rlnPipeLineNodeTypeLabel", "rlnPipeLineProcessTypeLabel"}
    numbers = {"rlnPipeLineNodeType", "rlnPipeLineProcessType"}
    has_words = bool(labels & words) or (number >= 50001 and not labels & numbers)
    return Pipeline(
        tables=tables,
        version=number,
        has_words=has_words,
        has_depth=has_words and ("rlnPipeLineNodeTypeLabelDepth" in labels or number >= 50001),
    )


def write_pipeline(project: Path, pipeline: Pipeline) -> None:
    """Write the list, and tell a window of RELION that shows it. Raises OutputError, DiskFullError."""
    atomic.write_text(project / PIPELINE, pipeline.dumps())
    try:
        (project / HAS_CHANGED).touch()
    except OSError as error:
        raise atomic.explained(project / HAS_CHANGED, error) from error


@contextmanager
def locked(project: Path, *, sleep: Callable[[float], object] = time.sleep) -> Iterator[None]:
    """Keep RELION's programs from the list of jobs, as they keep each other from it.

    Raises
    ------
    OutputError
        The folder cannot be written to, or another program keeps the lock for two minutes.
    """
    lock = project / LOCK
    for _ in range(LOCK_TRIES):
        try:
            lock.mkdir()
            break
        except FileExistsError:
            sleep(LOCK_WAIT_S)
        except OSError as error:
            raise OutputError(
                f"cannot make {lock}: {error.strerror}; a RELION project must be writable for who exports to it"
            ) from error
    else:
        raise OutputError(
            f"{lock} has been there for two minutes: another program of RELION uses the project, or one ended without "
            "removing it; if none runs, remove the folder"
        )
    try:
        (lock / f"lock_{PIPELINE}").write_text("komad export\n", encoding="utf-8")
        yield
    finally:
        shutil.rmtree(lock, ignore_errors=True)
