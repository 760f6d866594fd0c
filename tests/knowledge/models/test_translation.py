"""TransE and RotatE: their distances in loops, phases, near and equal points."""

import cmath
import math

import pytest
import torch

from equipoise.knowledge import RotatE, TransE, kg_score

N, M = 7, 2


def _drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _everything():
    index = torch.cartesian_prod(torch.arange(N), torch.arange(2 * M), torch.arange(N))
    return index, index.unbind(1)


@pytest.mark.parametrize("norm", [1, 2])
@torch.no_grad()
def test_transe_is_the_length_of_what_is_left(norm):
    index, (h, r, t) = _everything()
    model = TransE(N, M, 3, norm, init_scale=1.0).double()
    found = model(index)
    for k, (a, b, c) in enumerate(index.tolist()):
        left = [x + y - z for x, y, z in zip(model.entity[a], model.relation[b], model.entity[c], strict=True)]
        wanted = -(sum(abs(float(x)) ** norm for x in left) ** (1 / norm))
        assert found[k].item() == pytest.approx(wanted)
    torch.testing.assert_close(kg_score("transe", model.entity[h], model.relation[r], model.entity[t], norm), found)


def test_rotate_turns_by_its_phases():
    index, (h, r, t) = _everything()
    model = RotatE(N, M, 4, init_scale=1.0).double()
    assert model.phase.abs().max() <= math.pi
    found = model(index)
    for k, (a, b, c) in enumerate(index.tolist()):
        head, tail = (
            [complex(*each[i : i + 2].tolist()) for i in (0, 2)] for each in (model.entity[a], model.entity[c])
        )
        turns = [cmath.exp(1j * phase.item()) for phase in model.phase[b]]
        wanted = -sum(abs(x * y - z) for x, y, z in zip(head, turns, tail, strict=True))
        assert found[k].item() == pytest.approx(wanted)
    pairs = [model.entity[each].unflatten(1, (2, 2)) for each in (h, t)]
    torch.testing.assert_close(kg_score("rotate", pairs[0], model.phase[r], pairs[1]), found)
    with torch.no_grad():
        model.phase.add_(2 * math.pi)
    torch.testing.assert_close(model(index), found)
    with torch.no_grad():
        model.phase.neg_()
    torch.testing.assert_close(model(torch.stack((t, r, h), 1)), found)
    factors = model.factors(model.rows(h), r, model.rows(t))
    torch.testing.assert_close(factors.relation.abs(), torch.ones_like(factors.relation.abs()))
    torch.testing.assert_close(-(factors.head * factors.relation - factors.tail).abs().sum(1), model(index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tail_that_is_met_is_at_distance_zero_and_one_nearby_is_right(dtype):
    """The product of matrices alone would give distances of 10⁻⁴ of the vectors' length in float32."""
    model = TransE(6, 1, 8, init_scale=1.0).to(dtype)
    with torch.no_grad():
        met = model.entity[0] + model.relation[0]
        model.entity[1] = met
        model.entity[2] = met * (1 + 1e-5)
        model.entity[3] = met * (1 + 1e-3)
    zero = torch.zeros(3, dtype=torch.long)
    scores = model.score_t(zero, zero)
    assert (scores[:, 1] == 0).all()
    length = (met.double() - model.entity.double()).norm(dim=1)
    torch.testing.assert_close(-scores[0].double(), length, rtol=1e-6, atol=0)
    (grad,) = torch.autograd.grad(scores.sum(), model.entity)
    assert grad.isfinite().all()


def test_only_the_two_norms_and_pairs_are_taken(plain_inputs):
    with pytest.raises(ValueError, match="norm=3 is not known"):
        TransE(3, 1, 4, norm=3)
    with pytest.raises(ValueError, match="dim must be even for complex numbers"):
        RotatE(3, 1, 5)
