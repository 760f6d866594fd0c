"""The denoiser that an encoder is tuned by: that of the shapes world, or a small one made of the pictures themselves.

An own denoiser has no texts to be conditioned on. It is conditioned on the first principal components of the clean
picture instead, which is what the projector then learns to give from an embedding, as well as the embedding allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from equipoise.core.diffusion import NoiseSchedule
from equipoise.core.models.principal import PrincipalAutoencoder
from equipoise.core.models.vector_denoiser import VectorDenoiser
from equipoise.data.tiny_diffusion import TinyDenoiser, tiny_text_to_image, train_denoiser

_COMPONENTS, _CONDITION, _STEPS = 128, 48, 200


class Shrunk(nn.Module):
    """An autoencoder that sees pictures at a side of its own."""

    def __init__(self, autoencoder: nn.Module, side: int) -> None:
        super().__init__()
        self.autoencoder, self.side = autoencoder, side

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures of any size."""
        if pictures.shape[-1] != self.side:
            pictures = nn.functional.interpolate(pictures, (self.side, self.side), mode="area")
        found: Tensor = self.autoencoder.encode(pictures)  # type: ignore[operator]
        return found


@dataclass(frozen=True)
class Denoising:
    """What an encoder is tuned by.

    Attributes:
        denoiser: trained.
        autoencoder: of pictures from −1 to 1 to its latents.
        condition: size of what the denoiser reads.
        unit: whether that has the norm √condition.
        words: what it is.
    """

    denoiser: TinyDenoiser
    autoencoder: Shrunk
    condition: int
    unit: bool
    words: str


def tiny_denoising() -> Denoising:
    """The text-to-image model of the shapes world."""
    model = tiny_text_to_image()
    return Denoising(
        model.denoiser,
        Shrunk(model.autoencoder, 16),
        model.denoiser.network.condition_size,
        True,
        "the tiny text-to-image model of the shapes world",
    )


def own_denoising(images: Tensor, side: int, steps: int, seed: int) -> Denoising:
    """A denoiser of some pictures, trained on them for so many steps."""
    small = nn.functional.interpolate(2 * images - 1, (side, side), mode="area")
    components = min(_COMPONENTS, len(small) // 2, small[0].numel())
    autoencoder = PrincipalAutoencoder((3, side, side), components).fit(small)
    latents = autoencoder.encode(small)
    size = min(_CONDITION, components)
    spread = latents[:, :size].std(0, correction=0).clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VectorDenoiser(components, size)
    denoiser = TinyDenoiser(network, NoiseSchedule.cosine(_STEPS))
    train_denoiser(
        denoiser,
        latents,
        latents[:, :size] / spread,
        steps=steps,
        generator=Generator().manual_seed(seed),
        warmup=min(100, steps // 4),
        floor=0.02,
    )
    words = f"a denoiser of {components} principal components of these pictures at {side} × {side}, made for this run"
    return Denoising(denoiser, Shrunk(autoencoder, side), size, False, words)
