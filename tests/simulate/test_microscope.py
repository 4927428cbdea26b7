"""The fake microscope writes as cameras do."""

import re
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from komad.errors import ParameterError
from komad.formats.movies import read_frames, read_header
from komad.ingest.optics_groups import GroupsInMemory
from komad.ingest.sidecars import find
from komad.model import Acquisition, EerRendering, MovieFormat, MovieHeader
from komad.simulate import MovieSpec, microscope, read_truth, simulate_movie
from komad.simulate.beam_shifts import simulate_shifts
from komad.simulate.microscope import HOLES, run_session
from komad.simulate.sidecars import movie_stem, write_sidecar

TINY = MovieSpec(n_frames=4, ny=48, nx=64, max_count=255, seed=11)
FULL_BYTES = 1024 + 4 * 48 * 64


class Watching(threading.Event):
    """An event that notes the sizes of all files whenever the microscope pauses."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.seen: list[dict[str, int]] = []
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seen.append({path.name: path.stat().st_size for path in self.directory.iterdir()})
        self.pauses.append(timeout or 0.0)
        return self.is_set()


def test_rename_uses_a_temporary_name(tmp_path, monkeypatch):
    """While a movie is written its final name does not exist; then it does, and the temporary one is gone."""
    written_to = []

    def spy(path, *args, **kwargs):
        assert not path.with_suffix("").exists()
        written_to.append(path.name)
        original(path, *args, **kwargs)

    original = microscope.write_movie
    monkeypatch.setattr(microscope, "write_movie", spy)
    movies = run_session(tmp_path, TINY, 2, 0.0)
    assert written_to == ["movie_0001.mrc.tmp", "movie_0002.mrc.tmp"]
    assert [path.name for path in movies] == ["movie_0001.mrc", "movie_0002.mrc"]
    assert not list(tmp_path.glob("*.tmp"))
    assert all(path.stat().st_size == FULL_BYTES for path in movies)


def test_grow_shows_every_frame_arriving(tmp_path):
    """The final name exists from the first frame on, and gains one frame at a time."""
    stop = Watching(tmp_path)
    (path,) = run_session(tmp_path, TINY, 1, 1.0, mode="grow", stop=stop)
    sizes = [files[path.name] for files in stop.seen if path.name in files]
    assert sizes == [1024 + n * 48 * 64 for n in (1, 2, 3, 4)]


def test_slow_copy_arrives_in_pieces(tmp_path):
    """The final name grows in more than ten steps to its full size, with pauses of half the interval in all."""
    stop = Watching(tmp_path)
    (path,) = run_session(tmp_path, TINY, 1, 2.0, mode="slow-copy", stop=stop)
    sizes = [files[path.name] for files in stop.seen if path.name in files]
    assert len(sizes) > 10
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == FULL_BYTES
    assert sum(stop.pauses) == pytest.approx(1.0, rel=0.1)
    assert not list(tmp_path.glob("*.tmp"))


def test_burst_drops_five_at_once(tmp_path):
    """Movies one to five are due at once, the sixth only after five intervals."""
    stop = Watching(tmp_path)
    run_session(tmp_path, TINY, 6, 50.0, mode="burst", stop=stop)
    assert stop.pauses[:5] == [0.0] * 5
    assert stop.pauses[5] == pytest.approx(250.0, abs=10)


def test_gain_comes_first_and_belongs_to_all_movies(tmp_path):
    """The gain reference is there before any movie and is the camera's."""
    stop = Watching(tmp_path)
    run_session(tmp_path, TINY, 2, 0.0, stop=stop)
    assert list(stop.seen[0]) == ["gain.mrc"]
    with mrcfile.open(tmp_path / "gain.mrc") as mrc:
        np.testing.assert_array_equal(mrc.data, simulate_movie(TINY).gain)


def test_truth_is_written_before_its_movie_and_told(tmp_path):
    """Each movie's truth file exists when the callback comes and says the same."""
    told = []

    def on_movie(path, truth):
        back = read_truth(path.with_name(f"{path.stem}_truth.json"))
        np.testing.assert_array_equal(back.global_px, truth.global_px)
        told.append(truth)

    run_session(tmp_path, TINY, 2, 0.0, on_movie=on_movie)
    assert len(told) == 2
    assert (told[0].global_px != told[1].global_px).any()


def test_first_movie_is_the_one_the_spec_describes(tmp_path):
    """A session's first movie equals the movie simulated alone."""
    (path,) = run_session(tmp_path, TINY, 1, 0.0)
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data.view(np.uint8), simulate_movie(TINY).frames)


def test_stop_ends_the_session(tmp_path):
    """A stop during the pause ends at once, with whole movies only."""
    stop = threading.Event()
    started = time.monotonic()
    movies = run_session(tmp_path, TINY, 5, 60.0, on_movie=lambda *_: stop.set(), stop=stop)
    assert time.monotonic() - started < 20
    assert [path.stat().st_size for path in movies] == [FULL_BYTES]


