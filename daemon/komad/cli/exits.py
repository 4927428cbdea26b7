"""Exit codes: one table, stable, shown by `komad --help`."""

from __future__ import annotations

from komad.errors import KomadError

OK, MOVIES_FAILED, USAGE, CONFIG, RUNNING, STORE, DISK, GAIN, DEVICE, INTERNAL, INTERRUPTED = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 70, 130,
)  # fmt: skip

MEANINGS = {
    OK: "done",
    MOVIES_FAILED: "some movies failed or cannot be read, the others are done; `verify`: archives missing or damaged; "
    "`export`: something is missing or not as it should be",
    USAGE: "wrong option, argument or value",
    CONFIG: "the configuration or a reference that it names is wrong",
    RUNNING: "another komad works with this state or output directory",
    STORE: "no database yet, or it cannot be used; when it is damaged: `komad rebuild`",
    DISK: "results cannot be written: no space, no permission, lost disk",
    GAIN: "`komad gain check`: the gain reference does not fit the movies as it lies",
    DEVICE: "a GPU that is configured cannot be used, or this computer cannot compute: `komad doctor` says why",
    INTERNAL: "a fault of komad itself",
    INTERRUPTED: "stopped with Ctrl-C; `komad run` gives 0, it ends in order",
}

_BY_ERROR_CODE = {
    "config": CONFIG,
    "reference": CONFIG,
    "already_running": RUNNING,
    "store": STORE,
    "store_damaged": STORE,
    "parameter": USAGE,
    "job_transition": USAGE,
    "disk_full": DISK,
    "output": DISK,
    "output_lost": DISK,
    "device": DEVICE,
    "internal": INTERNAL,
    "error": INTERNAL,
}


def exit_code(error: KomadError) -> int:
    """Exit code of a command that ended in `error`."""
    return _BY_ERROR_CODE.get(error.code, MOVIES_FAILED)


def table() -> str:
    """Text for the help."""
    return "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()) + "."
