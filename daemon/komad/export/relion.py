"""A session as an Import and a MotionCorr job of a RELION project, and what is new of it from time to time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from komad.detector.gain import inverted
from komad.errors import MovieError, MovieMissingError, OutputError, ParameterError, ReferenceFileError
from komad.export import movies, relion_pipeline, relion_tables
from komad.export.gain import factor_of, key_of
from komad.export.movies import RawMovie, State
from komad.export.place import put, take_back
from komad.export.relion_pipeline import IMPORT, MOTION, Job
from komad.export.relion_tables import PICTURES, Names, safe_name
from komad.export.session import Entry, Session, read_session
from komad.formats import atomic
from komad.formats.images import write_reference
from komad.formats.mrc import HEADER_BYTES, parse_header
from komad.output.schema import MovieDetails

NOTES = "komad.json"
"""In the MotionCorr job: by it komad finds the job again."""
LOCK = "komad.lock"
"""Beside it, held by the export that is at work; empty."""
MOVIES = "Movies"
DONE = "RELION_JOB_EXIT_SUCCESS"
PROJECT = ".gui_projectdir"
"""RELION's window asks whether to begin a project where this is missing."""
HALF_FLOAT = 12


@dataclass(kw_only=True, slots=True)
class Report:
    """What was exported."""

    import_job: str = ""
    motion_job: str = ""
    alias: str = ""
    n_micrographs: int = 0
    n_new: int = 0
    """Of them, those that were not there before, or were processed again."""
    n_unpacked: int = 0
    packed: dict[str, RawMovie] = field(default_factory=dict)
    """By stem: movies that polishing does not find until they are unpacked."""
    lost: list[str] = field(default_factory=list)
    """Stems of movies of which there is neither the file nor an archive."""
    problems: dict[str, str] = field(default_factory=dict)
    """Stem -> what is wrong with it, in words."""
    notes: list[str] = field(default_factory=list)
    """What a person should know of all of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Done:
    """A movie whose files are in the job."""

    written_at: str
    names: Names
    raw: RawMovie
    is_found: bool
    """RELION finds its frames."""
    gain_problem: str
    notes: tuple[str, ...]

    @property
    def is_settled(self) -> bool:
        return self.is_found and not self.gain_problem


class RelionExport:
    """Keeps a pair of jobs like the output folder of a session.

    Parameters
    ----------
    project
        The folder of a RELION project; one is begun where there is none.
    output
        The output folder of the session.
    name
        Name of the jobs (their alias) and of the folder of movies; that of the output folder when None.
    unpack
        Write movies that RELION cannot read as MRC.
    copy
        Copy files instead of linking to them.
    """

    def __init__(
        self,
        project: Path,
        output: Path,
        *,
        name: str | None = None,
        unpack: bool = False,
        copy: bool = False,
    ) -> None:
        self._project = project
        self._output = output
        self._name = name
        self._unpack = unpack
        self._copy = copy
        self._jobs: tuple[Job, Job] | None = None
        self._done: dict[str, _Done] = {}  # by stem
        self._gains: dict[str, str] = {}  # content and orientation -> name in the job
        self._through = _links_to_folders(project)

    def update(self, on_movie: Callable[[int, int], None] = lambda _done, _all: None) -> Report:
        """Bring the jobs up to date; gives what they hold now. `on_movie` is called with done and all.

        Raises
        ------
        ParameterError
            The output folder is none, or holds nothing yet.
        OutputError, DiskFullError
            The project cannot be written to, or something else has a name that is needed.
        StarError
            The index of the session, or the list of jobs of the project, is damaged.
        """
        session = read_session(self._output)
        if not session.entries:
            raise ParameterError(
                f"{self._output} holds no corrected movie yet: export when there is one, or --follow"
            )
        _prove_writable(self._project)
        report = Report()
        with self._held(session) as (import_job, motion_job):
            report.import_job, report.motion_job = import_job.name, motion_job.name
            report.alias = motion_job.alias
            taken: dict[str, str] = {}
            for number, entry in enumerate(session.entries, start=1):
                self._keep_up(session, entry, _unique(entry.stem, taken), report)
                on_movie(number, len(session.entries))
            self._write_lists(session, import_job, motion_job, report)
            report.n_micrographs = sum(entry.stem in self._done for entry in session.entries)
        return report

    @contextmanager
    def _held(self, session: Session) -> Iterator[tuple[Job, Job]]:
        """The two jobs, made when they are missing, with no second export at work on them."""
        self._jobs = self._jobs if self._jobs and self._notes_path().is_file() else self._find_jobs()
        if self._jobs is None:
            self._jobs = self._make_jobs(session)
        path = self._notes_path()
        try:
            lock = path.with_name(LOCK).open("w")
        except OSError as error:
            raise atomic.explained(path.with_name(LOCK), error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another komad export writes to {self._jobs[1].name}: wait for it, or stop it"
                ) from None
            except OSError:
                pass  # a file system without locks
            try:
                self._gains = dict(json.loads(path.read_bytes())["gains"])
            except OSError as error:
                raise atomic.explained(path, error) from error
            except (ValueError, KeyError, TypeError) as error:
                raise OutputError(
                    f"{path} is damaged ({error}): move it away, and the next export makes new jobs"
                ) from error
            yield self._jobs

    def _notes_path(self) -> Path:
        assert self._jobs is not None
        return self._project / self._jobs[1].name / NOTES

    def _find_jobs(self) -> tuple[Job, Job] | None:
        """The jobs that an earlier export of this output folder made, and that are still in the project."""
        for path in sorted(self._project.glob(f"{MOTION.folder}/job*/{NOTES}"), reverse=True):
            try:
                notes = json.loads(path.read_bytes())
                if notes["output"] != str(self._output.resolve()):
                    continue
                number, alias = int(notes["import_job"]), str(notes["alias"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            jobs = (
                Job(kind=IMPORT, number=number, alias=alias),
                Job(kind=MOTION, number=number + 1, alias=alias),
            )
            with relion_pipeline.locked(self._project):
                pipeline = relion_pipeline.read_pipeline(self._project)
                if missing := [job for job in jobs if not pipeline.has(job)]:
                    if len(missing) == 1:
                        continue  # one of them was deleted in RELION
                    relion_pipeline.write_pipeline(self._project, pipeline.with_jobs(jobs))
            return jobs
        return None

    def _make_jobs(self, session: Session) -> tuple[Job, Job]:
        with relion_pipeline.locked(self._project):
            pipeline = relion_pipeline.read_pipeline(self._project)
            number = pipeline.next_job
            while any(self._project.glob(f"*/job{number:03}")) or any(
                self._project.glob(f"*/job{number + 1:03}")
            ):
                number += 1
            alias = self._free_alias(pipeline)
            jobs = (
                Job(kind=IMPORT, number=number, alias=alias),
                Job(kind=MOTION, number=number + 1, alias=alias),
            )
            self._write_job_files(session, jobs, has_words=pipeline.has_words)
            notes = {
                "schema_version": 1,
                "output": str(self._output.resolve()),
                "import_job": number,
                "alias": alias,
                "gains": {},
            }
            atomic.write_text(self._project / jobs[1].name / NOTES, json.dumps(notes, indent=1) + "\n")
            relion_pipeline.write_pipeline(self._project, pipeline.with_jobs(jobs))
            if not pipeline.has_words:
                for job in jobs:
                    _touch(self._project / ".Nodes" / str(job.kind.output_number) / job.output)
        _touch(self._project / PROJECT)
        return jobs

    def _free_alias(self, pipeline: relion_pipeline.Pipeline) -> str:
        name = safe_name(self._name or self._output.resolve().name).replace(".", "_")
        number, alias = 1, name
        while any(
            pipeline.takes_alias(f"{kind.folder}/{alias}/")
            or os.path.lexists(self._project / kind.folder / alias)
            for kind in (IMPORT, MOTION)
        ):
            number += 1
            alias = f"{name}-{number}"
        return alias

    def _write_job_files(self, session: Session, jobs: tuple[Job, Job], *, has_words: bool) -> None:
        details = _first_details(session)
        options = (
            relion_tables.import_options(self._movie_folder(jobs[0].alias), session.entries[0].optics),
            relion_tables.motion_options(jobs[0], details, None),
        )
        empty = relion_pipeline.Pipeline(tables={}, version=30001, has_words=has_words, has_depth=False)
        for job, values in zip(jobs, options, strict=True):
            folder = self._project / job.name
            atomic.make_directory(folder)
            atomic.write_text(folder / "job.star", relion_tables.job_star(job, values, has_words=has_words))
            atomic.write_text(folder / "job_pipeline.star", empty.with_jobs([job]).dumps())
            atomic.write_text(
                folder / "note.txt",
                f"exported by komad from {session.directory.resolve()}; nothing was computed here\n",
            )
            for name in ("run.out", "run.err", DONE):
                _touch(folder / name)
            alias = self._project / job.kind.folder / job.alias
            try:
                alias.symlink_to(f"../{job.name}/")
            except FileExistsError:
                pass
            except OSError as error:
                raise atomic.explained(alias, error) from error

    def _movie_folder(self, alias: str) -> str:
        """`Movies/<alias>`; beside it when `Movies` is a link to the camera's folder, which is nobody's to write to."""
        is_elsewhere = (self._project / MOVIES).is_symlink()
        return f"{MOVIES}_komad/{alias}" if is_elsewhere else f"{MOVIES}/{alias}"

    def _keep_up(self, session: Session, entry: Entry, name: str, report: Report) -> None:
        """Export a movie that is new, was processed again, or whose frames or gain were not there."""
        before = self._done.get(entry.stem)
        if before is None or before.written_at != entry.written_at or not before.is_settled:
            try:
                details = _details(entry)
                done, is_new = self._export(session, entry, details, name, report)
            except MovieError as error:
                self._done.pop(entry.stem, None)
                report.problems[entry.stem] = str(error)
                return
            self._done[entry.stem] = done
            report.n_new += is_new
        done = self._done[entry.stem]
        if done.gain_problem:
            report.problems[entry.stem] = done.gain_problem
        if not done.is_found and done.raw.state is State.LOST:
            report.lost.append(entry.stem)
        elif not done.is_found:
            report.packed[entry.stem] = done.raw
        report.notes += [note for note in done.notes if note not in report.notes]

    def _export(
        self, session: Session, entry: Entry, details: MovieDetails, name: str, report: Report
    ) -> tuple[_Done, bool]:
        """Put the files of one movie into the job; gives whether there was anything to do."""
        for file in (entry.files[kind] for kind in (*PICTURES, "motion") if kind in entry.files):
            if not (session.directory / file).is_file():
                raise MovieMissingError(f"{session.directory / file} is gone; process the movie again")
        raw = movies.raw_movie(entry, details)
        movie_name, is_found = self._place_movie(entry, raw, name, report)
        gain, gain_problem = self._gain(details, is_eer=raw.suffix == ".eer")
        assert self._jobs is not None
        job = self._jobs[1]
        names = Names(movie=movie_name, micrograph=f"{job.name}/{MOVIES}/{job.alias}/{name}", gain=gain)
        is_new = False
        for file in (entry.files[kind] for kind in PICTURES if kind in entry.files):
            target = self._project / names.file(entry, file)
            is_new |= put(session.directory / file, target, copy=self._copy)
        motion = relion_tables.motion_star(
            (session.directory / entry.files["motion"]).read_text(encoding="utf-8"), names
        )
        is_new |= _write_if_new(self._project / names.file(entry, entry.files["motion"]), motion)
        done = _Done(
            written_at=entry.written_at,
            names=names,
            raw=raw,
            is_found=is_found,
            gain_problem=gain_problem,
            notes=tuple(_notes(session, entry, details, raw)),
        )
        return done, is_new

    def _place_movie(self, entry: Entry, raw: RawMovie, name: str, report: Report) -> tuple[str, bool]:
        """Make a movie's frames ready; gives what it is called in the project, and whether RELION finds it there."""
        assert self._jobs is not None
        named = f"{self._movie_folder(self._jobs[1].alias)}/{name}{raw.suffix}"
        target = self._project / named
        if raw.state is State.AS_IT_LIES:
            if raw.source == entry.movie and (inside := self._inside(entry.movie, raw.suffix)):
                return inside, True
            put(raw.source, target, copy=self._copy)
            return named, True
        take_back(entry.movie, target)
        if raw.state is State.PACKED and self._unpack and not target.is_file():
            atomic.make_directory(target.parent)
            pixel_size = entry.summary.movie_pixel_size_angstrom
            movies.unpack(raw, target, pixel_size_angstrom=pixel_size)
            report.n_unpacked += 1
        return named, target.is_file()

    def _inside(self, movie: Path, suffix: str) -> str | None:
        """Name of a movie that lies in the project, or in a folder to which a link in it leads; None elsewhere."""
        for name, place in self._through.items():
            whole = os.path.realpath(movie.parent) + f"/{movie.name}"
            if whole.startswith(f"{place}/"):
                inside = (f"{name}/" if name else "") + whole.removeprefix(f"{place}/")
                if inside.endswith(suffix) and all(safe_name(part) == part for part in inside.split("/")):
                    return inside
        return None

    def _gain(self, details: MovieDetails, *, is_eer: bool) -> tuple[str | None, str]:
        """Name of the movie's gain in the project, where it is an EER file or not, and what is wrong with it.

        RELION takes a gain as it lies, so it gets the factor as komad used it. Where that cannot be had, the name is
        that of a file that is missing: polishing then leaves the movie out and says so, instead of going on without.
        """
        if details.references.gain is None:
            return None, ""
        # RELION takes gains of EER movies for flat fields, unless they are `.gain` files: it divides by them.
        key = key_of(details) + " EER" * is_eer
        assert self._jobs is not None
        folder = self._jobs[1].name
        file = self._gains.get(key) or (f"gain-{len(self._gains) + 1}.mrc" if self._gains else "gain.mrc")
        if not (self._project / folder / file).is_file():
            try:
                factor = factor_of(details)
                write_reference(self._project / folder / file, inverted(factor) if is_eer else factor)
            except ReferenceFileError as error:
                return f"{folder}/{file}", str(error)
        self._remember_gain(key, file)
        return f"{folder}/{file}", ""

    def _remember_gain(self, key: str, file: str) -> None:
        if key in self._gains:
            return
        self._gains[key] = file
        path = self._notes_path()
        notes = {**json.loads(path.read_bytes()), "gains": self._gains}
        atomic.write_text(path, json.dumps(notes, indent=1) + "\n")

    def _write_lists(self, session: Session, import_job: Job, motion_job: Job, report: Report) -> None:
        known = [(entry, self._done[entry.stem]) for entry in session.entries if entry.stem in self._done]
        found = [(entry, done.names) for entry, done in known if done.is_found]
        _write_if_new(self._project / import_job.output, relion_tables.movies_star(session.optics, found))
        micrographs = [(entry, done.names) for entry, done in known]
        text = relion_tables.micrographs_star(session.optics, micrographs)
        _write_if_new(self._project / motion_job.output, text)
        sizes = sorted({entry.optics["rlnMicrographPixelSize"] for entry, _ in micrographs})
        if len(sizes) < 2:
            return
        files = []
        for size in sizes:
            of_size = [each for each in micrographs if each[0].optics["rlnMicrographPixelSize"] == size]
            files.append(motion_job.output.replace(".star", f"_{size:g}A.star"))
            text = relion_tables.micrographs_star(session.optics, of_size)
            _write_if_new(self._project / files[-1], text)
        report.notes.append(
            f"micrographs have {len(sizes)} pixel sizes, and RELION picks in one at a time: {', '.join(files)}"
        )


