"""Link prediction: both directions of every triple, whatever the batches, the ties and the processes."""

import math

import pytest
import torch
from torch import nn

from equipoise.data import KGDataset, make_family_graph
from equipoise.knowledge import evaluate_link_prediction, filtered_ranking, rank_metrics, relation_types
from two_processes import in_two_processes, needs_two_processes


class _Factors(nn.Module):
    """Scores by products, of which every second entity is a double of the one before."""

    def __init__(self, entities=14, relations=3, width=5, seed=0, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.num_relations = relations
        self.entity = nn.Parameter(torch.randn(entities, width, generator=generator).to(dtype))
        self.relation = nn.Parameter(torch.randn(2 * relations, width, generator=generator).to(dtype))
        with torch.no_grad():
            self.entity[1::2] = self.entity[: entities - 1 : 2]
        self.dropout = nn.Dropout(0.5)
        self.asked = []

    def score_t(self, heads, relations):
        self.asked.append(torch.stack([heads, relations], 1))
        return self.dropout(self.entity[heads] * self.relation[relations]) @ self.entity.T


class _Constant:
    num_relations = 3

    def score_t(self, heads, relations):
        return torch.zeros(len(heads), 14)


def _graph(seed=0, n=90):
    generator = torch.Generator().manual_seed(seed)
    triples = torch.stack([torch.randint(size, (n,), generator=generator) for size in (14, 3, 14)], 1).unique(dim=0)
    triples = triples[torch.randperm(len(triples), generator=generator)]
    return KGDataset.from_triples(triples[:40], triples[40:50], triples[50:], num_entities=14, num_relations=3)


def _by_mask(model, triples, known, relations=3, entities=14):
    """The ranks of both directions from dense matrices, triple by triple in the order given."""
    found = []
    for head, tail, backwards in ((0, 2, 0), (2, 0, relations)):
        mask = torch.zeros(len(triples), entities, dtype=torch.bool)
        for row, query in enumerate(triples.tolist()):
            for other in known.tolist():
                if other[head] == query[head] and other[1] == query[1]:
                    mask[row, other[tail]] = True
        padded = torch.cat([triples, triples[-1:].expand(-len(triples) % 16, 3)])
        with torch.no_grad():
            scores = model.score_t(padded[:, head], padded[:, 1] + backwards)[: len(triples)]
        found.append(filtered_ranking(scores, triples[:, tail], mask))
    return [torch.stack([getattr(each, name) for each in found], 1) for name in found[0]._fields]


@pytest.mark.parametrize("parts", [(), ("train",), ("train", "test"), None])
@pytest.mark.parametrize("batch_size", [None, 1, 5, 1000])
def test_ranks_are_those_of_dense_masks(parts, batch_size):
    graph, model = _graph(), _Factors().eval()
    known = None if parts is None else graph.known(*parts)
    held = [getattr(graph, part) for part in parts or ("train", "validation", "test")] if known else [graph.test[:0]]
    report = evaluate_link_prediction(model, graph.test, known, batch_size=batch_size)
    optimistic, pessimistic, realistic, candidates = _by_mask(model, graph.test, torch.cat(held))
    assert torch.equal(report.optimistic, optimistic)
    assert torch.equal(report.pessimistic, pessimistic)
    assert torch.equal(report.ranks(), realistic)
    assert torch.equal(report.candidates, candidates)
    assert (optimistic != pessimistic).any()
    expected = rank_metrics(realistic.flatten(), candidates.flatten())
    assert report.metrics() == pytest.approx(expected)
    assert report.metrics("head", ties="pessimistic") == pytest.approx(
        rank_metrics(pessimistic[:, 1], candidates[:, 1])
    )
    assert report.by_direction()["tail"]["mrr"] == pytest.approx(float((1 / realistic[:, 0]).mean()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("entities", [193, 1001])
def test_batches_do_not_change_a_rank_even_where_doubles_tie(dtype, entities):
    generator = torch.Generator().manual_seed(3)
    triples = torch.stack([torch.randint(size, (80,), generator=generator) for size in (entities, 3, entities)], 1)
    model = _Factors(entities, width=33, dtype=dtype)
    reports = [evaluate_link_prediction(model, triples, batch_size=size) for size in (None, 1, 3, 7, 64)]
    last_is_double = triples[:, [2, 0]] == entities - 1
    for report in reports:
        assert torch.equal(report.optimistic, reports[0].optimistic)
        assert torch.equal(report.pessimistic, reports[0].pessimistic)
        assert ((report.pessimistic - report.optimistic)[~last_is_double] == 1).all()
    order = torch.randperm(80, generator=generator)
    shuffled = evaluate_link_prediction(model, triples[order])
    assert torch.equal(shuffled.pessimistic, reports[0].pessimistic[order])
    alone = [evaluate_link_prediction(model, triples[k : k + 1]) for k in range(80)]
    assert torch.equal(alone[0].joined(*alone[1:]).optimistic, reports[0].optimistic)


def test_a_constant_model_is_in_the_middle():
    graph = _graph()
    report = evaluate_link_prediction(_Constant(), graph.test, graph.known(), batch_size=3)
    assert (report.optimistic == 1).all()
    assert torch.equal(report.pessimistic, report.candidates)
    found = report.metrics()
    assert found["adjusted_mean_rank"] == pytest.approx(1)
    assert found["adjusted_mean_rank_index"] == pytest.approx(0)
    assert report.metrics(ties="optimistic")["mrr"] == 1


def test_shared_queries_are_asked_once_and_in_full_groups():
    model, graph = _Factors(), _graph()
    twice = torch.cat([graph.test, graph.test[:7]])
    report = evaluate_link_prediction(model, twice, graph.known())
    assert torch.equal(report.pessimistic[-7:], report.pessimistic[:7])
    asked = torch.cat(model.asked)
    both = graph.with_inverse(graph.test)[:, :2]
    assert torch.equal(asked.unique(dim=0), both.unique(dim=0))
    assert len(asked) < len(both.unique(dim=0)) + 32
    assert all(len(each) % 16 == 0 for each in model.asked)


def test_the_model_is_put_back_part_by_part():
    model = _Factors().train()
    model.dropout.eval()
    evaluate_link_prediction(model, _graph().test)
    assert model.training
    assert not model.dropout.training
    model.dropout.train()
    first, second = (evaluate_link_prediction(model, _graph().test).optimistic for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert model.dropout.training
    with pytest.raises(IndexError):
        evaluate_link_prediction(model, torch.tensor([[0, 0, 99]]))
    assert model.dropout.training


def test_relations_and_their_kinds_add_up():
    graph, model = _graph(), _Factors()
    report = evaluate_link_prediction(model, graph.test, graph.known(), training=graph.train, ks=(2,))
    by_relation = report.by_relation()
    assert sum(each["triples"] for each in by_relation.values()) == len(report)
    mean = sum(each["triples"] * each["mrr"] for each in by_relation.values()) / len(report)
    assert mean == pytest.approx(report.metrics()["mrr"])
    kinds = relation_types(graph.train, 3)
    by_type = report.by_relation_type("tail")
    assert set(by_type) == {kinds[r] for r in by_relation}
    for kind, found in by_type.items():
        chosen = torch.tensor([kinds[r] == kind for r in report.triples[:, 1].tolist()])
        assert found["mrr"] == pytest.approx(float((1 / report.ranks()[chosen, 0]).mean()))
        assert "hits@2" in found
    interval = report.intervals("head")["hits@2"]
    assert interval.estimate == pytest.approx(report.metrics("head")["hits@2"])


def test_a_relation_that_training_does_not_have_is_a_kind_of_its_own():
    triples = torch.tensor([[0, 0, 1], [1, 2, 0]])
    found = evaluate_link_prediction(_Constant(), triples, training=torch.tensor([[0, 0, 1]])).by_relation_type()
    assert {kind: each["triples"] for kind, each in found.items()} == {"1-1": 1.0, "unseen": 1.0}


def test_unseen_entities_are_told_and_left_out():
    graph = KGDataset.from_triples([[0, 0, 1], [1, 1, 2]], test=[[0, 0, 2], [0, 0, 13], [12, 2, 13]], num_entities=14)
    with pytest.warns(UserWarning, match="2 of 3 triples hold one of 2 entities that training does not have"):
        report = evaluate_link_prediction(_Factors(), graph.test, training=graph.train)
    assert report.unseen.tolist() == [False, True, True]
    seen = report.seen()
    assert seen.triples.tolist() == [[0, 0, 2]]
    assert seen.metrics()["mean_rank"] == pytest.approx(float(report.ranks()[0].mean()))


def test_what_needs_training_or_triples_says_so():
    report = evaluate_link_prediction(_Constant(), torch.tensor([[0, 0, 1]]))
    with pytest.raises(ValueError, match="give evaluate_link_prediction training=triples"):
        report.seen()
    with pytest.raises(ValueError, match="give evaluate_link_prediction training=triples"):
        report.by_relation_type()
    empty = report.select(torch.tensor([False]))
    for call in (empty.metrics, empty.intervals):
        with pytest.raises(ValueError, match="the report holds no triple"):
            call()
    with pytest.raises(ValueError, match="direction='left' is not known"):
        report.metrics("left")
    other = evaluate_link_prediction(_Constant(), torch.tensor([[0, 0, 1]]), ks=[5])
    with pytest.raises(ValueError, match="not made with the same ks"):
        report.joined(other)


class _Scores:
    num_relations = 1

    def __init__(self, scores):
        self.scores = scores

    def score_t(self, heads, relations):
        return self.scores if self.scores.ndim != 2 else self.scores.expand(len(heads), -1)


def test_bad_input_is_refused(plain_inputs):
    one, model = torch.tensor([[0, 0, 1]]), _Scores(torch.rand(1, 3))
    for triples, error, words in (
        (one[:0], ValueError, "triples holds no row"),
        (one[:, :2], ValueError, "triples must have shape"),
        (one.double(), ValueError, "triples must hold integers"),
        (torch.tensor([[0, 1, 1]]), IndexError, "triples holds the relation 1, wanted 0 to 0"),
        (torch.tensor([[0, 0, 3]]), IndexError, "triples holds the entity 3, wanted 0 to 2"),
        (torch.tensor([[3, 0, 0]]), IndexError, "triples holds the entity 3, wanted 0 to 2"),
        (torch.tensor([[-1, 0, 0]]), IndexError, "triples holds the entity -1"),
    ):
        with pytest.raises(error, match=words):
            evaluate_link_prediction(model, triples)
    with pytest.raises(ValueError, match=r"the model gives NaN for the query \(0, 0, \?\)"):
        evaluate_link_prediction(_Scores(torch.tensor([[0.0, math.nan, 1.0]])), one)
    evaluate_link_prediction(_Scores(torch.tensor([[math.inf, -math.inf, 1.0]])), one)
    with pytest.raises(ValueError, match="wanted one row of floating-point numbers each"):
        evaluate_link_prediction(_Scores(torch.rand(3)), one)
    with pytest.raises(ValueError, match="wanted one row of floating-point numbers each"):
        evaluate_link_prediction(_Scores(torch.ones(1, 3).long()), one)
    graph = KGDataset.from_triples(one, num_entities=4)
    with pytest.raises(ValueError, match="known is of 4 entities and 1 relations, the model of 3 and 1"):
        evaluate_link_prediction(model, one, graph.known())
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluate_link_prediction(model, one, batch_size=0)


def test_a_graph_of_one_entity():
    report = evaluate_link_prediction(_Scores(torch.zeros(1, 1)), torch.tensor([[0, 0, 0]]))
    assert report.metrics()["mrr"] == 1


def _work(rank):
    graph, model = make_family_graph(3, 4), _Factors(60, 4)
    whole = evaluate_link_prediction(model, graph.train, graph.known(), training=graph.train)
    wrong = []
    for cut in (11, 0):
        mine = graph.train[:cut] if rank == 0 else graph.train[cut:]
        found = evaluate_link_prediction(model, mine, graph.known(), training=graph.train).gathered()
        same = [torch.equal(a, b) for a, b in zip(found._tensors(), whole._tensors(), strict=True)]
        if not all(same) or found.metrics() != whole.metrics():
            wrong.append(f"shards at {cut} on rank {rank}: {same}")
    return wrong


@needs_two_processes
def test_two_processes_are_as_one():
    assert in_two_processes(_work) == [[], []]
