"""A movie's beam shift, from its sidecar, and its optics group, from its beam shift."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from komad.config import WatchFolder
from komad.model import Acquisition
from komad.optics.groups import (
    BEAM_SHIFT,
    REVIEWED_SHIFTS,
    BeamShift,
    ShiftGroups,
    Unit,
    group_name,
    in_group,
    nearest_session,
)

_FACTS: tuple[tuple[Unit, str, str], ...] = (
    ("epu", "beam_shift_x", "beam_shift_y"),
    ("serialem", "image_shift_x_um", "image_shift_y_um"),
)


def beam_shift(acquisition: Acquisition, found_at: str) -> BeamShift | None:
    """Return the beam shift that a sidecar told; None when none did. Times are the sidecar's, else `found_at`."""
    facts = acquisition.facts
    for unit, x_name, y_name in _FACTS:
        x, y = facts.get(x_name), facts.get(y_name)
        if isinstance(x, float | int) and isinstance(y, float | int):
            magnification = facts.get("magnification", 0)
            return BeamShift(
                x=x,
                y=y,
                unit=unit,
                magnification=magnification if isinstance(magnification, float | int) else 0.0,
                taken_at_s=_seconds(str(facts.get("acquired_at", "")), found_at),
            )
    return None


def _seconds(acquired_at: str, found_at: str) -> float:
    for form in ("%d-%b-%y %H:%M:%S", "%d-%b-%Y %H:%M:%S"):  # SerialEM's
        with suppress(ValueError):
            return datetime(*time.strptime(acquired_at, form)[:6], tzinfo=UTC).timestamp()
    for text in (acquired_at, found_at):
        with suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return 0.0


def tolerance_of(folder: WatchFolder) -> float | None:
    """How far from its group's centre a movie may be, in the sidecar's unit; None where the shifts tell it."""
    return None if folder.beam_shift_tolerance == "auto" else folder.beam_shift_tolerance


def is_grouped(acquisition: Acquisition) -> bool:
    """Whether the group is settled: found from the beam shift, or supplied by a person."""
    return acquisition.sources.get("optics_group") in {BEAM_SHIFT, "supplied"}


def number_of(acquisition: Acquisition) -> int | None:
    """Return the number of a group that was found from the beam shift; None for all others."""
    number = acquisition.optics_group.rpartition("-")[2]
    by_shift = acquisition.sources.get("optics_group") == BEAM_SHIFT
    return int(number) if by_shift and number.isdecimal() else None


def without_shift(acquisition: Acquisition) -> Acquisition:
    """Leave a movie in the group that is configured, and say so."""
    note = (
        f"no sidecar tells its beam shift: it is in {acquisition.optics_group}, with others that may differ"
    )
    return replace(acquisition, notes={**acquisition.notes, "optics_group": note})


def as_it_was(acquisition: Acquisition, before: Acquisition) -> Acquisition:
    """Keep the group that a movie has: it is never changed."""
    return (
        in_group(acquisition, before.optics_group)
        if before.sources.get("optics_group") == BEAM_SHIFT
        else acquisition
    )


@dataclass(kw_only=True, slots=True)
class GroupsInMemory:
    """What the database does for the daemon, for the movies of one command."""

    tolerance: float | None
    """None: found from the shifts."""
    sessions: list[ShiftGroups] = field(default_factory=list)
    _shifts: list[list[tuple[float, float, int]]] = field(default_factory=list)
    """Of each session: x, y and group of its movies."""
    _last_number: int = 0

    def know(self, acquisition: Acquisition, found_at: str) -> None:
        """Learn the group of a movie that was processed before, which keeps it."""
        shift = beam_shift(acquisition, found_at)
        number = number_of(acquisition)
        if number is not None and shift is not None:
            index = self._session(shift)
            self.sessions[index].readmit(shift, number)
            self._shifts[index].append((shift.x, shift.y, number))
            self._last_number = max(self._last_number, number)

    def put(self, acquisition: Acquisition, found_at: str) -> Acquisition:
        """Put a movie into its group; one without a beam shift stays in that of the configuration, with a note."""
        if is_grouped(acquisition):
            return acquisition
        shift = beam_shift(acquisition, found_at)
        if shift is None:
            return without_shift(acquisition)
        index = self._session(shift)
        session = self.sessions[index]
        number = session.assign(shift, free_number=self._last_number + 1)
        self._last_number = max(self._last_number, number)
        self._shifts[index].append((shift.x, shift.y, number))
        if self.tolerance is None and session.wants_review:
            newest = self._shifts[index][-REVIEWED_SHIFTS:]
            session.review(np.array([(x, y) for x, y, _ in newest]), [number for _, _, number in newest])
        return in_group(acquisition, group_name(acquisition.optics_group, number))

    def _session(self, shift: BeamShift) -> int:
        session = nearest_session(self.sessions, shift)
        if session is None:
            session = ShiftGroups.beginning_with(shift, self.tolerance)
            self.sessions.append(session)
            self._shifts.append([])
        return next(index for index, other in enumerate(self.sessions) if other is session)
