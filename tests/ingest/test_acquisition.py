"""Which source wins, what is said when they disagree, and what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from komad.config import AcquisitionSettings, Processing
from komad.errors import ParameterError
from komad.ingest import missing_parameters
from komad.ingest.acquisition import resolve
from komad.ingest.reading import Reading
from komad.model import Acquisition, MovieFormat
from tests.ingest.conftest import header

NO_SIDECAR = Reading(name="")
COMPLETE = Acquisition(
    pixel_size_angstrom=0.8, voltage_kv=300.0, dose_per_frame=1.2, sources={"voltage_kv": "configuration"}
)


def test_order_of_precedence() -> None:
    """Supplied wins over configuration, that over sidecar, that over header; each source is recorded."""
    movie = header(100, 100, pixel_size=0.4)
    sidecar = Reading(
        name="a.mdoc", values={"pixel_size_angstrom": 0.3, "voltage_kv": 200.0, "dose_per_frame": 1.0}
    )
    configured = AcquisitionSettings(pixel_size_angstrom=0.2, voltage_kv=300)

    assert resolve(movie, AcquisitionSettings(), NO_SIDECAR).pixel_size_angstrom == 0.4
    assert resolve(movie, AcquisitionSettings(), sidecar).pixel_size_angstrom == 0.3
    assert resolve(movie, configured, sidecar).pixel_size_angstrom == 0.2
    acquisition = resolve(movie, configured, sidecar, supplied={"pixel_size_angstrom": 0.1})
    assert acquisition.pixel_size_angstrom == 0.1
    assert acquisition.sources == {
        "pixel_size_angstrom": "supplied",
        "voltage_kv": "configuration",
        "dose_per_frame": "a.mdoc",
    }
    assert acquisition.cs_mm == 2.7


def test_what_an_archive_keeps_is_the_last_source() -> None:
    """Optics and dose in an MRCZ movie count where nobody says otherwise, and only values that could be configured."""
    kept = {"voltage_kv": 300.0, "cs_mm": 0.01, "dose_per_frame": -1.0, "camera": "K3"}
    movie = replace(header(100, 100), format=MovieFormat.MRCZ, facts=kept)
    acquisition = resolve(movie, AcquisitionSettings(), NO_SIDECAR)
    assert (acquisition.voltage_kv, acquisition.cs_mm, acquisition.dose_per_frame) == (300.0, 0.01, None)
    assert acquisition.sources == {"voltage_kv": "header", "cs_mm": "header"}
    assert resolve(movie, AcquisitionSettings(cs_mm=2.7), NO_SIDECAR).cs_mm == 2.7
    assert (
        resolve(replace(movie, format=MovieFormat.MRC), AcquisitionSettings(), NO_SIDECAR).voltage_kv is None
    )


def test_unknown_values_are_none_and_have_no_source() -> None:
    """What nobody says is unknown, never a guess."""
    acquisition = resolve(header(100, 100), AcquisitionSettings(), NO_SIDECAR)
    assert (acquisition.pixel_size_angstrom, acquisition.voltage_kv, acquisition.dose_per_frame) == (
        None,
        None,
        None,
    )
    assert acquisition.sources == {}
    assert acquisition.notes == {}


def test_a_header_that_says_exactly_one_angstrom_means_unknown() -> None:
    """Programs write 1 when they do not know: it is not believed, and the reason is given."""
    acquisition = resolve(header(100, 100, pixel_size=1.0), AcquisitionSettings(), NO_SIDECAR)
    assert acquisition.pixel_size_angstrom is None
    assert "exactly 1 Å" in acquisition.notes["pixel_size_angstrom"]
    assert "exactly 1 Å" in missing_parameters(acquisition, Processing())


def test_disagreement_beyond_two_percent_is_said() -> None:
    """The note names both sources and values; within 2 % nothing is said."""
    configured = AcquisitionSettings(pixel_size_angstrom=1.66, voltage_kv=300)
    sidecar = Reading(name="a.xml", values={"pixel_size_angstrom": 0.83, "voltage_kv": 300.0})
    acquisition = resolve(header(100, 100, pixel_size=1.65), configured, sidecar)
    assert acquisition.pixel_size_angstrom == 1.66
    assert acquisition.notes == {
        "pixel_size_angstrom": "configuration says 1.66 and is used, but a.xml says 0.83",
    }


def test_a_configured_default_value_is_no_disagreement() -> None:
    """A spherical aberration that differs from the built-in default is not worth a note."""
    acquisition = resolve(header(100, 100), AcquisitionSettings(cs_mm=0.01), NO_SIDECAR)
    assert acquisition.cs_mm == 0.01
    assert acquisition.sources["cs_mm"] == "configuration"
    assert acquisition.notes == {}


def test_doubts_are_kept_only_where_nothing_better_is_known() -> None:
    """Why a sidecar's value was not used is of no interest once the configuration gives it."""
    sidecar = Reading(name="a.mdoc", doubts={"pixel_size_angstrom": "a.mdoc: cannot be told"})
    assert (
        "cannot be told" in resolve(header(9, 9), AcquisitionSettings(), sidecar).notes["pixel_size_angstrom"]
    )
    assert (
        "cannot be told"
        in resolve(header(9, 9, pixel_size=0.5), AcquisitionSettings(), sidecar).notes["pixel_size_angstrom"]
    )
    assert resolve(header(9, 9), AcquisitionSettings(pixel_size_angstrom=0.5), sidecar).notes == {}


