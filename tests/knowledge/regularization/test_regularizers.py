"""Regularisers: their definition by loops, their invariances and limits, and what they refuse."""

import copy
import io
import math

import pytest
import torch

from equipoise.knowledge import (
    DURARegularizer,
    EquivarianceRegularizer,
    F2Regularizer,
    KGFactors,
    N3Regularizer,
    kg_regularizer,
)
from knowledge.small_models import SMALL, Diagonal, Matrices, random_triples

N, D = 5, 3
FAMILIES = ("real", "complex", "matrix")
ER_SETTINGS = {
    "plain": {},
    "weighted": {"base": 0.455, "scale": 0.6, "a": 0.3, "b": 1.7},
    "gated": {"a": 0.7, "b": 1.3, "eps": 2.0},
    "cubes": {"a": 0.7, "b": 1.3, "eps": 2.0, "p": 3},
    "transpose": {"a": 0.7, "b": 1.3, "tail_map": "transpose"},
    "soft": {"a": 0.7, "b": 1.3, "eps": 2.0, "soft": True, "tau": 0.5},
}
CASES = [("f2", {}), ("n3", {}), ("dura", {}), *(("er", each) for each in ER_SETTINGS.values())]


def _factors(family, seed=0, n=N, d=D):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(
            *shape, generator=generator, dtype=torch.complex128 if family == "complex" else torch.float64
        )

    relation = draw(n, d, d) if family == "matrix" else draw(n, d)
    return draw(n, d), relation, draw(n, d)


def _by_loops(kind, family, head, relation, tail, **settings):
    """The definition, a triple and a number at a time."""
    usual = {"base": 1, "scale": 1, "a": 1, "b": 1, "eps": None, "soft": False, "tau": 0.1, "p": 2, "tail_map": "same"}
    base, scale, a, b, eps, soft, tau, p, tail_map = {**usual, **settings}.values()

    def image(x, r, turned):
        if family == "matrix":
            return [sum(x[i] * (r[j][i] if turned else r[i][j]) for i in range(D)) for j in range(D)]
        return [x[i] * (r[i].conjugate() if turned and family == "complex" else r[i]) for i in range(D)]

    def flat(r):
        return [each for row in r for each in row] if family == "matrix" else r

    def size(x, p=2):
        return sum(abs(each) ** p for each in x)

    total = 0.0
    for h, r, t in zip(head.tolist(), relation.tolist(), tail.tolist(), strict=True):
        if kind in ("f2", "n3"):
            power = 2 if kind == "f2" else 3
            total += size(h, power) + size(flat(r), power) + size(t, power)
            continue
        if kind == "dura":
            total += size(h) + size(t) + size(image(h, r, False)) + size(image(t, r, True))
            continue
        first, second = image(h, r, False), image(t, r, tail_map == "transpose")
        near = None
        if eps is not None:
            distance = size([x - y for x, y in zip(h, t, strict=True)]) ** 0.5
            near = 1 / (1 + math.exp((distance - eps) / tau)) if soft else float(distance <= eps)
        total += base * (size(h, p) + size(t, p)) + scale * (
            a * (1 if near is None else 1 - near) * size([x + y for x, y in zip(first, second, strict=True)], p)
            + b * (1 if near is None else near) * size([x - y for x, y in zip(first, second, strict=True)], p)
        )
    return total / len(head)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_the_value_is_the_definition_and_the_gradient_is_that_of_the_value(kind, settings, family):
    factors = _factors(family)
    found = kg_regularizer(kind, family, *factors, weight=0.3, **settings)
    assert float(found) == pytest.approx(0.3 * _by_loops(kind, family, *factors, **settings), rel=1e-12)
    assert float(found) > 0
    leaves = [each.requires_grad_() for each in factors]
    assert torch.autograd.gradcheck(lambda *args: kg_regularizer(kind, family, *args, **settings), leaves)


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_real_pairs_are_complex_numbers_and_families_agree_where_they_meet(kind, settings):
    head, relation, tail = _factors("complex")
    pairs = [torch.view_as_real(each) for each in (head, relation, tail)]
    wanted = kg_regularizer(kind, "complex", head, relation, tail, **settings)
    torch.testing.assert_close(kg_regularizer(kind, "complex", *pairs, **settings), wanted)
    head, relation, tail = _factors("real")
    wanted = kg_regularizer(kind, "real", head, relation, tail, **settings)
    real = [each + 0j for each in (head, relation, tail)]
    torch.testing.assert_close(kg_regularizer(kind, "complex", *real, **settings), wanted)
    torch.testing.assert_close(kg_regularizer(kind, "matrix", head, relation.diag_embed(), tail, **settings), wanted)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_it_is_linear_in_the_weight_a_mean_over_triples_and_zero_at_zero(kind, settings, family):
    factors = [each.requires_grad_() for each in _factors(family)]
    once = kg_regularizer(kind, family, *factors, **settings)
    torch.testing.assert_close(kg_regularizer(kind, family, *factors, weight=2.5, **settings), 2.5 * once)
    twice = [torch.cat([each, each]) for each in factors]
    torch.testing.assert_close(kg_regularizer(kind, family, *twice, **settings), once)
    zeros = [torch.zeros_like(each).requires_grad_() for each in factors]
    value = kg_regularizer(kind, family, *zeros, **settings)
    value.backward()
    assert float(value.detach()) == 0
    assert all(bool((each.grad == 0).all()) for each in zeros)


