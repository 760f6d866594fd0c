import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from equipoise.longtail import (
    AIGDL,
    BiLT,
    BiLTLoss,
    HierarchicalMetrics,
    LabelTree,
    LogitChain,
    crm_decision,
    hierarchical_metrics,
    shot_accuracy,
)
from equipoise.longtail.hierarchy.bidirectional_logits import level_weights

PATHS = torch.tensor([[0, 2, 1], [1, 0, 1], [2, 1, 0], [3, 1, 0], [4, 2, 1], [5, 1, 0]])


@pytest.fixture
def tree():
    return LabelTree.from_paths(PATHS)


def test_costs_are_the_levels_to_climb(tree):
    for level in range(3):
        cost = tree.cost(level)
        for a, b in itertools.product(range(6), repeat=2):
            climb = next((k for k in range(3 - level) if PATHS[a, level + k] == PATHS[b, level + k]), 3 - level)
            assert int(cost[PATHS[a, level], PATHS[b, level]]) == climb
        assert torch.equal(cost, cost.T)
        for a, b, c in itertools.product(range(len(cost)), repeat=3):
            assert cost[a, c] <= max(cost[a, b], cost[b, c])
    below = tree.cost(0)[:, :]
    for a, b in itertools.product(range(6), repeat=2):
        assert int(tree.cost(1)[PATHS[a, 1], PATHS[b, 1]]) == max(int(below[a, b]) - 1, 0)


def test_a_tree_comes_from_paths_parents_dictionaries_and_graphs():
    nx = pytest.importorskip("networkx")
    nested = {"animal": {"cat": ["tabby", "lynx"], "dog": ["pug"]}, "thing": {"cup": ["mug"]}}
    tree = LabelTree.from_nested(nested)
    assert tree.names == ("tabby", "lynx", "pug", "mug")
    assert tree.paths.tolist() == [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 1]]
    assert LabelTree.from_parents([[0, 0, 1, 2], [0, 0, 1]]).paths.tolist() == tree.paths.tolist()
    assert LabelTree.from_nested(tree.to_nested()).paths.tolist() == tree.paths.tolist()
    graph = nx.DiGraph([("root", "animal"), ("root", "thing"), ("animal", "cat"), ("animal", "dog"), ("thing", "cup")])
    graph.add_edges_from([("cat", "tabby"), ("cat", "lynx"), ("dog", "pug"), ("cup", "mug")])
    found = LabelTree.from_networkx(graph)
    order = [found.names.index(name) for name in tree.names]
    assert torch.equal(found.cost(0)[order][:, order], tree.cost(0))


def test_uneven_leaves_are_continued_by_themselves():
    tree = LabelTree.from_nested({"animal": {"cat": ["tabby"], "dog": ["pug"]}, "thing": ["cup"]})
    assert tree.num_levels == 3
    assert tree.cost(0).tolist() == [[0, 2, 3], [2, 0, 3], [3, 3, 0]]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([[1, 0], [0, 0]], "0, 1, 2"),
        ([[0, 0], [1, 2]], "without gaps"),
        ([[0, 0, 0], [1, 0, 1]], "classes 0 and 1"),
    ],
)
def test_what_is_no_tree_is_named(paths, message):
    with pytest.raises(ValueError, match=message):
        LabelTree.from_paths(torch.tensor(paths))


def test_bad_trees_and_targets_are_named(tree, plain_inputs):
    with pytest.raises(ValueError, match="twice"):
        LabelTree.from_nested({"a": ["x"], "b": ["x"]})
    with pytest.raises(ValueError, match="from 0 to 5"):
        tree.targets(torch.tensor([6]))
    with pytest.raises(ValueError, match="no leaf"):
        LabelTree.from_nested({})
    with pytest.raises(ValueError, match="level"):
        tree.cost(3)


def _adjusted_by_hand(level, logits):
    p = logits.softmax(1)
    w = level.weight.detach().clone()
    w.fill_diagonal_(0)
    w = w / w.norm(dim=1, keepdim=True).clamp_min(1e-12)
    matrix = level.beta * (w + (torch.eye(len(w)) if level.add_identity else 0)) - level.cost
    return torch.stack([torch.tensor([float((matrix[i] * row).sum()) for i in range(len(w))]) for row in p])


