"""Correlated noise in a session on an ageing camera: what the outlier filter and KOMA take away, and in what time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy.optimize import curve_fit

from komad import kernels
from komad.config import Processing
from komad.detector import (
    Calibration,
    RunningTotal,
    calibrate,
    choose_window,
    frame_correlations,
    measure_pattern,
    stack_facts,
    without_pattern,
)
from komad.detector.koma import UNIT
from komad.model import OutlierPixels, Pattern, StackSum, outliers_at
from komad.pipeline import sum_stack
from komad.simulate import MovieSpec, simulate_movie
from komad.simulate.ageing import Ageing, ageing_camera
from komad.simulate.detector import illumination
from tests.detector.stacks import NO_OUTLIERS, as_stack
from tests.motion import movies as aligned

N_MOVIES = 60
LOOKED_AT = range(1, N_MOVIES, 4)
USUAL_RADIUS = 12
RADII = (1, 2, 4, 8, 12, 16, 25)
CAMERA = MovieSpec(
    ny=512, nx=512, n_frames=40, hot_per_megapixel=100.0, dead_per_megapixel=20.0, gain_error=0.02, seed=7
)
AGEING = Ageing(more_hot_per_megapixel=2.0, column_spread=0.015)
SERIES = {
    "vacuum": replace(CAMERA, specimen="ice", dose_per_frame=2.9, illumination_gradient=0),
    "specimen": replace(CAMERA, specimen="apoferritin", dose_per_frame=1.2),
}
"""2.0 and 0.83 e/px and frame, 80 and 33 e/px in all."""
MOVIE = MovieSpec(
    ny=1024,
    nx=1024,
    n_frames=16,
    dose_per_frame=2.5,
    pixel_size_angstrom=1.25,
    hot_per_megapixel=0,
    dead_per_megapixel=0,
)
"""On which motion is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Movie:
    """What the archive job leaves of one movie, and its frames."""

    frames: npt.NDArray[Any]
    stack: StackSum
    n_hot_simulated: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Correlated noise against the radius, means over movies."""

    raw: float
    """After the gain alone."""
    filtered: float
    """After outliers."""
    koma: dict[int, float]
    """Radius -> after KOMA as komad does it."""
    plain: dict[int, float]
    """Radius -> after the plain mean of the window was subtracted, as in the paper."""
    unfiltered: dict[int, float]
    """Radius -> the plain mean without an outlier filter."""


def main(pictures: Path | None) -> None:
    """Run both series and the clock; draw when told where to."""
    curves, sessions = {}, {}
    field_errors()
    for name, spec in SERIES.items():
        gain, movies = session(spec)
        sessions[name] = gain, movies
        curves[name] = measure(gain, movies)
        show(name, curves[name])
    time_per_movie()
    if pictures is not None:
        draw(pictures, curves, sessions)


def session(spec: MovieSpec) -> tuple[Calibration, list[Movie]]:
    """The movies of a session, with the gain reference of the first day."""
    movies, gain = [], None
    cameras = islice(ageing_camera(spec, AGEING), N_MOVIES)
    for number, camera in enumerate(cameras):
        movie = simulate_movie(replace(spec, seed=spec.seed + number), detector=camera)
        gain = camera.gain_reference
        stack = sum_stack(movie.frames, gain=gain, dark=None, defects=None, processing=Processing())
        movies.append(Movie(frames=movie.frames, stack=stack, n_hot_simulated=len(camera.hot_yx)))
    return calibrate(spec.shape, gain=gain, dark=None), movies


def measure(gain: Calibration, movies: Sequence[Movie]) -> Curve:
    """Correlated noise in some of the movies, with windows of every radius on both sides."""
    koma: dict[int, list[float]] = {radius: [] for radius in RADII}
    plain: dict[int, list[float]] = {radius: [] for radius in RADII}
    unfiltered: dict[int, list[float]] = {radius: [] for radius in RADII}
    before = []
    facts = [(i, movie.stack.facts) for i, movie in enumerate(movies)]
    for index in LOOKED_AT:
        own = movies[index]
        for radius in RADII:
            members = choose_window(index, facts, mode="centred", radius=radius).members
            neighbours = [movies[i].stack for i in members]
            total = total_of(neighbours, gain)
            pattern = measure_pattern(total, own.stack, gain)
            assert pattern is not None
            raw, filtered, after = correlations(own, own.stack.outliers, gain, pattern)
            koma[radius].append(after)
            as_in_paper = replace(pattern, relative=mean_of(total))
            plain[radius].append(correlations(own, own.stack.outliers, gain, as_in_paper)[2])
            with_outliers = total_of([replace(each, outliers=NO_OUTLIERS) for each in neighbours], gain)
            as_in_paper = replace(pattern, relative=mean_of(with_outliers))
            unfiltered[radius].append(correlations(own, NO_OUTLIERS, gain, as_in_paper)[2])
        before.append((raw, filtered))
    raw, filtered = np.mean(before, axis=0)
    means = (
        {radius: float(np.mean(each)) for radius, each in found.items()}
        for found in (koma, plain, unfiltered)
    )
    return Curve(raw=raw, filtered=filtered, **dict(zip(("koma", "plain", "unfiltered"), means, strict=True)))


def total_of(stacks: Sequence[StackSum], gain: Calibration) -> RunningTotal:
    """Their sum."""
    total = RunningTotal((gain.gain.shape[0], gain.gain.shape[1]))
    for stack in stacks:
        total.add(stack, gain)
    return total


def mean_of(total: RunningTotal) -> npt.NDArray[np.float32]:
    """What the paper subtracts: everything that is not the mean."""
    return (total.total / (total.n_stacks * UNIT) - 1).astype(np.float32)


def correlations(
    movie: Movie, outliers: OutlierPixels, gain: Calibration, pattern: Pattern
) -> tuple[float, float, float]:
    """After the gain, outliers, and the subtraction of `pattern`."""
    koma = without_pattern(gain, pattern, "subtract")
    return frame_correlations(movie.frames, gain, outliers, koma, fill="mean")


def power_law(curve: dict[int, float]) -> tuple[float, float, float]:
    """The paper's eq. 13: (c, b, d) of c a^b + d, fitted over the radius a."""
    radius, value = np.array(list(curve)), np.array(list(curve.values()))
    scale = np.abs(value).max()
    found, _ = curve_fit(lambda a, c, b, d: c * a**b + d, radius, value / scale, p0=(1, -1, 0), maxfev=20000)
    return found[0] * scale, found[1], found[2] * scale