def test_a_phase_that_head_and_tail_share_or_that_a_relation_has_changes_nothing_but_a_relative_one_does():
    head, relation, tail = _factors("complex")
    turn = torch.polar(torch.ones(N, D, dtype=torch.float64), torch.arange(N * D, dtype=torch.float64).reshape(N, D))
    settings = {"a": 0.2, "b": 1.5, "eps": 2.0}
    wanted = kg_regularizer("er", "complex", head, relation, tail, **settings)
    shared = turn[:, :1]
    torch.testing.assert_close(
        kg_regularizer("er", "complex", head * shared, relation, tail * shared, **settings), wanted
    )
    torch.testing.assert_close(kg_regularizer("er", "complex", head, relation * turn, tail, **settings), wanted)
    moved = kg_regularizer("er", "complex", head * turn, relation, tail, a=0.2, b=1.5)
    assert abs(float(moved) - float(kg_regularizer("er", "complex", head, relation, tail, a=0.2, b=1.5))) > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_with_equal_weights_and_no_gate_it_is_dura(family):
    mine, theirs = ([each.requires_grad_() for each in _factors(family)] for _ in range(2))
    tail_map = "transpose" if family == "matrix" else "same"
    value = kg_regularizer("er", family, *mine, scale=0.5, tail_map=tail_map)
    dura = kg_regularizer("dura", family, *theirs)
    torch.testing.assert_close(value, dura)
    value.backward()
    dura.backward()
    for found, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)
    uneven = kg_regularizer("er", family, *mine, scale=0.5, a=0.9, tail_map=tail_map)
    assert abs(float(uneven.detach()) - float(dura.detach())) > 1e-3


def test_a_relation_that_keeps_the_norm_of_sums_gives_the_sum_of_squares_back():
    """Of an orthogonal R: ER = (ρ + 2aσ)(‖h‖² + ‖t‖²)."""
    head, relation, tail = _factors("matrix")
    orthogonal = torch.linalg.qr(relation).Q
    found = kg_regularizer("er", "matrix", head, orthogonal, tail, base=0.3, scale=0.4, a=1.1, b=1.1)
    wanted = (0.3 + 2 * 1.1 * 0.4) * (head.square().sum(1) + tail.square().sum(1)).mean()
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_limits_of_the_gate(family):
    factors = _factors(family)
    with_gate = {eps: float(kg_regularizer("er", family, *factors, a=0.4, b=1.2, eps=eps)) for eps in (0.0, math.inf)}
    assert with_gate[math.inf] == pytest.approx(float(kg_regularizer("er", family, *factors, a=0.0, b=1.2)))
    assert with_gate[0.0] == pytest.approx(float(kg_regularizer("er", family, *factors, a=0.4, b=0.0)))
    hard = float(kg_regularizer("er", family, *factors, a=0.4, b=1.2, eps=2.0))
    assert float(kg_regularizer("er", family, *factors, a=0.4, b=1.2, eps=2.0, soft=True, tau=1e-6)) == pytest.approx(
        hard
    )


