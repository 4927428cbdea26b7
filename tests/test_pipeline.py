"""The whole way of one movie, from counts to pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from komad import pipeline
from komad.config import Processing
from komad.errors import MotionError, ParameterError
from komad.model import Acquisition, MicrographResult, MotionModel, outliers_at
from komad.motion import estimate_motion
from komad.pipeline import aligned_stack, correct_movie, sum_stack
from tests.toy import rms_error, toy_movie

ACQUISITION = Acquisition(pixel_size_angstrom=1.0, voltage_kv=300, dose_per_frame=1.2)
NO_OUTLIERS = outliers_at([])


def correct(
    frames, *, gain=None, outliers=NO_OUTLIERS, acquisition=ACQUISITION, asked=None, **settings
) -> MicrographResult:  # type: ignore[no-untyped-def]
    """Run the pipeline with defaults; `asked` are further outputs."""
    return correct_movie(
        frames,
        gain=gain,
        dark=None,
        outliers=outliers,
        acquisition=acquisition,
        processing=Processing(**settings),
        even_odd=True,
        power_spectrum_wanted=True,
        **(asked or {}),
    )


def test_correction_sharpens_the_picture() -> None:
    """The corrected sum resembles the specimen far more than the plain sum, the dose-weighted one even more."""
    movie = toy_movie(seed=11, contrast=0.2)
    result = correct(movie.frames)
    assert rms_error(result.motion.shifts_px, movie.shifts_px) < 0.1
    inside = (slice(64, -64), slice(64, -64))
    corrected, weighted, still = (
        np.corrcoef(picture[inside].ravel(), movie.specimen[inside].ravel())[0, 1]
        for picture in (result.sum_unweighted, result.sum_dose_weighted, movie.frames.sum(axis=0))
    )
    assert corrected > 1.3 * still
    assert weighted > corrected
    assert result.mean_e_per_px_frame == pytest.approx(1.2, rel=0.01)


def test_result_does_not_depend_on_the_gain_pattern() -> None:
    """Counts made through a detector with a strong pattern give the same shifts when the gain is right."""
    movie = toy_movie(seed=12, contrast=0.2)
    gain = np.ones((512, 512), np.float32)
    gain[:, ::8] = 0.5
    result = correct((movie.frames / gain).round().astype(np.uint8), gain=gain)
    assert rms_error(result.motion.shifts_px, movie.shifts_px) < 0.1


def test_skipped_frames_are_neither_aligned_nor_summed() -> None:
    """Skipped frames have no shift and add no counts; their dose still ages the ones after them."""
    movie = toy_movie(seed=13)
    result = correct(movie.frames, skip_first=2, skip_last=3)
    assert np.isnan(result.motion.shifts_px[[0, 1, -3, -2, -1]]).all()
    assert result.motion.shifts_px[2].tolist() == [0, 0]
    assert result.sum_unweighted.mean() == pytest.approx(19 * 1.2, rel=0.01)
    late = correct(
        movie.frames[2:-3],
        acquisition=Acquisition(pixel_size_angstrom=1, voltage_kv=300, dose_per_frame=1.2, pre_exposure=2.4),
    )
    np.testing.assert_allclose(result.sum_dose_weighted, late.sum_dose_weighted, atol=0.02)


def test_without_dose_weighting_no_dose_is_needed() -> None:
    """The pixel size alone is enough for a plain sum."""
    movie = toy_movie(n_frames=6, seed=14)
    result = correct(movie.frames, acquisition=Acquisition(pixel_size_angstrom=1.0), dose_weighting=False)
    assert result.sum_dose_weighted is None


@pytest.mark.parametrize(
    ("acquisition", "message"),
    [
        (Acquisition(voltage_kv=300, dose_per_frame=1), "pixel size unknown"),
        (Acquisition(pixel_size_angstrom=1, voltage_kv=300), "dose per frame unknown"),
        (Acquisition(pixel_size_angstrom=1, dose_per_frame=1), "voltage unknown"),
        (Acquisition(pixel_size_angstrom=1, dose_per_frame=1, voltage_kv=80), "100 to 300 kV"),
    ],
)
def test_unknown_parameters_are_named(acquisition: Acquisition, message: str) -> None:
    """What is needed and unknown, or out of range, is named."""
    with pytest.raises(ParameterError, match=message):
        correct(toy_movie(n_frames=4).frames, acquisition=acquisition)


def test_skipping_everything_is_refused() -> None:
    """An error with the numbers, not an empty picture."""
    with pytest.raises(MotionError, match="the movie has 4, skip_first is 3"):
        correct(toy_movie(n_frames=4).frames, skip_first=3, skip_last=1)


def test_hot_pixels_are_found_and_replaced() -> None:
    """A pixel that counts 200 in every frame is listed and leaves no spike in the sum."""
    frames = toy_movie(n_frames=8, seed=15).frames.copy()
    frames[:, 100, 200] = 200
    stack = sum_stack(frames, gain=None, dark=None, defects=None, processing=Processing())
    assert stack.outliers.yx.tolist() == [[100, 200]]
    assert stack.total.dtype == np.uint16
    result = correct(frames, outliers=stack.outliers)
    assert result.sum_unweighted.max() < 100
    assert result.n_outliers == 1


def test_thresholds_of_outliers_are_those_of_the_settings() -> None:
    """A pixel 8 sigma above and one 8 sigma below are found with the default, and not with wider thresholds."""
    frames = np.random.default_rng(3).poisson(20, (8, 128, 128)).astype(np.uint8)
    spread = 12.6  # of the sum: root of 160
    frames[:, 30, 40] = round((160 + 9 * spread) / 8)
    frames[:, 50, 60] = round((160 - 8 * spread) / 8)

    def found(**settings: float) -> list[list[int]]:
        processing = Processing(**settings)
        stack = sum_stack(frames, gain=None, dark=None, defects=None, processing=processing)
        return stack.outliers.yx.tolist()

    assert found() == [[30, 40], [50, 60]]
    assert found(hot_sigma=20) == [[50, 60]]
    assert found(dead_sigma=20) == [[30, 40]]


def test_motion_is_measured_at_the_pixel_size_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are binned to about the alignment pixel size, small ones less."""
    seen: list[int] = []

    def spy(small, **given) -> MotionModel:  # type: ignore[no-untyped-def]
        seen.append(given["binning"])
        return estimate_motion(small, **given)

    monkeypatch.setattr(pipeline, "estimate_motion", spy)
    frames = np.random.default_rng(2).poisson(1, (2, 1024, 1024)).astype(np.uint8)
    correct(frames)
    correct(frames, alignment_pixel_size_angstrom=2.0)
    correct(frames[:, :512])
    assert seen == [5, 2, 2]


