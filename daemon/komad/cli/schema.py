"""`komad schema`: the JSON Schema of what komad leaves for others."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def schema(
    name: Annotated[
        str | None, typer.Argument(help="processed, movie or session; the list of them when left out.")
    ] = None,
) -> None:
    """Print the JSON Schema (draft 2020-12) of a line of processed.jsonl, of <stem>.json or of session.json.

    Example: komad schema processed > processed.schema.json
    """
    from komad.output.schema import DOCUMENTS, json_schema

    if name is None:
        for each, (_, what) in DOCUMENTS.items():
            print(f"{each:10} {what}")
    elif name in DOCUMENTS:
        print(json.dumps(json_schema(name), indent=1, ensure_ascii=False))
    else:
        raise typer.BadParameter(f"there is no schema {name!r}; there are {', '.join(DOCUMENTS)}")
