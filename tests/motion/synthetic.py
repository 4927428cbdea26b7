"""Spectra drawn from the very model that the alignment assumes: what comes out has a closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from komad.motion.spectra import Rings, Spectra, Statistics, make_rings

FloatArray = npt.NDArray[np.float64]
Picture = npt.NDArray[np.complex64]


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """F_t = q_t s exp(2 pi i k . shift_t) + p + noise, complex normal, independent in every coefficient."""

    spectra: Spectra
    plain: Picture
    """(my, mx) sum over frames of F of the first window."""
    found: Statistics
    """The true powers."""
    shifts: FloatArray
    """(n_windows, n_frames, 2)."""


def grid(length: int = 64, *, n_rings: int = 16, low: float = 0.03) -> Rings:
    """Rings of a square window."""
    return make_rings((length, length), n_rings=n_rings, low=low)


def falling_q(n_frames: int, rings: Rings) -> FloatArray:
    """(n_frames, n_rings) radiation damage: fine detail goes first."""
    return np.exp(-3 * rings.frequency * np.arange(n_frames)[:, None] / n_frames)


def draw(
    rings: Rings,
    *,
    signal: float | FloatArray,
    noise: float | FloatArray = 1.0,
    q: FloatArray,
    shifts: FloatArray | None = None,
    pattern: float = 0.0,
    strength: FloatArray | None = None,
    seed: int = 0,
) -> Synthetic:
    """Draw frames of one window, or of as many as `strength` has factors.

    Parameters
    ----------
    signal, noise : S and N, of each ring or of all.
    q : (n_frames, n_rings).
    shifts : (n_frames, 2), or (n_windows, n_frames, 2) where windows differ; none when left out.
    pattern : n P / N.
    strength : (n_windows,) factor of S in each window.
    """
    rng = np.random.default_rng(seed)
    n, inside = len(q), rings.index >= 0
    strength = np.ones(1) if strength is None else strength
    shifts = np.broadcast_to(np.zeros(2) if shifts is None else shifts, (len(strength), n, 2))
    signal, noise = (np.broadcast_to(np.asarray(part, float), rings.count.shape) for part in (signal, noise))

    def white(*shape: int) -> npt.NDArray[np.complex128]:
        shape = (*shape, *rings.index.shape)
        return np.asarray((rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2))

    along_y, along_x = (
        rings.ky[:, None] * shifts[:, :, 0, None, None],
        rings.kx * shifts[:, :, 1, None, None],
    )
    specimen = white(len(strength), 1) * np.sqrt(strength[:, None, None, None] * signal[rings.index])
    level = np.sqrt(noise[rings.index])
    frames = white(len(strength), n) * level + white(len(strength), 1) * level * np.sqrt(pattern / n)
    frames += q[:, rings.index] * specimen * np.exp(2j * np.pi * (along_y + along_x))
    frames *= inside
    power = np.square(np.abs(frames)).mean(axis=0)
    spectra = Spectra(
        values=(q[:, rings.index] * frames).astype(np.complex64),
        power=np.stack([rings.mean(frame) for frame in power]),
        level=np.ones(len(strength)),
        rings=rings,
        q=q,
        share=1.0,
        shape=(rings.index.shape[0], 2 * rings.index.shape[1] - 2),
    )
    return Synthetic(
        spectra=spectra,
        plain=frames[0].sum(axis=0).astype(np.complex64),
        found=Statistics(
            signal=strength[:, None] * signal, noise=np.broadcast_to(noise, (len(strength), len(noise)))
        ),
        shifts=shifts,
    )


def log_density(made: Synthetic, shifts: FloatArray, ratio: float = 0.0) -> FloatArray:
    """Multivariate normal log density of the frames in each coefficient that takes part, straight from its covariance.

    That of noise alone is taken off.
    """
    spectra, inside = made.spectra, made.spectra.rings.index >= 0
    ring = spectra.rings.index[inside]
    q = spectra.q[:, ring].T
    frames = spectra.values[0][:, inside].T.astype(complex) / q
    n = frames.shape[1]
    y, x = np.nonzero(inside)
    phase = np.outer(spectra.rings.ky[y].astype(float), shifts[:, 0]) + np.outer(
        spectra.rings.kx[x].astype(float), shifts[:, 1]
    )
    a = q * np.exp(2j * np.pi * phase)
    signal, noise = made.found.signal[0][ring], made.found.noise[0][ring]
    covariance = noise[:, None, None] * (np.eye(n) + ratio / n)
    covariance = covariance + signal[:, None, None] * a[:, :, None] * a[:, None, :].conj()
    solved = np.linalg.solve(covariance, frames[:, :, None])[:, :, 0]
    full = -(frames.conj() * solved).sum(axis=1).real - np.linalg.slogdet(covariance)[1]
    alone = -np.square(np.abs(frames)).sum(axis=1) / noise - n * np.log(noise)
    return np.asarray(full - alone)
