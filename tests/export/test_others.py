"""A session for cryoSPARC, for denoisers, and tilt series as stacks."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from komad.errors import OutputError, ParameterError
from komad.export import cryosparc, denoise, tomo
from komad.export.session import read_session
from komad.formats.images import write_reference
from komad.model import ReferenceFile
from tests.export.conftest import NX, NY, PIXEL_SIZE, Komad, Made
from tests.output.conftest import pictures


def test_cryosparc_has_a_folder_for_each_group(made: Made, tmp_path: Path) -> None:
    """Just the pictures of that kind lie in it, and the numbers are those of the group."""
    made.add("a", references=made.gain())
    made.add("b", acquisition={"optics_group": "shot 2", "dose_per_frame": 2.0})
    done = cryosparc.export(read_session(made.output), tmp_path / "cs")
    first, second = done.groups
    assert {str(path.relative_to(tmp_path)) for path in (tmp_path / "cs").rglob("*.mrc")} == {
        "cs/opticsGroup1/a.mrc",
        "cs/opticsGroup1_gain.mrc",
        "cs/shot_2/b.mrc",
    }
    assert (tmp_path / "cs/opticsGroup1/a.mrc").samefile(made.output / "a.mrc")
    assert (first.total_doses, second.total_doses) == ((6.25,), (10.0,))
    assert (first.pixel_size_angstrom, first.voltage_kv, first.cs_mm) == (PIXEL_SIZE, 300.0, 2.7)
    assert first.movies == (f"{made.camera}/*.mrc",)
    assert done.problems == {}
    np.testing.assert_array_equal(mrcfile.read(tmp_path / "cs/opticsGroup1_gain.mrc"), made.factor)
    unweighted = cryosparc.export(read_session(made.output), tmp_path / "plain", kind="unweighted")
    assert unweighted.n_new == 2
    assert (tmp_path / "plain/opticsGroup1/a.mrc").samefile(made.output / "a_noDW.mrc")
    assert cryosparc.export(read_session(made.output), tmp_path / "cs").n_new == 0


def test_gains_that_are_not_the_factor(made: Made, tmp_path: Path, komad: Komad) -> None:
    """A response and a gain whose rows lie as those of EER movies are handed over as komad's own factor alone."""
    turned = made.gain()
    response, gain = made.camera / "response.mrc", made.camera / "gain.tif"
    write_reference(response, 1 / made.factor)
    tifffile.imwrite(gain, made.factor)
    for stem, path, ways in (
        ("a", response, {"gain_is_response": True}),
        ("b", gain, {"gain_rows_as_eer": True}),
    ):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        file = ReferenceFile(path=path, original_path=path, sha256=sha256)
        made.add(
            stem,
            references=replace(turned, gain=file, gain_rot=0, **ways),
            acquisition={"optics_group": f"group-{stem}"},
        )
    out = komad("export", "cryosparc", tmp_path / "cs", "--from", made.output).out
    for name in ("group-a", "group-b"):
        factor = tmp_path / "cs" / f"{name}_gain.mrc"
        assert f"Gain reference path: {factor}; Rotate: 0; Flip in X: no; Flip in Y: no" in out
        picture = mrcfile.read(factor)
        np.testing.assert_allclose(picture / picture.mean(), made.factor / made.factor.mean(), rtol=1e-5)
    assert f"since {response} holds the response" in out
    assert f"since {gain} has its rows as EER movies" in out
    assert f"path: {response}" not in out
    assert out.count("not tried in cryoSPARC") == 2


def test_a_group_with_several_gains(made: Made, tmp_path: Path, komad: Komad) -> None:
    """Each is handed over, and the pattern that matches movies of both, or of none, is named."""
    first = made.gain()
    made.add("a", references=first)
    made.add("b", references=first)
    factor, turned = made.factor, replace(first, gain_rot=3)
    made.add("c", references=turned)
    made.add("d")
    outcome = komad("export", "cryosparc", tmp_path / "cs", "--from", made.output)
    assert outcome.code == 0
    assert "its movies have 2 gains" in outcome.out
    told = "2 (a, ...) with gain 1; 1 (c) with gain 2; 1 (d) with none"
    assert f"{made.camera}/*.mrc matches movies with different gains" in outcome.out
    assert told in outcome.out
    folder = tmp_path / "cs"
    np.testing.assert_array_equal(mrcfile.read(folder / "opticsGroup1_gain.mrc"), factor)
    np.testing.assert_array_equal(mrcfile.read(folder / "opticsGroup1_gain-2.mrc"), factor[::-1, ::-1])