def test_no_spectrum_when_none_is_wanted() -> None:
    """`output.power_spectrum` off: none is computed."""
    movie = toy_movie(n_frames=4)
    result = correct_movie(
        movie.frames,
        gain=None,
        dark=None,
        outliers=NO_OUTLIERS,
        acquisition=ACQUISITION,
        processing=Processing(),
        even_odd=False,
        power_spectrum_wanted=False,
    )
    assert result.power_spectrum is None
    assert result.sum_even is None
    assert "power_spectrum" not in result.timings_s


def test_binning_halves_the_picture_and_doubles_the_pixel() -> None:
    """Output pixel size and picture size agree."""
    result = correct(toy_movie(n_frames=6).frames, bin_factor=2)
    assert result.sum_unweighted.shape == (256, 256)
    assert result.pixel_size_angstrom == 2.0


def test_inputs_are_never_changed() -> None:
    """Read-only frames, gain and outliers go through all stages."""
    frames, gain = toy_movie(n_frames=5).frames, np.ones((512, 512), np.float32)
    outliers = outliers_at([[5, 5]])
    for array in (frames, gain, outliers.yx, outliers.keep, outliers.frame):
        array.setflags(write=False)
    assert np.isfinite(correct(frames, gain=gain, outliers=outliers).sum_unweighted).all()