@pytest.mark.parametrize(
    "supplied",
    [{"pixel_size_angstrom": -1.0}, {"voltage_kv": 3}, {"pixelsize": 1.0}, {"optics_group": "a b"}],
)
def test_supplied_values_are_checked(supplied: dict[str, object]) -> None:
    """A value out of range, or of an unknown name, is refused with its name."""
    with pytest.raises(ParameterError, match=next(iter(supplied))):
        resolve(header(9, 9), AcquisitionSettings(), NO_SIDECAR, supplied=supplied)


def test_supplied_none_is_not_supplied() -> None:
    """Options that were not given on a command line change nothing."""
    acquisition = resolve(
        header(9, 9),
        AcquisitionSettings(voltage_kv=200),
        NO_SIDECAR,
        supplied={"voltage_kv": None, "cs_mm": 1.4},
    )
    assert acquisition.voltage_kv == 200
    assert acquisition.cs_mm == 1.4
    assert acquisition.sources["cs_mm"] == "supplied"


def test_nothing_missing() -> None:
    """With pixel size, voltage and dose known, nothing is missing."""
    assert missing_parameters(COMPLETE, Processing()) == ""


def test_missing_names_value_key_and_command() -> None:
    """The sentence names what is unknown, where to set it and which command supplies it."""
    sentence = missing_parameters(replace(COMPLETE, pixel_size_angstrom=None), Processing())
    assert sentence == (
        "pixel size unknown: set acquisition.pixel_size_angstrom of this folder in the configuration, "
        "or run `komad supply --pixel-size ...`"
    )
    sentence = missing_parameters(Acquisition(), Processing())
    assert sentence.startswith(
        "pixel size and voltage and dose per frame unknown: set acquisition.pixel_size_angstrom"
    )
    assert "`komad supply --pixel-size ... --voltage ... --dose-per-frame ...`" in sentence


def test_dose_is_needed_for_dose_weighting_only() -> None:
    """Without dose weighting a movie needs no dose; with it, switching it off is offered."""
    acquisition = replace(COMPLETE, dose_per_frame=None)
    assert missing_parameters(acquisition, Processing(dose_weighting=False)) == ""
    assert "switch processing.dose_weighting off" in missing_parameters(acquisition, Processing())


@pytest.mark.parametrize(("voltage", "usable"), [(60.0, False), (100.0, True), (300.0, True), (400.0, False)])
def test_voltages_of_dose_weighting(voltage: float, usable: bool) -> None:
    """Outside 100 to 300 kV there is no dose weighting, and the sentence says so."""
    acquisition = replace(COMPLETE, voltage_kv=voltage)
    assert missing_parameters(acquisition, Processing(dose_weighting=False)) == ""
    sentence = missing_parameters(acquisition, Processing())
    assert (sentence == "") is usable
    assert usable or f"voltage is {voltage:g} kV (from configuration)" in sentence


