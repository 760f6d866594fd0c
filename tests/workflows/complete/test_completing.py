"""From triples to novel triples: what is written, that it is new, resumes, and says what is wrong."""

import csv
import json

import pytest
import torch

from equipoise.cli.main import main
from equipoise.core.curves.intervals import Interval
from equipoise.data import KGDataset, make_family_graph, read_triples
from equipoise.knowledge import CompleterSettings, KnowledgeGraphCompleter, LinkReport
from equipoise.workflows import CompleteRequest, InputError, complete_graph
from equipoise.workflows.complete import completing, judging, parts, writing
from equipoise.workflows.complete.frequency import FrequentAnswers

FAMILY = make_family_graph()
PARTS = ("train", "validation", "test")


def _rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _write_parts(folder, graph, names=("train", "valid", "test")):
    folder.mkdir(exist_ok=True)
    for part, name in zip(PARTS, names, strict=True):
        lines = ("\t".join(row) for row in graph.words(getattr(graph, part)))
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return _write_parts(tmp_path_factory.mktemp("graph") / "family", FAMILY)


def _request(tmp_path, **changes):
    settings = {"models": ["complex"], "epochs": 5, "dim": 8, "k": 3, "batch_size": 256, "output": tmp_path / "out"}
    return CompleteRequest(**{**settings, **changes})


@pytest.fixture(scope="module")
def two(family, tmp_path_factory):
    """A run of two models, with what it told."""
    told, notices = [], []
    request = _request(tmp_path_factory.mktemp("two"), models=["complex", "gie"])
    outcome = complete_graph(family, request, command="equipoise x", notice=notices.append, progress=told.append)
    return outcome, told, notices


def test_novel_triples_are_new_ranked_and_those_of_the_kept_model(two):
    outcome, _, _ = two
    rows = _rows(outcome.folder / "novel_triples.csv")
    assert len(rows) == outcome.novel > 0
    known = {row for part in PARTS for row in FAMILY.words(getattr(FAMILY, part))}
    assert not any((row["head"], row["relation"], row["tail"]) in known for row in rows)
    assert not any(row["head"] == row["tail"] for row in rows)
    kept = KnowledgeGraphCompleter.load(outcome.folder / "model")
    number = {name: k for k, name in enumerate(kept.graph.entity_names)}
    relation = {name: k for k, name in enumerate(kept.graph.relation_names)}
    asked = {}
    for row in rows:
        asked.setdefault((row["head"], row["relation"]), []).append(row)
    whole = {(h, r) for part in PARTS for h, r, _ in FAMILY.words(getattr(FAMILY, part))}
    assert set(asked) == whole
    for (head, kind), answers in list(asked.items())[::17]:
        assert [int(row["rank"]) for row in answers] == [1, 2, 3]
        h, r = torch.tensor([number[head]]), torch.tensor([relation[kind]])
        best = kept.predict_tails(h, r, 4)
        pairs = [
            (kept.graph.entity_names[t], score)
            for t, score in zip(best.entities[0].tolist(), best.scores[0].tolist(), strict=True)
            if t != number[head]
        ]
        assert [row["tail"] for row in answers] == [name for name, _ in pairs[:3]]
        assert [float(row["score"]) for row in answers] == pytest.approx([score for _, score in pairs[:3]], rel=1e-4)


def test_the_examples_are_the_first_answers_with_the_highest_scores(two):
    outcome, _, _ = two
    rows = [row for row in _rows(outcome.folder / "novel_triples.csv") if row["rank"] == "1"]
    assert next(iter(outcome.report.examples)) == "ancestor of"
    for relation, shown in outcome.report.examples.items():
        scores = sorted((float(row["score"]) for row in rows if row["relation"] == relation), reverse=True)[:3]
        assert [one.score for one in shown] == pytest.approx(scores, rel=1e-4)
        pairs = {(row["head"], row["tail"]) for row in rows if row["relation"] == relation}
        assert {(one.head, one.tail) for one in shown} <= pairs


def test_the_winner_of_the_validation_part_is_refitted_on_everything(two):
    outcome, told, notices = two
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    models = summary["models"]
    assert set(models) == {"complex", "gie", "frequency"}
    assert outcome.chosen == max(("complex", "gie"), key=lambda name: models[name]["validation"])
    kept = KnowledgeGraphCompleter.load(outcome.folder / "model")
    assert kept.settings.model == outcome.chosen
    assert kept.settings.epochs == models[outcome.chosen]["epochs"] == 5
    assert len(kept.graph.train) == sum(len(getattr(FAMILY, part)) for part in PARTS)
    assert notices == []
    assert any(words.startswith("training gie: epoch 5 of 5, loss") for words in told)
    assert any(words.startswith("the model to keep: epoch") for words in told)


