import math

import pytest
import torch
from torch import nn

from equipoise.core.phases import WarmUp, set_epoch
from equipoise.openworld import AUTKCLoss, TKPRLoss, TopKEntropyLoss, TopKHingeLoss, autkc, autkc_loss
from equipoise.openworld.topk.autkc_loss import highest_wrong

ELL = {
    "square": lambda t: (1 - t) ** 2,
    "exponential": lambda t: math.exp(-t),
    "logistic": lambda t: math.log1p(math.exp(-t)),
    "hinge": lambda t: max(0.0, 1 - t),
    "squared_hinge": lambda t: max(0.0, 1 - t) ** 2,
}


def _world(seed=0, n=7, c=6, rounded=False):
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, c, generator=g, dtype=torch.float64)
    return (logits.round() if rounded else logits), torch.randint(c, (n,), generator=g)


def _by_hand(row, label, k, surrogate, comparators, activation):
    values = row.softmax(0).tolist() if activation == "softmax" else row.tolist()
    others = [v for j, v in enumerate(values) if comparators == "all+1" or j != label]
    taken = sorted(others, reverse=True)[: k if comparators == "negatives" else k + 1]
    return sum(ELL[surrogate](values[label] - t) for t in taken) / k


@pytest.mark.parametrize("surrogate", list(ELL))
@pytest.mark.parametrize("comparators", ["negatives+1", "all+1", "negatives"])
@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_the_loss_is_the_sum_over_the_highest(surrogate, comparators, activation):
    for seed, k in ((0, 1), (1, 3), (2, 5), (3, 6)):
        logits, target = _world(seed, rounded=seed == 2)
        options = {"k": k, "surrogate": surrogate, "comparators": comparators, "activation": activation}
        expected = [
            _by_hand(row, label, k, surrogate, comparators, activation)
            for row, label in zip(logits, target.tolist(), strict=True)
        ]
        found = autkc_loss(logits, target, reduction="none", **options)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(autkc_loss(logits, target, **options), found.mean())
        torch.testing.assert_close(autkc_loss(logits, target, reduction="sum", **options), found.sum())


@pytest.mark.parametrize("surrogate", ["square", "exponential", "logistic"])
@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_gradients_agree_with_finite_differences(surrogate, activation):
    logits, target = _world(4)
    logits.requires_grad_()
    options = {"k": 2, "surrogate": surrogate, "activation": activation}
    assert torch.autograd.gradcheck(lambda x: autkc_loss(x, target, **options), logits)


def test_no_activation_belongs_to_the_hinge_and_the_softmax_to_the_others():
    assert AUTKCLoss(surrogate="hinge").activation == "none"
    assert AUTKCLoss(surrogate="hinge", activation="softmax").activation == "softmax"
    assert AUTKCLoss().activation == "softmax"


def test_with_the_0_1_loss_the_negatives_give_one_minus_autkc():
    from equipoise.core.pairs.surrogates import Surrogate

    def none(t, margin):
        return torch.zeros_like(t)

    step = Surrogate("step", lambda t, margin: (t <= 0).to(t.dtype), none, none)
    for seed in range(5):
        logits, target = _world(seed, n=30, rounded=True)
        for k in (1, 3, 5):
            found = autkc_loss(logits, target, k=k, surrogate=step, comparators="negatives", activation="none")
            torch.testing.assert_close(found, 1 - autkc(logits, target, k))


def test_the_highest_wrong_labels_are_those_of_a_sort():
    g = torch.Generator().manual_seed(5)
    scores, target = torch.randn(50, 8, generator=g), torch.randint(8, (50,), generator=g)
    masked = scores.scatter(1, target[:, None], -torch.inf)
    for k in (1, 4, 7, 9):
        found = highest_wrong(scores, target, k)
        assert torch.equal(found, masked.topk(min(k, 7), dim=1).indices)


def test_ignored_samples_do_not_count():
    logits, target = _world(6)
    target[[1, 4]] = -100
    kept = target >= 0
    for reduction in ("mean", "sum"):
        found = autkc_loss(logits, target, ignore_index=-100, reduction=reduction)
        torch.testing.assert_close(found, autkc_loss(logits[kept], target[kept], reduction=reduction))
    each = autkc_loss(logits, target, ignore_index=-100, reduction="none")
    assert each[~kept].tolist() == [0, 0]
    torch.testing.assert_close(each[kept], autkc_loss(logits[kept], target[kept], reduction="none"))


