"""A session in a RELION project: what is written, what is left alone, what comes later."""

from __future__ import annotations

import bz2
import fcntl
import json
import threading
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from komad.errors import OutputError, ParameterError, StarError
from komad.export import relion_pipeline
from komad.export.relion import RelionExport
from komad.formats.frame_files import status_of
from komad.formats.movies import open_movie, read_header
from komad.formats.mrc_writer import write_mrc_movie
from komad.formats.mrcz import write_mrcz
from komad.formats.star import read_star
from komad.model import EerRendering, MovieFormat, MovieHeader
from komad.simulate.eer import write_eer
from tests.export.conftest import N_FRAMES, NX, NY, PIXEL_SIZE, Komad, Made
from tests.output.conftest import RESULT

JOB = "MotionCorr/job002"


def columns(project: Path, file: str, block: str) -> dict[str, list[object]]:
    """The columns of a block."""
    return dict(read_star(project / file)[block].columns)


def general(project: Path, stem: str) -> dict[str, object]:
    """What the motion STAR of a movie says first."""
    return columns(project, f"{JOB}/Movies/komad/{stem}.star", "general")  # type: ignore[return-value]


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its number and content."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_ino, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


def test_names_of_a_project(made: Made, tmp_path: Path) -> None:
    """All names are relative to the project and lead to komad's files, the movie and the factor as komad used it."""
    made.add("a", references=made.gain())
    project = tmp_path / "project"
    report = RelionExport(project, made.output).update()
    assert (report.n_micrographs, report.n_new, report.problems) == (1, 1, {})
    micrographs = columns(project, f"{JOB}/corrected_micrographs.star", "micrographs")
    for label, ending in (("", ".mrc"), ("NoDW", "_noDW.mrc")):
        name = micrographs[f"rlnMicrographName{label}"][0]
        assert name == f"{JOB}/Movies/komad/a{ending}"
        assert (project / str(name)).samefile(made.output / f"a{ending}")
    assert micrographs["rlnCtfPowerSpectrum"] == [f"{JOB}/Movies/komad/a_PS.mrc"]
    assert micrographs["rlnMicrographMetadata"] == [f"{JOB}/Movies/komad/a.star"]
    for half in ("EVN", "ODD"):
        assert (project / JOB / f"Movies/komad/a_{half}.mrc").samefile(made.output / f"a_{half}.mrc")
    told = general(project, "a")
    assert told["rlnMicrographMovieName"] == "Movies/komad/a.mrc"
    assert told["rlnMicrographGainName"] == f"{JOB}/gain.mrc"
    assert (project / "Movies/komad/a.mrc").readlink() == Path("../../../camera/a.mrc")
    np.testing.assert_array_equal(mrcfile.read(project / JOB / "gain.mrc"), made.factor)
    movies = read_star(project / "Import/job001/movies.star")
    assert movies["movies"].columns["rlnMicrographMovieName"] == ["Movies/komad/a.mrc"]
    assert "rlnMicrographPixelSize" not in movies["optics"].columns
    assert (project / "MotionCorr/komad").samefile(project / JOB)


def test_the_rest_of_the_motion_star_stays(made: Made, tmp_path: Path) -> None:
    """But for the two names every character is komad's own, the warnings included."""
    made.add("a", result={"warnings": ("the gain is old",)})
    RelionExport(tmp_path / "project", made.output).update()
    ours = (made.output / "a.star").read_text().splitlines()
    theirs = (tmp_path / "project" / JOB / "Movies/komad/a.star").read_text().splitlines()
    different = [line for line, other in zip(ours, theirs, strict=True) if line != other]
    assert [line.split()[0] for line in different] == ["_rlnMicrographMovieName"]
    assert any("warning: the gain is old" in line for line in theirs)


def test_again_adds_only_what_is_new(made: Made, tmp_path: Path) -> None:
    """Another time nothing is touched; then a movie more has its files, and those before stay."""
    made.add("a")
    project = tmp_path / "project"
    RelionExport(project, made.output).update()
    before = tree(project)
    report = RelionExport(project, made.output).update()
    assert (report.n_micrographs, report.n_new) == (1, 0)
    assert tree(project) == before
    made.add("b")
    report = RelionExport(project, made.output).update()
    assert (report.n_micrographs, report.n_new, report.motion_job) == (2, 1, JOB)
    after = tree(project)
    lists = {f"{JOB}/corrected_micrographs.star", "Import/job001/movies.star"}
    assert {name for name, content in before.items() if after[name] != content} == lists
    assert columns(project, f"{JOB}/corrected_micrographs.star", "micrographs")["rlnMicrographName"] == [
        f"{JOB}/Movies/komad/a.mrc",
        f"{JOB}/Movies/komad/b.mrc",
    ]


