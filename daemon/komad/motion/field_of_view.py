"""Which part of the frames shows the specimen under the beam."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from komad.arrays import Array, beside, to_host

SMOOTHING = 4.0
"""Small pixels (standard deviation): coarser than noise, finer than what is left out."""
USUAL = (0.5, 2.0)
"""Times the median brightness: darker is a grid bar, an aperture or beyond the beam, brighter a hole without ice.
Carbon film and thick ice are well within."""
FADE = 24.0
"""Small pixels over which the frames fade towards what is left out: no edge remains that alignment could see."""
LEAST_LIT = 0.1
"""Of the field: where less has the usual brightness, nothing is left out."""


def keep_lit(frames: Array) -> Array:
    """Frames with what is not of the usual brightness faded out; the frames themselves where all is.

    The edge of the beam stays where it is while the specimen moves, and is far stronger than the specimen: it would
    hold all shifts along its normal near zero.

    Parameters
    ----------
    frames : (n_frames, y, x) small frames, finite.

    Returns
    -------
    (n_frames, y, x), its mean over what is lit taken off each frame where anything is left out.
    """
    mean = scipy.ndimage.gaussian_filter(to_host(frames.mean(axis=0)), SMOOTHING, mode="nearest")
    level = np.median(mean[mean > 0.1 * mean.max()]) if mean.max() > 0 else 0.0
    lit = (mean > USUAL[0] * level) & (mean < USUAL[1] * level)
    if lit.all() or lit.mean() < LEAST_LIT:
        return frames
    distance = scipy.ndimage.distance_transform_edt(lit)
    mask = (0.5 - 0.5 * np.cos(np.pi * np.minimum(distance / FADE, 1))).astype(np.float32)
    inside, mask = beside(frames, mask / mask.sum()), beside(frames, mask)
    return np.stack([(frame - (frame * inside).sum()) * mask for frame in frames])