def show(name: str, curve: Curve) -> None:
    """Print a table."""
    print(
        f"\n{name}: gain alone {curve.raw:.5f}, after outliers {curve.filtered:.5f} ({curve.raw / curve.filtered:.1f}x)"
    )
    print("radius   komad     plain mean  plain mean without outlier filter")
    for radius in RADII:
        print(
            f"{radius:6d} {curve.koma[radius]:10.5f} {curve.plain[radius]:10.5f} {curve.unfiltered[radius]:10.5f}"
        )
    for label, each in (("plain mean", curve.plain), ("without outlier filter", curve.unfiltered)):
        factor, power, rest = power_law(each)
        print(f"{label}: {factor:.4f} a^{power:.2f} {rest:+.5f}")


def field_errors(n_seeds: int = 3) -> None:
    """Print errors of the displacement field: right gain, gain 3 % wrong, the same with KOMA of 24 movies."""
    print("\nfield error, px: right gain, 3 % wrong, 3 % wrong with KOMA")
    for seed in range(n_seeds):
        spec = replace(MOVIE, gain_error=0.03, seed=seed)
        movie = simulate_movie(spec)
        right = calibrate(spec.shape, gain=1 / movie.detector.response, dark=None)
        wrong = calibrate(spec.shape, gain=movie.gain, dark=None)
        expected = movie.detector.expected(
            illumination(spec) * np.float32(spec.n_frames * spec.dose_e_per_px_frame)
        )
        rng = np.random.default_rng(seed)
        sums = [rng.poisson(expected) for _ in range(2 * USUAL_RADIUS)]
        own, *neighbours = (
            as_stack(counts.astype(np.uint16), calibration=wrong, n_frames=spec.n_frames)
            for counts in (movie.frames.sum(axis=0), *sums)
        )
        pattern = measure_pattern(total_of(neighbours, wrong), own, wrong)
        assert pattern is not None
        errors = []
        for references in (right, wrong, without_pattern(wrong, pattern, "subtract")):
            small = kernels.reduce(
                movie.frames,
                references.gain,
                references.offset,
                kernels.plan_outliers(NO_OUTLIERS, spec.shape),
                factor=aligned.BINNING,
            )
            seen = aligned.Movie(small=small, truth=movie.truth, spec=spec)
            errors.append(aligned.field_error(aligned.measure(seen), seen))
        print(
            "  "
            + "  ".join(f"{error:.3f}" for error in errors)
            + f"  {errors[2] / errors[0]:.2f} of the right gain's"
        )


