"""Geometry interaction: the score in loops, candidates that coincide, limits, the two-sided form, refusals."""

import math

import pytest
import torch

from equipoise.knowledge import GIE, Stereographic, gie_score, givens_rotation

NAMES = ("euclidean", "hyperbolic", "spherical")


def _drawn(*shape, seed=0, scale=0.4):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def _inputs(n=5, d=6, **changes):
    vectors = ("head", "tail", "rot_euclidean", "rot_hyperbolic", "rot_spherical", "translation", "attention")
    given = {name: _drawn(n, d, seed=k) for k, name in enumerate(vectors)}
    given |= {"bias_head": _drawn(n, seed=20), "bias_tail": _drawn(n, seed=21)}
    given |= {
        "kappa_hyperbolic": -0.3 - _drawn(n, seed=22).abs(),
        "kappa_spherical": 0.3 + _drawn(n, seed=23).abs(),
        "kappa": -0.2 - _drawn(n, seed=24).abs(),
    }
    return {**given, **changes}


def _shaken(model, scale=0.4):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in model.double().parameters():
            each.add_(torch.randn(each.shape, generator=generator, dtype=torch.float64) * scale)
    return model


def test_the_score_is_its_definition_triple_by_triple():
    given = _inputs()
    score, weights = gie_score(**given)
    for k in range(5):
        one = {name: value[k] for name, value in given.items()}
        h, b = one["head"], one["translation"]
        images = [givens_rotation(one["rot_euclidean"], h)]
        for rotation, kappa in (("rot_hyperbolic", "kappa_hyperbolic"), ("rot_spherical", "kappa_spherical")):
            space = Stereographic(float(one[kappa]))
            moved = space.mobius_add(space.expmap0(h), space.expmap0(b))
            images.append(space.logmap0(givens_rotation(one[rotation], moved)))
        powers = [math.exp(float(one["attention"] @ image) / math.sqrt(6)) for image in images]
        shares = [each / sum(powers) for each in powers]
        assert weights[k].tolist() == pytest.approx(shares)
        q = sum(share * image for share, image in zip(shares, images, strict=True))
        space = Stereographic(float(one["kappa"]))
        z = space.mobius_add(space.expmap0(q), space.expmap0(b))
        wanted = -(space.dist(z, space.expmap0(one["tail"])) ** 2) + one["bias_head"] + one["bias_tail"]
        assert float(score[k]) == pytest.approx(float(wanted))


def test_gradients_are_those_of_finite_differences():
    given = _inputs(n=2, d=4)
    leaves = [each.requires_grad_() for each in given.values()]
    assert torch.autograd.gradcheck(lambda *values: gie_score(**dict(zip(given, values, strict=True))), leaves)


def test_where_the_images_coincide_attention_changes_nothing():
    rotation, zero = _drawn(5, 6, seed=30), torch.zeros(5, 6, dtype=torch.float64)
    same = {f"rot_{name}": rotation for name in NAMES}
    given = _inputs(translation=zero, **same)
    score, weights = gie_score(**given)
    for seed in (31, 32):
        other = gie_score(**{**given, "attention": 5 * _drawn(5, 6, seed=seed)})
        torch.testing.assert_close(other.score, score)
        torch.testing.assert_close(other.weights, torch.full_like(weights, 1 / 3))
    space = Stereographic(given["kappa"])
    met = givens_rotation(rotation, given["head"])
    at = space.dist_squared(space.expmap0(met), space.expmap0(given["tail"]))
    torch.testing.assert_close(score, given["bias_head"] + given["bias_tail"] - at)
    torch.testing.assert_close(gie_score(**{**given, "tail": met}).score, given["bias_head"] + given["bias_tail"])


def test_without_curvature_it_is_flat():
    flat = _inputs(kappa_hyperbolic=0.0, kappa_spherical=0.0, kappa=0.0)
    bent = _inputs(kappa_hyperbolic=-1e-9, kappa_spherical=1e-9, kappa=-1e-9)
    score, weights = gie_score(**flat)
    torch.testing.assert_close(gie_score(**bent).score, score, rtol=1e-6, atol=1e-6)
    h, b = flat["head"], flat["translation"]
    images = [givens_rotation(flat["rot_euclidean"], h)]
    images += [givens_rotation(flat[name], h + b) for name in ("rot_hyperbolic", "rot_spherical")]
    q = sum(weights[:, k, None] * image for k, image in enumerate(images))
    wanted = flat["bias_head"] + flat["bias_tail"] - 4 * (q + b - flat["tail"]).square().sum(1)
    torch.testing.assert_close(score, wanted)


def test_the_model_is_the_function_of_its_tables():
    model = _shaken(GIE(7, 2, 6))
    index = torch.cartesian_prod(torch.arange(7), torch.arange(4), torch.arange(7))
    h, r, t = index.unbind(1)
    bent, round_, target = model.curvature(r)
    wanted = gie_score(
        model.entity[h],
        model.entity[t],
        model.bias_head[h, 0],
        model.bias_tail[t, 0],
        *(model.rotations[name][r] for name in NAMES),
        model.translation[r],
        model.attention[r],
        bent,
        round_,
        target,
    )
    torch.testing.assert_close(model(index), wanted.score)
    torch.testing.assert_close(model.attention_weights(h, r), wanted.weights)
    assert (bent < 0).all()
    assert (round_ > 0).all()
    assert (target < 0).all()


