"""Space of constant curvature κ of any sign, in stereographic coordinates: ball, flat space and sphere in one formula.

    x ⊕ y = [(1 − 2κ⟨x,y⟩ − κ|y|²) x + (1 + κ|x|²) y] / [1 − 2κ⟨x,y⟩ + κ²|x|²|y|²]
    exp₀(v) = tan_κ(|v|) v/|v|,   log₀(y) = arctan_κ(|y|) y/|y|,   dist(x, y) = 2 arctan_κ(|(−x) ⊕ y|)

with tan_κ(t) = tan(√κ t)/√κ, or tanh(√−κ t)/√−κ below zero, or t. For κ < 0 this is the Poincaré ball of radius
1/√−κ, for κ > 0 a sphere of radius 1/√κ; at κ = 0 the distance is 2|x − y|. All are smooth in κ and in the vectors
through zero, with gradients; the distance itself has the corner at x = y that any distance has, where its gradient is
taken as zero, and `dist_squared` has none.

Distances use |(−x) ⊕ y|² = |x − y|² / (1 + 2κ⟨x,y⟩ + κ²|x|²|y|²), on the sphere; in the ball the equal form
2 arsin_κ(|x − y| / √((1 + κ|x|²)(1 + κ|y|²))), which stays exact however far two points are apart.

Geometry Interaction Knowledge Graph Embeddings (Cao et al., AAAI 2022), eq. 1–4, there for κ < 0 by c = −κ; the other
signs are Bachmann et al., "Constant Curvature Graph Convolutional Networks", ICML 2020.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Real
from equipoise.knowledge.geometry.curved_functions import asin_ratio, atan_ratio, tan_ratio


class Stereographic:
    """A space of constant curvature, or one of each vector.

    Points are (..., d) and tangent vectors at 0 likewise; two of them are broadcast.

    What does not lie in the space is brought into it: a point outside of the ball to (1 − ε) of its radius; a tangent
    vector whose image would lie beyond (1 − ε) of it, to that; on the sphere, a tangent vector of √κ|v| > π/2 − ε, the
    other side of the pole, to that length. ε is 4·10⁻³ in float32 and 10⁻⁵ in float64, as in the authors' code.

    Args:
        kappa: κ, a number or a tensor; a tensor holds one value for each vector, of a shape that broadcasts with the
            vectors' shape without its last dimension.
        strict: whether a point outside of the ball, and a tangent vector of √κ|v| ≥ π/2, are errors.

    Raises:
        ValueError: on a bad argument, by name; in strict mode, when called, for what does not lie in the space.

    >>> ball = Stereographic(-1.0)
    >>> x, y = torch.tensor([0.3, 0.0]), torch.tensor([0.0, 0.4])
    >>> ball.dist(x, y)
    tensor(1.0891)
    >>> torch.allclose(ball.mobius_add(-x, ball.mobius_add(x, y)), y, atol=1e-6)
    True
    >>> Stereographic(torch.tensor([-1.0, 0.0, 1.0])).dist(x, y)
    tensor([1.0891, 1.0000, 0.9216])
    """

    @checked
    def __init__(self, kappa: Real | Float[Tensor, "*shape"], *, strict: bool = False) -> None:
        self.kappa, self.strict = kappa, strict

    @checked
    def mobius_add(self, x: Float[Tensor, "... dim"], y: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """x ⊕ y."""
        return mobius_add(x, y, self._kappa(x, y))

    @checked
    def expmap0(self, v: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """The point where the geodesic from 0 in the direction v ends, after the length 2|v| of its metric."""
        kappa = self._kappa(v)
        if self.strict:
            self._refuse("v", kappa.clamp_min(0) * v.square().sum(-1) >= (math.pi / 2) ** 2, "√κ|v| below π/2")
        return expmap0(v, kappa)

    @checked
    def logmap0(self, y: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """The tangent vector at 0 that `expmap0` takes to y."""
        return logmap0(self._inside("y", y), self._kappa(y))

    @checked
    def dist(self, x: Float[Tensor, "... dim"], y: Float[Tensor, "... dim"]) -> Float[Tensor, "*shape"]:
        """Distance; 2|x − y| at κ = 0."""
        return safe_sqrt(self.dist_squared(x, y))

    @checked
    def dist_squared(self, x: Float[Tensor, "... dim"], y: Float[Tensor, "... dim"]) -> Float[Tensor, "*shape"]:
        """Squared distance, which is smooth where x = y."""
        return dist_squared(self._inside("x", x), self._inside("y", y), self._kappa(x, y))

    @checked
    def project(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """The points, those beyond (1 − ε) of the ball's radius brought back to it; as they are where κ ≥ 0."""
        return project(x, self._kappa(x))

    def _kappa(self, *vectors: Tensor) -> Tensor:
        kappa = torch.as_tensor(self.kappa, dtype=vectors[0].dtype, device=vectors[0].device)
        for each in vectors:
            try:
                torch.broadcast_shapes(kappa.shape, each.shape[:-1])
            except RuntimeError:
                raise ValueError(
                    f"kappa must have one value for each vector, in a shape that broadcasts with "
                    f"{tuple(each.shape[:-1])}, got {tuple(kappa.shape)}; of vectors (n, d) it is (n,)"
                ) from None
        return kappa

    def _inside(self, name: str, x: Tensor) -> Tensor:
        """The points, those outside of the ball brought into it, or refused."""
        kappa = self._kappa(x)
        outside = kappa * x.square().sum(-1) <= -1
        if self.strict:
            self._refuse(name, outside, "√−κ|x| below 1, a point of the ball; see `project`")
        return torch.where(outside[..., None], project(x, kappa), x)

    def _refuse(self, name: str, wrong: Tensor, wanted: str) -> None:
        if not torch.compiler.is_compiling() and bool(wrong.any()):
            count = int(wrong.sum())
            raise ValueError(f"{name} holds {count} vector{'s' if count > 1 else ''} out of range, wanted {wanted}")


