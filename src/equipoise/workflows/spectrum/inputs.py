"""What is measured: a net of given widths on a table, or a language model on lines of text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equipoise.language import GLUBlock
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.spectrum.request import SpectrumRequest

_WIDTHS = re.compile(r"(\d+)-(\d+)-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model and its samples.

    Attributes:
        name: of the model, for the page.
        models: name → module; one, or a plain and a gated block.
        inputs: as `empirical_ntk` takes them.
        features: (n, d), what the blocks of the theory are given.
        hidden: width of the plain block.
        out: outputs of the blocks.
        target: (n,), standardised.
        facts: short facts.
        notes: what a reader must know.
    """

    name: str
    models: dict[str, nn.Module]
    inputs: Any
    features: Tensor
    hidden: int
    out: int
    target: Tensor
    facts: tuple[str, ...]
    notes: tuple[str, ...]


def read_subject(model: str, data: Path, request: SpectrumRequest) -> Subject:
    """Build or load the model, and read the samples.

    Raises:
        InputError: if that cannot be done.
    """
    widths = _WIDTHS.fullmatch(model)
    if widths and not Path(model).exists():
        dim, hidden, out = map(int, widths.groups())
        return _of_widths(dim, hidden, out, data, request)
    if re.fullmatch(r"\d+(-\d+)*", model) and not Path(model).exists():
        raise InputError(f"model {model}: give three widths, inputs-hidden-outputs such as 75-256-1, or a folder")
    return _of_text(model, data, request)


