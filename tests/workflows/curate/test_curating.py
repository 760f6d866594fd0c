"""`equipoise curate`: decisions with reasons, a reference, folders of links and copies, and originals left alone."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from equipoise.cli.main import main
from equipoise.generative import Manifest, auto_threshold_cluster
from equipoise.report.curation_page import CurationReport, IdentityLine, curation_page, verdict
from equipoise.workflows import CurateRequest, InputError, curate_folder
from equipoise.workflows.curate.exporting import check_export
from equipoise.workflows.curate.reading import read_embeddings, small_copies

PEOPLE, EACH, DIM = ("anna", "=boris", "carl"), 6, 12


def _directions():
    return np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0][:9]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of pictures, of which the first of each identity shows somebody else, and a file of embeddings."""
    root = tmp_path_factory.mktemp("made")
    generator = np.random.default_rng(1)
    people, names, rows = _directions(), [], []
    for who, name in enumerate(PEOPLE):
        (root / "set" / name).mkdir(parents=True)
        for k in range(EACH):
            shown = 5 + who if k == 0 else who
            names.append(f"{name}/{k}.png")
            rows.append(people[shown] + 0.3 * generator.normal(size=DIM) / DIM**0.5)
            pattern = np.random.default_rng(shown).integers(0, 255, (6, 6)).repeat(6, 0).repeat(6, 1)
            noisy = np.clip(pattern + generator.normal(size=pattern.shape) * 12, 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).convert("RGB").save(root / "set" / names[-1])
    (root / "set" / "loose.png").write_bytes((root / "set" / names[0]).read_bytes())
    (root / "set" / "anna" / ".hidden.png").write_bytes(b"")
    (root / "set" / "anna" / "notes.txt").write_text("x")
    np.savez(root / "e.npz", embeddings=np.array(rows, dtype=np.float32), files=np.array(names))
    near = np.stack([people[2] + 0.3 * generator.normal(size=DIM) / DIM**0.5 for _ in range(3)] + [people[8]])
    np.savez(root / "reference.npz", embeddings=near, identity=np.array(["x", "x", "x", "y"]))
    return root


def _request(tmp_path, **changes):
    return CurateRequest(output=tmp_path / "out", **{"min_count": 3, **changes})


def _rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _stats(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes()) for path in folder.rglob("*.png")}


def test_every_picture_has_a_decision_and_originals_are_left_alone(made, tmp_path):
    before = _stats(made / "set")
    told = []
    outcome = curate_folder(
        made / "set", _request(tmp_path, embeddings=made / "e.npz"), command="equipoise x", notice=told.append
    )
    assert told == ["1 pictures lie in no identity's folder and are not looked at"]
    rows = _rows(outcome.folder / "pictures.csv")
    assert [row["sample"] for row in rows] == [f"{name}/{k}.png" for name in sorted(PEOPLE) for k in range(EACH)]
    for row in rows:
        assert row["verdict"] == ("outlier" if row["sample"].endswith("/0.png") else "kept")
        assert bool(row["reason"]) == (row["verdict"] != "kept")
    again = Manifest.read_json(outcome.folder / "pictures.json")
    assert [row.verdict for row in again.rows] == [row["verdict"] for row in rows]
    assert again.order == ("=boris", "anna", "carl")
    lines = _rows(outcome.folder / "identities.csv")
    assert [(line["identity"], line["kept"], line["outlier"]) for line in lines] == [
        (name, "5", "1") for name in sorted(PEOPLE)
    ]
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    assert summary["report"]["samples kept"] == 15
    page = (outcome.folder / "report.html").read_text(encoding="utf-8")
    assert "15 of 18 pictures and 3 of 3 identities are kept." in page
    assert "equipoise x" in page
    assert not (outcome.folder / "nearest.csv").exists()
    assert _stats(made / "set") == before


def test_votes_are_those_of_the_function(made, tmp_path):
    held = np.load(made / "e.npz")
    rows = dict(zip(held["files"].tolist(), torch.from_numpy(held["embeddings"]), strict=True))
    outcome = curate_folder(
        made / "set", _request(tmp_path, embeddings=made / "e.npz", max_fraction=0.6), notice=lambda words: None
    )
    for name in PEOPLE:
        mine = torch.stack([rows[f"{name}/{k}.png"] for k in range(EACH)])
        kept = auto_threshold_cluster(mine, max_fraction=0.6).indices.tolist()
        found = [row for row in outcome.manifest.rows if row.identity == name]
        votes = [k for k, row in enumerate(found) if row.votes["cluster"]]
        assert votes == kept