def test_huge_logits_stay_finite_with_the_softmax():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    for surrogate in ELL:
        value = autkc_loss(logits, torch.tensor([1]), k=1, surrogate=surrogate, activation="softmax")
        value.backward()
        assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    with pytest.warns(UserWarning, match="exp"):
        autkc_loss(logits, torch.tensor([1]), k=1, surrogate="exponential", activation="none")


def _psi(row, label, k, variant):
    own = row[label]
    wrong = sorted((v for j, v in enumerate(row) if j != label), reverse=True)
    raised = sorted((v + (j != label) for j, v in enumerate(row)), reverse=True)[:k]
    if variant == 1:
        return max(0.0, 1 + wrong[k - 1] - own)
    if variant == 2:
        return max(0.0, sum(raised) / k - own)
    if variant == 3:
        return sum(max(0.0, a - own) for a in raised) / k
    if variant == 4:
        return max(0.0, 1 + sum(wrong[:k]) / k - own)
    return max(0.0, 1 + sorted(row, reverse=True)[k] - own)


@pytest.mark.parametrize("variant", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_hinges_are_their_formulas(variant, k):
    logits, target = _world(8, n=20)
    # All scores below zero: a label that is blanked out by zero would come first.
    logits = logits - 10
    expected = [_psi(row, y, k, variant) for row, y in zip(logits.tolist(), target.tolist(), strict=True)]
    assert float(TopKHingeLoss(k, variant)(logits, target)) == pytest.approx(sum(expected) / len(expected))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_truncated_entropy_is_its_formula(k):
    logits, target = _world(9, n=20)
    expected = []
    for row, y in zip(logits.tolist(), target.tolist(), strict=True):
        wrong = sorted((v for j, v in enumerate(row) if j != y), reverse=True)[k - 1 :]
        expected.append(math.log1p(sum(math.exp(v - row[y]) for v in wrong)))
    assert float(TopKEntropyLoss(k)(logits, target)) == pytest.approx(sum(expected) / len(expected))
    assert torch.isfinite(TopKEntropyLoss(k)(1e4 * logits, target))


@pytest.mark.parametrize(
    "loss", [TopKEntropyLoss(2), *(TopKHingeLoss(2, variant) for variant in (1, 2, 3, 4, 5))], ids=repr
)
def test_gradients_of_the_baselines_agree_with_finite_differences(loss):
    logits, target = _world(10)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


def test_a_list_longer_than_the_classes_and_targets_outside_them_are_named(plain_inputs):
    for loss in (AUTKCLoss(k=4), TopKHingeLoss(3), TopKEntropyLoss(3)):
        with pytest.raises(ValueError, match="k="):
            loss(torch.randn(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="target holds the value -1"):
        autkc_loss(torch.randn(2, 3), torch.tensor([-100, -1]), k=2, ignore_index=-100)


def test_a_warm_up_ends_at_its_epoch_and_a_resumed_run_is_in_the_right_phase():
    loss = WarmUp(nn.CrossEntropyLoss(), AUTKCLoss(k=2), epochs=3)
    logits, target = _world(11)
    for epoch in range(6):
        set_epoch(loss, epoch, 6)
        expected = nn.functional.cross_entropy(logits, target) if epoch < 3 else autkc_loss(logits, target, k=2)
        torch.testing.assert_close(loss(logits, target), expected)
    again = WarmUp(nn.CrossEntropyLoss(), AUTKCLoss(k=2), epochs=3)
    set_epoch(again, 5, 6)
    assert isinstance(again.current, AUTKCLoss)
    assert isinstance(WarmUp(nn.CrossEntropyLoss(), AUTKCLoss(), epochs=0).current, AUTKCLoss)
    with pytest.raises(ValueError, match="epochs"):
        WarmUp(nn.CrossEntropyLoss(), AUTKCLoss(), epochs=-1)


def test_a_warm_up_passes_masks_on():
    loss = WarmUp(nn.MSELoss(), TKPRLoss(k=1), epochs=0)
    logits, target = torch.randn(4, 5), torch.eye(4, 5).long()
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[:, 4] = False
    torch.testing.assert_close(loss(logits, target, mask=mask), TKPRLoss(k=1)(logits, target, mask))
