"""The status on one screen of 80 columns and 24 lines, for `rich`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from komad.status.detector import DetectorView, GainView, KomaView, Trend
from komad.status.view import (
    BadDeviceView,
    DiskView,
    ErrorView,
    FolderView,
    Rates,
    StatusView,
    WarningView,
    WorkerView,
)
from komad.store.detector import MovieHealth
from komad.store.overview import CleanupState, GpuState

MAX_WORKERS, MAX_DISKS, MAX_FOLDERS, MAX_DETECTOR, MAX_HELD, MAX_ERRORS = 4, 2, 2, 5, 3, 3
"""Lines per block, so that all of it stays on one screen."""
GUTTER = 10
"""Characters to the left of each block that hold its title."""

HOT_CELSIUS = 85
"""GPUs slow down by themselves at about this temperature."""

SLOW_PAUSE_S = 10.0
"""Shorter pauses between looks at a folder are not worth a word."""

DIM, GOOD, CARE, BAD = "dim", "green", "yellow", "bold red"


def render(view: StatusView) -> RenderableType:
    """Lay out the screen."""
    return Group(
        _headline(view),
        _last_movie(view),
        _counts(view),
        _pace(view),
        *_block(
            "workers",
            [
                *(_bad_device(bad) for bad in view.bad_devices),
                *(_worker(worker) for worker in view.workers),
            ],
            MAX_WORKERS,
            empty="none: start `komad run`",
        ),
        *_block("disks", [_disk(disk) for disk in view.disks], MAX_DISKS),
        *_block("clean-up", [] if view.cleanup is None else [_cleanup(view.cleanup)], 1),
        *_block("folders", [_folder(folder) for folder in view.folders], MAX_FOLDERS),
        *_block("detector", list(_detector(view.detector)), MAX_DETECTOR),
        *_block("held", [_held(group.n_jobs, group.kind, group.reason) for group in view.held], MAX_HELD),
        *_block(
            "errors",
            [_error(error) for error in view.errors],
            MAX_ERRORS - bool(view.warnings) - bool(view.cleanup),
        ),
        *_block("warning", [_warning(warning) for warning in view.warnings[:1]], 1),
    )


def duration(seconds: float) -> str:
    """A length of time in the unit that fits: 12 s, 4 min, 2.5 h, 3 d."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} d"