@pytest.mark.parametrize("add_identity", [False, True])
def test_scores_are_expected_distances(tree, add_identity):
    g = torch.Generator().manual_seed(0)
    level = AIGDL(tree.cost(0), 0.5, add_identity)
    nn.init.normal_(level.weight, generator=g)
    logits = torch.randn(4, 6, generator=g)
    torch.testing.assert_close(level(logits), _adjusted_by_hand(level, logits))


def test_without_corrections_the_decision_is_that_of_least_expected_cost(tree):
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    level = AIGDL(tree.cost(0), beta=0.0)
    assert torch.equal(level(logits).argmax(1), crm_decision(logits.softmax(1), tree.cost(0)))


def test_gradients_pass_through_scores_and_not_through_the_soft_target(tree):
    g = torch.Generator().manual_seed(2)
    level = AIGDL(tree.cost(0).double(), 0.5).double()
    nn.init.normal_(level.weight, generator=g)
    logits, y = torch.randn(5, 6, generator=g, dtype=torch.float64), torch.randint(6, (5,), generator=g)
    q = (-level.distance).softmax(1)[y]

    def loss(z, w):
        with torch.no_grad():
            held = level.weight.clone()
        correction = nn.functional.normalize(w - w.diag().diag(), dim=1)
        scores = z.softmax(1) @ (0.5 * correction - level.cost).T
        assert torch.equal(held, level.weight)
        return 0.5 * cross_entropy(scores, y) - 0.5 * (q * scores.log_softmax(1)).sum(1).mean()

    plain, smooth = level.loss(logits, y, 0.5, 1.0)
    torch.testing.assert_close(smooth, loss(logits, level.weight))
    torch.testing.assert_close(plain, cross_entropy(logits, y))
    (expected,) = torch.autograd.grad(loss(logits, level.weight), [level.weight])
    (found,) = torch.autograd.grad(smooth, [level.weight])
    torch.testing.assert_close(found, expected)
    assert float(found.diagonal().abs().max()) == 0
    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), level.weight.detach().requires_grad_()))


def test_settings_at_their_ends_are_plain_losses(tree):
    level = AIGDL(tree.cost(0), 0.5)
    logits, y = torch.randn(8, 6), torch.arange(8) % 6
    torch.testing.assert_close(level.loss(logits, y, epsilon=0.0)[1], cross_entropy(level(logits), y))
    even = -level(logits).log_softmax(1).mean()
    torch.testing.assert_close(level.loss(logits, y, epsilon=1.0, gamma=0.0)[1], even)


def test_coarse_gradients_reach_the_encoder_through_the_fine_logits_only(tree):
    torch.manual_seed(0)
    model = BiLT(nn.Linear(5, 4), 4, BiLTLoss(tree))
    x = torch.randn(7, 5)
    features = model.encoder(x)
    finest = model.chain.finest(features)
    torch.testing.assert_close(model(x)[0], finest)
    coarse = model.chain.steps[1](model.chain.steps[0](finest.detach()))
    assert torch.autograd.grad(coarse.sum(), model.encoder.weight, allow_unused=True)[0] is None
    assert float(torch.autograd.grad(model(x)[2].square().sum(), model.encoder.weight)[0].abs().sum()) > 0


def test_levels_are_weighed_as_said(tree):
    assert level_weights(3, "exp", 1.0) == pytest.approx([1, math.exp(-1), math.exp(-2)])
    assert level_weights(3, "exp", 0.0) == level_weights(3, "equal") == [1, 1, 1]
    assert level_weights(4, "linear") == [1, 0.75, 0.5, 0.25]
    assert level_weights(3, "finest") == [1, 0, 0]
    loss = BiLTLoss(tree, alpha=0.7)
    logits, y = [torch.randn(5, k) for k in tree.num_classes], torch.tensor([0, 5, 2, 2, 1])
    expected = sum(math.exp(-0.7 * h) * value for h, value in enumerate(loss.level_losses(logits, y)))
    torch.testing.assert_close(loss(logits, y), expected)


