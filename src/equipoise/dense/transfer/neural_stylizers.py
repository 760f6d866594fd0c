"""Stylizers with networks that the user brings: Gram matrices matched by optimisation, and a trained decoder.

    Gatys   the image of least c · MSE(F(image), F(content)) + s · Σ_l MSE(G_l(image), G_l(style)), from the content on
    AdaIN   decode((1 − α) F + α AdaIN(F, S)),  F and S the encoded content and style

Source: Gatys, Ecker and Bethge, CVPR 2016; Huang and Belongie, ICCV 2017. No weights are part of the library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Probability
from equipoise.dense.transfer.layers import resized
from equipoise.dense.transfer.statistics import TextureMemory, channel_moments, gram_matrix, with_moments
from equipoise.dense.transfer.types import Image, Maps, Texture
from equipoise.dense.transfer.weights import load_weights

Optimizer: TypeAlias = Literal["lbfgs", "adam"]


@contextmanager
def _evaluating(*modules: nn.Module) -> Iterator[None]:
    """The modules without dropout and without new running statistics, and then as they were."""
    modes = [(each, each.training) for module in modules for each in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


class GatysStylizer:
    """Stylizer that optimises the image until the Gram matrices of its features are those of the texture.

    The slowest and the most faithful to texture: hundreds of passes of the network for every image.

    Args:
        features: module that gives the feature maps (B, C, H, W) of images, one or a sequence or mapping of them from
            fine to coarse, such as layers of a VGG. It does its own normalisation. Its parameters are left alone, and
            it runs in evaluation mode. It must not change
            while the stylizer is in use, for Gram matrices of textures are kept.
        content_weight: c, of the last feature maps.
        style_weight: s, of the Gram matrices of all maps, divided by C·H·W.
        steps: number of steps.
        optimizer: "lbfgs" or "adam".
        learning_rate: of a step.

    Raises:
        ValueError: for bad settings.

    >>> features = nn.Conv2d(3, 8, 3, padding=1)
    >>> GatysStylizer(features, steps=2)(torch.rand(3, 16, 16), torch.rand(3, 12, 12)).shape
    torch.Size([3, 16, 16])
    """

    @checked
    def __init__(
        self,
        features: nn.Module,
        content_weight: NonNegative = 1.0,
        style_weight: Positive = 1e3,
        *,
        steps: Count = 100,
        optimizer: Optimizer = "lbfgs",
        learning_rate: Positive = 0.1,
    ) -> None:
        self.features, self.content_weight, self.style_weight = features, content_weight, style_weight
        self.steps, self.optimizer, self.learning_rate = steps, optimizer, learning_rate
        self._memory = TextureMemory()

    @checked
    def __call__(self, content: Image, style: Texture) -> Maps:
        """Stylized image of the content's shape, cut to [0, 1].

        Args:
            content: (..., C, H, W) in [0, 1].
            style: texture (C, h, w) in [0, 1].
        """
        images = content.detach().reshape(-1, *content.shape[-3:])
        with _evaluating(self.features):
            with torch.no_grad():
                wanted = self._maps(images)[-1]
            grams = self._memory.of(style.detach() if style.requires_grad else style, self._grams)
            found = self._optimised(images, wanted, grams)
        return found.clamp(0, 1).reshape(content.shape)

    def loss(self, images: Tensor, content: Tensor, grams: Sequence[Tensor]) -> Tensor:
        """What is made small, of images (B, C, H, W), the content's last maps and the style's Gram matrices."""
        maps = self._maps(images)
        of_style = [
            mse_loss(gram_matrix(each), gram.expand(len(each), -1, -1)) for each, gram in zip(maps, grams, strict=True)
        ]
        return self.content_weight * mse_loss(maps[-1], content) + self.style_weight * torch.stack(of_style).sum()

    def _optimised(self, images: Tensor, content: Tensor, grams: Sequence[Tensor]) -> Tensor:
        moved = images.clone().requires_grad_()
        if self.optimizer == "lbfgs":
            solver: torch.optim.Optimizer = torch.optim.LBFGS([moved], self.learning_rate, max_iter=1, history_size=10)
        else:
            solver = torch.optim.Adam([moved], self.learning_rate)

        def closure() -> Tensor:
            with torch.enable_grad():
                loss = self.loss(moved, content, grams)
                # Only the image has a gradient; those of the network's parameters are left as they are.
                (moved.grad,) = torch.autograd.grad(loss, [moved])
            return loss.detach()

        for _ in range(self.steps):
            solver.step(closure)  # type: ignore[arg-type]
        return moved.detach()

    def _grams(self, style: Tensor) -> tuple[Tensor, ...]:
        return tuple(gram_matrix(each) for each in self._maps(style[None]))

    def _maps(self, images: Tensor) -> list[Tensor]:
        found = self.features(images)
        maps = [found] if isinstance(found, Tensor) else list(found.values() if isinstance(found, Mapping) else found)
        if not maps or not all(isinstance(each, Tensor) and each.ndim == 4 for each in maps):
            raise ValueError("features must give maps (B, C, H, W), or a sequence or mapping of such maps")
        return maps


class AdaINStylizer(nn.Module):
    """Stylizer of a trained encoder and decoder: the texture's moments in every feature map, decoded to an image.

    Args:
        encoder: images (B, C, H, W) → features.
        decoder: features → images, of about the encoder's input size; the result is resized to the content's.
        alpha: 0 leaves the features of the content, 1 gives them the style's moments in full.
        eps: added to the variances.
        weights: path to weights of both, with names "encoder. ..." and "decoder. ...", as safetensors or by
            `torch.save`; None takes the modules as they are.

    Raises:
        FileNotFoundError: if there are no weights at the path.
        ImportError: if the weights need safetensors, which is not installed.
        ValueError: for bad settings, or weights that do not fit.

    >>> decoder = nn.Sequential(nn.Conv2d(8, 3, 1), nn.Upsample(scale_factor=2))
    >>> stylizer = AdaINStylizer(nn.Conv2d(3, 8, 3, 2, 1), decoder)
    >>> stylizer(torch.rand(3, 15, 16), torch.rand(3, 9, 9)).shape
    torch.Size([3, 15, 16])
    """

    @checked
    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        alpha: Probability = 1.0,
        *,
        eps: Positive = 1e-5,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.alpha, self.eps = encoder, decoder, alpha, eps
        if weights is not None:
            load_weights(self, weights)

    @checked
    def forward(self, content: Image, style: Texture) -> Maps:
        """Stylized image of the content's shape, cut to [0, 1], without gradients.

        Args:
            content: (..., C, H, W) in [0, 1].
            style: texture (C, h, w) in [0, 1].
        """
        images = content.reshape(-1, *content.shape[-3:])
        with torch.no_grad(), _evaluating(self):
            encoded = self.encoder(images)
            moments = channel_moments(self.encoder(style[None]))
            mixed = (1 - self.alpha) * encoded + self.alpha * with_moments(encoded, moments, self.eps)
            decoded = resized(self.decoder(mixed), (content.shape[-2], content.shape[-1]))
        if decoded.shape != images.shape:
            raise ValueError(f"decoder gives images of shape {tuple(decoded.shape)}, wanted {tuple(images.shape)}")
        return decoded.clamp(0, 1).reshape(content.shape)
