"""From comparisons to rankings: what is written is what the room finds, and what is wrong is one sentence."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from equipoise.cli.main import main
from equipoise.crowd import ConsensusRanker, SplitLBIRanker, hodge_rank
from equipoise.data import Comparisons, read_comparisons, simulate_partial_rankings
from equipoise.workflows import InputError, RankRequest, rank_items
from equipoise.workflows.rank import evidence
from equipoise.workflows.rank.consensus import METHODS, kendall, others_scores

CROWD = Path(os.environ.get("EQUIPOISE_DATA", "absent")) / "crowd"


def _rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _request(tmp_path, **changes):
    settings = {"num_times": 6, "time_ratio": 4.0, "resamples": 40, "folds": 3, "output": tmp_path / "out"}
    return RankRequest(**{**settings, **changes})


def _written(path, said, names=None):
    items = names or [f"item {k}" for k in range(said.num_items)]
    columns = {
        "worker": [f"w{k}" for k in said.annotator.tolist()],
        "left": [items[k] for k in said.left.tolist()],
        "right": [items[k] for k in said.right.tolist()],
        "label": said.label.tolist(),
    }
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Ten people about eight items; one says the opposite of what they see, one always takes the left one."""
    world = simulate_partial_rankings(
        10, 8, comparisons_per_user=(60, 80), spread=2.0, abnormal_share=0.0, threshold=0.5, seed=3
    )
    said = world.comparisons
    said.label[said.annotator == 8] *= -1
    said.label[said.annotator == 9] = 1
    return _written(tmp_path_factory.mktemp("crowd") / "answers.csv", said), world


@pytest.fixture(scope="module")
def ranked(crowd, tmp_path_factory):
    told, notices, read = [], [], []
    request = _request(tmp_path_factory.mktemp("ranked"), num_times=10, time_ratio=20.0)
    outcome = rank_items(
        crowd[0], request, command="equipoise x", notice=notices.append, progress=told.append, understood=read.append
    )
    return outcome, told, notices, read


def test_the_consensus_is_that_of_the_room(ranked, crowd):
    outcome, _, _, read = ranked
    said = read_comparisons(crowd[0]).comparisons
    rows = _rows(outcome.folder / "consensus.csv")
    ranker = ConsensusRanker("bradley_terry", ridge=0.1).fit(said)
    assert [row["item"] for row in rows] == ranker.ordered()
    found = ranker.intervals(resamples=40, over="annotators", seed=0)
    number = {name: k for k, name in enumerate(said.item_names)}
    for row in rows:
        k = number[row["item"]]
        assert float(row["score"]) == pytest.approx(float(ranker.scores_[k]), rel=1e-5)
        assert float(row["standard_error"]) == pytest.approx(float(found.standard_error[k]), rel=1e-4)
        assert (int(row["rank_low"]), int(row["rank_high"])) == (int(found.rank_low[k]), int(found.rank_high[k]))
        assert k in found.groups[int(row["group"]) - 1]
        mine = (said.left == k) & (said.label == 1) | (said.right == k) & (said.label == -1)
        assert float(row["wins"]) == int(mine.sum())
        assert float(row["hodge"]) != 0
    assert sum(float(row["wins"]) - float(row["losses"]) for row in rows) == 0
    # The true order, but for items that are close.
    score = crowd[1].common_score[[int(row["item"].split()[1]) for row in rows]]
    assert float(kendall(score, -torch.arange(8.0), torch.zeros(8))) > 0.7
    whole = hodge_rank(said.left, said.right, said.label.double())
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    assert summary["inconsistency"] == pytest.approx(whole.inconsistency)
    assert set(summary["methods"]) == set(METHODS)
    assert any("column 'worker'" in words for words in read)
    assert all(0.5 < one["held_out_accuracy"] < 1 for one in summary["methods"].values())


def test_own_rankings_are_those_of_the_saved_path(ranked, crowd):
    outcome, told, _, _ = ranked
    kept = SplitLBIRanker.load(outcome.folder / "model" / "path")
    said = read_comparisons(crowd[0]).comparisons
    rows = _rows(outcome.folder / "individual.csv")
    assert len(rows) == 80
    names, items = said.annotator_names, said.item_names
    for person in (0, 8):
        buckets = {}
        for row in rows:
            if row["annotator"] == names[person]:
                buckets.setdefault(int(row["bucket"]), []).append(row["item"])
                k = items.index(row["item"])
                asked = (said.annotator == person) & ((said.left == k) | (said.right == k))
                assert int(row["compared"]) == int(asked.any())
        assert [set(buckets[k]) for k in sorted(buckets)] == [set(bucket) for bucket in kept.rank(names[person])]
    assert any(words.startswith("fold 2 of 3: time ") for words in told)


