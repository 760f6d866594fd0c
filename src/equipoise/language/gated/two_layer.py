"""Kernels of two-layer nets, plain and gated: expected over the initialisation, and of given weights.

plain f(x) = V φ(W x)        gated f(x) = V [ (P x) ⊙ φ(W x) ]        no biases, hidden width m
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative
from equipoise.language.gated.activations import ActivationLike, resolve_activation
from equipoise.language.gated.kernels import activation_kernel

Reduction = Literal["trace", "full", "mean"]
# Hidden units whose activations of all samples are held at once.
_UNITS = 512
# Strips of rows in which a symmetric product is taken: the more, the less is computed twice.
_STRIPS = 8


class NTK(NamedTuple):
    """Kernels of a net at its initialisation.

    Attributes:
        ntk: (n, n), the expected neural tangent kernel of one output, float64.
        nngp: (n, n), the covariance of that output, float64.
    """

    ntk: Tensor
    nngp: Tensor


@checked
def two_layer_ntk(
    x: Float[Tensor, "n d"],
    width: Count,
    activation: ActivationLike = "relu",
    gated: bool = False,
    *,
    sigma_w2: NonNegative | None = None,
    sigma_v2: NonNegative | None = None,
    sigma_p2: NonNegative | None = None,
) -> NTK:
    """The expected neural tangent kernel of a two-layer net, and the covariance of its output.

        plain   K = m A₁ + m σ_v² G ⊙ A₀                                        S₀ = m σ_v² A₁
        gated   K = m (σ_p² + σ_v²) G ⊙ A₁ + m σ_v² σ_p² G ⊙ G ⊙ A₀              S₀ = m σ_v² σ_p² G ⊙ A₁

    G = X Xᵀ, A₁ and A₀ as in `activation_kernel` for u = W x. So the gated kernel is (σ_p² G) ⊙ K plus m σ_v² G ⊙ A₁,
    which is about d/m of it. With c outputs each has this kernel and pairs of them none.

    "The Devil is in the Condition Numbers: Why is GLU Better than non-GLU Structure?", ICML 2026; reconstructed from
    the definition.

    Args:
        x: (n, d) inputs, n at least 2.
        width: m.
        activation: as `activation_kernel` takes it.
        gated: whether there is the linear branch P.
        sigma_w2: variance of the entries of W; 1/d if absent.
        sigma_v2: of V; 1/m if absent.
        sigma_p2: of P; 1/d if absent.

    Returns:
        Both kernels in float64, without gradient. One product of matrices, then elementwise work.

    Raises:
        ValueError: on a bad argument, by name.

    >>> plain = two_layer_ntk(torch.eye(3), 100)
    >>> gated = two_layer_ntk(torch.eye(3), 100, gated=True)
    >>> ntk_ratio = gated.ntk[0, 0] / plain.ntk[0, 0]
    >>> round(ntk_ratio.item(), 3)
    0.343
    """
    if len(x) < 2:
        raise ValueError(f"x must hold at least 2 samples, got {len(x)}")
    x = x.detach().double()
    dim = x.shape[1]
    w2 = 1 / dim if sigma_w2 is None else sigma_w2
    p2 = 1 / dim if sigma_p2 is None else sigma_p2
    v2 = 1 / width if sigma_v2 is None else sigma_v2
    gram = x @ x.T
    norms = gram.diagonal() * w2
    a1, a0 = activation_kernel(activation, norms[:, None], norms[None, :], gram * w2)
    if gated:
        return NTK(width * gram * ((p2 + v2) * a1 + v2 * p2 * gram * a0), width * v2 * p2 * gram * a1)
    return NTK(width * (a1 + v2 * gram * a0), width * v2 * a1)


@checked
def two_layer_empirical_ntk(
    x: Float[Tensor, "n d"],
    w: Float[Tensor, "m d"],
    v: Float[Tensor, "c m"],
    p: Float[Tensor, "m d"] | None = None,
    activation: ActivationLike = "relu",
    *,
    reduction: Reduction = "trace",
) -> Tensor:
    """The neural tangent kernel of a two-layer net with given weights, in closed form: O(n² m) and no Jacobian.

    Over all weights and no bias. With Φ = φ(X Wᵀ), Φ' = φ'(X Wᵀ), U = X Pᵀ and H = U ⊙ Φ (H = Φ in the plain net), the
    part of outputs a and b is

        [a = b] H Hᵀ + G ⊙ [ Φ D Φᵀ + (U ⊙ Φ') D (U ⊙ Φ')ᵀ ],   D = diag(V_a ⊙ V_b)

    and for the plain net [a = b] Φ Φᵀ + G ⊙ [ Φ' D Φ'ᵀ ].

    Args:
        x: (n, d) inputs.
        w: (m, d) weights under the activation.
        v: (c, m) weights of the outputs.
        p: (m, d) weights of the linear branch; None for the plain net.
        activation: as `activation_kernel` takes it.
        reduction: "trace" sums over outputs, "mean" is that over c, "full" keeps pairs of outputs.

    Returns:
        (n, n) float64, or (n, c, n, c) for "full", without gradient.

    Raises:
        ValueError: on a bad argument, by name.

    >>> two_layer_empirical_ntk(torch.eye(2), torch.ones(4, 2), torch.ones(1, 4))
    tensor([[8., 4.],
            [4., 8.]], dtype=torch.float64)
    """
    one = resolve_activation(activation)
    with torch.no_grad():
        x, w, v = (each.detach().double() for each in (x, w, v))
        n, outputs = len(x), len(v)
        pairs = outputs if reduction == "full" else 1
        own = x.new_zeros(n, n)
        through = x.new_zeros(pairs, pairs, n, n)
        for units in torch.arange(len(w), device=x.device).split(_UNITS):
            inner = x @ w[units].T
            hidden, slopes = one.function(inner), one.derivative(inner)
            del inner
            factors = [slopes]
            if p is not None:
                linear = x @ p[units].detach().double().T
                factors = [hidden.clone(), slopes.mul_(linear)]
                hidden.mul_(linear)
            _add_upper(own, hidden, hidden)
            weight = v[:, units]
            for a in range(pairs):
                for b in range(a, pairs):
                    shared = weight[a] * weight[b] if reduction == "full" else weight.square().sum(0)
                    for factor in factors:
                        _add_upper(through[a, b], factor * shared, factor)
        for each in (own, *through.flatten(0, 1)):
            _mirror(each)
        gram = x @ x.T
        if reduction != "full":
            found = outputs * own + gram * through[0, 0]
            return found / outputs if reduction == "mean" else found
        for a in range(pairs):
            for b in range(a, pairs):
                through[a, b] *= gram
                through[b, a] = through[a, b]
            through[a, a] += own
        return through.permute(2, 0, 3, 1).contiguous()


def _add_upper(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left rightᵀ, which is symmetric, above the diagonal and in blocks on it."""
    for rows in torch.arange(len(total)).split(max(1, -(-len(total) // _STRIPS))):
        start, stop = int(rows[0]), int(rows[-1]) + 1
        total[start:stop, start:].addmm_(left[start:stop], right[start:].T)


def _mirror(total: Tensor) -> None:
    """Make what `_add_upper` has filled symmetric."""
    total.triu_()
    total += total.triu(1).T