def test_signed_and_floating_movies_have_a_float_sum() -> None:
    """The stack sum of a movie that is not counts is kept as float32."""
    frames = np.random.default_rng(0).normal(10, 3, (3, 128, 128)).astype(np.float32)
    stack = sum_stack(frames, gain=None, dark=None, defects=None, processing=Processing())
    assert stack.total.dtype == np.float32
    np.testing.assert_allclose(stack.total, frames.sum(axis=0), rtol=1e-5)


def test_a_pixel_that_is_no_number_reaches_no_picture() -> None:
    """NaN in one frame and in the gain cost two pixels, not the movie."""
    movie = toy_movie(seed=16, n_frames=8, contrast=0.2)
    frames, gain = movie.frames.astype(np.float32), np.ones((512, 512), np.float32)
    frames[3, 100, 200], gain[40, 50] = np.nan, np.inf
    stack = sum_stack(frames, gain=gain, dark=None, defects=None, processing=Processing())
    result = correct(frames, gain=gain, outliers=stack.outliers)
    assert result.n_outliers == 2
    assert rms_error(result.motion.shifts_px, movie.shifts_px) < 0.1
    for picture in (result.sum_unweighted, result.sum_dose_weighted, result.sum_even, result.power_spectrum):
        assert picture is not None
        assert np.isfinite(picture).all()


def test_a_specimen_at_rest_is_not_called_empty_ice_alone() -> None:
    """Without motion to measure the warning leaves open whether there is no specimen or no motion."""
    expected = 1.2 * (1 + toy_movie(n_frames=1, contrast=0.2).specimen)
    frames = np.random.default_rng(2).poisson(np.clip(expected, 0, None), (8, *expected.shape))
    result = correct(frames.astype(np.uint8))
    assert not result.motion.supported
    assert "at rest" in result.warnings[0]


@pytest.mark.parametrize("width", [512, 640, 720])
def test_the_pixel_size_is_that_of_the_movie_to_the_last_digit(width: int) -> None:
    """Movies of different widths share an optics group: nothing is lost in rounding."""
    frames = np.random.default_rng(3).poisson(2, (2, 256, width)).astype(np.uint8)
    acquisition = Acquisition(pixel_size_angstrom=0.83, voltage_kv=300, dose_per_frame=1.2)
    assert correct(frames, acquisition=acquisition).pixel_size_angstrom == 0.83
    assert correct(frames, acquisition=acquisition, bin_factor=2).pixel_size_angstrom == 1.66


def test_doses_of_single_frames_weight_like_even_ones() -> None:
    """A list of equal doses gives what the dose per frame gives; another list does not."""
    frames = toy_movie(n_frames=6).frames
    doses = {
        name: Acquisition(pixel_size_angstrom=1.0, voltage_kv=300, dose_per_frame=1.2, frame_doses=values)
        for name, values in (("even", (1.2,) * 6), ("rising", (0.2, 0.4, 0.8, 1.2, 1.6, 3.0)))
    }
    plain = correct(frames).sum_dose_weighted
    np.testing.assert_allclose(correct(frames, acquisition=doses["even"]).sum_dose_weighted, plain, atol=1e-4)
    assert np.abs(correct(frames, acquisition=doses["rising"]).sum_dose_weighted - plain).max() > 0.1


def test_doses_for_another_number_of_frames_are_refused() -> None:
    """Both numbers are named."""
    acquisition = Acquisition(pixel_size_angstrom=1.0, voltage_kv=300, frame_doses=(1.0, 1.0, 1.0))
    with pytest.raises(ParameterError, match="3 values, but the movie has 4 frames"):
        correct(toy_movie(n_frames=4).frames, acquisition=acquisition)


