"""A bridge that restores pictures: sharpens, fills in, translates, as learned from pairs of degraded and clean ones.

A network sees x_n and the time of step n; where `cond_x1` is set, x_1 stands beside x_n, channel by channel. On small
pictures it works on principal components, so that a processor trains it in seconds; with a network over pixels of one's
own there is no such detour.

The bridge is that of Liu et al., "I²SB: Image-to-Image Schrödinger Bridge", ICML 2023, as in the code of
"Heterogeneous Image-to-Image Backdoor Attack through Mixture of Schroedinger Bridges", ICML 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from equipoise.core.models.principal import PrincipalAutoencoder
from equipoise.core.models.vector_denoiser import VectorDenoiser
from equipoise.core.signature import checked
from equipoise.core.types import Count, Whole
from equipoise.core.validate import warn_once
from equipoise.generative.bridges.mixture import RoutedMixture
from equipoise.generative.bridges.sampler import BridgeSampler
from equipoise.generative.bridges.saving import read_bridge, write_bridge
from equipoise.generative.bridges.schedule import BridgeSchedule

Model = TypeVar("Model", bound="BridgeModel")


class BridgeModel(nn.Module):
    """A restoration model, an `ImageToImage` of pictures in [−1, 1].

    Args:
        network: (x, time (n,)) → a tensor of the shape of x; or a `RoutedMixture` of such, routed once per picture.
        schedule: of the bridge; by default 100 steps with β from 10⁻⁵ and β_max = .3.
        codec: between pictures and what the network works on; the pictures themselves where there is none.
        steps: how often the network is called to restore a picture.
        clip: whether predictions of pictures are kept in [−1, 1]; with a codec only the final one is.
        cond_x1: whether the network sees x_1 beside x_n: its input is twice as wide, and of its output what is beyond
            the width of x_n is not used.

    Raises:
        ValueError: as `BridgeSampler`.

    To sharpen pictures of one's own, here of the shapes world:

    >>> from equipoise.data.shapes import ShapesWorld, pixelate
    >>> clean = ShapesWorld(64, seed=1, returns=("image",)).tensors()["image"] * 2 - 1
    >>> degraded = pixelate(clean)
    >>> model = BridgeModel.for_pairs(clean, degraded, components=32, width=32)
    >>> losses = model.fit(clean, degraded, steps=50).losses
    >>> model(degraded[:2], seed=0).shape
    torch.Size([2, 3, 16, 16])
    """

    @checked
    def __init__(
        self,
        network: nn.Module,
        schedule: BridgeSchedule | None = None,
        codec: PrincipalAutoencoder | None = None,
        *,
        steps: Count = 10,
        clip: bool = True,
        cond_x1: bool = False,
    ) -> None:
        super().__init__()
        self.schedule = BridgeSchedule(100, 1e-5) if schedule is None else schedule
        self.network, self.codec = network, codec
        self.steps, self.clip, self.cond_x1 = steps, clip, cond_x1
        self.sampler()

    @classmethod
    @checked
    def for_pairs(
        cls: type[Model],
        clean: Float[Tensor, "n c h w"],
        degraded: Float[Tensor, "n c h w"],
        *,
        components: Count = 96,
        width: Count = 160,
        blocks: Count = 2,
        cond_x1: bool = False,
        schedule: BridgeSchedule | None = None,
        seed: Whole = 0,
        **settings: Any,
    ) -> Model:
        """An untrained model for pictures like these, on their principal components.

        Args:
            clean: (n, c, h, w) in [−1, 1].
            degraded: (n, c, h, w).
            components: how many numbers a picture becomes, at most 2 n and c h w.
            width: of the network.
            blocks: of the network.
            cond_x1: see the class.
            schedule: see the class.
            seed: of the network's first weights.
            settings: more arguments of the class.

        Raises:
            ValueError: if shapes differ, or there are too few pictures for so many components.
        """
        codec = fitted_codec(torch.cat([clean, degraded]), components)
        network = seeded_network(components * (1 + cond_x1), width, blocks, seed)
        return cls(network, schedule, codec, cond_x1=cond_x1, **settings)

    def sampler(self, steps: int | None = None) -> BridgeSampler:
        """The way that restores; `steps` in place of those of the model."""
        return BridgeSampler(
            self.schedule, self.steps if steps is None else steps, clip=self.clip and self.codec is None
        )

    def encode(self, images: Tensor) -> Tensor:
        """What the network works on."""
        return images if self.codec is None else self.codec.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of it."""
        return latents if self.codec is None else self.codec.decode(latents)

    def predict(self, x: Tensor, step: Tensor | int, x1: Tensor) -> Tensor:
        """The network's output at x_n (n, ...), both x_n and x_1 encoded; `step` is (n,) or one of all."""
        return self.predictor(x1)(x, step)

    def predictor(self, x1: Tensor) -> Callable[[Tensor, Tensor | int], Tensor]:
        """The network as a function of x_n and the step; a mixture is routed here, once."""
        network = self.network
        weights = network.route(x1) if isinstance(network, RoutedMixture) else None

        def predict(x: Tensor, step: Tensor | int) -> Tensor:
            steps = torch.full((len(x),), step, device=x.device) if isinstance(step, int) else step
            time = self.schedule.time.to(x.device)[steps].to(x)
            given = torch.cat([x, x1], 1) if self.cond_x1 else x
            if isinstance(network, RoutedMixture) and weights is not None:
                output = network.mix(given, time, weights)
            else:
                output = network(given, time)
            return output[:, : x.shape[1]] if self.cond_x1 else output

        return predict

    @torch.no_grad()
    @checked
    def forward(
        self,
        images: Float[Tensor, "n c h w"],
        seed: Whole = 0,
        *,
        known: Bool[Tensor, "n k h w"] | None = None,
        steps: Count | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Restored pictures.

        Args:
            images: (n, c, h, w) degraded pictures in [−1, 1].
            seed: of the noise; the same picture and seed give the same, whatever else is in the batch.
            known: (n, 1 or c, h, w) which pixels are right: put back in every step, with a codec at the end only.
            steps: in place of those of the model.

        Raises:
            ValueError: if shapes do not match.
        """
        self.warn_of_range("images", images)
        if known is not None and known.shape[1] not in (1, images.shape[1]):
            raise ValueError(f"known must have 1 or {images.shape[1]} channels, got {known.shape[1]}")
        x1 = self.encode(images)
        held = known if self.codec is None else None
        restored = self.decode(self.sampler(steps)(self.predictor(x1), x1, seed, known=held))
        restored = restored.clamp(-1, 1) if self.clip else restored
        return restored if known is None else torch.where(known, images.to(restored), restored)

    def fit(self, clean: Tensor, degraded: Tensor, **settings: Any) -> Any:
        """Learn from pairs; arguments, result and errors as `fit_bridge`."""
        from equipoise.generative.bridges.training import fit_bridge

        return fit_bridge(self, clean, degraded, **settings)

    def warn_of_range(self, name: str, images: Tensor) -> None:
        """Warn of pictures that a clipped model cannot give back."""
        if self.clip and images.numel() and float(images.detach().abs().max()) > 1 + 1e-4:
            warn_once(f"{name} reach beyond [−1, 1], where clip=True keeps predictions; scale them, or take clip=False")

    def save(self, folder: str | Path) -> Path:
        """Write weights as safetensors and settings as JSON; returns the folder.

        Raises:
            ImportError: if safetensors is not installed.
        """
        return write_bridge(self, folder)

    @classmethod
    def load(cls: type[Model], folder: str | Path, network: nn.Module | None = None) -> Model:
        """A saved model.

        Args:
            folder: where it was written.
            network: one of the saved shapes, for the weights to be loaded into; only needed where the network is
                neither a `VectorDenoiser` nor a mixture of such with a linear or a two-layer router.

        Raises:
            ValueError: if the folder holds no bridge, or a network is needed.
            ImportError: if safetensors is not installed.
        """
        parts = read_bridge(folder, network)
        model = cls(parts.network, parts.schedule, parts.codec, **parts.settings)
        model.load_state_dict(parts.weights)
        return model.eval()


def fitted_codec(pictures: Tensor, components: int) -> PrincipalAutoencoder:
    """Principal components of pictures in their own units, so that the noise of a bridge is the same as on pixels."""
    codec = PrincipalAutoencoder(tuple(pictures.shape[1:]), components).fit(pictures)
    codec.factor.fill_(1.0)
    return codec


def seeded_network(size: int, width: int, blocks: int, seed: int) -> VectorDenoiser:
    """A network whose first weights are those of the seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VectorDenoiser(size, width=width, blocks=blocks)
