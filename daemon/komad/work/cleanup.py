"""Clean-up: the camera's file is removed once its archive is proven to hold the same frames. Off by default.

Everything that must hold is looked at again in the moment of the removal: archive and movie are read from their disks
and compared, frame by frame, or byte by byte where the archive is a copy. Whatever cannot be looked at, or goes wrong,
keeps the movie. A kill at any point leaves the movie, or its proven archive and a line of the manifest that says why
the movie is gone.

The daemon runs it in a process of its own, `python -m komad.work.cleanup`, the settings as JSON on standard input: it
may hang in a lost mount, or be killed, and nothing else notices.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from itertools import zip_longest
from pathlib import Path

import numpy as np
import structlog

from komad import log
from komad.config import Settings
from komad.errors import AlreadyRunningError, KomadError, ParameterError
from komad.formats.atomic import sync_folder
from komad.formats.copies import ARCHIVE_SUFFIXES, checksum_archive
from komad.formats.movies import MovieReader, open_movie
from komad.formats.mrcz import FileChecksum
from komad.formats.source import SourceFile
from komad.model import JobState, MovieFormat
from komad.model.frame_names import is_frames
from komad.output.manifest import ArchiveEntry, ArchiveLine, Event, Manifest, Moment, record_removal
from komad.store import Store
from komad.store.listing import SourceLine, list_sources
from komad.store.overview import CleanupState
from komad.work.disk import absence

logger = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-m", "komad.work.cleanup")
INTERVAL_S = 60.0
"""Between two looks, or four times as long as one takes."""
TRY_AGAIN_S = 3600.0
"""A movie that was compared in vain is not read again before this."""
RESTART_S = 60.0
KILL_LIMIT_S = 1.0
NICENESS = 19
N_TOLD = 5
"""Movies that are kept, and why, as the status tells."""
STOPPED = "komad stops"


class Fate(Enum):
    """What becomes of a movie's file."""

    DUE = auto()
    WAITS = auto()
    """It stays for now: its jobs are not done, or it is too young."""
    KEPT = auto()
    GONE = auto()
    """Removed before, or not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What becomes of a movie's file, and why."""

    source: SourceLine
    line: ArchiveLine | None
    """What the manifest says of its archive."""
    fate: Fate
    reason: str
    """For people; '' when it is due."""