def test_the_order_of_the_spaces_is_that_of_the_weights():
    first, second = GIE(5, 1, 4, NAMES), GIE(5, 1, 4, NAMES[::-1])
    second.load_state_dict({**first.state_dict(), "curvature.raw": first.curvature.raw[:, [1, 0, 2]]})
    for model in (first, second):
        with torch.no_grad():
            model.entity.mul_(500)
            model.attention.mul_(2000)
    heads, relations = torch.arange(5), torch.tensor([0, 1, 0, 1, 0])
    torch.testing.assert_close(first.score_t(heads, relations), second.score_t(heads, relations))
    torch.testing.assert_close(
        first.attention_weights(heads, relations).flip(1), second.attention_weights(heads, relations)
    )
    alone = GIE(5, 1, 4, ("hyperbolic",))
    assert (alone.attention_weights(heads, relations) == 1).all()
    assert list(alone.rotations) == ["hyperbolic"]


@torch.no_grad()
def test_the_start_is_that_of_the_authors():
    model = GIE(400, 30, 20)
    for each in (model.entity, model.translation, model.attention):
        assert float(each.detach().std()) == pytest.approx(1e-3, rel=0.1)
    for each in model.rotations.values():
        assert float(each.detach().std()) == pytest.approx(3**-0.5, rel=0.1)
        assert each.abs().max() <= 1
    assert (model.bias_head == 0).all()
    assert (model.bias_tail == 0).all()
    kappas = torch.stack(model.curvature(torch.arange(60)))
    torch.testing.assert_close(kappas, torch.tensor([-1.0, 1.0, -1.0])[:, None].expand(3, 60) * 1.3132617)


@pytest.mark.parametrize(("kind", "rows", "learned"), [("relation", 4, True), ("shared", 1, True), ("fixed", 1, False)])
def test_curvature_is_of_each_relation_of_all_or_fixed(kind, rows, learned):
    model = GIE(5, 2, 4, curvature=kind)
    assert len(model.curvature.raw) == rows
    assert ("curvature.raw" in dict(model.named_parameters())) == learned
    assert "curvature.raw" in model.state_dict()


@torch.no_grad()
def test_the_two_sided_score_is_its_definition_triple_by_triple():
    model = _shaken(GIE(6, 2, 4, two_sided=True))
    index = torch.tensor([[0, 1, 2], [3, 2, 4], [5, 0, 5]])
    found = model(index)
    for k, (h, r, t) in enumerate(index.tolist()):
        head, tail, b = model.entity[h], model.entity[t], model.translation[r]
        kappas = [float(each) for each in model.curvature(torch.tensor([r]))]
        ahead, back = [givens_rotation(model.rotations["euclidean"][r], head) + b], []
        flipped = torch.tensor([1, -1, 1, -1], dtype=torch.float64)
        back.append(givens_rotation(model.rotations["euclidean"][r] * flipped, tail - b))
        for name, kappa in zip(NAMES[1:], kappas, strict=False):
            space, rotation = Stereographic(kappa), model.rotations[name][r]
            moved = space.mobius_add(space.expmap0(b), givens_rotation(rotation, space.expmap0(head)))
            ahead.append(space.logmap0(moved))
            moved = space.mobius_add(space.expmap0(-b), space.expmap0(tail))
            back.append(space.logmap0(givens_rotation(rotation * flipped, moved)))
        sides = []
        for images, attention in ((ahead, model.attention[r]), (back, model.attention_back[r])):
            powers = torch.stack([(attention @ image).exp() for image in images])
            sides.append(sum(power * image for power, image in zip(powers, images, strict=True)) / powers.sum())
        space = Stereographic(kappas[-1])
        one, two, three, four = (space.expmap0(each) for each in (sides[0], tail, sides[1], head))
        wanted = -space.dist(one, two) - space.dist(three, four) + model.bias_head[h, 0] + model.bias_tail[t, 0]
        assert float(found[k]) == pytest.approx(float(wanted))


@pytest.mark.parametrize("name", NAMES)
def test_one_space_of_two_sides_undoes_what_it_does(name):
    """Where the tail is the head's image, both distances are zero: left translations are undone exactly."""
    model = _shaken(GIE(6, 2, 4, (name,), two_sided=True, bias=False), 0.2)
    heads, relations = torch.tensor([0, 1]), torch.tensor([2, 3])
    with torch.no_grad():
        model.entity[[4, 5]] = model.mixture(model.rows(heads), relations)
    scores = model(torch.tensor([[0, 2, 4], [1, 3, 5], [0, 2, 5]]))
    torch.testing.assert_close(scores[:2], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-7)
    assert scores[2] < -0.1


def test_bad_settings_are_refused(plain_inputs):
    with pytest.raises(ValueError, match=r"dim must be even for Givens rotations.*got 5"):
        GIE(3, 1, 5)
    with pytest.raises(ValueError, match=r"spaces=\(\) must hold at least one of euclidean, hyperbolic, spherical"):
        GIE(3, 1, 4, ())
    with pytest.raises(ValueError, match=r"spaces=.* none twice"):
        GIE(3, 1, 4, ("euclidean", "euclidean"))
    with pytest.raises(ValueError, match="'flat' is not known"):
        GIE(3, 1, 4, ("flat",))
    with pytest.raises(ValueError, match="curvature='none' is not known"):
        GIE(3, 1, 4, curvature="none")
    with pytest.raises(ValueError, match=r"dim must be even for Givens rotations.*got 5"):
        gie_score(**_inputs(d=5))
