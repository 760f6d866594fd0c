"""All ranking losses against the double loop over pairs, and what they do on awkward batches."""

import itertools
import math

import pytest
import torch

from equipoise.core.pairs.surrogates import SURROGATES
from equipoise.ranking import (
    MulticlassAUCLoss,
    PairwiseAUCLoss,
    PartialAUCLoss,
    WeightedPartialAUCLoss,
    multiclass_auc_loss,
    pairwise_auc_loss,
    partial_auc_loss,
    weighted_partial_auc_loss,
)
from equipoise.ranking.multiclass_auc import plugin_scores
from equipoise.ranking.partial.weighted_partial_auc import calibrated_penalty, calibrated_weight

BINARY = [
    PairwiseAUCLoss(),
    PartialAUCLoss(0.4),
    PartialAUCLoss(0.4, 0.3),
    WeightedPartialAUCLoss("exp", 8.0),
    WeightedPartialAUCLoss("poly", 0.05, "one_way", "squared_hinge", normalize_weights=True),
]


def _batch(n=30, rate=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(n, generator=generator) < rate).long()
    return torch.randn(n, generator=generator, dtype=torch.float64) + target, target


def _dense(pos, neg, surrogate, margin=1.0):
    return SURROGATES[surrogate].value(pos[:, None] - neg[None, :], margin)


def _check_with_gradient(loss, dense, scores):
    mine, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    value, wanted = loss(mine), dense(theirs)
    torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)
    value.backward()
    wanted.backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_the_auc_loss_is_the_mean_over_all_pairs(surrogate):
    scores, target = _batch()
    _check_with_gradient(
        lambda s: pairwise_auc_loss(s, target, surrogate=surrogate, margin=0.7),
        lambda s: _dense(s[target == 1], s[target == 0], surrogate, 0.7).mean(),
        scores,
    )


