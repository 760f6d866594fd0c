"""Pictures as a few numbers by their principal components: an autoencoder without training.

    z = s (x − μ) V / σ₁        V (d, k) orthonormal, the first components of the pictures it is fitted on

All components are divided by the first one's standard deviation σ₁ and multiplied by a scale s, so that their sizes
keep their order.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.validate import check_finite, check_positive


class PrincipalAutoencoder(nn.Module):
    """Encode and decode pictures of one shape.

    Args:
        shape: of one picture.
        components: k.
        scale: s, the standard deviation of the first component.

    Raises:
        ValueError: if there are more components than values in a picture, or the scale is not positive.

    >>> pictures = torch.randn(100, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> coder = PrincipalAutoencoder((3, 4, 4), 48).fit(pictures)
    >>> torch.allclose(coder.decode(coder.encode(pictures)), pictures, atol=1e-4)
    True
    """

    mean: Tensor
    basis: Tensor
    factor: Tensor

    def __init__(self, shape: tuple[int, ...], components: int, scale: float = 2.0) -> None:
        super().__init__()
        size = torch.Size(shape).numel()
        if not 1 <= components <= size:
            raise ValueError(f"components={components} must lie between 1 and {size}, the values of a picture")
        check_positive("scale", scale)
        self.shape, self.components, self.scale = tuple(shape), components, scale
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.eye(size, components))
        self.register_buffer("factor", torch.tensor(1.0))

    @torch.no_grad()
    def fit(self, pictures: Float[Tensor, "n ..."]) -> PrincipalAutoencoder:
        """Find the components; the sign of each is such that its largest entry is positive.

        Raises:
            ValueError: if there are fewer pictures than components, they are of another shape, not finite or all alike.
        """
        rows = self._rows(pictures, self.shape, "pictures").double()
        if len(rows) < self.components:
            raise ValueError(f"{self.components} components need at least as many pictures, got {len(rows)}")
        check_finite("pictures", rows)
        mean = rows.mean(0)
        centred = rows - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
        if values[-1] <= 1e-12:
            raise ValueError("all pictures are alike, so there is no component to find")
        basis = vectors.flip(1)[:, : self.components]
        largest = basis.abs().argmax(0, keepdim=True)
        basis = basis * basis.gather(0, largest).sign()
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.factor.copy_(self.scale / values[-1].sqrt())
        return self

    def encode(self, pictures: Float[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        """Components (n, k) of pictures (n, *shape)."""
        return (self._rows(pictures, self.shape, "pictures") - self.mean) @ self.basis * self.factor

    def decode(self, latents: Float[Tensor, "n k"]) -> Float[Tensor, "n ..."]:
        """Pictures (n, *shape) of components (n, k)."""
        rows = self._rows(latents, (self.components,), "latents") / self.factor @ self.basis.T + self.mean
        return rows.reshape(len(latents), *self.shape)

    @staticmethod
    def _rows(values: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
        if tuple(values.shape[1:]) != shape or values.ndim < 2:
            raise ValueError(f"{name} must have shape (n, {', '.join(map(str, shape))}), got {tuple(values.shape)}")
        return values.flatten(1)