def test_a_list_of_doses_goes_with_its_source() -> None:
    """The dose per frame is the list's mean; a better source with one dose for all sets the list aside."""
    listed = (0.5, 1.5, 2.5)
    sidecar = Reading(name="a.mdoc", values={"frame_doses": listed})
    movie = header(9, 9, 3)
    found = resolve(movie, AcquisitionSettings(), sidecar)
    assert (found.frame_doses, found.dose_per_frame) == (listed, 1.5)
    assert found.sources == {"frame_doses": "a.mdoc", "dose_per_frame": "a.mdoc"}
    assert missing_parameters(replace(found, pixel_size_angstrom=1.0, voltage_kv=300.0), Processing()) == ""

    one = resolve(movie, AcquisitionSettings(dose_per_frame=1.2), sidecar)
    assert (one.frame_doses, one.dose_per_frame) == (None, 1.2)
    assert one.notes["dose_per_frame"] == "configuration says 1.2 and is used, but a.mdoc says 1.5"

    both = AcquisitionSettings(dose_per_frame=1.0, frame_doses=(1.0, 1.0, 4.0))
    assert resolve(movie, both, sidecar).dose_per_frame == 2.0
    assert resolve(movie, both, sidecar).frame_doses == (1.0, 1.0, 4.0)


def test_a_bound_list_of_doses_stays() -> None:
    """What was configured when the movie was found is not replaced by a sidecar that came later."""
    movie = header(9, 9, 2)
    bound = resolve(movie, AcquisitionSettings(frame_doses=(1.0, 2.0)), NO_SIDECAR)
    late = Reading(name="a.mdoc", values={"frame_doses": (3.0, 3.0), "voltage_kv": 300.0})
    again = resolve(movie, AcquisitionSettings(), late, bound=bound)
    assert (again.frame_doses, again.dose_per_frame, again.voltage_kv) == ((1.0, 2.0), 1.5, 300.0)


def test_exposure_of_a_tilt() -> None:
    """Before a tilt: what the specimen had before the series, and the earlier tilts, in units of this one's dose."""
    tilt = replace(COMPLETE, pre_exposure=2.0, earlier_exposures=3.5, dose_per_frame=0.5)
    assert tilt.exposure_before(4) == 2.0 + 3.5 * 2.0
    assert tilt.exposure(4) == pytest.approx([9.5, 10.0, 10.5, 11.0])
    listed = replace(tilt, frame_doses=(0.5, 1.5))
    assert listed.exposure(2) == pytest.approx([9.5, 11.0])


def test_a_tilt_that_no_series_lists_yet_waits() -> None:
    """The sentence names the setting; without dose weighting nothing is missing."""
    lost = replace(COMPLETE, earlier_exposures=None)
    assert "watch.tilt_series_mdoc (--tilt-mdoc)" in missing_parameters(lost, Processing())
    assert missing_parameters(lost, Processing(dose_weighting=False)) == ""


def test_time_of_a_frame() -> None:
    """From the configuration, else the exposure time of a sidecar by the number of frames, else unknown."""
    movie = header(100, 100, n_frames=40)
    sidecar = Reading(name="a.xml", facts={"exposure_time_s": 3.2})
    found = resolve(movie, AcquisitionSettings(), sidecar)
    assert found.frame_time_s == pytest.approx(0.08)
    assert found.sources["frame_time_s"] == "a.xml"
    configured = resolve(movie, AcquisitionSettings(frame_time_s=0.05), sidecar)
    assert configured.frame_time_s == 0.05
    assert "a.xml says 0.08" in configured.notes["frame_time_s"]
    for unknown in (NO_SIDECAR, Reading(name="a.xml", facts={"exposure_time_s": 0.0})):
        assert resolve(movie, AcquisitionSettings(), unknown).frame_time_s is None


@pytest.mark.parametrize("gamma", ["k2", (0.12, -1.04, -0.0336, 1.04)])
def test_a_gain_that_depends_on_the_dose_rate_needs_the_time_of_a_frame(gamma: object) -> None:
    """Without it the movie waits, and is told what to set; a power that is one number needs no time."""
    processing = Processing.model_validate({"gain_gamma": gamma})
    assert "set acquisition.frame_time_s" in missing_parameters(COMPLETE, processing)
    assert missing_parameters(replace(COMPLETE, frame_time_s=0.05), processing) == ""
    assert missing_parameters(COMPLETE, Processing(gain_gamma=0.9)) == ""