def test_a_weight_of_two_is_a_sample_given_twice():
    scores, target = _batch()
    weight = torch.ones_like(scores)
    weight[3] = 2
    twice = torch.cat([scores, scores[3:4]]), torch.cat([target, target[3:4]])
    torch.testing.assert_close(pairwise_auc_loss(scores, target, sample_weight=weight), pairwise_auc_loss(*twice))


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("average", ["ovo", "ovr"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_multiclass_loss_is_the_double_loop_over_classes(surrogate, average, reduction):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    # Class 3 has no samples: its pairs are left out.
    target = torch.randint(0, 3, (40,), generator=generator)

    def dense(s):
        terms = []
        for i in range(3):
            pos = s[target == i, i]
            rest = [s[target == j, i] for j in range(3) if j != i]
            if average == "ovr":
                rest = [torch.cat(rest)]
            terms += [_dense(pos, neg, surrogate).mean() for neg in rest]
        total = torch.stack(terms)
        return total.mean() if reduction == "mean" else total.sum()

    _check_with_gradient(
        lambda s: multiclass_auc_loss(s, target, surrogate=surrogate, average=average, reduction=reduction),
        dense,
        scores,
    )


def test_two_columns_are_two_binary_problems_and_one_column_is_one():
    scores, target = _batch()
    two = torch.stack([-scores, scores], 1)
    torch.testing.assert_close(
        multiclass_auc_loss(two, target, surrogate="square"), pairwise_auc_loss(scores, target, surrogate="square")
    )
    torch.testing.assert_close(
        multiclass_auc_loss(scores[:, None], target), pairwise_auc_loss(scores, target, surrogate="square")
    )


@pytest.mark.parametrize(("max_fpr", "min_tpr"), [(0.25, 0.0), (0.33, 0.0), (0.4, 0.45), (1.0, 0.0)])
@pytest.mark.parametrize("boundary", ["floor", "fractional"])
def test_the_partial_loss_ranks_the_hardest_pairs(max_fpr, min_tpr, boundary):
    scores, target = _batch(40)

    def weights(n, fraction):
        kept = math.floor(n * fraction + 1e-9)
        weight = torch.zeros(n, dtype=torch.float64)
        weight[:kept] = 1
        if boundary == "fractional" and kept < n:
            weight[kept] = n * fraction - kept
        return weight

    def dense(s):
        pos, neg = s[target == 1].sort().values, s[target == 0].sort(descending=True).values
        w, v = weights(len(pos), 1 - min_tpr), weights(len(neg), max_fpr)
        return (w[:, None] * v * _dense(pos, neg, "squared_hinge")).sum() / (w.sum() * v.sum())

    _check_with_gradient(
        lambda s: partial_auc_loss(s, target, max_fpr=max_fpr, min_tpr=min_tpr, boundary=boundary), dense, scores
    )


@pytest.mark.parametrize("scheme", ["poly", "exp"])
@pytest.mark.parametrize("region", ["two_way", "one_way"])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("surrogate", ["square", "squared_hinge", "exponential"])
def test_the_weighted_loss_is_the_weighted_double_loop(scheme, region, detach, normalize, surrogate):
    scores, target = _batch()
    gamma = 0.3 if scheme == "poly" else 4.0

    def dense(s):
        p = s.sigmoid()
        pos, neg = p[target == 1], p[target == 0]
        psi = (lambda u: (u + 1e-6) ** gamma) if scheme == "poly" else (lambda u: 1 - torch.exp(-gamma * u))
        w = psi(1 - (pos.detach() if detach else pos)) if region == "two_way" else torch.ones_like(pos)
        v = psi(neg.detach() if detach else neg)
        if normalize:
            w, v = w / w.mean(), v / v.mean()
        return (w[:, None] * v * _dense(pos, neg, surrogate)).mean()

    _check_with_gradient(
        lambda s: weighted_partial_auc_loss(
            s,
            target,
            scheme=scheme,
            gamma=gamma,
            region=region,
            surrogate=surrogate,
            detach_weights=detach,
            normalize_weights=normalize,
        ),
        dense,
        scores,
    )


@pytest.mark.parametrize(("scheme", "gamma"), [("poly", 0.3), ("poly", 0.9), ("exp", 3.0)])
def test_the_weight_maximises_hardness_less_penalty(scheme, gamma):
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    for u in (0.05, 0.4, 0.9):
        best = grid[(grid * u - calibrated_penalty(grid, scheme, gamma)).argmax()]
        weight = calibrated_weight(torch.tensor(u, dtype=torch.float64), scheme, gamma, eps=0.0)
        # The exponential weight may exceed what a weight can be only in the limit; both stay in [0, 1].
        assert float(weight) == pytest.approx(float(best), abs=2e-5)


def test_concave_weights_bound_the_truncated_risk_and_convex_ones_do_not():
    generator = torch.Generator().manual_seed(0)

    def share_of_upper_bounds(scheme, gamma):
        held = 0
        for _ in range(60):
            a, b = 1 + 4 * torch.rand(2, generator=generator, dtype=torch.float64).sort().values
            # Beta(a, b) with whole and fractional parameters alike, by two gammas.
            low, high = (torch._standard_gamma(x.expand(360), generator=generator) for x in (a, b))
            beta = high / (low + high)
            pos, neg = beta[:60], 1 - beta[60:]
            scores = torch.cat([pos, neg]).clamp(0, 1)
            target = torch.cat([torch.ones(60), torch.zeros(300)]).long()
            weighted = weighted_partial_auc_loss(
                scores, target, scheme=scheme, gamma=gamma, from_logits=False, detach_weights=True
            )
            hard_pos, hard_neg = pos.sort().values[:18], neg.sort(descending=True).values[:90]
            held += float(weighted) >= float(_dense(hard_pos, hard_neg, "square").sum() / (60 * 300))
        return held / 60

    assert share_of_upper_bounds("poly", 0.05) == 1.0
    assert share_of_upper_bounds("exp", 8.0) == 1.0
    assert share_of_upper_bounds("poly", 3.0) < 0.1


@pytest.mark.parametrize("loss", BINARY, ids=lambda loss: f"{type(loss).__name__}-{loss.extra_repr()}")
class TestEveryBinaryLoss:
    def test_one_class_gives_an_attached_zero_and_one_warning(self, loss):
        scores = torch.randn(5, requires_grad=True)
        with pytest.warns(UserWarning, match="0 negatives"):
            value = loss(scores, torch.ones(5, dtype=torch.long))
        value.backward()
        assert value.item() == 0
        assert scores.grad.abs().sum() == 0
        loss(scores, torch.ones(5, dtype=torch.long))

    def test_extreme_scores_give_finite_values_and_gradients(self, loss):
        scores = torch.tensor([1e4, -1e4, 1e4, -1e4, 0.0, 0.0], requires_grad=True)
        value = loss(scores, torch.tensor([1, 1, 0, 0, 0, 1]))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(scores.grad).all()

    def test_the_order_of_samples_does_not_matter(self, loss):
        scores, target = _batch()
        order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(loss(scores, target), loss(scores[order], target[order]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_dtype_of_the_scores_is_kept(self, loss, dtype):
        scores, target = _batch()
        value = loss(scores.to(dtype), target)
        assert value.dtype == dtype
        assert float(value) == pytest.approx(float(loss(scores, target)), rel=0.05)

    def test_equal_scores_have_the_loss_of_a_tie_and_push_apart(self, loss):
        scores = torch.zeros(6, requires_grad=True)
        loss(scores, torch.tensor([1, 1, 0, 0, 0, 0])).backward()
        assert scores.grad[:2].sum() < 0 < scores.grad[2:].sum()

    def test_booleans_are_targets(self, loss):
        scores, target = _batch()
        torch.testing.assert_close(loss(scores, target.bool()), loss(scores, target))

    def test_bad_input_is_refused(self, loss, plain_inputs):
        with pytest.raises(ValueError, match="NaN"):
            loss(torch.tensor([math.nan, 0.0]), torch.tensor([1, 0]))
        with pytest.raises(ValueError, match="value 2"):
            loss(torch.zeros(2), torch.tensor([2, 0]))
        with pytest.raises(ValueError, match="shape"):
            loss(torch.zeros(2, 2), torch.tensor([1, 0]))


def test_multiclass_batches_of_one_class_give_an_attached_zero():
    scores = torch.randn(4, 3, requires_grad=True)
    with pytest.warns(UserWarning, match="1 class"):
        value = MulticlassAUCLoss()(scores, torch.zeros(4, dtype=torch.long))
    value.backward()
    assert value.item() == 0


def test_a_class_of_no_weight_is_a_class_that_is_absent():
    scores, target = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    for average in ("ovo", "ovr"):
        weighed = multiclass_auc_loss(scores, target, average=average, sample_weight=(target != 2).float())
        without = multiclass_auc_loss(scores[target != 2], target[target != 2], average=average)
        torch.testing.assert_close(weighed, without)


def test_the_softmax_is_applied_by_the_module():
    logits, target = torch.randn(9, 3) * 50, torch.arange(9) % 3
    torch.testing.assert_close(
        MulticlassAUCLoss(activation="softmax")(logits, target), multiclass_auc_loss(logits.softmax(1), target)
    )


def test_a_floor_that_selects_nothing_warns_and_is_zero():
    scores = torch.randn(5, requires_grad=True)
    with pytest.warns(UserWarning, match="less than one sample"):
        value = partial_auc_loss(scores, torch.tensor([1, 0, 0, 0, 0]), max_fpr=0.1, boundary="floor")
    value.backward()
    assert value.item() == 0


def test_the_warm_up_is_the_unweighted_loss_until_its_epoch():
    scores, target = _batch()
    loss = WeightedPartialAUCLoss("exp", 8.0, warmup_epochs=2)
    plain = pairwise_auc_loss(scores.sigmoid(), target, surrogate="square")
    loss.set_epoch(1)
    torch.testing.assert_close(loss(scores, target), plain)
    loss.set_epoch(2)
    torch.testing.assert_close(loss(scores, target), weighted_partial_auc_loss(scores, target, scheme="exp", gamma=8.0))


def test_plugin_scores_order_two_classes_by_probability_and_win_for_more():
    eta = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]], dtype=torch.float64)
    order = plugin_scores(eta, torch.tensor([0.9, 0.1]))[:, 1].argsort()
    assert torch.equal(order, eta[:, 1].argsort())
    # Exhaustive: over a few points, no ordering of class 0's column has a larger expected one-vs-one AUC.
    generator = torch.Generator().manual_seed(0)
    eta = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    eta /= eta.sum(1, keepdim=True)
    prior = eta.mean(0)

    def expected(column):
        wins = (column[:, None] > column[None, :]).double() + 0.5 * (column[:, None] == column[None, :]).double()
        return sum(float((eta[:, 0, None] * eta[None, :, j] / prior[j] * wins).sum()) for j in (1, 2))

    best = max(expected(torch.tensor(p, dtype=torch.float64)) for p in itertools.permutations(range(5)))
    assert expected(plugin_scores(eta, prior)[:, 0]) == pytest.approx(best)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, y: partial_auc_loss(s, y, max_fpr=0.0), "max_fpr=0.0"),
        (lambda s, y: partial_auc_loss(s, y, max_fpr=0.5, min_tpr=1.0), "min_tpr=1.0"),
        (lambda s, y: partial_auc_loss(s, y, max_fpr=0.5, boundary="round"), "boundary='round'"),
        (lambda s, y: weighted_partial_auc_loss(s, y, scheme="linear"), "scheme='linear'"),
        (lambda s, y: weighted_partial_auc_loss(s, y, gamma=0.0), "gamma=0.0"),
        (lambda s, y: weighted_partial_auc_loss(s, y, region="op"), "region='op'"),
        (lambda s, y: weighted_partial_auc_loss(s + 3, y, from_logits=False), "probabilities, not logits"),
        (lambda s, y: pairwise_auc_loss(s, y, surrogate="huber"), "surrogate='huber'"),
        (lambda s, y: pairwise_auc_loss(s, y, margin=-1.0), "margin=-1.0"),
        (lambda s, y: multiclass_auc_loss(s, y, average="ova"), "average='ova'"),
        (lambda s, y: multiclass_auc_loss(torch.zeros(2, 3), torch.tensor([0, 3])), "value 3"),
    ],
)
def test_settings_out_of_range_name_themselves(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2), torch.tensor([1, 0]))
