"""The whole pipeline on directions with known identities: what is kept, why not, what is made, and going on."""

import csv
import json
import math
import threading

import pytest
import torch
from torch.nn.functional import normalize

from equipoise.generative import (
    ClusterCleaner,
    IdentityDatasetBuilder,
    JudgeCleaner,
    Manifest,
    ManifestRow,
    NoisyOracleJudge,
    largest_consistent_cluster,
)
from equipoise.generative.curation.protected import ProtectedSet

DIM = 16


def _centres(n, seed=0):
    return normalize(torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def _around(centre, seed, spread=0.4):
    noise = torch.randn(DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return centre + spread * noise / DIM**0.5


def _source(people=6, samples=12, wrong=3, seed=0):
    """Identities p0, p1, ...; the first samples of each show the next one."""
    centres = _centres(people, seed)
    return {
        f"p{who}": {
            f"p{who}-{k}": _around(centres[(who + (k < wrong)) % people], 1000 * seed + 100 * who + k)
            for k in range(samples)
        }
        for who in range(people)
    }


def _embed(samples):
    return torch.stack(list(samples))


def _augment(sample, seed):
    return _around(sample, seed, 0.1)


def _new(prompt, seed):
    return _centres(1, seed)[0]


def _more(embedding, seed):
    return _around(embedding, seed, 0.2)


MAKING = {"augmenter": _augment, "seed_generator": _new, "expander": _more}


def _builder(**settings):
    return IdentityDatasetBuilder(_embed, **{"min_count": 4, "target_count": 12, **settings})


def test_wrong_samples_are_outliers_with_votes_and_reasons():
    source = _source()
    manifest = _builder().build(source)
    assert [row.sample for row in manifest.rows] == [name for given in source.values() for name in given]
    for row in manifest.rows:
        wrong = int(row.sample.split("-")[1]) < 3
        assert row.verdict == ("outlier" if wrong else "kept")
        assert row.reason == ("left out by cluster" if wrong else "")
        assert row.votes == {"cluster": not wrong}
        assert (row.centroid_similarity < 0.8) == wrong
        assert math.isnan(row.reference_similarity)
        assert row.nearest_reference == -1
    assert manifest.order == tuple(source)
    report = manifest.report
    assert report["samples kept"] == 54
    assert report["samples left out"] == {"outlier": 18}
    assert report["source purity"] == 0.75
    assert report["unverified"] == []


def test_each_identity_is_cleaned_as_by_the_function():
    source = _source(wrong=4, seed=2)
    manifest = _builder(cleaners=[ClusterCleaner(0.7)], target_count=50).build(source)
    for who, given in source.items():
        kept = [k for k, row in enumerate(row for row in manifest.rows if row.identity == who) if row.kept]
        assert kept == largest_consistent_cluster(torch.stack(list(given.values())), 0.7).tolist()


def test_cleaners_are_combined_and_an_unsure_judge_is_noted():
    class Unsure:
        def outliers(self, images):
            from equipoise.generative import JudgeError

            raise JudgeError("no answer")

    cleaners = [ClusterCleaner(), JudgeCleaner(Unsure())]
    found = _builder(cleaners=cleaners).build(_source())
    assert found.report["unverified"] == [f"p{k}" for k in range(6)]
    assert found.report["samples kept"] == 54
    union = _builder(cleaners=cleaners, combine="union").build(_source())
    assert union.report["samples kept"] == 72
    judge = JudgeCleaner(NoisyOracleJudge(lambda sample: 0, flip=0.0))
    three = [*cleaners, JudgeCleaner(judge.judge, "another")]
    assert _builder(cleaners=three, combine="majority").build(_source()).report["samples kept"] == 72
    weighted = _builder(cleaners=three, combine="weighted", weights=(3, 1, 1), bound=3.0).build(_source())
    assert weighted.report["samples kept"] == 54
    assert _builder(cleaners=[]).build(_source()).rows[0].votes == {}


def test_near_copies_go_first_and_the_most_central_stay():
    source = _source(people=2, wrong=0)
    source["p0"]["again"] = 3 * source["p0"]["p0-4"]
    manifest = _builder(copy_threshold=0.999, target_count=5, cleaners=[]).build(source)
    (copy,) = [row for row in manifest.rows if row.verdict == "near copy"]
    assert (copy.sample, copy.reason, copy.votes) == ("again", "near copy of p0-4", {})
    for who in ("p0", "p1"):
        rows = torch.stack([source[who][f"{who}-{k}"] for k in range(12)])
        unit = normalize(rows, dim=1)
        near = unit @ normalize(unit.mean(0), dim=0)
        wanted = sorted(near.argsort(descending=True)[:5].tolist())
        kept = [row for row in manifest.rows if row.identity == who and row.kept]
        assert [int(row.sample.split("-")[1]) for row in kept] == wanted
        # The centre is that of the samples kept.
        centre = normalize(unit[wanted].mean(0), dim=0)
        assert [row.centroid_similarity for row in kept] == pytest.approx((unit[wanted] @ centre).tolist())
    assert manifest.report["samples left out"] == {"surplus": 14, "near copy": 1}


def test_augmented_samples_fill_up_from_what_is_kept():
    source = _source()
    manifest = _builder(augmenter=_augment, target_count=15).build(source)
    values = {name: sample for given in source.values() for name, sample in given.items()}
    kept = {row.sample for row in manifest.rows if row.source == "real" and row.kept}
    made = [row for row in manifest.rows if row.source == "augmented"]
    assert manifest.report["samples by source"] == {"real": 54, "augmented": 36}
    assert {row.origin for row in made} <= kept
    assert len({row.origin for row in made}) > 12
    for row in made:
        assert manifest.samples[row.sample].equal(_augment(values[row.origin], row.seed))
        assert row.identity == row.origin.split("-")[0]
        assert row.centroid_similarity > 0.8
    assert len({row.sample for row in manifest.rows}) == len(manifest.rows)


def test_small_identities_are_replaced_by_as_many_synthetic_ones():
    source = _source()
    source["few"] = {"few-0": torch.ones(DIM), "few-1": torch.ones(DIM)}
    manifest = _builder(**MAKING, separation_threshold=0.6, identity_threshold=0.9).build(source)
    assert manifest.order == ("synthetic-0", *(f"p{k}" for k in range(6)))
    assert [row.verdict for row in manifest.rows if row.identity == "few"] == ["identity too small"] * 2
    made = [row for row in manifest.rows if row.source == "synthetic"]
    assert made[0].sample == "synthetic-0/0"
    assert 4 <= len(made) <= 12
    unit = normalize(torch.stack([manifest.samples[row.sample] for row in made]), dim=1)
    near = unit @ unit[0]
    assert near.min() >= 0.9
    assert [row.centroid_similarity for row in made] == pytest.approx(near.clamp(max=1).tolist())
    assert made[0].origin.startswith("a person, ")
    assert manifest.samples["synthetic-0/0"].equal(_new("", made[0].seed))
    last = _builder(**MAKING, synthetic_first=False).build(source)
    assert last.order[-1] == "synthetic-0"
    more = _builder(**MAKING).build(source, num_synthetic=3)
    assert [name for name in more.order if name.startswith("synthetic")] == [f"synthetic-{k}" for k in range(3)]
    none = _builder(**MAKING).build(source, num_synthetic=0)
    assert none.order == tuple(f"p{k}" for k in range(6))


@pytest.mark.parametrize("against", ["samples", "centres", "both"])
def test_nothing_that_is_kept_is_near_to_the_reference(against):
    source = _source(people=8)
    people = _centres(8)
    reference = torch.stack([_around(people[who], 9000 + k, 0.7) for who in (1, 4) for k in range(6)])
    identity = torch.tensor([0] * 6 + [1] * 6)
    taken = []

    def copying(prompt, seed):
        return _around(people[1], seed, 0.1) if seed % 2 else _new(prompt, seed)

    manifest = _builder(
        **{**MAKING, "seed_generator": copying},
        target_count=15,
        reference=reference,
        reference_identity=identity,
        leakage="required",
        leakage_threshold=0.6,
        leakage_against=against,
    ).build(source, num_synthetic=6, sink=lambda row, sample: taken.append((row, sample)))
    values = {name: sample for given in source.values() for name, sample in given.items()}
    values.update({row.sample: sample for row, sample in taken})
    unit = normalize(reference, dim=1)
    centres = normalize(torch.stack([unit[:6].mean(0), unit[6:].mean(0)]), dim=1)
    rows = {"samples": unit, "centres": centres, "both": torch.cat([unit, centres])}[against]
    number = {"samples": list(range(12)), "centres": [0, 6], "both": [*range(12), 0, 6]}[against]
    for row in manifest.rows:
        near = rows @ normalize(values[row.sample], dim=0) if row.sample in values else None
        if near is not None:
            assert row.reference_similarity == pytest.approx(float(near.max()))
            assert row.nearest_reference == number[int(near.argmax())]
        assert row.reference_similarity < 0.6 or not row.kept
    assert not {"p1", "p4"} & set(manifest.order)
    assert manifest.rejects.get("leaked", 0) > 0
    assert not manifest.samples
    assert all(row.kept for row, _ in taken)
    histogram = manifest.privacy(20)
    assert int(histogram.counts.sum()) == manifest.report["samples kept"]
    assert histogram.counts[histogram.edges[:-1] >= 0.6].sum() == 0


def test_the_source_may_be_left_alone_by_the_reference():
    source = _source()
    reference = torch.stack(list(source["p1"].values()))
    free = _builder(reference=reference, check_source=False).build(source)
    assert free.order == tuple(source)
    assert max(row.reference_similarity for row in free.rows) == pytest.approx(1.0)
    assert "p1" not in _builder(reference=reference).build(source).order


def test_an_identity_whose_centre_leaks_goes_as_a_whole():
    # No sample reaches the threshold, their mean does.
    angle = torch.eye(DIM, dtype=torch.float64)
    samples = {f"a{k}": angle[0] + angle[k + 1] for k in range(6)}
    manifest = _builder(cleaners=[], reference=angle[:1], leakage_threshold=0.8).build({"a": samples})
    assert {row.verdict for row in manifest.rows} == {"identity leaked"}
    assert manifest.rows[0].reason.startswith("centre with cosine 0.926 to reference 0")
    assert manifest.order == ()


def test_threads_change_nothing_and_all_samples_come_from_one():
    source = _source(people=150, samples=8, wrong=2)
    found, threads = [], set()
    for jobs in (1, 4):
        taken = []

        def take(row, sample, taken=taken):
            taken.append(row.sample)
            threads.add(threading.get_ident())

        builder = _builder(**MAKING, n_jobs=jobs, separation_threshold=0.9)
        found.append((builder.build(source, num_synthetic=2, sink=take), taken))
    assert [_comparable(each) for each, _ in found[:1]] == [_comparable(each) for each, _ in found[1:]]
    assert found[0][1] == found[1][1]
    assert threads == {threading.get_ident()}


def _comparable(manifest):
    return [
        tuple("nan" if value != value else round(value, 9) if isinstance(value, float) else value for value in each)
        for each in (vars(row).values() for row in manifest.rows)
    ]


def test_a_dry_run_makes_nothing_and_counts():
    def never(*_):
        raise AssertionError("made")

    source = _source()
    source["few"] = {"few-0": torch.ones(DIM)}
    builder = _builder(augmenter=never, seed_generator=never, expander=never, target_count=15)
    manifest = builder.build(source, dry_run=True)
    assert manifest.needed == {"augmented samples": 36, "synthetic identities": 1}
    assert manifest.order == tuple(f"p{k}" for k in range(6))
    assert manifest.report["samples kept"] == 54


def test_a_stopped_build_goes_on(tmp_path):
    source = _source(people=80, samples=8, wrong=2)
    whole = _builder(**MAKING, separation_threshold=0.9).build(source, num_synthetic=3)
    embedded, taken = [], {}

    def embed(samples):
        embedded.append(len(samples))
        return _embed(samples)

    class Stopped(Exception):  # noqa: N818
        pass

    def until(count):
        def take(row, sample):
            if len(taken) >= count:
                raise Stopped
            taken[row.sample] = sample

        return take

    def build(count):
        builder = IdentityDatasetBuilder(embed, min_count=4, target_count=12, **MAKING, separation_threshold=0.9)
        return builder.build(source, num_synthetic=3, sink=until(count), progress=tmp_path / "progress.jsonl")

    for count in (200, 330, 500):
        with pytest.raises(Stopped):
            build(count)
        with (tmp_path / "progress.jsonl").open("a") as file:
            file.write('{"identity": "cut o')
    before = sum(embedded)
    manifest = build(10**6)
    assert sum(embedded) - before < 200
    assert _comparable(manifest) == _comparable(whole)
    assert manifest.order == whole.order
    assert {name: sample.tolist() for name, sample in taken.items()} == {
        name: sample.tolist() for name, sample in whole.samples.items()
    }
    with pytest.raises(ValueError, match="is of another source or other settings"):
        _builder(**MAKING).build(source, sink=until(1), progress=tmp_path / "progress.jsonl")


def test_the_manifest_is_written_and_read(tmp_path):
    source = _source()
    manifest = _builder(**MAKING, reference=_centres(3, 77)).build(source, num_synthetic=1)
    manifest.write_json(tmp_path / "m.json")
    again = Manifest.read_json(tmp_path / "m.json")
    assert _comparable(again) == _comparable(manifest)
    assert (again.order, again.rejects, again.report) == (manifest.order, manifest.rejects, manifest.report)
    assert json.loads((tmp_path / "m.json").read_text())["report"]["samples kept"] == again.report["samples kept"]
    manifest.write_csv(tmp_path / "m.csv")
    with (tmp_path / "m.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["sample"] for line in lines] == [row.sample for row in manifest.rows]
    assert lines[0]["votes"] == "cluster-"
    assert lines[0]["verdict"] == "outlier"
    assert [pair[0] for pair in manifest.image_list()] == [row.sample for row in manifest.kept_rows()]
    assert [number for _, number in manifest.image_list()] == sorted(number for _, number in manifest.image_list())
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no manifest"):
        Manifest.read_json(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="no reference similarities"):
        Manifest((ManifestRow("a", "b"),), ("b",)).privacy()


def test_no_acceptable_identity_is_an_error_with_counts():
    calls = []

    def nobody(prompt, seed):
        calls.append(seed)
        return None if len(calls) % 2 else torch.ones(DIM, dtype=torch.float64)

    source = {**_source(people=2), "few": {"x": torch.ones(DIM)}}
    builder = _builder(seed_generator=nobody, expander=_more, reference=torch.ones(1, DIM), max_tries=6)
    with pytest.raises(RuntimeError, match=r"after 6 tries for synthetic-0 \(leaked: 3, no subject: 3\)"):
        builder.build(source)
    assert len(set(calls)) == 6
    far = _builder(seed_generator=_new, expander=lambda e, seed: _centres(1, seed)[0], max_tries=2)
    with pytest.raises(RuntimeError, match="too few samples of the same identity: 2"):
        far.build(source)
    near = _builder(seed_generator=lambda p, s: source["p0"]["p0-5"], expander=_more, max_tries=2)
    with pytest.raises(RuntimeError, match="too near to another identity: 2"):
        near.build(source)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"leakage": "required"}, "reference is missing, and leakage='required'"),
        ({"leakage_against": "samples"}, "reference is missing, but"),
        ({"reference": torch.ones(2, DIM), "leakage_against": "both"}, "needs reference_identity"),
        ({"reference": torch.ones(2)}, "reference must have shape"),
        ({"target_count": 0}, "target_count=0"),
        ({"min_count": 60}, "min_count=60 is above target_count=12"),
        ({"seed_generator": _new}, "seed_generator and expander belong together"),
        ({"cleaners": [ClusterCleaner(), ClusterCleaner()]}, "cleaners hold 'cluster' twice"),
        ({"combine": "majority"}, "mode='majority' needs at least 3"),
        ({"combine": "weighted"}, "weights"),
        ({"leakage_threshold": 1.0}, "leakage_threshold=1.0"),
        ({"n_jobs": 0}, "n_jobs=0"),
        ({"max_tries": 0}, "max_tries=0"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        _builder(**settings)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ({}, {}, "source is empty"),
        ([], {}, "source must be a mapping"),
        ({"a": {}}, {}, "source identity 'a' has no sample"),
        ({"a": [("x", torch.ones(2)), ("x", torch.ones(2))]}, {}, "source samples hold 'x' twice"),
        ({"a": {"x": torch.ones(2)}, "b": {"x": torch.ones(2)}}, {}, "source samples hold 'x' twice"),
        ({"a": {"x": torch.zeros(2)}}, {}, "row 0 of embeddings has norm zero"),
        ({"a": {"x": torch.tensor([1.0, torch.nan])}}, {}, "embeddings holds 1 NaN"),
        ({"a": {"x": torch.ones(2).long()}}, {}, "embedder must give floating embeddings"),
        ({"a": {"x": torch.ones(2, 2)}}, {}, "embedder must give floating embeddings"),
        ({"a": {"x": torch.ones(2)}}, {"num_synthetic": 2}, "num_synthetic=2 needs seed_generator"),
    ],
)
def test_bad_sources_are_refused(source, options, words):
    with pytest.raises(ValueError, match=words):
        _builder().build(source, **options)


