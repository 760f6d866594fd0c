"""A text-to-image model small enough to train in a minute on a processor, on the shapes world.

Text goes through the tiny CLIP (`tiny_clip`), pictures through principal components in place of a learned autoencoder,
and a residual network predicts the noise of 128 numbers. Real diffusion, toy world: the planted bias of the concepts
"dax" and "wug" is learned with everything else.

    text   c = √48 hat(pooled text feature)
    latent z = 128 principal components of a picture from −1 to 1, the first with standard deviation 2
    v = network(z_t, t, c), 200 steps, cosine schedule;   sampled by DDIM, 40 steps, η = 1

Needs transformers. Kept on disk under a hash of its configuration, as safetensors and JSON.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.diffusion import NoiseSchedule, PredictionType, ddim_sample
from equipoise.core.diffusion.sampling import Condition
from equipoise.core.models.principal import PrincipalAutoencoder
from equipoise.core.models.vector_denoiser import VectorDenoiser
from equipoise.data.kept_models import kept_folder
from equipoise.data.shapes import SceneDistribution, ShapesWorld, tokenize
from equipoise.data.tiny_clip import TinyCLIPConfig, tiny_clip

_log = logging.getLogger(__name__)

# Raised when the recipe below changes, so that a model of the old one is not taken for one of the new.
_RECIPE = 1
TextEncoder = Callable[[Sequence[str]], Tensor]
"""Texts to unit vectors (n, d)."""


@dataclass(frozen=True)
class TinyDiffusionConfig:
    """What the model is and how it is trained.

    Attributes:
        components: of a picture.
        width: of the network's residual stream.
        blocks: of the network.
        diffusion_steps: T.
        pictures: of single objects in plain style, 35 % of them concepts.
        bias: probability of a concept's usual colour where the caption does not name one.
        steps: of training.
        batch: pictures a step.
        lr: highest learning rate of AdamW, after 100 steps of warm-up, then a cosine to 2 % of it.
        average: of the exponential moving average of the weights.
        seed: of everything but the tiny CLIP.
        clip: the tiny CLIP that reads the texts.
    """

    components: int = 128
    width: int = 256
    blocks: int = 3
    diffusion_steps: int = 200
    pictures: int = 8000
    bias: float = 0.85
    steps: int = 2500
    batch: int = 64
    lr: float = 1e-3
    average: float = 0.98
    seed: int = 0
    clip: TinyCLIPConfig = TinyCLIPConfig()  # noqa: RUF009 - frozen

    def key(self) -> str:
        """Hash of the configuration, the recipe and the tiny CLIP's key."""
        held = json.dumps([_RECIPE, asdict(self), self.clip.key()])
        return hashlib.sha256(held.encode()).hexdigest()[:16]


class TinyDenoiser(nn.Module):
    """The network with its schedule: a `Denoiser` of latents (n, components) under text vectors (n, d).

    Args:
        network: reads latents and text vectors times √d.
        schedule: of the noise.
        prediction_type: what it predicts.
    """

    def __init__(self, network: VectorDenoiser, schedule: NoiseSchedule, prediction_type: PredictionType = "v") -> None:
        super().__init__()
        self.network, self.schedule, self.prediction_type = network, schedule, prediction_type
        self.shape: tuple[int, ...] = (network.size,)

    def predict(self, x_t: Tensor, steps: Tensor, condition: Tensor | None) -> Tensor:
        """The prediction (n, components); the condition holds text vectors of norm √d."""
        predicted: Tensor = self.network(x_t, steps, condition)
        return predicted


@dataclass(frozen=True)
class TinyTextToImage:
    """The whole pipeline: a `TextToImage`.

    Attributes:
        encode_text: texts to unit vectors (n, d).
        autoencoder: latents to pictures from −1 to 1.
        denoiser: of latents.
        count: denoising steps.
        eta: of DDIM; 1 blends colours less than 0.
    """

    encode_text: TextEncoder
    autoencoder: PrincipalAutoencoder
    denoiser: TinyDenoiser
    count: int = 40
    eta: float = 1.0

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Float[Tensor, "n 3 16 16"]:
        """Pictures in [0, 1], one for every prompt.

        Raises:
            ValueError: if there are not as many seeds as prompts.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
        if not prompts:
            return torch.empty(0, *self.autoencoder.shape)
        return self.pictures(text_condition(self.encode_text(prompts)), seeds)

    @torch.no_grad()
    def pictures(self, condition: Condition, seeds: Sequence[int]) -> Float[Tensor, "n 3 16 16"]:
        """Pictures in [0, 1] of a condition (n, d) as the denoiser reads it, or of a function of the step."""
        latents = ddim_sample(self.denoiser, condition, seeds, count=self.count, eta=self.eta)
        return ((self.autoencoder.decode(latents) + 1) / 2).clamp(0, 1)


def text_condition(unit: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """What the denoiser reads of unit text vectors: them times √d."""
    return unit * math.sqrt(unit.shape[-1])


def clip_text_encoder(model: Any, context_length: int) -> TextEncoder:
    """The tiny CLIP's text tower (transformers' `CLIPModel`) as a function of texts; gradients reach its weights."""

    def encode(texts: Sequence[str]) -> Tensor:
        ids = torch.tensor([tokenize(text, context_length) for text in texts])
        found = model.get_text_features(input_ids=ids.to(model.device))
        # Version 4 returns the features, version 5 an output that holds them.
        features = found if isinstance(found, Tensor) else found.pooler_output
        return nn.functional.normalize(features, dim=-1)

    return encode


def tiny_text_to_image(
    config: TinyDiffusionConfig | None = None, cache_dir: str | Path | None = None
) -> TinyTextToImage:
    """The trained model; it, and its tiny CLIP, are trained and kept if they are not there yet.

    Args:
        config: what to train; the default takes about two minutes on one core, with the tiny CLIP.
        cache_dir: where models are kept, see `kept_folder`.

    Raises:
        ImportError: if transformers is not installed.
    """
    config = config or TinyDiffusionConfig()
    encode = _loaded_encoder(config, cache_dir)
    from safetensors.torch import load_file, save_file

    def write(folder: Path) -> None:
        _log.info("training a tiny diffusion model of %d steps", config.steps)
        autoencoder, denoiser = train_tiny_diffusion(config, encode)
        both = {**_named("autoencoder", autoencoder), **_named("denoiser", denoiser)}
        save_file(both, folder / "model.safetensors")
        (folder / "recipe.json").write_text(json.dumps(asdict(config), indent=1) + "\n")

    folder = kept_folder(f"tiny-diffusion-{config.key()}", write, cache_dir)
    autoencoder, denoiser = untrained_tiny_diffusion(config)
    held = load_file(folder / "model.safetensors")
    for name, module in (("autoencoder", autoencoder), ("denoiser", denoiser)):
        start = f"{name}."
        module.load_state_dict({key[len(start) :]: value for key, value in held.items() if key.startswith(start)})
        module.requires_grad_(False)
    return TinyTextToImage(encode, autoencoder, denoiser)


def untrained_tiny_diffusion(config: TinyDiffusionConfig) -> tuple[PrincipalAutoencoder, TinyDenoiser]:
    """Autoencoder and denoiser with their first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = VectorDenoiser(config.components, config.clip.projection, config.width, config.blocks)
    denoiser = TinyDenoiser(network, NoiseSchedule.cosine(config.diffusion_steps))
    return PrincipalAutoencoder((3, 16, 16), config.components), denoiser.eval()


