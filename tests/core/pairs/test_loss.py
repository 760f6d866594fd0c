"""`core.pairs.loss` against the double loop it replaces, written out in float64."""

import functools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equipoise.core.pairs.hinges import _reach
from equipoise.core.pairs.loss import columnwise_pairwise_loss, pairwise_derivatives, pairwise_loss, split_classes
from equipoise.core.pairs.surrogates import SURROGATES, Surrogate

NAMES = list(SURROGATES)


def softer(t):
    return torch.nn.functional.softplus(0.5 - t) ** 2


def tabled(name):
    """The same functions, but not a surrogate that a kernel knows, so that every pair of it is looked at."""
    known = SURROGATES[name]
    return Surrogate("tabled", known.value, known.slope, known.curvature)


def dense(pos, neg, surrogate, margin=1.0, w=None, v=None):
    """The definition; its hinge has slope 0 at the margin, as ours."""
    t = pos.double()[:, None] - neg.double()[None, :]
    if callable(surrogate):
        loss = surrogate(t)
    else:
        loss = SURROGATES[surrogate].value(t, margin)
        if surrogate == "hinge":
            loss = torch.where(t < margin, margin - t, 0.0)
    w = torch.ones_like(pos, dtype=torch.float64) if w is None else w.double()
    v = torch.ones_like(neg, dtype=torch.float64) if v is None else v.double()
    return (w[:, None] * v * loss).sum() / (w.sum() * v.sum())


def sample(n_pos=11, n_neg=37, seed=0, dtype=torch.float64, shift=0.5):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n_pos, generator=g, dtype=torch.float64).add(shift).to(dtype),
        torch.randn(n_neg, generator=g, dtype=torch.float64).to(dtype),
        torch.rand(n_pos, generator=g, dtype=torch.float64).to(dtype),
        torch.rand(n_neg, generator=g, dtype=torch.float64).to(dtype),
    )


