"""Models and tokenizers by folder, or by name where they are on this machine already; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from equipoise.language.distillation.data import TokenRow
from equipoise.workflows.errors import InputError

_SIZES = ("layers", "hidden", "heads", "intermediate")


@contextmanager
def quiet_transformers(needed: Sequence[str] = ("transformers", "accelerate", "safetensors")) -> Iterator[None]:
    """The bars and remarks of transformers kept from the terminal.

    Args:
        needed: packages that must be there, by default what trains language models.

    Raises:
        InputError: if one is not installed.
    """
    for package in needed:
        if find_spec(package) is None:
            raise InputError(f"{package} is not installed; run `pip install 'equipoise[all]'`")
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_model(name: str, what: str, **settings: Any) -> Any:
    """A causal language model; its weights in single precision unless `settings` say otherwise.

    Raises:
        InputError: if it is not here or no such model.
    """
    from transformers import AutoModelForCausalLM

    plain: dict[str, Any] = {"local_files_only": True, "dtype": torch.float32}
    with loading(name, what) as folder:
        return AutoModelForCausalLM.from_pretrained(folder, **{**plain, **settings})


def load_tokenizer(name: str, what: str) -> Any:
    """The tokenizer beside a model.

    Raises:
        InputError: if there is none.
    """
    from transformers import AutoTokenizer

    with loading(name, f"tokenizer of the {what}") as folder:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def loading(name: str, what: str) -> Iterator[str]:
    """Where a model lies, and what goes wrong there in a sentence."""
    from safetensors import SafetensorError

    folder = name if Path(name).exists() else _cached(name, what)
    try:
        yield folder
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"the {what} {name!r} cannot be loaded: {why[:300]}") from error


def _cached(name: str, what: str) -> str:
    """A model is looked up here, as loading it by name would ask the network for adapters first."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the {what} {name!r} is no folder, and no model in the cache of Hugging Face on this machine; download it "
            "first, nothing is fetched here"
        ) from error


def is_sizes(name: str) -> bool:
    """Whether a student is described by its sizes rather than named."""
    return "=" in name and not Path(name).exists()


def student_from_sizes(described: str, teacher: Any, seed: int) -> Any:
    """A student of the teacher's family with other sizes and random weights.

    Args:
        described: such as "layers=4,hidden=256"; what is left out is as the teacher's, or in proportion to the width.
        teacher: the teacher's model.
        seed: of the weights.

    Raises:
        InputError: if a size is unknown or does not fit.
    """
    from transformers import AutoModelForCausalLM

    sizes = _parsed(described)
    config = type(teacher.config)(**teacher.config.to_dict())
    layers, hidden = config.num_hidden_layers, config.hidden_size
    config.num_hidden_layers = sizes.get("layers", layers)
    config.hidden_size = sizes.get("hidden", hidden)
    heads, per_group = config.num_attention_heads, 1
    if getattr(config, "num_key_value_heads", None):
        per_group = heads // config.num_key_value_heads
    config.num_attention_heads = sizes.get("heads", max(1, heads * config.hidden_size // hidden))
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = max(1, config.num_attention_heads // per_group)
    if getattr(config, "head_dim", None):
        config.head_dim = config.hidden_size // config.num_attention_heads
    if getattr(config, "intermediate_size", None):
        wide = max(1, config.intermediate_size * config.hidden_size // hidden)
        config.intermediate_size = sizes.get("intermediate", wide)
    elif "intermediate" in sizes:
        raise InputError(f"the teacher's configuration has no intermediate size to change in student {described!r}")
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * config.num_hidden_layers)[: config.num_hidden_layers]
    if config.hidden_size % config.num_attention_heads or config.num_attention_heads % per_group:
        raise InputError(
            f"student {described!r}: hidden={config.hidden_size} must be a multiple of "
            f"heads={config.num_attention_heads}, and that of {per_group}; name other heads"
        )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        try:
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"student {described!r} cannot be made: {' '.join(str(error).split())[:300]}") from error


def _parsed(described: str) -> dict[str, int]:
    sizes = {}
    for part in described.split(","):
        name, _, value = part.partition("=")
        if name.strip() not in _SIZES or not value.strip().isdigit() or int(value) < 1:
            raise InputError(
                f"student {described!r} holds {part!r}; wanted whole numbers of {', '.join(_SIZES)}, such as "
                "layers=4,hidden=256"
            )
        sizes[name.strip()] = int(value)
    return sizes


def check_fit(model: Any, what: str, rows: Sequence[TokenRow], *, more: int = 0) -> None:
    """Hold token ids and lengths against what a model can take.

    Args:
        model: a causal language model.
        what: it is.
        rows: that it will see.
        more: tokens that may be generated after them.

    Raises:
        InputError: if it has too few entries or places.
    """
    entries = model.get_input_embeddings().weight.shape[0]
    largest = max(max(row.input_ids) for row in rows)
    if largest >= entries:
        raise InputError(
            f"the {what} has {entries} tokens, and the texts hold token {largest}; it needs its own tokenizer"
        )
    places = getattr(model.config, "max_position_embeddings", None)
    longest = max(len(row.input_ids) for row in rows) + more
    if places is not None and longest > places:
        raise InputError(f"texts have up to {longest} tokens, the {what} takes {places}; give a smaller --max-length")


def parameters(model: Any) -> int:
    """How many numbers a model has."""
    return sum(value.numel() for value in model.parameters())
