import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equipoise.core.class_stats import ClassStats
from equipoise.core.phases import set_epoch
from equipoise.longtail import (
    BalancedSoftmaxLoss,
    CDTLoss,
    ConfidenceScaleBank,
    CVSLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    PhasedLoss,
    ShotAccuracy,
    VSLoss,
    fit_confidence_scale,
    localization_loss,
    post_hoc_adjust,
)
from equipoise.longtail.reweighting.class_dependent import consistency_gap
from equipoise.longtail.reweighting.local_lipschitz import vs_local_lipschitz

COUNTS = [100, 46, 21, 10, 5]


def _world(seed=0, n=9, c=5):
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, c, generator=g, dtype=torch.float64), torch.randint(c, (n,), generator=g)


def _by_hand(logits, target, alpha, beta, delta):
    losses, weights = [], []
    for z, y in zip(logits.tolist(), target.tolist(), strict=True):
        scores = [b * v + d for b, v, d in zip(beta, z, delta, strict=True)]
        losses.append(alpha[y] * (math.log(sum(math.exp(s - scores[y]) for s in scores))))
        weights.append(alpha[y])
    return losses, weights


@pytest.mark.parametrize(("gamma", "tau", "nu"), [(0.3, 1.0, None), (0.0, 0.75, 0.25), (1.0, 0.0, 1.0)])
def test_the_family_is_its_formula_under_every_reduction(gamma, tau, nu):
    stats, (logits, target) = ClassStats.of(COUNTS), _world()
    weight = None if nu is None else stats.aligned_weights(nu)
    alpha = [1.0] * 5 if weight is None else weight.tolist()
    beta = [(n / 100) ** gamma for n in COUNTS]
    delta = [tau * math.log(n / sum(COUNTS)) for n in COUNTS]
    losses, weights = _by_hand(logits, target, alpha, beta, delta)
    expected = {"mean": sum(losses) / sum(weights), "batch_mean": sum(losses) / len(losses), "sum": sum(losses)}
    for reduction, value in expected.items():
        assert float(VSLoss(COUNTS, gamma, tau, weight, reduction=reduction)(logits, target)) == pytest.approx(value)
    each = VSLoss(COUNTS, gamma, tau, weight, reduction="none")(logits, target)
    torch.testing.assert_close(each, torch.tensor(losses, dtype=torch.float64))


def test_members_are_their_textbook_forms():
    logits, target = _world(1)
    prior = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    exp = counts * logits.exp()
    balanced = -(exp.gather(1, target[:, None]).squeeze(1) / exp.sum(1)).log().mean()
    torch.testing.assert_close(BalancedSoftmaxLoss(COUNTS)(logits, target), balanced)
    torch.testing.assert_close(
        LogitAdjustedLoss(COUNTS, 0.7)(logits, target), cross_entropy(logits + 0.7 * prior.log(), target)
    )
    torch.testing.assert_close(
        CDTLoss(COUNTS, 0.3)(logits, target), cross_entropy(logits * (counts / counts.max()) ** 0.3, target)
    )
    torch.testing.assert_close(VSLoss(COUNTS, 0, 0)(logits, target), cross_entropy(logits, target))
    cosines = logits / logits.abs().max()
    margins = 0.5 * (counts / counts.min()).pow(-0.25)
    moved = cosines.clone()
    for row, y in enumerate(target.tolist()):
        moved[row, y] -= margins[y]
    torch.testing.assert_close(LDAMLoss(COUNTS)(cosines, target), cross_entropy(30 * moved, target))
    torch.testing.assert_close(
        LDAMLoss(COUNTS, logits_scaled=True)(30 * cosines, target), LDAMLoss(COUNTS)(cosines, target)
    )


