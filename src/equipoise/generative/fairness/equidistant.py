"""The unit vector closest to a text that has the same cosine to the centre of every attribute value, in closed form.

    A = 2:   u = μ_1 − μ_2,   t* = (t − (t·u)/(u·u) u) / |…|         A > 2:   t without its part in span(μ_k − μ_1)

It balances a prompt without training, and is what training of the equalized-odds loss approaches where nothing else
pulls. With a token-wise encoder it changes the pooled vector only.

Source: added by this library to the method of LightFair (NeurIPS 2025), of which no code is public; reconstructed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.validate import warn_once
from equipoise.generative.fairness.balance import check_attributes, coincident, unit


@checked
def equidistant_projection(
    text: Float[Tensor, "*n d"], centers: Float[Tensor, "*n attributes d"]
) -> Float[Tensor, "*n d"]:
    """The closest unit vectors with equal cosines to all centres.

    Args:
        text: (D,) a text embedding, or (N, D), of any norm but 0.
        centers: (A, D) centres, or (N, A, D), of any norm but 0: only their directions count.

    Returns:
        Unit vectors of the shape of `text`.

    Raises:
        ValueError: on fewer than two attributes, a norm of zero, or a text that lies wholly in the span of the
            differences between centres, of which nothing is left.

    Warns:
        UserWarning: once, where all centres are one point; the text is then only brought to norm 1.

    >>> equidistant_projection(torch.tensor([1.0, 0.0, 1.0]), torch.eye(3)[:2])
    tensor([0.4082, 0.4082, 0.8165])
    """
    check_attributes("centers", centers.shape[-2])
    rows, means = unit("text", text).double(), unit("centers", centers.double())
    differences = means[..., 1:, :] - means[..., :1, :]
    # Centres that lie in one line or coincide span less than A − 1 dimensions: only directions above rounding count.
    _, size, directions = torch.linalg.svd(differences, full_matrices=False)
    rounding = 64 * max(torch.finfo(each.dtype).eps for each in (text, centers))
    counted = directions * (size > rounding)[..., None]
    left = rows - ((counted @ rows[..., None]) * counted).sum(-2)
    if not torch.compiler.is_compiling():
        if bool(coincident(centers.detach()).any()):
            warn_once("centres coincide, so there is no direction to project on; the text is left as it is")
        if bool((left.detach().norm(dim=-1) <= rounding).any()):
            raise ValueError(
                "text lies in the span of the differences between the centers, so nothing is left of it; it names an "
                "attribute value, or the centers are of other prompts"
            )
    return (left / left.norm(dim=-1, keepdim=True)).to(rows.dtype if text.dtype is torch.float64 else text.dtype)
