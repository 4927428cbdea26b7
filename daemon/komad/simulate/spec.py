"""What to simulate: optics, exposure, specimen, motion and detector of one movie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from komad.errors import ParameterError

Specimen = Literal["apoferritin", "chain", "ice"]
Mtf = Literal["k3", "falcon4"]

MAX_E_PER_PX_FRAME = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class MovieSpec:
    """Everything that decides a simulated movie; equal specs give equal movies, bit by bit."""

    n_frames: int = 40
    ny: int = 4096
    nx: int = 4096
    pixel_size_angstrom: float = 0.83
    voltage_kv: float = 300.0
    """100 to 300 kV, where radiation damage is known."""
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    defocus_um: float = 1.5
    """Underfocus is positive."""
    dose_per_frame: float = 1.2
    """e/Å² per frame."""
    pre_exposure: float = 0.0
    """e/Å² on the specimen before frame 0."""
    b_factor_angstrom2: float = 60.0
    """Envelope exp(-B k²/4) of specimen and optics."""
    specimen: Specimen = "apoferritin"
    """`chain` is one 20 kDa ferritin chain: the weakest signal that is still a specimen. `ice` is nothing at all."""
    particles_per_um2: float | None = None
    """Particles per µm²; None is what a good grid has: 2500 apoferritin or 10000 chains."""
    n_orientations: int = 24
    """Random views that the particles share."""
    carbon_edge: bool = False
    """Part of the field is carbon film beyond the curved edge of a hole: darker, grainy."""
    global_motion: float = 1.0
    """Whole-frame motion as a multiple of a usual movie's; 0 is none."""
    local_motion: float = 1.0
    """Motion that differs across the field, as a multiple of a usual movie's; 0 is none."""
    doming_angstrom: float = 0.0
    """Largest radial motion, by the last frame, around a bump of the film: local motion that is no polynomial."""
    illumination_gradient: float = 0.05
    """Half the relative difference of the illumination between opposite edges; its mean stays 1."""
    mtf: Mtf = "k3"
    """Detector whose modulation transfer dampens the specimen's contrast."""
    max_count: int = 255
    """Counts saturate here: 15 for 4-bit movies, 255 for bytes, more for 16-bit movies."""
    response_spread: float = 0.03
    """Relative spread of the pixels' response; columns and smooth sweeps add about as much each."""
    gain_error: float = 0.0
    """Relative RMS error of the gain reference that is handed out: a stale or noisy one leaves this fixed pattern."""
    hot_per_megapixel: float = 5.0
    """Spots of hot pixels; a quarter of them are clusters. At least four, unless zero."""
    dead_per_megapixel: float = 3.0
    """Spots of dead pixels; a quarter of them are clusters. At least four, unless zero."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        if min(self.n_frames, self.ny, self.nx) < 1:
            raise ParameterError(
                f"a movie of {self.n_frames} x {self.ny} x {self.nx} has no pixels; give positive sizes"
            )
        if min(self.dose_per_frame, self.pixel_size_angstrom) <= 0:
            raise ParameterError("dose_per_frame and pixel_size_angstrom must be positive")
        if self.dose_e_per_px_frame > MAX_E_PER_PX_FRAME:
            raise ParameterError(
                f"{self.dose_e_per_px_frame:.3g} electrons per pixel and frame cannot be counted; "
                f"stay below {MAX_E_PER_PX_FRAME}"
            )
        if not 100 <= self.voltage_kv <= 300:
            raise ParameterError(
                f"radiation damage is known from 100 to 300 kV, not at {self.voltage_kv:g} kV"
            )
        if not 1 <= self.max_count <= 65535:
            raise ParameterError(f"max_count must lie in 1..65535, not {self.max_count}")

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return (self.ny, self.nx)

    @property
    def dose_e_per_px_frame(self) -> float:
        """Electrons per pixel and frame without a specimen."""
        return self.dose_per_frame * self.pixel_size_angstrom**2

    @property
    def dtype(self) -> type[np.uint8 | np.uint16]:
        """Smallest unsigned integer that holds `max_count`."""
        return np.uint8 if self.max_count <= 255 else np.uint16

    @property
    def particle_density_per_angstrom2(self) -> float:
        """Particles per Å²."""
        usual = {"apoferritin": 2500.0, "chain": 10000.0, "ice": 0.0}[self.specimen]
        return 1e-8 * (usual if self.particles_per_um2 is None else self.particles_per_um2)

    def frame_dose(self) -> npt.NDArray[np.float64]:
        """(n_frames,) exposure in the middle of each frame, e/Å²: the moment that motion and damage are taken at."""
        return self.pre_exposure + self.dose_per_frame * (np.arange(self.n_frames, dtype=np.float64) + 0.5)

    def random(self, *stream: int | str) -> np.random.Generator:
        """Independent generator for a named part of the simulation."""
        words = [
            int.from_bytes(part.encode(), "little") if isinstance(part, str) else part for part in stream
        ]
        return np.random.default_rng([self.seed, *words])