def test_who_contradicts_and_who_takes_one_side_are_told_of_and_nobody_else(ranked):
    outcome, _, _, _ = ranked
    rows = {row["annotator"]: row for row in _rows(outcome.folder / "annotators.csv")}
    assert "agrees in" in rows["w8"]["reasons"]
    assert "always the left one" in rows["w9"]["reasons"]
    assert float(rows["w9"]["left"]) == 1
    assert float(rows["w8"]["agreement"]) < 0.3 < 0.6 < float(rows["w8"]["expected"])
    assert int(rows["w8"]["place"]) == 1
    honest = [name for name in rows if name not in ("w8", "w9")]
    assert not any("agrees" in rows[name]["reasons"] or "side" in rows[name]["reasons"] for name in honest)
    assert outcome.annotators[0].name in ("w8", "w9")


def test_the_path_has_a_row_per_time_and_the_page_what_was_found(ranked):
    outcome, _, notices, _ = ranked
    rows = _rows(outcome.folder / "path.csv")
    assert len(rows) == 10
    left = [int(row["left_consensus"]) for row in rows]
    assert left[0] <= left[-1]
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    dense = [float(row["dense_held_out_loss"]) for row in rows]
    # Of the likelihood the chosen time is that of the least loss.
    assert summary["path"]["chosen"]["dense"] == int(np.argmin(dense))
    assert (outcome.folder / "path.png").read_bytes().startswith(b"\x89PNG")
    page = (outcome.folder / "report.html").read_text(encoding="utf-8")
    for words in ("Methods side by side", "w8", "always the left one", "item 3", "equipoise x", "data:image/png"):
        assert words in page
    assert all(words in page for words in notices)


def test_the_consensus_of_others_leaves_the_own_answers_out(crowd):
    said = read_comparisons(crowd[0]).comparisons
    gap, known = others_scores(said, 0.1, said.num_annotators, seed=0)
    mine = said.annotator == 8
    ranker = ConsensusRanker("bradley_terry", ridge=0.1).fit(said.take((~mine).nonzero()[:, 0]))
    wanted = ranker.scores_[said.left[mine]] - ranker.scores_[said.right[mine]]
    assert torch.allclose(gap[mine], wanted)
    assert bool(known.all())


def test_tails_are_those_of_drawing(recwarn):
    chance = np.array([0.2, 0.7, 0.5, 0.9])
    mass = evidence._poisson_binomial(chance)
    by_hand = np.zeros(5)
    for bits in np.ndindex(2, 2, 2, 2):
        by_hand[sum(bits)] += np.prod([p if bit else 1 - p for p, bit in zip(chance, bits, strict=True)])
    np.testing.assert_allclose(mass, by_hand, atol=1e-15)
    from scipy.stats import false_discovery_control

    p = [0.001, 0.3, 0.012, 0.04, 0.9]
    assert evidence.false_discoveries([*p, np.nan]) == [*(false_discovery_control(p) <= 0.05).tolist(), False]
    assert evidence.false_discoveries([0.5, 0.9]) == [False, False]
    assert evidence.false_discoveries([]) == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_come_first(crowd, tmp_path, method):
    outcome = rank_items(
        crowd[0], _request(tmp_path, method=method.replace("-", "_"), num_times=2, resamples=5, folds=2)
    )
    assert outcome.report.method == method
    assert len(_rows(outcome.folder / "consensus.csv")) == 8
    assert outcome.report.agreement[method] == pytest.approx(1)