def time_per_movie(length: int = 4096, n_frames: int = 40) -> None:
    """Seconds that KOMA adds to a movie of usual size, medians of five."""
    shape = (length, length)
    rng = np.random.default_rng(0)
    gain = calibrate(shape, gain=rng.normal(1, 0.03, shape).astype(np.float32), dark=None)
    outliers = outliers_at(np.unique(rng.integers(0, length, (length * length // 200, 2)), axis=0))
    frames = np.tile(rng.poisson(1.0, (n_frames, 256, length)).astype(np.uint8), (1, length // 256, 1))
    totals = [rng.normal(40, 6.3, shape).astype(np.uint16) for _ in range(2)]
    stacks = [
        StackSum(
            total=total,
            frame_means=np.ones(n_frames),
            outliers=outliers,
            facts=stack_facts(total, gain, outliers, n_frames=n_frames),
        )
        for total in totals
    ]
    running = total_of(stacks[:1] * 24, gain)
    steps: dict[str, list[float]] = {}
    for _ in range(6):
        marks = [perf_counter()]
        for move in (running.add, running.add, running.subtract, running.subtract):
            move(stacks[1], gain)
        marks.append(perf_counter())
        pattern = measure_pattern(running, stacks[0], gain)
        assert pattern is not None
        marks.append(perf_counter())
        koma = without_pattern(gain, pattern, "subtract")
        marks.append(perf_counter())
        frame_correlations(frames, gain, outliers, koma, fill="mean")
        marks.append(perf_counter())
        stack_facts(totals[0], gain, outliers, n_frames=n_frames)
        marks.append(perf_counter())
        names = (
            "two sums in, two out",
            "pattern",
            "into the references",
            "correlations",
            "facts (archive job)",
        )
        for name, seconds in zip(names, np.diff(marks), strict=True):
            steps.setdefault(name, []).append(seconds)
    print(f"\n{length} x {length} x {n_frames}, 0.5 % outliers, s:")
    for name, seconds_of in steps.items():
        print(f"  {name:22s} {np.median(seconds_of[1:]):.3f}")


def draw(
    directory: Path, curves: dict[str, Curve], sessions: dict[str, tuple[Calibration, list[Movie]]]
) -> None:
    """Figures of docs/koma.md."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, (name, curve) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        axes.axhline(curve.raw, color="0.6", ls=":", label="gain alone")
        axes.plot(
            RADII, list(curve.unfiltered.values()), "v-", color="C3", label="plain mean, no outlier filter"
        )
        axes.axhline(curve.filtered, color="0.3", ls="--", label="outlier filter alone")
        axes.plot(RADII, list(curve.plain.values()), "s-", color="C1", label="outlier filter, plain mean")
        axes.plot(
            RADII, list(curve.koma.values()), "o-", color="C0", label="outlier filter, KOMA as komad does it"
        )
        axes.set(title=name, xlabel="radius: movies on either side", ylabel="correlation between frames, R")
        axes.set(xscale="log", yscale="log", xticks=RADII, xticklabels=RADII, xlim=(0.9, 28))
        axes.minorticks_off()
    axes.legend(fontsize=7)
    figure.savefig(directory / "koma-radius.png", dpi=110)

    gain, movies = sessions["vacuum"]
    facts = [(i, movie.stack.facts) for i, movie in enumerate(movies)]
    reports = []
    for index, own in enumerate(movies):
        window = choose_window(index, facts, mode="centred", radius=USUAL_RADIUS)
        pattern = measure_pattern(total_of([movies[i].stack for i in window.members], gain), own.stack, gain)
        assert pattern is not None
        reports.append(correlations(own, own.stack.outliers, gain, pattern))
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    hot, noise, fading = figure.subplots(1, 3)
    number = np.arange(1, N_MOVIES + 1)
    hot.plot(number, [movie.n_hot_simulated for movie in movies], color="0.6", label="simulated hot pixels")
    hot.plot(number, [len(movie.stack.outliers) for movie in movies], color="C3", label="outliers found")
    hot.set(xlabel="movie", ylim=(0, None))
    for values, label in zip(
        np.transpose(reports), ("gain alone", "outlier filter", "and KOMA"), strict=True
    ):
        noise.plot(number, values, label=label)
    noise.set(xlabel="movie", ylabel="correlation between frames, R", yscale="log")
    fading.plot(number[1:], sums_like_the_first(gain, movies), ".", color="C2")
    fading.set(
        xlabel="movies since the first", ylabel="correlation of stack sums with the first", ylim=(0, None)
    )
    hot.legend(fontsize=8)
    noise.legend(fontsize=8)
    figure.savefig(directory / "koma-ageing.png", dpi=110)


def sums_like_the_first(gain: Calibration, movies: Sequence[Movie]) -> list[float]:
    """Pearson correlation of each stack sum, outliers replaced, with that of the first movie, as in figure 11."""
    sums = [total_of([movie.stack], gain).total.ravel() for movie in movies]
    return [float(np.corrcoef(sums[0], each)[0, 1]) for each in sums[1:]]