def test_a_turned_gain_of_another_session_stays(made: Made, tmp_path: Path) -> None:
    """It is not taken for this one's."""
    made.add("a", references=made.gain())
    there = tmp_path / "cs" / "opticsGroup1_gain.mrc"
    there.parent.mkdir()
    write_reference(there, 2 * made.factor)
    with pytest.raises(OutputError, match="another gain than that of the session"):
        cryosparc.export(read_session(made.output), tmp_path / "cs")
    np.testing.assert_array_equal(mrcfile.read(there), 2 * made.factor)


@pytest.mark.parametrize(("rotation", "flip"), [(k, flip) for k in range(4) for flip in range(3)])
def test_gain_in_cryosparc(rotation: int, flip: int) -> None:
    """Turned counter-clockwise with row 0 at the bottom, then flipped, it is the factor that komad uses."""
    from komad.detector.gain import orient

    gain = np.arange(12).reshape(3, 4)
    ways = cryosparc.gain_in_cryosparc(Path("gain.mrc"), rotation, flip)
    picture = np.rot90(gain[::-1], ways.rotate_num)  # NumPy turns counter-clockwise with row 0 at the top
    picture = picture[:, ::-1] if ways.flip_x else picture
    picture = picture[::-1] if ways.flip_y else picture
    np.testing.assert_array_equal(picture[::-1], orient(gain, gain_rot=rotation, gain_flip=flip))
    other = np.rot90(gain, ways.rotate_num)  # row 0 at the top
    other = other[:, ::-1] if ways.flip_x else other
    other = other[::-1] if ways.flip_y else other
    if ways.is_certain:
        np.testing.assert_array_equal(other, orient(gain, gain_rot=rotation, gain_flip=flip))


def test_cryosparc_checks_headers(made: Made, tmp_path: Path, komad: Komad) -> None:
    """A wrong pixel size, a cut-off, other-sized or missing file and a stranger in the folder are named; code 1."""
    for stem in "abcdef":
        made.add(stem)
    with mrcfile.open(made.output / "a.mrc", "r+") as file:
        file.voxel_size = 1.0
    cut = (made.output / "b.mrc").read_bytes()
    (made.output / "b.mrc").write_bytes(cut[:-100])
    with mrcfile.new(made.output / "c.mrc", overwrite=True) as file:
        file.set_data(np.zeros((NY, 2 * NX), np.float32))
        file.voxel_size = PIXEL_SIZE
    (made.output / "d.mrc").unlink()
    (tmp_path / "cs/opticsGroup1").mkdir(parents=True)
    (tmp_path / "cs/opticsGroup1/of_others.mrc").write_bytes(b"")
    outcome = komad("export", "cryosparc", tmp_path / "cs", "--from", made.output)
    assert outcome.code == 1
    words = {line.split(": ")[0].split("/")[-1]: line for line in outcome.err.splitlines()}
    assert "header says 1.0 Å per pixel, the index 0.83" in words["a.mrc"]
    assert "its header says" in words["b.mrc"]
    assert f"it is {2 * NX} x {NY} pixels" in words["c.mrc"]
    assert "it is gone; process the movie again" in words["d.mrc"]
    assert "not of this session" in words["of_others.mrc"]
    linked = {path.name for path in (tmp_path / "cs/opticsGroup1").iterdir()}
    assert linked == {"e.mrc", "f.mrc", "of_others.mrc"}
    assert "2 micrographs" in outcome.out


def test_groups_alike_are_told_once(made: Made, tmp_path: Path, komad: Komad) -> None:
    """A path for each of the micrographs, one for the movies; none where each frame is a file."""
    for stem, group, movie in (("a", "g-1", "a.mrc"), ("b", "g-2", "b.mrc"), ("c", "other", "c_{frame}.mrc")):
        made.add(stem, path=made.camera / movie, acquisition={"optics_group": group})
    out = komad("export", "cryosparc", tmp_path / "cs", "--from", made.output).out
    alike, others = out.split("exposure group other: ")
    assert alike.startswith("exposure group g-1: 1 micrographs\nexposure group g-2: 1 micrographs\n")
    assert [f"{tmp_path}/cs/g-{number}/*.mrc" in alike for number in (1, 2)] == [True, True]
    assert alike.count(f"Movies data path: {made.camera}/*.mrc") == 1
    assert "no Import Movies: each frame is a file" in others