def test_with_equal_counts_all_but_ldam_are_cross_entropy():
    logits, target = _world(2)
    stats = ClassStats.of([7] * 5)
    plain = cross_entropy(logits, target)
    for loss in (
        VSLoss(stats, 0.5, 1.0, stats.aligned_weights(2.0)),
        BalancedSoftmaxLoss(stats),
        CDTLoss(stats),
        VSLoss(stats, weight=stats.effective_number_weights()),
    ):
        torch.testing.assert_close(loss(logits, target), plain)
    assert LDAMLoss(stats).margins.tolist() == [0.5] * 5


def test_gradients_are_the_closed_form_and_agree_with_finite_differences():
    logits, target = _world(3)
    stats = ClassStats.of(COUNTS)
    loss = VSLoss(COUNTS, 0.3, 1.0, stats.aligned_weights(0.5))
    logits.requires_grad_()
    loss(logits, target).backward()
    p = (loss.factor * logits.detach() + loss.offset).softmax(1)
    hot = nn.functional.one_hot(target, 5)
    expected = loss.weight[target, None] * loss.factor * (p - hot) / loss.weight[target].sum()
    torch.testing.assert_close(logits.grad, expected)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), logits)
    cosines = (logits.detach() / 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: LDAMLoss(COUNTS, s=3.0)(z, target), cosines)


def test_soft_targets_of_one_class_are_class_indices():
    logits, target = _world(4)
    stats = ClassStats.of(COUNTS)
    for reduction in ("sum", "none"):
        loss = VSLoss(COUNTS, 0.2, 1.0, stats.aligned_weights(0.5), reduction=reduction)
        torch.testing.assert_close(loss(logits, nn.functional.one_hot(target, 5).double()), loss(logits, target))


def test_ignored_samples_do_not_count():
    logits, target = _world(5)
    gone = target.clone()
    gone[::3] = -100
    kept = gone >= 0
    for reduction in ("mean", "batch_mean", "sum"):
        loss = VSLoss(COUNTS, reduction=reduction)
        torch.testing.assert_close(loss(logits, gone), loss(logits[kept], target[kept]))
    # −100 is 156 in eight bits, which is no class to leave out.
    wide = torch.zeros(2, 200, dtype=torch.float64)
    mean = VSLoss([1] * 200, reduction="batch_mean")
    assert float(mean(wide, torch.tensor([156, 3], dtype=torch.uint8))) == pytest.approx(math.log(200))
    with pytest.warns(UserWarning, match="ignored"):
        nothing = VSLoss(COUNTS)(logits.requires_grad_(), torch.full_like(target, -100))
    nothing.backward()
    assert float(logits.grad.abs().sum()) == 0


def test_huge_and_half_precision_logits_are_finite():
    logits = torch.tensor([[1e4, -1e4, 0, 0, 0]], requires_grad=True)
    VSLoss(COUNTS)(logits, torch.tensor([1])).backward()
    assert torch.isfinite(logits.grad).all()
    half, target = _world(6)
    for dtype in (torch.bfloat16, torch.float16):
        found = VSLoss(COUNTS)(half.to(dtype), target)
        assert found.dtype == torch.float32
        assert float(found) == pytest.approx(float(VSLoss(COUNTS)(half, target)), rel=2e-2)


def test_phases_follow_the_epoch_and_a_resumed_run_is_in_the_right_one():
    loss = localization_loss(COUNTS, gamma=0.3, tau=1.0, nu=0.25, late_tau=0.75)
    logits, target = _world(7)
    stats = ClassStats.of(COUNTS)
    early, late = VSLoss(COUNTS, 0.3, 1.0), VSLoss(COUNTS, 0.0, 0.75, stats.aligned_weights(0.25))
    for epoch in range(5):
        set_epoch(loss, epoch, 5)
        torch.testing.assert_close(loss(logits, target), (late if epoch >= 4 else early)(logits, target))
    never = PhasedLoss(early, late, start=1.0)
    never.set_epoch(99, 100)
    assert never.current is early
    never.set_epoch(3)
    with pytest.raises(RuntimeError, match="total"):
        never(logits, target)
    assert consistency_gap(0.75, 0.25) == 0


