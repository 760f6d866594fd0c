"""transformers' CLIP as a `TwoTower`: by name or path, with a way in for learned words.

    tower = CLIPTower.from_pretrained("openai/clip-vit-base-patch16")       from the local cache, never from the network
    tower = CLIPTower.from_pretrained(tiny_clip())                          the toy model of `equipoise.data.tiny_clip`

The text tower of transformers takes ids only. Learned words go in through a hook on its table of word vectors, which
works for every version from 4.40 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipoise.data.local_models import local_model


class CLIPTower(nn.Module):
    """A CLIP model and its tokenizer behind the protocol `core.models.two_tower.TwoTower`.

    Args:
        model: transformers' `CLIPModel`.
        tokenizer: its tokenizer.
        image_processor: its image processor, for `pixel_values`; absent where images are normalised already.

    Attributes:
        context_length: the most tokens of a text, start and end included.
        width: of a word vector.
        start_token: id that begins a text.
        end_token: id that ends it.
        pad_token: id that fills up.

    Raises:
        ValueError: if the tokenizer does not know where a text begins and ends.
    """

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any = None) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        text = model.config.text_config
        self.context_length = int(text.max_position_embeddings)
        self.width = int(text.hidden_size)
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no start or no end token, so it cannot be that of a CLIP model")
        self.start_token = int(tokenizer.bos_token_id)
        self.end_token = int(tokenizer.eos_token_id)
        pad = tokenizer.pad_token_id
        self.pad_token = self.end_token if pad is None else int(pad)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, allow_download: bool = False) -> CLIPTower:
        """Load a model, its tokenizer and, if it is there and Pillow too, its image processor.

        The model is in evaluation mode, its weights are frozen. They are taken from safetensors or, where there are
        none, from PyTorch's `.bin`, of which transformers reads tensors only (`weights_only`).

        Args:
            name_or_path: a name on the hub that is in the local cache, or a folder.
            allow_download: fetch what is not there from the network.

        Raises:
            ImportError: if transformers is not installed.
            OSError: if the model is not there and may not be downloaded.
        """
        try:
            import transformers
        except ImportError as error:
            raise ImportError("CLIP needs transformers: pip install 'equipoise[transformers]'") from error
        name_or_path = local_model(name_or_path, allow_download=allow_download)
        options: dict[str, Any] = {"local_files_only": not allow_download}
        try:
            model = transformers.CLIPModel.from_pretrained(name_or_path, use_safetensors=True, **options)
        except OSError:
            model = transformers.CLIPModel.from_pretrained(name_or_path, use_safetensors=False, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name_or_path, **options)
        processor = None
        with suppress(ImportError, OSError):
            # Version 5 calls so what version 4 calls CLIPImageProcessor.
            kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
            processor = kind.from_pretrained(name_or_path, **options)
        return cls(model.eval(), tokenizer, processor).requires_grad_(False)

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosine similarities."""
        return self.model.logit_scale.exp()

    def pixel_values(self, pictures: Sequence[Any]) -> Float[Tensor, "n channels height width"]:
        """Pictures (of Pillow, or arrays and tensors from 0 to 255) resized, cropped and normalised for `encode_image`.

        Raises:
            RuntimeError: if the tower has no image processor.
        """
        if self.image_processor is None:
            raise RuntimeError("the tower has no image processor; give CLIPTower one, or normalise the images yourself")
        found = self.image_processor(images=list(pictures), return_tensors="pt").pixel_values
        return found.to(self.logit_scale.device)

    def encode_image(self, images: Float[Tensor, "b channels height width"]) -> Float[Tensor, "b d"]:
        """Features of images that are normalised as the model wants them."""
        return _pooled(self.model.get_image_features(pixel_values=images))

    def word_ids(self, text: str) -> list[int]:
        """Token ids of a text without start, end and padding."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text.strip() else []

    def embed_tokens(self, ids: Int[Tensor, "b length"]) -> Float[Tensor, "b length width"]:
        """Word vectors of ids, before positions are added."""
        return self._words(ids)

    def encode_text(
        self, ids: Int[Tensor, "b length"], embeddings: Float[Tensor, "b length width"] | None = None
    ) -> Float[Tensor, "b d"]:
        """Features of texts, read at the end token; `embeddings` take the place of the word vectors."""
        if embeddings is None:
            return _pooled(self.model.get_text_features(input_ids=ids))
        hook = self._words.register_forward_hook(lambda *_: embeddings)
        try:
            return _pooled(self.model.get_text_features(input_ids=ids))
        finally:
            hook.remove()

    @property
    def _words(self) -> nn.Module:
        # Version 4 keeps the text transformer one floor further down than version 5.
        text = self.model.text_model
        return getattr(text, "text_model", text).embeddings.token_embedding


def _pooled(found: Any) -> Tensor:
    """Version 4 returns the features, version 5 an output that holds them."""
    return found if isinstance(found, torch.Tensor) else found.pooler_output
