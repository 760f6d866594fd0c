"""The bridge: brute force, what holds at its ends, and the way back."""

import math

import pytest
import torch

from equipoise.generative import BridgeSchedule, space_indices


def _brute(n, start, most):
    """β, f, w from double sums."""
    low, high = math.sqrt(start), math.sqrt(most / n)
    first = [(low + k / (n - 1) * (high - low)) ** 2 for k in range(n // 2)]
    beta = first + first[::-1]
    return (
        beta,
        [math.sqrt(math.fsum(beta[i] for i in range(n) if i <= k)) for k in range(n)],
        [math.sqrt(math.fsum(beta[i] for i in range(n) if i >= k)) for k in range(n)],
    )


@pytest.mark.parametrize(("n", "start", "most"), [(2, 1e-4, 0.3), (10, 1e-4, 0.3), (100, 1e-5, 0.3), (8, 0.1, 0.2)])
def test_the_schedule_is_that_of_double_sums(n, start, most):
    schedule, (beta, forward, backward) = BridgeSchedule(n, start, most), _brute(n, start, most)
    assert schedule.beta.tolist() == pytest.approx(beta)
    assert schedule.std_fwd.tolist() == pytest.approx(forward)
    assert schedule.std_bwd.tolist() == pytest.approx(backward)
    assert schedule.std_fwd.dtype is torch.float64
    torch.testing.assert_close(schedule.mu_x0 + schedule.mu_x1, torch.ones(n, dtype=torch.float64))
    torch.testing.assert_close(schedule.mu_x0, schedule.mu_x1.flip(0))
    assert bool((schedule.mu_x1.diff() > 0).all())
    # The bridge is narrowest at its two ends.
    assert int(schedule.std_bridge.argmax()) in (n // 2 - 1, n // 2)


def test_more_steps_than_the_rise_allows_make_it_fall():
    schedule = BridgeSchedule(10, beta_start=0.1, beta_max=0.1)
    assert schedule.beta[0] > schedule.beta[4] < schedule.beta[9]


def test_time_is_a_line():
    time = BridgeSchedule(100).time
    assert time[0] == pytest.approx(0.01)
    assert time[-1] == 100
    torch.testing.assert_close(time.diff(), time.diff()[:1].expand(99))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ot_ode", [False, True])
def test_a_label_gives_the_clean_picture_back(dtype, ot_ode):
    schedule = BridgeSchedule(20, ot_ode=ot_ode)
    x0, x1, noise = (torch.rand(20, 3, 2, 2).to(dtype) for _ in range(3))
    x_n = schedule.sample(x0, x1, torch.arange(20), noise)
    label = schedule.label(x_n, x0, torch.arange(20))
    assert x_n.dtype is label.dtype is (torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype)
    torch.testing.assert_close(schedule.predict_x0(x_n, label, torch.arange(20)), x0.to(x_n), atol=1e-5, rtol=1e-5)
    one = schedule.sample(x0[7:8], x1[7:8], 7, noise[7:8])
    torch.testing.assert_close(one, x_n[7:8])


def test_a_sample_has_the_moments_of_the_bridge():
    schedule, n = BridgeSchedule(10), 40_000
    x0, x1 = torch.full((n,), -0.5), torch.full((n,), 0.75)
    drawn = schedule.sample(x0, x1, 3, torch.randn(n, generator=torch.Generator().manual_seed(0)))
    assert float(drawn.mean()) == pytest.approx(float(-0.5 * schedule.mu_x0[3] + 0.75 * schedule.mu_x1[3]), abs=2e-3)
    assert float(drawn.std()) == pytest.approx(float(schedule.std_bridge[3]), rel=0.02)


@pytest.mark.parametrize(("step", "before"), [(9, 0), (7, 2), (1, 0), (9, 8)])
def test_the_posterior_is_a_product_of_gaussians(step, before):
    schedule = BridgeSchedule(10)
    x_n, x0 = torch.randn(5).double(), torch.randn(5).double()
    near = float(schedule.std_fwd[before]) ** 2
    far = float(schedule.std_fwd[step]) ** 2 - near
    # x_p given x_0 has variance near, x_n given x_p has variance far.
    mean, std = schedule.posterior(x_n, x0, step, before)
    torch.testing.assert_close(mean, (x0 / near + x_n / far) / (1 / near + 1 / far))
    assert std == pytest.approx((1 / near + 1 / far) ** -0.5)


def test_two_steps_back_are_one_long_step():
    schedule = BridgeSchedule(10)
    x_n, x0 = torch.tensor([1.0]).double(), torch.tensor([0.2]).double()
    middle = schedule.posterior(x_n, x0, 8, 5)
    mean, std = schedule.posterior(middle.mean, x0, 5, 2)
    share = float(schedule.std_fwd[2] ** 2 / schedule.std_fwd[5] ** 2)
    wanted = schedule.posterior(x_n, x0, 8, 2)
    torch.testing.assert_close(mean, wanted.mean)
    assert math.hypot(std, share * middle.std) == pytest.approx(wanted.std)


def test_the_last_step_back_and_the_deterministic_path_have_no_noise():
    x, x0, noise = torch.ones(2), torch.zeros(2), torch.ones(2)
    schedule = BridgeSchedule(10)
    assert schedule.reverse_step(x, x0, 3, 0, noise).equal(schedule.posterior(x, x0, 3, 0).mean)
    assert not schedule.reverse_step(x, x0, 3, 1, noise).equal(schedule.posterior(x, x0, 3, 1).mean)
    straight = BridgeSchedule(10, ot_ode=True)
    assert straight.reverse_step(x, x0, 3, 1, noise).equal(schedule.posterior(x, x0, 3, 1).mean)
    assert straight.posterior(x, x0, 3, 1).std == 0
    assert not straight.std_bridge.any()


def test_clipping_keeps_to_the_range():
    schedule = BridgeSchedule(10)
    found = schedule.predict_x0(torch.tensor([[3.0, -3.0, 0.5]]), torch.zeros(1, 3), 4, clip=True)
    assert found.tolist() == [[1.0, -1.0, 0.5]]


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused():
    for arguments, said in (
        ({"num_steps": 9}, "num_steps=9 must be even"),
        ({"beta_start": 0.0}, "beta_start"),
        ({"beta_max": -1.0}, "beta_max"),
        ({"num_steps": 0}, "num_steps"),
    ):
        with pytest.raises(ValueError, match=said):
            BridgeSchedule(**arguments)
    schedule, x = BridgeSchedule(10), torch.zeros(2, 3)
    for call, said in (
        (lambda: schedule.sample(x, torch.zeros(2, 4), 1, x), "x1 must have shape"),
        (lambda: schedule.sample(x, x, 10, x), "step=10 must lie between 0 and 9"),
        (lambda: schedule.sample(x, x, torch.tensor([0, 10]), x), "step=10 must lie"),
        (lambda: schedule.sample(x, x, torch.tensor([0, -1]), x), "step holds the value -1"),
        (lambda: schedule.sample(x, x, torch.tensor([0.0, 1.0]), x), "step must"),
        (lambda: schedule.sample(x, x, 1), "noise is missing"),
        (lambda: schedule.sample(x.tolist(), x, 1, x), "x0 must be a torch.Tensor"),
        (lambda: schedule.label(x, torch.zeros(3, 3), 1), "x0 must have shape"),
        (lambda: schedule.posterior(x, x, 3, 3), "step_prev=3 must be below step=3"),
        (lambda: schedule.posterior(x, x, 3, 5), "step_prev=5 must be below"),
        (lambda: schedule.posterior(x, x, 10, 5), "step=10 must lie"),
        (lambda: schedule.posterior(x, x, 3, -1), "step_prev"),
        (lambda: schedule.reverse_step(x, x, 2, 4), "step_prev=4 must be below"),
        (lambda: space_indices(10, 11), "count=11 must be at most num_steps=10"),
        (lambda: space_indices(10, 0), "count=0"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_indices_are_spaced_as_released():
    assert space_indices(1000, 11) == [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]
    assert space_indices(6, 3) == [0, 2, 5]  # 2.5 to even
    assert space_indices(10, 1) == [0]
    assert space_indices(10, 10) == list(range(10))
    for count in range(2, 100):
        taken = space_indices(100, count)
        assert taken[0] == 0
        assert taken[-1] == 99
        assert taken == sorted(set(taken))