def test_a_movie_done_again_has_its_new_motion(made: Made, tmp_path: Path) -> None:
    """One export that goes on sees it as well as the next one."""
    made.add("a")
    export = RelionExport(tmp_path / "project", made.output)
    export.update()
    before = general(tmp_path / "project", "a")["rlnMicrographDoseRate"]
    made.add("a", acquisition={"dose_per_frame": 2.5})
    assert export.update().n_new == 1
    assert (before, general(tmp_path / "project", "a")["rlnMicrographDoseRate"]) == (1.25, 2.5)


@pytest.mark.parametrize(
    ("version", "words", "types"),
    [
        (30001, False, [0, 1]),
        (30001, True, ["MicrographMoviesData.star.relion", "MicrographsData.star.relion.motioncorr"]),
        (
            50001,
            True,
            ["MicrographMovieGroupMetadata.star.relion", "MicrographGroupMetadata.star.relion.motioncorr"],
        ),
    ],
)
def test_a_project_with_jobs(
    made: Made, tmp_path: Path, version: int, words: bool, types: list[object]
) -> None:
    """The jobs take the next numbers and the words of the version; what was in the list stays there."""
    made.add("a")
    project = tmp_path / "project"
    project.mkdir()
    kind, state, node = (
        ("rlnPipeLineProcessTypeLabel relion.importtomo", "StatusLabel Failed", "TypeLabel Mask3D.mrc")
        if words
        else ("rlnPipeLineProcessType 0", "Status 4", "Type 7")
    )
    process, status, of_node = kind.split(), state.split(), node.split()
    depth = ("_rlnPipeLineNodeTypeLabelDepth #3\n", " 1") if version == 50001 else ("", "")
    (project / "default_pipeline.star").write_text(
        f"\n# version {version}\n\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 8\n\n"
        "data_pipeline_processes\n\nloop_\n_rlnPipeLineProcessName #1\n_rlnPipeLineProcessAlias #2\n"
        f"_{process[0]} #3\n_rlnPipeLineProcess{status[0]} #4\nImport/job007/ None {process[1]} {status[1]}\n\n"
        f"data_pipeline_nodes\n\nloop_\n_rlnPipeLineNodeName #1\n_rlnPipeLineNode{of_node[0]} #2\n{depth[0]}"
        f"Import/job007/mask.mrc {of_node[1]}{depth[1]}\n"
    )
    (project / "CtfFind" / "job008").mkdir(parents=True)  # of a job that RELION has not listed yet
    report = RelionExport(project, made.output).update()
    assert (report.import_job, report.motion_job) == ("Import/job009", "MotionCorr/job010")
    tables = read_star(project / "default_pipeline.star")
    assert tables["pipeline_general"].columns["rlnPipeLineJobCounter"] == 11
    assert tables["pipeline_processes"].columns["rlnPipeLineProcessName"] == [
        "Import/job007/",
        "Import/job009/",
        "MotionCorr/job010/",
    ]
    nodes = tables["pipeline_nodes"].columns
    assert nodes["rlnPipeLineNodeTypeLabel" if words else "rlnPipeLineNodeType"] == [
        *([of_node[1]] if words else [7]),
        *types,
    ]
    assert f"# version {version}" in (project / "default_pipeline.star").read_text()
    assert tables["pipeline_input_edges"].columns["rlnPipeLineEdgeFromNode"] == ["Import/job009/movies.star"]
    assert not (project / ".relion_lock").exists()


def test_two_sessions_in_one_project(made: Made, tmp_path: Path) -> None:
    """Each has its own jobs and folder of movies, with equal names of movies."""
    made.add("a")
    other = Made(camera=tmp_path / "camera2", output=tmp_path / "second" / "komad")
    other.camera.mkdir()
    other.add("a")
    project = tmp_path / "project"
    first = RelionExport(project, made.output).update()
    second = RelionExport(project, other.output).update()
    assert (first.motion_job, second.motion_job) == (JOB, "MotionCorr/job004")
    assert (project / "Movies/komad-2/a.mrc").samefile(other.camera / "a.mrc")
    assert RelionExport(project, made.output).update().motion_job == JOB


