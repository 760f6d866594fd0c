"""The minimax form of the weighted partial AUC against the pairs that it does without."""

import io
import itertools

import pytest
import torch

from equipoise.core.solvers.saddle import descent_ascent, variables
from equipoise.ranking import (
    InstancewiseWeightedPartialAUCLoss,
    WeightedPartialAUCLoss,
    instancewise_weighted_objective,
    opauc,
    weighted_partial_auc_loss,
)

SETTINGS = [
    {"scheme": scheme, "gamma": gamma, "region": region, "margin": margin}
    for (scheme, gamma), region, margin in itertools.product(
        [("poly", 0.05), ("poly", 2.0), ("exp", 8.0)], ["two_way", "one_way"], [0.0, 0.6, 1.0]
    )
]


def _batch(n=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.arange(n) < n // 3).long()[torch.randperm(n, generator=generator)]
    return torch.randn(n, generator=generator, dtype=torch.float64) + target, target


def _weights(s, scheme, gamma):
    return (s + 1e-6) ** gamma if scheme == "poly" else 1 - (-gamma * s).exp()


def _pairs(scores, target, scheme, gamma, region, margin):
    s = scores.sigmoid()
    pos, neg = s[target == 1], s[target == 0]
    w = _weights(1 - pos, scheme, gamma) if region == "two_way" else torch.ones_like(pos)
    return ((margin - pos[:, None] + neg) ** 2 * w[:, None] * _weights(neg, scheme, gamma)).mean()


@pytest.mark.parametrize("settings", SETTINGS)
def test_at_the_saddle_point_value_and_gradient_are_those_of_the_pairs(settings):
    scores, target = _batch()
    for detach in (True, False):
        loss = InstancewiseWeightedPartialAUCLoss(**settings, detach_weights=detach).double()
        loss.initialize(scores, target)
        mine, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
        value, wanted = loss(mine, target), weighted_partial_auc_loss(theirs, target, **settings, detach_weights=detach)
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(value, _pairs(scores, target, **settings), rtol=1e-10, atol=1e-12)
        value.backward()
        wanted.backward()
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)
        # The derivative in every variable is zero there: the saddle point is stationary.
        assert loss.a.grad.abs().max() < 1e-9
        assert loss.b.grad.abs().max() < 1e-9


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("settings", [s for s in SETTINGS if s["margin"] == 0.6])
def test_a_step_in_a_raises_the_value_and_one_in_b_lowers_it(settings):
    scores, target = _batch()
    loss = InstancewiseWeightedPartialAUCLoss(**settings).double()
    loss.initialize(scores, target)
    best = loss(scores, target).item()
    for parameter, sign in ((loss.a, 1), (loss.b, -1)):
        for k, step in itertools.product(range(len(parameter)), (-0.1, 0.1)):
            with torch.no_grad():
                parameter[k] += step
            assert sign * (loss(scores, target).item() - best) > 1e-5
            with torch.no_grad():
                parameter[k] -= step


def test_the_objective_is_the_published_sum_of_squares():
    scores, target = _batch()
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(n, generator=generator, dtype=torch.float64) for n in (10, 8))
    s = scores.sigmoid()
    pos, neg = s[target == 1], s[target == 0]
    wp, wn = _weights(1 - pos, "exp", 4.0), _weights(neg, "exp", 4.0)
    cp, fp, qp = (float((wp * pos**k).mean()) for k in range(3))
    cn, fn, qn = (float((wn * neg**k).mean()) for k in range(3))

    def w(u, x):
        return 2 * u * x - u * u

    def v(whole, one, other, x, y):
        return w(whole, x + y) - w(one, x) - w(other, y)

    a_, b_ = a.tolist(), b.tolist()
    wanted = (
        v(b_[0], a_[0], a_[1], cp, cn) / 2
        - v(a_[2], b_[1], b_[2], cn, fp)
        + v(b_[3], a_[3], a_[4], cp, fn)
        + v(b_[4], a_[5], a_[6], cn, qp) / 2
        + v(b_[5], a_[7], a_[8], cp, qn) / 2
        - v(a_[9], b_[6], b_[7], fp, fn)
        + 0.3 * sum(x * x for x in a_)
        - 0.2 * sum(x * x for x in b_)
    )
    options = {"scheme": "exp", "gamma": 4.0, "detach_weights": False, "reg_a": 0.3, "reg_b": 0.2}
    assert instancewise_weighted_objective(scores, target, a, b, **options).item() == pytest.approx(wanted, rel=1e-10)
    leaves = [x.clone().requires_grad_() for x in (scores, a, b)]
    assert torch.autograd.gradcheck(lambda x, y, z: instancewise_weighted_objective(x, target, y, z, **options), leaves)


