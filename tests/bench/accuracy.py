"""How far from the truth: komad, RELION and no correction at all, over the movies of `suite`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from komad.formats.images import read_image
from komad.formats.movies import read_frames
from komad.simulate import MovieSpec, read_truth
from komad.simulate.scene import build_scene
from komad.simulate.truth import truth_path
from tests.bench.field import FloatArray, field_error_px, komad_field, relion_field, true_field
from tests.bench.frc import noise_free, oracle_sum, ring_correlation
from tests.bench.programs import komad_results, prepare, relion_results, run_komad, run_relion
from tests.bench.suite import CASES, Case

RELION_PATCHES = (5, 3, 1)
"""Along each axis; 1 is whole frames only. All are tried."""
RELION_CHOICE = {2048: 5, 1024: 1}
"""Side of the movie -> patches that give RELION its smallest median error over the suite."""
ORACLE_SEES = 0.05
"""Bands where even the true field correlates less tell nothing."""
SEEDS_APART = 100
ROUNDING = 1.001
"""Shifts are rounded in files: no larger an error is worse than another."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One movie. Errors of the displacement field are in pixels, RMS per axis; NaN is what was not measured."""

    movie: str
    seed: int
    kind: str
    """What komad found: no motion, one shift per frame, or a local field too."""
    uncorrected_px: float
    komad_px: float
    relion_px: dict[int, float]
    """Patches along each axis -> error; empty when not asked for, or not installed."""
    relion_patches: int
    """What suits RELION best for the size."""
    frc_oracle: tuple[float, ...]
    """In bands from zero to Nyquist; empty when not asked for."""
    frc_komad: tuple[float, ...]
    frc_relion: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Komad's error over RELION's."""
        return self.komad_px / self.relion_px.get(self.relion_patches, math.nan)

    @property
    def best_ratio(self) -> float:
        """Komad's error over the smallest of RELION's: somebody who knows the truth chooses the patches."""
        return self.komad_px / min(self.relion_px.values(), default=math.nan)

    def worst_band(self, frc: tuple[float, ...]) -> float:
        """Smallest correlation over the oracle's, over the bands where the oracle sees the specimen."""
        parts = [
            value / best for value, best in zip(frc, self.frc_oracle, strict=False) if best > ORACLE_SEES
        ]
        return min(parts, default=math.nan)


