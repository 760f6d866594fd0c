"""What one bridge makes of several tasks, in the paper's view: the geometric mean of their distributions.

    p ∝ Π_i p_i^{w_i};   of Gaussians N(m_i, s_i²):   precision Σ w_i/s_i²,   mean (Σ w_i m_i/s_i²) / precision

The mean of two tasks far apart lies between them, where neither has any mass. This is the paper's theorem, as
summarised in public notes. A caution (inferred): the exact minimum of the squared loss is the average of the labels
weighted by the posterior of the task given x_n, which separates the tasks wherever x_n still shows which one it is;
`gaussian_label_average` gives it for Gaussians.

"Heterogeneous Image-to-Image Backdoor Attack through Mixture of Schroedinger Bridges", ICML 2025.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Range

_Shares: TypeAlias = Annotated[Float[Tensor, " tasks"], Range(0)]
_Spreads: TypeAlias = Annotated[Float[Tensor, " tasks"], Range(0, low_open=True)]


class GaussianMean(NamedTuple):
    """A Gaussian.

    Attributes:
        mean: ().
        std: ().
    """

    mean: Tensor
    std: Tensor


@checked
def gaussian_geometric_mean(weight: _Shares, mean: Float[Tensor, " tasks"], std: _Spreads) -> GaussianMean:
    """The normalised geometric mean of Gaussians.

    Args:
        weight: (tasks,) at least 0; shares that sum to 1 give a mean, others a product of powers.
        mean: (tasks,).
        std: (tasks,) above 0.

    Raises:
        ValueError: if no weight is above 0.

    >>> found = gaussian_geometric_mean(torch.tensor([0.5, 0.5]), torch.tensor([-2.0, 3.0]), torch.tensor([1.0, 0.5]))
    >>> found.mean, found.std
    (tensor(2.), tensor(0.6325))
    """
    if float(weight.sum()) <= 0:
        raise ValueError("weight must have an entry above 0")
    precisions = weight.double() / std.double() ** 2
    precision = precisions.sum()
    centre = (precisions * mean.double()).sum() / precision
    return GaussianMean(centre.to(mean), precision.rsqrt().to(mean))


@checked
def gaussian_label_average(
    x: Float[Tensor, " n"],
    weight: _Shares,
    mean: Float[Tensor, " tasks"],
    std: _Spreads,
    *,
    spread: Annotated[float, Range(0, low_open=True)],
) -> Float[Tensor, " n"]:
    """The best prediction of x_0 from x = x_0 + spread z, where x_0 is of one of several Gaussians.

    Args:
        x: (n,) what is seen.
        weight: (tasks,) shares of the tasks.
        mean: (tasks,).
        std: (tasks,) above 0.
        spread: standard deviation of the noise.

    Returns:
        (n,) Σ_i p(i | x) E[x_0 | x, i].

    Raises:
        ValueError: if no weight is above 0.

    >>> two = (torch.tensor([0.5, 0.5]), torch.tensor([-2.0, 2.0]), torch.tensor([0.1, 0.1]))
    >>> gaussian_label_average(torch.tensor([-2.0, 0.0, 2.0]), *two, spread=0.5)
    tensor([-2.,  0.,  2.])
    """
    if float(weight.sum()) <= 0:
        raise ValueError("weight must have an entry above 0")
    seen, centre, own = x.double()[:, None], mean.double(), std.double() ** 2
    both = own + spread**2
    task = (weight.double().log() - (seen - centre) ** 2 / (2 * both) - both.log() / 2).softmax(1)
    return (task * (centre + own / both * (seen - centre))).sum(1).to(x)
