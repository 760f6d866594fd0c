"""How sharp is the loss per class, and does it stand at a saddle? Matrix-free probes of a trained model.

    sharpness_k = L_k(θ + ρ ∇L_k / ‖∇L_k‖) − L_k(θ)          L_k the mean loss of class k

and the extreme eigenvalues of the Hessian of L_k, exact for small models and by Lanczos' iteration on Hessian-vector
products otherwise. A large |λ_min| / λ_max with λ_min < 0 means that the class is at a saddle.

The measure of saddles by eigenvalues follows the work that SSE-SAM (AAAI 2025) builds on (reconstructed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.solvers.closures import kept_weights
from equipoise.core.solvers.perturbation import evaluation_mode
from equipoise.core.types import ClassTarget, Count, NonNegative, Whole
from equipoise.core.validate import check_classes, warn_once

_EXACT_UP_TO = 400
_SETTLED = 1e-4

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (n, C) and classes (n,) to one loss per sample (n,)."""


@dataclass(frozen=True)
class HessianExtremes:
    """Extreme eigenvalues by class; NaN for a class without samples.

    Attributes:
        lambda_min: (C,) smallest, float64.
        lambda_max: (C,) largest, float64.
    """

    lambda_min: Float[Tensor, " c"]
    lambda_max: Float[Tensor, " c"]

    @property
    def saddle_ratio(self) -> Float[Tensor, " c"]:
        """|min(λ_min, 0)| / λ_max: 0 at a minimum; infinite where nothing curves upwards."""
        return -self.lambda_min.clamp_max(0) / self.lambda_max.clamp_min(0)


@checked
def class_sharpness(
    model: nn.Module,
    loss: Loss,
    inputs: Float[Tensor, "n ..."],
    target: ClassTarget,
    rho: NonNegative,
    num_classes: Count,
) -> Float[Tensor, " c"]:
    """By how much the mean loss of every class rises at distance ρ along its own gradient.

    The model is judged in evaluation mode, and is as before afterwards.

    Args:
        model: inputs to logits (n, C).
        loss: one loss per sample, such as cross-entropy with reduction="none".
        inputs: (n, ...) a fixed set.
        target: (n,) classes.
        rho: radius, at least 0.
        num_classes: C.

    Returns:
        (C,) float64; NaN for a class without samples.
    """
    check_classes(target, num_classes)
    params: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    found = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    with evaluation_mode(model), torch.enable_grad():
        for c in range(num_classes):
            members = target == c
            if not bool(members.any()):
                warn_once(f"class {c} has no sample: its sharpness is NaN")
                continue

            def mean_loss(members: Tensor = members) -> Tensor:
                # In float64, where the difference of two means of many losses keeps the digits that they have.
                return loss(model(inputs[members]), target[members]).double().mean()

            before = mean_loss()
            gradients = torch.autograd.grad(before, params, allow_unused=True)
            dense = [torch.zeros_like(p) if g is None else g for p, g in zip(params, gradients, strict=True)]
            norm = float(torch.stack(list(torch._foreach_norm(dense))).norm())
            with kept_weights(params), torch.no_grad():
                torch._foreach_add_(params, dense, alpha=rho / norm if norm > 0 else 0.0)
                torch.clear_autocast_cache()
                found[c] = float(mean_loss()) - float(before)
    return found


