import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from equipoise.core.diffusion import NoiseSchedule, SeededNoise, ddim_sample, reverse, sampling_steps

SCHEDULES = [NoiseSchedule.linear(50), NoiseSchedule.scaled_linear(50), NoiseSchedule.cosine(50)]


def _pair(n=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 4, generator=generator, dtype=dtype), torch.randn(
        n, 2, 4, generator=generator, dtype=dtype
    )


def test_alphas_of_betas_are_their_running_product():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 30) ** 2
    expected = [math.prod(1 - betas[: k + 1]) for k in range(30)]
    np.testing.assert_allclose(NoiseSchedule.scaled_linear(30).alphas_cumprod, expected, rtol=1e-12)
    betas = np.linspace(1e-4, 0.02, 30)
    np.testing.assert_allclose(NoiseSchedule.linear(30).alphas_cumprod[-1], np.prod(1 - betas), rtol=1e-12)


def test_the_cosine_schedule_stays_within_its_bounds_and_decreases():
    alphas = NoiseSchedule.cosine(200).alphas_cumprod
    assert 0.99e-4 <= alphas[-1] < alphas[0] <= 0.9999
    middle = math.cos((100 / 200 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert float(alphas[99]) == pytest.approx(middle, rel=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_target_gives_back_picture_and_noise(schedule, kind):
    x0, noise = _pair()
    steps = torch.tensor([0, 20, 49])
    x_t, target = schedule.add_noise(x0, noise, steps), schedule.target(x0, noise, steps, kind)
    torch.testing.assert_close(schedule.to_x0(target, x_t, steps, kind), x0)
    torch.testing.assert_close(schedule.to_noise(target, x_t, steps, kind), noise)


def test_v_is_the_derivative_of_the_way_by_its_angle():
    schedule = SCHEDULES[1]
    x0, noise = _pair(1)
    angle = math.acos(math.sqrt(schedule.alpha(20)))
    at = [math.cos(angle + d) * x0 + math.sin(angle + d) * noise for d in (-1e-6, 1e-6)]
    torch.testing.assert_close(schedule.target(x0, noise, torch.tensor([20]), "v"), (at[1] - at[0]) / 2e-6)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_back_has_the_variance_of_its_step(eta):
    schedule = SCHEDULES[0]
    x0 = torch.full((200_000, 1), 0.7, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    draw = lambda: torch.randn(x0.shape, generator=generator, dtype=x0.dtype)  # noqa: E731
    x_t = schedule.add_noise(x0, draw(), torch.full((len(x0),), 40))
    back = schedule.reverse_step(x_t, x0, 40, 30, draw(), eta)
    assert float(back.mean()) == pytest.approx(0.7 * math.sqrt(schedule.alpha(30)), abs=5e-3)
    assert float(back.var()) == pytest.approx(1 - schedule.alpha(30), rel=2e-2)


def test_eta_one_is_the_posterior_of_the_forward_process():
    schedule = SCHEDULES[0]
    x0, x_t = _pair(2)
    beta = 1 - schedule.alpha(30) / schedule.alpha(29)
    variance = beta * (1 - schedule.alpha(29)) / (1 - schedule.alpha(30))
    mean = math.sqrt(schedule.alpha(29)) * beta / (1 - schedule.alpha(30)) * x0
    mean = mean + math.sqrt(1 - beta) * (1 - schedule.alpha(29)) / (1 - schedule.alpha(30)) * x_t
    zero, one = torch.zeros_like(x0), torch.ones_like(x0)
    torch.testing.assert_close(schedule.reverse_step(x_t, x0, 30, 29, zero, 1.0), mean)
    got = schedule.reverse_step(x_t, x0, 30, 29, one, 1.0) - mean
    torch.testing.assert_close(got, math.sqrt(variance) * one)


def test_the_last_step_is_the_predicted_picture():
    x0, x_t = _pair()
    torch.testing.assert_close(SCHEDULES[2].reverse_step(x_t, x0, 7, -1, torch.ones_like(x0), 1.0), x0)


@pytest.mark.parametrize("kind", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("spacing", "name"), [("leading", "leading"), ("trailing", "trailing")])
def test_steps_agree_with_diffusers(kind, eta, spacing, name):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    names = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
    theirs = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=names[kind],
        timestep_spacing=name,
    )
    theirs.set_timesteps(20)
    ours, steps = NoiseSchedule.scaled_linear(1000), sampling_steps(1000, 20, spacing)
    assert steps[:-1] == theirs.timesteps.tolist()
    x, noise = _pair(2, dtype=torch.float32)
    for here, before in pairwise(steps):
        predicted = torch.sin(x + here)
        expected = theirs.step(predicted, here, x, eta=eta, variance_noise=noise).prev_sample
        at = torch.full((len(x),), here)
        x = ours.reverse_step(x, ours.to_x0(predicted, x, at, kind), here, before, noise, eta)
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


class _Exact:
    """Knows the picture of every sample, which is its condition."""

    schedule, prediction_type, shape = SCHEDULES[2], "epsilon", (3,)

    def predict(self, x_t, steps, condition):
        return self.schedule.to_noise(condition, x_t, steps, "x0")


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_exact_denoiser_gives_the_picture(eta):
    wanted = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ddim_sample(_Exact(), wanted, range(4), count=10, eta=eta), wanted, atol=1e-4, rtol=0)


def test_a_sample_does_not_depend_on_its_batch():
    wanted = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    track = []
    ddim_sample(_Exact(), wanted, [5, 6, 7, 8], count=5, eta=1.0, callback=lambda _, x: track.append(x))
    alone = []
    ddim_sample(_Exact(), wanted[2:3], [7], count=5, eta=1.0, callback=lambda _, x: alone.append(x))
    for both, one in zip(track, alone, strict=True):
        torch.testing.assert_close(both[2:3], one)


def test_the_condition_may_change_on_the_way_and_guidance_reads_the_empty_one():
    seen = []

    class Spy(_Exact):
        def predict(self, x_t, steps, condition):
            seen.append((int(steps[0]), float(condition[0, 0])))
            return super().predict(x_t, steps, condition)

    first, second, empty = torch.zeros(1, 3), torch.ones(1, 3), torch.full((1, 3), 9.0)
    ddim_sample(Spy(), lambda step: first if step >= 20 else second, [0], count=5)
    assert seen == [(40, 0.0), (30, 0.0), (20, 0.0), (10, 1.0), (0, 1.0)]
    seen.clear()
    guided = ddim_sample(Spy(), second, [0], count=1, guidance=1.0, unconditional=empty)
    assert [value for _, value in seen] == [1.0, 9.0]
    torch.testing.assert_close(guided, second, atol=1e-4, rtol=0)


def test_the_callback_may_put_values_back():
    def keep(step, x):
        return torch.where(torch.tensor([True, False, False]), torch.tensor(4.0), x)

    found = ddim_sample(_Exact(), torch.ones(1, 3), [0], count=5, callback=keep)
    torch.testing.assert_close(found, torch.tensor([[4.0, 1.0, 1.0]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSchedule([0.5, 0.5]), "decrease strictly"),
        (lambda: NoiseSchedule([0.5, 0.0]), r"\(0, 1\]"),
        (lambda: NoiseSchedule([float("nan")]), "alphas_cumprod"),
        (lambda: NoiseSchedule([]), "at least one"),
        (lambda: NoiseSchedule([0.5], final_alpha=0.4), "final_alpha"),
        (lambda: NoiseSchedule.linear(0), "num_steps=0"),
        (lambda: NoiseSchedule.linear(10, 0.0), "betas"),
        (lambda: SCHEDULES[0].alpha(50), "step=50"),
        (lambda: SCHEDULES[0].reverse_step(*_pair(), 3, 3), "below"),
        (lambda: SCHEDULES[0].reverse_step(*_pair(), 3, 2, None, 1.0), "needs noise"),
        (lambda: SCHEDULES[0].add_noise(*_pair(), torch.tensor([0, 1, 50])), "between 0 and 49"),
        (lambda: SCHEDULES[0].add_noise(*_pair(), torch.tensor([0.0, 1.0, 2.0])), "whole numbers"),
        (lambda: SCHEDULES[0].add_noise(_pair()[0], _pair(2)[0], torch.tensor([0, 1, 2])), "noise must have shape"),
        (lambda: SCHEDULES[0].target(*_pair(), torch.tensor([0, 1, 2]), "score"), "prediction_type"),
        (lambda: sampling_steps(10, 11), "count=11"),
        (lambda: reverse(SCHEDULES[0].reverse_step, lambda x, _: x, _pair()[0], [3, 3]), "decrease"),
        (lambda: ddim_sample(_Exact(), torch.ones(1, 3), [0], guidance=2.0), "unconditional"),
    ],
)
def test_bad_input_is_refused(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_seeds_give_no_samples():
    assert SeededNoise([])((2, 3)).shape == (0, 2, 3)
