"""The completer: what it learns, what it answers, and that it is the same after a stop, a save or in parts."""

import json

import pytest
import torch

from equipoise.data import KGDataset, make_family_graph
from equipoise.knowledge import CompleterSettings, KnowledgeGraphCompleter

GRAPH = make_family_graph()


def _settings(**changes):
    return CompleterSettings.usual("complex", **{"dim": 16, "epochs": 30, "batch_size": 256, **changes})


@pytest.fixture(scope="module")
def fitted():
    return KnowledgeGraphCompleter(_settings()).fit(GRAPH)


def test_it_learns(fitted):
    found = fitted.evaluate().metrics()
    chance = KnowledgeGraphCompleter(_settings(epochs=1, learning_rate=1e-6)).fit(GRAPH).evaluate().metrics()
    assert found["mrr"] > 0.5 > 3 * chance["mrr"]
    assert fitted.history.best_epoch in fitted.history.values


def test_answers_are_those_of_a_loop_over_entities(fitted):
    known = {tuple(row) for part in ("train", "validation", "test") for row in getattr(GRAPH, part).tolist()}
    for h, r in ((3, 0), (40, 3), (7, 1)):
        triples = torch.tensor([[h, r, t] for t in range(GRAPH.num_entities)])
        scores = fitted.score(triples)
        allowed = [t for t in range(GRAPH.num_entities) if (h, r, t) not in known]
        order = sorted(allowed, key=lambda t: (-float(scores[t]), t))[:5]
        answers = fitted.predict_tails(torch.tensor([h]), torch.tensor([r]), 5)
        torch.testing.assert_close(answers.scores[0], scores[answers.entities[0]])
        torch.testing.assert_close(scores[answers.entities[0]], scores[order])
        everything = fitted.predict_tails(torch.tensor([h]), torch.tensor([r]), 200, exclude_known=False)
        assert (everything.entities[0] >= 0).sum() == GRAPH.num_entities
        assert everything.scores[0, -1] == -torch.inf


def test_heads_are_tails_of_the_reciprocal_relation(fitted):
    asked = torch.tensor([0, 3]), torch.tensor([11, 5])
    heads = fitted.predict_heads(*asked, 4)
    tails = fitted.predict_tails(asked[1], asked[0] + GRAPH.num_relations, 4)
    assert heads.entities.equal(tails.entities)
    known = {tuple(row) for part in ("train", "validation", "test") for row in getattr(GRAPH, part).tolist()}
    assert not any(
        (h, r, t) in known
        for row, r, t in zip(heads.entities.tolist(), *map(torch.Tensor.tolist, asked), strict=True)
        for h in row
    )


def test_novel_triples_are_the_answers_of_all_heads_and_in_no_part(fitted):
    parts = list(fitted.novel_triples(3, relations=torch.tensor([2])))
    triples = torch.cat([part for part, _ in parts])
    scores = torch.cat([part for _, part in parts])
    torch.testing.assert_close(scores, fitted.score(triples))
    known = {tuple(row) for part in ("train", "validation", "test") for row in getattr(GRAPH, part).tolist()}
    assert not known & {tuple(row) for row in triples.tolist()}
    heads = GRAPH.train[GRAPH.train[:, 1] == 2, 0].unique()
    assert triples[:, 0].unique().equal(heads)
    assert len(triples) == 3 * len(heads)
    some = torch.cat([part for part, _ in fitted.novel_triples(2, heads=torch.tensor([5]))])
    assert some[:, 1].tolist() == [r for r in range(GRAPH.num_relations) for _ in range(2)]


