"""The small files that SerialEM and EPU leave beside a movie, with the fields that are read from them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

from komad.simulate.spec import MovieSpec

Sidecars = Literal["none", "mdoc", "epu"]

FRAME_TIME_S = 0.05

EPU_NAMESPACES = 'xmlns="http://schemas.datacontract.org/2004/07/Fei.SharedObjects" xmlns:i="http://www.w3.org/2001/XMLSchema-instance"'
EPU_ARRAYS = 'xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays"'
EPU_OMP = 'xmlns:b="http://schemas.datacontract.org/2004/07/Fei.Applications.Common.Omp.Interface"'
EPU_TYPES = 'xmlns:a="http://schemas.datacontract.org/2004/07/Fei.Types"'
EPU_DRAWING = 'xmlns:a="http://schemas.datacontract.org/2004/07/System.Drawing"'
EPU_UNITS = 'xmlns:a="http://schemas.datacontract.org/2004/07/Fei.Common.Types"'


def movie_stem(number: int, sidecars: Sidecars, *, eer: bool = False) -> str:
    """Name of a session's movie without suffix, as the program that writes such sidecars names it."""
    if sidecars == "epu":
        kind = "EER" if eer else "fractions"
        return f"FoilHole_{7000 + number}_Data_5798426_{number}_20240611_{number:06d}_{kind}"
    return f"movie_{number:04d}"


def sidecar_path(movie_path: Path, sidecars: Sidecars) -> Path:
    """`name.mrc.mdoc` for SerialEM; for EPU the name without `_fractions` or `_EER`, with `.xml`."""
    if sidecars == "mdoc":
        return movie_path.with_name(f"{movie_path.name}.mdoc")
    return movie_path.with_name(f"{movie_path.stem.removesuffix('_fractions').removesuffix('_EER')}.xml")


def write_sidecar(
    movie_path: Path,
    spec: MovieSpec,
    sidecars: Sidecars,
    *,
    gain_name: str,
    frame_time_s: float = FRAME_TIME_S,
    shift: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Write the sidecar that belongs to `movie_path`, whose frames `spec` describes, or nothing for 'none'.

    `shift` is that of the beam, in the unit of the program: µm for SerialEM, EPU's has no name.
    """
    if sidecars == "none":
        return
    is_mdoc = sidecars == "mdoc"
    text = (
        _mdoc(movie_path, spec, gain_name, frame_time_s, shift)
        if is_mdoc
        else _epu(spec, frame_time_s, shift)
    )
    sidecar_path(movie_path, sidecars).write_text(text, encoding="utf-8", newline="\r\n")


def _mdoc(
    movie_path: Path, spec: MovieSpec, gain_name: str, frame_time_s: float, shift: tuple[float, float]
) -> str:
    exposure_s = frame_time_s * spec.n_frames
    values = {
        "GainReference": gain_name,
        "TiltAngle": "0.01",
        "Magnification": "105000",
        "ExposureDose": f"{spec.dose_per_frame * spec.n_frames:g}",
        "DoseRate": f"{spec.dose_e_per_px_frame / frame_time_s:g}",
        "PixelSpacing": f"{spec.pixel_size_angstrom:g}",
        "Defocus": f"{-spec.defocus_um:g}",
        "ImageShift": f"{shift[0]:.6g} {shift[1]:.6g}",
        "ExposureTime": f"{exposure_s:g}",
        "Binning": "1",
        "CameraIndex": "1",
        "DividedBy2": "0",
        "OperatingMode": "1",
        "CountsPerElectron": "1",
        "TargetDefocus": f"{-spec.defocus_um:g}",
        "SubFramePath": f"X:\\komad\\{movie_path.name}",
        "NumSubFrames": f"{spec.n_frames}",
        "FrameDosesAndNumber": f"{spec.dose_per_frame:g} {spec.n_frames}",
    }
    head = f"T = SerialEM: simulated by komad\nVoltage = {spec.voltage_kv:g}\n\n[FrameSet = 0]\n"
    return head + "".join(f"{key} = {value}\n" for key, value in values.items())


def _epu(spec: MovieSpec, frame_time_s: float, shift: tuple[float, float]) -> str:
    """Make an acquisition's XML, SI units: dose of the whole exposure in e/m², pixel size in m, voltage in V."""
    dose = spec.dose_per_frame * spec.n_frames * 1e20
    metres = f"<numericValue>{spec.pixel_size_angstrom * 1e-10!r}</numericValue>"
    symbol = "a:_x003C_Symbol_x003E_k__BackingField"
    pixel = f"{metres}<unit {EPU_UNITS}><{symbol}>m</{symbol}></unit>"
    return f"""<?xml version="1.0" encoding="utf-8"?>
<MicroscopeImage {EPU_NAMESPACES}>
 <name>Empty</name>
 <CustomData {EPU_ARRAYS}>
  {_key_value("Dose", dose, "double")}
  {_key_value("DetectorCommercialName", "Falcon 4", "string")}
  {_key_value("AppliedDefocus", -spec.defocus_um * 1e-6, "double")}
 </CustomData>
 <SpatialScale>
  <pixelSize>
   <x>{pixel}</x>
   <y>{pixel}</y>
  </pixelSize>
 </SpatialScale>
 <microscopeData>
  <acquisition>
   <acquisitionDateTime>2024-06-11T12:00:00.000000+00:00</acquisitionDateTime>
   <camera>
    <Binning {EPU_DRAWING}><a:x>1</a:x><a:y>1</a:y></Binning>
    <CameraSpecificInput {EPU_ARRAYS}>
     {_key_value("SuperResolutionFactor", 1, "int")}
     <a:KeyValueOfstringanyType>
      <a:Key>FractionationSettings</a:Key>
      <a:Value {EPU_OMP} i:type="b:EquidistantFractionation">
       <b:NumberOffractions>{spec.n_frames}</b:NumberOffractions>
      </a:Value>
     </a:KeyValueOfstringanyType>
    </CameraSpecificInput>
    <ExposureTime>{frame_time_s * spec.n_frames:g}</ExposureTime>
    <ReadoutArea {EPU_DRAWING}>
     <a:height>{spec.ny}</a:height><a:width>{spec.nx}</a:width><a:x>0</a:x><a:y>0</a:y>
    </ReadoutArea>
   </camera>
  </acquisition>
  <gun>
   <AccelerationVoltage>{spec.voltage_kv * 1e3:.0f}</AccelerationVoltage>
  </gun>
  <optics>
   <BeamShift {EPU_TYPES}><a:_x>{shift[0]!r}</a:_x><a:_y>{shift[1]!r}</a:_y></BeamShift>
   <Defocus>{-spec.defocus_um * 1e-6!r}</Defocus>
   <TemMagnification><NominalMagnification>105000</NominalMagnification></TemMagnification>
  </optics>
 </microscopeData>
</MicroscopeImage>
"""


def _key_value(key: str, value: float | str, kind: str) -> str:
    return (
        f"<a:KeyValueOfstringanyType><a:Key>{escape(key)}</a:Key>"
        f'<a:Value xmlns:b="http://www.w3.org/2001/XMLSchema" i:type="b:{kind}">{escape(str(value))}</a:Value>'
        "</a:KeyValueOfstringanyType>"
    )