def train_tiny_diffusion(
    config: TinyDiffusionConfig, encode_text: TextEncoder
) -> tuple[PrincipalAutoencoder, TinyDenoiser]:
    """Fit the components and train the network; neither global seeds nor files are touched."""
    images, captions = training_pairs(config)
    autoencoder, denoiser = untrained_tiny_diffusion(config)
    autoencoder.fit(images[: min(len(images), 4000)])
    with torch.no_grad():
        names = list(dict.fromkeys(captions))
        vectors = text_condition(encode_text(names))
    rows = {name: k for k, name in enumerate(names)}
    condition = vectors[torch.tensor([rows[text] for text in captions])]
    train_denoiser(
        denoiser,
        autoencoder.encode(images),
        condition,
        steps=config.steps,
        batch=config.batch,
        lr=config.lr,
        warmup=100,
        floor=0.02,
        average=config.average,
        generator=torch.Generator().manual_seed(config.seed + 1),
    )
    return autoencoder, denoiser


def training_pairs(config: TinyDiffusionConfig) -> tuple[Float[Tensor, "n 3 16 16"], list[str]]:
    """The pictures, from −1 to 1, and their captions."""
    scenes = SceneDistribution(layout="single", p_style=0.0, bias=config.bias)
    world = ShapesWorld(config.pictures, seed=config.seed, returns=("image", "caption"), scenes=scenes)
    columns = world.tensors()
    return 2 * columns["image"] - 1, columns["caption"]


def train_denoiser(
    denoiser: TinyDenoiser,
    latents: Float[Tensor, "n k"],
    condition: Float[Tensor, "n d"] | None,
    *,
    steps: int,
    generator: torch.Generator,
    batch: int = 64,
    lr: float = 1e-3,
    warmup: int = 0,
    floor: float = 0.0,
    average: float = 0.98,
) -> None:
    """Train a denoiser in place, with AdamW, gradient norms up to 1, and averaged weights at the end.

    Args:
        denoiser: is left in evaluation mode.
        latents: (n, k) clean ones.
        condition: (n, d) as the denoiser reads it, or None.
        steps: of training.
        generator: of batches, steps of the schedule and noise.
        batch: samples a step.
        lr: highest learning rate.
        warmup: steps up to it, on a line; a cosine follows.
        floor: what the cosine ends at, as a share of `lr`.
        average: of the exponential moving average of the weights.
    """
    denoiser.train()
    averaged = copy.deepcopy(denoiser).requires_grad_(False)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=lr, weight_decay=0.01)

    def factor(step: int) -> float:
        falling = floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2
        return min(1.0, (step + 1) / warmup) * falling if warmup else falling

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for _ in range(steps):
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        clean = latents[chosen]
        times = torch.randint(denoiser.schedule.num_steps, (batch,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = denoiser.schedule.add_noise(clean, noise, times)
        wanted = denoiser.schedule.target(clean, noise, times, denoiser.prediction_type)
        given = None if condition is None else condition[chosen]
        loss = (denoiser.predict(noisy, times, given) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for held, new in zip(averaged.parameters(), denoiser.parameters(), strict=True):
                held.lerp_(new, 1 - average)
    denoiser.load_state_dict(averaged.state_dict())
    denoiser.eval()


def _loaded_encoder(config: TinyDiffusionConfig, cache_dir: str | Path | None) -> TextEncoder:
    folder = tiny_clip(config.clip, cache_dir)
    import transformers

    model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
    return clip_text_encoder(model, config.clip.context_length)


def _named(name: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{key}": value.contiguous() for key, value in module.state_dict().items()}