def test_who_is_in_the_reference_is_left_out(made, tmp_path):
    request = _request(tmp_path, embeddings=made / "e.npz", reference=made / "reference.npz", escape_formulas=True)
    outcome = curate_folder(made / "set", request, notice=lambda words: None)
    assert outcome.manifest.order == ("=boris", "anna")
    found = Manifest.read_json(outcome.folder / "pictures.json")
    carl = [row for row in found.rows if row.identity == "carl"]
    assert {row.verdict for row in carl[1:]} == {"leaked"}
    assert all(row.reference_similarity >= 0.5 for row in carl[1:])
    assert max(row.reference_similarity for row in found.rows if row.kept) < 0.5
    assert sum(int(row["pictures"]) for row in _rows(outcome.folder / "nearest.csv")) == 10
    assert _rows(outcome.folder / "pictures.csv")[0]["sample"] == "'=boris/0.png"
    page = (outcome.folder / "report.html").read_text(encoding="utf-8")
    assert "5 pictures were left out as too near to the reference" in page
    assert "How near the reference is" in page


def test_a_calibrated_threshold_and_what_to_hold_against(made, tmp_path):
    generator = np.random.default_rng(3)
    rows = np.concatenate([generator.normal(size=(60, DIM)), np.load(made / "reference.npz")["embeddings"]])
    identity = [f"q{k}" for k in range(60)] + ["x", "x", "x", "y"]
    pd.DataFrame(rows).rename(columns=str).assign(identity=identity).to_parquet(tmp_path / "r.parquet")
    request = _request(
        tmp_path,
        embeddings=made / "e.npz",
        reference=tmp_path / "r.parquet",
        against="centres",
        false_match_rate=0.01,
    )
    outcome = curate_folder(made / "set", request, notice=lambda words: None)
    assert 0.5 < outcome.report.leakage_threshold < 0.9
    assert "carl" not in outcome.manifest.order


def test_a_second_embedding_votes_as_well_and_lacking_ones_are_told(made, tmp_path):
    held = np.load(made / "e.npz")
    second = held["embeddings"].copy()
    second[4] = -second[4]
    pd.DataFrame({"file": held["files"][:-1], "embedding": list(second[:-1])}).to_parquet(tmp_path / "second.parquet")
    request = _request(tmp_path, embeddings=made / "e.npz", second=tmp_path / "second.parquet")
    outcome = curate_folder(made / "set", request, notice=lambda words: None)
    rows = {row.sample: row for row in outcome.manifest.rows}
    assert rows["anna/4.png"].reason == "left out by second"
    assert rows["anna/4.png"].votes == {"cluster": True, "second": False}
    assert rows["carl/5.png"].verdict == "not embedded"
    assert rows["carl/5.png"].reason == "the second file has no embedding of it"


def test_grey_copies_tell_gross_outliers_and_broken_files_have_a_reason(made, tmp_path):
    folder = tmp_path / "set"
    for path in sorted((made / "set").rglob("*.png")):
        if path.parent != made / "set" and not path.name.startswith("."):
            new = folder / path.relative_to(made / "set")
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(path.read_bytes())
    (folder / "anna" / "broken.jpg").write_bytes(b"no picture")
    (folder / "anna" / "again.png").write_bytes((folder / "anna" / "3.png").read_bytes())
    Image.new("RGB", (9, 9), (1, 2, 3)).save(folder / "carl" / "flat.png")
    (folder / "dora").mkdir()
    (folder / "dora" / "broken.png").write_bytes(b"")
    reference = tmp_path / "reference"
    reference.mkdir()
    (reference / "b.png").write_bytes((folder / "=boris" / "2.png").read_bytes())
    told = []
    request = _request(tmp_path, reference=reference, copies=0.9999, min_count=2)
    outcome = curate_folder(folder, request, notice=told.append)
    assert "tell near copies and gross outliers" in told[0]
    rows = {row.sample: row for row in outcome.manifest.rows}
    assert len(rows) == 22
    assert rows["anna/broken.jpg"].verdict == "not embedded"
    assert rows["anna/broken.jpg"].reason.startswith("cannot be read as an image")
    assert rows["carl/flat.png"].reason == "is of one colour"
    assert rows["dora/broken.png"].verdict == "not embedded"
    assert "dora" not in outcome.manifest.order
    assert rows["anna/again.png"].verdict == "near copy"
    assert rows["anna/again.png"].reason == "near copy of anna/3.png"
    assert rows["=boris/2.png"].verdict == "leaked"
    assert all(rows[f"{name}/0.png"].verdict == "outlier" for name in PEOPLE)


