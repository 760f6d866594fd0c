import pytest
import torch
from torch import nn

from equipoise.core.solvers.perturbation import (
    check_inputs,
    evaluation_mode,
    input_gradient,
    project_ball,
    project_box,
    random_start,
    step_direction,
)


def test_gradients_are_of_the_change_alone_and_of_the_mean():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    delta = 0.1 * torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        values, gradient = input_gradient(network, x, delta, lambda out: out.squeeze(1).square())
    assert x.grad is None
    assert all(p.grad is None for p in network.parameters())
    for i in range(5):
        for j in range(3):
            step = torch.zeros_like(delta)
            step[i, j] = 1e-6
            up, down = (network(x + delta + s * step).square().mean().item() for s in (1, -1))
            assert gradient[i, j].item() == pytest.approx((up - down) / 2e-6, abs=1e-7)
    torch.testing.assert_close(values, network(x + delta).squeeze(1).square().detach())


def test_batch_norm_records_nothing_and_every_mode_comes_back():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    network[2].eval()
    before = network[1].running_mean.clone()
    with pytest.raises(RuntimeError, match="shapes"), evaluation_mode(network):
        network(network(torch.rand(4, 3))[:, :2])
    assert torch.equal(network[1].running_mean, before)
    assert [part.training for part in network] == [True, True, False]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_direction_is_the_steepest_of_its_norm_and_projections_end_on_the_ball(norm):
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(6, 2, 3, generator=generator)
    best = (gradient * step_direction(gradient, norm)).flatten(1).sum(1)
    for _ in range(50):
        other = project_ball(3 * torch.randn(6, 2, 3, generator=generator), 1.0, norm)
        assert ((gradient * other).flatten(1).sum(1) <= best + 1e-5).all()
    far, near = 5 + torch.rand(2, 7, generator=generator), torch.full((2, 7), 1e-3)
    order = torch.inf if norm == "linf" else 2
    torch.testing.assert_close(project_ball(far, 0.5, norm).norm(order, dim=1), torch.full((2,), 0.5))
    assert torch.equal(project_ball(near, 0.5, norm), near)
    assert project_ball(torch.zeros(2, 3), 0.0, norm).eq(0).all()
    assert step_direction(torch.zeros(2, 3), norm).isfinite().all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_lie_in_the_ball_and_follow_their_generator(norm):
    x = torch.zeros(500, 4)
    draws = [random_start(x, 0.3, norm, torch.Generator().manual_seed(2)) for _ in range(2)]
    assert torch.equal(*draws)
    length = draws[0].norm(torch.inf if norm == "linf" else 2, dim=1)
    assert length.max() <= 0.3 + 1e-6
    assert length.min() < 0.5 * length.max()


def test_bounds_may_be_of_each_channel():
    x = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0])[:, None, None]
    high = torch.tensor([1.0, 5.0])[:, None, None]
    check_inputs(x, (0.0, high))
    moved = x + project_box(x, torch.full_like(x, 10.0), (0.0, high))
    torch.testing.assert_close(moved.amax((0, 2, 3)), torch.tensor([1.0, 5.0]))
    with pytest.raises(ValueError, match="did you normalise before attacking"):
        check_inputs(x, (0.0, 1.0))
    check_inputs(torch.tensor([1.0 + 5e-7]), (0.0, 1.0))


def test_an_objective_that_does_not_see_the_inputs_is_said():
    with pytest.raises(RuntimeError, match="does not depend on the perturbed inputs"):
        input_gradient(lambda x: x.detach().sum(1), torch.ones(2, 2), torch.zeros(2, 2), lambda out: out)
    with pytest.raises(RuntimeError, match="does not depend on the perturbed inputs"):
        input_gradient(lambda x: x, torch.ones(2), torch.zeros(2), lambda out: torch.ones(2, requires_grad=True))
    with pytest.raises(ValueError, match="norm='l1'"):
        project_ball(torch.ones(2, 2), 1.0, "l1")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_sample_may_have_its_own_radius(norm):
    radii = torch.tensor([0.1, 0.5, 0.0])
    order = torch.inf if norm == "linf" else 2
    far = torch.full((3, 2, 2), 5.0)
    torch.testing.assert_close(project_ball(far, radii, norm).flatten(1).norm(order, dim=1), radii)
    start = random_start(torch.zeros(3, 400), radii, norm, torch.Generator().manual_seed(0)).norm(order, dim=1)
    assert (start <= radii + 1e-6).all()
    assert start[1] > start[0] > start[2] == 0


def test_a_gradient_is_taken_in_inference_mode_too():
    layer = nn.Linear(3, 1)
    with torch.inference_mode():
        x = torch.ones(2, 3) * 0.5
        _, gradient = input_gradient(layer, x, torch.zeros_like(x), lambda out: out.squeeze(1))
        assert (x + gradient).isfinite().all()
    torch.testing.assert_close(gradient, layer.weight.detach().expand(2, 3) / 2)