def test_the_numbers_are_those_of_the_room(two, family):
    outcome, _, _ = two
    found = json.loads((outcome.folder / "metrics.json").read_text())["models"][outcome.chosen]
    settings = CompleterSettings(**found["settings"])
    completer = KnowledgeGraphCompleter(settings).fit(read_triples(family))
    again = completer.evaluate()
    assert found["test"]["mrr"]["estimate"] == pytest.approx(again.metrics()["mrr"])
    assert found["test_by_direction"]["head"]["hits@3"] == pytest.approx(again.metrics("head")["hits@3"])
    kinds = again.by_relation_type("tail")
    assert {name: row["triples"] for name, row in found["test_by_relation_type"]["tail"].items()} == {
        name: row["triples"] for name, row in kinds.items()
    }
    assert found["validation"] == pytest.approx(completer.history.values[found["epochs"] - 1])


def test_a_row_per_relation_says_what_it_is_and_how_it_is_served(two):
    outcome, _, _ = two
    rows = {row["relation"]: row for row in _rows(outcome.folder / "relations.csv")}
    assert set(rows) == set(FAMILY.relation_names)
    assert rows["spouse of"]["type"] == "1-1"
    assert float(rows["spouse of"]["symmetry"]) == float(rows["sibling of"]["symmetry"]) == 1
    assert float(rows["ancestor of"]["hierarchy"]) == 1
    measured = json.loads((outcome.folder / "metrics.json").read_text())["relations"]
    for name, row in rows.items():
        assert int(row["triples"]) == sum(int(row[part]) for part in PARTS)
        if name in measured:
            both = measured[name]["both"]["mrr"]
            assert float(row["mrr"]) == pytest.approx(both, rel=1e-4)
            assert (float(row["mrr_tail"]) + float(row["mrr_head"])) / 2 == pytest.approx(both, rel=1e-4)
        shares = [float(row[f"attention_{space}"]) for space in ("euclidean", "hyperbolic", "spherical")]
        assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_the_page_has_the_names_the_command_and_the_pictures(two):
    outcome, _, _ = two
    page = (outcome.folder / "report.html").read_text(encoding="utf-8")
    for words in ("Who is served badly", "Curvature and hierarchy", "Attention of gie", "equipoise x", "parent of"):
        assert words in page
    example = next(iter(outcome.report.examples.values()))[0]
    assert example.tail in page
    assert {one.name: one.behind is None for one in outcome.report.judged}[outcome.chosen]
    assert all(0 <= end <= 1 for one in outcome.report.judged for end in (one.means["mrr"].low, one.means["mrr"].high))


def test_one_file_without_a_header_is_split_and_names_stay_as_written(tmp_path):
    names = ["Åsa, the elder", "=SUM(A1)", "01", "None", 'the "king"', "南京"]
    graph = KGDataset.from_triples(
        [[h, 0, t] for h in range(6) for t in range(6) if (h + t) % 2] + [[h, 1, (h + 1) % 6] for h in range(6)],
        entity_names=names,
        relation_names=["-knows", "next, to"],
    )
    rows = graph.words(graph.train)
    file = tmp_path / "graph.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    outcome = complete_graph(file, _request(tmp_path, epochs=2, k=2))
    found = _rows(outcome.folder / "novel_triples.csv")
    assert {row["relation"] for row in found} == {"-knows", "next, to"}
    assert {row["head"] for row in found} == set(names)
    assert "held out at random" in outcome.report.facts
    assert {tuple(row) for row in rows}.isdisjoint((row["head"], row["relation"], row["tail"]) for row in found)
    escaped = complete_graph(file, _request(tmp_path, epochs=2, k=2, escape_formulas=True, overwrite=True))
    rows = _rows(escaped.folder / "novel_triples.csv")
    assert {row["relation"] for row in rows} == {"'-knows", "next, to"}
    assert "'=SUM(A1)" in {row["head"] for row in rows} | {row["tail"] for row in rows}
    assert "'-knows" in {row["relation"] for row in _rows(escaped.folder / "relations.csv")}


