"""`columnwise_pairwise_loss` against a loop of `pairwise_loss` over the columns."""

import math

import pytest
import torch

from equipoise.core.pairs.loss import columnwise_pairwise_loss, pairwise_loss
from equipoise.core.pairs.surrogates import SURROGATES

SURROGATE_KINDS = [*SURROGATES, lambda t: torch.nn.functional.softplus(0.5 - t) ** 2]


def one_hot_problem(n=40, classes=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(3)
    scores = torch.randn(n, classes, generator=g, dtype=torch.float64).to(dtype)
    target = torch.randint(0, classes, (n,), generator=g)
    role = torch.nn.functional.one_hot(target, classes).to(dtype)
    rarity = 1 / role.sum(0)[target]
    return scores, role, (1 - role) * rarity[:, None]


def looped(scores, w, v, surrogate, margin):
    return torch.stack(
        [pairwise_loss(scores[:, k], scores[:, k], surrogate, margin, w[:, k], v[:, k]) for k in range(scores.shape[1])]
    )


@pytest.mark.parametrize("surrogate", SURROGATE_KINDS)
def test_columns_equal_a_loop_with_all_gradients(surrogate):
    scores, w, v = one_hot_problem()
    scores, w, v = (x.requires_grad_() for x in (scores, w, v))
    upstream = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    found = columnwise_pairwise_loss(scores, w, v, surrogate, 0.8)
    wanted = looped(scores, w, v, surrogate, 0.8)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found @ upstream, (scores, w, v)), torch.autograd.grad(wanted @ upstream, (scores, w, v))
    )


@pytest.mark.parametrize("surrogate", SURROGATE_KINDS)
def test_scores_alone_may_need_gradients(surrogate):
    scores, w, v = one_hot_problem()
    scores.requires_grad_()
    found = torch.autograd.grad(columnwise_pairwise_loss(scores, w, v, surrogate).sum(), scores)
    masked = sum(
        pairwise_loss(scores[w[:, k] > 0, k], scores[v[:, k] > 0, k], surrogate, 1.0, None, v[v[:, k] > 0, k])
        for k in range(4)
    )
    torch.testing.assert_close(found, torch.autograd.grad(masked, scores))


@pytest.mark.parametrize("surrogate", SURROGATE_KINDS)
def test_a_column_without_both_sides_gives_zero_and_no_gradient(surrogate):
    scores, w, v = one_hot_problem()
    scores = scores.clone()
    scores[:, 1] += 50
    w[:, 1] = 0
    v[:, 2] = 0
    scores, w, v = (x.requires_grad_() for x in (scores, w, v))
    loss = columnwise_pairwise_loss(scores, w, v, surrogate)
    assert (loss == 0).tolist() == [False, True, True, False]
    for gradient in torch.autograd.grad(loss.sum(), (scores, w, v)):
        assert torch.isfinite(gradient).all()
        assert not gradient[:, 1:3].any()
        assert gradient[:, 0].any()


@pytest.mark.parametrize("surrogate", SURROGATE_KINDS)
def test_a_sample_may_be_on_both_sides(surrogate):
    scores, _, _ = one_hot_problem(n=7)
    weight = torch.ones_like(scores)
    expected = torch.stack([pairwise_loss(s, s, surrogate) for s in scores.T])
    torch.testing.assert_close(columnwise_pairwise_loss(scores, weight, weight, surrogate), expected)


def test_no_rows_and_no_columns():
    empty = torch.zeros(0, 3, requires_grad=True)
    assert columnwise_pairwise_loss(empty, empty.detach(), empty.detach()).tolist() == [0, 0, 0]
    assert columnwise_pairwise_loss(torch.zeros(3, 0), torch.zeros(3, 0), torch.zeros(3, 0)).shape == (0,)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_float32_columns_far_from_zero_keep_their_digits(surrogate):
    scores, w, v = one_hot_problem(n=300)
    scores = (scores + torch.tensor([1e4, -1e4, 0.0, 300.0])).float()
    found = columnwise_pairwise_loss(scores, w.float(), v.float(), surrogate)
    assert found.dtype == torch.float32
    expected = columnwise_pairwise_loss(scores.double(), w.float().double(), v.float().double(), surrogate)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(3), r"scores must have shape \(n, columns\), got \(3,\)"),
        (0, torch.full((3, 2), math.nan), "scores holds 6 NaN"),
        (1, torch.ones(3, 1), r"pos_weight must have shape \(n, columns\)"),
        (2, -torch.ones(3, 2), "neg_weight must be at least 0"),
    ],
)
def test_bad_input_is_named(position, value, message):
    given = [torch.zeros(3, 2), torch.ones(3, 2), torch.ones(3, 2)]
    given[position] = value
    with pytest.raises(ValueError, match=message):
        columnwise_pairwise_loss(*given)