def test_three_items_of_one_nameless_annotator(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("a,b,winner\nx,y,x\ny,z,y\nx,z,x\n", encoding="utf-8")
    main(["rank", "x.csv"])
    said = capsys.readouterr()
    assert "labels name the winner; 0 ties" in said.out
    assert "no column of annotators" in said.out
    notices = said.err.replace("\n", " ")
    for words in ("there is one annotator", "x never lost to the rest", "z never won against"):
        assert words in notices
    folder = tmp_path / "equipoise-rank"
    assert [row["item"] for row in _rows(folder / "consensus.csv")] == ["x", "y", "z"]
    assert [row["separated"] for row in _rows(folder / "consensus.csv")] == ["never lost", "", "never won"]
    assert {(row["item"], row["bucket"]) for row in _rows(folder / "individual.csv")} == {
        ("x", "1"),
        ("y", "2"),
        ("z", "3"),
    }
    assert _rows(folder / "path.csv") == []
    assert not (folder / "path.png").exists()


def test_nothing_but_ties(tmp_path):
    (tmp_path / "x.csv").write_text("left,right,label\nx,y,tie\ny,z,tie\nx,z,same\n", encoding="utf-8")
    notices = []
    outcome = rank_items(tmp_path / "x.csv", _request(tmp_path), notice=notices.append)
    assert any("all answers are ties" in words for words in notices)
    assert [row["rank"] for row in _rows(outcome.folder / "consensus.csv")] == ["1", "1", "1"]
    assert outcome.report.inconsistency == 0


def test_items_that_were_never_compared_with_the_others_are_named(tmp_path):
    rows = [f"p{k % 3},{a},{b},1" for k in range(9) for a, b in (("a", "b"), ("b", "c"), ("c", "a"), ("y", "z"))]
    (tmp_path / "x.csv").write_text("user,left,right,label\n" + "\n".join(rows), encoding="utf-8")
    notices = []
    outcome = rank_items(tmp_path / "x.csv", _request(tmp_path), notice=notices.append)
    (said,) = [words for words in notices if "2 components" in words]
    assert "beside the largest: y, z" in said
    assert any(words.startswith("y never lost") for words in notices)
    rows = _rows(outcome.folder / "consensus.csv")
    assert [(row["item"], row["component"], row["rank"]) for row in rows if row["component"] == "2"] == [
        ("y", "2", "1"),
        ("z", "2", "2"),
    ]
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    assert [set(names) for names in summary["components"]] == [{"a", "b", "c"}, {"y", "z"}]
    assert summary["never_lost"] == [["y"]]


def test_an_interrupted_run_goes_on_where_it_was_and_a_longer_path_goes_on(crowd, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(words):
        if words.startswith("fold 2 "):
            raise StoppedError

    request = _request(tmp_path, checkpoints=tmp_path / "states")
    with pytest.raises(StoppedError):
        rank_items(crowd[0], request, progress=stop)
    assert not request.output.exists()
    seen = []
    resumed = rank_items(crowd[0], request, progress=seen.append)
    assert not any(words.startswith(("the path", "fold 1 ")) for words in seen)
    assert any(words.startswith("fold 2 ") for words in seen)
    whole = rank_items(crowd[0], _request(tmp_path, output=tmp_path / "b"))
    for name in ("consensus.csv", "individual.csv", "annotators.csv", "path.csv"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    seen = []
    longer = rank_items(
        crowd[0],
        _request(tmp_path, checkpoints=tmp_path / "states", time_ratio=8.0, output=tmp_path / "c"),
        progress=seen.append,
    )
    rows, before = (_rows(folder / "path.csv") for folder in (longer.folder, whole.folder))
    assert len(rows) == 12
    assert [row["loss"] for row in rows[:6]] == [row["loss"] for row in before]
    for changes in ({"seed": 1}, {"num_times": 7}, {"time_ratio": 2.0}):
        with pytest.raises(InputError, match="name another folder"):
            rank_items(crowd[0], _request(tmp_path, checkpoints=tmp_path / "states", output=tmp_path / "d", **changes))


def test_names_that_a_spreadsheet_would_run_are_escaped_if_asked(tmp_path, crowd):
    said = crowd[1].comparisons
    names = ["=1+1", "-x", "[/b]", "<script>", "$x$", "_u", "南京", 'a "b", c']
    path = _written(tmp_path / "x.csv", said, names)
    outcome = rank_items(path, _request(tmp_path, num_times=2, resamples=3, folds=2))
    assert {row["item"] for row in _rows(outcome.folder / "consensus.csv")} == set(names)
    page = (outcome.folder / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    again = rank_items(
        path, _request(tmp_path, num_times=2, resamples=3, folds=2, escape_formulas=True, overwrite=True)
    )
    for name in ("consensus.csv", "individual.csv"):
        found = {row["item"] for row in _rows(again.folder / name)}
        assert {"'=1+1", "'-x", "[/b]"} <= found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "borda"}, "method='borda' is not known; choose one of 'bradley-terry'"),
        ({"metric": "auc"}, "metric='auc'"),
        ({"zero": "left"}, "zero='left'"),
        ({"ridge": -1.0}, "ridge=-1.0 must be"),
        ({"ridge": float("nan")}, "ridge=nan"),
        ({"resamples": 1}, "resamples=1 must be at least 2"),
        ({"folds": 1}, "folds=1 must be at least 2"),
        ({"num_times": 1}, "num_times=1"),
        ({"time_ratio": 1.0}, "time_ratio=1.0 must be greater than 1"),
        ({"confidence": 1.0}, "confidence"),
        ({"seed": -1}, "seed=-1"),
        ({"annotator": "who"}, "annotator column 'who' is not in"),
        ({"left": "worker"}, "cannot be two of"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(crowd, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        rank_items(crowd[0], _request(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("left,right,label\na,b,1\nb,c,maybe\n", "line 3 of"),
        ("left,right,label\na,b,1\nb,b,1\n", "line 3 of"),
        ("left,right,label\na,b,1\nb,a,0\n", "--zero tie or --zero right"),
        ("left,right\na,b\n", "plainly the label"),
        ("", "is empty"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(tmp_path, capsys, text, words):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        main(["rank", str(tmp_path / "x.csv"), "--output", str(tmp_path / "out")])
    assert left.value.code == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert said.startswith("equipoise: ")
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_more_folds_than_answers_are_refused(crowd, tmp_path):
    with pytest.raises(
        InputError, match=r"folds=9999 are too many for \d+ answers: 9,\d+ of them would hold no answer"
    ):
        rank_items(crowd[0], _request(tmp_path, folds=9999))
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_not_ours_is_left(crowd, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep", encoding="utf-8")
    started = []
    for overwrite in (False, True):
        with pytest.raises(InputError, match="overwrite"):
            rank_items(crowd[0], _request(tmp_path, overwrite=overwrite), progress=started.append)
    assert started == []
    with pytest.raises(InputError, match="lie in the output folder"):
        rank_items(crowd[0], _request(tmp_path, output=tmp_path / "new", checkpoints=tmp_path / "new" / "states"))


def test_weights_are_answers_given_that_often(tmp_path):
    generator = np.random.default_rng(0)
    left = generator.integers(5, size=120)
    right = (left + generator.integers(1, 5, size=120)) % 5
    label = np.where(generator.random(120) < 0.75, np.sign(right - left), np.sign(left - right))
    times = generator.integers(1, 4, size=120)
    who = np.arange(120) % 6
    frame = pd.DataFrame({"user": who, "left": left, "right": right, "label": label, "weight": times})
    frame.assign(left=frame.left + 10, right=frame.right + 10).to_csv(tmp_path / "w.csv", index=False)
    frame.loc[frame.index.repeat(times)].drop(columns="weight").assign(
        left=lambda f: f.left + 10, right=lambda f: f.right + 10
    ).to_csv(tmp_path / "r.csv", index=False)
    one, other = (
        rank_items(tmp_path / f"{name}.csv", _request(tmp_path, output=tmp_path / name, num_times=2, resamples=3))
        for name in "wr"
    )
    for name in ("bradley-terry", "hodge", "thurstone"):
        scores = [found.consensus.rankers[name].scores_ for found in (one, other)]
        assert torch.allclose(*scores, atol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(not CROWD.is_dir(), reason="EQUIPOISE_DATA names no folder with crowd/age_hodge.csv")
def test_real_answers_about_age(tmp_path):
    outcome = rank_items(CROWD / "age_hodge.csv", RankRequest(output=tmp_path / "out", resamples=50))
    assert len(_rows(outcome.folder / "consensus.csv")) == 30
    # Some of the crowd took the left picture whatever it showed.
    assert any("always the left one" in reason for one in outcome.annotators for reason in one.reasons)
    assert 0 < outcome.report.inconsistency < 1


def test_comparisons_of_the_same_annotators_without_answers_are_no_annotators(tmp_path):
    said = Comparisons.from_columns([0, 0, 2, 2], [0, 1, 0, 1], [1, 2, 1, 2], [1, 1, 1, -1], num_annotators=4)
    gap, known = others_scores(said, 0.1, 20, seed=0)
    assert gap.shape == known.shape == (4,)
