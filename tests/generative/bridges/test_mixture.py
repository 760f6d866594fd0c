"""Routed mixtures: by hand, experts that are not called, and experts taken out."""

import pytest
import torch
from torch import nn

from equipoise.generative import RoutedMixture, router_entropy


class _Expert(nn.Module):
    """Scales its input; counts the rows that it was called with."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.rows = nn.Parameter(torch.tensor(float(factor))), 0

    def forward(self, x, time):
        self.rows += len(x)
        return self.factor * x + time[:, None]


def _mixture(skip_below=0.0):
    router = nn.Linear(2, 3)
    return RoutedMixture([_Expert(k) for k in range(3)], router, skip_below=skip_below)


def test_it_is_the_weighted_sum():
    mixture, x, time, x1 = _mixture(), torch.randn(4, 2), torch.rand(4), torch.randn(4, 2)
    output, weights = mixture(x, time, x1)
    torch.testing.assert_close(weights, mixture.router(x1).softmax(1))
    wanted = sum(weights[:, m : m + 1] * (m * x + time[:, None]) for m in range(3))
    torch.testing.assert_close(output, wanted)
    torch.testing.assert_close(mixture(x, time, weights=weights).output, wanted)
    torch.testing.assert_close(mixture.outputs(x, time)[2], 2 * x + time[:, None])


def test_an_expert_of_weight_zero_is_not_called():
    mixture, x, time = _mixture(), torch.randn(4, 2), torch.rand(4)
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.25, 0.75, 0.0]])
    output = mixture(x, time, weights=weights).output
    assert [expert.rows for expert in mixture.experts] == [3, 3, 0]
    torch.testing.assert_close(output, (weights.T[:, :, None] * mixture.outputs(x, time)).sum(0))


def test_small_weights_are_left_out_while_nothing_is_learned_and_the_error_is_bounded():
    mixture, x, time = _mixture(skip_below=0.01), torch.randn(2, 2), torch.zeros(2)
    weights = torch.tensor([[0.995, 0.005, 0.0], [0.5, 0.49, 0.01]])
    exact = mixture(x, time, weights=weights).output
    for expert in mixture.experts:
        expert.rows = 0
    with torch.no_grad():
        short = mixture(x, time, weights=weights).output
    assert [expert.rows for expert in mixture.experts] == [2, 1, 0]
    assert bool(((exact - short).abs() <= 0.005 * x.abs().max() + 0.01 * 2 * x.abs().max()).all())


def test_gradients_reach_experts_and_router():
    mixture = _mixture().double()
    x, time, x1 = (torch.randn(3, 2).double(), torch.rand(3).double(), torch.randn(3, 2).double())
    mixture(x, time, x1).output.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in mixture.parameters())
    assert torch.autograd.gradcheck(
        lambda w: mixture(x, time, weights=w.softmax(1)).output, torch.randn(3, 3).double().requires_grad_()
    )


def test_experts_taken_out_have_no_weight_and_the_others_are_scaled_up():
    mixture, x1 = _mixture(), torch.randn(5, 2)
    whole, left = mixture.route(x1), mixture.without([1]).route(x1)
    assert not left[:, 1].any()
    torch.testing.assert_close(left[:, [0, 2]], whole[:, [0, 2]] / whole[:, [0, 2]].sum(1, keepdim=True))
    assert mixture.kept.all()
    once_more = mixture.without([1]).without([0])
    assert once_more.route(x1).tolist() == [[0.0, 0.0, 1.0]] * 5
    assert router_entropy(once_more.route(x1)).tolist() == [0.0] * 5
    once_more(torch.ones(5, 2), torch.zeros(5), x1)
    assert [expert.rows for expert in mixture.experts] == [0, 0, 5]


def test_pictures_are_mixed_too():
    experts = [nn.Conv2d(3, 3, 1) for _ in range(2)]
    for expert in experts:
        expert.forward = lambda x, time, conv=expert: nn.Conv2d.forward(conv, x)
    mixture = RoutedMixture(experts, nn.Sequential(nn.Flatten(), nn.Linear(48, 2)))
    output, weights = mixture(torch.randn(2, 3, 4, 4), torch.zeros(2), torch.randn(2, 3, 4, 4))
    assert output.shape == (2, 3, 4, 4)
    assert weights.shape == (2, 2)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused():
    mixture, x, time = _mixture(), torch.zeros(2, 2), torch.zeros(2)
    narrow = RoutedMixture([_Expert(1), _Expert(2)], nn.Linear(2, 3))
    uneven = RoutedMixture([_Expert(1), nn.Bilinear(2, 1, 5)], nn.Linear(2, 2))
    for call, said in (
        (lambda: RoutedMixture([], nn.Linear(1, 1)), "experts is empty"),
        (lambda: RoutedMixture([_Expert(1)], nn.Linear(1, 1), skip_below=1.0), "skip_below"),
        (lambda: RoutedMixture([_Expert(1)], None), "router must be a Module"),
        (lambda: narrow(x, time, x), "the router must return 2 logits, one for each expert"),
        (lambda: mixture(x, time), "give either x1"),
        (lambda: mixture(x, time, x, weights=torch.full((2, 3), 1 / 3)), "give either x1"),
        (lambda: mixture(x, time, weights=torch.full((2, 3), 0.3)), "weights must sum to 1"),
        (lambda: mixture(x, time, weights=torch.tensor([[2.0, -1.0, 0.0]] * 2)), "weights must not be negative"),
        (lambda: mixture(x, time, weights=torch.full((2, 2), 0.5)), "weights must have shape"),
        (lambda: mixture.without([3]), "expert 3 is not there"),
        (lambda: mixture.without([0, 1, 2]), "no expert would be left"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    uneven.experts[1].forward = lambda x, time: x.new_zeros(len(x), 5)
    for call in (lambda: uneven(x, time, x), lambda: uneven.outputs(x, time)):
        with pytest.raises(ValueError, match="experts must return one shape"):
            call()