def test_renaming_classes_changes_nothing(tree):
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    paths = PATHS[order].clone()
    paths[:, 0] = torch.arange(6)
    other, loss = BiLTLoss(LabelTree.from_paths(paths)), BiLTLoss(tree)
    logits, y = [torch.randn(9, k) for k in tree.num_classes], torch.randint(6, (9,))
    moved = [logits[0][:, order], *logits[1:]]
    torch.testing.assert_close(other(moved, order.argsort()[y]), loss(logits, y))


def test_a_prediction_may_be_consistent_with_the_finest(tree):
    torch.manual_seed(1)
    model = BiLT(nn.Identity(), 6, BiLTLoss(tree)).eval()
    x = torch.randn(40, 6)
    finest = model.predict(x)
    for level in range(3):
        assert torch.equal(model.predict(x, level, consistent=True), tree.ancestors(level)[finest])


def _metrics_by_hand(scores, target, tree, ks):
    cost, found = tree.cost(0), {}
    ranked = [sorted(range(6), key=lambda c, row=row: (-row[c], c)) for row in scores.tolist()]
    for k in ks:
        per = [[int(cost[y, c]) for c in order[:k]] for y, order in zip(target.tolist(), ranked, strict=True)]
        found[f"top{k}"] = sum(0 in d for d in per) / len(per)
        found[f"hier_dist@{k}"] = sum(sum(d) / k for d in per) / len(per)
        best = [sum(1 - d / 3 for d in sorted(cost[y].tolist())[:k]) for y in target.tolist()]
        found[f"hier_precision@{k}"] = sum(sum(1 - x / 3 for x in d) / b for d, b in zip(per, best, strict=True)) / len(
            per
        )
    wrong = [int(cost[y, o[0]]) for y, o in zip(target.tolist(), ranked, strict=True) if o[0] != y]
    found["mistake_severity"] = sum(wrong) / len(wrong)
    for h in range(3):
        hits = [PATHS[y, h] == PATHS[o[0], h] for y, o in zip(target.tolist(), ranked, strict=True)]
        found[f"level_{h}_accuracy"] = sum(map(int, hits)) / len(hits)
    return found


def test_metrics_are_those_of_a_loop(tree):
    g = torch.Generator().manual_seed(3)
    scores, target = torch.randint(0, 4, (50, 6), generator=g).float(), torch.randint(6, (50,), generator=g)
    metric = HierarchicalMetrics(tree, (1, 3, 6))
    for rows in torch.arange(50).split(11):
        metric.update(scores[rows], target[rows])
    found, expected = metric.compute(), _metrics_by_hand(scores, target, tree, (1, 3, 6))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value), name


def test_without_mistakes_their_severity_is_nan(tree):
    with pytest.warns(UserWarning, match="severity"):
        found = hierarchical_metrics(one_hot(torch.arange(6)).float(), torch.arange(6), tree)
    assert math.isnan(found["mistake_severity"])
    assert float(found["hier_dist@1"]) == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.bool])
def test_small_integers_and_truth_values_are_classes_and_no_masks(dtype):
    tree = LabelTree.from_paths([[0, 0], [1, 0]])
    y, logits = torch.tensor([1, 0, 0, 1, 1]), torch.randn(5, 2, dtype=torch.float64)
    assert tree.targets(y.to(dtype)).tolist() == [[1, 0], [0, 0], [0, 0], [1, 0], [1, 0]]
    level = AIGDL(tree.cost(0))
    assert level.loss(logits, y.to(dtype)) == level.loss(logits, y)


def test_float64_logits_are_not_rounded(tree):
    level, loss = AIGDL(tree.cost(0)), BiLTLoss(tree)
    logits = [torch.randn(9, k, dtype=torch.float64) for k in tree.num_classes]
    y = torch.arange(9) % 6
    for found, wanted in (
        (level(logits[0]), AIGDL(tree.cost(0).double())(logits[0])),
        (loss(logits, y), BiLTLoss(tree).double()(logits, y)),
    ):
        # What is left is the rounding of the weights themselves, 1 / 6 and 1 / sqrt(5).
        assert found.dtype is torch.float64
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)