def test_a_distance_of_eps_is_near_and_so_are_equals_only_at_zero():
    head = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [1e-25, 0.0]])
    tail = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    factors = KGFactors(head, torch.ones(4, 2), tail, "real")
    assert EquivarianceRegularizer(1.0, eps=5.0).near(factors).tolist() == [True] * 4
    assert (
        EquivarianceRegularizer(1.0, eps=math.nextafter(5.0, 0) - 1e-6).near(factors).tolist() == [False] + [True] * 3
    )
    assert EquivarianceRegularizer(1.0, eps=0.0).near(factors).tolist() == [False, True, True, False]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_a_self_loop_and_zeros_have_finite_gradients(kind, settings, family):
    head, relation, tail = _factors(family)
    head[0], tail[1], relation[2], head[3] = tail[0], 0.0, 0.0, 0.0
    leaves = [each.requires_grad_() for each in (head, relation, tail)]
    kg_regularizer(kind, family, *leaves, **settings).backward()
    assert all(bool(torch.view_as_real(each.grad + 0j).isfinite().all()) for each in leaves)


def test_a_self_loop_is_near_and_its_image_is_drawn_nowhere():
    head, relation, _ = _factors("real")
    found = kg_regularizer("er", "real", head, relation, head, base=0.0, a=7.0, b=3.0, eps=0.0)
    assert float(found) == 0