@pytest.mark.usefixtures("plain_inputs")
def test_what_does_not_go_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match="progress needs a sink"):
        _builder(augmenter=_augment).build(_source(), progress=tmp_path / "p")
    with pytest.raises(ValueError, match="source holds an identity 'synthetic-0'"):
        _builder(**MAKING).build({**_source(), "synthetic-0": {"z": torch.ones(DIM)}}, num_synthetic=1)
    with pytest.raises(ValueError, match="reference must have d = 16 columns"):
        _builder(reference=torch.ones(2, 3)).build(_source())


def test_a_centre_is_told_by_the_first_row_of_its_identity():
    reference, identity = torch.eye(4)[[0, 1, 2, 3]], torch.tensor([7, 3, 3, 7])
    found = ProtectedSet(reference, identity, 0.5, "centres").check(torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 1.0]]))
    assert found.nearest.tolist() == [1, 0]
    assert found.max_similarity.tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("name", ["a\u2028b", "a\u0085b", "ä"])
def test_a_stopped_build_goes_on_whatever_its_identities_are_called(tmp_path, name):
    path = tmp_path / "progress"
    source = {f"{name}{who}": samples for who, samples in _source(3).items()}
    whole = _builder().build(source, progress=path)
    written = path.read_bytes()
    # Cut within the last identity, and within a letter of its name.
    for cut in (len(written), len(written) - 5, written.rindex(b'"identity": "a') + 15 if name[0] == "a" else -7):
        path.write_bytes(written[:cut])
        again = _builder().build(source, progress=path)
        assert _comparable(again) == _comparable(whole)
        assert path.read_bytes() == written


