"""TuckA: many small experts that share one factor, and one choice among them for all layers.

A frozen linear layer y = x W^T + b gets k groups of t experts. They share a factor U (d, r) and coefficients C (t, p);
group g has a core G_g (p, r, r). With Un, Cn, Gn the tensors divided by their Frobenius norms (of a core: its own):

    m      = mean of x over batch and time                       of the layer that has the router
    l_g    = E_g m / ||E_g m||      a = sigmoid(l)               E (k t, d), a row per expert
    g      = group of the largest a, lowest expert of a tie
    w      = a_g                                                 t numbers that do not sum to 1
    M      = sum_i w_i sum_c Cn[i, c] Gn_g[c]                    (r, r)
    y      = (x + alpha ((x Un) M) Un^T) W^T + b

(g, w) is the *route*; every adapted layer of a forward pass uses the same. With a fixed route the layer is a plain one
of weight W + alpha (W Un) M^T Un^T. The group norm makes the winner the group whose experts disagree most, so t is at
least 2 where there are several groups; a group without a direction (norm below 1e-12) has logits of 0.

Lei et al., "TuckA: Hierarchical Compact Tensor Experts for Efficient Fine-Tuning", AAAI 2026, arXiv 2511.06859, as in
the authors' code LQF39466/TuckA. Reconstructed: logits of 0 where the code divides by zero, masks, routes by sample.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn.functional import linear

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Range, Real, Values
from equipoise.core.validate import warn_once

Routing: TypeAlias = Literal["batch", "sample"]
TokenMask: TypeAlias = (
    Bool[Tensor, "*tokens"] | Annotated[Integer[Tensor, "*tokens"], Values(((0, "padding"), (1, "a token")))]
)
Features: TypeAlias = Float[Tensor, "n d"] | Float[Tensor, "n time d"]
_NO_NORM = 1e-12


class Route(NamedTuple):
    """A decision among experts.

    Attributes:
        group: number of the group; () for a whole batch, (n,) by sample.
        weights: (t,) weights of its experts; (n, t) by sample.
    """

    group: Tensor
    weights: Tensor


class TuckARouting(NamedTuple):
    """What a mean input decides.

    Attributes:
        affinity: (k t,) sigmoid of the logits, normalised by group; (n, k t) by sample.
        route: the group and the weights of its experts.
    """

    affinity: Tensor
    route: Route


class TuckAResult(NamedTuple):
    """What an adapted layer gives, and why.

    Attributes:
        output: as of the layer, (n, o) or (n, time, o).
        batch_mean: (d,) that routes; (n, d) by sample.
        affinity: (k t,); (n, k t) by sample.
        group: () the group that was chosen; (n,) by sample.
        expert_weights: (t,) of its experts; (n, t) by sample.
        mixed_core: M, (r, r); (n, r, r) by sample.
    """

    output: Tensor
    batch_mean: Tensor
    affinity: Tensor
    group: Tensor
    expert_weights: Tensor
    mixed_core: Tensor


@checked
def tucka_linear(
    x: Features,
    weight: Float[Tensor, "o d"],
    bias: Float[Tensor, " o"] | None,
    core: Float[Tensor, "k p r r"],
    factor: Float[Tensor, "d r"],
    expert_coef: Float[Tensor, "t p"],
    centroids: Float[Tensor, "experts d"],
    *,
    k: Count,
    t: Count,
    alpha: Real = 2.0,
    mask: TokenMask | None = None,
    routing: Routing = "batch",
) -> TuckAResult:
    """A linear layer with TuckA experts that routes by its own input.

    Args:
        x: (n, d) or (n, time, d).
        weight: (o, d) of the frozen layer.
        bias: (o,) of the frozen layer, or None.
        core: G, (k, p, r, r).
        factor: U, (d, r).
        expert_coef: C, (t, p).
        centroids: E, (k t, d), the experts of a group one after the other.
        k: groups.
        t: experts of a group, at least 2 where there are several groups.
        alpha: scale of the change.
        mask: 1 or True for tokens, 0 or False for padding, which takes no part in the mean; the shape of x without d.
        routing: "batch" routes all samples alike by the mean of the batch, "sample" each by its own mean over time.

    Returns:
        The output and how it came about. Half precision is computed and returned in float32.

    Raises:
        ValueError: if sizes do not fit, or the mask leaves nothing to average.

    >>> x, eye = torch.tensor([[2.0, 0.0], [4.0, 0.0]]), torch.eye(2)
    >>> core, coef = torch.ones(1, 1, 2, 2), torch.ones(2, 1)
    >>> found = tucka_linear(x, eye, None, core, eye, coef, torch.tensor([[3.0, 0.0], [4.0, 0.0]]), k=1, t=2)
    >>> found.expert_weights
    tensor([0.6457, 0.6900])
    """
    check_groups(k, t)
    sizes = {"core": (core.shape[0], k, "k"), "expert_coef": (expert_coef.shape[0], t, "t")}
    sizes["centroids"] = (centroids.shape[0], k * t, "k t")
    for name, (found, wanted, word) in sizes.items():
        if found != wanted:
            raise ValueError(f"{name} must have {word} = {wanted} as its first size, got {found}")
    with torch.autocast(x.device.type, enabled=False):
        mean = mean_input(x, mask, routing)
        affinity, route = _routing(mean, centroids, k, t)
        mixed = mixed_core(core, expert_coef, route)
        output = linear(adapted_input(x, factor, mixed, alpha), weight, bias)
    return TuckAResult(output, mean, affinity, route.group, route.weights, mixed)


@checked
def tucka_routing(
    batch_mean: Float[Tensor, "*n d"], centroids: Float[Tensor, "experts d"], *, k: Count, t: Count
) -> TuckARouting:
    """Affinity to every expert, the group that has the highest, and its weights.

    Args:
        batch_mean: (d,) of a batch, or (n, d) of samples.
        centroids: (k t, d).
        k: groups.
        t: experts of a group.

    Raises:
        ValueError: if there are not k t centroids, or t = 1 with several groups.

    >>> mean, centroids = torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 0.0], [-4.0, 0.0]])
    >>> found = tucka_routing(mean, centroids, k=2, t=2)
    >>> int(found.route.group), found.route.weights
    (0, tensor([0.6698, 0.6698]))
    """
    check_groups(k, t)
    if len(centroids) != k * t:
        raise ValueError(f"centroids must have k t = {k * t} rows, got {len(centroids)}")
    with torch.autocast(batch_mean.device.type, enabled=False):
        return _routing(batch_mean, centroids, k, t)


@checked
def tucka_data_aware_init(
    batch_mean: Float[Tensor, " d"],
    uniform: Annotated[Float[Tensor, "others d"], Range(0, 1)],
    perturb_scale: Positive = 10.0,
) -> Float[Tensor, "experts d"]:
    """Centroids around the mean of the first batch: the mean itself, and mean + (2 u - 1) scale for every other expert.

    Args:
        batch_mean: (d,).
        uniform: (k t - 1, d) numbers of the uniform distribution on [0, 1).
        perturb_scale: half the width of the box around the mean.

    Returns:
        (k t, d).

    >>> tucka_data_aware_init(torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 1.0]]), perturb_scale=3.0)
    tensor([[1., 2.],
            [1., 5.]])
    """
    return torch.cat([batch_mean[None], batch_mean + (2 * uniform.to(batch_mean) - 1) * perturb_scale])


@checked
def tucka_merged_weight(
    weight: Float[Tensor, "o d"], factor: Float[Tensor, "d r"], mixed_core: Float[Tensor, "r r"], *, alpha: Real = 2.0
) -> Float[Tensor, "o d"]:
    """The weight of the plain layer that does the same for one route: W + alpha (W Un) M^T Un^T.

    Args:
        weight: (o, d) of the frozen layer.
        factor: U, (d, r).
        mixed_core: M of the route, (r, r).
        alpha: scale of the change.

    >>> tucka_merged_weight(torch.eye(2), torch.eye(2), torch.eye(2), alpha=2.0)
    tensor([[2., 0.],
            [0., 2.]])
    """
    with torch.autocast(weight.device.type, enabled=False):
        # The rows of the weight are inputs of the adjoint map, which has the transposed core.
        return adapted_input(weight, factor, mixed_core.mT, alpha)


@checked
def tucka_parameter_count(
    in_features: Count, *, r: Count, k: Count, t: Count, p: Count, layers: Count = 1, router_per_layer: bool = False
) -> int:
    """Trainable parameters of layers of one width: layers (k p r^2 + t p + d r) and k t d of the router.

    Args:
        in_features: d.
        r: core size.
        k: groups.
        t: experts of a group.
        p: slices of a group.
        layers: how many are adapted.
        router_per_layer: what it would be if every layer had a router of its own.

    >>> tucka_parameter_count(768, r=8, k=2, t=2, p=2, layers=12)
    79920
    """
    return (
        layers * (k * p * r * r + t * p + in_features * r) + (layers if router_per_layer else 1) * k * t * in_features
    )


def check_groups(k: int, t: int) -> None:
    """Raise `ValueError` where the group norm would leave nothing to choose by."""
    if t == 1 and k > 1:
        raise ValueError(
            f"t={t} with k={k} cannot route: one logit divided by its own size is 1 or -1, so groups tie; take t >= 2"
        )


def check_sizes(k: int, t: int, p: int, r: int) -> None:
    """`check_groups`, and a warning where the norm leaves the core nothing to learn."""
    check_groups(k, t)
    if p == r == 1:
        warn_once("TuckA with p = r = 1: a core of one number divided by its size is 1 or -1 and gets no gradient")


def mean_input(x: Tensor, mask: Tensor | None, routing: Routing) -> Tensor:
    """Mean over batch and time, or over time of every sample, of what the mask keeps; at least in float32.

    Raises:
        ValueError: if the mask has another shape, or nothing is left.
    """
    total, count = masked_sum(x, mask, routing)
    return total / count[..., None]


def masked_sum(x: Tensor, mask: Tensor | None, routing: Routing) -> tuple[Tensor, Tensor]:
    """The sum that `mean_input` divides, and the number of tokens."""
    dims = tuple(range(1 if routing == "sample" else 0, x.ndim - 1))
    dtype = x.dtype if x.dtype is torch.float64 else torch.float32
    if mask is None:
        total = x.sum(dims, dtype=dtype) if dims else x.to(dtype)
        return total, torch.full(total.shape[:-1], x.shape[:-1].numel() // total.shape[:-1].numel()).to(total)
    if mask.shape != x.shape[:-1]:
        raise ValueError(
            f"mask must have the shape of x without its features, {tuple(x.shape[:-1])}, got {tuple(mask.shape)}"
        )
    kept = mask.bool()
    total = x.masked_fill(~kept[..., None], 0).to(dtype)
    count = kept.to(dtype)
    if dims:
        total, count = total.sum(dims), count.sum(dims)
    if not bool((count > 0).all()):
        what = "a sample" if routing == "sample" else "the batch"
        raise ValueError(f"mask hides every token of {what}; leave such batches out, there is nothing to route by")
    return total, count


def _routing(mean: Tensor, centroids: Tensor, k: int, t: int) -> TuckARouting:
    logits = linear(mean, centroids.to(mean)).unflatten(-1, (k, t))
    norm = torch.linalg.vector_norm(logits, dim=-1, keepdim=True)
    none = norm < _NO_NORM
    affinity = (logits.masked_fill(none, 0) / norm.masked_fill(none, 1)).sigmoid().flatten(-2)
    group = affinity.argmax(-1) // t
    each = affinity.unflatten(-1, (k, t))
    weights = each.gather(-2, group[..., None, None].expand(*group.shape, 1, t)).squeeze(-2)
    return TuckARouting(affinity, Route(group, weights))


def route_of(mean: Tensor, centroids: Tensor, k: int, t: int) -> Route:
    """The route of a mean input, unchecked."""
    return _routing(mean, centroids, k, t).route


def mixed_core(core: Tensor, expert_coef: Tensor, route: Route) -> Tensor:
    """M of the route, (r, r) or (n, r, r), at least in float32: experts are mixed before they meet an input."""
    dtype = torch.promote_types(core.dtype, torch.float32)
    group = route.group.reshape(-1)
    chosen = core.index_select(0, group).to(dtype)
    slices = (route.weights.reshape(len(group), -1).to(dtype) @ unit(expert_coef.to(dtype)))[..., None, None]
    norm = torch.linalg.vector_norm(chosen, dim=(1, 2, 3), keepdim=True).clamp_min(_NO_NORM)
    mixed = (slices * (chosen / norm)).sum(1)
    return mixed if route.group.ndim else mixed[0]


def unit(tensor: Tensor) -> Tensor:
    """The tensor divided by its Frobenius norm."""
    return tensor / torch.linalg.vector_norm(tensor).clamp_min(_NO_NORM)


def adapted_input(x: Tensor, factor: Tensor, mixed: Tensor, alpha: float) -> Tensor:
    """x + alpha ((x Un) M) Un^T in the dtype of x.

    Raises:
        ValueError: if x has other features, or the route is by sample and x has another number of samples.
    """
    inner, wide = _inner(x, factor, mixed, alpha)
    return torch.addmm(x.reshape(-1, x.shape[-1]), inner, wide.mT).reshape(x.shape)


def input_change(x: Tensor, factor: Tensor, mixed: Tensor, alpha: float) -> Tensor:
    """alpha ((x Un) M) Un^T in the dtype of x; raises as `adapted_input` does."""
    inner, wide = _inner(x, factor, mixed, alpha)
    return (inner @ wide.mT).reshape(x.shape)


def _inner(x: Tensor, factor: Tensor, mixed: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(rows, r) before the last product, and U in the dtype of x."""
    if x.shape[-1] != len(factor):
        raise ValueError(f"x must have {len(factor)} features, got shape {tuple(x.shape)}")
    # Both norms go into the small matrix, so that nothing as large as x is divided.
    squared = factor.to(mixed.dtype).square().sum().clamp_min(_NO_NORM**2)
    small, wide = (mixed * (alpha / squared)).to(x.dtype), factor.to(x.dtype)
    if mixed.ndim == 2:
        return (x.reshape(-1, x.shape[-1]) @ wide) @ small, wide
    if x.shape[0] != len(mixed):
        raise ValueError(f"the route is of {len(mixed)} samples, but x has {x.shape[0]}; route by batch instead")
    rows = x[:, None] if x.ndim == 2 else x
    return ((rows @ wide) @ small).reshape(-1, small.shape[-1]), wide