def _zeros(tree):
    return [torch.zeros(2, k) for k in tree.num_classes]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: BiLTLoss(t)([torch.zeros(2, 6)], torch.tensor([0, 1])), "columns level by level"),
        (lambda t: BiLTLoss(t).adjusted([torch.zeros(2, 6)]), "columns level by level"),
        (lambda t: BiLTLoss(t)(_zeros(t), torch.tensor([0, 6])), "from 0 to 5"),
        (lambda t: BiLTLoss(t)(_zeros(t), torch.zeros(2)), "target must hold integers"),
        (lambda t: BiLTLoss(t)([*_zeros(t)[:2], torch.full((2, 2), math.nan)], torch.zeros(2).long()), r"logits\[2\]"),
        (lambda t: AIGDL(torch.ones(2, 2)), "diagonal"),
        (lambda t: HierarchicalMetrics(t, (7,)), "ks=\\(7,\\)"),
        (lambda t: LogitChain(3, (4, 2))(torch.zeros(1, 3)), "2 samples"),
        (lambda t: crm_decision(torch.zeros(2, 3), t.cost(0)), "with k = 3 as in probabilities, got"),
    ],
)
def test_bad_input_is_named(make, message, tree, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make(tree)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int64"])
def test_trees_are_taken_from_arrays_of_any_integers(dtype, plain_inputs):
    paths = np.array([[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 1, 0]], dtype=dtype)
    wanted = torch.tensor(paths.tolist())
    assert torch.equal(LabelTree.from_paths(paths[::-1].copy()[::-1]).paths, wanted)
    parents = [np.array([1, 1, 0, 0], dtype=dtype)[::-1], np.array([0, 0], dtype=dtype)]
    assert torch.equal(LabelTree.from_parents(parents).paths, wanted)
    assert torch.equal(LabelTree.from_parents([torch.as_tensor(row.astype("uint8")) for row in parents]).paths, wanted)


@pytest.mark.parametrize("parents", [[], [[]]])
def test_parents_of_nobody_are_refused(parents):
    with pytest.raises(ValueError, match="parents holds no level"):
        LabelTree.from_parents(parents)


@pytest.mark.parametrize(("classes", "wanted"), [(3, (1,)), (5, (1, 5)), (6, (1, 5))])
def test_the_lengths_that_fit_a_tree_are_measured_by_default(classes, wanted):
    tree = LabelTree.from_parents([[0] * classes])
    assert HierarchicalMetrics(tree).ks == wanted
    found = hierarchical_metrics(torch.eye(classes).roll(1, 0), torch.arange(classes), tree)
    assert {name for name in found if name.startswith("top")} == {f"top{k}" for k in wanted}


def test_logits_that_are_nan_are_refused_and_no_chance(plain_inputs):
    tree = LabelTree.from_parents([[0, 0, 1]])
    logits, target = torch.tensor([[0.0, math.nan, 1.0], [1.0, 0.0, 0.0]]), torch.tensor([0, 1])
    for judge in (
        lambda: hierarchical_metrics(logits, target, tree),
        lambda: shot_accuracy(logits, target, [200, 50, 3]),
        lambda: AIGDL(tree.cost(0)).loss(logits, target),
        lambda: BiLTLoss(tree)([logits, torch.zeros(2, 2)], target),
        lambda: BiLTLoss(tree)([torch.zeros(2, 3), torch.full((2, 2), math.nan)], target),
    ):
        with pytest.raises(ValueError, match="NaN"):
            judge()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32])
def test_classes_of_any_integers_have_the_same_ancestors_and_losses(dtype):
    tree, target = LabelTree.from_parents([[0, 1, 1]]), torch.tensor([1, 0, 1])
    logits, other = torch.eye(3), target.to(dtype)
    assert torch.equal(tree.targets(other), tree.targets(target))
    level = AIGDL(tree.cost(0))
    torch.testing.assert_close(level.loss(logits, other), level.loss(logits, target), rtol=0, atol=0)
