import copy
import io
import math

import pytest
import torch

from equipoise.core.phases import set_epoch
from equipoise.longtail import CVSLoss, PhasedCVSLoss, fit_confidence_scale

COUNTS = [60, 30, 10]
FIT = {"n_bins": 5, "min_scale": 0.1, "max_scale": 10.0, "min_samples": 3}


def _batches(epoch, n=40):
    """An epoch that fills every bank to the last place, so that it holds this epoch only."""
    g = torch.Generator().manual_seed(epoch)
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100, generator=g)]
    z = 1.5 * torch.randn(100, 3, generator=g, dtype=torch.float64) + torch.nn.functional.one_hot(y, 3)
    return list(zip(z.split(n), y.split(n), strict=True))


def _run(loss, epochs, total):
    values = []
    for epoch in epochs:
        set_epoch(loss, epoch, total)
        values += [float(loss(z, y)) for z, y in _batches(epoch)]
    return values


def test_a_run_is_the_course_step_by_step():
    total, warm_up = 10, 3
    loss = PhasedCVSLoss(COUNTS, 0.3, 0.8, 0.2, start=0.6, warm_up=warm_up, **FIT)
    plain, kappa = CVSLoss(COUNTS, 0.3, 0.8, 0.2), torch.ones(3, dtype=torch.float64)
    for epoch in range(total):
        if epoch == 6:
            kappa = torch.ones(3, dtype=torch.float64)
        plain.set_stage(2 if epoch >= 6 else 1, None if epoch < warm_up else kappa)
        loss.set_epoch(epoch, total)
        assert loss.stage == plain.stage
        torch.testing.assert_close(loss.kappa, plain.kappa, rtol=1e-12, atol=0)
        batches = _batches(epoch)
        for z, y in batches:
            torch.testing.assert_close(loss(z, y), plain(z, y), rtol=1e-12, atol=0)
        z, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        kappa = 0.9 * kappa + 0.1 * fit_confidence_scale(z, y, **FIT)
    assert (kappa - 1).abs().min() > 1e-3


def test_an_epoch_is_fitted_once_however_often_it_is_set():
    one, other = (PhasedCVSLoss(COUNTS, warm_up=0, **FIT) for _ in range(2))
    _run(one, range(3), 10)
    for epoch in range(3):
        for _ in range(3):
            other.set_epoch(epoch, 10)
        for z, y in _batches(epoch):
            other(z, y)
            other.set_epoch(epoch, 10)
    assert torch.equal(one.kappa, other.kappa)


@pytest.mark.parametrize("broken", [2, 6, 7])
def test_a_resumed_run_goes_on_as_an_unbroken_one(broken):
    whole = PhasedCVSLoss(COUNTS, start=0.6, warm_up=1, **FIT)
    wanted = _run(whole, range(10), 10)
    first = PhasedCVSLoss(COUNTS, start=0.6, warm_up=1, **FIT)
    found = _run(first, range(broken), 10)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    again = PhasedCVSLoss(COUNTS, start=0.6, warm_up=1, **FIT)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    twin = copy.deepcopy(again)
    for loss in (again, twin):
        assert found + _run(loss, range(broken, 10), 10) == wanted
        assert torch.equal(loss.kappa, whole.kappa)


def test_nothing_is_noted_in_evaluation():
    loss = PhasedCVSLoss(COUNTS, warm_up=0, **FIT)
    loss.set_epoch(0, 10)
    z, y = _batches(0)[0]
    trained = loss(z, y)
    held = loss.bank.rows
    loss.eval()
    torch.testing.assert_close(loss(z, y), trained)
    assert torch.equal(loss.bank.rows, held)
    assert len(held) == 40


def test_the_oldest_give_way_and_a_class_keeps_at_most_its_count():
    loss = PhasedCVSLoss([2, 2], **FIT)
    z = torch.tensor([[float(k), 0.0] for k in range(1, 6)], dtype=torch.float64)
    loss(z, torch.zeros(5, dtype=torch.long))
    kept = z[3:].softmax(1)[:, 0]
    torch.testing.assert_close(loss.bank.rows, torch.stack([0 * kept, kept, 0 * kept, 0 * kept + 1], 1))


def test_a_new_run_of_a_used_loss_is_a_new_run():
    loss = PhasedCVSLoss(COUNTS, start=0.6, warm_up=2, **FIT)
    values = _run(loss, range(8), 10)
    assert _run(loss, range(8), 10) == values
    assert loss.stage == 2


def test_samples_that_do_not_count_are_not_noted():
    loss, (z, y) = PhasedCVSLoss(COUNTS, **FIT), _batches(0)[0]
    wanted = loss(z[:30], y[:30])
    held = loss.bank.rows
    other = PhasedCVSLoss(COUNTS, **FIT)
    torch.testing.assert_close(other(z, y.where(torch.arange(40) < 30, -100)), wanted)
    assert torch.equal(other.bank.rows, held)
    with pytest.warns(UserWarning, match="every sample is ignored"):
        other(z, torch.full_like(y, -100))
    assert torch.equal(other.bank.rows, held)


def test_processes_fit_to_what_all_of_them_noted(monkeypatch):
    parts = [PhasedCVSLoss(COUNTS, warm_up=0, gather=True, **FIT) for _ in range(2)]
    whole = PhasedCVSLoss(COUNTS, warm_up=0, **FIT)
    z, y = _batches(0)[0]
    for loss, rows in zip((*parts, whole), (slice(0, 25), slice(25, 40), slice(0, 40)), strict=True):
        loss.set_epoch(0, 10)
        loss(z[rows], y[rows])
    together = torch.cat([loss.bank.rows for loss in parts])
    monkeypatch.setattr("equipoise.longtail.reweighting.calibrated_training.gather_rows", lambda rows: together)
    for loss in (whole, *parts):
        loss.set_epoch(1, 10)
        torch.testing.assert_close(loss.kappa, whole.kappa, rtol=1e-12, atol=0)
    assert len(together) == 40


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PhasedCVSLoss([3, 0]), ValueError, "class 1 has 0 samples"),
        (lambda: PhasedCVSLoss(COUNTS, gamma=-1), ValueError, "gamma"),
        (lambda: PhasedCVSLoss(COUNTS, start=0), ValueError, "start"),
        (lambda: PhasedCVSLoss(COUNTS, warm_up=-1), ValueError, "warm_up"),
        (lambda: PhasedCVSLoss(COUNTS, min_scale=2.0, max_scale=1.0), ValueError, "min_scale=2.0"),
        (lambda: PhasedCVSLoss(COUNTS).set_epoch(3), RuntimeError, "total number of epochs"),
        (lambda: PhasedCVSLoss(COUNTS).set_epoch(-1, 3), ValueError, "negative"),
        (lambda: PhasedCVSLoss(COUNTS)(torch.zeros(2, 3), torch.tensor([0, 3])), ValueError, "target"),
        (lambda: PhasedCVSLoss(COUNTS)(torch.zeros(2, 4), torch.tensor([0, 1])), ValueError, "logits|class"),
    ],
)
def test_bad_input_is_named(make, error, message, plain_inputs):
    with pytest.raises(error, match=message):
        make()


def test_scales_are_finite_where_a_class_is_never_predicted():
    loss = PhasedCVSLoss(COUNTS, warm_up=0, **FIT)
    z = torch.tensor([[5.0, 0.0, 0.0]] * 40, dtype=torch.float64)
    for epoch in range(3):
        loss.set_epoch(epoch, 3)
        value = loss(z, torch.arange(40) % 3)
    assert math.isfinite(float(value))
    assert loss.kappa[1] == loss.kappa[2] == 1
