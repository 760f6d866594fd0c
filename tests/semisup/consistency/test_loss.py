"""The worst-case consistency loss against loops, ties, empty masks and extremes."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from equipoise.core.validate import reset_warnings
from equipoise.semisup import (
    WorstCaseConsistencyLoss,
    confidence_mask,
    consistency_terms,
    worst_case_consistency_loss,
)

DIVERGENCES = ["ce_hard", "ce_soft", "kl", "mse"]


def _logits(n=7, classes=4, variants=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    weak = 2 * torch.randn(n, classes, generator=generator, dtype=dtype)
    return weak, torch.randn(variants, n, classes, generator=generator, dtype=dtype)


def _softmax(row, temperature=1.0):
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def _divergence(weak, strong, kind, temperature):
    q, p = _softmax(weak, temperature), _softmax(strong)
    if kind == "ce_hard":
        return -math.log(p[q.index(max(q))])
    if kind == "ce_soft":
        return -sum(a * math.log(b) for a, b in zip(q, p, strict=True))
    if kind == "kl":
        return sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True))
    return sum((a - b) ** 2 for a, b in zip(q, p, strict=True)) / len(q)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("aggregate", ["max", "mean"])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_it_is_the_sum_over_samples_and_views(divergence, aggregate, temperature):
    weak, strong = _logits()
    total, masks, worst, per_variant = 0.0, [], [], []
    for i, row in enumerate(weak.tolist()):
        losses = [_divergence(row, view[i].tolist(), divergence, temperature) for view in strong]
        masks.append(max(_softmax(row, temperature)) >= 0.7)
        worst.append(losses.index(max(losses)))
        per_variant.append(losses)
        total += masks[-1] * (max(losses) if aggregate == "max" else sum(losses) / len(losses))
    assert 0 < sum(masks) < len(masks)
    settings = {"aggregate": aggregate, "divergence": divergence, "temperature": temperature}
    terms = consistency_terms(weak, strong, threshold=0.7, **settings)
    assert float(terms.loss) == pytest.approx(total / len(weak), rel=1e-12)
    assert terms.mask.tolist() == masks
    assert terms.worst_index.tolist() == worst
    torch.testing.assert_close(terms.per_variant_loss, torch.tensor(per_variant, dtype=torch.float64).T)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_only_the_chosen_view_of_a_confident_sample_has_a_gradient(divergence):
    weak, strong = (each.requires_grad_() for each in _logits())
    terms = consistency_terms(weak, strong, threshold=0.7, divergence=divergence)
    terms.loss.backward()
    assert weak.grad is None
    has = strong.grad.abs().sum(2) > 0
    chosen = torch.zeros_like(has)
    chosen[terms.worst_index, torch.arange(7)] = terms.mask
    assert has.equal(chosen)
    assert torch.autograd.gradcheck(
        lambda s: worst_case_consistency_loss(weak, s, threshold=0.7, divergence=divergence), strong
    )


@pytest.mark.parametrize("aggregate", ["max", "mean"])
def test_one_view_is_fixmatch(aggregate):
    weak, strong = _logits(variants=1)
    label, mask = weak.argmax(1), weak.softmax(1).amax(1) >= 0.7
    leaf, own = strong.clone().requires_grad_(), strong[0].clone().requires_grad_()
    found = worst_case_consistency_loss(weak, leaf, threshold=0.7, aggregate=aggregate)
    wanted = (cross_entropy(own, label, reduction="none") * mask).mean()
    assert found.equal(wanted)
    found.backward(), wanted.backward()
    torch.testing.assert_close(leaf.grad[0], own.grad, rtol=1e-14, atol=0)


def test_kl_is_torchs():
    weak, strong = _logits()
    found = worst_case_consistency_loss(weak, strong[:1], threshold=0.0, divergence="kl")
    wanted = kl_div(strong[0].log_softmax(1), weak.log_softmax(1), reduction="batchmean", log_target=True)
    torch.testing.assert_close(found, wanted)


def test_of_equal_views_and_classes_the_first_is_chosen():
    weak = torch.tensor([[2.0, 2.0, 0.0]])
    strong = torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]], [[3.0, 0.0, 0.0]]]).requires_grad_()
    terms = consistency_terms(weak, strong, threshold=0.0)
    assert (terms.pseudo_label.item(), terms.worst_index.item()) == (0, 0)
    terms.loss.backward()
    assert strong.grad[1:].abs().sum() == 0
    torch.testing.assert_close(strong.grad[0, 0], strong[0, 0].detach().softmax(0) - torch.tensor([1.0, 0.0, 0.0]))


def test_a_confidence_equal_to_the_threshold_counts():
    assert confidence_mask(torch.zeros(1, 4), 0.25).item()
    assert not confidence_mask(torch.zeros(1, 4), 0.2500001).item()
    assert consistency_terms(torch.zeros(1, 4), torch.zeros(2, 1, 4), threshold=0.25).mask.item()


def test_thresholds_of_classes_are_looked_up_by_the_predicted_one():
    weak = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert confidence_mask(weak, torch.tensor([0.9, 0.6])).tolist() == [False, True]
    assert WorstCaseConsistencyLoss(torch.tensor([0.9, 0.6])).confident(weak).tolist() == [False, True]


def test_sharpened_targets_may_be_masked_by_unsharpened_confidence():
    weak, strong = _logits()
    settings = {"threshold": 0.8, "temperature": 0.4, "divergence": "kl"}
    plain = consistency_terms(weak, strong, **settings, confidence_temperature=1.0)
    assert plain.mask.equal(weak.softmax(1).amax(1) >= 0.8)
    assert plain.mask.sum() < consistency_terms(weak, strong, **settings).mask.sum()


def test_a_mask_takes_the_place_of_the_threshold():
    weak, strong = _logits()
    mask = torch.arange(7) % 2 == 0
    found = consistency_terms(weak, strong, mask=mask)
    torch.testing.assert_close(found.loss, found.per_variant_loss.amax(0)[mask].sum() / 7)


def test_an_empty_mask_gives_zero_that_is_attached():
    weak, strong = _logits()
    strong.requires_grad_()
    terms = consistency_terms(0 * weak, strong, threshold=0.95)
    assert terms.loss == 0
    terms.loss.backward()
    assert strong.grad.abs().sum() == 0
    numbers = terms.statistics()
    assert numbers["mask_rate"] == 0
    assert math.isnan(numbers["gap"])


def test_no_samples_give_zero_and_one_warning():
    reset_warnings()
    with pytest.warns(UserWarning, match="no samples"):
        loss = worst_case_consistency_loss(torch.zeros(0, 3), torch.zeros(2, 0, 3, requires_grad=True))
    assert loss == 0
    loss.backward()


def test_samples_views_and_classes_may_be_permuted():
    weak, strong = _logits()
    wanted = worst_case_consistency_loss(weak, strong, threshold=0.7)
    for order in (
        lambda w, s: (w.flip(0), s.flip(1)),
        lambda w, s: (w, s.flip(0)),
        lambda w, s: (w.flip(1), s.flip(2)),
    ):
        torch.testing.assert_close(worst_case_consistency_loss(*order(weak, strong), threshold=0.7), wanted)


def test_more_views_never_lower_the_loss_and_the_mean_is_below_the_worst():
    weak, strong = _logits(variants=5)
    losses = [float(worst_case_consistency_loss(weak, strong[:k], threshold=0.5)) for k in range(1, 6)]
    assert losses == sorted(losses)
    assert float(worst_case_consistency_loss(weak, strong, threshold=0.5, aggregate="mean")) < losses[-1]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_have_the_value_of_float64(divergence, dtype):
    weak = torch.tensor([[3e4, -3e4, 0.0], [0.0, 500.0, -500.0]], dtype=dtype)
    strong = torch.tensor([[[-3e4, 3e4, 0.0], [0.0, 400.0, 0.0]], [[0.0, 0.0, 0.0], [600.0, 0.0, 0.0]]], dtype=dtype)
    leaf = strong.clone().requires_grad_()
    found = worst_case_consistency_loss(weak, leaf, divergence=divergence, temperature=1e-3)
    wanted = worst_case_consistency_loss(weak.double(), strong.double(), divergence=divergence, temperature=1e-3)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
    found.backward()
    assert leaf.grad.dtype is dtype
    assert leaf.grad.isfinite().all()


def test_pixels_are_samples():
    generator = torch.Generator().manual_seed(0)
    weak, strong = (torch.randn(*shape, 2, 4, 3, 5, generator=generator) for shape in ((), (3,)))
    flat = (weak.movedim(1, -1).reshape(-1, 4), strong.movedim(2, -1).reshape(3, -1, 4))
    for divergence in DIVERGENCES:
        found = consistency_terms(weak, strong, threshold=0.5, divergence=divergence)
        wanted = consistency_terms(*flat, threshold=0.5, divergence=divergence)
        torch.testing.assert_close(found.loss, wanted.loss)
        assert found.worst_index.flatten().equal(wanted.worst_index)
        assert found.mask.shape == (2, 3, 5)


def test_statistics_are_those_of_confident_samples():
    terms = consistency_terms(*_logits(), threshold=0.7)
    losses = terms.per_variant_loss[:, terms.mask]
    numbers = terms.statistics()
    assert numbers["mask_rate"] == pytest.approx(float(terms.mask.double().mean()))
    assert numbers["gap"] == pytest.approx(float((losses.amax(0) - losses.mean(0)).mean()))
    for k in range(3):
        assert numbers[f"worst_is_{k + 1}"] == pytest.approx(float((losses.argmax(0) == k).double().mean()))


@pytest.mark.parametrize(
    ("weak", "strong", "message"),
    [
        ((4, 3), (4, 3), r"strong_logits.unsqueeze\(0\)"),
        ((4, 3), (2, 5, 3), r"strong_logits must have shape \(variants, 4, 3\).*got \(2, 5, 3\)"),
        ((4, 3), (2, 4, 2), r"got \(2, 4, 2\)"),
        ((4, 3), (0, 4, 3), "no views"),
        ((4, 1), (2, 4, 1), "at least 2 classes"),
    ],
)
def test_shapes_that_disagree_are_shown(weak, strong, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        worst_case_consistency_loss(torch.zeros(weak), torch.zeros(strong))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.1}, "threshold"),
        ({"threshold": torch.tensor([0.5, 2.0, 0.5])}, "threshold"),
        ({"threshold": torch.tensor([0.5, 0.5])}, "threshold"),
        ({"temperature": 0.0}, "temperature"),
        ({"divergence": "js"}, "divergence='js' is not known"),
        ({"aggregate": "median"}, "aggregate"),
    ],
)
def test_settings_out_of_range_are_named(settings, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        worst_case_consistency_loss(torch.zeros(4, 3), torch.zeros(2, 4, 3), **settings)


def test_nan_is_refused(plain_inputs):
    with pytest.raises(ValueError, match="strong_logits holds 1 NaN"):
        worst_case_consistency_loss(torch.zeros(1, 2), torch.tensor([[[0.0, torch.nan]]]))