def test_movies_that_relion_cannot_read(made: Made, tmp_path: Path) -> None:
    """They are named with the room they take, and not in the list of movies; unpacked they are the same counts."""
    made.add("a")
    made.add("b", packed=True)
    project = tmp_path / "project"
    report = RelionExport(project, made.output).update()
    assert {stem: (raw.reason, raw.n_bytes) for stem, raw in report.packed.items()} == {
        "b": ("MRCZ", made.counts["b"].nbytes)
    }
    listed = columns(project, "Import/job001/movies.star", "movies")["rlnMicrographMovieName"]
    assert listed == ["Movies/komad/a.mrc"]
    assert general(project, "b")["rlnMicrographMovieName"] == "Movies/komad/b.mrc"
    report = RelionExport(project, made.output, unpack=True).update()
    assert (report.packed, report.n_unpacked) == ({}, 1)
    np.testing.assert_array_equal(mrcfile.read(project / "Movies/komad/b.mrc"), made.counts["b"])
    listed = columns(project, "Import/job001/movies.star", "movies")["rlnMicrographMovieName"]
    assert listed == ["Movies/komad/a.mrc", "Movies/komad/b.mrc"]
    assert RelionExport(project, made.output, unpack=True).update().n_unpacked == 0


def test_compressed_movies_and_frames_in_files(made: Made, tmp_path: Path) -> None:
    """They are no movies to RELION though their format is MRC, and frames in files are not lost: all are unpacked."""
    made.add("a")
    packed, frames = made.camera / "b.mrc.bz2", made.camera / "c_{frame}.mrc"
    packed.write_bytes(bz2.compress((made.camera / "a.mrc").read_bytes()))
    for number, frame in enumerate(made.counts["a"], start=1):
        with mrcfile.new(made.camera / f"c_{number}.mrc") as file:
            file.set_data(frame)
    for stem, path in (("b", packed), ("c", frames)):
        made.add(stem, path=path, size_bytes=status_of(path).size_bytes, header=read_header(path))
    project = tmp_path / "project"
    report = RelionExport(project, made.output).update()
    assert (report.lost, [*report.packed]) == ([], ["b", "c"])
    assert RelionExport(project, made.output, unpack=True).update().n_unpacked == 2
    for stem in "bc":
        np.testing.assert_array_equal(mrcfile.read(project / f"Movies/komad/{stem}.mrc"), made.counts["a"])


def add_mrc(made: Made, stem: str, counts: np.ndarray, mode: int, largest: float | None) -> None:
    """A movie of this mode, whose largest count komad has recorded, or not."""
    path = made.camera / f"raw_{stem}.mrc"
    write_mrc_movie(path, counts, mode, pixel_size_angstrom=PIXEL_SIZE)
    result = {"largest_count": largest}
    made.add(stem, path=path, size_bytes=path.stat().st_size, header=read_header(path), result=result)
    made.counts[stem] = counts


def ramp(largest: int, dtype: str, nx: int = NX) -> np.ndarray:
    """Frames from 0 to the largest count."""
    return np.linspace(0, largest, N_FRAMES * NY * nx).round().astype(dtype).reshape(N_FRAMES, NY, nx)


@pytest.mark.parametrize(
    ("counts", "mode", "reason", "unpacked"),
    [
        (ramp(127, "uint8"), 0, "", None),
        (ramp(128, "uint8"), 0, "MRC mode 0 with counts above 127, read as negative", 1),
        (ramp(32767, "uint16"), 6, "", None),
        (ramp(32768, "uint16"), 6, "MRC mode 6 with counts above 32767, read as negative", 2),
        (ramp(-90, "int8"), 0, "", None),
        (ramp(9, "float16"), 12, "MRC mode 12", 2),
        (ramp(15, "uint8"), 101, "", None),
        (ramp(15, "uint8", nx=NX + 1), 101, "MRC mode 101 with an odd number of columns", 0),
    ],
)
def test_movies_that_relion_reads_wrong(
    made: Made, tmp_path: Path, counts: np.ndarray, mode: int, reason: str, unpacked: int | None
) -> None:
    """They are named with what is wrong and the room they take; unpacked, their mode is one that all read alike."""
    add_mrc(made, "a", counts, mode, float(counts.max()))
    project = tmp_path / "project"
    report = RelionExport(project, made.output).update()
    there = project / "Movies/komad/a.mrc"
    if unpacked is None:
        assert (report.packed, there.is_symlink()) == ({}, True)
        return
    assert report.packed["a"].reason == reason
    assert not there.is_symlink()
    RelionExport(project, made.output, unpack=True).update()
    with mrcfile.open(there) as file:
        assert file.header.mode == unpacked
        np.testing.assert_array_equal(file.data, counts)
        assert report.packed["a"].n_bytes == file.data.nbytes