def main(
    folder: Path,
    *,
    only: list[str],
    n_seeds: int,
    seed_offset: int,
    relion: bool,
    frc: bool,
    out: Path | None,
) -> None:
    """Print one line per movie and what it comes to; movies and RELION's results stay in `folder`."""
    scores = []
    print(_HEAD, flush=True)
    for replicate in range(n_seeds):
        for case in (case for case in CASES if not only or case.name in only):
            offset = seed_offset + SEEDS_APART * replicate
            score = measure(folder, case, offset, relion=relion, frc=frc)
            scores.append(score)
            print(_line(score), flush=True)
    print(_summary(scores))
    if out is not None:
        out.write_text(json.dumps([asdict(score) for score in scores], indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, case: Case, seed_offset: int, *, relion: bool, frc: bool) -> Score:
    """Simulate and correct one movie, as far as that was not done before; komad always runs."""
    spec = case.spec(seed_offset)
    place = folder / f"{case.name}_{spec.seed}"
    movie = prepare(place, spec)
    true = true_field(read_truth(truth_path(movie)))
    run_komad(place, spec, "--no-archive", "--no-even-odd")
    details = komad_results(place) / "movie.json"
    stars = _relion(place, spec) if relion else {}
    relion_fields = {patches: relion_field(star) for patches, star in stars.items()}
    fields = {"komad": komad_field(details)}
    pictures = {"komad": komad_results(place) / "movie.mrc"}
    patches = RELION_CHOICE[case.length]
    if patches in stars:
        fields["relion"] = relion_fields[patches]
        pictures["relion"] = stars[patches].with_suffix(".mrc")
    correlations = _correlations(movie, spec, fields, pictures) if frc else {}
    return Score(
        movie=case.name,
        seed=spec.seed,
        kind=json.loads(details.read_text(encoding="utf-8"))["motion"]["kind"],
        uncorrected_px=field_error_px(np.zeros_like(true), true),
        komad_px=field_error_px(fields["komad"], true),
        relion_px={patches: field_error_px(field, true) for patches, field in relion_fields.items()},
        relion_patches=patches,
        frc_oracle=correlations.get("oracle", ()),
        frc_komad=correlations.get("komad", ()),
        frc_relion=correlations.get("relion", ()),
    )


def _relion(place: Path, spec: MovieSpec) -> dict[int, Path]:
    """Patches -> motion STAR, the micrograph beside it. Runs RELION where it has not; empty when not installed."""
    stars = {}
    for patches in RELION_PATCHES:
        results = relion_results(place, patches)
        star = results / "movie.star"
        if not star.exists() and run_relion(place, spec, patches) is None:
            return {}
        looked_at = [star, *([star.with_suffix(".mrc")] if patches == RELION_CHOICE[spec.nx] else [])]
        for file in set(results.iterdir()) - set(looked_at):
            file.unlink()
        stars[patches] = star
    return stars


def _correlations(
    movie: Path, spec: MovieSpec, fields: dict[str, FloatArray], pictures: dict[str, Path]
) -> dict[str, tuple[float, ...]]:
    """Name -> correlation with the specimen in each band."""
    truth = read_truth(truth_path(movie))
    scene = build_scene(spec, truth)
    gain = read_image(movie.parent.parent / "gain.mrc")
    sums = {name: read_image(path) for name, path in pictures.items()}
    sums["oracle"] = oracle_sum(read_frames(movie), gain, spec, truth)
    fields = {**fields, "oracle": true_field(truth)}
    return {
        name: tuple(ring_correlation(sums[name], noise_free(scene, fields[name])).tolist()) for name in sums
    }


_HEAD = """\
Error of the displacement field, px RMS per axis; FRC with the specimen over that of the true field, worst band.
| movie           | found  |  none | komad | RELION (patches) | ratio | of its best | FRC komad | RELION |
|-----------------|--------|-------|-------|------------------|-------|-------------|-----------|--------|"""


def _line(score: Score) -> str:
    """One row of a Markdown table."""
    komad, relion = score.worst_band(score.frc_komad), score.worst_band(score.frc_relion)
    relion_px = score.relion_px.get(score.relion_patches, math.nan)
    return (
        f"| {score.movie:15} | {score.kind:6} | {score.uncorrected_px:5.2f} | {score.komad_px:5.3f} "
        f"| {relion_px:12.3f} ({score.relion_patches}) | {score.ratio:5.2f} | {score.best_ratio:11.2f} "
        f"| {komad:9.3f} | {relion:6.3f} |"
    ).replace("nan", "  –")


def _summary(scores: list[Score]) -> str:
    worse = sum(score.komad_px > ROUNDING * score.uncorrected_px for score in scores)
    lines = [f"{len(scores)} movies; komad worse than no correction: {worse}"]
    if measured := [score for score in scores if score.relion_px]:
        worse = sum(score.relion_px[score.relion_patches] > score.uncorrected_px for score in measured)
        lines.append(f"RELION worse than no correction: {worse}")
        for name, what in (("the size", "ratio"), ("each movie", "best_ratio")):
            ratios = [getattr(score, what) for score in measured]
            middle, largest = np.median(ratios), max(ratios)
            lines.append(
                f"komad / RELION, patches best for {name}: median {middle:.3f}, largest {largest:.3f}"
            )
    for name, what in (("komad", "frc_komad"), ("RELION", "frc_relion")):
        worst = [part for score in scores if not math.isnan(part := score.worst_band(getattr(score, what)))]
        if worst:
            lines.append(
                f"FRC of {name} over that of the true field: smallest {min(worst):.3f}, median {np.median(worst):.3f}"
            )
    return "\n".join(lines)
