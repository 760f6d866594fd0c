"""The network of pairs and its two ways of training."""

import pytest
import torch
from torch import nn

from equipoise.crowd import (
    ComparisonGraph,
    OutlierAlternator,
    PairwiseRanker,
    fit_pairwise_ranker,
    outlier_gamma,
    robust_linear_ranker,
)
from equipoise.data import Comparisons


class _Counting(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.seen = nn.BatchNorm1d(width), []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.norm(x)


def _world(seed=0, items=30, edges=200, flip=0.2, attributes=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(items, 3, generator=generator)
    i = torch.randint(items, (edges,), generator=generator)
    j = (i + torch.randint(1, items, (edges,), generator=generator)) % items
    truth = x @ torch.randn(3, generator=generator)
    y = torch.where(truth[i] > truth[j], 1, -1)
    wrong = torch.rand(edges, generator=generator) < flip
    attribute = torch.arange(edges) % attributes
    return x, ComparisonGraph.from_edges(i, j, torch.where(wrong, -y, y), attribute=attribute, num_items=items)


def test_every_distinct_item_goes_through_the_backbone_once_and_both_sides_together():
    backbone = _Counting(3)
    ranker = PairwiseRanker(backbone, 3, num_attributes=2)
    x = torch.randn(9, 3)
    i, j, attribute = torch.tensor([4, 1, 4]), torch.tensor([1, 7, 7]), torch.tensor([0, 1, 1])
    found = ranker.pair_scores(x, i, j, attribute)
    (seen,) = backbone.seen
    assert seen.equal(x[[1, 4, 7]])
    batch = (seen - seen.mean(0)) / (seen.var(0, unbiased=False) + 1e-5).sqrt()
    scores = torch.full((9, 2), torch.nan)
    scores[[1, 4, 7]] = batch @ ranker.weight.detach().T
    torch.testing.assert_close(found.score_i, scores[i, attribute])
    torch.testing.assert_close(found.score_j, scores[j, attribute])


def test_heads_are_drawn_from_the_seed_and_global_state_is_left_alone():
    state = torch.random.get_rng_state()
    one, other = (PairwiseRanker(nn.Identity(), 500, 3, seed=seed) for seed in (0, 1))
    assert torch.random.get_rng_state().equal(state)
    assert one.weight.equal(PairwiseRanker(nn.Identity(), 500, 3).weight)
    assert not one.weight.equal(other.weight)
    assert float(one.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert one.bias.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("model", ["squared", "logistic"])
def test_both_ways_of_training_a_linear_scorer_end_at_its_exact_minimum(model):
    x, graph = _world()
    lambda2 = 0.05
    exact = robust_linear_ranker(
        x, graph.item_i, graph.item_j, graph.y, graph.strength, lambda1=0.4, lambda2=lambda2 * len(graph), model=model
    )
    settings = {"lambda1": 0.4, "model": model, "batch_size": None, "weight_decay": 2 * lambda2}
    found = []
    one = PairwiseRanker(nn.Identity(), 3)
    losses = fit_pairwise_ranker(one, x, graph, epochs=200, learning_rate=0.05, milestones=(120,), **settings).losses
    assert losses[-1] < losses[0]
    found.append(one)
    two = PairwiseRanker(nn.Identity(), 3)
    OutlierAlternator(two, x, graph, epochs=20, learning_rate=0.05, tolerance=0, milestones=(180,), **settings).fit(12)
    found.append(two)
    for ranker in found:
        torch.testing.assert_close(ranker.weight.detach()[0].double(), exact.weight, rtol=0.01, atol=0.003)


def test_the_terms_are_the_best_ones_at_the_scores_and_the_warm_up_trains_without_them():
    x, graph = _world(1)
    course = OutlierAlternator(
        PairwiseRanker(nn.Linear(3, 8), 8), x, graph, lambda1=0.3, epochs=3, gamma_warmup=5, learning_rate=0.02
    )
    seen = []
    train = course.train
    course.train = lambda epochs: (seen.append((epochs, course.gamma.clone())), train(epochs))[1]
    course.fit(2)
    assert [epochs for epochs, _ in seen] == [5, 3, 3]
    assert not seen[0][1].any()
    assert seen[1][1].any()
    assert [each.warmup for each in course.rounds] == [True, False, False]
    scores = course.ranker.score(x)[:, 0]
    wanted = outlier_gamma(scores[graph.item_i] - scores[graph.item_j], graph.y, 0.3)
    torch.testing.assert_close(course.gamma, wanted.gamma)
    table = course.outliers()
    assert table.is_outlier.equal(wanted.is_outlier)
    assert course.rounds[-1].ratio == pytest.approx(table.ratio)
    torch.testing.assert_close(course.update_gamma(), wanted.gamma)


def test_a_round_ends_when_its_loss_settles():
    x, graph = _world(2)
    course = OutlierAlternator(PairwiseRanker(nn.Identity(), 3), x, graph, epochs=50, learning_rate=1e-7, tolerance=0.1)
    assert len(course.fit(1).rounds[0].losses) == 2


def test_an_attribute_without_edges_keeps_its_head():
    x, graph = _world(3)
    ranker = PairwiseRanker(nn.Identity(), 3, num_attributes=2)
    before = ranker.weight.detach()[1].clone()
    with pytest.warns(UserWarning, match="attributes 1 have no edges"):
        fit_pairwise_ranker(ranker, x, graph, epochs=2, weight_decay=0.1, learning_rate=0.1)
    assert ranker.weight[1].equal(before)
    assert not ranker.weight[0].detach().equal(before)


def test_items_may_be_read_by_a_function_and_a_seed_repeats_a_training():
    x, graph = _world(4, attributes=2)
    states = []
    for items in (x, lambda rows: x[rows]):
        ranker = PairwiseRanker(nn.Identity(), 3, num_attributes=2)
        found = fit_pairwise_ranker(ranker, items, graph, epochs=3, learning_rate=0.05, gamma_warmup=1, seed=7)
        states.append((found.losses, ranker.state_dict()))
    assert states[0][0] == states[1][0]
    assert all(states[0][1][name].equal(value) for name, value in states[1][1].items())
    assert not ranker.training
    with pytest.raises(ValueError, match="num_items is missing"):
        ranker.score(lambda rows: x[rows])


def test_a_table_points_back_to_answers_and_annotators():
    said = Comparisons.from_columns(
        [0, 0, 1, 1, 2],
        [0, 1, 1, 0, 0],
        [1, 2, 0, 1, 1],
        [1, 1, 1, 0, 1],
        item_names=["a", "b", "c"],
    )
    graph = ComparisonGraph.of(said, ties="drop")
    ranker = PairwiseRanker(nn.Identity(), 3)
    with torch.no_grad():
        ranker.weight.copy_(torch.tensor([[2.0, 1.0, 0.0]]))
    table = OutlierAlternator(ranker, torch.eye(3), graph, lambda1=0.5).outliers()
    assert table.answers().tolist() == [False, False, True, False, False]
    assert table.per_annotator(said.annotator).tolist() == [0.0, 0.5, 0.0]
    assert table.ratio == 0.25
    assert table.contradicted.tolist() == (table.suspicion > 0).tolist() == table.is_outlier.tolist()
    frame = table.frame()
    assert list(frame.iloc[0][["item_i", "item_j", "y", "strength"]]) == ["a", "b", -1, 1.0]
    assert frame["is_outlier"].tolist() == [True, False, False]
    with pytest.raises(ValueError, match="annotator has 2 rows"):
        table.per_annotator(torch.tensor([0, 1]))


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_by_name():
    x, graph = _world(5)
    ranker = PairwiseRanker(nn.Identity(), 3)
    i = torch.tensor([0])
    with pytest.raises(ValueError, match="item_j holds 30, wanted 0 to 29"):
        ranker.pair_scores(x, i, i + 30)
    with pytest.raises(ValueError, match="attribute holds 1"):
        ranker.pair_scores(x, i, i + 1, i + 1)
    with pytest.raises(ValueError, match=r"backbone must give features of shape \(30, 4\)"):
        PairwiseRanker(nn.Identity(), 4).score(x)
    with pytest.raises(ValueError, match="items have 3 rows"):
        fit_pairwise_ranker(ranker, x[:3], graph)
    with pytest.raises(ValueError, match="items must be a tensor or a function"):
        fit_pairwise_ranker(ranker, [1.0], graph)
    with pytest.raises(ValueError, match="items holds 1 NaN"):
        fit_pairwise_ranker(ranker, torch.where(torch.arange(90).reshape(30, 3) == 4, torch.nan, x), graph)
    with pytest.raises(ValueError, match="graph has 2 attributes, ranker has 1 heads"):
        OutlierAlternator(ranker, x, _world(5, attributes=2)[1])
    with pytest.raises(ValueError, match="epochs"):
        OutlierAlternator(ranker, x, graph, epochs=0)


def test_compare_gives_signs_and_0_for_a_draw():
    ranker = PairwiseRanker(nn.Identity(), 1)
    with torch.no_grad():
        ranker.weight.fill_(1.0)
    x = torch.tensor([[1.0], [2.0], [1.0]])
    i, j = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 2])
    assert ranker.compare(x, i, j).tolist() == [-1, 1, 0]
    assert ranker.training
