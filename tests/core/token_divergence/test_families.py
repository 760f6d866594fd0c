"""Divergences against their textbook forms, their limits, and what every divergence must be."""

import math

import pytest
import torch

from equipoise.core.token_divergence.families import (
    FORWARD_KL,
    REVERSE_KL,
    AdaptiveKL,
    AlphaBeta,
    EntropyWeightedKL,
    JensenShannon,
    LargerAlpha,
    SkewForwardKL,
    SkewReverseKL,
    TotalVariation,
    WeightedKL,
    resolve_divergence,
)
from equipoise.core.token_divergence.kernel import token_terms

PAIRS = [(1, 0), (0, 1), (0.5, 0.5), (1, 1), (0.2, 0.7), (0.8, 0.3), (0, 0), (2, 0), (0, 0.5), (1e-7, 0.9), (0.9, 1e-7)]
NEGATIVE = [(0.5, -0.5), (-0.5, 0.5), (-0.3, 1.2), (1.4, -0.4)]
FAMILIES = [
    *(AlphaBeta(*pair) for pair in PAIRS),
    JensenShannon(),
    JensenShannon(0.1),
    JensenShannon(0),
    JensenShannon(1),
    SkewForwardKL(),
    SkewForwardKL(0),
    SkewReverseKL(0.3),
    SkewReverseKL(0),
    TotalVariation(),
    WeightedKL(0.3),
    AdaptiveKL(),
    EntropyWeightedKL(),
    LargerAlpha(),
]