@pytest.mark.parametrize("copy", [False, True])
def test_counts_that_nobody_recorded(made: Made, tmp_path: Path, copy: bool) -> None:
    """The movie of an older komad is linked with a note; where it has an archive, that knows."""
    add_mrc(made, "a", ramp(200, "uint8"), 0, None)
    project = tmp_path / "project"
    report = RelionExport(project, made.output, copy=copy).update()
    assert report.packed == {}
    assert "not known of all movies of MRC mode 0 whether they count above 127" in report.notes[0]
    archive = made.camera / "a.mrcz"
    write_mrcz(archive, made.counts["a"], pixel_size_angstrom=1, voltage_kv=300, cs_mm=2.7, metadata={})
    lines = (made.output / "processed.jsonl").read_text()
    (made.output / "processed.jsonl").write_text(lines.replace('"archive": null', f'"archive": "{archive}"'))
    report = RelionExport(project, made.output, copy=copy).update()
    assert (report.packed["a"].reason[:10], report.notes) == ("MRC mode 0", [])
    assert not (project / "Movies/komad/a.mrc").exists()  # what the export before put there


def test_odd_columns_are_said(made: Made, tmp_path: Path) -> None:
    """The movie is linked, since polishing takes it, and it is said that motion correction does not."""
    add_mrc(made, "a", ramp(9, "int16", nx=NX + 1), 1, 9.0)
    report = RelionExport(tmp_path / "project", made.output).update()
    assert (report.packed, [note[:38] for note in report.notes]) == (
        {},
        ["frames have an odd number of columns: "],
    )


@pytest.mark.parametrize(
    ("changes", "facts", "reason", "n_notes"),
    [
        ({}, {"eer_compression": 65001, "picture_pages": 0}, "", 0),
        ({}, {"eer_compression": 65002, "picture_pages": 0}, "EER of compression 65002", 0),
        ({}, {"eer_compression": 65001, "picture_pages": 1}, "EER with a picture among the raw frames", 0),
        ({"nx": 4096, "ny": 4096}, {"eer_compression": 65000}, "EER of 2048 x 2048 pixels", 0),
        ({}, {}, "", 1),
    ],
)
def test_eer_movies_that_relion_refuses(
    made: Made,
    tmp_path: Path,
    changes: dict[str, int],
    facts: dict[str, float | str],
    reason: str,
    n_notes: int,
) -> None:
    """Compression, a picture and another size are known from the header; what an older komad did not record is said."""
    header = MovieHeader(
        format=MovieFormat.EER,
        n_frames=N_FRAMES,
        dtype="uint8",
        eer=EerRendering(ends=(2, 4, 6, 8, 10), upsampling=2),
        facts=facts,
        **{"ny": 8192, "nx": 8192, **changes},
    )
    made.add("a", header=header)
    report = RelionExport(tmp_path / "project", made.output).update()
    assert [raw.reason for raw in report.packed.values()] == [reason] * bool(reason)
    assert len(report.notes) == n_notes