@checked
def class_hessian_extremes(
    model: nn.Module,
    loss: Loss,
    inputs: Float[Tensor, "n ..."],
    target: ClassTarget,
    num_classes: Count,
    *,
    method: Literal["auto", "exact", "lanczos"] = "auto",
    iterations: Count = 40,
    seed: Whole = 0,
) -> HessianExtremes:
    """The smallest and the largest eigenvalue of the Hessian of every class's mean loss, over all parameters.

    Args:
        model: inputs to logits (n, C); activations should be twice differentiable (with ReLU what is found is the
            Hessian almost everywhere).
        loss: one loss per sample.
        inputs: (n, ...).
        target: (n,) classes.
        num_classes: C.
        method: "exact" forms the matrix, "lanczos" multiplies by it; "auto" is exact up to 400 parameters.
        iterations: most steps of Lanczos' iteration, with full re-orthogonalisation; never more than parameters.
        seed: of its first vector.
    """
    check_classes(target, num_classes)
    params = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in params)
    exact = method == "exact" or (method == "auto" and size <= _EXACT_UP_TO)
    low, high = (torch.full((num_classes,), torch.nan, dtype=torch.float64) for _ in range(2))
    with evaluation_mode(model), torch.enable_grad():
        for c in range(num_classes):
            members = target == c
            if not bool(members.any()):
                warn_once(f"class {c} has no sample: its curvature is NaN")
                continue
            value = loss(model(inputs[members]), target[members]).mean()
            gradients = torch.autograd.grad(value, params, create_graph=True, allow_unused=True)
            used = [(p, g) for p, g in zip(params, gradients, strict=True) if g is not None and g.requires_grad]
            if not used:
                low[c] = high[c] = 0.0
                continue
            flat = torch.cat([g.reshape(-1) for _, g in used])
            product = _hessian_product(flat, [p for p, _ in used])
            if exact:
                matrix = torch.stack([product(e) for e in torch.eye(len(flat), dtype=flat.dtype, device=flat.device)])
                eigenvalues = torch.linalg.eigvalsh(((matrix + matrix.T) / 2).double())
            else:
                eigenvalues = _lanczos(product, flat, min(iterations, len(flat)), seed)
            low[c], high[c] = float(eigenvalues.min()), float(eigenvalues.max())
            # Parameters that the loss does not use add eigenvalues of zero.
            if len(flat) < size:
                low[c], high[c] = low[c].clamp_max(0), high[c].clamp_min(0)
    return HessianExtremes(low, high)


class FlipTTA(nn.Module):
    """A model of images whose logits are averaged over an image and its mirror image (test-time flip).

    >>> FlipTTA(torch.nn.Flatten())(torch.tensor([[[1.0, 3.0]]]))
    tensor([[2., 2.]])
    """

    @checked
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "n ... width"]) -> Float[Tensor, "n c"]:
        """The mean of the logits of the images and of the flipped images."""
        return (self.model(images) + self.model(images.flip(-1))) / 2


def _hessian_product(gradient: Tensor, params: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def product(vector: Tensor) -> Tensor:
        found = torch.autograd.grad(gradient, params, vector, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]
        return torch.cat([part.reshape(-1) for part in parts])

    return product


def _lanczos(product: Callable[[Tensor], Tensor], like: Tensor, iterations: int, seed: int) -> Tensor:
    """Ritz values of the last step; the extreme ones are the first to settle."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(len(like), generator=generator, dtype=torch.float64).to(like.device)
    basis = [q / q.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    ends = (torch.inf, -torch.inf)
    ritz = torch.zeros(1, dtype=torch.float64)
    for step in range(iterations):
        w = product(basis[-1].to(like.dtype)).double()
        diagonal.append(float(w @ basis[-1]))
        # Twice is enough to keep the basis orthogonal to the last digits.
        for _ in range(2):
            held = torch.stack(basis)
            w = w - held.T @ (held @ w)
        matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            off = torch.tensor(beside, dtype=torch.float64)
            matrix += torch.diag(off, 1) + torch.diag(off, -1)
        ritz = torch.linalg.eigvalsh(matrix)
        now = (float(ritz[0]), float(ritz[-1]))
        scale = max(abs(now[0]), abs(now[1]), 1e-300)
        # Each end by its own size: beside a large one, a small one has not settled because the large one has.
        if step > 3 and all(
            abs(a - b) < _SETTLED / 10 * max(abs(a), 1e-8 * scale) for a, b in zip(now, ends, strict=True)
        ):
            break
        ends = now
        norm = float(w.norm())
        if norm < 1e-12 * scale:
            break
        beside.append(norm)
        basis.append(w / norm)
    return ritz
