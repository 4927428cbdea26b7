"""Loading the configuration, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from komad.config import Settings, load_settings
from komad.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    """A configuration file with this text."""
    path = tmp_path / "komad.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    """Nothing set: the defaults, with paths beside the file."""
    settings = load_settings(write(tmp_path, ""))
    assert settings.processing == Settings().processing
    assert settings.state_directory == tmp_path / "komad-state"
    assert settings.archive_directory == settings.output.directory == tmp_path / "komad-output"


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path is anchored at the file's folder; absolute ones and those of the home folder stay."""
    monkeypatch.setenv("HOME", "/home/operator")
    settings = load_settings(
        write(
            tmp_path,
            """
            state_directory = "state"
            [output]
            directory = "~/results"
            archive_directory = "/archive"
            [[watch]]
            directory = "camera"
            tilt_series_mdoc = "series"
            [watch.references]
            gain = "../gain.mrc"
            dark = "/dark.mrc"
            defects = "defects.txt"
            """,
        )
    )
    assert settings.state_directory == tmp_path / "state"
    assert settings.output.directory == Path("/home/operator/results")
    assert settings.archive_directory == Path("/archive")
    [folder] = settings.watch
    assert folder.directory == tmp_path / "camera"
    assert folder.tilt_series_mdoc == tmp_path / "series"
    assert folder.references.gain == tmp_path.parent / "gain.mrc"
    assert folder.references.dark == Path("/dark.mrc")
    assert folder.references.defects == tmp_path / "defects.txt"


def test_what_was_set_is_remembered(tmp_path: Path) -> None:
    """Set values can be told from defaults after loading: sidecars fill in what was not set."""
    settings = load_settings(
        write(tmp_path, '[[watch]]\ndirectory = "a"\n[watch.acquisition]\ncs_mm = 2.7\n')
    )
    assert settings.watch[0].acquisition.model_fields_set == {"cs_mm"}


def test_the_environment_wins_and_the_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value from the environment replaces that of the file; its neighbours and other variables do not matter."""
    path = write(tmp_path, '[output]\ndirectory = "/from/file"\nfloat16 = true\n')
    monkeypatch.setenv("KOMAD_OUTPUT__DIRECTORY", "/from/environment")
    monkeypatch.setenv("KOMAD_THREADS", "2")
    settings = load_settings(path)
    assert settings.output.directory == Path("/from/environment")
    assert settings.output.float16


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[processing]\nbin_facter = 2", "processing.bin_facter: unknown key"),
        ("bin_factor = 2", "bin_factor: unknown key"),
        ("[processing]\nbin_factor = 5", "processing.bin_factor: Input should be less than or equal to 4"),
        ('[[watch]]\ndirectory = "a"\n[watch.acquisition]\nvoltage_kv = 3', "watch.0.acquisition.voltage_kv"),
        (
            '[[watch]]\ndirectory = "a"\n[watch.acquisition]\noptics_group = "a b"',
            "watch.0.acquisition.optics_group",
        ),
        (
            '[[watch]]\ndirectory = "a"\n[watch.acquisition]\ndose_per_frame = inf',
            "watch.0.acquisition.dose_per_frame: Input should be a finite number",
        ),
        ("[[watch]]\nrecursive = true", "watch.0.directory: Field required"),
        ('[[watch]]\ndirectory = "a"\n[[watch]]\ndirectory = "a"', "watched twice"),
        ('[log]\nlevel = "loud"', "log.level"),
        ("[watching]\nsweep_interval_s = 0", "watching.sweep_interval_s"),
        ('[workers]\ndevices = ["gpu"]', "'gpu' is no device: cpu, the number of a GPU"),
        ('[workers]\ndevices = ["auto", "cpu"]', "auto stands alone"),
        ("[workers]\ndevices = [-1]", "-1 is no device"),
        ("[workers]\ndevices = true", "True is no device"),
        ("[workers]\ndevices = []", "workers.devices: no device is named"),
        ("[workers]\ngpu_memory_fraction = 0.05", "workers.gpu_memory_fraction"),
        ("[workers]\ngpu_memory_fraction = 1.1", "workers.gpu_memory_fraction"),
        ("[processing]\nsum_range = [25, 3]", "from 25 to 3 e/Å² is no range"),
        ("[processing]\nsum_range = [3]", "processing.sum_range"),
        ("[processing]\nsum_range = [3, 25]\ndose_weighting = false", "sum_range is a dose-weighted sum"),
        (
            "[processing]\nin_frame_motion = true\ndose_weighting = false",
            "in_frame_motion is about the dose-weighted",
        ),
        ("[processing]\nmagnification = [1.3, 1.0, 0]", "not both within 0.9 to 1.1: these are the factors"),
        ("[processing]\nmagnification = [105000, 104000, 34]", "not magnifications"),
        ("[processing]\nn_patches = [5, 0]", "processing.n_patches.1"),
        ("[processing]\npatch_overlap_percent = 55", "processing.patch_overlap_percent"),
        ("[processing]\nb_factors_angstrom2 = [150]", "processing.b_factors_angstrom2"),
        ("[processing]\ngroup_frames = [0, 0]", "processing.group_frames.0"),
        ('[processing]\nalignment_weight = "phase"', "'optimal', 'b_factor' or 'phase_only'"),
        ('[processing]\nreference_frame = "last"', "'first' or 'middle'"),
        (
            "[processing]\nskip_first = 2\nreference_frame = 1",
            "reference_frame 1 is left out by skip_first = 2",
        ),
        (
            "[output]\neven_odd_weighted = true\n[processing]\ndose_weighting = false",
            "needs processing.dose_weighting",
        ),
        ('[[watch]]\ndirectory = "a"\n[watch.acquisition]\nframe_doses = [0, 0]', "no frame has a dose"),
    ],
)
def test_wrong_values_name_their_place(tmp_path: Path, text: str, place: str) -> None:
    """An unknown key, a value out of range or a missing one: the message names file, table and key."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert str(path) in str(caught.value)
    assert place in str(caught.value)


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    """Two mistakes are two lines of one message."""
    with pytest.raises(ConfigError, match=r"has 2 problem"):
        load_settings(write(tmp_path, "[processing]\nskip_first = -1\n[archive]\nlevel = 10\n"))