def test_a_folder_of_openke_is_read_and_its_unused_relation_is_no_harm(tmp_path):
    folder = tmp_path / "openke"
    folder.mkdir()
    relations = [*FAMILY.relation_names, "never used"]
    for kind, names in (("entity", FAMILY.entity_names), ("relation", relations)):
        lines = [str(len(names)), *(f"{name}\t{k}" for k, name in enumerate(names))]
        (folder / f"{kind}2id.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for part, name in zip(PARTS, ("train", "valid", "test"), strict=True):
        rows = getattr(FAMILY, part).tolist()
        lines = [str(len(rows)), *(f"{h} {t} {r}" for h, r, t in rows)]
        (folder / f"{name}2id.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    outcome = complete_graph(folder, _request(tmp_path))
    rows = {row["relation"]: row for row in _rows(outcome.folder / "relations.csv")}
    assert rows["never used"]["triples"] == "0"
    assert rows["never used"]["mrr"] == rows["never used"]["type"] == ""
    assert len(_rows(outcome.folder / "novel_triples.csv")) == outcome.novel > 0


def test_a_kg_file_and_columns_of_other_names(tmp_path):
    rows = [row for part in PARTS for row in FAMILY.words(getattr(FAMILY, part))]
    lines = ["head_id:token\trelation_id:token\ttail_id:token", *("\t".join(row) for row in rows)]
    (tmp_path / "x.kg").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "x.link").write_text("item_id:token\tentity_id:token\n7\tnowhere\n", encoding="utf-8")
    outcome = complete_graph(tmp_path / "x.kg", _request(tmp_path, epochs=1))
    assert outcome.report.facts[0] == f"{FAMILY.num_entities + 1} entities"
    lines = ["of whom\twho\tsince\twhat", *(f"{t}\t{h}\t1\t{r}" for h, r, t in rows)]
    (tmp_path / "x.tsv").write_text("\n".join(lines), encoding="utf-8")
    named = {"head": "who", "relation": "what", "tail": "of whom"}
    again = complete_graph(tmp_path / "x.tsv", _request(tmp_path, epochs=1, overwrite=True, **named))
    assert again.report.facts[0] == f"{FAMILY.num_entities} entities"
    with pytest.raises(InputError, match="column 'whom' is not in"):
        complete_graph(tmp_path / "x.tsv", _request(tmp_path, output=tmp_path / "b", **{**named, "tail": "whom"}))


def test_entities_that_training_lacks_are_counted_and_said(tmp_path):
    folder = _write_parts(tmp_path / "graph", FAMILY)
    with (folder / "test.txt").open("a", encoding="utf-8") as stream:
        stream.write("Nobody\tparent of\tAlra Arden\nNobody\tfriend of\tNoone\n")
    notices = []
    outcome = complete_graph(folder, _request(tmp_path), notice=notices.append)
    (said,) = [words for words in notices if "not in the training part" in words]
    assert said.startswith(f"{2 + ('Alra Arden' not in FAMILY.entity_names)} of ")
    assert "1 of 5 relations" in said
    assert f"2 of {len(FAMILY.test) + 2} triples of the test part" in said
    assert said in outcome.report.notes
    assert (
        "Nobody" in (outcome.folder / "report.html").read_text()
        or said[:20] in (outcome.folder / "report.html").read_text()
    )
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    assert summary["graph"]["test_triples_with_unseen"] == 2
    model = summary["models"]["complex"]
    seen = model["test_of_what_training_has"]
    assert seen["mrr"] != model["test"]["mrr"]["estimate"]
    # The model that is kept has seen them.
    assert "Nobody" in {row["head"] for row in _rows(outcome.folder / "novel_triples.csv")}


@pytest.mark.parametrize(("names", "missing"), [(("train", "valid"), "test"), (("train", "test"), "validation")])
def test_a_part_that_does_not_come_is_held_out_of_training(tmp_path, names, missing):
    folder = _write_parts(tmp_path / "graph", FAMILY)
    for file in folder.iterdir():
        if file.stem not in names:
            file.unlink()
    notices = []
    outcome = complete_graph(folder, _request(tmp_path, epochs=1, test_size=0.2), notice=notices.append)
    assert notices == [f"there is no {missing} part; 20 % of the training part are held out for it"]
    sizes = json.loads((outcome.folder / "metrics.json").read_text())["graph"]
    assert sizes[missing] == pytest.approx(0.2 * len(FAMILY.train), abs=1)
    assert sizes["train"] + sizes[missing] == len(FAMILY.train)
    assert sizes[missing] > 0


def test_an_interrupted_run_goes_on_where_it_was(family, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(words):
        if words.startswith("the model to keep: epoch 3 "):
            raise StoppedError

    request = _request(tmp_path, checkpoints=tmp_path / "states")
    with pytest.raises(StoppedError):
        complete_graph(family, request, progress=stop)
    assert not request.output.exists()
    seen = []
    resumed = complete_graph(family, request, progress=seen.append)
    assert not any("training complex: epoch" in words for words in seen)
    assert not any("the model to keep: epoch 2 " in words for words in seen)
    whole = complete_graph(family, _request(tmp_path, output=tmp_path / "b"))
    assert resumed.report.judged[0].means == whole.report.judged[0].means
    written = [(folder / "novel_triples.csv").read_bytes() for folder in (resumed.folder, whole.folder)]
    assert written[0] == written[1]
    with pytest.raises(InputError, match="other data or settings"):
        complete_graph(family, _request(tmp_path, checkpoints=tmp_path / "states", seed=1, output=tmp_path / "c"))


def test_heads_and_relations_by_name(family, tmp_path):
    heads = [FAMILY.entity_names[3], FAMILY.entity_names[8], FAMILY.entity_names[3]]
    request = _request(tmp_path, heads=heads, relations=["sibling of"], k=200)
    outcome = complete_graph(family, request)
    rows = _rows(outcome.folder / "novel_triples.csv")
    assert {row["relation"] for row in rows} == {"sibling of"}
    assert [row["head"] for row in rows if row["rank"] == "1"] == heads[:2]
    known = {row for part in PARTS for row in FAMILY.words(getattr(FAMILY, part))}
    for head in heads[:2]:
        siblings = sum(1 for h, r, _ in known if (h, r) == (head, "sibling of"))
        assert sum(row["head"] == head for row in rows) == FAMILY.num_entities - 1 - siblings


def test_an_entity_may_answer_itself_where_the_graph_has_such_triples(tmp_path):
    class Shrug(KnowledgeGraphCompleter):
        graph = KGDataset.from_triples([[0, 0, 0], [0, 0, 1], [0, 1, 1]], num_entities=3)

        def novel_triples(self, k, *, heads, relations):
            yield torch.tensor([[1, 0, 1], [1, 0, 2], [1, 0, 0]])[:k], torch.tensor([3.0, 2.0, 1.0])[:k]
            yield torch.tensor([[2, 1, 2], [2, 1, 0], [2, 1, 1]])[:k], torch.tensor([3.0, 2.0, 1.0])[:k]
            yield torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0)

    path, told = tmp_path / "x.csv", []
    options = {"heads": None, "relations": None, "escape": False, "progress": told.append}
    number, best = writing.write_novel_triples(path, Shrug(), 2, **options)
    rows = [(row["head"], row["relation"], row["tail"], row["rank"]) for row in _rows(path)]
    assert rows == [("1", "0", "1", "1"), ("1", "0", "2", "2"), ("2", "1", "0", "1"), ("2", "1", "1", "2")]
    assert number == 4
    assert [(one.head, one.tail, one.score) for one in best["1"]] == [("2", "0", 2.0)]


@pytest.mark.parametrize("metric", judging.METRICS)
def test_every_metric_can_decide(family, tmp_path, metric):
    outcome = complete_graph(family, _request(tmp_path, models=["distmult"], epochs=1, metric=metric, k=1))
    assert outcome.report.metric == metric
    frequency = next(one for one in outcome.report.judged if one.name == "frequency")
    ours = outcome.report.judged[0].means[metric].estimate
    assert frequency.behind.estimate == pytest.approx(ours - frequency.means[metric].estimate)


def test_what_is_wrong_is_said_in_a_sentence(family, tmp_path):
    person = FAMILY.entity_names[5]
    for changes, words in (
        ({"models": ["best"]}, "model='best' is not known; choose one of 'atth'"),
        ({"models": []}, "at least one model"),
        ({"metric": "f1"}, "metric='f1'"),
        ({"k": 0}, "k=0 must be at least 1"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"weight": -1.0}, "weight"),
        ({"regularizer": "l1"}, "regularizer"),
        ({"seed": -1}, "seed"),
        ({"test_size": 0.5}, "test_size=0.5 must lie between 0 and 0.5"),
        ({"models": ["gie"], "weight": 0.1}, "no model has one; name it with --regularizer"),
        ({"heads": [person.upper()]}, f"there is no entity '{person.upper()}'; did you mean '{person}'"),
        ({"heads": []}, "name at least one of the heads"),
        ({"relations": ["spouse"]}, "there is no relation 'spouse'; did you mean 'spouse of'"),
        ({"relations": ["zzz"]}, "there is no relation 'zzz'; there are ancestor of, parent of"),
        ({"head": "who"}, "head column 'who' is not in"),
        ({"checkpoints": family / "train.txt"}, "train.txt"),
        ({"models": ["gie"], "dim": 3}, "gie: dim"),
    ):
        with pytest.raises(InputError, match=words):
            complete_graph(family, _request(tmp_path, **changes))
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a\tb\n", "line 1: has 2 fields, wanted 3"),
        ("a\tr\tb\na\tr\n", "line 2: has 2 fields"),
        ("a\t\tb\n", "line 1: field 2 is empty"),
        ("a\tr\tb\n", "part is empty; "),
        ("a\tr\tb\nb\tr\tc\n", "part is empty"),
    ],
)
def test_a_file_that_is_no_graph_is_one_sentence(tmp_path, capsys, text, words):
    (tmp_path / "g.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        main(["complete", str(tmp_path / "g.tsv"), "--output", str(tmp_path / "out")])
    assert left.value.code == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert said.startswith("equipoise: ")
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_a_missing_file_names_a_close_one(tmp_path, capsys):
    (tmp_path / "graph.tsv").write_text("a\tr\tb\n", encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        main(["complete", str(tmp_path / "grpah.tsv")])
    assert left.value.code == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_training_that_diverges_says_what_to_lower(family, tmp_path, monkeypatch):
    monkeypatch.setattr("equipoise.knowledge.KGTrainer.epoch", lambda self: float("inf"))
    with pytest.raises(
        InputError, match="complex: the loss of epoch 0 is inf; lower the learning rate with --learning"
    ):
        complete_graph(family, _request(tmp_path, learning_rate=9.0))


def test_the_command_prints_a_table_and_where_the_triples_are(family, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command = ["complete", str(family), "--model", "distmult", "-k", "1", "--epochs", "2", "--dim", "4"]
    main([*command, "--heads", FAMILY.entity_names[0], "--output", str(tmp_path / "new")])
    shown = capsys.readouterr().out
    assert "Hits@10" in shown
    assert "chosen: distmult. " in shown
    assert str(tmp_path / "new" / "novel_triples.csv") in shown.replace("\n", "")
    assert all((tmp_path / "new" / name).exists() for name in ("relations.csv", "metrics.json", "report.html", "model"))


def test_frequent_answers_are_counts():
    graph = KGDataset.from_triples([[0, 0, 2], [1, 0, 2], [1, 0, 3], [2, 1, 0]], num_entities=4, num_relations=3)
    model = FrequentAnswers(graph)
    found = model.score_t(torch.tensor([0, 3, 0, 1, 2]), torch.tensor([0, 3, 2, 0, 4]))
    assert found.tolist() == [[0, 0, 2, 1], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 2, 1], [0, 0, 1, 0]]


def test_a_regularizer_of_products_is_doubted_where_there_are_none(family, tmp_path):
    notices = []
    request = _request(tmp_path, models=["complex", "transe", "murp"], regularizer="dura", epochs=1, k=1)
    outcome = complete_graph(family, request, notice=notices.append)
    assert notices == ["dura acts on head times relation, which means nothing in murp; f2 or n3 fit it"]
    assert list(outcome.report.notes) == notices


def test_what_is_not_asked_for_is_as_in_the_room():
    for model, settings in completing._checked_settings(CompleteRequest()):
        assert settings == CompleterSettings.usual(model)
    ((_, short),) = completing._checked_settings(CompleteRequest(models=["cp", "cp"], epochs=3, weight=0.5, seed=7))
    assert short == CompleterSettings.usual("cp", epochs=3, validate_every=3, weight=0.5, seed=7)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with completing._threads(FAMILY):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_everything_holds_each_triple_once():
    graph = KGDataset.from_triples([[0, 0, 1], [1, 0, 2]], [[0, 0, 2]], [[2, 0, 1]])
    leaky = KGDataset(graph.train, graph.train[:1], graph.test, 3, 1)
    assert len(parts.everything(graph).train) == 4
    assert parts.everything(leaky).train.tolist() == [[0, 0, 1], [1, 0, 2], [2, 0, 1]]


def test_of_few_triples_there_is_no_interval(two):
    outcome, _, _ = two
    for row in outcome.report.relations:
        assert isinstance(row.both, Interval)
        if row.judged:
            assert 0 < row.both.estimate <= 1
            assert (row.both.low < row.both.high) == (row.judged >= 5)
    ranks = torch.tensor([[1, 1]] * 6)
    perfect = LinkReport(torch.zeros(6, 3).long(), ranks, ranks, ranks * 9, None, ("1-1",), (1, 3, 10), "realistic")
    (row,) = judging.type_rows(perfect, "mrr")
    assert row.tail.estimate == 1
    assert row.tail.low != row.tail.low
