"""Small changes of an input that raise an objective: the steps, balls and boxes of attacks and of robust training.

Gradients are taken with respect to the change alone, so that those of the network's weights are neither used nor
touched, and the network is in evaluation mode meanwhile, so that batch norm records nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from equipoise.core.validate import check_choice, check_finite

NORMS = ("linf", "l2")
Bounds = tuple[float | Tensor, float | Tensor]
Model = Callable[[Tensor], Tensor]
Objective = Callable[[Tensor], Tensor]
"""Outputs of the model → one value per sample, to be raised."""

_TOLERANCE = 1e-6
_LEAST_NORM = 1e-10


@contextmanager
def evaluation_mode(model: Model) -> Iterator[None]:
    """Put a module into evaluation mode for the block, and every part of it back as it was.

    >>> model = nn.Dropout()
    >>> with evaluation_mode(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [part.training for part in parts]
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def check_inputs(inputs: Tensor, bounds: Bounds) -> None:
    """Raise `ValueError` unless inputs are finite and within their bounds, up to 1e-6."""
    check_finite("inputs", inputs)
    low, high = (torch.as_tensor(b, dtype=inputs.dtype, device=inputs.device) for b in bounds)
    if bool((inputs < low - _TOLERANCE).any()) or bool((inputs > high + _TOLERANCE).any()):
        raise ValueError(
            f"inputs run from {inputs.min().item():g} to {inputs.max().item():g}, outside the stated bounds; did you "
            "normalise before attacking? Normalise inside the model, or state the bounds of the normalised inputs"
        )


def input_gradient(model: Model, inputs: Tensor, delta: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """The objective of every sample at inputs + delta, and the gradient of its mean with respect to delta.

    Raises:
        ValueError: if the objective does not give one value per sample.
        RuntimeError: if it does not depend on the inputs.

    >>> input_gradient(lambda x: x.sum(1), torch.zeros(2, 3), torch.zeros(2, 3), lambda out: 2 * out)[1]
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    # Validation loops run in inference mode, whose tensors know no gradients: a copy made outside of it does.
    with torch.inference_mode(False), torch.enable_grad():
        delta = delta.detach().clone().requires_grad_()
        inputs = inputs.detach().clone() if inputs.is_inference() else inputs.detach()
        values = objective(model(inputs + delta))
        if values.shape != inputs.shape[:1]:
            raise ValueError(
                f"the objective must give one value per sample, shape ({len(inputs)},), got {tuple(values.shape)}"
            )
        gradient = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values.mean(), delta, allow_unused=True)
    if gradient is None:
        raise RuntimeError(
            "the objective does not depend on the perturbed inputs; compute it from the outputs that it is given, and "
            "let the model neither detach them nor run without gradients"
        )
    return values.detach(), gradient


def step_direction(gradient: Tensor, norm: str) -> Tensor:
    """The steepest direction of each sample: signs for "linf", length 1 for "l2".

    >>> step_direction(torch.tensor([[3.0, -4.0]]), "l2")
    tensor([[ 0.6000, -0.8000]])
    """
    check_choice("norm", norm, NORMS)
    if norm == "linf":
        return gradient.sign()
    return gradient / (_per_sample(gradient.flatten(1).norm(dim=1), gradient) + _LEAST_NORM)


def project_ball(delta: Tensor, eps: float | Tensor, norm: str) -> Tensor:
    """The nearest change of at most `eps`, one for all or (n,), in the norm, for each sample.

    >>> project_ball(torch.tensor([[3.0, 4.0]]), 1.0, "l2")
    tensor([[0.6000, 0.8000]])
    """
    check_choice("norm", norm, NORMS)
    if norm == "linf":
        radius = _radii(eps, delta)
        return delta.clamp(-radius, radius)
    length = delta.flatten(1).norm(dim=1)
    return delta * _per_sample(torch.where(length > eps, eps / length.clamp_min(_LEAST_NORM), 1.0), delta)


def project_box(inputs: Tensor, delta: Tensor, bounds: Bounds) -> Tensor:
    """The change that is left when inputs + delta is clipped to its bounds.

    >>> project_box(torch.tensor([0.75]), torch.tensor([0.5]), (0.0, 1.0))
    tensor([0.2500])
    """
    low, high = (torch.as_tensor(b, dtype=inputs.dtype, device=inputs.device) for b in bounds)
    return (inputs + delta).clamp(min=low, max=high) - inputs


def random_start(inputs: Tensor, eps: float | Tensor, norm: str, generator: torch.Generator | None = None) -> Tensor:
    """A random change: uniform in [−eps, eps] for "linf", a direction with a length uniform in [0, eps] for "l2".

    `eps` is one for all or (n,).
    """
    check_choice("norm", norm, NORMS)
    if norm == "linf":
        draw = torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype, device=inputs.device)
        return (2 * draw - 1) * _radii(eps, inputs)
    direction = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype, device=inputs.device)
    length = torch.rand(len(inputs), generator=generator, dtype=inputs.dtype, device=inputs.device) * eps
    return step_direction(direction, "l2") * _per_sample(length, inputs)


def _radii(eps: float | Tensor, like: Tensor) -> Tensor:
    radii = torch.as_tensor(eps, dtype=like.dtype, device=like.device)
    return _per_sample(radii, like) if radii.ndim else radii


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
