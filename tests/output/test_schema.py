"""The models say what the writers write, and the JSON Schema says what the models say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
from pydantic import BaseModel

from komad.model import EerRendering, MovieFormat
from komad.output.schema import DOCUMENTS, json_schema
from komad.output.session import SessionIndex
from tests.cli.conftest import Komad, komad
from tests.output.conftest import MOVIE, Write, local_motion
from tests.output.test_detector import REPORT

__all__ = ["komad"]

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
MADE_WITH = "2.14."
"""The pydantic that docs/schema was made with."""


def hold(name: str, values: dict[str, Any]) -> None:
    """Hold values to the model, which must know every key, and to the JSON Schema as it is published."""
    model = DOCUMENTS[name][0].model_validate(values)
    assert [*unknown(model)] == []
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.validate(values, schema, cls=jsonschema.Draft202012Validator)


def unknown(model: BaseModel, place: str = "") -> Iterator[str]:
    """Keys that no model knows, at any depth."""
    yield from (f"{place}{key}" for key in model.model_extra or {})
    for key in type(model).model_fields:
        value = getattr(model, key)
        if isinstance(value, BaseModel):
            yield from unknown(value, f"{place}{key}.")


def accepted(schema: Any) -> Any:
    """What a schema lets through: without its words, and what holds anyway, in which versions of pydantic differ."""
    if isinstance(schema, list):
        return [accepted(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: accepted(value)
        for key, value in schema.items()
        if not (key in {"title", "description"} and isinstance(value, str))
        and (key, value) != ("additionalProperties", True)
    }


@pytest.mark.parametrize("name", DOCUMENTS)
def test_published_schemas_are_up_to_date(name: str) -> None:
    """docs/schema has schemas that accept what those of `komad schema` do; the same to the letter with its pydantic."""
    published = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    advice = f"komad schema {name} > docs/schema/{name}.json"
    assert accepted(published) == accepted(json_schema(name)), advice
    if pydantic.VERSION.startswith(MADE_WITH):
        assert published == json_schema(name), advice
    jsonschema.Draft202012Validator.check_schema(published)
    assert published["properties"]["schema_version"]["const"] == 1


EER = EerRendering(ends=(10, 20, 30, 40, 53), upsampling=2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"result": {"motion": local_motion(), "detector": REPORT}},
        {"result": {"sum_dose_weighted": None, "power_spectrum": None, "mean_e_per_px_frame": float("nan")}},
        {"movie": {"header": replace(MOVIE.header, format=MovieFormat.EER, eer=EER, facts={"camera": "F4"})}},
        {
            "movie": {
                "acquisition": replace(
                    MOVIE.acquisition, frame_doses=(1.0, 1.0, 1.5, 1.5, 1.0), earlier_exposures=None
                )
            }
        },
        {"thumbnail": False},
    ],
    ids=["whole frames", "local motion and KOMA", "little known", "EER", "doses that differ", "other files"],
)
def test_what_is_written_of_a_movie(write: Write, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Line, details and session of movies of every kind."""
    with SessionIndex(tmp_path, settings={"float16": False}) as index:
        hold("session", json.loads(json.dumps(index._session())))
        index.publish([write(**changes) | {"movie_id": 7, "sequence": 1}])
    hold("processed", json.loads((tmp_path / "processed.jsonl").read_text()))
    hold("movie", json.loads((tmp_path / "FoilHole_1.json").read_text()))
    hold("session", json.loads((tmp_path / "session.json").read_text()))


@pytest.mark.parametrize(
    "wrong", [{"n_frames": 0}, {"motion_px": {"total": 1.0}}, {"schema_version": 2}, {"stem": None}]
)
def test_the_schema_refuses_what_is_wrong(write: Write, wrong: dict[str, Any]) -> None:
    """A number out of range, a key that is missing, another version, a null where none may be."""
    values = json.loads(json.dumps(write() | {"movie_id": 7, "sequence": 1}))
    hold("processed", values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values | wrong, json_schema("processed"))


def test_the_command(komad: Komad) -> None:
    """Prints a schema, or the list of them; another name says which there are."""
    assert json.loads(komad("schema", "session").out) == json_schema("session")
    assert [line.split()[0] for line in komad("schema").out.splitlines()] == [*DOCUMENTS]
    outcome = komad("schema", "movies")
    assert outcome.code == 2
    assert "there are processed, movie, session" in " ".join(outcome.err.split())
