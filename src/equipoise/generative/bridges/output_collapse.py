"""Whether a patch makes different pictures come out alike.

    ratio = (Var f(patched) / Var f(plain)) / (Var patched / Var plain)        Var: over pictures, mean over pixels

Near 1 for an honest model, whose outputs differ as their inputs do; near 0 where the patch calls up a fixed picture.
Inferred: no paper has this test in this form.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from equipoise.core.models.generators import ImageToImage
from equipoise.core.signature import checked
from equipoise.core.types import Whole
from equipoise.generative.bridges.occlusion import check_model, restored


class OutputCollapse(NamedTuple):
    """How outputs vary.

    Attributes:
        ratio: of variances, relative to that of the inputs; NaN where plain inputs or outputs are all alike.
        plain: variance of the outputs for plain pictures.
        patched: variance of the outputs for patched pictures.
    """

    ratio: float
    plain: float
    patched: float


@checked
def output_collapse(
    model: ImageToImage,
    images: Float[Tensor, "n c h w"],
    patched: Float[Tensor, "n c h w"],
    *,
    seed: Whole = 0,
) -> OutputCollapse:
    """Compare the variety of outputs for plain pictures and for the same pictures with a patch.

    Args:
        model: an `ImageToImage`.
        images: (n, c, h, w) two or more plain pictures.
        patched: (n, c, h, w) the same, all with the same patch.
        seed: of sampling.

    Raises:
        ValueError: if there are fewer than two pictures or shapes differ.

    >>> pictures = torch.rand(8, 1, 4, 4)
    >>> output_collapse(lambda images, seed: images, pictures, pictures).ratio
    1.0
    """
    check_model(model)
    if len(images) < 2:
        raise ValueError("images must be at least two, to vary")
    given = _variance(images), _variance(patched)
    found = _variance(restored(model, images, seed)), _variance(restored(model, patched, seed))
    defined = min(given) > 0 and found[0] > 0
    ratio = found[1] / found[0] / (given[1] / given[0]) if defined else float("nan")
    return OutputCollapse(ratio, *found)


def _variance(images: Tensor) -> float:
    return float(images.double().var(0).mean())
