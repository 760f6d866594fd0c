"""The energy gap against the double loop over pairs, when it is switched on, and whom it takes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from equipoise.openworld import (
    ConfidenceControlLoss,
    EDGELoss,
    EnergyMarginLoss,
    OutlierExposureLoader,
    UniformExposureLoss,
    confidence_control_loss,
    energy_gap_loss,
    energy_margin_loss,
    joint_energy,
    uniform_exposure_loss,
)

SURROGATES = {
    "hinge": lambda lack: lack.relu(),
    "squared_hinge": lambda lack: lack.relu().square(),
    "square": lambda lack: lack.square(),
    "logistic": softplus,
}


def _batch(n=12, m=9, classes=5, seed=0, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    id_logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    ood_logits = scale * torch.randn(m, classes, generator=generator, dtype=torch.float64)
    target = (torch.rand(n, classes, generator=generator) < 0.3).long()
    return id_logits.to(dtype), target, ood_logits.to(dtype)


def _dense(id_energy, ood_energy, k, margin, surrogate="hinge"):
    """Every pair written out."""
    weakest = id_energy[id_energy.detach().argsort(stable=True)[:k]]
    return SURROGATES[surrogate](ood_energy[:, None] - weakest[None, :] + margin).mean()


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("k", [1, 5, 12, 50])
def test_the_gap_is_the_mean_over_all_pairs(surrogate, margin, k):
    id_logits, _, ood_logits = _batch()
    sides = [joint_energy(x) for x in (id_logits, ood_logits)]
    mine, theirs = ([x.clone().requires_grad_() for x in sides] for _ in range(2))
    value = energy_gap_loss(*mine, k=k, margin=margin, surrogate=surrogate)
    wanted = _dense(*theirs, k, margin, surrogate)
    torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)
    value.backward()
    wanted.backward()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_gap_is_right_on_ties(known, outliers, k, margin):
    known, outliers = (torch.tensor(x, dtype=torch.float64) for x in (known, outliers))
    value = energy_gap_loss(known, outliers, k=k, margin=margin)
    assert float(value) == pytest.approx(float(_dense(known, outliers, k, margin)), rel=1e-12, abs=1e-15)


def test_pairs_on_the_kink_have_no_slope():
    known = torch.tensor([1.0, 1.0, 7.0], requires_grad=True)
    outliers = torch.tensor([1.0, 0.5], requires_grad=True)
    energy_gap_loss(known, outliers, k=2).backward()
    assert not known.grad.any()
    assert not outliers.grad.any()


def test_a_tie_at_the_kth_goes_to_the_earlier_sample():
    known = torch.ones(40, requires_grad=True)
    energy_gap_loss(known, torch.tensor([2.0]), k=3).backward()
    assert known.grad.nonzero().squeeze(1).tolist() == [0, 1, 2]


def test_the_whole_loss_is_what_its_definition_says():
    id_logits, target, ood_logits = _batch()
    loss = EDGELoss(alpha=0.7, beta=0.3, k=4, margin=0.5, start_epoch=0)
    parts = loss(id_logits, target, ood_logits, return_parts=True)
    of_id = -torch.where(target == 1, id_logits.sigmoid().log(), (1 - id_logits.sigmoid()).log()).mean()
    conf = -(1 - ood_logits.sigmoid()).log().mean()
    gap = _dense(joint_energy(id_logits), joint_energy(ood_logits), 4, 0.5)
    for mine, wanted in zip(parts[1:], (of_id, conf, gap), strict=True):
        torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(parts.value, of_id + 0.7 * conf + 0.3 * gap)
    torch.testing.assert_close(loss(id_logits, target, ood_logits), parts.value)


@pytest.mark.parametrize("surrogate", ["hinge", "squared_hinge", "logistic"])
def test_gradients_agree_with_finite_differences(surrogate):
    id_logits, target, ood_logits = _batch(6, 4, 3)
    loss = EDGELoss(beta=1.0, k=3, margin=0.25, surrogate=surrogate)
    sides = [x.requires_grad_() for x in (id_logits, ood_logits)]
    assert torch.autograd.gradcheck(lambda a, b: loss(a, target, b), sides)


def test_the_order_of_samples_does_not_matter():
    id_logits, target, ood_logits = _batch()
    loss, order = EDGELoss(k=4), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(id_logits, target, ood_logits), loss(id_logits[order], target[order], ood_logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_loses_no_digits_beyond_those_of_the_logits(dtype):
    id_logits, target, ood_logits = _batch(dtype=dtype)
    value = EDGELoss(k=4)(id_logits, target, ood_logits)
    wanted = EDGELoss(k=4)(id_logits.double(), target, ood_logits.double())
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_huge_logits_do_not_overflow(size):
    id_logits, target, _ = _batch(dtype=torch.float32, scale=size)
    ood_logits = torch.full((3, 5), size, requires_grad=True)
    parts = EDGELoss(k=4)(id_logits, target, ood_logits, return_parts=True)
    assert parts.loss_conf.item() == pytest.approx(size, rel=1e-6)
    parts.value.backward()
    assert all(bool(x.isfinite().all()) for x in (*parts, ood_logits.grad))


@pytest.mark.parametrize("surrogate", ["hinge", "squared_hinge", "square"])
def test_tiny_energies_keep_their_gap(surrogate):
    known, outliers = (torch.tensor(x, dtype=torch.float64) * 1e-20 for x in ([1.0, 4.0], [3.0]))
    wanted = float(SURROGATES[surrogate](torch.tensor(2e-20, dtype=torch.float64)))
    assert float(energy_gap_loss(known, outliers, k=1, surrogate=surrogate)) == pytest.approx(wanted, rel=1e-12, abs=0)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("margin", [0.25, 1.0, 3.0])
def test_a_margin_is_a_shift_of_the_known_energies(surrogate, margin):
    known, _, outliers = (joint_energy(x) if x.is_floating_point() else x for x in _batch())
    value = energy_gap_loss(known, outliers, k=5, margin=margin, surrogate=surrogate)
    torch.testing.assert_close(value, energy_gap_loss(known - margin, outliers, k=5, surrogate=surrogate))
    torch.testing.assert_close(
        value, energy_gap_loss(known + 1e6, outliers + 1e6, k=5, margin=margin, surrogate=surrogate), rtol=1e-8, atol=0
    )


def test_the_labels_may_be_floats_of_0_and_1():
    id_logits, target, ood_logits = _batch()
    for settings in ({"exclude_unlabelled": True}, {"tail": "labels", "class_counts": [9, 3, 5, 1, 2], "num_head": 2}):
        loss = EDGELoss(k=4, margin=9.0, **settings)
        torch.testing.assert_close(loss(id_logits, target.float(), ood_logits), loss(id_logits, target, ood_logits))


def test_the_gap_waits_for_its_epoch():
    batch = _batch()
    loss = EDGELoss(k=4, margin=5.0, start_epoch=3)
    for epoch, active in ((0, False), (2, False), (3, True), (9, True)):
        loss.set_epoch(epoch, 10)
        assert loss.gap_active == active
        assert bool(loss(*batch, return_parts=True).loss_gap > 0) == active


def test_the_gap_begins_with_the_second_half_unless_told_otherwise():
    loss = EDGELoss()
    assert loss.gap_active
    actives = []
    for epoch in range(5):
        loss.set_epoch(epoch, 5)
        actives.append(loss.gap_active)
    assert actives == [False, False, False, True, True]


def test_without_weight_the_gap_is_not_computed():
    loss = EDGELoss(beta=0.0, start_epoch=0)
    assert not loss.gap_active
    assert float(loss(*_batch(), return_parts=True).loss_gap) == 0


def test_another_loss_for_the_labels_can_be_given():
    id_logits, target, ood_logits = _batch()
    focal = nn.MultiLabelSoftMarginLoss()
    parts = EDGELoss(id_loss=focal)(id_logits, target, ood_logits, return_parts=True)
    torch.testing.assert_close(parts.loss_id, focal(id_logits, target))


def test_unlabelled_samples_can_be_left_out_of_the_gap():
    id_logits = torch.tensor([[-9.0, -9.0], [0.0, -1.0], [3.0, 0.0]], requires_grad=True)
    target = torch.tensor([[0, 0], [1, 0], [1, 1]])
    ood_logits = torch.zeros(2, 2)
    for exclude, weakest in ((False, 0), (True, 1)):
        parts = EDGELoss(k=1, margin=1.0, exclude_unlabelled=exclude)(id_logits, target, ood_logits, return_parts=True)
        (gradient,) = torch.autograd.grad(parts.loss_gap, id_logits)
        assert gradient.abs().sum(1).nonzero().squeeze(1).tolist() == [weakest]


def test_the_tail_can_be_told_by_labels():
    id_logits, _, ood_logits = _batch(4, 3, 3)
    id_logits.requires_grad_()
    # Class 1 is frequent; at equal counts class 0 comes before class 2.
    target = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 0, 1]])
    counts = torch.tensor([5, 50, 5])
    for num_head, rare in ((1, [1, 3]), (2, [1]), (0, [0, 1, 3])):
        loss = EDGELoss(k=9, margin=99.0, tail="labels", class_counts=counts, num_head=num_head)
        (gradient,) = torch.autograd.grad(loss(id_logits, target, ood_logits, return_parts=True).loss_gap, id_logits)
        assert gradient.abs().sum(1).nonzero().squeeze(1).tolist() == rare


def test_a_batch_without_rare_samples_has_no_gap():
    id_logits, _, ood_logits = _batch(2, 3, 2)
    loss = EDGELoss(tail="labels", class_counts=torch.tensor([9, 1]), num_head=1)
    id_logits.requires_grad_()
    with pytest.warns(UserWarning, match="no known sample of the batch can take part"):
        parts = loss(id_logits, torch.tensor([[1, 0], [1, 1]]), ood_logits, return_parts=True)
    assert parts.loss_gap.item() == 0
    parts.loss_gap.backward()


def test_without_outliers_the_known_samples_are_left():
    id_logits, target, _ = _batch()
    ood_logits = torch.zeros(0, 5, dtype=torch.float64, requires_grad=True)
    with pytest.warns(UserWarning, match="no outliers"):
        parts = EDGELoss()(id_logits, target, ood_logits, return_parts=True)
    torch.testing.assert_close(parts.value, binary_cross_entropy_with_logits(id_logits, target.double()))
    for part in parts[2:]:
        assert part.item() == 0
        assert part.requires_grad
    parts.value.backward()
    with pytest.warns(UserWarning, match="the batch holds no outliers"):
        assert float(energy_gap_loss(torch.ones(2), torch.ones(0), k=1)) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tail": "labels"}, "class_counts and num_head"),
        ({"num_head": 2}, "leave them out"),
        ({"tail": "labels", "class_counts": torch.tensor([1, 2]), "num_head": 3}, "num_head=3"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        EDGELoss(**settings)
    if message.startswith("num_head"):
        with pytest.raises(ValueError, match="of 2 classes, the logits of 5"):
            EDGELoss(**{**settings, "num_head": 1})(*_batch())


def test_outliers_are_cycled_under_the_known_samples():
    known = torch.utils.data.DataLoader(torch.arange(10), batch_size=2)
    outliers = torch.utils.data.DataLoader(torch.arange(100, 104), batch_size=2)
    loader = OutlierExposureLoader(known, outliers)
    assert len(loader) == 5
    for _ in range(2):
        assert [int(batch[0]) for _, batch in loader] == [100, 102, 100, 102, 100]
        assert torch.cat([batch for batch, _ in loader]).tolist() == list(range(10))


def test_more_outliers_than_known_samples_are_cut():
    assert list(OutlierExposureLoader([1], [2, 3])) == [(1, 2)]


def test_a_loader_without_outliers_is_named():
    with pytest.raises(ValueError, match="ood_loader gives no batch"):
        list(OutlierExposureLoader([1], []))
    with pytest.raises(ValueError, match="iterated anew"):
        list(OutlierExposureLoader([1, 2], iter([3])))
    with pytest.raises(TypeError, match="no length"):
        len(OutlierExposureLoader(iter([1]), [2]))


def test_the_energy_margins_are_what_their_definition_says():
    id_logits, _, ood_logits = _batch()
    lse_in, lse_out = (x.exp().sum(1).log() for x in (id_logits, ood_logits))
    wanted = (-lse_in - -2.5).clamp(min=0).square().mean() + (-1.5 + lse_out).clamp(min=0).square().mean()
    torch.testing.assert_close(energy_margin_loss(id_logits, ood_logits, m_in=-2.5, m_out=-1.5), wanted)


def test_uniform_exposure_is_the_cross_entropy_with_uniform_targets():
    _, _, ood_logits = _batch()
    wanted = nn.functional.cross_entropy(ood_logits, torch.full_like(ood_logits, 1 / 5))
    torch.testing.assert_close(uniform_exposure_loss(ood_logits), wanted)


def test_confidence_control_is_what_its_definition_says():
    id_logits, _, ood_logits = _batch()
    value = confidence_control_loss(id_logits, ood_logits, train_accuracy=0.8, lambda_in=0.3, lambda_out=0.2)
    wanted = torch.zeros((), dtype=torch.float64)
    for z in id_logits:
        wanted += 0.3 * (z.exp().max() / z.exp().sum() - 0.8) ** 2
    for z in ood_logits:
        wanted += 0.2 * (z.exp() / z.exp().sum() - 0.2).abs().sum()
    torch.testing.assert_close(value, wanted)


BASELINES = [EnergyMarginLoss(-3.0, -1.0), UniformExposureLoss(), ConfidenceControlLoss(0.9)]


@pytest.mark.parametrize("loss", BASELINES, ids=lambda loss: type(loss).__name__)
def test_a_baseline_adds_to_the_loss_of_the_labels(loss):
    id_logits, target, ood_logits = _batch()
    penalties = {
        "EnergyMarginLoss": lambda: 0.1 * energy_margin_loss(id_logits, ood_logits, m_in=-3.0, m_out=-1.0),
        "UniformExposureLoss": lambda: 0.5 * uniform_exposure_loss(ood_logits),
        "ConfidenceControlLoss": lambda: confidence_control_loss(id_logits, ood_logits, train_accuracy=0.9),
    }
    wanted = binary_cross_entropy_with_logits(id_logits, target.double()) + penalties[type(loss).__name__]()
    torch.testing.assert_close(loss(id_logits, target, ood_logits), wanted)


@pytest.mark.parametrize("loss", BASELINES, ids=lambda loss: type(loss).__name__)
def test_a_baseline_copes_with_a_batch_without_outliers(loss):
    id_logits, target, _ = _batch(dtype=torch.bfloat16, scale=50.0)
    nothing = torch.zeros(0, 5, dtype=torch.bfloat16, requires_grad=True)
    with pytest.warns(UserWarning, match="no outliers"):
        value = loss(id_logits, target, nothing)
    value.backward()
    assert nothing.grad.shape == (0, 5)
    assert bool(value.isfinite())


def test_energy_margins_the_wrong_way_round_are_named():
    with pytest.raises(ValueError, match="m_out"):
        EnergyMarginLoss(m_in=0.0, m_out=-1.0)