class Cleaner:
    """Looks at all movies, and removes those that are due. For one thread.

    Parameters
    ----------
    settings
        Folders, and `cleanup.delete_movies_after_h`; what is None there counts as 0 in a look.
    clock, moment
        The wall clock, and the one that nobody sets.
    go_on
        Asked again and again; when it says no, nothing more is removed.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        moment: Callable[[], Moment] = Moment.now,
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._directory = settings.archive_directory
        self._clock = clock
        self._moment = moment
        self._go_on = go_on
        self._manifest = Manifest(self._directory)
        self._in_vain: dict[int, tuple[str, float]] = {}
        """Movie -> why comparing did not help, and when (monotonic s)."""

    def look(self) -> list[Verdict]:
        """Say of every movie what becomes of its file; nothing is read but names, sizes and times.

        Raises
        ------
        StoreError, OutputError
            The database or the manifest cannot be read.
        """
        self._manifest.refresh()
        sources = list_sources(self._settings.state_directory)
        same_path, same_content = _shared(sources)
        return [
            self._judge(source, is_shared=source.path in same_path or _content(source) in same_content)
            for source in sources
        ]

    def clean(self, on_change: Callable[[CleanupState], None] = lambda _: None) -> int:
        """Remove what is due, the oldest first, one after the other; gives their number.

        Raises
        ------
        ParameterError
            `cleanup.delete_movies_after_h` is not set: no movie may be removed.
        StoreError, OutputError
            As `look`.
        """
        if self._settings.cleanup.delete_movies_after_h is None:
            raise ParameterError("movies stay: cleanup.delete_movies_after_h is not set")
        verdicts = self.look()
        self._tell_interrupted(verdicts)
        on_change(self.state(verdicts))
        n_removed = 0
        for verdict in list(verdicts):
            if verdict.fate is not Fate.DUE or self._is_in_vain(verdict.source) or not self._go_on():
                continue
            assert verdict.line is not None
            if self._try(verdict.source, verdict.line.entry):
                n_removed += 1
                verdicts.remove(verdict)
            self._manifest.refresh()
            on_change(self.state(verdicts))
        return n_removed

    def _tell_interrupted(self, verdicts: Sequence[Verdict]) -> None:
        """Complete the lines of movies that were removed in the moment when komad was killed."""
        for verdict in verdicts:
            line = verdict.line
            if verdict.fate is Fate.GONE and line is not None and line.last is Event.REMOVING:
                record_removal(self._directory, line.entry, Event.REMOVED)
        self._manifest.refresh()

    def state(self, verdicts: Sequence[Verdict]) -> CleanupState:
        """What a status shows."""
        kept = {verdict.source.stem: why for verdict in verdicts if (why := self._why_kept(verdict))}
        due = [
            verdict for verdict in verdicts if verdict.fate is Fate.DUE and verdict.source.stem not in kept
        ]
        return CleanupState(
            n_removed=self._manifest.n_removed,
            removed_bytes=self._manifest.removed_bytes,
            n_due=len(due),
            due_bytes=sum(verdict.source.size_bytes for verdict in due),
            n_kept=len(kept),
            kept=dict(list(kept.items())[-N_TOLD:]),
        )

    def _why_kept(self, verdict: Verdict) -> str:
        """Why a movie stays that could go by its jobs and its age."""
        if verdict.fate is not Fate.DUE:
            return verdict.reason if verdict.fate is Fate.KEPT else ""
        why, _ = self._in_vain.get(verdict.source.movie_id, ("", 0.0))
        return why

    def _is_in_vain(self, source: SourceLine) -> bool:
        _, tried_at = self._in_vain.get(source.movie_id, ("", -TRY_AGAIN_S))
        return time.monotonic() - tried_at < TRY_AGAIN_S

    # What must hold, without reading frames.

    def _judge(self, source: SourceLine, *, is_shared: bool) -> Verdict:
        line = self._line_of(source)
        try:
            fate, reason = next(self._objections(source, line, is_shared=is_shared), (Fate.DUE, ""))
        except FileNotFoundError:
            lost = "; ".join(filter(None, map(absence, self._folders_of(Path(source.path)))))
            fate, reason = (Fate.KEPT, lost) if lost else (Fate.GONE, "it is gone")
        except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
            fate, reason = Fate.KEPT, f"cannot be looked at: {error}"
        return Verdict(source=source, line=line, fate=fate, reason=reason)

    def _line_of(self, source: SourceLine) -> ArchiveLine | None:
        """What the manifest says of the movie's archive; of another movie's of this name, if it has no other."""
        lines = [self._manifest.lines.get(f"{source.stem}{suffix}") for suffix in ARCHIVE_SUFFIXES]
        there = sorted(filter(None, lines), key=lambda line: not _is_of(line.entry, source))
        return there[0] if there else None

    def _objections(
        self, source: SourceLine, line: ArchiveLine | None, *, is_shared: bool
    ) -> Iterator[tuple[Fate, str]]:
        """Give all that speaks against a removal; the cheapest to find out first. Raises FileNotFoundError, OSError."""
        for kind, state in (("archive", source.archive_state), ("correct", source.correct_state)):
            if state != JobState.DONE:
                yield Fate.WAITS, f"its {kind} job is {state}"
        if line is None:
            yield Fate.KEPT, f"{self._manifest.path} has no line of its archive"
            return
        if line.last is Event.REMOVED:
            yield Fate.GONE, "removed before"
        if is_shared:
            yield Fate.KEPT, "another movie has the same path, or the same content and time"
        if not _is_of(line.entry, source):
            yield Fate.KEPT, "the manifest's archive of that name is of another file"
        wanted_s = 3600 * (self._settings.cleanup.delete_movies_after_h or 0.0)
        age_s = self._age_s(line)
        if age_s < wanted_s:
            yield Fate.WAITS, f"archived {age_s / 3600:.1f} h ago, {wanted_s / 3600:g} h are wanted"
        for reason in self._objections_of_files(source, line.entry):
            yield Fate.KEPT, reason

    def _age_s(self, line: ArchiveLine) -> float:
        """Seconds since the archive was made, at least.

        The wall clock can jump; seconds since the boot cannot, but another boot tells only that the archive is older
        than this one. The smaller of both counts.
        """
        now = self._moment()
        since_boot_s = now.boottime_s
        if now.boot_id == line.moment.boot_id:
            since_boot_s -= line.moment.boottime_s
        return min(since_boot_s, (self._clock() - line.at).total_seconds())

    def _objections_of_files(self, source: SourceLine, entry: ArchiveEntry) -> Iterator[str]:
        """Give what names, sizes and times of both files tell. Raises FileNotFoundError without the movie, OSError."""
        path, archive = Path(source.path), self._directory / entry.archive
        if is_frames(path):
            yield "its frames are files of their own, which komad does not remove: remove them yourself"
            return
        folders = self._folders_of(path)
        if not folders:
            yield "it is in no watched folder"
        place = path.parent.resolve(strict=True)
        if not any(place == it.resolve(strict=True) / path.parent.relative_to(it) for it in folders):
            yield f"{path.parent} is reached through a link"
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            yield "it is a link, not a file"
        if status.st_nlink > 1:
            yield "the file has another name, too (a hard link): nothing would be freed"
        if (status.st_size, status.st_mtime_ns) != (source.size_bytes, source.mtime_ns):
            yield "its size or time has changed since it was archived"
        try:
            kept = archive.lstat()
        except FileNotFoundError:
            yield f"its archive {archive} is missing"
            return
        if not stat.S_ISREG(kept.st_mode) or os.path.samestat(status, kept):
            yield f"its archive {archive} is no file of its own"
        if kept.st_size != entry.archive_bytes:
            yield f"its archive {archive} has not the size it had when it was made"

    def _folders_of(self, path: Path) -> list[Path]:
        """The watched folders that `path` lies in."""
        folders = (folder.directory for folder in self._settings.watch)
        return [folder for folder in folders if path.is_relative_to(folder)]

    # The proof, and the removal.

    def _try(self, source: SourceLine, entry: ArchiveEntry) -> bool:
        """Remove one movie if it is proven; tells whether it was. Whatever goes wrong keeps it."""
        started = time.monotonic()
        try:
            why_kept = self._remove(source, entry)
        except (KomadError, OSError) as error:
            why_kept = str(error)
        except Exception as error:  # a file that no reader foresaw must not keep all others
            logger.exception("unexpected error", movie=source.stem, movie_id=source.movie_id)
            why_kept = f"{type(error).__name__}: {error}"
        facts = {"movie": source.stem, "movie_id": source.movie_id, "path": source.path}
        if why_kept == STOPPED:
            return False
        if why_kept:
            self._in_vain[source.movie_id] = (why_kept, time.monotonic())
            logger.error("movie is kept", **facts, reason=why_kept)
            return False
        logger.info(
            "movie removed, its archive is proven",
            **facts,
            bytes=source.size_bytes,
            archive=str(self._directory / entry.archive),
            seconds=round(time.monotonic() - started, 3),
        )
        return True

    def _remove(self, source: SourceLine, entry: ArchiveEntry) -> str:
        """Prove and remove; gives why it stays instead. All errors that it raises come before the removal."""
        path, archive = Path(source.path), self._directory / entry.archive
        with ExitStack() as stack:
            folder = stack.enter_context(_opened_folder(path.parent))
            movie = stack.enter_context(open_movie(path))
            kept = stack.enter_context(open_movie(archive))
            opened = [movie.status(), kept.status()]
            if why := next(self._differences(movie, kept, entry), ""):
                return why
            sync_folder(self._directory)
            # From here on the manifest says what is about to happen; with this line all before it are on the disk.
            record_removal(self._directory, entry, Event.REMOVING)
            if why := self._why_changed(source, entry):
                return why
            now = [os.stat(path.name, dir_fd=folder, follow_symlinks=False), archive.lstat()]
            if [*map(_identity, now)] != [*map(_identity, opened)]:
                return "the movie or its archive changed while they were compared"
            os.unlink(path.name, dir_fd=folder)
            with suppress(OSError):  # after a loss of power the movie may be there again: no harm
                os.fsync(folder)
        try:
            record_removal(self._directory, entry, Event.REMOVED)
        except KomadError as error:
            logger.warning("the manifest is completed later", movie=source.stem, error=str(error))
        return ""

    def _differences(self, movie: MovieReader, kept: MovieReader, entry: ArchiveEntry) -> Iterator[str]:
        """Read both from their disks and compare them: what they were with what they are, and with each other."""
        if checksum_archive(kept.path) != FileChecksum(n_bytes=entry.archive_bytes, xxh3=entry.archive_xxh3):
            yield f"its archive {kept.path} is not what it was when it was made: its checksum differs"
        movie.forget_cached()
        if movie.xxh3() != entry.source_xxh3:
            yield "its content is not what was archived: its checksum differs"
        if movie.header.format is MovieFormat.EER:
            yield from self._differences_of_bytes(movie, kept)
            return
        if movie.bytes_behind:
            yield f"{movie.bytes_behind} bytes behind its last frame are in no archive"
        if movie.header.shape != kept.header.shape:
            yield f"it has frames of {movie.header.shape}, its archive of {kept.header.shape}"
            return
        for index in range(movie.header.n_frames):
            if not self._go_on():
                yield STOPPED
            mine, theirs = movie.read_frame(index), kept.read_frame(index)
            if mine.dtype != theirs.dtype or not np.array_equal(mine.view(np.uint8), theirs.view(np.uint8)):
                yield f"{movie.frame_name(index)} is not the same in its archive {kept.path}"

    def _differences_of_bytes(self, movie: MovieReader, kept: MovieReader) -> Iterator[str]:
        """Compare a movie with the copy that is its archive."""
        place = 0
        with SourceFile(movie.path) as one, SourceFile(kept.path) as other:
            if [*map(_identity, (one.status(), other.status()))] != [
                *map(_identity, (movie.status(), kept.status()))
            ]:
                yield "the movie or its archive changed while they were compared"
            for mine, theirs in zip_longest(one.blocks(), other.blocks(), fillvalue=b""):
                if not self._go_on():
                    yield STOPPED
                if mine != theirs:
                    yield f"it is not the same in its archive {kept.path}, from byte {place} on"
                place += len(mine)

    def _why_changed(self, source: SourceLine, entry: ArchiveEntry) -> str:
        """What the database and the manifest say now, the comparison having taken its time."""
        self._manifest.refresh()
        line = self._manifest.lines.get(entry.archive)
        if line is None or line.entry != entry or line.last is not Event.REMOVING:
            return f"{self._manifest.path} has changed"
        now = list_sources(self._settings.state_directory, same_as=source)
        if now != [source]:
            return "its jobs have changed, or another movie has the same path or content"
        return self._judge(source, is_shared=False).reason


def _shared(sources: Sequence[SourceLine]) -> tuple[set[str], set[tuple[str, int, int]]]:
    """Paths and contents that more than one movie of the database has."""
    paths: set[str] = set()
    contents: set[tuple[str, int, int]] = set()
    seen_paths: set[str] = set()
    seen_contents: set[tuple[str, int, int]] = set()
    for source in sources:
        (paths if source.path in seen_paths else seen_paths).add(source.path)
        (contents if _content(source) in seen_contents else seen_contents).add(_content(source))
    return paths, contents


def _content(source: SourceLine) -> tuple[str, int, int]:
    """The same for two names of one file: a link shows the times of the file it leads to."""
    return (source.fingerprint, source.size_bytes, source.mtime_ns)


def _is_of(entry: ArchiveEntry, source: SourceLine) -> bool:
    """Whether an archive is of this very file."""
    archived = (entry.source, entry.source_bytes, entry.source_mtime_ns, entry.fingerprint_sha256)
    return archived == (source.path, source.size_bytes, source.mtime_ns, source.fingerprint)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@contextmanager
def _opened_folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def only_one(state_directory: Path) -> Iterator[None]:
    """Hold the right to remove movies; the kernel lets go of it however the process ends.

    Raises
    ------
    AlreadyRunningError
        Another process has it.
    """
    with (state_directory / "cleanup.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                "another komad removes movies at this moment: the daemon does it by itself"
            ) from None
        yield


class CleanupProcess:
    """The daemon's hold on the process that removes movies; there is none where movies stay."""

    def __init__(self, settings: Settings, store: Store, *, command: Sequence[str] = COMMAND) -> None:
        self._store = store
        self._command = tuple(command)
        self._process: subprocess.Popen[str] | None = None
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Go on with other settings: the process is ended, and started with these."""
        self.stop()
        self._settings = settings
        self._process = None
        self._start_at = 0.0
        self._is_wanted = settings.cleanup.delete_movies_after_h is not None
        if not self._is_wanted:
            self._store.put_cleanup(None)

    def tick(self) -> None:
        """Start it, also when it has ended."""
        if not self._is_wanted or (self._process is not None and self._process.poll() is None):
            return
        if self._process is not None and self._start_at == 0:
            logger.error("clean-up ended, it is started again", status=self._process.returncode)
            self._start_at = time.monotonic() + RESTART_S
        if time.monotonic() >= self._start_at:
            self._start()
            self._start_at = 0.0

    def _start(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KOMAD_")}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            text=True,
            env={**inherited, "KOMAD_THREADS": "1", "KOMAD_SUPERVISOR_PID": str(os.getpid())},
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin:  # one that died at once is seen in the next tick
            self._process.stdin.write(self._settings.model_dump_json())

    def stop(self) -> None:
        """End it at once, which is harmless at any point; one that hangs in a lost mount is not waited for."""
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_LIMIT_S)


def main() -> None:
    """Remove what is due, for as long as the daemon lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of the terminal; the daemon ends us
    parent = int(os.environ["KOMAD_SUPERVISOR_PID"])
    settings = Settings.model_validate_json(sys.stdin.read())
    log.configure(settings.log)
    os.nice(NICENESS)
    cleaner = Cleaner(settings, go_on=lambda: os.getppid() == parent)
    with Store(settings.state_directory).open(create=False) as store:
        while os.getppid() == parent:
            started = time.monotonic()
            try:
                with only_one(settings.state_directory):
                    cleaner.clean(store.put_cleanup)
            except KomadError as error:
                logger.warning("cannot clean up, trying later", code=error.code, error=str(error))
            pause_s = max(INTERVAL_S, 4 * (time.monotonic() - started))
            end = time.monotonic() + pause_s
            while time.monotonic() < end and os.getppid() == parent:
                time.sleep(1.0)


if __name__ == "__main__":
    main()
