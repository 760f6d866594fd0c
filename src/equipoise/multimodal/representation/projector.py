"""From an image's embedding to what a denoiser reads in the place of a text.

    c = base + W2 gelu(W1 LN(z) + b1) + b2        the same vector in every slot, beside the empty prompt's embedding

As in the authors' code: the class token alone, given to all 77 slots of Stable Diffusion 2.1, whose condition is 1024
wide, as is the hidden layer.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count


class ConditionProjector(nn.Module):
    """Embeddings (B, in_dim) to conditions (B, slots, cond_dim), or (B, cond_dim).

    Args:
        in_dim: width of the embeddings.
        cond_dim: width of the condition.
        slots: how many places of a text the condition fills, 77 for CLIP's; None for a denoiser that reads one vector.
        base: (slots, cond_dim) or (cond_dim,) what is added, the embedding of the empty prompt; kept as a buffer.
        hidden: width of the hidden layer, by default that of the condition.
        unit: divide each vector by its norm and multiply it by √cond_dim, before the base is added, for a denoiser
            that was trained on normalised text features.

    Raises:
        ValueError: if a size is below 1, or the base has another shape.

    >>> ConditionProjector(8, 6, slots=77)(torch.randn(2, 8)).shape
    torch.Size([2, 77, 6])
    >>> ConditionProjector(8, 6, unit=True)(torch.randn(2, 8)).norm(dim=1)
    tensor([2.4495, 2.4495], grad_fn=<LinalgVectorNormBackward0>)
    """

    base: Tensor | None

    @checked
    def __init__(
        self,
        in_dim: Count,
        cond_dim: Count,
        slots: Count | None = None,
        base: Float[Tensor, " ..."] | None = None,
        *,
        hidden: Count | None = None,
        unit: bool = False,
    ) -> None:
        super().__init__()
        width = cond_dim if hidden is None else hidden
        self.in_dim, self.cond_dim, self.slots, self.unit = in_dim, cond_dim, slots, unit
        self.layers = nn.Sequential(
            nn.LayerNorm(in_dim), nn.Linear(in_dim, width), nn.GELU(), nn.Linear(width, cond_dim)
        )
        shapes = [(cond_dim,), *([] if slots is None else [(slots, cond_dim)])]
        if base is not None and tuple(base.shape) not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"base must have shape {wanted}, got {tuple(base.shape)}")
        self.register_buffer("base", None if base is None else base.detach().clone())

    @checked
    def forward(self, embedding: Float[Tensor, "b d"]) -> Float[Tensor, " b *c"]:
        """Conditions of embeddings.

        Raises:
            ValueError: if they have another width.
        """
        if embedding.shape[1] != self.in_dim:
            raise ValueError(f"embedding has width {embedding.shape[1]}, the projector reads in_dim={self.in_dim}")
        condition = self.layers(embedding)
        if self.unit:
            condition = nn.functional.normalize(condition, dim=-1) * math.sqrt(self.cond_dim)
        if self.slots is not None:
            condition = condition[:, None].expand(-1, self.slots, -1)
        return condition if self.base is None else condition + self.base
