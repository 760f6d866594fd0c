"""Averages of weights against their closed form, with the statistics of batch normalisation."""

import copy

import pytest
import torch
from torch import nn

from equipoise.semisup import EMATeacher, ema_update


def test_the_recursion_has_its_closed_form():
    generator = torch.Generator().manual_seed(0)
    start, *values = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    found = start
    for value in values:
        found = ema_update(found, value, 0.9)
    wanted = 0.9**5 * start + sum(0.1 * 0.9 ** (4 - t) * value for t, value in enumerate(values))
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


def test_without_momentum_it_is_the_last_value():
    assert ema_update(torch.tensor([1.0]), torch.tensor([7.0]), 0.0).item() == 7.0


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


@pytest.mark.parametrize("buffers", ["ema", "copy"])
def test_the_teacher_averages_parameters_and_statistics_but_not_counters(buffers):
    with torch.random.fork_rng():
        network = _network()
        teacher = EMATeacher(network, 0.75, buffers)
        wanted = copy.deepcopy(network.state_dict())
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        for _ in range(3):
            network(torch.randn(8, 3)).square().sum().backward()
            optimizer.step()
            teacher.update(network)
            for name, value in network.state_dict().items():
                averaged = value.is_floating_point() and (buffers == "ema" or "running" not in name)
                wanted[name] = 0.75 * wanted[name] + 0.25 * value if averaged else value.clone()
    for name, value in teacher.module.state_dict().items():
        torch.testing.assert_close(value, wanted[name])
    assert teacher.module.state_dict()["1.num_batches_tracked"] == 3
    assert not teacher.module[1].running_mean.equal(network[1].running_mean) or buffers == "copy"


def test_the_teacher_stays_in_evaluation_mode_and_has_no_gradient():
    with torch.random.fork_rng():
        network = _network()
    teacher = nn.ModuleList([EMATeacher(network)]).train()[0]
    assert not any(part.training for part in teacher.modules())
    assert network.training
    assert not teacher(torch.ones(2, 3, requires_grad=True)).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_a_shared_parameter_is_averaged_once():
    first = nn.Linear(2, 2, bias=False)
    network = nn.Sequential(first, first)
    teacher = EMATeacher(network, 0.5)
    before = first.weight.detach().clone()
    with torch.no_grad():
        first.weight.add_(1.0)
    teacher.update(network)
    torch.testing.assert_close(teacher.module[0].weight, before + 0.5)


def test_another_network_is_refused(plain_inputs):
    teacher = EMATeacher(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"network .* bias"):
        teacher.update(nn.Linear(2, 2, bias=False))
    with pytest.raises(ValueError, match=r"network has .*shape \(3, 2\)"):
        teacher.update(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="momentum"):
        EMATeacher(nn.Linear(2, 2), 1.0)
    with pytest.raises(ValueError, match="shape"):
        ema_update(torch.zeros(2), torch.zeros(3))
