"""The losses against loops over their formulas, gradients as written down, limits, and what is refused."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from equipoise.multimodal import ReconcilementLoss, memory_consolidation_loss, reconcilement_loss, residual_target


def _batch(n=6, classes=4, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits, others = (scale * torch.randn(n, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return logits, torch.randint(classes, (n,), generator=generator), others


def _softmax(row):
    top = [math.exp(value - max(row)) for value in row]
    return [value / sum(top) for value in top]


def _by_hand(logits, target, others, w1, w2, mode, average):
    losses = []
    for row, label, other in zip(logits.tolist(), target.tolist(), others.tolist(), strict=True):
        p, q = _softmax(row), _softmax(other)
        if mode == "target":
            loss = -(w1 - w2 * q[label]) * math.log(p[label])
        else:
            loss = -w1 * math.log(p[label]) - w2 * sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        losses.append(loss / len(row) if average else loss)
    return losses


@pytest.mark.parametrize("mode", ["target", "kl"])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(("w1", "w2"), [(5.0, 1.0), (1.0, 0.25), (2.0, 2.0), (3.0, 0.0)])
def test_the_loss_is_its_formula(mode, average, w1, w2):
    logits, target, others = _batch()
    wanted = torch.tensor(_by_hand(logits, target, others, w1, w2, mode, average), dtype=torch.float64)
    given = {"label_weight": w1, "reconcile_weight": w2, "mode": mode, "class_average": average}
    for reduction, reduced in (("none", wanted), ("mean", wanted.mean()), ("sum", wanted.sum())):
        torch.testing.assert_close(reconcilement_loss(logits, target, others, reduction=reduction, **given), reduced)


@pytest.mark.parametrize("mode", ["target", "kl"])
def test_the_gradient_is_the_one_written_down(mode):
    logits, target, others = _batch()
    logits.requires_grad_()
    others.requires_grad_()
    reconcilement_loss(logits, target, others, mode=mode, label_weight=3.0, reduction="sum").backward()
    p, q = logits.detach().softmax(1), others.detach().softmax(1)
    t = torch.nn.functional.one_hot(target, 4).double()
    known = q.gather(1, target[:, None])
    wanted = (3 - known) * (p - t) if mode == "target" else (3 - 1) * p - (3 * t - q)
    torch.testing.assert_close(logits.grad, wanted / 4)
    assert others.grad is None


@pytest.mark.parametrize("mode", ["target", "kl"])
def test_the_first_turn_is_weighted_cross_entropy(mode):
    logits, target, _ = _batch()
    found = reconcilement_loss(logits, target, None, label_weight=3.0, mode=mode)
    torch.testing.assert_close(found, 3 * cross_entropy(logits, target) / 4)


def test_what_the_others_know_counts_less():
    logits, target = torch.zeros(2, 3), torch.tensor([0, 0])
    others = torch.tensor([[50.0, 0.0, 0.0], [-50.0, 0.0, 0.0]])
    known, missed = reconcilement_loss(logits, target, others, reduction="none", class_average=False).tolist()
    assert known == pytest.approx(4 * math.log(3))
    assert missed == pytest.approx(5 * math.log(3))


def test_with_equal_weights_the_divergence_is_the_fit_of_the_residual():
    logits, target, others = _batch()
    given = {"label_weight": 1.0, "mode": "kl", "class_average": False, "reduction": "none"}
    found = reconcilement_loss(logits, target, others, **given)
    q = others.softmax(1)
    fit = -(residual_target(others, target) * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(found, fit - (q * q.log()).sum(1))


def test_the_residual_is_the_negative_gradient_of_the_others():
    _, target, others = _batch()
    others.requires_grad_()
    cross_entropy(others, target, reduction="sum").backward()
    torch.testing.assert_close(residual_target(others, target), -others.grad)
    torch.testing.assert_close(residual_target(others, target, 0.25).sum(1), torch.full((6,), 0.75).double())
    assert not residual_target(others, target).requires_grad


def test_the_divergence_has_no_lower_bound_and_the_target_mode_has():
    others, target = torch.zeros(1, 3), torch.tensor([0])
    values = {"kl": [], "target": []}
    for depth in (10.0, 100.0, 1000.0):
        logits = torch.tensor([[depth, 0.0, -depth]])
        for mode, found in values.items():
            found.append(float(reconcilement_loss(logits, target, others, mode=mode, label_weight=1.0)))
    assert values["kl"][2] < 5 * values["kl"][1] < 25 * values["kl"][0] < 0
    assert all(value >= 0 for value in values["target"])


@pytest.mark.parametrize("mode", ["target", "kl"])
def test_adding_a_number_to_the_logits_of_a_sample_changes_nothing(mode):
    logits, target, others = _batch()
    moved = reconcilement_loss(logits + 7, target, others - 5, mode=mode)
    torch.testing.assert_close(moved, reconcilement_loss(logits, target, others, mode=mode))


@pytest.mark.parametrize("mode", ["target", "kl"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_extreme_logits_of_both_sides_are_finite(mode, dtype):
    logits = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 6e4, 0.0]], dtype=dtype, requires_grad=True)
    others = torch.tensor([[-6e4, 6e4, 0.0], [-6e4, 6e4, 0.0]], dtype=dtype)
    loss = reconcilement_loss(logits, torch.tensor([1, 1]), others, mode=mode)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("alpha", [0.5, 2.0, 0.0])
def test_consolidation_is_its_formula_and_its_gradient_flows(alpha):
    logits, _, previous = _batch()
    logits.requires_grad_()
    previous.requires_grad_()
    loss = memory_consolidation_loss(logits, previous, alpha)
    wanted = [
        (a - b) ** 2
        for row, other in zip(logits.tolist(), previous.tolist(), strict=True)
        for a, b in zip(_softmax(row), _softmax(other), strict=True)
    ]
    assert float(loss.detach()) == pytest.approx(alpha * sum(wanted) / len(wanted))
    loss.backward()
    assert previous.grad is None
    assert bool(logits.grad.abs().sum() > 0) == (alpha > 0)
    assert torch.autograd.gradcheck(lambda z: memory_consolidation_loss(z, previous.detach(), alpha), logits)


def test_a_step_down_the_consolidation_goes_toward_the_memory():
    logits, _, previous = _batch()
    logits.requires_grad_()
    before = memory_consolidation_loss(logits, previous)
    before.backward()
    assert memory_consolidation_loss(logits.detach() - logits.grad, previous) < before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(3)}, "logits must have shape"),
        ({"other_logits": torch.zeros(3, 5)}, "other_logits must have shape"),
        ({"other_logits": torch.zeros(2, 4)}, "other_logits must have shape"),
        ({"target": torch.zeros(3)}, "target must"),
        ({"target": torch.tensor([0, 1, 4])}, "target holds the value 4"),
        ({"target": torch.tensor([0, 1, -1])}, "target holds the value -1"),
        ({"target": torch.tensor([0, 1])}, "target must have shape"),
        ({"logits": torch.full((3, 4), torch.nan)}, "logits holds 12 NaN"),
        ({"other_logits": torch.full((3, 4), torch.inf)}, "other_logits holds 12 NaN or infinite"),
        ({"label_weight": 0.5}, "label_weight=0.5 is below reconcile_weight=1"),
        ({"reconcile_weight": -1.0}, "reconcile_weight"),
        ({"mode": "full"}, "mode='full' is not known"),
        (
            {"logits": torch.zeros(3, 1), "other_logits": torch.zeros(3, 1), "target": torch.zeros(3).long()},
            "at least 2 classes",
        ),
        (
            {"logits": torch.zeros(0, 4), "other_logits": torch.zeros(0, 4), "target": torch.zeros(0).long()},
            "is empty",
        ),
    ],
)
def test_bad_batches_are_refused(change, message, plain_inputs):
    good = {"logits": torch.zeros(3, 4), "target": torch.tensor([0, 1, 3]), "other_logits": torch.zeros(3, 4)}
    with pytest.raises(ValueError, match=message):
        reconcilement_loss(**{**good, **change})


def test_weights_that_reward_wrong_answers_need_to_be_asked_for(plain_inputs):
    with pytest.raises(ValueError, match="allow_negative=True"):
        ReconcilementLoss(1.0, 2.0)
    logits, target, others = _batch()
    given = {"label_weight": 1.0, "reconcile_weight": 2.0}
    wanted = _by_hand(logits, target, others, 1.0, 2.0, "target", average=True)
    allowed = ReconcilementLoss(**given, allow_negative=True, reduction="sum")
    assert float(allowed(logits, target, others)) == pytest.approx(sum(wanted))
    ReconcilementLoss(**given, mode="kl")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: memory_consolidation_loss(x, x[:2]), "previous_logits must have shape"),
        (lambda x: memory_consolidation_loss(x, x, -0.5), "alpha"),
        (lambda x: memory_consolidation_loss(x[:, :1], x[:, :1]), "at least 2 classes"),
        (lambda x: memory_consolidation_loss(x[:0], x[:0]), "is empty"),
        (lambda x: residual_target(x, torch.tensor([0, 1, 4])), "target holds the value 4"),
        (lambda x: residual_target(x[:, :1], torch.zeros(3).long()), "at least 2 classes"),
        (lambda x: residual_target(x, torch.zeros(3).long(), -1.0), "reconcile_weight"),
    ],
)
def test_bad_arguments_of_the_other_terms_are_refused(call, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3, 4))
