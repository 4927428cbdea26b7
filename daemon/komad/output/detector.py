"""What the files of a movie say of the detector: plain values, no NaN; and what a person should know of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from komad.model import ALL_FRAMES, DetectorReport, OutlierPixels
from komad.output.motion import finite

MAX_LISTED = 10_000
"""Outlier pixels, and hits of x-rays; their number is always told, and the STAR has all pixels."""
STRONG_PATTERN = 0.03
"""Relative standard deviation of what the gain reference left. A fresh reference leaves less than 0.01."""
MANY_LEFT_OUT = 0.5
"""Movies that were passed over, of those that a full window has."""


def detector_summary(report: DetectorReport) -> dict[str, object]:
    """The numbers that indices keep of a movie; those that could not be measured are None."""
    window = report.window
    return {
        "correlation_raw": finite(report.correlation_raw),
        "correlation_outliers": finite(report.correlation_outliers),
        "correlation_koma": finite(report.correlation_koma),
        "n_hot": report.n_hot,
        "n_dead": report.n_dead,
        "n_defects": report.n_defects,
        "n_xrays": report.n_xrays,
        "pattern_spread": finite(report.pattern_spread),
        "pattern_correlation": finite(report.pattern_correlation),
        "koma_mode": window.mode,
        "n_stacks": report.n_stacks,
        "n_wanted": window.wanted,
        "n_left_out": len(window.left_out),
    }


def detector_record(report: DetectorReport, outliers: OutlierPixels) -> dict[str, object]:
    """All that `<stem>.json` says of the detector.

    To the summary it adds the movies whose stack sums were averaged, those that were left out and why, how much of each
    part of the pattern the movie shows, where the outlier pixels are, [y, x], and where x-rays hit, [frame, y, x]; the
    first MAX_LISTED of each.
    """
    window = report.window
    hits = np.flatnonzero(outliers.frame != ALL_FRAMES)
    hits = hits[np.argsort(outliers.frame[hits], kind="stable")][:MAX_LISTED]
    return {
        **detector_summary(report),
        "scale": {part: finite(value) for part, value in report.scale.items()},
        "window": {
            "members": list(window.members),
            "left_out": {str(movie_id): why for movie_id, why in window.left_out.items()},
            "note": window.note,
        },
        "outliers_yx": outliers.throughout_yx[:MAX_LISTED].tolist(),
        "xrays_frame_yx": np.column_stack([outliers.frame[hits], outliers.yx[hits]]).tolist(),
    }


def detector_notes(report: DetectorReport) -> Iterator[str]:
    """One sentence for each thing that is not as it should be.

    The same words for all movies of a session, so that they are counted together; what differs is in the JSON.
    """
    if report.pattern_spread > STRONG_PATTERN:
        yield (
            f"the gain reference leaves a pattern of about {round(100 * report.pattern_spread)} % of the mean: take a "
            "new one, and look at its orientation with `komad gain check`"
        )
    window = report.window
    if report.n_stacks < len(window.members):
        yield "stack sums of neighbouring movies were lost: KOMA averaged the others (detector.window in the JSON)"
    if len(window.left_out) > MANY_LEFT_OUT * window.wanted:
        yield (
            "many neighbouring movies could not be used for KOMA (carbon, ice, no beam, no archive?): the JSON says "
            "which and why (detector.window)"
        )
