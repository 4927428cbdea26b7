"""What komad does with each kind of file, as a function of the folder it lies in; and what must hold of the result."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from komad.cli.locate import read_places
from komad.config import AcquisitionSettings, Processing, load_settings
from komad.formats import movies, references
from komad.formats.star import read_star
from komad.ingest import sidecars
from komad.ingest.acquisition import missing_parameters, resolve
from komad.ingest.doses import read_frame_doses
from komad.model import EerRendering, ReferenceFile, References
from komad.work.stack_sums import load
from tests.fuzz.corpus import FRAMES, IMAGE, MOVIE
from tests.ingest.conftest import header


def _movie(path: Path) -> None:
    found = movies.read_header(path)
    assert min(found.shape) > 0
    assert found.pixel_size_angstrom is None or 0 < found.pixel_size_angstrom < 100
    movies.check_complete(path)
    frames = movies.read_frames(path)
    assert (frames.shape, frames.dtype) == (found.shape, np.dtype(found.dtype))


def _eer(path: Path) -> None:
    _movie(path)
    n_raw = movies.read_header(path).n_frames
    rendering = EerRendering(ends=(n_raw,), upsampling=2)
    (frame,) = movies.read_frames(path, rendering)
    assert frame.sum(dtype=np.int64) == movies.read_frames(path).sum(dtype=np.int64)


def _references(path: Path) -> None:
    file = ReferenceFile(path=path, original_path=path, sha256=str(path))
    references.check.__wrapped__(References(gain=file), IMAGE)
    references.check.__wrapped__(References(dark=file), IMAGE)


def _defects(path: Path) -> None:
    found = references._listed(ReferenceFile(path=path, original_path=path, sha256=""), IMAGE)
    assert found.image.shape == IMAGE


def _sidecar(path: Path) -> None:
    """Whatever a sidecar says, what is used of it can be configured, and all of it be written down."""
    of = header(FRAMES[2], FRAMES[1], FRAMES[0])
    reading = sidecars.find(path.with_name(MOVIE if path.suffix == ".mdoc" else "a.mrc"), of)
    found = resolve(of, AcquisitionSettings(), reading)
    missing_parameters(found, Processing())
    json.dumps([dict(found.facts), dict(found.notes), found.earlier_exposures], allow_nan=False).encode()
    used = {name: getattr(found, name) for name in found.sources}
    AcquisitionSettings.model_validate(used)
    assert 0 <= found.earlier_exposures < 1e6
    assert found.frame_doses is None or len(found.frame_doses) == of.n_frames


def _series(path: Path) -> None:
    if path.name == "series.mdoc":
        sidecars.find(path.with_name(MOVIE), header(FRAMES[2], FRAMES[1], FRAMES[0]), path)
    _sidecar(path)


def _doses(path: Path) -> None:
    doses = read_frame_doses(path)
    assert 0 < sum(doses) < math.inf


def _config(path: Path) -> None:
    read_places(path)
    load_settings(path)


def _planted(path: Path) -> None:
    """No reader: does what the file says, to see that each kind of fault is found."""
    import ctypes
    import os
    import time

    match path.read_text():
        case "raise":
            raise KeyError("planted")
        case "die":
            ctypes.string_at(0)
        case "leave":
            os._exit(3)
        case "hang":
            time.sleep(1e6)
        case "slow":
            end = time.process_time() + 3
            while time.process_time() < end:
                pass
        case "fill":
            np.empty(1 << 28, np.uint8)
        case "outside":
            with suppress(OSError):
                Path("/etc/hostname").read_bytes()
        case "shell":
            os.system("true")


READERS: dict[str, Callable[[Path], object]] = {
    "mrc": _movie,
    "mrcz": _movie,
    "tiff": _movie,
    "packed": _movie,
    "eer": _eer,
    "dm": _movie,
    "gain": _references,
    "defects": _defects,
    "mdoc": _series,
    "epu": _sidecar,
    "doses": _doses,
    "star": read_star,
    "sums": load,
    "config": _config,
    "planted": _planted,
}
