import math

import pytest
import torch

from equipoise.crowd import tie_log_probabilities, tie_metrics, tie_nll, tie_prediction, tie_probabilities
from equipoise.crowd.partial_ranking.metrics import answer_metrics
from equipoise.crowd.partial_ranking.tie_slopes import CURVATURE, tie_loss, tie_slopes, win_loss, win_slope

DOUBLE = {"dtype": torch.float64}
LINKS = ("logistic", "normal", "uniform")


def _distribution(link, t):
    if link == "logistic":
        return 1 / (1 + math.exp(-t))
    return 0.5 * math.erfc(-t / math.sqrt(2)) if link == "normal" else min(max((t + 1) / 2, 0), 1)


def _probabilities(link, d, width):
    low, high = _distribution(link, d - width), _distribution(link, d + width)
    return [1 - high, high - low, low]


@pytest.mark.parametrize("link", LINKS)
def test_probabilities_are_their_definition(link):
    generator = torch.Generator().manual_seed(0)
    d, width = torch.randn(40, generator=generator, **DOUBLE) * 2, torch.rand(40, generator=generator, **DOUBLE) * 2
    wanted = torch.tensor(
        [_probabilities(link, *pair) for pair in zip(d.tolist(), width.tolist(), strict=True)], **DOUBLE
    )
    found = tie_probabilities(d, width, link)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.sum(1), torch.ones(40, **DOUBLE))
    torch.testing.assert_close(tie_log_probabilities(d, width, link).exp(), found)


@pytest.mark.parametrize("link", ["logistic", "normal"])
def test_far_from_zero_logarithms_stay_exact_and_mirrored(link):
    d, width = torch.tensor([700.0, 40.0, 30.0, 0.0], **DOUBLE), torch.tensor([1e-3, 1e-3, 35.0, 1e-3], **DOUBLE)
    found = tie_log_probabilities(d, width, link)
    assert found.isfinite().all()
    torch.testing.assert_close(found, tie_log_probabilities(-d, width, link).flip(1), rtol=1e-12, atol=0.0)
    if link == "logistic":
        # log(2 sinh λ) − d − log((1 + e^{λ−d})(1 + e^{−λ−d})), of which the last is nothing at d = 700.
        torch.testing.assert_close(found[0, 1], torch.tensor(math.log(2 * math.sinh(1e-3)) - 700, **DOUBLE))
    else:
        # The density times the width, at leading order.
        torch.testing.assert_close(
            found[1, 1], torch.tensor(-800 - 0.5 * math.log(2 * math.pi) + math.log(2 * math.sinh(0.04) / 40), **DOUBLE)
        )