def size(n_bytes: float) -> str:
    """A number of bytes in the unit that fits, 1 GB = 10^9 bytes."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6)):
        if n_bytes >= 10**power:
            return f"{n_bytes / 10**power:.3g} {unit}"
    return f"{n_bytes / 1000:.0f} kB"


def _headline(view: StatusView) -> Text:
    line = _line(("komad ", "bold"))
    if view.paused:
        line.append(f"paused: {view.paused}", BAD if "person" in view.paused_by else CARE)
    elif view.running:
        line.append("running", GOOD)
    else:
        line.append("not running", BAD)
    line.append(f"   {view.taken_at:%Y-%m-%d %H:%M:%S} UTC", DIM)
    return line


def _last_movie(view: StatusView) -> Text:
    if view.last_movie_age_s is None:
        return _line(("last movie ", DIM), "none yet")
    return _line(("last movie ", DIM), (duration(view.last_movie_age_s), "bold"), f" ago: {view.last_movie}")


def _counts(view: StatusView) -> Table:
    counts = view.counts
    table = Table.grid(padding=(0, 3))
    cells = [
        ("found", counts.found, ""),
        ("archived", counts.archived, ""),
        ("corrected", counts.corrected, GOOD if counts.corrected else ""),
        ("backlog", counts.backlog, ""),
        ("held", counts.held, CARE if counts.held else ""),
        ("failed", counts.failed, BAD if counts.failed else ""),
    ]
    table.add_row(*(Text(name, DIM, justify="right") for name, _, _ in cells))
    table.add_row(*(Text(f"{number:,}", style or "bold", justify="right") for _, number, style in cells))
    return table


def _pace(view: StatusView) -> Text:
    rates: Rates = view.rates
    line = _line(
        ("per hour ", DIM),
        f"found {rates.found_per_hour:.0f}, corrected {rates.corrected_per_hour:.0f} ",
        (f"(last hour {rates.found_last_hour}, {rates.corrected_last_hour})", DIM),
    )
    if view.counts.backlog:
        if view.clears_in_s is None:
            line.append("   backlog grows", CARE)
        else:
            line.append(f"   clears in {duration(view.clears_in_s)}")
    return line


def _block(title: str, lines: Sequence[Text], limit: int, *, empty: str = "") -> Iterator[Text]:
    """Lines with the title before the first; what does not fit is counted on the last."""
    if not lines:
        lines = [_line((empty, CARE))] if empty else []
    elif len(lines) > limit:
        lines = [*lines[: limit - 1], _line((f"and {len(lines) - limit + 1} more", DIM))]
    for number, line in enumerate(lines):
        yield _line((f"{'' if number else title:<{GUTTER}}", "bold cyan"), line)


def _worker(worker: WorkerView) -> Text:
    line = _line(f"{worker.worker_id} ")
    if worker.gpu is None or not worker.alive:
        line.append(f"{worker.device} ", DIM)
    else:
        is_hot = (worker.gpu.temperature_celsius or 0) >= HOT_CELSIUS
        line.append(f"{gpu(worker.gpu)}  ", CARE if is_hot else DIM)
    if worker.alive:
        line.append(f"{worker.activity or 'idle'} ")
        line.append(f"beat {duration(worker.beat_age_s)} ago", DIM)
    else:
        line.append(f"silent for {duration(worker.beat_age_s)}", BAD)
    return line


def _bad_device(bad: BadDeviceView) -> Text:
    later = "" if bad.tried_again_in_s is None else f", tried again in {duration(bad.tried_again_in_s)}"
    return _line((f"{bad.device} is set aside{later}: ", BAD), bad.reason)


def gpu(state: GpuState) -> str:
    """How a GPU is doing, in few letters: 87 %, 12.3/141 GB, 61 °C."""
    used, total = state.memory_used_bytes / 1e9, state.memory_total_bytes / 1e9
    parts = [
        None if state.utilisation is None else f"{100 * state.utilisation:.0f} %",
        f"{used:.3g}/{total:.3g} GB",
        None if state.temperature_celsius is None else f"{state.temperature_celsius} °C",
    ]
    return ", ".join(part for part in parts if part is not None)


def _disk(disk: DiskView) -> Text:
    line = _line(f"{size(disk.free_bytes)} free")
    if disk.hours_left is not None:
        style = BAD if disk.hours_left < 2 else CARE if disk.hours_left < 12 else GOOD
        line.append(f", full in {duration(disk.hours_left * 3600)}", style)
        line.append(f" at {size(disk.bytes_per_hour)} per hour", DIM)
    line.append(f"  {', '.join(str(path) for path in disk.paths)}", DIM)
    return line


def _cleanup(state: CleanupState) -> Text:
    line = _line(f"{state.n_removed:,} movies removed, {size(state.removed_bytes)}")
    line.append(f"; {state.n_due:,} due, {size(state.due_bytes)}", DIM)
    if state.n_kept:
        stem, why = list(state.kept.items())[-1]
        line.append(f"; {state.n_kept:,} kept: {stem}: {why}", CARE)
    return line


def _folder(folder: FolderView) -> Text:
    if not folder.reachable:
        return _line((f"{folder.path} cannot be reached", BAD))
    line, state = _line(str(folder.path)), folder.state
    if state is None:
        return line
    if state.waiting:
        line.append(f"  {state.waiting:,} not finished")
    if state.unreadable:
        line.append(f"  {state.unreadable:,} unreadable", CARE)
    if state.no_events or state.pause_s >= SLOW_PAUSE_S:
        line.append(f"  looked at every {duration(state.sweep_s + state.pause_s)}", DIM)
    if state.error:
        line.append(f"  {state.error}", CARE)
    return line


def _detector(view: DetectorView) -> Iterator[Text]:
    """What matters first: the noise that frames share, its change, the gain reference, KOMA."""
    last = view.last
    if last is not None:
        yield _line(
            ("correlated noise ", DIM),
            noise(last.correlation_raw, last.correlation_outliers, last.correlation_koma),
        )
    if view.alarm:
        yield _line((view.alarm, CARE))
    elif view.trend is not None:
        yield _trend(view.trend)
    yield _outliers(last, view.koma)
    yield _koma(view.koma)
    yield _gain(view.gain)


def noise(raw: float | None, outliers: float | None, koma: float | None) -> str:
    """The noise that frames have in common, as far as it was measured."""
    stages = (("raw", raw), ("outliers filled", outliers), ("KOMA", koma))
    return (
        ", ".join(f"{name} {share(value)}" for name, value in stages if value is not None) or "not measured"
    )


def share(value: float) -> str:
    """A small part of one as per cent; what is lost in the measurement is not shown as a number."""
    return "<0.001 %" if abs(value) < 1e-5 else f"{100 * value:.2g} %"


def _trend(trend: Trend) -> Text:
    parts = [
        f"{name} {show(pair[0]).removesuffix(' %')} -> {show(pair[1])}"
        for name, pair, show in (
            ("raw", trend.correlation_raw, share),
            ("outliers", trend.n_outliers, "{:,.0f}".format),
            ("gain", trend.pattern_spread, share),
        )
        if pair is not None
    ]
    return _line(("trend ", DIM), ", ".join(parts))


def _outliers(last: MovieHealth | None, koma: KomaView) -> Text:
    line = _line()
    if last is not None:
        line.append(f"{last.n_outliers:,} outliers, {last.n_xrays:,} x-rays   ")
    return line.append(f"{koma.n_stack_sums} stack sums, {size(koma.stack_sum_bytes)}", DIM)


def _koma(koma: KomaView) -> Text:
    line = _line(("KOMA ", DIM), koma.mode or "no movie yet")
    if koma.n_wanted:
        style = CARE if koma.n_stacks < koma.n_wanted / 2 else ""
        line.append(f" {koma.n_stacks} of {koma.n_wanted} stacks", style)
    if koma.n_waiting:
        line.append(f", {koma.n_waiting} held: ", CARE).append(koma.waiting_reason)
    return line


def _gain(gain: GainView) -> Text:
    style = {"ok": GOOD, "wrong": BAD, "unchecked": DIM}.get(gain.state, CARE)
    line = _line((gain.text, style))
    if gain.confidence is not None and gain.state != "unclear":
        line.append(f" ({gain.confidence:.0f} sigma)", DIM)
    return line


def _held(n_jobs: int, kind: str, reason: str) -> Text:
    return _line((f"{n_jobs} {kind} ", CARE), reason)


def _error(error: ErrorView) -> Text:
    what = {"failed": "failed", "queued": "tried again", "held": "held"}.get(error.state, error.state)
    style = BAD if error.state == "failed" else CARE
    return _line(
        (f"{duration(error.age_s)} ago ", DIM),
        f"{error.stem} {error.kind} ",
        (what, style),
        f" {error.code}: {error.message}",
    )


def _warning(warning: WarningView) -> Text:
    movies = warning.stem if warning.n_movies == 1 else f"{warning.n_movies} movies, last {warning.stem}"
    return _line(f"{movies}: ", (warning.text, CARE))


def _line(*parts: str | Text | tuple[str, str]) -> Text:
    """One line that is cut at the edge of the screen, never wrapped."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
