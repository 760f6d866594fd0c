"""The spectrum of a kernel, and which of its numbers can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.validate import warn_once

# Relative asymmetry of a kernel beyond which it is none, and the share of the top eigenvalue that counts as rank.
_ASYMMETRY = 1e-6
_RANK = 1e-6


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a kernel.

    Attributes:
        lambda_min: the least.
        lambda_max: the largest.
        condition_number: λ_max / λ_min; infinite where λ_min is not above `resolution`, NaN for a kernel of zeros.
        effective_rank: how many are above 1e-6 λ_max.
        top_share: λ_max over the trace.
        eigenvalues: (n,) float64, descending; below 0 only by rounding.
        resolution: n ε λ_max, below which an eigenvalue is rounding of the dtype that the kernel came in.
        resolved: whether λ_min is above it.
        without_mean: the same of the kernel whose mean over samples is taken out, which has n − 1 eigenvalues; None
            there.
    """

    lambda_min: float
    lambda_max: float
    condition_number: float
    effective_rank: int
    top_share: float
    eigenvalues: Tensor
    resolution: float
    resolved: bool
    without_mean: Spectrum | None = None


@checked
def ntk_spectrum(kernel: Float[Tensor, "n n"]) -> Spectrum:
    """Extreme eigenvalues, condition number and effective rank of a kernel, with and without its mean mode.

    Positive activations give all samples a feature in common, which is a spike at the top of the spectrum of about n
    times its square. Without the mean over samples it is gone: those numbers are the ones to hold against statements
    about the bulk.

    Args:
        kernel: (n, n), symmetric up to 1e-6 of its largest entry; n at least 2. What was computed in float32 has no
            eigenvalues below about n 1e-7 λ_max, whatever a solver says.

    Returns:
        The spectrum, by a full solution in float64.

    Raises:
        ValueError: if it is not square, not symmetric or not finite.

    >>> found = ntk_spectrum(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    >>> round(found.condition_number, 4), found.effective_rank, round(found.top_share, 4)
    (3.0, 2, 0.75)
    >>> round(found.without_mean.lambda_max, 4)
    1.0
    """
    size = len(kernel)
    if size < 2:
        raise ValueError(f"kernel must be of at least 2 samples, got shape {tuple(kernel.shape)}")
    matrix = symmetric("kernel", kernel)
    precision = torch.finfo(kernel.dtype).eps
    # The complement of the vector of ones, by the reflection that moves it to the first axis.
    axis = matrix.new_full((size,), size**-0.5)
    axis[0] += 1
    axis *= (2 / axis.square().sum()).sqrt()
    turned = matrix - torch.outer(axis, axis @ matrix)
    turned = (turned - torch.outer(turned @ axis, axis))[1:, 1:]
    inner = torch.linalg.eigvalsh((turned + turned.T) / 2).flip(0)
    whole = _spectrum(torch.linalg.eigvalsh(matrix).flip(0), precision)
    return Spectrum(**{**vars(whole), "without_mean": _spectrum(inner, precision, whole.resolution)})


def symmetric(name: str, kernel: Tensor) -> Tensor:
    """A square matrix in float64, made exactly symmetric.

    Raises:
        ValueError: if it is asymmetric beyond 1e-6 of its largest entry.
    """
    matrix = kernel.detach().double()
    skew, most = float((matrix - matrix.T).abs().max()), float(matrix.abs().max())
    if skew > _ASYMMETRY * most:
        raise ValueError(f"{name} must be symmetric, but entries differ from their mirror image by up to {skew:.3g}")
    return (matrix + matrix.T) / 2


def _spectrum(eigenvalues: Tensor, precision: float, resolution: float | None = None) -> Spectrum:
    least, most = float(eigenvalues[-1]), float(eigenvalues[0])
    if resolution is None:
        resolution = len(eigenvalues) * precision * most
    resolved = least > resolution
    if most <= 0:
        warn_once("the kernel is zero, so its condition number is undefined: NaN")
    elif not resolved:
        warn_once(
            f"the least eigenvalue of the kernel, {least:.3g}, is rounding (below {resolution:.3g}): its condition "
            "number is given as infinite; look for duplicated inputs, fewer parameters than samples, or float32"
        )
    return Spectrum(
        least,
        most,
        most / least if resolved else math.nan if most <= 0 else math.inf,
        int((eigenvalues > _RANK * most).sum()),
        most / total if (total := float(eigenvalues.sum())) > 0 else math.nan,
        eigenvalues,
        resolution,
        resolved,
    )