def test_constants_travel_with_the_module():
    loss = VSLoss(COUNTS, weight=torch.ones(5))
    other = VSLoss([5] * 5, weight=torch.full((5,), 2.0))
    other.load_state_dict(loss.state_dict())
    logits, target = _world(8)
    torch.testing.assert_close(other(logits, target), loss(logits, target))


def test_post_hoc_adjustment_is_a_shift():
    logits, _ = _world(9)
    prior = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    torch.testing.assert_close(post_hoc_adjust(logits, COUNTS, 0.5), logits - 0.5 * prior.log())


def test_the_calibrated_loss_has_two_phases():
    logits, target = _world(10)
    prior = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    kappa = torch.tensor([0.5, 0.2, 0.1, 1.0, 2.0], dtype=torch.float64)
    loss = CVSLoss(COUNTS, 0.15, 0.9, 0.2)
    torch.testing.assert_close(loss(logits, target), cross_entropy(logits * prior**0.15, target))
    loss.set_stage(1, kappa)
    torch.testing.assert_close(loss(logits, target), cross_entropy(logits * prior**0.15 / kappa, target))
    loss.set_stage(2, kappa)
    expected = cross_entropy(logits + 0.9 * (prior / kappa).log(), target, weight=prior**-0.2)
    torch.testing.assert_close(loss(logits, target), expected)
    again = CVSLoss(COUNTS, 0.15, 0.9, 0.2)
    again.load_state_dict(loss.state_dict())
    torch.testing.assert_close(again(logits, target), expected)


def _scale_by_hand(logits, target, bins, low, high, least):
    p, kappa = logits.softmax(1), []
    conf, pred = p.max(1)
    for c in range(logits.shape[1]):
        rows = (pred == c).nonzero().flatten().tolist()
        if len(rows) < least:
            kappa.append(1.0)
            continue
        cells = {}
        for r in rows:
            for k in range(bins):
                if k / bins < float(conf[r]) <= (k + 1) / bins:
                    cells.setdefault(k, []).append(r)
        if len(cells) < 2:
            kappa.append(1.0)
            continue
        top = bottom = 0.0
        for members in cells.values():
            q = sum(float(conf[r]) for r in members) / len(members)
            a = sum(int(target[r]) == c for r in members) / len(members)
            top, bottom = top + len(members) * q * a, bottom + len(members) * q * q
        kappa.append(min(max(1 / (top / bottom + 1e-6), low), high))
    return kappa


@pytest.mark.parametrize("seed", range(4))
def test_the_scale_is_the_fit_by_hand(seed):
    logits, target = _world(20 + seed, n=120, c=4)
    found = fit_confidence_scale(logits, target, n_bins=10, min_scale=0.2, max_scale=5.0, min_samples=8)
    assert found.tolist() == pytest.approx(_scale_by_hand(logits, target, 10, 0.2, 5.0, 8))


def test_the_bank_keeps_the_last_of_each_class_and_smooths():
    logits, target = _world(30, n=200, c=2)
    bank = ConfidenceScaleBank([150, 20], min_scale=0.1, max_scale=5.0)
    for rows in torch.arange(200).split(33):
        bank.update(logits[rows], target[rows])
    kept = [r for c, cap in ((0, 150), (1, 20)) for r in (target == c).nonzero().flatten().tolist()[-cap:]]
    fresh = fit_confidence_scale(logits[kept], target[kept], min_scale=0.1, max_scale=5.0)
    torch.testing.assert_close(bank.fit(), 0.9 + 0.1 * fresh, rtol=1e-14, atol=0)
    bank.restart()
    assert bank.kappa.tolist() == [1, 1]


