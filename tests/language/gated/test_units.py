"""Blocks, centred models, and the tests of generalisation."""

import copy
import math

import pytest
import torch
from torch import nn

from equipoise.language import (
    CenteredModel,
    GLUBlock,
    empirical_ntk,
    energy_distance,
    energy_permutation_test,
    generalization_gap_test,
    matched_glu_width,
)
from equipoise.language.gated.units import UNITS


@pytest.mark.parametrize("unit", UNITS)
def test_a_block_is_its_formula(unit):
    functions = {"relu": torch.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu, "sigmoid": torch.sigmoid}
    activation, gated = UNITS[unit]
    block = GLUBlock.named(unit, 5, 12, 3, bias=True, init="torch")
    x = torch.randn(2, 4, 5)
    hidden = functions.get(activation, lambda u: u)(x @ block.gate.weight.T + block.gate.bias)
    if gated:
        hidden = hidden * (x @ block.up.weight.T + block.up.bias)
    torch.testing.assert_close(block(x), hidden @ block.down.weight.T + block.down.bias)


@pytest.mark.parametrize(("dim", "hidden", "out"), [(75, 256, 1), (8, 24, None), (10, 7, 3), (3, 50, 20)])
def test_blocks_have_as_many_weights_and_never_more(dim, hidden, out):
    plain, gated = (GLUBlock(dim, hidden, out, gated=kind) for kind in (False, True))
    counts = [sum(each.numel() for each in block.parameters()) for block in (plain, gated)]
    assert counts[1] <= counts[0] < counts[1] + 2 * dim + (out or dim)
    free = GLUBlock(dim, hidden, out, match_params=False)
    assert free.gate.out_features == hidden


def test_lecun_weights_have_variance_one_over_fan_in_and_come_from_the_generator():
    block = GLUBlock(50, 4000, 10, bias=True, generator=torch.Generator().manual_seed(0))
    for layer in (block.gate, block.up, block.down):
        assert layer.weight.std().item() == pytest.approx(1 / math.sqrt(layer.in_features), rel=0.02)
        assert not layer.bias.any()
    torch.manual_seed(5)
    again = GLUBlock(50, 4000, 10, bias=True, generator=torch.Generator().manual_seed(0))
    assert again.gate.weight.equal(block.gate.weight)


def test_a_block_is_saved_and_loaded():
    block, x = GLUBlock(4, 9), torch.randn(2, 4)
    other = GLUBlock(4, 9)
    other.load_state_dict(block.state_dict())
    torch.testing.assert_close(other(x), block(x))


def test_a_centred_model_starts_at_zero_and_has_the_same_kernel():
    net = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    centred = CenteredModel(net).eval()
    assert not centred(x).any()
    torch.testing.assert_close(empirical_ntk(centred, x), empirical_ntk(net, x))
    before = copy.deepcopy(net)
    with torch.no_grad():
        net[0].weight += 1
    torch.testing.assert_close(centred(x), net(x) - before(x))
    assert not centred.train().initial.training
    assert centred.model.training
    assert not any(each.requires_grad for each in centred.initial.parameters())
    other = CenteredModel(nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 2)).double())
    other.load_state_dict(centred.state_dict())
    torch.testing.assert_close(other.eval()(x), centred.eval()(x))


def test_the_energy_distance_is_that_of_loops():
    a, b = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)

    def mean(one, other):
        return sum(math.dist(p, q) for p in one.tolist() for q in other.tolist()) / (len(one) * len(other))

    wanted = 2 * mean(a, b) - mean(a, a) - mean(b, b)
    assert energy_distance(a, b).item() == pytest.approx(wanted)
    assert energy_distance(b, a, squared=False).item() == pytest.approx(math.sqrt(wanted))
    assert energy_distance(a, a.flip(0)).item() == pytest.approx(0, abs=1e-12)
    assert energy_distance(7 * a + 2, 7 * b + 2).item() == pytest.approx(7 * wanted)


def test_p_values_are_uniform_under_equality_and_small_under_a_shift():
    draws = torch.Generator().manual_seed(0)
    values = []
    for _ in range(100):
        cloud = torch.randn(25, 2, generator=draws)
        values.append(energy_permutation_test(cloud[:10], cloud[10:], n_perm=99, generator=draws).p_value)
    assert min(values) >= 0.01
    for level in (0.1, 0.3, 0.5, 0.9):
        assert sum(value <= level for value in values) / 100 == pytest.approx(level, abs=0.15)
    far = energy_permutation_test(torch.randn(12, 2, generator=draws), torch.ones(9, 2) * 5, generator=draws)
    assert far.p_value == 0.001
    assert far.statistic == pytest.approx(float(energy_distance(torch.randn(12, 2), torch.ones(9, 2) * 5)), rel=0.3)


def test_identical_clouds_are_never_told_apart():
    cloud = torch.randn(6, 2)
    found = energy_permutation_test(cloud, cloud, n_perm=50)
    assert (found.p_value, found.statistic) == (1.0, pytest.approx(0, abs=1e-12))


def test_whole_runs_are_exchanged_where_there_are_several():
    draws = torch.Generator().manual_seed(0)
    train = torch.rand(8, 30, generator=draws).sort(1, descending=True).values
    offsets = torch.randn(8, 1, generator=draws)
    same = generalization_gap_test(
        train[:4], train[:4] + offsets[:4], train[4:], train[4:] + offsets[4:], generator=draws
    )
    assert same.p_value > 0.05
    apart = generalization_gap_test(train[:4], train[:4] + 0.1, train[4:], train[4:] + 2, n_perm=1999, generator=draws)
    # 4 against 4 runs have 70 splits, of which 2 are this one.
    assert apart.p_value == pytest.approx(2 / 70, abs=0.012)


def test_single_runs_are_compared_with_a_warning():
    train = torch.linspace(1, 0, 40)
    with pytest.warns(UserWarning, match="epochs of a run depend on each other"):
        found = generalization_gap_test(train, train + 0.1, train, train + 5, n_perm=99)
    assert found.p_value == 0.01


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_one_sentence():
    with pytest.raises(ValueError, match="too narrow"):
        matched_glu_width(10, 1, 1)
    with pytest.raises(ValueError, match="hidden=0"):
        GLUBlock(4, 0)
    with pytest.raises(ValueError, match="unit='swish'"):
        GLUBlock.named("swish", 4, 8)
    with pytest.raises(ValueError, match="b must have shape"):
        energy_distance(torch.ones(3, 2), torch.ones(3, 3))
    with pytest.raises(ValueError, match="a is empty"):
        energy_permutation_test(torch.ones(0, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"test_b must have shape|must have one shape"):
        generalization_gap_test(torch.ones(4), torch.ones(4), torch.ones(4), torch.ones(3))