def logits(rows=6, vocabulary=9, seed=0, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(scale * torch.randn(rows, vocabulary, generator=generator, dtype=dtype) for _ in range(2))


def textbook(alpha, beta, p, q):
    """The three-term definition, and its limits."""
    s, lp, lq = alpha + beta, p.log(), q.log()
    if alpha == beta == 0:
        terms = (lp - lq).square() / 2
    elif beta == 0:
        terms = (alpha * p**alpha * (lp - lq) - p**alpha + q**alpha) / alpha**2
    elif alpha == 0:
        terms = (beta * q**beta * (lq - lp) - q**beta + p**beta) / beta**2
    elif s == 0:
        terms = (alpha * (lq - lp) + (p / q) ** alpha - 1) / alpha**2
    else:
        terms = -(p**alpha * q**beta - alpha / s * p**s - beta / s * q**s) / (alpha * beta)
    return terms.sum(-1)


def value(student, teacher, family, **settings):
    return token_terms(student, teacher, family, **settings).divergence


@pytest.mark.parametrize(("alpha", "beta"), [pair for pair in PAIRS if max(pair) > 1e-3 and min(pair) != 1e-7])
def test_alpha_beta_is_its_definition(alpha, beta):
    student, teacher = logits()
    torch.testing.assert_close(
        value(student, teacher, AlphaBeta(alpha, beta)), textbook(alpha, beta, teacher.softmax(1), student.softmax(1))
    )


@pytest.mark.parametrize(("alpha", "beta"), NEGATIVE)
def test_alpha_beta_with_a_negative_exponent_warns_and_is_its_definition(alpha, beta):
    student, teacher = logits()
    with pytest.warns(UserWarning, match="negative exponent"):
        family = AlphaBeta(alpha, beta)
    torch.testing.assert_close(
        value(student, teacher, family), textbook(alpha, beta, teacher.softmax(1), student.softmax(1))
    )


@pytest.mark.parametrize(
    ("near", "limit"),
    [
        ((1, 1e-9), (1, 0)),
        ((1e-9, 1), (0, 1)),
        ((1e-9, 1e-9), (0, 0)),
        ((1e-9, 0), (0, 0)),
        ((2, 1e-7), (2, 0)),
        ((1e-4, 3e-4), (0, 0)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_limits_are_met_without_a_jump(near, limit, dtype):
    student, teacher = logits(dtype=dtype)
    rtol = 1e-5 if max(near) < 1e-6 or 1 in near or 2 in near else 5e-3
    torch.testing.assert_close(
        value(student, teacher, AlphaBeta(*near)), value(student, teacher, AlphaBeta(*limit)), rtol=rtol, atol=0
    )


def test_special_points():
    student, teacher = logits()
    p, q = teacher.softmax(1), student.softmax(1)
    kl = (p * (p.log() - q.log())).sum(1), (q * (q.log() - p.log())).sum(1)
    torch.testing.assert_close(value(student, teacher, FORWARD_KL), kl[0])
    torch.testing.assert_close(value(student, teacher, REVERSE_KL), kl[1])
    torch.testing.assert_close(value(student, teacher, AlphaBeta(0.5, 0.5)), 2 * (p.sqrt() - q.sqrt()).square().sum(1))
    torch.testing.assert_close(value(student, teacher, AlphaBeta(1, 1)), (p - q).square().sum(1) / 2)
    torch.testing.assert_close(value(student, teacher, TotalVariation()), (p - q).abs().sum(1) / 2)
    torch.testing.assert_close(value(student, teacher, WeightedKL(0.3)), 0.7 * kl[0] + 0.3 * kl[1])
    for beta in (0.1, 0.5, 0.8):
        m = beta * p + (1 - beta) * q
        expected = (beta * p * (p / m).log() + (1 - beta) * q * (q / m).log()).sum(1)
        torch.testing.assert_close(value(student, teacher, JensenShannon(beta)), expected)
        torch.testing.assert_close(value(student, teacher, SkewForwardKL(beta)), (p * (p / m).log()).sum(1))
        mixed = (1 - beta) * p + beta * q
        torch.testing.assert_close(value(student, teacher, SkewReverseKL(beta)), (q * (q / mixed).log()).sum(1))


def test_alpha_and_beta_change_places_with_the_models():
    student, teacher = logits()
    for alpha, beta in PAIRS:
        torch.testing.assert_close(
            value(student, teacher, AlphaBeta(alpha, beta)), value(teacher, student, AlphaBeta(beta, alpha))
        )


def test_exponents_that_cancel_but_for_rounding_are_taken_for_such():
    student, teacher = logits()
    alpha = 0.1 * 3
    assert alpha != 0.3
    with pytest.warns(UserWarning, match="negative exponent"):
        nearly, exactly = AlphaBeta(alpha, -0.3), AlphaBeta(0.3, -0.3)
    torch.testing.assert_close(value(student, teacher, nearly), value(student, teacher, exactly))


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_divergence_is_zero_for_equal_models_and_positive_otherwise(family):
    student, teacher = logits(dtype=torch.float32)
    same = student.clone().requires_grad_()
    found = value(same, student, family)
    assert found.tolist() == [0.0] * 6
    found.sum().backward()
    torch.testing.assert_close(same.grad, torch.zeros_like(student), rtol=0, atol=2e-7)
    assert (value(student, teacher, family) > 0).all()
    close = student + 1e-4 * teacher
    assert (value(student, close, family) >= 0).all()


@pytest.mark.parametrize("family", [family for family in FAMILIES if not isinstance(family, AdaptiveKL)], ids=str)
def test_gradients_are_those_of_finite_differences(family):
    student, teacher = logits(3, 5)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: value(z, teacher, family, temperature=1.7, chunk_rows=2), (student,))


def test_the_weights_of_the_adaptive_kl_carry_no_gradient():
    student, teacher = logits(1, 6)
    student.requires_grad_()
    p, q = teacher.softmax(1)[0], student.detach().softmax(1)[0]
    order = p.argsort(descending=True)
    head = [k for n, k in enumerate(order.tolist()) if n == 0 or p[order[: n + 1]].sum() <= 0.5]
    gap = (p - q).abs()
    share = float(gap[head].sum() / gap.sum())
    (found,) = torch.autograd.grad(value(student, teacher, AdaptiveKL(0.5)).sum(), student)
    (expected,) = torch.autograd.grad(value(student, teacher, WeightedKL(1 - share)).sum(), student)
    torch.testing.assert_close(found, expected)


def test_the_larger_alpha_and_the_less_certain_side_are_chosen_row_by_row():
    student, teacher = logits(40, 5, scale=3.0)
    one, other = (value(student, teacher, AlphaBeta(alpha, 1 - alpha)) for alpha in (0.2, 0.8))
    assert 0 < int((one > other).sum()) < 40
    assert torch.equal(value(student, teacher, LargerAlpha(0.2, 0.8)), torch.maximum(one, other))
    entropy = [-(z.softmax(1) * z.log_softmax(1)).sum(1) for z in (student, teacher)]
    weight = torch.where(entropy[1] > entropy[0], 3.0, 1.0), torch.where(entropy[0] > entropy[1], 3.0, 1.0)
    expected = weight[0] * value(student, teacher, FORWARD_KL) + weight[1] * value(student, teacher, REVERSE_KL)
    torch.testing.assert_close(value(student, teacher, EntropyWeightedKL()), expected)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_extreme_logits_give_what_float64_gives_and_finite_gradients(family):
    student = torch.tensor([[0.0, 200.0, -150.0, 1.0], [90.0, -90.0, 0.0, 0.0], [-1e4, 0.0, 3.0, 1e4]])
    teacher = torch.tensor([[100.0, -100.0, 0.0, 1.0], [-90.0, 90.0, 0.0, 0.0], [1e4, 0.0, 3.0, -1e4]])
    student.requires_grad_()
    found, exact = value(student, teacher, family), value(student.detach().double(), teacher.double(), family)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-9)
    found.sum().backward()
    assert torch.isfinite(student.grad).all()


def test_near_equal_models_keep_their_digits_in_single_precision():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 1000, generator=generator)
    teacher = student + 0.01 * torch.randn(4, 1000, generator=generator)
    for family in FAMILIES:
        exact = value(student.double(), teacher.double(), family)
        torch.testing.assert_close(value(student, teacher, family).double(), exact, rtol=2e-3, atol=0)


def test_the_square_mechanism_of_alpha_and_beta():
    """|g| of two tokens: (q₁/q₂)^β |p₁ − q₁|/|p₂ − q₂| at α = 1, with |Δ| in its place as α → 0."""
    student, teacher = logits(1, 5)
    p, q = teacher.softmax(1), student.softmax(1)
    delta = p.log() - q.log()
    for beta in (0.0, 0.4, 1.0):
        one = AlphaBeta(1, beta).entries(p.log(), q.log(), delta, ())[0].abs()
        expected = (q[0, 0] / q[0, 1]) ** beta * (p - q)[0, 0].abs() / (p - q)[0, 1].abs()
        assert float(one[0] / one[1]) == pytest.approx(float(expected))
        none = AlphaBeta(1e-9, beta).entries(p.log(), q.log(), delta, ())[0].abs()
        expected = (q[0, 0] / q[0, 1]) ** beta * (delta[0, 0] / delta[0, 1]).abs()
        assert float(none[0] / none[1]) == pytest.approx(float(expected), rel=1e-6)


def test_skewed_mixtures_are_bounded():
    student, teacher = torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]])
    assert float(value(student, teacher, SkewForwardKL(0.1))) == pytest.approx(-math.log(0.1))
    assert float(value(student, teacher, SkewReverseKL(0.1))) == pytest.approx(-math.log(0.1))
    assert float(value(student, teacher, JensenShannon(0.5))) == pytest.approx(math.log(2))
    assert float(value(student, teacher, AlphaBeta(0.5, 0.5))) == pytest.approx(4)


def test_a_mixture_of_both_kls_without_weights_cannot_be_made():
    with pytest.raises(TypeError, match="_weights"):
        WeightedKL.__mro__[1]()


def test_names_and_settings(plain_inputs):
    assert resolve_divergence("forward_kl") is FORWARD_KL
    assert resolve_divergence("tvd") == TotalVariation()
    assert resolve_divergence(JensenShannon(0.2)) == JensenShannon(0.2)
    with pytest.raises(ValueError, match="divergence='kl' is not known; choose one of 'forward_kl'"):
        resolve_divergence("kl")
    for wrong, named in ((None, "None"), (5, "5"), (AlphaBeta, "AlphaBeta")):
        with pytest.raises(ValueError, match=f"divergence={named} is no divergence; pass a name"):
            resolve_divergence(wrong)
    with pytest.raises(ValueError, match=r"beta=1.5 must lie in \[0, 1\]"):
        JensenShannon(1.5)
    with pytest.raises(ValueError, match="alpha=nan must be a finite number"):
        AlphaBeta(math.nan, 1)
    with pytest.warns(UserWarning, match="nearly vanishes"):
        JensenShannon(1e-4)