def _of_widths(dim: int, hidden: int, out: int, data: Path, request: SpectrumRequest) -> Subject:
    if not (dim and hidden and out):
        raise InputError(f"model {dim}-{hidden}-{out}: every width must be at least 1")
    x, y = _table(data, request.target)
    if x.shape[1] != dim:
        raise InputError(f"{data} has {x.shape[1]} columns of numbers, and the model takes {dim} inputs")
    found = len(x)
    rows = _drawn(found, request)
    x, y = x[rows], None if y is None else y[rows]
    spread = x.std(0)
    notes = [*_left_out(found, len(rows))]
    flat = int((spread == 0).sum())
    if flat:
        notes.append(f"{flat} columns hold one value and say nothing; they are 0 after standardising.")
    x = (x - x.mean(0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
    with mendable():
        models: dict[str, nn.Module] = {
            name: GLUBlock(
                dim,
                hidden,
                out,
                request.activation,
                gated,
                generator=torch.Generator().manual_seed(request.seed),
            ).double()
            for name, gated in (("plain", False), ("gated", True))
        }
    target, more = _target(x, y, request)
    return Subject(
        name=f"{dim}-{hidden}-{out}, {request.activation}",
        models=models,
        inputs=x,
        features=x,
        hidden=hidden,
        out=out,
        target=target,
        facts=(f"{len(x):,} samples", f"{dim} inputs", f"{data.name}, standardised"),
        notes=(*notes, *more),
    )


def _of_text(model: str, data: Path, request: SpectrumRequest) -> Subject:
    if request.target is not None:
        raise InputError("--target is a column of a table; lines of text have none")
    try:
        lines = [line.strip() for line in data.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError(f"{data} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{data} is no text in UTF-8; give a text per line, or name a net by its widths") from error
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise InputError(f"{data} holds {len(lines)} lines of text; at least 2 are needed")
    rows = _drawn(len(lines), request)
    net, tokenizer = _pretrained(model)
    with mendable():
        given = tokenizer(
            [lines[int(row)] for row in rows],
            padding=True,
            truncation=True,
            max_length=request.max_length,
            return_tensors="pt",
        )
    inputs = {name: given[name] for name in ("input_ids", "attention_mask")}
    mask = inputs["attention_mask"]
    if bool((mask.sum(1) == 0).any()):
        raise InputError(f"{data} holds a line without any token that the model knows")
    width = int(net.config.hidden_size)
    draws = torch.Generator().manual_seed(request.seed)
    directions = torch.randn(width, request.outputs, generator=draws, dtype=torch.float64) / math.sqrt(width)
    with torch.no_grad():
        hidden = torch.cat([net(**part).last_hidden_state for part in _batches(inputs)]).double()
    pooled = _pooled(hidden, mask, request.pool)
    spread = pooled.std(0)
    features = (pooled - pooled.mean(0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
    target, more = _target(features, None, request)
    return Subject(
        name=Path(model).name or model,
        models={"model": _Pooled(net, request.pool, directions)},
        inputs=inputs,
        features=features,
        hidden=request.hidden or 4 * width,
        out=1,
        target=target,
        facts=(f"{len(rows):,} texts", f"{int(mask.sum()):,} tokens", f"vectors of {width} numbers"),
        notes=(
            f"The output is {request.outputs} random direction(s) of the {request.pool} vector of a text, in the last "
            "layer: another direction has another kernel.",
            "The blocks are compared on these vectors, standardised: what a block placed on top of the model would "
            "meet, not the blocks inside it.",
            *_left_out(len(lines), len(rows)),
            *more,
        ),
    )


class _Pooled(nn.Module):
    """A language model whose output are fixed directions of a text's vector."""

    directions: Tensor

    def __init__(self, net: nn.Module, pool: str, directions: Tensor) -> None:
        super().__init__()
        self.net, self._pool = net, pool
        self.register_buffer("directions", directions.float())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.net(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        found: Tensor = _pooled(hidden, attention_mask, self._pool) @ self.directions
        return found


def _pooled(hidden: Tensor, mask: Tensor, pool: str) -> Tensor:
    if pool == "mean":
        weight = mask[..., None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)
    last = (mask * torch.arange(1, mask.shape[1] + 1)).argmax(1)
    return hidden[torch.arange(len(hidden)), last]


def _batches(inputs: dict[str, Tensor], size: int = 32) -> list[dict[str, Tensor]]:
    n = len(inputs["input_ids"])
    return [{name: each[start : start + size] for name, each in inputs.items()} for start in range(0, n, size)]


def _pretrained(model: str) -> tuple[Any, Any]:
    """A model and its tokenizer from a folder or the local cache; never from the network, and tensors only."""
    with mendable():
        import transformers
        from huggingface_hub import try_to_load_from_cache

        folder = Path(model)
        # By a name transformers would ask the network for adapters even where only local files are allowed.
        if not folder.is_dir() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
            cached = try_to_load_from_cache(model, "config.json")
            folder = Path(cached).parent if isinstance(cached, str) else folder
        refusal = InputError(
            f"model {model!r} is no folder of a transformers model with safetensors and a tokenizer, nor in the local "
            "cache, and nothing is downloaded; a net is named by its widths, such as 75-256-1"
        )
        if not folder.is_dir():
            raise refusal
        try:
            net = transformers.AutoModel.from_pretrained(
                folder, use_safetensors=True, attn_implementation="eager", local_files_only=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise refusal from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return net.eval().float(), tokenizer


def _table(data: Path, target: str | None) -> tuple[Tensor, Tensor | None]:
    """Numbers of a table or an array, and the target if it is named."""
    with mendable():
        if data.suffix in (".npy", ".npz"):
            found = np.load(data, allow_pickle=False)
            if isinstance(found, np.ndarray):
                if target is not None:
                    raise InputError(f"--target {target} is the name of an array, and {data} holds one without name")
                return _matrix(data, found), None
            with found:
                names = [name for name in found.files if name != target]
                if target is not None and target not in found.files:
                    raise InputError(f"{data} has no array {target!r}; it has {', '.join(found.files)}")
                if len(names) != 1 and "x" not in names:
                    raise InputError(f"{data} holds several arrays; name the inputs 'x'")
                x = found["x" if "x" in names else names[0]]
                return _matrix(data, x), None if target is None else _vector(data, target, found[target])
        import pandas as pd

        frame = pd.read_parquet(data) if data.suffix == ".parquet" else pd.read_csv(data, sep=None, engine="python")
    y = None
    if target is not None:
        if target not in frame:
            raise InputError(f"{data} has no column {target!r}; it has {', '.join(map(str, frame.columns))}")
        y = _vector(data, target, pd.to_numeric(frame.pop(target), errors="coerce").to_numpy())
    numbers = frame.select_dtypes("number")
    if not numbers.shape[1]:
        raise InputError(f"{data} has no column of numbers")
    return _matrix(data, numbers.to_numpy(dtype=float)), y


def _matrix(data: Path, values: NDArray[Any]) -> Tensor:
    if values.ndim != 2 or values.dtype.kind not in "fiub" or len(values) < 2:
        raise InputError(f"{data} must hold numbers of 2 or more samples in rows, got shape {values.shape}")
    x = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{data} holds NaN or infinite values among its inputs; drop or impute these rows")
    return x


def _vector(data: Path, name: str, values: NDArray[Any]) -> Tensor:
    if values.ndim != 1 or values.dtype.kind not in "fiub" or not np.isfinite(values).all():
        raise InputError(f"{name} of {data} must be a finite number for each sample")
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def _drawn(n: int, request: SpectrumRequest) -> Tensor:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(request.seed))
    return order[: request.rows].sort().values


def _left_out(n: int, kept: int) -> list[str]:
    return [f"{kept:,} of {n:,} samples were drawn at random; --rows says how many."] if kept < n else []


def _target(x: Tensor, y: Tensor | None, request: SpectrumRequest) -> tuple[Tensor, list[str]]:
    """What the loss is predicted on, of mean square 1."""
    notes = []
    if y is None:
        draws = torch.Generator().manual_seed(request.seed)
        y = torch.relu(x @ torch.randn(x.shape[1], generator=draws, dtype=torch.float64))
        notes.append("The loss is predicted on a random target, the positive part of a linear function of the inputs.")
    elif len(y) != len(x):
        raise InputError(f"the target has {len(y)} values for {len(x)} samples")
    size = y.square().mean().sqrt()
    if float(size) == 0:
        raise InputError("the target is 0 for every sample, so there is nothing to learn; name another")
    return y / size, notes