def test_halves_have_one_name_in_two_folders(made: Made, tmp_path: Path) -> None:
    """As Topaz pairs them and Warp finds them; a movie without halves is named."""
    made.add("a")
    made.add("b", result={"sum_even": None, "sum_odd": None})
    done = denoise.export(read_session(made.output), tmp_path / "dn")
    assert (done.n_pairs, done.n_new, done.missing) == (1, 3, ("b",))
    for folder, ending in (("even", "_EVN"), ("odd", "_ODD"), (".", "_noDW")):
        (link,) = (tmp_path / "dn/average" / folder).glob("*.mrc")
        assert link.name == "a.mrc"
        assert link.samefile(made.output / f"a{ending}.mrc")
    assert denoise.export(read_session(made.output), tmp_path / "dn").n_new == 0


TILTS = (
    ("t0", 0.01, "15:21:38"),
    ("t1", 3.01, "15:22:38"),
    ("t2", -2.99, "15:23:38"),
    ("t3", -6.0, "15:24:38"),
)


def write_mdoc(path: Path, *, order: tuple[int, ...] = (0, 1, 2, 3)) -> Path:
    """A dose-symmetric series as SerialEM lists it, or in another order of its sections."""
    sections = [
        f"[ZValue = {number}]\r\nTiltAngle = {TILTS[n][1]}\r\nSubFramePath = X:\\frames\\{TILTS[n][0].upper()}.MRC\r\n"
        f"DateTime = 30-Nov-15  {TILTS[n][2]}\r\n"
        for number, n in enumerate(order)
    ]
    path.write_text("PixelSpacing = 0.83\r\n\r\n" + "\r\n".join(sections), newline="")
    return path


@pytest.fixture
def tilts(made: Made) -> Made:
    """Four tilts, each with pictures of its own."""
    for number, (stem, *_) in enumerate(TILTS):
        made.add(stem, result=pictures(seed=10 + number))
    return made


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 0, 1)])
def test_stacks_are_sorted_by_angle(tilts: Made, tmp_path: Path, order: tuple[int, ...]) -> None:
    """Pictures, angles, order and dose belong together, however the file lists the tilts."""
    session = read_session(tilts.output)
    series = tomo.read_series(write_mdoc(tmp_path / "ts_01.mrc.mdoc", order=order), session)
    written = tomo.write_series(series, session, tmp_path / "st")
    assert written.stacks == ("ts_01.mrc", "ts_01_EVN.mrc", "ts_01_ODD.mrc")
    folder = tmp_path / "st"
    by_angle = ("t3", "t2", "t0", "t1")
    for ending, of_movie in (("", "_noDW"), ("_EVN", "_EVN"), ("_ODD", "_ODD")):
        with mrcfile.open(folder / f"ts_01{ending}.mrc") as stack:
            assert stack.is_image_stack()
            assert float(stack.voxel_size.x) == pytest.approx(PIXEL_SIZE)
            for number, stem in enumerate(by_angle):
                np.testing.assert_array_equal(
                    stack.data[number], mrcfile.read(tilts.output / f"{stem}{of_movie}.mrc")
                )
    assert (folder / "ts_01.rawtlt").read_text().split() == ["-6.00", "-2.99", "0.01", "3.01"]
    assert [line.split() for line in (folder / "ts_01_TLT.txt").read_text().splitlines()] == [
        ["-6.00", "4"],
        ["-2.99", "3"],
        ["0.01", "1"],
        ["3.01", "2"],
    ]
    assert (folder / "ts_01_order.csv").read_text() == "1,0.01\n2,3.01\n3,-2.99\n4,-6.00\n"
    rows = [line.split(",") for line in (folder / "ts_01_tilts.csv").read_text().splitlines()[1:]]
    assert [(row[0], row[2], float(row[3]), float(row[4])) for row in rows] == [
        ("1", "4", 18.75, 6.25),
        ("2", "3", 12.5, 6.25),
        ("3", "1", 0.0, 6.25),
        ("4", "2", 6.25, 6.25),
    ]


def test_a_folder_of_mdocs(tilts: Made, tmp_path: Path) -> None:
    """An editor's UTF-16 is read as the series it is; Tomography 5's overrides beside it are no series."""
    path = write_mdoc(tmp_path / "ts_01.mdoc")
    path.write_bytes(path.read_bytes().decode().encode("utf-16"))
    (tmp_path / "ts_01_override.mdoc").write_text("[ZValue = 0]\n")
    (found,) = tomo.find_mdocs([tmp_path])
    assert len(tomo.read_series(found, read_session(tilts.output)).present) == 4