def test_matrices_by_index_are_those_of_each_triple():
    head, _, tail = _factors("matrix", n=7)
    table = torch.randn(4, D, D, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([2, 0, 2, 3, 0, 2, 2])
    for make in (F2Regularizer, N3Regularizer, DURARegularizer, lambda w: EquivarianceRegularizer(w, a=0.3, eps=2.0)):
        gradients = []
        values = []
        for factors in (
            KGFactors(head, table, tail, "matrix", index),
            KGFactors(head, table[index], tail, "matrix"),
        ):
            value = make(0.7)(factors)
            value.backward()
            values.append(value.detach())
            gradients.append(table.grad)
            table.grad = None
        torch.testing.assert_close(*values)
        torch.testing.assert_close(*gradients)
        assert bool((gradients[0][1] == 0).all())
    vectors = KGFactors(head, table[:, 0], tail, "real", index)
    wanted = KGFactors(head, table[index, 0], tail, "real")
    torch.testing.assert_close(DURARegularizer(0.7)(vectors), DURARegularizer(0.7)(wanted))


@pytest.mark.parametrize("name", SMALL)
def test_every_model_can_be_regularised_and_entities_of_other_batches_are_left_alone(name):
    model, triples = SMALL[name](9, 3, 4), random_triples(12, 5, 3)
    heads, relations, tails = triples.unbind(1)
    factors = model.factors(model.rows(heads), relations, model.rows(tails))
    for regularizer in (
        F2Regularizer(0.1),
        N3Regularizer(0.1),
        DURARegularizer(0.1),
        EquivarianceRegularizer(0.1, eps=1.0),
    ):
        model.zero_grad()
        regularizer(factors).backward(retain_graph=True)
        assert float(model.entity.grad[:5].abs().sum()) > 0
        assert float(model.entity.grad[5:].abs().sum()) == 0


def test_weights_thresholds_and_categories_are_those_of_the_triple():
    head, relation, tail = _factors("real")
    triples = torch.tensor([[0, 2, 1], [1, 0, 1], [2, 1, 3], [4, 3, 0], [5, 0, 5]])
    factors = KGFactors(head, relation, tail, "real")
    weight = torch.tensor([0.1, 0.0, 2.0, 1.0], dtype=torch.float64)
    eps = torch.tensor([3.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    one_by_one = [
        float(kg_regularizer("er", "real", *(each[k : k + 1] for each in (head, relation, tail)),
                             weight=float(weight[r]), a=0.4, eps=float(eps[r])))
        for k, r in enumerate(triples[:, 1].tolist())
    ]  # fmt: skip
    found = EquivarianceRegularizer(weight, a=0.4, eps=eps)(factors, triples)
    assert float(found) == pytest.approx(sum(one_by_one) / N)
    kinds = torch.tensor([0, 0, 1, 0, 1, 1])
    by_kind = EquivarianceRegularizer(0.5, a=0.4, categories=kinds)
    assert by_kind.near(factors, triples).tolist() == [True, True, False, False, True]
    wanted = sum(
        float(kg_regularizer("er", "real", *(each[k : k + 1] for each in (head, relation, tail)),
                             weight=0.5, a=0.4, eps=math.inf if near else 0.0))
        for k, near in enumerate([True, True, False, False, True])
    )  # fmt: skip
    assert float(by_kind(factors, triples)) == pytest.approx(wanted / N)


def test_soft_thresholds_are_learned_one_for_every_relation():
    triples = torch.tensor([[0, 0, 1], [1, 0, 1], [2, 2, 3], [4, 2, 0], [5, 2, 5]])
    factors = KGFactors(*_factors("real"), "real")
    regularizer = EquivarianceRegularizer(
        1.0, a=0.1, eps=torch.tensor([2.0, 2.0, 2.0, 2.0]), soft=True, tau=0.5
    ).double()
    regularizer(factors, triples).backward()
    assert (regularizer.eps.grad != 0).tolist() == [True, False, True, False]
    one = EquivarianceRegularizer(1.0, a=0.1, eps=2.0, soft=True, tau=0.5)
    assert [name for name, _ in one.named_parameters()] == ["eps"]
    torch.testing.assert_close(one(factors).detach(), regularizer(factors, triples).detach())
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    other = EquivarianceRegularizer(1.0, a=0.1, eps=9.0, soft=True, tau=0.5)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert float(other(factors).detach()) == float(one(factors).detach())
    assert float(copy.deepcopy(one)(factors).detach()) == float(one(factors).detach())


def test_the_share_of_near_pairs_of_each_relation():
    model = Diagonal(6, 2, 3)
    with torch.no_grad():
        model.entity.copy_(torch.arange(6.0, dtype=torch.float64)[:, None].expand(6, 3) / math.sqrt(3))
    triples = torch.tensor([[0, 0, 1], [0, 0, 2], [5, 0, 5], [1, 3, 4], [0, 0, 3]])
    for soft in (False, True):
        share = EquivarianceRegularizer(1.0, eps=1.5, soft=soft).near_share(model, triples, batch_size=2)
        torch.testing.assert_close(
            share, torch.tensor([0.5, math.nan, math.nan, 0.0], dtype=torch.float64), equal_nan=True
        )


def test_half_precision_is_summed_in_single():
    factors = [(100 * each).half() for each in _factors("matrix", n=40)]
    found = EquivarianceRegularizer(1.0)(KGFactors(*factors, "matrix"))
    assert found.dtype is torch.float32
    wanted = EquivarianceRegularizer(1.0)(KGFactors(*(each.double() for each in factors), "matrix"))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_settings_are_named():
    for settings, message in (
        ({"weight": -1.0}, "weight=-1.0 must be a number at least 0|weight=-1.0 must be"),
        ({"weight": torch.tensor([1.0, -2.0])}, "weight must be at least 0, got -2"),
        ({"base": -0.5}, "base=-0.5"),
        ({"scale": -0.5}, "scale=-0.5"),
        ({"a": -0.5}, "a=-0.5"),
        ({"b": -0.5}, "b=-0.5"),
        ({"eps": -0.5}, "eps=-0.5"),
        ({"eps": math.nan}, "eps=nan"),
        ({"eps": torch.tensor([1.0, -2.0])}, "eps must be at least 0, got -2"),
        ({"p": 4}, "p=4 is not known; choose one of 2, 3"),
        ({"tail": "head"}, "tail='head' is not known"),
        ({"soft": True}, "soft=True learns thresholds from eps on, which must be finite; got eps=None"),
        ({"soft": True, "eps": math.inf}, "got eps=inf"),
        ({"eps": 1.0, "categories": torch.tensor([0, 1])}, "eps and categories both say"),
        ({"categories": [0, 1]}, "categories must be a torch.Tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            EquivarianceRegularizer(**{"weight": 1.0, **settings})
    with pytest.raises(ValueError, match="weight=-1"):
        N3Regularizer(-1)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_factors_are_named():
    head, relation, tail = _factors("real")
    regularizer = DURARegularizer(1.0)
    for factors, message in (
        (KGFactors(head, relation, tail, "rael"), "family='rael' is not known"),
        (KGFactors(head, relation, tail[:3], "real"), r"head and tail must both have shape \(n, d\)"),
        (KGFactors(head, relation, tail, "matrix"), r"relation must have shape \(5, 3, 3\) in family='matrix'"),
        (KGFactors(head, relation[:2], tail, "real"), r"relation must have shape \(5, 3\)"),
        (KGFactors(head, relation, tail, "real", torch.tensor([0])), r"index must have shape \(5,\)"),
        (KGFactors(head[:0], relation[:0], tail[:0], "real"), "no mean of nothing"),
        (KGFactors(head, relation * math.nan, tail, "real"), "relation of the factors holds NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            regularizer(factors)
    with pytest.raises(TypeError, match=r"head is of torch\.complex128, which does not fit family='real'"):
        regularizer(KGFactors(head + 0j, relation, tail, "real"))
    with pytest.raises(TypeError, match=r"relation is of torch\.complex128"):
        kg_regularizer("f2", "matrix", head, relation + 0j, tail)
    with pytest.raises(TypeError, match="does not fit family='complex'"):
        regularizer(KGFactors(head, relation, tail, "complex"))
    factors, triples = KGFactors(head, relation, tail, "real"), torch.tensor([[0, 2, 1]] * 5)
    with pytest.raises(ValueError, match=r"triples must have shape \(5, 3\), got \(4, 3\)"):
        regularizer(factors, triples[:4])
    with pytest.raises(ValueError, match="weight has a row for every relation: triples must be given"):
        DURARegularizer(torch.ones(4))(factors)
    with pytest.raises(ValueError, match=r"eps has 2 rows, but triples name relation 2; .* 2M rows"):
        EquivarianceRegularizer(1.0, eps=torch.ones(2))(factors, triples)
    with pytest.raises(ValueError, match="a row for every entity, got 1 rows and a triple of entity 1"):
        EquivarianceRegularizer(1.0, categories=torch.tensor([0]))(factors, triples)
    with pytest.raises(ValueError, match="categories are of entities"):
        EquivarianceRegularizer(1.0, categories=torch.tensor([0]))(factors)
    with pytest.raises(ValueError, match="no pair is near or far"):
        EquivarianceRegularizer(1.0).near(factors)
    for arguments, message in (
        (("er", "real", head[:0], relation[:0], tail[:0]), "head is empty"),
        (("l1", "real", head, relation, tail), "kind='l1' is not known"),
        (("er", "complex", head, relation, tail), r"head of family='complex' must have shape \(n, d, 2\)"),
        (("er", "real", head * math.nan, relation, tail), "head holds 15 NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            kg_regularizer(*arguments)
    with pytest.raises(ValueError, match="soft=True needs eps"):
        kg_regularizer("er", "real", head, relation, tail, soft=True)


def test_one_matrix_a_relation_is_multiplied_at_a_time():
    """No (n, d, d) tensor is made where matrices come with an index."""
    model, triples = Matrices(20, 3, 6), random_triples(200, 20, 3)
    heads, relations, tails = triples.unbind(1)
    factors = model.factors(model.rows(heads), relations, model.rows(tails))
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        EquivarianceRegularizer(1.0, a=0.5)(factors).backward()
    assert max(sizes) <= 200 * 6