def test_a_saved_completer_answers_alike(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = KnowledgeGraphCompleter.load(tmp_path / "model")
    triples = GRAPH.test
    assert loaded.score(triples).equal(fitted.score(triples))
    assert loaded.graph.entity_names == GRAPH.entity_names
    one, two = (each.predict_tails(triples[:, 0], triples[:, 1], 5) for each in (fitted, loaded))
    assert one.entities.equal(two.entities)


@pytest.mark.parametrize("damage", ["{}", "not json", '{"settings": {"model": "os.system"}, "num_entities": 3}'])
def test_a_folder_of_something_else_is_refused(fitted, tmp_path, damage):
    fitted.save(tmp_path)
    (tmp_path / "completer.json").write_text(damage, encoding="utf-8")
    with pytest.raises(ValueError, match="does not hold a completer"):
        KnowledgeGraphCompleter.load(tmp_path)


def test_weights_that_are_no_numbers_are_refused(fitted, tmp_path):
    broken = KnowledgeGraphCompleter(_settings(epochs=1)).fit(GRAPH)
    with torch.no_grad():
        broken.model.rows()["entity"][0, 0] = torch.nan
    broken.save(tmp_path)
    with pytest.raises(ValueError, match="not finite"):
        KnowledgeGraphCompleter.load(tmp_path)


def test_a_stopped_training_ends_with_the_same_weights(tmp_path):
    whole = KnowledgeGraphCompleter(_settings(epochs=4, validate_every=1)).fit(GRAPH)

    class StopError(Exception):
        pass

    def stop(epoch, loss, value):
        if epoch == 2:
            raise StopError

    again = KnowledgeGraphCompleter(_settings(epochs=4, validate_every=1))
    with pytest.raises(StopError):
        again.fit(GRAPH, checkpoint=tmp_path / "c.pt", progress=stop)
    again.fit(GRAPH, checkpoint=tmp_path / "c.pt")
    assert all(
        one.equal(two)
        for one, two in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match="other data or settings"):
        KnowledgeGraphCompleter(_settings(epochs=4, seed=1)).fit(GRAPH, checkpoint=tmp_path / "c.pt")


@pytest.mark.parametrize("model", ["gie", "transe", "rescal", "rotate", "atth"])
@pytest.mark.parametrize("loss", ["one_vs_all", "negatives"])
def test_every_kind_of_model_is_fitted(model, loss):
    settings = CompleterSettings.usual(model, dim=4, epochs=2, batch_size=256, loss=loss, num_negatives=5)
    found = KnowledgeGraphCompleter(settings).fit(GRAPH)
    weights = found.geometry_weights()
    assert (weights is not None) == (model == "gie")
    if weights is not None:
        torch.testing.assert_close(weights.sum(1), torch.ones(GRAPH.num_relations, dtype=torch.float64))


@pytest.mark.parametrize("regularizer", ["none", "f2", "n3", "dura", "er"])
def test_every_regulariser_and_weights_of_tails_are_taken(regularizer):
    settings = _settings(epochs=1, regularizer=regularizer, weighted=True)
    assert len(KnowledgeGraphCompleter(settings).fit(GRAPH).history.losses) == 1


def test_without_a_validation_part_all_epochs_are_trained():
    graph = KGDataset.from_triples(GRAPH.train, num_entities=GRAPH.num_entities)
    found = KnowledgeGraphCompleter(_settings(epochs=3)).fit(graph)
    assert (found.history.best_epoch, found.history.values) == (2, {})


def test_bad_requests_are_refused(fitted, plain_inputs):
    with pytest.raises(ValueError, match="model"):
        CompleterSettings.usual("word2vec")
    with pytest.raises(ValueError, match="metric"):
        KnowledgeGraphCompleter(_settings()).fit(GRAPH, metric="mean_rank")
    with pytest.raises(IndexError):
        fitted.predict_tails(torch.tensor([GRAPH.num_entities]), torch.tensor([0]))
    with pytest.raises(IndexError):
        fitted.predict_tails(torch.tensor([0]), torch.tensor([2 * GRAPH.num_relations]))
    with pytest.raises(RuntimeError, match="not fitted"):
        KnowledgeGraphCompleter().score(torch.tensor([[0, 0, 1]]))
    assert json.dumps(_settings().__dict__)
