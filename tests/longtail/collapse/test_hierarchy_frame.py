import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from equipoise.longtail import FrameClassifier, LabelTree, haframe_classifier, simplex_etf
from equipoise.longtail.collapse.hierarchy_frame import hierarchy_cosines, hierarchy_frame

TREES = {
    "uneven": LabelTree.from_nested({"animal": {"cat": ["tabby", "lynx"], "dog": ["pug"]}, "thing": {"cup": ["mug"]}}),
    "even": LabelTree.from_nested({"a": ["p", "q", "r"], "b": ["s", "t", "u"]}),
    "flat": LabelTree.from_paths(torch.arange(5)[:, None]),
    "two": LabelTree.from_paths(torch.arange(2)[:, None]),
}


def _least(cost, gamma):
    """The first of the hundred values that will do, all of them tried."""
    k, d = len(cost), cost.double()
    for s in torch.linspace(-1, -1 / (k - 1), 100, dtype=torch.float64).tolist():
        gram = (1 - s) * (-gamma * d / d.max()).exp() + s
        if torch.linalg.eigvalsh(gram).min() >= -1e-6:
            return s, gram
    return None


@pytest.mark.parametrize("gamma", [0.1, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("name", TREES)
def test_the_cosines_are_those_of_the_least_value_that_is_semidefinite(name, gamma):
    cost = TREES[name].cost(0)
    found = hierarchy_cosines(cost, gamma)
    s, gram = _least(cost, gamma)
    torch.testing.assert_close(found, gram, rtol=0, atol=1e-12)
    # What G allows of s in closed form: −1 / (1ᵀE⁻¹1 − 1), the grid's next value or itself.
    near = (-gamma * cost.double() / cost.max()).exp()
    weights = torch.linalg.solve(near, torch.ones(len(cost), dtype=torch.float64))
    assert (weights > -1e-9).all()
    assert weights.max() < 1 + 1e-9
    exact = max(-1.0, -1 / max(float(weights.sum()) - 1, 1e-9))
    step = (1 - 1 / (len(cost) - 1)) / 99
    assert exact - 1e-4 <= s <= exact + step + 1e-9


@pytest.mark.parametrize("dim", [4, 7])
def test_a_frame_has_the_cosines_in_any_dimension_and_turns_with_the_seed(dim):
    cost = TREES["uneven"].cost(0)
    wanted = hierarchy_cosines(cost, 2.0)
    frames = [haframe_classifier(cost, 2.0, dim, seed=seed).frame for seed in (0, 0, 1)]
    for frame in frames:
        assert frame.shape == (4, dim)
        torch.testing.assert_close(frame @ frame.T, wanted, rtol=0, atol=1e-6)
        torch.testing.assert_close(frame.norm(dim=1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(frames[0], frames[1])
    assert not torch.allclose(frames[0], frames[2])


def test_what_costs_less_is_closer_and_a_large_gamma_gives_the_simplex():
    cost = TREES["uneven"].cost(0)
    found = hierarchy_cosines(cost, 1.5)
    for a in range(4):
        order = cost[a].argsort(stable=True)
        assert (found[a, order].diff() <= 1e-12).all()
    simplex = simplex_etf(4, 3)
    torch.testing.assert_close(hierarchy_cosines(cost, 500.0), simplex @ simplex.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(hierarchy_cosines(cost.double() * 7, 1.5), found)


def test_a_flat_tree_is_the_simplex_whatever_gamma_up_to_the_grid():
    found = hierarchy_cosines(TREES["flat"].cost(0), 1.0)
    off = found[~torch.eye(5, dtype=torch.bool)]
    assert off.std() < 1e-12
    assert -0.25 - 1e-9 <= off[0] <= -0.25 + 0.75 / 99


def test_a_relabelling_moves_rows_and_columns():
    cost = TREES["uneven"].cost(0)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        hierarchy_cosines(cost[order][:, order], 2.0), hierarchy_cosines(cost, 2.0)[order][:, order]
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_is_by_its_definition_and_its_gradient_by_finite_differences(share):
    head = haframe_classifier(TREES["uneven"].cost(0), 2.0, 4, scale=5.0)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3, 1, 2])

    def loss(x):
        return head.loss(x, y, "cosine_deviation", cross_entropy_share=share)

    total = 0.0
    for row, label in zip(x.detach(), y.tolist(), strict=True):
        for k in range(4):
            cosine = float(row @ head.frame[k]) / float(row.norm())
            total += (cosine - float(head.frame[label] @ head.frame[k])) ** 2
    wanted = share * float(cross_entropy(head(x.detach()), y)) + (1 - share) * total / (6 * 4)
    assert math.isclose(loss(x).item(), wanted, rel_tol=1e-12)
    assert torch.autograd.gradcheck(loss, x)


def test_features_on_their_vectors_cost_nothing_and_a_share_goes_with_every_kind():
    frame = simplex_etf(3, 2)
    head, y = FrameClassifier(frame, scale=2.0), torch.arange(3)
    assert float(head.loss(3 * frame, y, "cosine_deviation")) < 1e-30
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kind in ("dot_regression", "mse", "cosine_deviation"):
        wanted = 0.25 * head.loss(x, y) + 0.75 * head.loss(x, y, kind)
        torch.testing.assert_close(head.loss(x, y, kind, cross_entropy_share=0.25), wanted)


def test_mistakes_cost_less_than_with_a_simplex():
    """Noise takes features to the nearest vectors, and those are of classes that cost little."""
    tree = TREES["even"]
    cost, g = tree.cost(0), torch.Generator().manual_seed(0)
    y = torch.arange(6000) % 6
    noise = 0.6 * torch.randn(6000, 6, generator=g, dtype=torch.float64)
    severity = []
    for frame in (hierarchy_frame(cost, 1.0, 6), simplex_etf(6, 6)):
        pred = FrameClassifier(frame)(frame[y] + noise).argmax(1)
        severity.append(float(cost[pred, y][pred != y].double().mean()))
    assert severity[0] < severity[1] - 0.1


@pytest.mark.parametrize(
    ("cost", "gamma", "dim", "message"),
    [
        (torch.zeros(1, 1), 1.0, 2, "two classes"),
        (torch.tensor([[0.0, 1.0], [2.0, 0.0]]), 1.0, 2, "symmetric"),
        (torch.tensor([[0.0, -1.0], [-1.0, 0.0]]), 1.0, 2, "not negative"),
        (torch.zeros(2, 2), 1.0, 2, r"cost\[0, 1\] is 0"),
        (1 - torch.eye(3), 0.0, 3, "gamma"),
        (1 - torch.eye(3), 50.0, 1, "dim=1 must be at least 2"),
    ],
)
def test_bad_input_is_named(cost, gamma, dim, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        haframe_classifier(cost, gamma, dim)


def test_a_cost_without_a_frame_is_refused():
    # A cycle of four with chords that cost next to nothing: opposite classes are near, neighbours far.
    cost = torch.tensor([[0, 1, 9, 1], [1, 0, 1, 9], [9, 1, 0, 1], [1, 9, 1, 0]], dtype=torch.float64)
    near = (-0.1 * cost / 9).exp()
    assert torch.linalg.eigvalsh(near).min() < 0
    with pytest.raises(ValueError, match="no frame has these cosines"):
        hierarchy_cosines(cost, 0.1)