def gradients(loss, *inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return value.detach(), torch.autograd.grad(value, inputs)


@pytest.mark.parametrize("surrogate", [*NAMES, softer])
@pytest.mark.parametrize("margin", [0.3, 1.0])
@pytest.mark.parametrize("sizes", [(11, 37), (37, 11), (1, 20), (20, 1), (1, 1)])
def test_value_and_gradient_are_those_of_the_double_loop(surrogate, margin, sizes):
    pos, neg, _, _ = sample(*sizes)
    value, found = gradients(lambda p, n: pairwise_loss(p, n, surrogate, margin), pos, neg)
    expected, wanted = gradients(lambda p, n: dense(p, n, surrogate, margin), pos, neg)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("surrogate", NAMES)
def test_what_all_scores_have_in_common_costs_float64_no_digit(surrogate):
    # Whole multiples of 2^-10, so that the scores themselves lose none.
    pos, neg = (x.mul(1024).round() / 1024 for x in sample()[:2])
    w, v = sample()[2:]
    for weights in ((), (w, v)):
        far, near = (
            pairwise_derivatives(pos + shift, neg + shift, surrogate, 0.3, *weights) for shift in (2.0**40, 0.0)
        )
        torch.testing.assert_close(far, near, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("surrogate", ["square", "squared_hinge", "hinge"])
def test_a_margin_may_be_zero(surrogate):
    for pos, neg in (sample()[:2], (torch.zeros(3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))):
        value, found = gradients(lambda p, n: pairwise_loss(p, n, surrogate, 0.0), pos, neg)
        expected, wanted = gradients(lambda p, n: dense(p, n, surrogate, 0.0), pos, neg)
        torch.testing.assert_close((value, *found), (expected, *wanted), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("surrogate", [*NAMES, softer])
def test_weights_weigh_and_have_gradients(surrogate):
    pos, neg, w, v = sample()
    w[3] = v[5] = 0
    value, found = gradients(lambda p, n, w, v: pairwise_loss(p, n, surrogate, 0.7, w, v), pos, neg, w, v)
    expected, wanted = gradients(lambda p, n, w, v: dense(p, n, surrogate, 0.7, w, v), pos, neg, w, v)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("surrogate", NAMES)
def test_one_side_may_be_weighted_alone(surrogate):
    pos, neg, w, v = sample()
    torch.testing.assert_close(pairwise_loss(pos, neg, surrogate, 1.0, w), dense(pos, neg, surrogate, 1.0, w))
    torch.testing.assert_close(
        pairwise_loss(pos, neg, surrogate, 1.0, neg_weight=v), dense(pos, neg, surrogate, 1.0, None, v)
    )


@pytest.mark.parametrize("surrogate", [name for name in NAMES if name != "hinge"])
def test_gradcheck_of_scores_and_weights(surrogate):
    pos, neg, w, v = (x.requires_grad_() for x in sample(4, 6))
    assert torch.autograd.gradcheck(lambda *x: pairwise_loss(x[0], x[1], surrogate, 0.9, x[2], x[3]), (pos, neg, w, v))


@pytest.mark.parametrize("surrogate", ["hinge", "squared_hinge"])
@pytest.mark.parametrize(
    ("scale", "margin"), [(1.0, 1.0), (0.1, 0.0), (0.1, 0.5), (0.1, 0.3), (0.01, 0.07), (0.7, 0.7)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_at_the_margin_have_no_slope_and_no_curvature(surrogate, scale, margin, dtype):
    g = torch.Generator().manual_seed(1)
    pos = (torch.randint(-9, 10, (60,), generator=g).double() * scale).to(dtype)
    neg = (torch.randint(-9, 10, (80,), generator=g).double() * scale).to(dtype)
    found = pairwise_derivatives(pos.double(), neg.double(), surrogate, margin)
    t = pos.double()[:, None] - neg.double()
    slope = SURROGATES[surrogate].slope(t, margin) / t.numel()
    curvature = SURROGATES[surrogate].curvature(t, margin) / t.numel()
    torch.testing.assert_close(found.pos_gradient, slope.sum(1), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.neg_gradient, -slope.sum(0), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.pos_curvature, curvature.sum(1), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.neg_curvature, curvature.sum(0), rtol=1e-12, atol=1e-15)
    narrow = pairwise_derivatives(pos, neg, surrogate, margin)
    torch.testing.assert_close(narrow.neg_gradient.double(), found.neg_gradient, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(narrow.pos_curvature.double(), found.pos_curvature, rtol=1e-6, atol=1e-9)


grids = st.lists(st.sampled_from([k / 10 for k in range(-12, 13)]), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grids, grids, st.sampled_from(NAMES), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 99))
def test_any_small_problem_with_ties_agrees_with_the_double_loop(pos, neg, surrogate, margin, seed):
    pos, neg = torch.tensor(pos, dtype=torch.float64), torch.tensor(neg, dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    w, v = (torch.randint(0, 3, x.shape, generator=g).double() for x in (pos, neg))
    w[0], v[0] = w[0].clamp_min(1), v[0].clamp_min(1)
    value, found = gradients(lambda p, n: pairwise_loss(p, n, surrogate, margin, w, v), pos, neg)
    expected, wanted = gradients(lambda p, n: dense(p, n, surrogate, margin, w, v), pos, neg)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("surrogate", [*NAMES, softer])
def test_all_equal_scores_give_the_loss_of_a_tie(surrogate):
    pos, neg = torch.full((3,), 7.25), torch.full((5,), 7.25)
    expected = surrogate(torch.zeros(())) if callable(surrogate) else SURROGATES[surrogate].value(torch.zeros(()), 0.5)
    torch.testing.assert_close(pairwise_loss(pos, neg, surrogate, 0.5), expected)


@pytest.mark.parametrize("surrogate", [*NAMES, softer])
def test_order_and_a_common_shift_do_not_matter(surrogate):
    pos, neg, w, v = sample()
    value, (by_pos, by_neg) = gradients(lambda p, n: pairwise_loss(p, n, surrogate, 1.0, w, v), pos, neg)
    i, j = torch.randperm(11), torch.randperm(37)
    moved, (moved_pos, moved_neg) = gradients(
        lambda p, n: pairwise_loss(p, n, surrogate, 1.0, w[i], v[j]), pos[i] + 64, neg[j] + 64
    )
    torch.testing.assert_close((moved, moved_pos, moved_neg), (value, by_pos[i], by_neg[j]), rtol=1e-10, atol=1e-13)
    assert abs(by_pos.sum() + by_neg.sum()) < 1e-14


@pytest.mark.parametrize("surrogate", [*NAMES, softer])
@pytest.mark.parametrize("weighted", [False, True])
def test_float32_keeps_its_digits_at_an_offset_of_ten_thousand(surrogate, weighted):
    pos, neg, w, v = sample(50, 300)
    pos, neg = (pos + 1e4).float(), (neg + 1e4).float()
    weights = (w.float(), v.float()) if weighted else (None, None)
    value, found = gradients(lambda p, n: pairwise_loss(p, n, surrogate, 1.0, *weights), pos, neg)
    assert value.dtype == torch.float32
    expected, wanted = gradients(lambda p, n: dense(p, n, surrogate, 1.0, *weights), pos.double(), neg.double())
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-7 * float(b.abs().max()) + 1e-9)


@pytest.mark.parametrize("surrogate", NAMES)
def test_float64_keeps_its_digits_at_an_offset_of_ten_million(surrogate):
    pos, neg, _, _ = sample(50, 300)
    pos, neg = pos + 1e7, neg + 1e7
    value, found = gradients(functools.partial(pairwise_loss, surrogate=surrogate), pos, neg)
    expected, wanted = gradients(lambda p, n: dense(p, n, surrogate), pos, neg)
    torch.testing.assert_close((value, *found), (expected, *wanted), rtol=1e-12, atol=1e-16)


@given(
    st.floats(-50, 50),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 1.0 + 2**-52, 1.5, 3.3, 1e-3]),
    st.integers(-3, 3),
)
def test_the_reach_is_where_the_rounded_sum_meets_the_margin(y, margin, steps):
    y = torch.tensor([y], dtype=torch.float64)
    x = margin - y
    for _ in range(abs(steps)):
        x = torch.nextafter(x, torch.full_like(x, math.copysign(math.inf, steps)))
    assert (x < _reach(y, margin)) == (y + x < margin)


@pytest.mark.parametrize("surrogate", ["square", "squared_hinge", "hinge", "logistic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_ten_thousand_either_way_stay_exact(surrogate, dtype):
    pos = torch.tensor([1e4, -1e4, 0.5, 9999.5, 3.0], dtype=dtype)
    neg = torch.tensor([-1e4, 1e4, 0.0, 1e4, 9999.0, -3.0], dtype=dtype)
    for p, n in ((pos, neg), (pos[:1], neg[1:2]), (pos[[0, 3]], neg[[1, 3, 4]]), (pos[:1], neg[:1])):
        value, found = gradients(functools.partial(pairwise_loss, surrogate=surrogate), p, n)
        expected, wanted = gradients(lambda p, n: dense(p, n, surrogate), p.double(), n.double())
        rtol = 1e-6 if dtype == torch.float32 else 1e-11
        torch.testing.assert_close(value.double(), expected, rtol=rtol, atol=1e-12)
        torch.testing.assert_close([g.double() for g in found], list(wanted), rtol=rtol, atol=1e-7)


def test_the_exponential_survives_scores_whose_own_exponentials_overflow():
    pos, neg = torch.tensor([1e4, 1e4 + 1]), torch.tensor([1e4, 1e4 - 2])
    torch.testing.assert_close(pairwise_loss(pos, neg, "exponential"), dense(pos, neg, "exponential").float())
    far = torch.tensor([-1e4, 1e4], dtype=torch.float64, requires_grad=True)
    loss = pairwise_loss(far, torch.tensor([0.0], dtype=torch.float64), "exponential", 0.05)
    (gradient,) = torch.autograd.grad(loss, far)
    torch.testing.assert_close(loss.log().item(), 500 - math.log(2))
    assert -1e-200 < gradient[1] <= 0
    assert torch.isfinite(gradient).all()


def test_a_weight_of_zero_mutes_a_score_whose_loss_overflows():
    pos = torch.tensor([0.0, -1e4], requires_grad=True)
    loss = pairwise_loss(pos, torch.tensor([0.0]), "exponential", 1.0, torch.tensor([1.0, 0.0]))
    (gradient,) = torch.autograd.grad(loss, pos)
    assert loss == 1
    assert gradient.tolist() == [-1, 0]


@pytest.mark.parametrize("surrogate", NAMES)
def test_a_rare_violation_among_many_separated_pairs_keeps_its_digits(surrogate):
    pos, neg, _, _ = sample(400, 4000, shift=0)
    pos, neg = pos.clamp(-1, 1) + 40, neg.clamp(-1, 1) - 40
    neg[17] = 39.5
    value, found = gradients(functools.partial(pairwise_loss, surrogate=surrogate), pos, neg)
    expected, wanted = gradients(lambda p, n: dense(p, n, surrogate), pos, neg)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("surrogate", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_in_and_comes_out(surrogate, dtype):
    pos, neg, _, _ = sample(dtype=dtype)
    value, found = gradients(functools.partial(pairwise_loss, surrogate=surrogate), pos, neg)
    expected, wanted = gradients(lambda p, n: dense(p, n, surrogate), pos.double(), neg.double())
    assert value.dtype is torch.float32
    assert found[0].dtype is dtype
    torch.testing.assert_close(value.double(), expected, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close([g.double() for g in found], list(wanted), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("surrogate", NAMES)
def test_gradients_of_many_samples_survive_half_precision(surrogate):
    pos, neg, _, _ = sample(40, 30_000, dtype=torch.float16)
    _, found = gradients(lambda p, n: 512 * pairwise_loss(p, n, surrogate), pos - 3, neg + 3)
    _, wanted = gradients(lambda p, n: 512 * dense(p, n, surrogate), (pos - 3).double(), (neg + 3).double())
    torch.testing.assert_close([g.double() for g in found], list(wanted), rtol=2e-3, atol=1e-7)


def test_dtypes_are_promoted_and_each_gradient_keeps_its_own():
    pos, neg = torch.randn(4, requires_grad=True), torch.randn(6, dtype=torch.float64, requires_grad=True)
    loss = pairwise_loss(pos, neg)
    by_pos, by_neg = torch.autograd.grad(loss, (pos, neg))
    assert (loss.dtype, by_pos.dtype, by_neg.dtype) == (torch.float64, torch.float32, torch.float64)


@pytest.mark.parametrize("surrogate", [*NAMES, softer])
def test_an_empty_side_or_no_weight_gives_a_zero_that_is_attached(surrogate):
    some, none = torch.ones(3, requires_grad=True), torch.zeros(0, requires_grad=True)
    weight = torch.zeros(3, requires_grad=True)
    for pos, neg, w in ((some, none, None), (none, some, None), (some, some, weight)):
        loss = pairwise_loss(pos, neg, surrogate, 1.0, w)
        assert loss == 0
        for gradient in torch.autograd.grad(loss, [x for x in {pos, neg, w} if x is not None]):
            assert not gradient.any()


def test_upstream_gradients_scale_and_a_single_side_may_need_them():
    pos, neg, w, v = sample()
    for surrogate in ("square", "squared_hinge"):
        both = gradients(lambda p, n, s=surrogate: -3 * pairwise_loss(p, n, s), pos, neg)[1]
        wanted = gradients(lambda p, n, s=surrogate: -3 * dense(p, n, s), pos, neg)[1]
        torch.testing.assert_close(both, wanted)
        alone = gradients(lambda n, s=surrogate: pairwise_loss(pos, n, s), neg)[1]
        torch.testing.assert_close(-3 * alone[0], both[1])
        weight = gradients(lambda w, s=surrogate: pairwise_loss(pos, neg, s, 1.0, w, v), w)[1]
        torch.testing.assert_close(weight, gradients(lambda w, s=surrogate: dense(pos, neg, s, 1.0, w, v), w)[1])


@pytest.mark.parametrize("surrogate", ["square", "squared_hinge"])
@pytest.mark.parametrize("power", [1, 2])
def test_a_second_backward_is_refused_with_a_way_out(surrogate, power):
    pos = torch.randn(4, requires_grad=True)
    loss = pairwise_loss(pos, torch.randn(5), surrogate) ** power
    (gradient,) = torch.autograd.grad(loss, pos, create_graph=True)
    with pytest.raises(RuntimeError, match="pairwise_derivatives"):
        gradient.square().sum().backward()


def test_one_graph_can_be_walked_twice():
    pos = torch.randn(4, requires_grad=True)
    loss = pairwise_loss(pos, torch.randn(5), "squared_hinge")
    first = torch.autograd.grad(loss, pos, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, pos), first)


@pytest.mark.parametrize("surrogate", ["square", "squared_hinge", "exponential", "logistic"])
def test_large_problems_run_through_several_blocks(surrogate, monkeypatch):
    monkeypatch.setattr("equipoise.core.pairs.hinges._BLOCK", 7)
    monkeypatch.setattr("equipoise.core.pairs.kernels._TILE", (5, 8))
    monkeypatch.setattr("equipoise.core.pairs.autograd._BLOCK", 16)
    monkeypatch.setattr("equipoise.core.pairs.autograd._ROW", 4)
    monkeypatch.setattr("equipoise.core.pairs.autograd._SAMPLE", 3)
    pos, neg, w, v = sample(23, 45)
    for weights in ((None, None), (w, v)):
        value, found = gradients(lambda p, n, k=weights: pairwise_loss(p, n, surrogate, 1.0, *k), pos, neg)
        expected, wanted = gradients(lambda p, n, k=weights: dense(p, n, surrogate, 1.0, *k), pos, neg)
        torch.testing.assert_close((value, *found), (expected, *wanted))
    rows = torch.stack([neg, neg.flip(0)], 1)
    role = (torch.arange(45) % 3 == 0).double()[:, None].expand(-1, 2)
    once = pairwise_loss(neg[::3], neg[torch.arange(45) % 3 > 0], surrogate)
    torch.testing.assert_close(columnwise_pairwise_loss(rows, role, 1 - role, surrogate)[0], once)


@pytest.mark.parametrize("surrogate", [*NAMES, softer])
@pytest.mark.parametrize("weighted", [False, True])
def test_derivatives_are_the_gradient_and_the_diagonal_of_the_hessian(surrogate, weighted):
    pos, neg, w, v = sample(4, 7)
    weights = (w, v) if weighted else (None, None)
    found = pairwise_derivatives(pos, neg, surrogate, 0.8, *weights)
    both = torch.cat([pos, neg]).requires_grad_()
    value = dense(both[:4], both[4:], surrogate, 0.8, *weights)
    (gradient,) = torch.autograd.grad(value, both)
    hessian = torch.autograd.functional.hessian(lambda x: dense(x[:4], x[4:], surrogate, 0.8, *weights), both)
    torch.testing.assert_close(found.value, value.detach())
    torch.testing.assert_close(torch.cat([found.pos_gradient, found.neg_gradient]), gradient)
    torch.testing.assert_close(torch.cat([found.pos_curvature, found.neg_curvature]), hessian.diagonal())
    assert not found.value.requires_grad


def test_twice_the_diagonal_bounds_the_hessian():
    pos, neg, _, _ = sample(6, 9)
    found = pairwise_derivatives(pos, neg, "logistic")
    hessian = torch.autograd.functional.hessian(lambda x: dense(x[:6], x[6:], "logistic"), torch.cat([pos, neg]))
    bound = torch.diag(2 * torch.cat([found.pos_curvature, found.neg_curvature]))
    assert torch.linalg.eigvalsh(bound - hessian).min() > -1e-12


def test_derivatives_of_nothing_are_zero():
    found = pairwise_derivatives(torch.zeros(0), torch.ones(3))
    assert found.value == 0
    assert found.neg_gradient.tolist() == found.neg_curvature.tolist() == [0, 0, 0]


def test_a_callable_that_is_linear_or_constant_has_no_curvature():
    pos, neg, _, _ = sample(3, 4)
    assert pairwise_derivatives(pos, neg, lambda t: -t).pos_curvature.tolist() == [0, 0, 0]
    constant = pairwise_derivatives(pos, neg, lambda t: torch.ones_like(t))
    assert constant.value == 1
    assert constant.pos_gradient.tolist() == constant.pos_curvature.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", NAMES)
def test_closed_forms_agree_with_looking_at_every_pair(name):
    pos, neg, w, v = sample(31, 53)
    found = pairwise_derivatives(pos, neg, name, 0.6, w, v)
    torch.testing.assert_close(found, pairwise_derivatives(pos, neg, tabled(name), 0.6, w, v))


@pytest.mark.parametrize("name", NAMES)
def test_a_surrogate_of_a_known_name_is_not_taken_for_the_known_one(name):
    own = Surrogate(name, lambda t, _: t, lambda t, _: torch.ones_like(t), lambda t, _: torch.zeros_like(t))
    assert pairwise_loss(torch.tensor([3.0]), torch.tensor([1.0]), own) == 2


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": torch.zeros(2, 1)}, r"pos must have shape \(n_pos,\), got \(2, 1\)"),
        ({"neg": torch.zeros(())}, r"neg must have shape \(n_neg,\)"),
        ({"neg": torch.tensor([0.0, math.nan])}, "neg holds 1 NaN or infinite value, the first at index 1"),
        ({"pos": torch.tensor([math.inf])}, "pos holds 1 NaN or infinite"),
        ({"pos": torch.tensor([1, 2])}, "pos must be floating point"),
        ({"margin": -0.5}, "margin=-0.5 must be a number at least 0"),
        ({"margin": 0.0, "surrogate": "logistic"}, "margin=0.0 is the rate of the logistic surrogate"),
        ({"margin": 0.0, "surrogate": "exponential"}, "margin=0.0 is the rate of the exponential surrogate"),
        ({"surrogate": "hinged"}, "surrogate='hinged' is not known"),
        ({"surrogate": 3}, "surrogate=3 must be"),
        ({"pos_weight": torch.ones(3)}, r"pos_weight must have shape \(n_pos,\) with n_pos = 2"),
        ({"neg_weight": torch.tensor([1.0, -1.0])}, "neg_weight must be at least 0, got -1"),
    ],
)
@pytest.mark.parametrize("function", [pairwise_loss, pairwise_derivatives])
def test_bad_input_is_named(change, message, function):
    given = {"pos": torch.ones(2), "neg": torch.zeros(2), **change}
    with pytest.raises(ValueError, match=message):
        function(**given)


@pytest.mark.parametrize("positives", [0, 3, 7])
def test_split_classes_keep_their_order_and_put_gradients_back(positives):
    scores = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    positive = torch.randperm(7, generator=torch.Generator().manual_seed(2)) < positives
    pos, neg = split_classes(scores, positive)
    assert torch.equal(pos, scores[positive])
    assert torch.equal(neg, scores[~positive])
    assert torch.autograd.gradcheck(split_classes, (scores, positive))
    assert torch.autograd.gradgradcheck(split_classes, (scores, positive))
    for dtype in (torch.uint8, torch.int64):
        assert all(map(torch.equal, split_classes(scores, positive.to(dtype)), (pos, neg)))