def test_frames_without_beam_are_left_out_and_named() -> None:
    """A closed shutter at the start and in between: no shift, no counts, a warning; the others are as without them."""
    movie = toy_movie(seed=17, n_frames=10, contrast=0.2)
    frames = movie.frames.copy()
    frames[[0, 4]] = 0
    frames[0, 5, 5] = 1
    result = correct(frames)
    assert np.flatnonzero(np.isnan(result.motion.shifts_px[:, 0])).tolist() == [0, 4]
    assert any("frame 1, 5 (counted from 1)" in warning for warning in result.warnings)
    assert result.sum_unweighted.mean() == pytest.approx(8 * 1.2, rel=0.01)
    assert result.mean_e_per_px_frame == pytest.approx(1.2, rel=0.01)
    kept = np.isfinite(result.motion.shifts_px[:, 0])
    assert rms_error(result.motion.shifts_px[kept], movie.shifts_px[kept]) < 0.2


def test_a_movie_without_any_beam() -> None:
    """Frames of a few stray counts, none of which stands out: a picture of all of them."""
    frames = np.zeros((4, 256, 256), np.uint8)
    frames[:, 10, 20] = 3
    frames[1, 50, 60] = 1
    result = correct(frames, dose_weighting=False)
    assert np.isfinite(result.sum_unweighted).all()


def test_pixels_of_the_gain_that_are_no_number_are_counted() -> None:
    """They are outliers, and a warning says how many there are."""
    movie = toy_movie(seed=18, n_frames=4)
    gain = np.ones((512, 512), np.float32)
    gain[10:12, 20] = np.nan
    stack = sum_stack(movie.frames, gain=gain, dark=None, defects=None, processing=Processing())
    result = correct(movie.frames, gain=gain, outliers=stack.outliers)
    assert any("2 pixels of the gain" in warning for warning in result.warnings)
    assert np.isfinite(result.sum_unweighted).all()


def test_a_saturated_movie_is_corrected_with_a_warning() -> None:
    """Most pixels at the largest value: usable, and said."""
    frames = np.minimum(toy_movie(seed=19, n_frames=4, contrast=0.3).frames, 1)
    assert any("saturated" in warning for warning in correct(frames).warnings)


def test_weighted_halves_and_a_dose_range_come_when_asked_for() -> None:
    """They are in the result only then; a range in which no frame lies is said."""
    frames = toy_movie(n_frames=8).frames
    plain = correct(frames)
    assert plain.sum_even_weighted is None
    assert plain.sum_dose_range is None
    result = correct(frames, asked={"even_odd_weighted": True}, sum_range=(0, 4.8))
    np.testing.assert_allclose(
        result.sum_even_weighted + result.sum_odd_weighted, result.sum_dose_weighted, atol=1e-4
    )
    np.testing.assert_allclose(result.sum_dose_weighted, plain.sum_dose_weighted, atol=1e-4)
    assert result.sum_dose_range.mean() == pytest.approx(1.2 * 4 / 2, rel=0.01)  # four frames of weight 1/2
    outside = correct(frames, sum_range=(50, 60))
    assert outside.sum_dose_range is None
    assert any("no frame lies within sum_range" in warning for warning in outside.warnings)


def test_a_spectrum_of_groups_has_the_noise_of_all_counts() -> None:
    """At high frequency, where there is nothing but noise, groups give the same amplitude as the whole."""
    frames = toy_movie(n_frames=9, seed=20).frames
    whole, groups = (
        correct(frames, asked={"power_spectrum_groups": wanted}).power_spectrum for wanted in (False, True)
    )
    fine = np.hypot(*(np.indices((512, 512)) - 256)) > 180
    noise = [np.sqrt(np.square(spectrum[fine]).mean()) for spectrum in (whole, groups)]
    assert noise[1] == pytest.approx(noise[0], rel=0.05)
    assert np.abs(groups - whole).max() > 0.1