@pytest.mark.parametrize("region", ["two_way", "one_way"])
def test_by_the_prior_the_mean_over_single_samples_is_the_whole_with_its_gradient(region):
    scores, target = _batch(12)
    loss = InstancewiseWeightedPartialAUCLoss("exp", 4.0, region, prior=4 / 12).double()
    class_mean = InstancewiseWeightedPartialAUCLoss("exp", 4.0, region).double()
    whole, one_by_one = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    wanted = class_mean(whole, target)
    found = torch.stack([loss(one_by_one[k : k + 1], target[k : k + 1]) for k in range(12)]).mean()
    torch.testing.assert_close(found, wanted)
    for value, leaf in ((found, one_by_one), (wanted, whole)):
        value.backward()
        assert leaf.grad.abs().min() > 0
    torch.testing.assert_close(one_by_one.grad, whole.grad)
    torch.testing.assert_close(loss.a.grad, class_mean.a.grad)
    torch.testing.assert_close(loss.b.grad, class_mean.b.grad)


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_with_regularisation_the_start_is_stationary_too(margin):
    scores, target = _batch()
    loss = InstancewiseWeightedPartialAUCLoss(margin=margin, reg_a=0.4, reg_b=0.3).double()
    plain = InstancewiseWeightedPartialAUCLoss(margin=margin).double()
    for each in (loss, plain):
        each.initialize(scores, target)
        each(scores, target).backward()
        assert max(p.grad.abs().max() for p in each.parameters()) < 1e-9
    assert (loss.a < plain.a).all()
    assert (loss.b < plain.b).all()


def test_an_untrained_model_starts_at_its_saddle_point():
    loss = InstancewiseWeightedPartialAUCLoss("exp", 8.0)
    value = loss(torch.zeros(6), torch.tensor([1, 0, 0, 0, 1, 0]))
    torch.testing.assert_close(value, WeightedPartialAUCLoss("exp", 8.0)(torch.zeros(6), torch.tensor([1, 0] * 3)))


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("prior", [None, 10 / 30])
def test_descent_ascent_on_fixed_scores_comes_to_the_loss_of_the_pairs(prior):
    scores, target = _batch()
    loss = InstancewiseWeightedPartialAUCLoss("exp", 4.0, prior=prior).double()
    assert [v.ascends for v in variables(loss)] == [False, True]
    optimizer = descent_ascent(torch.optim.SGD, loss, lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(scores, target)
        value.backward()
        optimizer.step()
    torch.testing.assert_close(value.detach(), weighted_partial_auc_loss(scores, target, scheme="exp", gamma=4.0))


@pytest.mark.usefixtures("plain_inputs")
def test_a_linear_model_learns_from_batches_of_one_class():
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(400) < 40
    x = torch.randn(400, 3, generator=generator) + target[:, None] * torch.tensor([2.0, 1.0, 0.0])
    model = torch.nn.Linear(3, 1)
    loss = InstancewiseWeightedPartialAUCLoss("exp", 8.0, "one_way", prior=0.1)
    with torch.no_grad():
        model.weight.zero_()
    optimizer = descent_ascent(torch.optim.SGD, model, loss, lr=0.2, dual_lr=0.05)
    order = torch.randperm(400, generator=generator)
    rows = [part for label in (True, False) for part in order[target[order] == label].split(20)]
    for step in range(600):
        batch = rows[7 * step % len(rows)]
        optimizer.zero_grad()
        loss(model(x[batch]).squeeze(1), target[batch]).backward()
        optimizer.step()
    assert opauc(model(x).squeeze(1), target, 0.3) > 0.8


def test_a_batch_of_one_class_is_zero_without_a_prior_and_cannot_be_started_from():
    loss, logits = InstancewiseWeightedPartialAUCLoss(reg_a=0.5), torch.randn(4, requires_grad=True)
    with pytest.warns(UserWarning, match="zero on a batch of 0 positives and 4 negatives"):
        value = loss(logits, torch.zeros(4, dtype=torch.long))
    value.backward()
    assert value == 0
    with pytest.raises(ValueError, match="0 positives and 4 negatives"):
        loss.initialize(logits, torch.zeros(4, dtype=torch.long))


def test_a_state_dict_brings_every_variable_back():
    scores, target = _batch()
    loss, again = (InstancewiseWeightedPartialAUCLoss() for _ in range(2))
    loss.initialize(scores, target)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    assert again(scores, target) != loss(scores, target)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again(scores, target) == loss(scores, target)