def test_a_build_that_stopped_at_its_first_line_goes_on(tmp_path):
    path = tmp_path / "progress"
    _builder().build(_source(2), progress=path)
    written = path.read_bytes()
    for cut in (0, 7, written.index(b"\n")):
        path.write_bytes(written[:cut])
        _builder().build(_source(2), progress=path)
        assert path.read_bytes() == written
    for other in (b"notes of mine", written.splitlines(keepends=True)[0] + b'{"rows": 3}\n'):
        path.write_bytes(other)
        with pytest.raises(ValueError, match="name a new file"):
            _builder().build(_source(2), progress=path)
        assert path.read_bytes() == other


@pytest.mark.usefixtures("plain_inputs")
def test_identities_that_read_the_same_are_refused():
    with pytest.raises(ValueError, match="two identities that read '1'"):
        _builder().build({1: {"a": torch.ones(2)}, "1": {"b": torch.ones(2)}})


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("number", [1.5, -1, True, "2"])
def test_synthetic_identities_are_a_whole_number(number):
    with pytest.raises(ValueError, match="num_synthetic"):
        _builder(**MAKING).build(_source(), num_synthetic=number)


def test_a_stopped_build_still_knows_what_it_rejected(tmp_path):
    def seldom(prompt, seed):
        return _new(prompt, seed) if seed % 3 == 0 else None

    def builder():
        return _builder(**{**MAKING, "seed_generator": seldom}, separation_threshold=0.9, seed=1)

    def until(row, sample):
        if row.identity == "synthetic-2":
            raise KeyboardInterrupt

    whole = builder().build(_source(2), num_synthetic=3)
    with pytest.raises(KeyboardInterrupt):
        builder().build(_source(2), num_synthetic=3, sink=until, progress=tmp_path / "progress")
    again = builder().build(_source(2), num_synthetic=3, sink=lambda *_: None, progress=tmp_path / "progress")
    assert again.rejects == whole.rejects
    assert whole.rejects["no subject"] > 3
