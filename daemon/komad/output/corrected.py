"""`corrected_micrographs.star`: a row more costs the same in a session of any length, and nobody reads half a row."""

from __future__ import annotations

from pathlib import Path

from komad.formats import atomic, star
from komad.output.relion import MicrographRow, SessionLayout

NAME = "corrected_micrographs.star"


class CorrectedMicrographs:
    """The table of all micrographs in one output directory. For one process, one thread.

    A row is put behind the others with one write. The table is written as a whole, and takes the place of the one
    before, only when a micrograph is made again, when what rows share changes (optics groups, columns), or when the
    file is not as it was left: after a crash, say. Both give the same bytes, so that the file says by itself whether
    it is as it should be.

    What a reader sees ends with a whole row at any moment: a file grows from one multiple of `star.BOUNDARY_BYTES` to
    the next, and no row lies across one (where blocks of the file system are smaller, and it is full, the start of a
    row may be seen until it is taken back). On file systems of a network that holds for who opens the file anew.

    Parameters
    ----------
    directory
        The output directory, which exists.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._rows: dict[str, MicrographRow] = {}  # by stem
        self._lines: dict[str, bytes] = {}  # of rows, in the layout
        self._layout: SessionLayout | None = None
        self._waiting: list[str] = []  # for their place behind the others
        self._n_bytes = 0
        self._is_as_left = False

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, stem: str, row: MicrographRow) -> None:
        """Take in a micrograph, for the next `write`; one of the same stem gives up its place to it."""
        before, self._rows[stem] = self._rows.get(stem), row
        if before is None and self._layout is not None and self._layout.fits(row):
            self._waiting.append(stem)
            return
        self._is_as_left = False
        self._lines.pop(stem, None)
        if before is None or before.optics != row.optics or before.columns().keys() != row.columns().keys():
            self._layout = None

    def write(self) -> None:
        """Bring the file up to date; without rows there is none, since RELION refuses it.

        Raises
        ------
        OutputError, DiskFullError
            The file is as before; call it again later.
        """
        if not self._rows:
            return
        if self._is_as_left and self._size() == self._n_bytes:
            self._append()
        else:
            self._replace()

    def _append(self) -> None:
        if self._waiting:
            data = star.placed(map(self._line, self._waiting), at=self._n_bytes)
            atomic.append(self._path, data)
            self._n_bytes += len(data)
            self._waiting.clear()

    def _replace(self) -> None:
        if self._layout is None:
            self._layout = SessionLayout.of(self._rows.values())
            self._lines.clear()
        layout = self._layout
        head = (star.dumps([layout.optics()]) + star.loop_start("micrographs", layout.labels)).encode()
        data = head + star.placed(map(self._line, self._rows), at=len(head))
        if not self._is(data):
            atomic.write_bytes(self._path, data)
        self._n_bytes, self._is_as_left = len(data), True
        self._waiting.clear()

    def _line(self, stem: str) -> bytes:
        line = self._lines.get(stem)
        if line is None:
            assert self._layout is not None
            line = self._lines[stem] = star.loop_row(self._layout.values(self._rows[stem])).encode()
        return line

    def _size(self) -> int | None:
        try:
            return self._path.stat().st_size
        except OSError:
            return None

    def _is(self, data: bytes) -> bool:
        try:
            return self._size() == len(data) and self._path.read_bytes() == data
        except OSError:
            return False