def test_an_eer_movie_that_is_unpacked(made: Made, tmp_path: Path) -> None:
    """It has the frames of its STAR, the groups that RELION would make, and the factor where EER has the response."""
    rng = np.random.default_rng(4)
    raw_frames = [np.column_stack(np.divmod(rng.choice(NY * NX, 90, replace=False), NX)) for _ in range(11)]
    path = made.camera / "a.eer"
    write_eer(path, [places << 2 for places in raw_frames], (NY, NX))
    rendering = EerRendering(ends=(1, 2, 4, 6, 8, 10, 11))
    with open_movie(path, rendering) as reader:
        header = reader.header
    n_frames = header.n_frames
    motion = replace(RESULT.motion, shifts_px=np.zeros((n_frames, 2)), local=None, kind="global")
    made.add(
        "a",
        path=path,
        size_bytes=path.stat().st_size,
        header=header,
        references=made.gain(),
        result={"motion": motion, "largest_count": 2.0},
    )
    project = tmp_path / "project"
    report = RelionExport(project, made.output, unpack=True).update()
    assert (report.n_unpacked, report.packed) == (1, {})
    expected = np.zeros((5, NY, NX))
    for number, places in enumerate(raw_frames[:10]):
        np.add.at(expected[number // 2], tuple(places.T), 1)
    np.testing.assert_array_equal(mrcfile.read(project / "Movies/komad/a.mrc"), expected)
    told = general(project, "a")
    assert (told["rlnImageSizeZ"], told["rlnMicrographMovieName"]) == (5, "Movies/komad/a.mrc")
    assert not [label for label in told if "EER" in label]
    np.testing.assert_array_equal(mrcfile.read(project / str(told["rlnMicrographGainName"])), made.factor)


def test_a_movie_that_is_gone(made: Made, tmp_path: Path) -> None:
    """The camera's file is removed or another one: it is lost, and the micrograph is exported all the same."""
    made.add("a")
    made.add("b")
    (made.camera / "a.mrc").unlink()
    (made.camera / "b.mrc").write_bytes(b"another movie of this name")
    report = RelionExport(tmp_path / "project", made.output).update()
    assert (report.lost, report.n_micrographs) == (["a", "b"], 2)
    assert not (tmp_path / "project/Import/job001/movies.star").read_text().count("Movies/komad")


def test_a_movie_whose_details_are_damaged(made: Made, tmp_path: Path) -> None:
    """It is named, and stops no other."""
    made.add("a")
    made.add("b")
    (made.output / "a.json").write_text("{")
    report = RelionExport(tmp_path / "project", made.output).update()
    assert ([*report.problems], report.n_micrographs) == (["a"], 1)
    assert "a.json was not written by komad" in report.problems["a"]


def test_a_gain_that_is_another_one_now(made: Made, tmp_path: Path) -> None:
    """Polishing must not go on without it: the name is of a file that is missing, until the gain is back."""
    made.add("a", references=made.gain())
    gain = made.camera / "gain.mrc"
    kept = gain.read_bytes()
    gain.write_bytes(kept[:-4] + b"\0\0\0\0")
    export = RelionExport(tmp_path / "project", made.output)
    assert "not the gain reference any more" in export.update().problems["a"]
    assert general(tmp_path / "project", "a")["rlnMicrographGainName"] == f"{JOB}/gain.mrc"
    assert not (tmp_path / "project" / JOB / "gain.mrc").exists()
    gain.write_bytes(kept)
    assert export.update().problems == {}
    assert (tmp_path / "project" / JOB / "gain.mrc").is_file()


def test_movies_in_the_project_keep_their_names(made: Made, tmp_path: Path) -> None:
    """A link `Movies` to the camera's folder is what people make; nothing is written into that."""
    made.add("a")
    made.add("b", packed=True)
    project = tmp_path / "project"
    project.mkdir()
    (project / "Movies").symlink_to(made.camera)
    before = sorted(made.camera.iterdir())
    RelionExport(project, made.output, unpack=True).update()
    assert general(project, "a")["rlnMicrographMovieName"] == "Movies/a.mrc"
    name = general(project, "b")["rlnMicrographMovieName"]
    assert name == "Movies_komad/komad/b.mrc"
    assert (project / str(name)).is_file()
    assert sorted(made.camera.iterdir()) == before


def test_foreign_files_stay(made: Made, tmp_path: Path) -> None:
    """What has a name that is needed is not written over."""
    made.add("a")
    project = tmp_path / "project"
    (project / "Movies" / "komad").mkdir(parents=True)
    (project / "Movies" / "komad" / "a.mrc").write_bytes(b"theirs")
    with pytest.raises(OutputError, match=r"Movies/komad/a.mrc is there already"):
        RelionExport(project, made.output).update()
    assert (project / "Movies" / "komad" / "a.mrc").read_bytes() == b"theirs"


def test_groups_of_optics(made: Made, tmp_path: Path) -> None:
    """Groups stay as they are; with two pixel sizes each has a list of its own, since RELION picks in one at a time."""
    made.add("a")
    made.add("b", acquisition={"optics_group": "shot2"}, result={"pixel_size_angstrom": 2 * PIXEL_SIZE})
    report = RelionExport(tmp_path / "project", made.output).update()
    assert "2 pixel sizes" in report.notes[0]
    table = read_star(tmp_path / "project" / JOB / "corrected_micrographs_1.66A.star")
    assert table["optics"].columns["rlnOpticsGroupName"] == ["shot2"]
    assert table["micrographs"].columns["rlnMicrographName"] == [f"{JOB}/Movies/komad/b.mrc"]
    both = columns(tmp_path / "project", f"{JOB}/corrected_micrographs.star", "micrographs")
    assert both["rlnOpticsGroup"] == [1, 2]


def test_copies(made: Made, tmp_path: Path) -> None:
    """No link leaves the project, and another time nothing is copied again."""
    made.add("a")
    project = tmp_path / "project"
    RelionExport(project, made.output, copy=True).update()
    links = [path for path in project.rglob("*") if path.is_symlink()]
    assert {path.name for path in links} == {"komad"}  # the aliases
    before = tree(project)
    assert RelionExport(project, made.output, copy=True).update().n_new == 0
    assert tree(project) == before


def test_files_that_somebody_changed(made: Made, tmp_path: Path) -> None:
    """A line, a table or notes that komad did not write are named; nothing is made anew over them."""
    made.add("a")
    export = RelionExport(tmp_path / "project", made.output)
    export.update()
    notes = tmp_path / "project" / JOB / "komad.json"
    before = notes.read_text()
    notes.write_text(before[:-9])
    with pytest.raises(OutputError, match=r"komad.json is damaged"):
        export.update()
    notes.write_text(before)
    table = made.output / "corrected_micrographs.star"
    table.write_text(table.read_text().replace("_rlnOpticsGroup ", "_rlnGroup "))
    with pytest.raises(StarError, match=r"was not written by komad: it has no 'rlnOpticsGroup'"):
        export.update()
    with (made.output / "processed.jsonl").open("a") as lines:
        lines.write('{"files": {"micrograph": "b.mrc"}}\n')
    with pytest.raises(OutputError, match=r"processed.jsonl, line 2 was not written by komad"):
        export.update()


def test_a_lock_that_stays(tmp_path: Path) -> None:
    """Another program's lock is waited for as RELION waits, and never taken away."""
    (tmp_path / ".relion_lock").mkdir()
    waited: list[float] = []
    with (
        pytest.raises(OutputError, match="two minutes"),
        relion_pipeline.locked(tmp_path, sleep=waited.append),
    ):
        pass
    assert sum(waited) == 120
    assert (tmp_path / ".relion_lock").is_dir()


def test_two_exports_at_once(made: Made, tmp_path: Path) -> None:
    """The second one stops and says so; what both know of is replaced as a whole, and never written in place."""
    made.add("a")
    export = RelionExport(tmp_path / "project", made.output)
    export.update()
    notes = tmp_path / "project" / JOB / "komad.json"
    made.add("b", references=made.gain())
    with notes.open("rb") as before, notes.with_name("komad.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match=f"another komad export writes to {JOB}"):
            export.update()
        fcntl.flock(lock, fcntl.LOCK_UN)
        export.update()
        assert json.load(before)["gains"] == {}
    assert [*json.loads(notes.read_text())["gains"].values()] == ["gain.mrc"]


def test_what_is_no_output_folder(tmp_path: Path) -> None:
    """It says so before anything is made."""
    with pytest.raises(ParameterError, match="no output folder of komad"):
        RelionExport(tmp_path / "project", tmp_path).update()
    assert not (tmp_path / "project").exists()


def test_follow_ends_with_the_session(
    made: Made, tmp_path: Path, komad: Komad, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Movies that come while it runs are exported, and it ends when the session is complete."""
    monkeypatch.setattr("komad.cli.export.FOLLOW_INTERVAL_S", 0.05)
    made.add("a")
    session = made.output / "session.json"
    values = json.loads(session.read_text())
    session.write_text(json.dumps({**values, "state": "running"}))
    later = threading.Timer(0.3, made.add, ["b"])  # which says that the session is complete
    later.start()
    outcome = komad("export", "relion", tmp_path / "project", "--from", made.output, "--follow")
    later.join()
    assert outcome.code == 0
    assert "1 micrographs" in outcome.out
    assert "2 micrographs, 2 of them new" in outcome.out


def test_exit_code_and_words(made: Made, tmp_path: Path, komad: Komad) -> None:
    """What is wrong is said on stderr with code 1; what polishing will miss is said with the room it takes."""
    made.add("a", references=made.gain())
    made.add("b", packed=True)
    (made.camera / "gain.mrc").unlink()
    outcome = komad("export", "relion", tmp_path / "project", "--from", made.output)
    assert outcome.code == 1
    assert "a: " in outcome.err
    assert "put the file back" in outcome.err
    assert "(b): MRCZ; --unpack writes them as MRC, 15 kB" in outcome.out
    (made.output / "a_PS.mrc").unlink()
    outcome = komad("export", "relion", tmp_path / "other", "--from", made.output)
    assert "a_PS.mrc is gone; process the movie again" in outcome.err.replace("\n", " ")