@pytest.mark.parametrize("how", ["link", "copy"])
def test_a_folder_of_what_is_kept(how, made, tmp_path):
    place = tmp_path / "deep" / "kept"
    outcome = curate_folder(
        made / "set", _request(tmp_path, embeddings=made / "e.npz", **{how: place}), notice=lambda words: None
    )
    kept = sorted(row.sample for row in outcome.manifest.rows if row.kept)
    assert sorted(path.relative_to(place).as_posix() for path in place.rglob("*.png")) == kept
    for name in kept:
        assert (place / name).read_bytes() == (made / "set" / name).read_bytes()
        assert (place / name).is_symlink() == (how == "link")
    assert sorted(path.name for path in place.parent.iterdir()) == ["kept"]
    with pytest.raises(InputError, match="exists already"):
        curate_folder(made / "set", _request(tmp_path / "2", embeddings=made / "e.npz", **{how: place}))
    assert not (tmp_path / "2").exists()


def test_the_command(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["curate", str(made / "set"), "--embeddings", str(made / "e.npz"), "--min-count", "3", "--link", "kept"])
    said = capsys.readouterr()
    assert "15 of 18 pictures and 3 of 3 identities are kept." in said.out
    assert "outlier" in said.out
    assert (tmp_path / "equipoise-curate" / "report.html").exists()
    assert (tmp_path / "kept" / "anna" / "1.png").is_symlink()
    with pytest.raises(SystemExit):
        main(["curate", str(made / "set"), "--embeddings", str(made / "e.npz")])
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 1.0}, "threshold=1.0 must lie in"),
        ({"copies": 0.0}, "copies=0.0"),
        ({"min_fraction": 0.9, "max_fraction": 0.8}, "min_fraction=0.9 is above max_fraction=0.8"),
        ({"min_count": 0}, "min_count=0 must be at least 1"),
        ({"max_count": 2}, "max_count=2 is below min_count=3"),
        ({"against": "people"}, "against='people' is not known"),
        ({"against": "both"}, "against is of use with a reference only"),
        ({"leakage_threshold": 0.4}, "leakage_threshold is of use with a reference only"),
        ({"reference": "reference.npz", "leakage_threshold": 0.4, "false_match_rate": 0.1}, "say the same"),
        ({"reference": "set"}, "is a folder, and pictures are compared by"),
        ({"reference": "reference.npz", "false_match_rate": 0.01}, "too few for false_match_rate"),
        ({"embeddings": "none.npz"}, "there is no file"),
        ({"embeddings": "reference.npz"}, "has no names of pictures"),
        ({"link": "set/links"}, "lie in each other"),
        ({"copy": "out/copies"}, "lie in each other"),
        ({"link": "x", "copy": "x"}, "link and copy name the same folder"),
        ({"output": "set"}, "holds the input|is not empty"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(changes, words, made, tmp_path):
    for name in ("embeddings", "reference"):
        if name in changes:
            changes = {**changes, name: made / changes[name]}
    for name in ("link", "copy", "output"):
        if name in changes:
            changes = {**changes, name: (made if str(changes[name]).startswith("set") else tmp_path) / changes[name]}
    request = CurateRequest(**{"output": tmp_path / "out", "min_count": 3, "embeddings": made / "e.npz", **changes})
    with pytest.raises(InputError, match=words):
        curate_folder(made / "set", request, notice=lambda words: None)
    assert not (tmp_path / "out").exists()


def test_files_of_embeddings_that_cannot_be_used(tmp_path):
    def saved(**arrays):
        np.savez(tmp_path / "x.npz", **arrays)
        return tmp_path / "x.npz"

    rows = np.ones((2, 3))
    for arrays, words in (
        ({"x": rows}, "has no array 'embeddings', only 'x'"),
        ({"embeddings": rows[0]}, r"must hold embeddings \(n, d\)"),
        ({"embeddings": rows, "files": np.array(["a"])}, "holds 2 embeddings and 1 files"),
        ({"embeddings": rows * np.nan}, "NaN or infinity, or rows of zeros"),
        ({"embeddings": rows * 0}, "rows of zeros"),
        ({"embeddings": np.array([["a"]])}, "must hold embeddings"),
        ({"embeddings": np.array([None, {}], dtype=object)}, "an array holds objects"),
    ):
        with pytest.raises(InputError, match=words):
            read_embeddings(saved(**arrays))
    (tmp_path / "empty.npz").write_bytes(b"")
    saved(embeddings=rows)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:100])
    np.save(tmp_path / "one.npy", rows)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("empty.npz", "cut.npz", "one.npz"):
        with pytest.raises(InputError, match="or a part of one"):
            read_embeddings(tmp_path / name)
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "text.parquet").write_text("no")
    for name in ("text.npz", "text.parquet"):
        with pytest.raises(InputError, match="cannot be read"):
            read_embeddings(tmp_path / name)
    with pytest.raises(InputError, match="is no folder"):
        curate_folder(tmp_path / "none", _request(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        curate_folder(tmp_path / "empty", _request(tmp_path))


def test_what_is_wrong_is_said_before_what_is_worth_knowing(made, tmp_path):
    said = []
    with pytest.raises(InputError, match="there is no file"):
        curate_folder(made / "set", _request(tmp_path, reference=tmp_path / "none"), notice=said.append)
    nameless = tmp_path / "nameless.npz"
    np.savez(nameless, embeddings=np.eye(3))
    with pytest.raises(InputError, match="whose identities are known"):
        curate_folder(made / "set", _request(tmp_path, reference=nameless, false_match_rate=0.1), notice=said.append)
    loose = tmp_path / "loose"
    loose.mkdir()
    Image.new("RGB", (8, 8)).save(loose / "a.png")
    with pytest.raises(InputError, match="no folder of them"):
        curate_folder(loose, _request(tmp_path), notice=said.append)
    assert not said


def test_grey_copies_do_not_depend_on_size_or_brightness(tmp_path):
    pixels = np.random.default_rng(0).integers(60, 200, (24, 24)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels + 30).resize((96, 96), Image.Resampling.NEAREST).save(tmp_path / "b.png")
    rows, wrong = small_copies([tmp_path / "a.png", tmp_path / "b.png"])
    assert not wrong
    torch.testing.assert_close(rows[0], rows[1], atol=1e-5, rtol=0)


def test_the_page_without_anything_and_with_names_that_look_like_markup():
    lines = [IdentityLine("<b>x</b>", 2, 0, {"identity too small": 2})]
    report = CurationReport("t", (), lines, 0, {"identity too small": 2}, None, 0.5, 0.1)
    page = curation_page(report)
    assert "<b>x</b>" not in page
    assert verdict(report).startswith("0 of 2 pictures and 0 of 1 identities are kept; 0 pictures")


@pytest.mark.parametrize("place", [".", ".."])
def test_pictures_are_not_put_in_place_of_the_folder_one_works_in(tmp_path, monkeypatch, place):
    (tmp_path / "beside" / "within").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "beside" / "within")
    with pytest.raises(InputError, match="the folder you work in"):
        check_export(Path(place), tmp_path / "pictures", tmp_path / "out")


def test_a_picture_that_its_decoder_does_not_know_is_told_from_the_others(tmp_path):
    header = bytearray(b"DDS " + bytes(124))
    header[4:8], header[12:20], header[76:80] = (124).to_bytes(4, "little"), b"\x10\0\0\0" * 2, b"\x20\0\0\0"
    (tmp_path / "a.png").write_bytes(bytes(header))
    _, wrong = small_copies([tmp_path / "a.png"])
    assert "cannot be read as an image" in wrong[0]
