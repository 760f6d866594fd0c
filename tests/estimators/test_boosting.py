"""Gradients against finite differences, the Hessian bound against the dense Hessian, selections, stopping."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn")

from equipoise.core.pairs.surrogates import SURROGATES
from equipoise.estimators.boosting import RankingObjective, Watch, hardest_share, judge, phases
from equipoise.ranking.criteria import Criterion

REGIONS = {
    "auc": {},
    "partial_auc": {"max_fpr": 0.3},
    "two_way_partial_auc": {"max_fpr": 0.35, "min_tpr": 0.4},
    "weighted_partial_auc": {},
}
CASES = list(itertools.product(REGIONS, SURROGATES))


def _sample(seed=0, n=23, positives=7):
    random = np.random.RandomState(seed)
    target = np.zeros(n, dtype=np.float32)
    target[random.permutation(n)[:positives]] = 1
    return random.randn(n) + 0.5 * target, target, random.uniform(0.2, 2.0, n)


def _pair_weights(objective, scores, target, weight):
    """w_i v_j of every pair, normalised, and the scale c, written out by hand."""
    pos, neg = target == 1, target == 0
    w, v = weight[pos].copy(), weight[neg].copy()
    scale = 2 * w.sum() * v.sum() / (w.sum() + v.sum())
    if objective.objective == "weighted_partial_auc":
        v = v * (1 - np.exp(-objective.gamma / (1 + np.exp(-scores[neg]))))
        if objective.min_tpr is not None:
            w = w * (1 - np.exp(-objective.gamma / (1 + np.exp(scores[pos]))))
    if objective.objective in ("partial_auc", "two_way_partial_auc"):
        v = _keep_hardest(v, scores[neg], objective.max_fpr)
    if objective.objective == "two_way_partial_auc":
        w = _keep_hardest(w, -scores[pos], 1 - objective.min_tpr)
    return scale, np.outer(w / w.sum(), v / v.sum())


def _keep_hardest(weight, hardness, fraction):
    left, kept = fraction * weight.sum(), np.zeros_like(weight)
    for k in np.argsort(-hardness):
        kept[k] = min(weight[k], left)
        left -= kept[k]
    return kept


def _dense(objective, scores, target, weight, pairs=None):
    """Value, gradient and the full Hessian over all pairs, the pair weights held fixed."""
    scale, found = _pair_weights(objective, scores, target, weight)
    pairs = found if pairs is None else pairs
    surrogate = SURROGATES[objective.surrogate]
    pos, neg = np.flatnonzero(target == 1), np.flatnonzero(target == 0)
    t = torch.from_numpy(scores[pos][:, None] - scores[neg][None, :])
    value = scale * (pairs * surrogate.value(t, objective.margin).numpy()).sum()
    slope = scale * pairs * surrogate.slope(t, objective.margin).numpy()
    curvature = scale * pairs * surrogate.curvature(t, objective.margin).numpy()
    gradient, hessian = np.zeros(len(scores)), np.zeros((len(scores), len(scores)))
    for a, i in enumerate(pos):
        for b, j in enumerate(neg):
            gradient[i] += slope[a, b]
            gradient[j] -= slope[a, b]
            direction = np.zeros(len(scores))
            direction[i], direction[j] = 1, -1
            hessian += curvature[a, b] * np.outer(direction, direction)
    return value, gradient, hessian, pairs


@pytest.mark.parametrize(("name", "surrogate"), CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_all_pairs(name, surrogate, weighted):
    scores, target, weight = _sample()
    objective = RankingObjective(name, surrogate, margin=0.8, **REGIONS[name])
    value, gradient, _, _ = _dense(objective, scores, target, weight if weighted else np.ones_like(weight))
    given_weight = weight if weighted else None
    assert objective.value(scores, target, given_weight) == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(objective.gradient_hessian(scores, target, given_weight)[0], gradient, atol=1e-10)


@pytest.mark.parametrize(("name", "surrogate"), CASES)
def test_gradient_agrees_with_finite_differences_at_fixed_pair_weights(name, surrogate):
    scores, target, weight = _sample(1)
    objective = RankingObjective(name, surrogate, margin=0.8, **REGIONS[name])
    *_, pairs = _dense(objective, scores, target, weight)
    gradient, _ = objective.gradient_hessian(scores, target, weight)
    for k in range(len(scores)):
        step = np.zeros_like(scores)
        step[k] = 1e-6
        ahead, behind = (_dense(objective, scores + s, target, weight, pairs)[0] for s in (step, -step))
        assert gradient[k] == pytest.approx((ahead - behind) / 2e-6, abs=1e-6)


@pytest.mark.parametrize(("name", "surrogate"), [c for c in CASES if c[1] != "hinge"])
def test_the_hessian_is_twice_the_diagonal_and_bounds_the_dense_hessian(name, surrogate):
    scores, target, weight = _sample(2)
    objective = RankingObjective(name, surrogate, margin=0.8, **REGIONS[name])
    _, _, dense, _ = _dense(objective, scores, target, weight)
    _, hessian = objective.gradient_hessian(scores, target, weight)
    np.testing.assert_allclose(hessian, 2 * dense.diagonal(), atol=1e-10)
    assert np.linalg.eigvalsh(np.diag(hessian) - dense).min() > -1e-9 * hessian.max()


def test_the_diagonal_alone_would_not_bound_the_hessian():
    scores, target, weight = _sample(2)
    _, _, dense, _ = _dense(RankingObjective("auc", "square"), scores, target, weight)
    assert np.linalg.eigvalsh(np.diag(dense.diagonal()) - dense).min() < -0.1


def test_every_hessian_entry_is_positive():
    scores, target, _ = _sample()
    far = np.where(target == 1, 50.0, -50.0)
    for (name, surrogate), given_scores in itertools.product(CASES, (scores, far)):
        _, hessian = RankingObjective(name, surrogate, **REGIONS[name]).gradient_hessian(given_scores, target)
        assert hessian.min() > 0


def test_a_leaf_of_wrong_hinge_pairs_steps_half_a_margin():
    target = np.array([1, 1, 0, 0, 0])
    gradient, hessian = RankingObjective("auc", "hinge", margin=3.0).gradient_hessian(np.zeros(5), target)
    np.testing.assert_allclose(-gradient / hessian, [1.5, 1.5, -1.5, -1.5, -1.5])


def test_logistic_pairs_start_with_the_gradient_of_log_loss_at_the_prior():
    target = np.array([1] * 3 + [0] * 17)
    gradient, _ = RankingObjective("auc", "logistic").gradient_hessian(np.full(20, 0.7), target)
    np.testing.assert_allclose(gradient, 3 / 20 - target)


def test_gradients_sum_to_zero_and_ignore_a_common_shift():
    scores, target, weight = _sample()
    for name, surrogate in CASES:
        if name == "weighted_partial_auc":
            continue
        objective = RankingObjective(name, surrogate, **REGIONS[name])
        gradient, hessian = objective.gradient_hessian(scores, target, weight)
        shifted_gradient, shifted_hessian = objective.gradient_hessian(scores + 7, target, weight)
        assert abs(gradient.sum()) < 1e-9
        np.testing.assert_allclose(shifted_gradient, gradient, atol=1e-9)
        np.testing.assert_allclose(shifted_hessian, hessian, atol=1e-9)


def test_whole_weights_count_as_repeated_samples():
    scores, target, _ = _sample()
    weight = np.where(np.arange(len(scores)) % 3 == 0, 2.0, 1.0)
    repeat = weight.astype(int)
    for name in REGIONS:
        objective = RankingObjective(name, "logistic", **REGIONS[name])
        gradient, hessian = objective.gradient_hessian(scores, target, weight)
        long_gradient, long_hessian = objective.gradient_hessian(scores.repeat(repeat), target.repeat(repeat))
        first = np.cumsum(repeat) - repeat
        np.testing.assert_allclose(gradient, np.add.reduceat(long_gradient, first), atol=1e-10)
        np.testing.assert_allclose(hessian, np.add.reduceat(long_hessian, first), atol=1e-10)


def test_tied_scores_share_the_selection_equally():
    target = np.array([1, 1, 0, 0, 0, 0, 0])
    objective = RankingObjective("two_way_partial_auc", "logistic", max_fpr=0.3, min_tpr=0.5)
    gradient, _ = objective.gradient_hessian(np.zeros(7), target)
    expected, _ = RankingObjective("auc", "logistic").gradient_hessian(np.zeros(7), target)
    np.testing.assert_allclose(gradient, expected)


def test_the_whole_region_is_the_whole_auc():
    scores, target, weight = _sample()
    whole = RankingObjective("two_way_partial_auc", "squared_hinge", max_fpr=1.0, min_tpr=0.0)
    both = (o.gradient_hessian(scores, target, weight) for o in (whole, RankingObjective("auc", "squared_hinge")))
    for mine, wanted in zip(*both, strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-12)


def test_samples_outside_the_region_get_no_gradient():
    scores, target = np.array([2.0, 0.0, 1.0, -1.0, -2.0, -3.0]), np.array([1, 1, 0, 0, 0, 0])
    gradient, _ = RankingObjective("partial_auc", "logistic", max_fpr=0.25).gradient_hessian(scores, target)
    assert (gradient[:3] != 0).all()
    assert (gradient[3:] == 0).all()


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.5, 1.0, 2.0])), min_size=1, max_size=12),
    st.floats(0.01, 1.0),
)
@settings(max_examples=100, deadline=None)
def test_shares_of_the_hardest_sum_to_the_fraction_and_depend_on_the_score_only(samples, fraction):
    hardness, weight = (np.array(x, dtype=np.float64) for x in zip(*samples, strict=True))
    share = hardest_share(hardness, fraction, weight)
    assert (share * weight).sum() == pytest.approx(fraction * weight.sum())
    assert ((share >= 0) & (share <= 1)).all()
    for a, b in itertools.combinations(range(len(share)), 2):
        if hardness[a] == hardness[b]:
            assert share[a] == share[b]
        elif share[min(a, b, key=lambda k: hardness[k])] > 0:
            assert share[max(a, b, key=lambda k: hardness[k])] == pytest.approx(1)
    np.testing.assert_allclose(
        hardest_share(hardness, fraction), hardest_share(hardness, fraction, np.ones_like(hardness))
    )


def test_multiclass_auc_is_the_sum_over_ordered_pairs_of_classes():
    random = np.random.RandomState(4)
    target = np.array([0] * 4 + [1] * 6 + [2] * 9)
    scores = random.randn(19, 3)
    gradient, hessian = RankingObjective("auc", "logistic").gradient_hessian(scores, target)
    wanted = torch.from_numpy(scores).requires_grad_()
    loss = 0
    counts = np.bincount(target)
    for i, j in itertools.permutations(range(3), 2):
        pairs = wanted[target == i, i][:, None] - wanted[target == j, i][None, :]
        scale = 2 * counts[i] * (19 - counts[i]) / 19
        loss = loss + scale * torch.nn.functional.softplus(-pairs).mean() / 2
    loss.backward()
    np.testing.assert_allclose(gradient, wanted.grad.numpy(), atol=1e-10)
    assert hessian.min() > 0
    assert RankingObjective("auc", "logistic").value(scores, target) == pytest.approx(loss.item())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives_come_in_the_dtype_of_the_scores(dtype):
    scores, target, weight = _sample()
    for weights in (None, weight):
        for name in REGIONS:
            objective = RankingObjective(name, **REGIONS[name])
            for derivative in objective.gradient_hessian(scores.astype(dtype), target, weights):
                assert derivative.dtype == dtype


def test_extreme_scores_give_finite_derivatives():
    target = np.array([1, 0, 1, 0])
    for name, surrogate in CASES:
        if surrogate == "exponential":
            continue
        objective = RankingObjective(name, surrogate, **REGIONS[name])
        for derivative in objective.gradient_hessian(np.array([-1e4, 1e4, 1e4, -1e4]), target):
            assert np.isfinite(derivative).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "aucc"}, "choose one of 'auc'"),
        ({"surrogate": "cubic"}, "surrogate='cubic'"),
        ({"margin": 0.0}, "margin=0.0"),
        ({"objective": "partial_auc"}, "needs max_fpr"),
        ({"objective": "two_way_partial_auc", "max_fpr": 0.1}, "needs min_tpr"),
        ({"objective": "partial_auc", "max_fpr": 5.0}, r"max_fpr=5.0 must lie in \(0, 1\]; did you mean 0.05"),
        ({"objective": "two_way_partial_auc", "max_fpr": 0.1, "min_tpr": 1.0}, "min_tpr=1.0"),
        ({"objective": "weighted_partial_auc", "gamma": -1.0}, "gamma=-1.0"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        RankingObjective(**settings)


@pytest.mark.parametrize(
    ("scores", "target", "weight", "message"),
    [
        ([0.0, 1.0], [1, 1], None, "compares two classes"),
        ([0.0, 1.0], [1, 0], [1.0, 0.0], "compares two classes"),
        ([0.0, 1.0], [1, 0, 0], None, "must agree"),
        ([0.0, float("nan")], [1, 0], None, "NaN"),
        ([0.0, 1.0, 2.0], [1, 0, 0], [1.0, 2.0, -1.0], "at least 0"),
    ],
)
def test_bad_input_is_refused(scores, target, weight, message):
    with pytest.raises(ValueError, match=message):
        RankingObjective().gradient_hessian(
            np.array(scores), np.array(target), None if weight is None else np.array(weight)
        )


def test_partial_objectives_refuse_several_columns():
    with pytest.raises(ValueError, match="two classes"):
        RankingObjective("partial_auc", max_fpr=0.1).gradient_hessian(np.zeros((3, 3)), np.arange(3))


def test_the_criterion_is_judged_on_float_labels():
    assert judge(Criterion("auroc"), np.array([0.1, 0.9]), np.array([0.0, 1.0], dtype=np.float32)) == 1.0


def test_watch_waits_for_the_warm_start_and_keeps_the_first_best():
    watch = Watch(patience=2, least_rounds=3)
    assert [watch.stop(v) for v in (0.9, 0.5, float("nan"), 0.9, 0.8)] == [False, False, False, False, True]
    assert watch.best_round == 1


def test_without_patience_nothing_stops():
    watch = Watch()
    assert not any(watch.stop(-k) for k in range(100))


def test_phases_split_the_rounds():
    assert phases(len, 10, 3) == [(3, None), (7, len)]
    assert phases(len, 10, 0) == [(10, len)]
    assert phases(None, 10, 3) == [(10, None)]
    with pytest.raises(ValueError, match="less than num_boost_round=10"):
        phases(len, 10, 10)
    with pytest.raises(ValueError, match="at least"):
        phases(len, 0, 0)
