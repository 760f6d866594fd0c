import math

import pytest
import torch

from equipoise.multimodal import IdentityReweighter, identity_loss_ema


def _by_hand(losses, updates, start, step, decay, most):
    """The update of the spec, in plain Python."""
    k = len(losses)
    weights = [1.0] * k
    for number in range(updates):
        if number == 0:
            weights, n = [0.0] * k, int(start * k)
        else:
            if sum(w > 0 for w in weights) / k >= most:
                continue
            n = int(step * k)
        taken = sorted((losses[i], i) for i in range(k) if weights[i] == 0)[:n]
        weights = [decay * w for w in weights]
        for _, i in taken:
            weights[i] = 1.0
    return torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("updates", [0, 1, 2, 5, 40])
def test_it_is_the_update_of_the_paper(updates):
    losses = torch.randint(0, 12, (60,), generator=torch.Generator().manual_seed(0)).double()
    found = IdentityReweighter(60, 0.4, 0.05, 0.97, 0.8)
    found.loss_ema.copy_(losses)
    for _ in range(updates):
        found.update()
    wanted = _by_hand(losses.tolist(), updates, 0.4, 0.05, 0.97, 0.8)
    torch.testing.assert_close(found.raw_weight, wanted)
    torch.testing.assert_close(found.normalized_weight, wanted * 60 / wanted.sum())
    assert found.active_fraction == int((wanted > 0).sum()) / 60


def test_the_numbers_of_the_paper():
    reweighter = IdentityReweighter(924)
    torch.testing.assert_close(reweighter.loss_ema[0], torch.tensor(2 * math.log(924), dtype=torch.float64))
    counts = [reweighter.update() for _ in range(25)]
    assert counts[:2] == [462, 22]
    assert int((reweighter.raw_weight > 0).sum()) == 836
    assert counts[-1] == 0


def test_easy_identities_enter_first_and_weigh_least():
    reweighter = IdentityReweighter(20, 0.5, 0.1, 0.9, 0.8)
    reweighter.loss_ema.copy_(torch.arange(20.0))
    for _ in range(6):
        reweighter.update()
    assert bool((reweighter.raw_weight[:16].diff() >= 0).all())
    assert float(reweighter.raw_weight[0]) < float(reweighter.raw_weight[15]) == 1
    assert reweighter.raw_weight[16:].tolist() == [0.0] * 4


def test_running_losses_keep_every_digit():
    losses = 3 + torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 100
    reweighter = IdentityReweighter(40, 0.5, 0.05)
    reweighter.loss_ema.copy_(losses)
    for _ in range(5):
        reweighter.update()
    assert reweighter.loss_ema.equal(losses)
    # In steps of 1/16 these could not be told apart.
    assert set(losses.argsort()[:28].tolist()) == set(reweighter.raw_weight.nonzero().squeeze(1).tolist())


def test_losses_of_an_identity_that_is_there_twice_are_averaged():
    ema = torch.tensor([10.0, 5.0, 7.0])
    found = identity_loss_ema(ema, torch.tensor([0, 2, 0]), torch.tensor([2.0, 1.0, 4.0]), 0.9)
    torch.testing.assert_close(found, torch.tensor([9.3, 5.0, 6.4]))
    assert ema.tolist() == [10.0, 5.0, 7.0]
    reweighter = IdentityReweighter(10, step_fraction=0.1)
    before = reweighter.loss_ema.clone()
    reweighter.observe(torch.tensor([3, 3]), torch.tensor([1.0, 3.0], requires_grad=True))
    torch.testing.assert_close(reweighter.loss_ema[3], before[3] * 0.9 + 0.2)
    assert int((reweighter.loss_ema != before).sum()) == 1


def test_a_batch_of_nobody_gives_zeros_or_the_fallback():
    for fallback, wanted in ((None, [0.0, 0.0]), (1.0, [1.0, 1.0])):
        reweighter = IdentityReweighter(4, 0.5, 0.25, fallback=fallback)
        reweighter.loss_ema.copy_(torch.arange(4.0))
        assert reweighter.weight(torch.tensor([2, 3])).tolist() == [1.0, 1.0]
        reweighter.update()
        assert reweighter.weight(torch.tensor([2, 3])).tolist() == wanted
        assert reweighter.weight(torch.tensor([0, 3])).tolist() == [2.0, 0.0]


def test_a_state_goes_on_where_it_was_and_half_precision_rounds_nothing():
    one, two = (IdentityReweighter(30, 0.3, 0.1) for _ in range(2))
    one.loss_ema.copy_(torch.rand(30, dtype=torch.float64))
    one.update()
    held = one.loss_ema.clone()
    two.load_state_dict(one.half().state_dict())
    assert two.loss_ema.equal(held)
    assert two.loss_ema.dtype == torch.float64
    assert one.update() == two.update() == 3
    assert one.raw_weight.equal(two.raw_weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_fraction": 0.3}, "max_fraction=0.3 must be at least start_fraction=0.5"),
        (
            {"step_fraction": 0.01},
            "step_fraction=0.01 of num_identities=20 admits nobody, so that it would never go on",
        ),
        ({"start_fraction": 0.01}, "start_fraction=0.01 of num_identities=20 admits nobody"),
        ({"num_identities": 1}, "num_identities=1 must"),
        ({"decay": 0.0}, "decay=0.0 must"),
        ({"momentum": 1.0}, "momentum=1.0 must"),
        ({"on_stall": "go"}, "on_stall='go' is not known"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        IdentityReweighter(**{"num_identities": 20, "step_fraction": 0.1, **settings})


@pytest.mark.usefixtures("plain_inputs")
def test_bad_losses_are_refused_and_leave_no_trace():
    reweighter = IdentityReweighter(10, step_fraction=0.1)
    before = reweighter.loss_ema.clone()
    for identity, loss, message in (
        (torch.tensor([10]), torch.tensor([1.0]), "identity holds the value 10, wanted 0 to 9"),
        (torch.tensor([-1]), torch.tensor([1.0]), "identity holds the value -1"),
        (torch.tensor([1.0]), torch.tensor([1.0]), "identity must hold integers"),
        (torch.tensor([1]), torch.tensor([torch.nan]), "loss holds 1 NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            reweighter.observe(identity, loss)
    assert reweighter.loss_ema.equal(before)
    with pytest.raises(ValueError, match="identity holds the value 10"):
        reweighter.weight(torch.tensor([10]))
