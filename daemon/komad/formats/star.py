"""STAR tables as RELION writes and reads them.

Source: the files of RELION 3.1 and 5.0. A list is one row, written as one line per name; a loop has any number of rows,
and may be the last block of a file that grows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from komad.errors import StarError

TOKEN = re.compile(r"""'([^']*)'(?=\s|$)|"([^"]*)"(?=\s|$)|(\#.*)|(\S+)""")
"""A quoted value, a comment, a bare value."""
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
DECIMAL = re.compile(r"[+-]?([0-9]++(\.[0-9]*+)?|\.[0-9]++)([eE][+-]?[0-9]++)?|[+-]?(nan|inf)")
"""Python's own rules for numbers would take a name like 20170629_00021 for one, and none of more than 4300 digits."""
RESERVED = ("_", "#", "$", "'", '"', "[", "]", ";", "data_", "loop_", "save_", "global_", "stop_")
"""Starts that have a meaning of their own in STAR: such a value is quoted."""
BOUNDARY_BYTES = 4096
"""No line of a loop that grows lies across a multiple of this: the smallest page of memory, and the usual block of a
file system. A file grows from one boundary to the next, or to the end of what is written, and by nothing less."""


@dataclass(frozen=True, slots=True)
class Table:
    """One block: `data_<name>`."""

    name: str
    columns: Mapping[str, Any]
    """Name without the underscore (`rlnVoltage`) -> value for a list, sequence of equal length for a loop."""
    loop: bool
    comments: tuple[str, ...] = ()
    """Lines for people, written before the block; readers pass over them."""


def dumps(tables: Sequence[Table], version: int = 30001) -> str:
    """Give the text of a STAR file; `version` is RELION's number for the layout of its tables (30001: 3.1 and 4.0).

    Raises
    ------
    StarError
        A value cannot be written (not finite, a line break, both kinds of quotes), or columns differ in length.
    """
    return "".join(f"{_head(table.name, table.comments, version)}{_body(table)}\n" for table in tables)


def loop_start(name: str, labels: Sequence[str], version: int = 30001) -> str:
    """Text of a loop without rows, the last block of a file; each `loop_row` that is put behind it is a row more."""
    return f"{_head(name, (), version)}loop_\n{_label_lines(labels)}"


def loop_row(values: Iterable[object]) -> str:
    """One line of a loop. Errors as `dumps`."""
    return f"{' '.join(f'{_written(value):>12}' for value in values)}\n"


def placed(lines: Iterable[bytes], at: int) -> bytes:
    """Lines of a loop as they stand in a file from byte `at` on, the end of a line: none across a boundary.

    The space before a boundary is filled with spaces, with which the next line then begins: readers pass over them,
    also where the line has not come yet. A line longer than BOUNDARY_BYTES begins at a boundary.
    """
    parts = []
    for line in lines:
        room = -at % BOUNDARY_BYTES
        padding = room if len(line) > room else 0
        parts += [b" " * padding, line]
        at += padding + len(line)
    return b"".join(parts)


def _head(name: str, comments: Sequence[str], version: int) -> str:
    return f"\n# version {version}\n{_remarks(comments)}\ndata_{name}\n\n"


def _remarks(comments: Sequence[str]) -> str:
    # RELION looks for `data_` and `# version` anywhere in a line, so no comment may hold them.
    words = (" ".join(comment.split()).replace("data_", "data-") for comment in comments)
    return "".join(f"# {line.replace('# version', 'version')}\n" for line in words)


def _body(table: Table) -> str:
    if not table.loop:
        width = max((len(name) for name in table.columns), default=0) + 2
        lines = [f"{'_' + name:<{width}} {_written(value):>12}" for name, value in table.columns.items()]
        return "\n".join([*lines, ""])
    lengths = {name: len(values) for name, values in table.columns.items()}
    if len(set(lengths.values())) != 1:
        raise StarError(f"the columns of data_{table.name} differ in length, or there are none: {lengths}")
    rows = map(loop_row, zip(*table.columns.values(), strict=True))
    return "".join(["loop_\n", _label_lines([*table.columns]), *rows])


def _label_lines(labels: Sequence[str]) -> str:
    return "".join(f"_{name} #{number}\n" for number, name in enumerate(labels, start=1))


def _written(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool | Integral):
        return str(int(value))
    if isinstance(value, Real) and math.isfinite(value):
        return f"{float(value):.8g}"
    raise StarError(f"{value!r} cannot be written into a STAR file")


def _quoted(text: str) -> str:
    is_bare = text and not re.search(r"\s", text) and not text.lower().startswith(RESERVED)
    if is_bare and not {'"', "'"} & set(text):
        return text
    for quote in ('"', "'"):
        if quote not in text and not {"\n", "\r"} & set(text):
            return f"{quote}{text}{quote}"
    if is_bare:  # STAR allows quotes within a word; some readers do not, so that it is the last choice
        return text
    raise StarError(
        f"{text!r} cannot be written into a STAR file: it has a line break or both kinds of quotes"
    )


def read_star(path: Path) -> dict[str, Table]:
    """Read all blocks of a STAR file, by name (without `data_`), in order.

    Values become int or float where all of their column are, else str.

    Raises
    ------
    StarError
        The file is missing or is no STAR file; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StarError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from error
    blocks: dict[str, list[tuple[int, list[str]]]] = {}
    lines: list[tuple[int, list[str]]] | None = None
    for number, words in _lines(text):
        if words[0].startswith("data_") and len(words) == 1:
            lines = blocks.setdefault(words[0].removeprefix("data_"), [])
            if lines:
                raise StarError(f"{path}, line {number}: a second block {words[0]}")
        elif lines is None:
            raise StarError(
                f"{path}, line {number}: '{words[0]}' before the first data_ block; this is no STAR file"
            )
        else:
            lines.append((number, words))
    return {name: _parsed(name, lines, path) for name, lines in blocks.items()}


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and the words of lines that have any."""
    for number, line in enumerate(text.split("\n"), start=1):  # other line ends may stand in a name
        matches = [match for match in TOKEN.finditer(line) if match[3] is None]
        words = [next(group for group in match.groups() if group is not None) for match in matches]
        if words:
            yield number, words


def _parsed(name: str, lines: list[tuple[int, list[str]]], path: Path) -> Table:
    is_loop = bool(lines) and lines[0][1] == ["loop_"]
    if not is_loop:
        for number, words in lines:
            if len(words) != 2 or not words[0].startswith("_"):
                raise StarError(f"{path}, line {number}: not a name and its value in the list data_{name}")
        values = {words[0].removeprefix("_"): _typed([words[1]])[0] for _, words in lines}
        return Table(name, values, loop=False)
    n_columns = next(
        (i for i, (_, words) in enumerate(lines[1:]) if not words[0].startswith("_")), len(lines) - 1
    )
    labels = [words[0].removeprefix("_") for _, words in lines[1 : 1 + n_columns]]
    rows = lines[1 + n_columns :]
    for number, words in rows:
        if len(words) != n_columns:
            raise StarError(
                f"{path}, line {number}: {len(words)} values for {n_columns} columns of data_{name}"
            )
    columns = {label: _typed([words[place] for _, words in rows]) for place, label in enumerate(labels)}
    return Table(name, columns, loop=True)


def _typed(words: list[str]) -> list[Any]:
    if all(WHOLE.fullmatch(word) for word in words):
        return [int(word) for word in words]
    if all(DECIMAL.fullmatch(word) for word in words):
        return [float(word) for word in words]
    return words