def _unique(stem: str, taken: dict[str, str]) -> str:
    """A name for the project, the same at every export: the order of the index does not change."""
    number, name = 1, safe_name(stem)
    while taken.setdefault(name, stem) != stem:
        number += 1
        name = f"{safe_name(stem)}-{number}"
    return name


def _links_to_folders(project: Path) -> dict[str, str]:
    """Name in the project -> where it leads; '' is the project itself."""
    found = {"": os.path.realpath(project)}
    with suppress(OSError):
        found |= {
            path.name: os.path.realpath(path)
            for path in sorted(project.iterdir())
            if path.is_symlink() and path.is_dir()
        }
    return found


def _details(entry: Entry) -> MovieDetails:
    """What is known of a movie; where that cannot be read, it is this movie's fault and stops no other."""
    try:
        return entry.details()
    except OutputError as error:
        raise MovieError(str(error)) from error


def _first_details(session: Session) -> MovieDetails:
    """What is known of the first movie of which it can be read. Raises OutputError when there is none."""
    *others, last = session.entries
    for entry in others:
        with suppress(OutputError):
            return entry.details()
    return last.details()


def _notes(session: Session, entry: Entry, details: MovieDetails, raw: RawMovie) -> Iterator[str]:
    yield from raw.notes
    if details.references.dark is not None:
        yield "RELION knows no dark reference: polishing takes the frames without it"
    path = session.directory / entry.files["micrograph"]
    with path.open("rb") as file:
        if parse_header(file.read(HEADER_BYTES), path).mode == HALF_FLOAT:
            yield "micrographs are 16-bit floats, which RELION 3.1 cannot read (4 and 5 can): output.float16"


def _write_if_new(path: Path, text: str) -> bool:
    with suppress(OSError):
        if path.read_text(encoding="utf-8") == text:
            return False
    atomic.make_directory(path.parent)
    atomic.write_text(path, text)
    return True


def _touch(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise atomic.explained(path, error) from error


def _prove_writable(project: Path) -> None:
    atomic.make_directory(project)
    if not os.access(project, os.W_OK | os.X_OK):
        raise OutputError(
            f"{project} cannot be written to by this user: export as who owns the project, or to another folder"
        )
