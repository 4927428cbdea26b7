"""What `komad gain` says: a verdict as JSON and as a table."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from komad.detector.gain import GainVerdict, OrientationScore


def say(console: Console, sentence: str, style: str = "") -> None:
    """Print a sentence as it is, however long."""
    console.print(sentence, style=style, markup=False, soft_wrap=True)


def as_json(verdict: GainVerdict) -> dict[str, Any]:
    """The verdict for scripts; None for what is not finite."""

    def way(score: OrientationScore) -> dict[str, Any]:
        return {"gain_rot": score.gain_rot, "gain_flip": score.gain_flip}

    return {
        "verdict": verdict.verdict,
        "configured": way(verdict.configured),
        "best": way(verdict.best),
        "confidence": verdict.confidence,
        "sentence": verdict.sentence,
        "scores": [
            {
                **way(score),
                "part": score.part,
                "error": score.error if math.isfinite(score.error) else None,
                "sigma": score.sigma,
            }
            for score in verdict.scores
        ],
    }


def print_verdict(console: Console, verdict: GainVerdict, facts: dict[str, Any]) -> None:
    """Print the verdict for people: a table of all ways, and the sentence."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for column in ("gain_rot", "gain_flip", "part shown", "± by chance", "sigma"):
        table.add_column(column, justify="right")
    table.add_column("")
    for score in verdict.scores:
        notes = [
            note
            for note, said in (
                ("as given", score == verdict.configured),
                ("fits", score == verdict.best and verdict.verdict in {"ok", "other"}),
                ("its reciprocal fits", score == verdict.best and verdict.verdict == "inverse"),
            )
            if said
        ]
        table.add_row(
            str(score.gain_rot),
            str(score.gain_flip),
            f"{score.part:.1%}",
            f"{score.error:.1%}",
            f"{score.sigma:.1f}",
            ", ".join(notes),
            style="bold" if notes else "",
        )
    console.print(table)
    say(console, f"{facts['n_movies']} movies, {facts['counts_per_px']:.0f} counts per pixel together")
    if facts["n_invalid"]:
        say(
            console,
            f"{facts['n_invalid']} pixels of the gain are zero, negative or no numbers: they count as defects",
            "yellow",
        )
    colour = {"ok": "green", "unclear": "yellow"}.get(verdict.verdict, "bold red")
    say(console, verdict.sentence, colour)
    if facts["picture"]:
        say(console, f"picture: {facts['picture']}")