def test_a_missing_tilt_is_named(tilts: Made, tmp_path: Path, komad: Komad) -> None:
    """The stack is of the others, with their places in the series; when the tilt comes, it is written again."""
    write_mdoc(tmp_path / "ts.mdoc")
    everything = read_session(tilts.output)
    lines = (tilts.output / "processed.jsonl").read_text().splitlines(keepends=True)
    (tilts.output / "processed.jsonl").write_text("".join(lines[:1] + lines[2:]))
    outcome = komad("export", "tomo", tmp_path / "st", "--mdoc", tmp_path, "--from", tilts.output)
    assert outcome.code == 1
    assert "3 of 4 tilts" in outcome.out
    assert "3.01 degrees is missing" in outcome.err
    assert (tmp_path / "st/ts_order.csv").read_text() == "1,0.01\n3,-2.99\n4,-6.00\n"
    series = tomo.read_series(tmp_path / "ts.mdoc", everything)
    assert tomo.write_series(series, everything, tmp_path / "st").is_new
    assert mrcfile.read(tmp_path / "st/ts.mrc").shape == (4, NY, NX)
    assert not tomo.write_series(series, everything, tmp_path / "st").is_new


def test_a_series_whose_picture_is_gone_stops_no_other(tilts: Made, tmp_path: Path, komad: Komad) -> None:
    """It is named with the file, exit code 1; so is a file that is not there."""
    write_mdoc(tmp_path / "a.mdoc")
    write_mdoc(tmp_path / "b.mdoc", order=(0, 1))
    (tilts.output / "t2_noDW.mrc").unlink()
    outcome = komad(
        *("export", "tomo", tmp_path / "st", "--from", tilts.output),
        *(word for name in ("gone", "a", "b") for word in ("--mdoc", tmp_path / f"{name}.mdoc")),
    )
    assert outcome.code == 1
    assert f"cannot read {tmp_path / 'gone.mdoc'}: No such file or directory\n" in outcome.err
    assert "t2_noDW.mrc cannot be read" in outcome.err
    assert "b: 2 of 2 tilts" in outcome.out


def test_weighted_tilts_must_know_of_the_series(tilts: Made, tmp_path: Path, komad: Komad) -> None:
    """Sums that were weighted without the dose of the tilts before are not handed on in silence."""
    mdoc = write_mdoc(tmp_path / "ts.mdoc")
    outcome = komad(
        "export", "tomo", tmp_path / "st", "--mdoc", mdoc, "--from", tilts.output, "--dose-weighted"
    )
    assert outcome.code == 1
    assert "3 tilts were weighted as if no tilt had been taken before" in outcome.err
    with mrcfile.open(tmp_path / "st/ts.mrc") as stack:
        np.testing.assert_array_equal(stack.data[2], mrcfile.read(tilts.output / "t0.mrc"))


def test_tilts_that_differ_and_foreign_stacks(tilts: Made, tmp_path: Path) -> None:
    """Another pixel size within a series, or a stack of somebody else: nothing is written."""
    mdoc = write_mdoc(tmp_path / "ts.mdoc")
    session = read_session(tilts.output)
    (tmp_path / "st").mkdir()
    (tmp_path / "st/ts.mrc").write_bytes(b"theirs")
    with pytest.raises(OutputError, match="not written by komad"):
        tomo.write_series(tomo.read_series(mdoc, session), session, tmp_path / "st")
    tilts.add("t0", result={"pixel_size_angstrom": 2 * PIXEL_SIZE})
    session = read_session(tilts.output)
    with pytest.raises(ParameterError, match="different pixel sizes"):
        tomo.write_series(tomo.read_series(mdoc, session), session, tmp_path / "other")


@pytest.mark.parametrize("text", ["", "PixelSpacing = 1\n", "[ZValue = 0]\nTiltAngle = 3\n"])
def test_a_mdoc_without_tilts(made: Made, tmp_path: Path, text: str) -> None:
    """It is said what a tilt is."""
    made.add("a")
    (tmp_path / "ts.mdoc").write_text(text)
    with pytest.raises(ParameterError, match="lists no tilts: a tilt has TiltAngle and SubFramePath"):
        tomo.read_series(tmp_path / "ts.mdoc", read_session(made.output))
