"""A CLIP small enough to train in a minute on a processor, on the shapes world: real architecture, toy world.

One recipe serves every method that needs a model of images and text: transformers' own CLIP, 64 wide, two layers a
tower, on pictures of 16 x 16 pixels. It is trained contrastively on single-object pictures of all kinds and on mixed
scenes with their captions, put into prompt templates, with noise of random strength on the pictures; pairs with the
same caption share the target. It is kept on disk under a hash of its configuration and loaded from there like any
model: `CLIPTower.from_pretrained(tiny_clip())` of `equipoise.integrations.clip`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.data.kept_models import kept_folder
from equipoise.data.shapes import KINDS, VOCABULARY, ShapesWorld, kind_images, kind_name, tokenize
from equipoise.data.shapes.captions import END, PAD, START, UNKNOWN_WORD

_log = logging.getLogger(__name__)

TEMPLATES = ("{}", "a {}", "a photo of a {}", "a picture of the {}", "this is a {}", "one nice {}")
"""What captions are put into while training; prompts of these forms are understood."""
CONTEXT_LENGTH = 24
"""Most tokens of a text: a long caption, or sixteen learned words and a name."""

# Raised when the recipe below changes, so that a model of the old one is not taken for one of the new.
_RECIPE = 1


@dataclass(frozen=True)
class TinyCLIPConfig:
    """What the model is and how it is trained.

    Attributes:
        width: of both towers.
        layers: of each tower.
        heads: of each layer.
        projection: dimension of the common space.
        patch: side of an image patch in pixels; pictures have 16.
        context_length: most tokens of a text.
        pictures: how many training pictures, half of them of single objects.
        steps: of training.
        batch: pairs a step.
        lr: highest learning rate of AdamW, after 50 steps of warm-up, then a cosine to zero.
        noise: most standard deviation of the noise on pictures, whose values reach from −1 to 1.
        seed: of everything.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    projection: int = 48
    patch: int = 4
    context_length: int = CONTEXT_LENGTH
    pictures: int = 6000
    steps: int = 1000
    batch: int = 128
    lr: float = 2e-3
    noise: float = 0.6
    seed: int = 0

    def key(self) -> str:
        """Hash of the configuration, the recipe, and a sample of the world it is trained on."""
        world = ShapesWorld(24, seed=self.seed, returns=("image", "caption"))
        sample = [world[k] for k in range(len(world))]
        held = json.dumps([_RECIPE, asdict(self), VOCABULARY, TEMPLATES, [x["caption"] for x in sample]])
        digest = hashlib.sha256(held.encode())
        # To a hundredth, so that the last digits of another machine's arithmetic do not matter.
        for x in sample:
            digest.update((x["image"] * 100).round().to(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def tiny_clip(config: TinyCLIPConfig | None = None, cache_dir: str | Path | None = None) -> Path:
    """The folder of the trained model and its tokenizer; trains it if it is not there yet.

    Args:
        config: what to train; the default takes about a minute on one core.
        cache_dir: where models are kept; by default `equipoise` in the user's cache folder (`XDG_CACHE_HOME`, or
            `~/.cache`).

    Returns:
        A folder for `CLIPModel.from_pretrained` and `AutoTokenizer.from_pretrained` (weights as safetensors).

    Raises:
        ImportError: if transformers is not installed.
    """
    config = config or TinyCLIPConfig()

    def write(folder: Path) -> None:
        _log.info("training a tiny CLIP of %d steps", config.steps)
        train_tiny_clip(config).save_pretrained(folder)
        tiny_tokenizer(config.context_length).save_pretrained(folder)
        (folder / "recipe.json").write_text(json.dumps(asdict(config), indent=1) + "\n")

    return kept_folder(f"tiny-clip-{config.key()}", write, cache_dir)


def untrained_tiny_clip(config: TinyCLIPConfig | None = None) -> Any:
    """transformers' `CLIPModel` of this configuration with its first weights.

    Raises:
        ImportError: if transformers is not installed.
    """
    transformers = _transformers()
    config = config or TinyCLIPConfig()
    tower = {
        "hidden_size": config.width,
        "intermediate_size": 2 * config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "projection_dim": config.projection,
    }
    text = tower | {
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": config.context_length,
        "bos_token_id": VOCABULARY.index(START),
        "eos_token_id": VOCABULARY.index(END),
        "pad_token_id": VOCABULARY.index(PAD),
    }
    vision = tower | {"image_size": 16, "patch_size": config.patch}
    whole = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=config.projection, logit_scale_init_value=math.log(10)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return transformers.CLIPModel(whole).eval()


def tiny_tokenizer(context_length: int = CONTEXT_LENGTH) -> Any:
    """A tokenizer of whole words over the shapes world's vocabulary, as transformers has them.

    Raises:
        ImportError: if transformers is not installed.
    """
    transformers = _transformers()
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {word: k for k, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN_WORD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN_WORD,
        model_max_length=context_length,
    )


def train_tiny_clip(config: TinyCLIPConfig) -> Any:
    """Train a `CLIPModel` from its first weights; neither global seeds nor files are touched.

    Raises:
        ImportError: if transformers is not installed.
    """
    model = untrained_tiny_clip(config).train()
    images, tokens, same = _pairs(config)
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / config.steps)) / 2
    )
    for _ in range(config.steps):
        batch = torch.randint(len(images), (config.batch,), generator=generator)
        template = torch.randint(len(TEMPLATES), (config.batch,), generator=generator)
        strength = config.noise * torch.rand(config.batch, 1, 1, 1, generator=generator)
        noise = torch.randn(images[batch].shape, generator=generator)
        found = model(input_ids=tokens[batch, template], pixel_values=images[batch] + strength * noise)
        shared = (same[batch][:, None] == same[batch]).float()
        shared /= shared.sum(1, keepdim=True)
        logits = found.logits_per_image
        loss = -(shared * (logits.log_softmax(1) + logits.T.log_softmax(1))).sum(1).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _pairs(config: TinyCLIPConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures from −1 to 1, token ids of their captions in every template, and numbers that equal captions share."""
    half = config.pictures // 2
    world = ShapesWorld(half, seed=config.seed, returns=("image", "caption"))
    items = [world[k] for k in range(half)]
    kinds = [k % len(KINDS) for k in range(config.pictures - half)]
    images = torch.cat([torch.stack([x["image"] for x in items]), kind_images(kinds, seed=config.seed + 1)])
    captions = [x["caption"] for x in items] + [kind_name(KINDS[k]) for k in kinds]
    numbers = {text: k for k, text in enumerate(dict.fromkeys(captions))}
    tokens = [[tokenize(form.format(text), config.context_length) for form in TEMPLATES] for text in captions]
    return 2 * images - 1, torch.tensor(tokens), torch.tensor([numbers[text] for text in captions])


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("the tiny CLIP needs transformers: pip install 'equipoise[transformers]'") from error
    return transformers
