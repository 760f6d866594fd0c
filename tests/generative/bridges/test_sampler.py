"""The way along a bridge: by hand, in its limits, with known pixels, and alone or in a batch."""

from itertools import pairwise

import pytest
import torch

from equipoise.core.diffusion import SeededNoise
from equipoise.generative import BridgeSampler, BridgeSchedule, space_indices


def _oracle(schedule, x0):
    """A network that knows the clean picture."""
    return lambda x, step: (x - x0) / float(schedule.std_fwd[step])


@pytest.mark.parametrize("ot_ode", [False, True])
def test_it_is_the_loop_by_hand(ot_ode):
    schedule, x1 = BridgeSchedule(20, ot_ode=ot_ode), torch.randn(3, 2, 4)
    weight = torch.randn(4, 4) / 4

    def predict(x, step):
        return x @ weight + step / 20

    noise, x = SeededNoise([5]), x1
    path = space_indices(20, 7)[::-1]
    for here, before in pairwise(path):
        f = float(schedule.std_fwd[here])
        x0 = x - f * predict(x, here)
        p2 = float(schedule.std_fwd[before]) ** 2
        d2 = f**2 - p2
        z = noise((2, 4))
        x = (d2 * x0 + p2 * x) / (d2 + p2)
        if before > 0 and not ot_ode:
            x = x + (d2 * p2 / (d2 + p2)) ** 0.5 * z
    torch.testing.assert_close(BridgeSampler(schedule, 6)(predict, x1, 5), x, rtol=1e-5, atol=1e-5)


def test_a_network_that_knows_the_answer_is_followed_to_it():
    schedule = BridgeSchedule(100, 1e-5)
    x0, x1 = torch.rand(4, 3, 2, 2), torch.rand(4, 3, 2, 2)
    for steps in (1, 4, 99):
        found = BridgeSampler(schedule, steps)(_oracle(schedule, x0), x1)
        # What is left is the share of x_n in the last step.
        assert float((found - x0).abs().max()) < 0.02
    assert BridgeSampler(schedule, 99).path == list(range(99, -1, -1))


def test_the_marginals_are_those_of_the_bridge():
    schedule, n = BridgeSchedule(20), 20_000
    x0, x1 = torch.full((n, 1), 0.3), torch.full((n, 1), -0.8)
    seen = {}

    def predict(x, step):
        seen[step] = x
        return (x - x0) / float(schedule.std_fwd[step])

    # Each sample with noise of its own: one picture of n values.
    BridgeSampler(schedule, 10)(lambda x, step: predict(x.T, step).T, x1.T)
    for step in (15, 10, 4):
        # Of a Brownian bridge that is at x_1 in step N − 1: there the schedule's own has begun to leave it.
        share = float(schedule.std_fwd[step] / schedule.std_fwd[19]) ** 2
        assert float(seen[step].mean()) == pytest.approx(0.3 * (1 - share) - 0.8 * share, abs=0.004)
        assert float(seen[step].std()) == pytest.approx(float(schedule.std_fwd[step]) * (1 - share) ** 0.5, rel=0.02)
    assert float(seen[4].std()) == pytest.approx(float(schedule.std_bridge[4]), rel=0.02)


def test_the_seed_decides_and_the_batch_does_not():
    schedule, x1 = BridgeSchedule(20), torch.randn(5, 3)
    sampler = BridgeSampler(schedule, 5)

    def predict(x, step):
        return x.tanh()

    whole = sampler(predict, x1, 1)
    torch.testing.assert_close(torch.cat([sampler(predict, row[None], 1) for row in x1]), whole)
    assert sampler(predict, x1, 1).equal(whole)
    assert not sampler(predict, x1, 2).equal(whole)


def test_known_pixels_come_back_as_they_were():
    schedule, x1 = BridgeSchedule(20), torch.rand(2, 3, 4, 4)
    known = torch.rand(2, 1, 4, 4) < 0.5
    seen = []

    def predict(x, step):
        seen.append((step, x))
        return torch.ones_like(x)

    found = BridgeSampler(schedule, 5)(predict, x1, known=known)
    everywhere = known.expand_as(x1)
    assert found[everywhere].equal(x1[everywhere])
    for step, x in seen[1:]:
        gap = float((x - x1)[everywhere].std())
        assert gap == pytest.approx(float(schedule.std_bridge[step]), rel=0.4)


def test_predictions_are_clipped_if_asked():
    schedule = BridgeSchedule(20)
    far = BridgeSampler(schedule, 5, clip=True)(_oracle(schedule, torch.full((1, 2), 9.0)), torch.zeros(1, 2))
    assert float(far.max()) < 1.3


def test_global_randomness_is_left_alone():
    state = torch.random.get_rng_state()
    BridgeSampler(BridgeSchedule(20), 5)(lambda x, step: x, torch.zeros(1, 2))
    assert torch.random.get_rng_state().equal(state)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused():
    schedule = BridgeSchedule(10)
    for call, said in (
        (lambda: BridgeSampler(schedule, 10), "steps=10 must be below num_steps=10"),
        (lambda: BridgeSampler(schedule, 0), "steps=0"),
        (lambda: BridgeSampler(None, 3), "schedule must be a BridgeSchedule"),
        (lambda: BridgeSampler(schedule, 3)(lambda x, n: x[:, :1], torch.zeros(1, 2)), "must return the shape"),
        (lambda: BridgeSampler(schedule, 3)(lambda x, n: x, torch.zeros(1, 2), -1), "seed=-1"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
