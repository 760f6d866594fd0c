"""Partial AUC with a memory per positive, against the objectives of the whole set that it follows."""

import io

import pytest
import torch

from equipoise.ranking import CVaRPartialAUCLoss, KLPartialAUCLoss, kl_partial_auc_loss, pairwise_auc_loss, tpauc
from equipoise.ranking.partial.partial_auc import partial_auc_loss

TEMPERATURES = [(0.7, None), (0.7, 1.3), (2.0, 0.4), (1.0, 1.0)]
LOSSES = [
    lambda n: CVaRPartialAUCLoss(n, 0.3),
    lambda n: KLPartialAUCLoss(n, 0.8),
    lambda n: KLPartialAUCLoss(n, 0.8, 0.5),
]


def _batch(n=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.arange(n) < n // 3).long()[torch.randperm(n, generator=generator)]
    return torch.randn(n, generator=generator, dtype=torch.float64) + target, target


def _pairs(scores, target):
    return (1 - scores[target == 1][:, None] + scores[target == 0][None]).clamp_min(0).square()


@pytest.mark.parametrize(("neg", "pos"), TEMPERATURES)
def test_the_soft_loss_is_its_formula_with_its_gradient(neg, pos):
    scores, target = _batch()
    mine, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    found = kl_partial_auc_loss(mine, target, temperature_neg=neg, temperature_pos=pos)
    inner = (_pairs(theirs, target) / neg).exp().mean(1)
    wanted = neg * inner.log().mean() if pos is None else pos * (inner ** (neg / pos)).mean().log()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_temperatures_reach_from_the_mean_over_pairs_to_the_hardest_pair():
    scores, target = _batch()
    pairs = _pairs(scores, target)

    def at(neg, pos):
        return kl_partial_auc_loss(scores, target, temperature_neg=neg, temperature_pos=pos)

    torch.testing.assert_close(at(1e6, 1e6), pairwise_auc_loss(scores, target), rtol=1e-4, atol=0)
    torch.testing.assert_close(at(0.5, 1e7), at(0.5, None), rtol=1e-5, atol=0)
    torch.testing.assert_close(at(1e-5, None), pairs.max(1).values.mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(at(1e-5, 1e-5), pairs.max(), rtol=1e-4, atol=0)
    torch.testing.assert_close(at(0.5, 0.5), 0.5 * (pairs / 0.5).exp().mean().log(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("neg", "pos"), TEMPERATURES)
@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_the_memory_gives_the_published_weights_of_pairs_from_the_second_visit_on(neg, pos, rate):
    scores, target = _batch()
    index = torch.arange(30)
    loss = KLPartialAUCLoss(30, neg, pos, rate, 0.6)
    u = w = None
    for seed in range(4):
        now = (scores + _batch(seed=seed)[0]).requires_grad_()
        exponentials = (_pairs(now.detach(), target) / neg).exp()
        u = exponentials.mean(1) if u is None else (1 - rate) * u + rate * exponentials.mean(1)
        power = u ** (0.0 if pos is None else neg / pos)
        w = power.mean() if w is None else 0.4 * w + 0.6 * power.mean()
        weight = (power / (1.0 if pos is None else w))[:, None] * exponentials / u[:, None]
        value = loss(now, target, index)
        value.backward()
        wanted = torch.autograd.grad((weight * _pairs(now, target)).mean(), now)[0]
        torch.testing.assert_close(now.grad, wanted, rtol=1e-9, atol=1e-12)
        estimate = neg * u.log().mean() if pos is None else pos * w.log()
        torch.testing.assert_close(value.detach(), estimate, rtol=1e-10, atol=0)
    assert (loss.log_mean == -torch.inf) == (pos is None)


@pytest.mark.parametrize(("neg", "pos"), TEMPERATURES)
def test_a_first_visit_and_no_memory_are_the_loss_of_the_batch(neg, pos):
    scores, target = _batch()
    exact = scores.clone().requires_grad_()
    kl_partial_auc_loss(exact, target, temperature_neg=neg, temperature_pos=pos).backward()
    for loss in (KLPartialAUCLoss(30, neg, pos), KLPartialAUCLoss(30, neg, pos, 1.0, 1.0)):
        for _ in range(1 + (loss.rate_neg == 1)):
            leaf = scores.clone().requires_grad_()
            loss(leaf, target, torch.arange(30)).backward()
            torch.testing.assert_close(leaf.grad, exact.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("plain_inputs")  # thousands of steps, each of which would be checked
@pytest.mark.parametrize("pos", [None, 0.5])
def test_the_mean_gradient_of_small_batches_comes_to_that_of_the_whole_set(pos):
    scores, target = _batch(60)
    members = {k: (target == k).nonzero().squeeze(1) for k in (0, 1)}
    exact = scores.clone().requires_grad_()
    kl_partial_auc_loss(exact, target, temperature_neg=0.7, temperature_pos=pos).backward()
    means = {}
    for rate in (1.0, 0.05):
        generator = torch.Generator().manual_seed(0)
        loss, total = KLPartialAUCLoss(60, 0.7, pos, rate, rate), torch.zeros_like(scores)
        for step in range(800):
            rows = torch.cat([m[torch.randperm(len(m), generator=generator)[:4]] for m in members.values()])
            leaf = scores[rows].clone().requires_grad_()
            loss(leaf, target[rows], rows).backward()
            if step >= 200:
                total[rows] += leaf.grad / 600
        means[rate] = float((total - exact.grad).norm() / exact.grad.norm())
    assert means[0.05] < 0.3 * means[1.0]


@pytest.mark.usefixtures("plain_inputs")  # as above
@pytest.mark.parametrize("max_fpr", [0.3, 1.0])
def test_thresholds_of_fixed_scores_come_to_the_exact_one_way_loss(max_fpr):
    scores, target = _batch(60)
    index = torch.arange(60)
    loss = CVaRPartialAUCLoss(60, max_fpr, threshold_lr=1.0)
    for step in range(600):
        loss.threshold_lr = 1.0 / (1 + step / 20)
        leaf = scores.clone().requires_grad_()
        value = loss(leaf, target, index)
        value.backward()
    exact = scores.clone().requires_grad_()
    wanted = partial_auc_loss(exact, target, max_fpr=max_fpr)
    wanted.backward()
    torch.testing.assert_close(value, wanted, rtol=0, atol=5e-3)
    assert value >= wanted - 1e-12
    assert loss.thresholds[target == 0].eq(0).all()
    torch.testing.assert_close(loss.eval()(scores, target), wanted.detach())


def test_a_threshold_moves_by_the_share_above_it_after_the_loss_was_taken():
    scores, target = torch.tensor([0.0, 1.0, 0.0, -3.0, 0.2]), torch.tensor([1, 1, 0, 0, 0])
    loss = CVaRPartialAUCLoss(9, 0.5, threshold_lr=0.25)
    index = torch.tensor([7, 2, 0, 1, 3])
    pairs = _pairs(scores.double(), target)
    torch.testing.assert_close(loss(scores, target, index).double(), (pairs / 0.5).mean(), rtol=1e-6, atol=0)
    # Two of three negatives are above 0 for the first, one for the second.
    wanted = torch.zeros(9, dtype=torch.float64)
    wanted[7], wanted[2] = -0.25 * (1 - 2 / 3 / 0.5), -0.25 * (1 - 1 / 3 / 0.5)
    torch.testing.assert_close(loss.thresholds, wanted)


@pytest.mark.parametrize("make", LOSSES)
def test_a_positive_given_twice_moves_its_memory_once_by_the_mean(make):
    scores, target = torch.tensor([0.3, 0.7, 0.1, -0.4]), torch.tensor([1, 1, 0, 0])
    twice, apart = make(4), make(4)
    twice(scores, target, torch.tensor([2, 2, 0, 1]))
    apart(scores, target, torch.tensor([2, 3, 0, 1]))
    if isinstance(twice, CVaRPartialAUCLoss):
        torch.testing.assert_close(twice.thresholds[2], apart.thresholds[2:].mean())
    else:
        torch.testing.assert_close(twice.log_means[2], apart.log_means[2:].exp().mean().log())


@pytest.mark.parametrize("make", LOSSES)
def test_evaluation_needs_no_index_and_leaves_the_memory(make):
    scores, target = _batch()
    loss = make(30)
    loss(scores, target, torch.arange(30))
    kept = {name: value.clone() for name, value in loss.state_dict().items()}
    fresh = make(30).eval()(scores, target)
    torch.testing.assert_close(loss.eval()(scores + 1, target), fresh)
    assert all(value.equal(kept[name]) for name, value in loss.state_dict().items())


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("make", LOSSES)
def test_a_missing_index_and_one_of_no_sample_are_refused(make):
    scores, target = _batch()
    with pytest.raises(ValueError, match="index is missing"):
        make(30)(scores, target)
    with pytest.raises(ValueError, match="index holds the value 29, but the last of 20 samples is 19"):
        make(20)(scores, target, torch.arange(30))


@pytest.mark.parametrize("make", LOSSES)
def test_a_batch_of_one_class_gives_zero_and_leaves_the_memory(make):
    loss, logits = make(5), torch.randn(5, requires_grad=True)
    kept = {name: value.clone() for name, value in loss.state_dict().items()}
    with pytest.warns(UserWarning, match="zero on a batch of 5 positives"):
        value = loss(logits, torch.ones(5, dtype=torch.long), torch.arange(5))
    value.backward()
    assert value == 0
    assert all(v.equal(kept[name]) for name, v in loss.state_dict().items())


@pytest.mark.parametrize("make", LOSSES)
def test_a_state_dict_brings_the_memory_back(make):
    scores, target = _batch()
    index, loss, again = torch.arange(30), make(30), make(30)
    for _ in range(3):
        loss(scores, target, index)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again(scores + 1, target, index) == loss(scores + 1, target, index)
    with pytest.raises(RuntimeError, match="size mismatch"):
        make(31).load_state_dict(loss.state_dict())


@pytest.mark.usefixtures("plain_inputs")  # as above
@pytest.mark.parametrize("make", LOSSES)
def test_a_linear_model_learns_from_small_batches(make):
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(400) % 10 == 0
    x = torch.randn(400, 3, generator=generator) + target[:, None] * torch.tensor([1.5, 1.0, 0.0])
    model, loss = torch.nn.Linear(3, 1), make(400)
    with torch.no_grad():
        model.weight.zero_()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    members = [(target == k).nonzero().squeeze(1) for k in (True, False)]
    for _ in range(150):
        rows = torch.cat(
            [m[torch.randperm(len(m), generator=generator)[:k]] for m, k in zip(members, (4, 12), strict=True)]
        )
        optimizer.zero_grad()
        loss(model(x[rows]).squeeze(1), target[rows], rows).backward()
        optimizer.step()
    assert tpauc(model(x).squeeze(1), target, max_fpr=0.5, min_tpr=0.5) > 0.6