def test_epu_xml_is_read_as_a_microscopes(tmp_path):
    """The sidecar of an EER movie, whose name ends in _EER, tells pixel size and dose without a note."""
    spec = replace(TINY, max_count=25, ny=4096, nx=4096, n_frames=2)
    path = tmp_path / f"{movie_stem(1, 'epu', eer=True)}.eer"
    write_sidecar(path, spec, "epu", gain_name="gain.mrc")
    rendering = EerRendering(ends=(1, 2))
    header = MovieHeader(format=MovieFormat.EER, n_frames=2, ny=4096, nx=4096, dtype="uint8", eer=rendering)
    reading = find(path, header)
    assert reading.name == path.name.replace("_EER.eer", ".xml")
    assert reading.values["pixel_size_angstrom"] == pytest.approx(0.83)
    assert reading.values["dose_per_frame"] == pytest.approx(1.2)
    assert not reading.doubts


def test_mdoc_says_what_the_movie_is(tmp_path):
    """SerialEM's sidecar lies beside the movie with pixel size, voltage, dose and number of frames."""
    (path,) = run_session(tmp_path, TINY, 1, 0.0, sidecars="mdoc", file_format="tiff-lzw")
    text = (tmp_path / "movie_0001.tif.mdoc").read_text()
    values = dict(re.findall(r"^(\w+) = (.*?)$", text, re.MULTILINE))
    assert float(values["Voltage"]) == 300
    assert float(values["PixelSpacing"]) == pytest.approx(0.83)
    assert float(values["ExposureDose"]) == pytest.approx(4.8)
    assert values["NumSubFrames"] == "4"
    assert [float(word) for word in values["FrameDosesAndNumber"].split()] == [1.2, 4]
    assert values["SubFramePath"].endswith(path.name)


def test_epu_xml_is_in_si_units(tmp_path):
    """EPU's XML is beside the movie, well formed, with dose in e/m², pixel size in m and voltage in V."""
    (path,) = run_session(tmp_path, TINY, 1, 0.0, sidecars="epu")
    assert path.name.endswith("_fractions.mrc")
    root = ET.parse(tmp_path / path.name.replace("_fractions.mrc", ".xml")).getroot()
    arrays = "{http://schemas.microsoft.com/2003/10/Serialization/Arrays}"
    shared = "{http://schemas.datacontract.org/2004/07/Fei.SharedObjects}"
    pairs = {pair[0].text: pair[1] for pair in root.iter(f"{arrays}KeyValueOfstringanyType")}
    assert float(pairs["Dose"].text) == pytest.approx(4.8e20)
    assert pairs["FractionationSettings"][0].text == "4"
    assert float(root.find(f".//{shared}pixelSize/{shared}x/{shared}numericValue").text) == pytest.approx(
        0.83e-10
    )
    assert float(root.find(f".//{shared}AccelerationVoltage").text) == 300000
    assert [child.text for child in root.find(f".//{shared}ReadoutArea")][:2] == ["48", "64"]


def test_unknown_mode_is_refused(tmp_path):
    """A misspelt mode is an error that lists the right ones."""
    with pytest.raises(ParameterError, match="slow-copy"):
        run_session(tmp_path, TINY, 1, 0.0, mode="slow")


@pytest.mark.parametrize("sidecars", ["epu", "mdoc"])
def test_holes_reached_by_image_shift(tmp_path, sidecars):
    """Sidecars tell the shift of the beam, and movies of one hole of the pattern have one optics group."""
    paths = run_session(tmp_path, TINY, 20, 0.0, sidecars=sidecars)
    groups = GroupsInMemory(tolerance=None)
    names = []
    for path in paths:
        header = read_header(path)
        acquisition = Acquisition(facts=find(path, header).facts)
        names.append(groups.put(acquisition, "2026-01-02T03:04:05.000+00:00").optics_group)
    holes = HOLES[sidecars]
    places = simulate_shifts(holes, len(paths), seed=TINY.seed)[1]
    assert len(set(zip(names, places.tolist(), strict=True))) == len(set(names))
    assert 9 <= len(set(names)) <= 11


def test_eer_sidecar_speaks_of_raw_frames(tmp_path):
    """Dose, time and number of frames in the .mdoc are those of raw frames; rendered, they are the counts."""
    spec = replace(TINY, max_count=25)
    (path,) = run_session(tmp_path, spec, 1, 0.0, sidecars="mdoc", file_format="eer")
    values = dict(
        re.findall(r"^(\w+) = (.*?)$", (tmp_path / "movie_0001.eer.mdoc").read_text(), re.MULTILINE)
    )
    assert values["NumSubFrames"] == "100"
    assert [float(word) for word in values["FrameDosesAndNumber"].split()] == [pytest.approx(0.048), 100]
    assert float(values["ExposureTime"]) == pytest.approx(
        read_header(path).facts["exposure_time_s"], rel=1e-3
    )
    rendering = EerRendering(ends=(25, 50, 75, 100))
    np.testing.assert_array_equal(read_frames(path, rendering), simulate_movie(spec).frames)


def test_a_session_of_no_movie(tmp_path):
    """A microscope that is switched off at once leaves the gain reference and no movie."""
    assert run_session(tmp_path, TINY, 0, 0.0) == []
    assert [path.name for path in tmp_path.iterdir()] == ["gain.mrc"]