def margin(dtype: torch.dtype) -> float:
    """ε: how far from the edge of the ball, or from the pole of the sphere's tangent, vectors are kept."""
    return 1e-5 if dtype == torch.float64 else 4e-3


def mobius_add(x: Tensor, y: Tensor, kappa: Tensor) -> Tensor:
    """x ⊕ y, unchecked; κ has one value per vector, as in all functions here."""
    kappa = kappa[..., None]
    x2, y2 = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    products = kappa * (x * y).sum(-1, keepdim=True)
    below = 1 - 2 * products + kappa.square() * x2 * y2
    # It vanishes for antipodes only, up to rounding of this size.
    least = torch.finfo(x.dtype).eps * (1 + kappa * x2) * (1 + kappa * y2)
    return ((1 - 2 * products - kappa * y2) * x + (1 + kappa * x2) * y) / torch.maximum(below, least.detach())


def expmap0(v: Tensor, kappa: Tensor) -> Tensor:
    """exp₀(v) within the bounds of `Stereographic`, unchecked."""
    v = bounded(v)
    return v * expmap0_scale(v.square().sum(-1), kappa)[..., None]


def expmap0_scale(squared: Tensor, kappa: Tensor) -> Tensor:
    """What expmap0 multiplies tangent vectors of these squared lengths with."""
    s = kappa * squared
    edge = margin(s.dtype)
    low, high = -(math.atanh(1 - edge) ** 2), (math.pi / 2 - edge) ** 2
    if not torch.compiler.is_compiling():
        least, most = (each.item() for each in s.detach().aminmax()) if s.numel() else (0.0, 0.0)
        if low <= least and most <= high:
            return tan_ratio(s)
    kept = s.clamp(low, high)
    beyond = (s < low) | (s > high)
    return tan_ratio(kept) * torch.where(beyond, kept / torch.where(beyond, s, 1.0), 1.0).sqrt()


def logmap0(y: Tensor, kappa: Tensor) -> Tensor:
    """log₀(y) of points of the space, unchecked."""
    y = bounded(y)
    s = kappa * y.square().sum(-1)
    return y * atan_ratio(s.clamp_min(-1 + torch.finfo(s.dtype).eps))[..., None]


def project(x: Tensor, kappa: Tensor) -> Tensor:
    """Points within (1 − ε) of the ball's radius, unchecked."""
    x = bounded(x)
    s = -kappa * x.square().sum(-1)
    most = (1 - margin(x.dtype)) ** 2
    beyond = s > most
    return x * torch.where(beyond, most / torch.where(beyond, s, 1.0), 1.0).sqrt()[..., None]


def dist_squared(x: Tensor, y: Tensor, kappa: Tensor) -> Tensor:
    """Squared distances of points of the space, unchecked."""
    x, y = bounded(x), bounded(y)
    return dist_squared_of_gap((x - y).square().sum(-1), stretch(x, y, kappa), kappa)


def stretch(x: Tensor, y: Tensor, kappa: Tensor) -> Tensor:
    """(1 + κ|x|²)(1 + κ|y|²), kept above zero."""
    return factor(x.square().sum(-1), kappa) * factor(y.square().sum(-1), kappa)


def factor(squared: Tensor, kappa: Tensor) -> Tensor:
    """1 + κ|x|², kept above zero and where the product of two does not overflow."""
    limits = torch.finfo(squared.dtype)
    return (1 + kappa * squared).clamp(limits.eps, limits.max**0.5 / 4)


def dist_squared_of_gap(gap: Tensor, stretched: Tensor, kappa: Tensor) -> Tensor:
    """Squared distance of two points from |x − y|² and (1 + κ|x|²)(1 + κ|y|²)."""
    if not torch.compiler.is_compiling() and kappa.numel():
        least, most = (each.item() for each in kappa.detach().aminmax())
        if most <= 0:
            return _in_ball(gap, stretched, kappa)
        if least > 0:
            return _on_sphere(gap, stretched, kappa)
    # Where a function is not meant, it is given κ = 0, at which both are finite.
    ball, sphere = _in_ball(gap, stretched, kappa.clamp_max(0)), _on_sphere(gap, stretched, kappa.clamp_min(0))
    return torch.where(kappa > 0, sphere, ball)


def _in_ball(gap: Tensor, stretched: Tensor, kappa: Tensor) -> Tensor:
    sine = gap / stretched
    return 4 * sine * asin_ratio(kappa * sine).square()


def _on_sphere(gap: Tensor, stretched: Tensor, kappa: Tensor) -> Tensor:
    # The squared cosine times `stretched`, by sin² + cos² = 1; between antipodes it is zero up to rounding.
    cosine = torch.maximum(stretched - kappa * gap, (torch.finfo(gap.dtype).eps * stretched).detach())
    tangent = gap / cosine
    return 4 * tangent * atan_ratio(kappa * tangent).square()


def safe_sqrt(squared: Tensor) -> Tensor:
    """Square root whose gradient at zero is zero."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)


def bounded(x: Tensor) -> Tensor:
    """Coordinates whose squares do not overflow."""
    most = torch.finfo(x.dtype).max ** 0.25
    return x.clamp(-most, most)