def test_the_aligned_stack_adds_up_to_the_sum() -> None:
    """Away from the edges, the pictures of the stack are the parts of the sum; each has the frames of its group."""
    movie = toy_movie(n_frames=7, seed=21, contrast=0.2)
    processing = Processing(skip_first=1)
    result = correct(movie.frames, skip_first=1)
    stack = list(
        aligned_stack(
            movie.frames,
            gain=None,
            dark=None,
            outliers=NO_OUTLIERS,
            motion=result.motion,
            processing=processing,
            group=4,
        )
    )
    assert len(stack) == 2
    inside = (slice(32, -32), slice(32, -32))
    np.testing.assert_allclose(sum(stack)[inside], result.sum_unweighted[inside], atol=1e-3)
    assert stack[0].mean() == pytest.approx(4 * 1.2, rel=0.01)


def test_the_aligned_stack_is_binned() -> None:
    """Pictures of the stack have the size of the micrographs."""
    frames = toy_movie(n_frames=3).frames
    result = correct(frames, bin_factor=2)
    pictures = aligned_stack(
        frames,
        gain=None,
        dark=None,
        outliers=NO_OUTLIERS,
        motion=result.motion,
        processing=Processing(bin_factor=2),
        group=1,
    )
    assert [picture.shape for picture in pictures] == [result.sum_unweighted.shape] * 3


def test_magnification_and_motion_within_frames_change_the_sums() -> None:
    """A stretched picture is another one, the middle stays; a blurred first frame counts less."""
    movie = toy_movie(n_frames=8, seed=22, contrast=0.2)
    plain = correct(movie.frames)
    stretched = correct(movie.frames, magnification=(1.05, 1.0, 30.0))
    middle, side = (slice(246, 266), slice(246, 266)), (slice(20, 60), slice(20, 60))

    def likeness(where: tuple[slice, slice]) -> float:
        pair = (result.sum_unweighted[where].ravel() for result in (plain, stretched))
        return float(np.corrcoef(*pair)[0, 1])

    assert likeness(middle) > 0.8
    assert likeness(side) < 0.5
    weighed = correct(movie.frames, in_frame_motion=True)
    np.testing.assert_allclose(weighed.sum_unweighted, plain.sum_unweighted, atol=1e-4)
    assert np.abs(weighed.sum_dose_weighted - plain.sum_dose_weighted).max() > 0.05


@pytest.mark.parametrize(("dose_per_frame", "pre_exposure"), [(1e5, 0.0), (1.2, 1e6)])
def test_absurd_exposures_leave_numbers(dose_per_frame: float, pre_exposure: float) -> None:
    """A dose with a wrong unit leaves no signal anywhere: there are pictures all the same, without a NaN."""
    acquisition = Acquisition(
        pixel_size_angstrom=1.0, voltage_kv=300, dose_per_frame=dose_per_frame, pre_exposure=pre_exposure
    )
    result = correct(toy_movie(n_frames=6, length=256).frames, acquisition=acquisition)
    assert np.isfinite(result.motion.shifts_px).all()
    assert np.isfinite(result.sum_dose_weighted).all()


@pytest.mark.parametrize("scale", [1e37, 1e30, 1e12, 1e-12, 1e-30])
def test_values_that_are_no_picture_of_electrons_are_refused(scale: float) -> None:
    """Floats whose powers no 32-bit float holds: one sentence, without warnings of the arithmetic."""
    frames = (toy_movie(n_frames=6, length=256).frames * np.float64(scale)).astype(np.float32)
    stack = sum_stack(frames, gain=None, dark=None, defects=None, processing=Processing())
    with pytest.raises(MotionError, match="no picture"):
        correct(frames, outliers=stack.outliers)