def test_localized_constants_are_the_definition():
    logits, target = _world(40, n=40)
    stats = ClassStats.of(COUNTS)
    alpha, beta, delta = stats.aligned_weights(0.25), (stats.counts / 100) ** 0.3, stats.log_prior
    found = vs_local_lipschitz(logits, target, COUNTS, weight=alpha, factor=beta, offset=delta)
    lowest = [min(float(z[c]) for z, y in zip(logits, target, strict=True) if y == c) for c in range(5)]
    scores = [float(beta[c]) * lowest[c] + float(delta[c]) for c in range(5)]
    total = sum(math.exp(s) for s in scores)
    for c in range(5):
        spread = math.hypot(float(beta[c]), float(beta.sum() - beta[c]))
        expected = float(alpha[c]) * spread * (1 - math.exp(scores[c]) / total)
        assert float(found.mu[c]) == pytest.approx(expected)
    assert found.bottleneck == int(found.terms.argmax())
    with pytest.warns(UserWarning, match="class 4"):
        assert math.isnan(vs_local_lipschitz(logits[target < 4], target[target < 4], COUNTS).mu[4])


def test_groups_average_over_classes():
    metric = ShotAccuracy([500, 400, 50, 5])
    pred, target = torch.tensor([0, 0, 1, 2, 3, 3]), torch.tensor([0, 1, 1, 2, 2, 3])
    for rows in torch.arange(6).split(2):
        metric.update(pred[rows], target[rows])
    found = metric.compute()
    assert float(found["many"]) == pytest.approx((1 + 0.5) / 2)
    assert float(found["medium"]) == 0.5
    assert float(found["few"]) == 1
    assert float(found["balanced"]) == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)
    assert float(found["micro"]) == pytest.approx(4 / 6)
    partial = ShotAccuracy([500, 400, 50, 5])
    partial.update(torch.tensor([0]), torch.tensor([0]))
    assert float(partial.compute()["many"]) == 1
    assert math.isnan(partial.compute()["few"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VSLoss(COUNTS, weight=torch.tensor([1.0, 2.0])), "weight must hold 5"),
        (lambda: VSLoss(COUNTS, weight=torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0])), "weight must be greater than 0"),
        (lambda: VSLoss(COUNTS, weight=[1.0, 2.0, math.inf, 1.0, 1.0]), r"weight\[2\]=inf"),
        (lambda: VSLoss(COUNTS, reduction="max"), "reduction"),
        (lambda: VSLoss([1, 0]), "class 1 has 0"),
        (lambda: VSLoss(COUNTS)(torch.zeros(2, 4), torch.tensor([0, 1])), r"\(n, 5\)"),
        (lambda: VSLoss(COUNTS)(torch.zeros(2, 5), torch.tensor([0, 5])), "target holds 5"),
        (lambda: VSLoss(COUNTS)(torch.zeros(2, 5), torch.eye(5)[:2] - 0.1), "target must be at least 0"),
        (lambda: CVSLoss(COUNTS).set_stage(2, torch.zeros(5)), "kappa"),
        (lambda: CVSLoss(COUNTS).set_stage(3), "stage"),
        (lambda: ConfidenceScaleBank(COUNTS, min_scale=0.3), "must not be above max_scale=0.2"),
        (lambda: ConfidenceScaleBank(COUNTS, n_bins=1), "n_bins=1"),
        (lambda: ConfidenceScaleBank(COUNTS).update(torch.zeros(2, 4), torch.tensor([0, 1])), r"\(n, 5\)"),
        (lambda: ShotAccuracy(COUNTS, many=5, few=10), "few"),
    ],
)
def test_bad_input_is_named(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()


def test_strange_settings_are_warned_of_once():
    with pytest.warns(UserWarning, match="hardly counts"):
        VSLoss([10000, 1], gamma=1.0)
    with pytest.warns(UserWarning, match="cosines"):
        LDAMLoss(COUNTS)(torch.full((1, 5), 3.0), torch.tensor([0]))