@pytest.mark.parametrize("link", LINKS)
def test_slopes_are_those_of_the_losses(link):
    generator = torch.Generator().manual_seed(1)
    d = (torch.randn(50, generator=generator, **DOUBLE) * 1.5).requires_grad_()
    width = (torch.rand(50, generator=generator, **DOUBLE) + 0.05).requires_grad_()
    wins = torch.autograd.grad(win_loss(d, link).sum(), d)[0]
    torch.testing.assert_close(win_slope(d.detach(), link), wins)
    ties = torch.autograd.grad(tie_loss(d, width, link).sum(), (d, width))
    for found, wanted in zip(tie_slopes(d.detach(), width.detach(), link), ties, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("link", ["logistic", "normal"])
def test_losses_of_paths_are_the_likelihood(link):
    d, width = torch.linspace(-5, 5, 11, **DOUBLE), torch.linspace(0.1, 2, 11, **DOUBLE)
    found = tie_log_probabilities(d, width, link)
    torch.testing.assert_close(win_loss(d - width, link), -found[:, 2])
    torch.testing.assert_close(tie_loss(d, width, link), -found[:, 1])


@pytest.mark.parametrize("link", LINKS)
def test_the_slope_of_a_win_changes_no_faster_than_its_bound(link):
    z = torch.linspace(-8, 8, 4001, **DOUBLE)
    change = torch.diff(win_slope(z, link)) / torch.diff(z)
    # The uniform link has a corner at 1, where it turns to certain.
    assert change[(z[1:] < 0.99) | (z[:-1] > 1)].max() <= CURVATURE[link] * 1.001
    assert change.min() >= -1e-9


@pytest.mark.parametrize("link", LINKS)
def test_the_loss_is_a_sum_over_answers_and_its_gradient_right(link):
    user, left, right = torch.tensor([[0, 1, 1, 2], [0, 1, 2, 0], [1, 2, 0, 2]])
    y = torch.tensor([1, -1, 0, 1])
    leaves = [
        each.requires_grad_()
        for each in (
            torch.tensor([0.1, 0.0, -0.1], **DOUBLE),
            torch.tensor(0.5, **DOUBLE),
            torch.tensor([[0.1, 0.0, 0.2], [0.0, -0.1, 0.1], [0.0, 0.0, 0.1]], **DOUBLE),
            torch.tensor([0.1, 0.0, -0.2], **DOUBLE),
        )
    ]

    def loss(*parts):
        return tie_nll(user, left, right, y, *parts, link)

    total = 0.0
    scores = (leaves[0] + leaves[2]).detach()
    widths = (leaves[1] + leaves[3]).detach()
    for u, i, j, said in zip(user.tolist(), left.tolist(), right.tolist(), y.tolist(), strict=True):
        total -= math.log(_probabilities(link, float(scores[u, i] - scores[u, j]), float(widths[u]))[said + 1])
    assert float(loss(*leaves).detach()) == pytest.approx(total / 4, rel=1e-9)
    assert float(tie_nll(user, left, right, y, *leaves, link, "sum").detach()) == pytest.approx(total, rel=1e-9)
    assert torch.autograd.gradcheck(loss, leaves)


def test_both_sides_swapped_is_the_same_answer():
    user, left, right = torch.tensor([[0, 0, 0], [0, 1, 2], [1, 2, 0]])
    y, score = torch.tensor([1, 0, -1]), torch.tensor([1.0, 0.3, -2.0])
    torch.testing.assert_close(tie_nll(user, left, right, y, score, 0.7), tie_nll(user, right, left, -y, score, 0.7))


def test_what_the_uniform_link_excludes_is_infinite_without_a_nan_in_the_gradient():
    score = torch.tensor([5.0, 0.0], requires_grad=True)
    zero = torch.zeros(1, dtype=torch.long)
    loss = tie_nll(zero, zero, zero + 1, zero - 1, score, 0.5, link="uniform")
    assert loss.detach().isinf()
    loss.backward()
    assert not score.grad.isnan().any()


def test_boundaries_are_ties_and_rules_differ():
    d, width = torch.tensor([0.5, -0.5, 0.6, -0.6]), torch.full((4,), 0.5)
    assert tie_prediction(d, width).tolist() == [0, 0, 1, -1]
    assert tie_prediction(torch.tensor([0.2, 0.0]), torch.tensor([0.5, 3.0]), "argmax").tolist() == [1, 0]


def test_without_a_threshold_nothing_ties():
    found = tie_probabilities(torch.tensor([0.3]), torch.zeros(1))
    assert found[0, 1] == 0
    torch.testing.assert_close(found.sum(), torch.tensor(1.0))


def test_metrics_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

    generator = torch.Generator().manual_seed(2)
    for size in (3, 7, 200):
        d, width = torch.randn(size, generator=generator), torch.rand(size, generator=generator)
        y = torch.randint(-1, 2, (size,), generator=generator)
        found = tie_metrics(d, width, y)
        pred = tie_prediction(d, width)
        options = {"average": "macro", "zero_division": 0}
        assert found.pred.equal(pred)
        assert found.micro_f1 == pytest.approx(accuracy_score(y, pred))
        assert found.macro_f1 == pytest.approx(f1_score(y, pred, **options))
        precision, recall = precision_score(y, pred, **options), recall_score(y, pred, **options)
        mean = 2 * precision * recall / (precision + recall) if precision + recall else 0
        assert found.macro_pr_f1 == pytest.approx(mean)


def test_a_class_that_nobody_said_or_predicted_does_not_count():
    assert answer_metrics(torch.tensor([1, -1, 1]), torch.tensor([1, -1, -1]))[1:] == pytest.approx(
        (2 / 3, 2 / 3, 0.75)
    )


def test_all_wrong_is_zero():
    assert answer_metrics(torch.tensor([1, 0]), torch.tensor([-1, 1]))[1:] == (0.0, 0.0, 0.0)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_answers_are_refused():
    one = torch.zeros(2, dtype=torch.long)
    score = torch.zeros(3)
    y = torch.tensor([1, 0])
    with pytest.raises(ValueError, match="item_i and item_j of row 1 are both 0"):
        tie_nll(one, torch.tensor([1, 0]), one, y, score, 1.0)
    with pytest.raises(ValueError, match="item_i of row 1 is 3, wanted 0 to 2"):
        tie_nll(one, torch.tensor([1, 3]), one, y, score, 1.0)
    with pytest.raises(ValueError, match="y holds the value 2"):
        tie_nll(one, one + 1, one, y + 1, score, 1.0)
    with pytest.raises(ValueError, match="user holds 1, but personal_score is of 1 users"):
        tie_nll(torch.tensor([0, 1]), one + 1, one, y, score, 1.0, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"threshold of user 0 .* is -1 in row 0"):
        tie_nll(one, one + 1, one, y, score, 1.0, None, torch.tensor([-2.0]))
    with pytest.raises(ValueError, match="common_threshold"):
        tie_nll(one, one + 1, one, y, score, 0.0)