def test_not_toml(tmp_path: Path) -> None:
    """Text that is no TOML, or no text, is said to be so."""
    with pytest.raises(ConfigError, match=r"komad\.toml is not valid TOML.*line 1"):
        load_settings(write(tmp_path, "bin_factor: 2"))
    (tmp_path / "komad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(tmp_path / "komad.toml")


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named, with a way to get one."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file.*komad config example"):
        load_settings(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ('[output]\ndirectory = "camera"', "output.directory"),
        ('[output]\ndirectory = "camera/processed"', "output.directory"),
        ('[output]\narchive_directory = "camera/archive"', "output.archive_directory"),
        ('state_directory = "camera/state"', "state_directory"),
    ],
)
def test_results_inside_a_watched_folder_are_refused(tmp_path: Path, extra: str, name: str) -> None:
    """Results that would be found as movies again are refused before anything runs."""
    with pytest.raises(ConfigError, match=rf"{name} .*watched folder"):
        load_settings(write(tmp_path, f'{extra}\n[[watch]]\ndirectory = "camera"\n'))


def test_links_do_not_hide_results_inside_a_watched_folder(tmp_path: Path) -> None:
    """`komad-output` is a link to the camera's folder: its movies would be replaced by their sums."""
    (tmp_path / "camera").mkdir()
    (tmp_path / "komad-output").symlink_to("camera")
    with pytest.raises(ConfigError, match=r"output\.directory .*watched folder"):
        load_settings(write(tmp_path, '[[watch]]\ndirectory = "camera"\n'))


@pytest.mark.parametrize("way_out", ['ignore = ["Processed"]', "recursive = false"])
def test_results_in_a_part_that_is_not_watched(tmp_path: Path, way_out: str) -> None:
    """An ignored sub-folder, or one that is not entered, may hold the results."""
    load_settings(
        write(
            tmp_path,
            f'[output]\ndirectory = "camera/processed"\n[[watch]]\ndirectory = "camera"\n{way_out}\n',
        )
    )


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ('"auto"', "auto"),
        ('"cpu"', ("cpu",)),
        ("1", ("cuda:1",)),
        ('["cuda:0", 1, "cpu", 0]', ("cuda:0", "cuda:1", "cpu", "cuda:0")),
        (
            '["GPU-5a1c-77", "MIG-GPU-5a1c/1/0"]',
            ("GPU-5a1c-77", "MIG-GPU-5a1c/1/0"),
        ),
    ],
)
def test_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, devices: object) -> None:
    """Numbers and names, mixed, one or a list; the same from the environment, and when they are told to a worker."""
    settings = load_settings(write(tmp_path, f"[workers]\ndevices = {text}"))
    assert settings.workers.devices == devices
    assert Settings.model_validate_json(settings.model_dump_json()).workers.devices == devices
    monkeypatch.setenv("KOMAD_WORKERS__DEVICES", text.strip('"'))
    assert load_settings(write(tmp_path, "")).workers.devices == devices
