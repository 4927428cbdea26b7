"""Small movies and sidecars of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from komad.model import MovieFormat, MovieHeader

REAL_SIDECARS = Path(__file__).parents[3] / "shared/data/sidecars"

needs_real_sidecars = pytest.mark.skipif(not REAL_SIDECARS.is_dir(), reason="../shared/data is not here")


def header(nx: int, ny: int, n_frames: int = 40, pixel_size: float | None = None) -> MovieHeader:
    """What the file of a movie of this size says."""
    return MovieHeader(
        format=MovieFormat.TIFF,
        n_frames=n_frames,
        ny=ny,
        nx=nx,
        dtype="uint8",
        pixel_size_angstrom=pixel_size,
    )


@pytest.fixture
def write_movie(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small MRC movie: name, shape and pixel size in its header."""

    def write(name: str = "movie.mrc", shape: tuple[int, ...] = (4, 6, 8), pixel_size: float = 0.0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
            file.set_image_stack()
            file.voxel_size = pixel_size
        return path

    return write


def mdoc_text(kind: str = "FrameSet", **values: Any) -> str:
    """A section as SerialEM writes it, with Windows line ends."""
    lines = ["T = SerialEM: Krios", "Voltage = 300", "", f"[{kind} = 0]"]
    lines += [f"{key} = {value}" for key, value in values.items()]
    return "\r\n".join(lines) + "\r\n"


EPU_TEMPLATE = """\ufeff<MicroscopeImage xmlns="http://schemas.datacontract.org/2004/07/Fei.SharedObjects"
 xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
<CustomData xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays">
<a:KeyValueOfstringanyType><a:Key>Dose</a:Key><a:Value>{dose}</a:Value></a:KeyValueOfstringanyType>
</CustomData>
<SpatialScale><pixelSize><x><numericValue>{pixel}</numericValue>
<unit xmlns:a="http://schemas.datacontract.org/2004/07/Fei.Common.Types">
<a:_x003C_Symbol_x003E_k__BackingField>{unit}</a:_x003C_Symbol_x003E_k__BackingField></unit></x></pixelSize></SpatialScale>
<microscopeData><acquisition><camera>
<CameraSpecificInput xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays">
<a:KeyValueOfstringanyType><a:Key>FractionationSettings</a:Key><a:Value
 xmlns:b="http://schemas.datacontract.org/2004/07/Fei.Applications.Common.Omp.Interface">{fractions}</a:Value>
</a:KeyValueOfstringanyType></CameraSpecificInput>
<ReadoutArea xmlns:a="http://schemas.datacontract.org/2004/07/System.Drawing">
<a:height>{height}</a:height><a:width>{width}</a:width></ReadoutArea>
</camera></acquisition><gun><AccelerationVoltage>{volts}</AccelerationVoltage></gun></microscopeData>
</MicroscopeImage>
"""


def epu_text(**values: Any) -> str:
    """EPU's XML, cut down to what is read; a K3 at 1.0 Å of the shown image unless told otherwise."""
    n_fractions = values.pop("n_fractions", 40)
    fractions = f"<b:NumberOffractions>{n_fractions}</b:NumberOffractions>" if n_fractions else ""
    defaults = {"dose": 4e21, "pixel": 1e-10, "unit": "m", "width": 2880, "height": 2046, "volts": 300000}
    return EPU_TEMPLATE.format(**(defaults | values), fractions=fractions)
