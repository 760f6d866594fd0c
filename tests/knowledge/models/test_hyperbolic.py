"""RotH, RefH, AttH, RotE and MuRP: their scores in loops, and their limits."""

import math

import pytest
import torch

from equipoise.knowledge import AttH, MuRP, RefH, RotE, RotH, Stereographic, givens_reflection, givens_rotation

N, M, D = 6, 2, 4
INDEX = torch.cartesian_prod(torch.arange(N), torch.arange(2 * M), torch.arange(N))


def _shaken(model, scale=0.4):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in model.double().parameters():
            each.add_(torch.randn(each.shape, generator=generator, dtype=torch.float64) * scale)
    return model


def _attended(model, h, r):
    head = model.entity[h]
    images = givens_rotation(model.rotation[r], head), givens_reflection(model.reflection[r], head)
    powers = [math.exp(float(model.attention[r] @ image) / math.sqrt(D)) for image in images]
    return sum(power / sum(powers) * image for power, image in zip(powers, images, strict=True))


@pytest.mark.parametrize(
    ("kind", "mixture"),
    [
        (RotH, lambda model, h, r: givens_rotation(model.rotation[r], model.entity[h])),
        (RefH, lambda model, h, r: givens_reflection(model.reflection[r], model.entity[h])),
        (AttH, _attended),
    ],
)
@pytest.mark.parametrize("curvature", ["relation", "shared", "fixed"])
@torch.no_grad()
def test_isometries_translate_and_measure_in_the_ball(kind, mixture, curvature):
    model = _shaken(kind(N, M, D, curvature))
    some = INDEX[::7]
    found = model(some)
    for k, (h, r, t) in enumerate(some.tolist()):
        (kappa,) = model.curvature(torch.tensor([r]))
        space = Stereographic(float(kappa))
        z = space.mobius_add(space.expmap0(mixture(model, h, r)), space.expmap0(model.translation[r]))
        wanted = -(space.dist(z, space.expmap0(model.entity[t])) ** 2) + model.bias_head[h, 0] + model.bias_tail[t, 0]
        assert float(found[k]) == pytest.approx(float(wanted))


def test_attention_of_rotation_and_reflection_sums_to_one():
    model = _shaken(AttH(N, M, D), 1.0)
    h, r, _ = INDEX.unbind(1)
    weights = model.attention_weights(h, r)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(h), dtype=torch.float64))
    assert weights.std() > 0.01


@torch.no_grad()
def test_flat_rotations_are_measured_by_the_squared_distance():
    model = _shaken(RotE(N, M, D))
    found = model(INDEX)
    for k, (h, r, t) in enumerate(INDEX.tolist()):
        left = givens_rotation(model.rotation[r], model.entity[h]) + model.translation[r] - model.entity[t]
        wanted = -left.square().sum() + model.bias_head[h, 0] + model.bias_tail[t, 0]
        assert float(found[k]) == pytest.approx(float(wanted))


def test_hyperbolic_rotations_without_curvature_are_flat_ones():
    """Distances are then 2|x − y|."""
    flat, bent = _shaken(RotE(N, M, D, bias=False)), RotH(N, M, D, "fixed", bias=False).double()
    state = {name: value for name, value in flat.state_dict().items() if "curvature" not in name}
    bent.load_state_dict(state, strict=False)
    bent.curvature.raw.fill_(-30.0)
    torch.testing.assert_close(bent(INDEX), 4 * flat(INDEX), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("curvature", ["fixed", "relation"])
@torch.no_grad()
def test_murp_stretches_heads_and_translates_tails(curvature):
    model = _shaken(MuRP(N, M, 5, curvature))
    found = model(INDEX)
    everything = torch.cat([model.score_t(*each[None].unbind(1)[:2]) for each in INDEX[::N]]).flatten()
    for k, (h, r, t) in enumerate(INDEX.tolist()):
        (kappa,) = model.curvature(torch.tensor([r]))
        space = Stereographic(float(kappa))
        head = space.expmap0(model.stretch[r] * model.entity[h])
        tail = space.mobius_add(space.expmap0(model.entity[t]), space.expmap0(model.translation[r]))
        wanted = float(-(space.dist(head, tail) ** 2) + model.bias_head[h, 0] + model.bias_tail[t, 0])
        assert float(found[k]) == pytest.approx(wanted)
        assert float(everything[k]) == pytest.approx(wanted)
    if curvature == "fixed":
        assert model.curvature(torch.arange(4))[0].tolist() == pytest.approx([-1] * 4, rel=1e-6)


def test_murp_meets_a_tail_exactly():
    model = _shaken(MuRP(N, M, 5, bias=False))
    with torch.no_grad():
        model.translation.zero_()
        model.entity[1] = model.entity[0] * model.stretch[2]
        model.entity[2] = model.entity[1] * (1 + 1e-6)
    scores = model.score_t(torch.tensor([0]), torch.tensor([2]))[0]
    assert scores[1] == 0
    torch.testing.assert_close(scores[2], model.score_hrt(torch.tensor([[0, 2, 2]]))[0], rtol=1e-8, atol=0)


def test_odd_dimensions_and_bad_settings_are_refused(plain_inputs):
    for kind in (RotH, RefH, AttH, RotE):
        with pytest.raises(ValueError, match=r"dim must be even for Givens rotations.*got 5"):
            kind(3, 1, 5)
    with pytest.raises(ValueError, match="curvature='no' is not known"):
        MuRP(3, 1, 4, curvature="no")
