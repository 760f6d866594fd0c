"""What a contrast among predictions is held against: reconstruction alone, and a contrast of embeddings.

    L_rec = mean (pred − target)²                   over all elements
    L_con = mean over the 2B views v of  −log softmax_{u ≠ v}(cos(v, u) / τ) at the other view of the same image

L_con is NT-Xent of Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.contrastive import info_nce
from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import Positive


@checked
def reconstruction_loss(
    pred: Float[Tensor, " b *n"], target: Float[Tensor, " b *n"], reduction: Reduction = "mean"
) -> Float[Tensor, "*r"]:
    """The square error of a denoiser's predictions, of each image its mean over elements.

    Args:
        pred: (B, ...).
        target: (B, ...) what the denoiser is trained to predict; no gradient flows to it.
        reduction: "mean" and "sum" are over images.

    Returns:
        A scalar, or (B,).

    Raises:
        ValueError: if shapes differ, or a value is not finite.

    >>> reconstruction_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(5.)
    """
    return reduce_losses((pred - target.detach()).square().reshape(len(pred), -1).mean(1), reduction)


@checked
def nt_xent(
    za: Float[Tensor, "b d"], zb: Float[Tensor, "b d"], temperature: Positive = 0.1, reduction: Reduction = "mean"
) -> Float[Tensor, "*r"]:
    """The contrast of two views' embeddings: the other view of the same image against all other views.

    Args:
        za: (B, d) embeddings of one view, any norm.
        zb: (B, d) of the other.
        temperature: τ.
        reduction: "mean" and "sum" are over the 2B views.

    Returns:
        A scalar, or (2B,), those of `za` first.

    Raises:
        ValueError: if shapes differ, or a value is not finite.

    >>> nt_xent(torch.eye(2), torch.eye(2), temperature=1.0)
    tensor(0.5514)
    """
    views = torch.cat([za, zb])
    own = torch.arange(len(views), device=views.device)
    # Each view is a group of its own, so that it is no negative of itself.
    losses = info_nce(views, views, own.roll(len(za)), groups=own, temperature=temperature)
    return reduce_losses(losses, reduction)