@pytest.mark.parametrize("weight", ["optimal", "b_factor", "phase_only"])
def test_a_grid_bar_over_half_of_the_field(weight: str) -> None:
    """Patches without a single count have no pull and leave numbers: the rest is aligned as it would be alone."""
    movie = toy_movie(length=768, contrast=0.3, seed=17)
    frames = movie.frames.copy()
    frames[:, :, :384] = 0
    result = correct(frames, alignment_weight=weight)
    assert np.isfinite(result.sum_dose_weighted).all()
    assert rms_error(result.motion.shifts_px, movie.shifts_px) < 0.5


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 600), (16, 300), (31, 40)])
def test_frames_too_small_are_refused(shape: tuple[int, int]) -> None:
    """With their size, and that which is enough."""
    frames = np.random.default_rng(4).poisson(3, (6, *shape)).astype(np.uint8)
    with pytest.raises(MotionError, match=rf"{shape[1]} x {shape[0]} pixels, too small .* need 32"):
        correct(frames)


@pytest.mark.parametrize("shape", [(32, 32), (32, 300), (300, 33), (48, 64), (130, 130)])
def test_small_frames_give_small_pictures(shape: tuple[int, int]) -> None:
    """A picture without a NaN, of the size of the frames."""
    frames = np.random.default_rng(4).poisson(3, (6, *shape)).astype(np.uint8)
    result = correct(frames)
    assert result.sum_dose_weighted.shape == shape
    assert np.isfinite(result.sum_dose_weighted).all()
    assert np.isfinite(result.motion.shifts_px).all()


def test_one_group_of_all_frames_is_said() -> None:
    """Not that no motion stands out: nothing was looked at."""
    result = correct(toy_movie(n_frames=6).frames, group_frames=(6, 0))
    assert [warning for warning in result.warnings if "motion" in warning] == [
        "group_frames adds all 6 frames into one: no motion can be measured"
    ]


def test_patches_that_cannot_be_laid_are_said() -> None:
    """A number of patches that somebody asked for, and that is not done, is no secret."""
    result = correct(toy_movie(n_frames=8).frames, n_patches=(20, 20))
    assert [warning for warning in result.warnings if "n_patches" in warning] == [
        "n_patches 20 x 20 was not done: the field is too small for patches"
    ]


@pytest.mark.parametrize("n_lit", [1, 2, 5])
def test_a_movie_that_is_mostly_empty(n_lit: int) -> None:
    """The few frames with counts make the picture; the others are left out, and this is said."""
    movie = toy_movie(n_frames=16, seed=18)
    frames = movie.frames.copy()
    frames[n_lit:] = 0
    result = correct(frames)
    assert np.flatnonzero(result.motion.used).tolist() == list(range(n_lit))
    assert any(warning.startswith("without beam, and left out: frame") for warning in result.warnings)


def test_the_gain_is_raised_to_the_power_of_the_dose_rate() -> None:
    """A response that depends on the dose rate is corrected, in the sums and in the aligned stack; else it is not."""
    movie = toy_movie(n_frames=6, seed=5, contrast=0.2)
    gain = np.ones((512, 512), np.float32)
    gain[:, 256:] = 1.5
    power = round(0.12 * 4**-1.04 - 0.0336 * 4 + 1.04, 3)
    raised = correct(movie.frames, gain=gain**power)
    frame_time_s = float(movie.frames.mean()) / 4
    at_rate = replace(ACQUISITION, frame_time_s=frame_time_s)
    result = correct(movie.frames, gain=gain, acquisition=at_rate, gain_gamma="k2")
    np.testing.assert_allclose(result.sum_unweighted, raised.sum_unweighted, rtol=2e-3)
    assert np.abs(correct(movie.frames, gain=gain).sum_unweighted / raised.sum_unweighted - 1).max() > 0.01
    [stack] = aligned_stack(
        movie.frames,
        gain=gain,
        dark=None,
        outliers=NO_OUTLIERS,
        motion=result.motion,
        processing=Processing(gain_gamma="k2"),
        group=6,
        frame_time_s=frame_time_s,
    )
    inside = (slice(32, -32), slice(32, -32))
    np.testing.assert_allclose(stack[inside], result.sum_unweighted[inside], atol=1e-3)
    with pytest.raises(ParameterError, match=r"set acquisition\.frame_time_s"):
        correct(movie.frames, gain=gain, gain_gamma="k2")
