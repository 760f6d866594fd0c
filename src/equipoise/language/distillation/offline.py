"""What a teacher says of a data set, asked once and kept: its k most likely tokens and the mass of the rest.

A row of teacher and student is then compared over k + 1 outcomes: the k tokens, and one for all others together. For
the divergences of Csiszár's form (both KLs, Jensen–Shannon, total variation, α-β with α + β = 1) that is a lower bound
of the one over all tokens, for the rest an approximation; it grows exact as k grows to the whole vocabulary. At another
temperature than 1 the mass of the rest is that at temperature 1, sharpened as if it were one token.

Files: `teacher.json` and shards `00000.safetensors`, each with `indices` (tokens, k), `log_probs` (tokens, k + 1; k
where k is the vocabulary) and `offsets` of its rows. A shard is written aside and renamed, so a run that was stopped
goes on where it was. Fingerprints of data and teacher keep a cache from being used for others.

Source: top-k caching is common practice; the bucket of the rest, and this form of it, are ours.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.token_divergence.chunks import log_normalizer, rows_of
from equipoise.core.types import Count
from equipoise.language.distillation.data import IGNORED, TokenRow, collate_tokens
from equipoise.language.distillation.modes import evaluating, forward, next_labels

_MANIFEST = "teacher.json"
_FORMAT = 1
# Log-probability of what a teacher rules out: finite, for a student never rules anything out.
_LEAST = -100.0


def data_fingerprint(rows: Sequence[TokenRow]) -> str:
    """SHA-256 of tokens and labels."""
    digest = hashlib.sha256()
    for one in rows:
        digest.update(json.dumps([list(one.input_ids), list(one.labels)]).encode())
    return digest.hexdigest()


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 of every parameter and buffer, with its name, shape and dtype."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        whole = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(whole.numpy().data)
    return digest.hexdigest()


@checked
def write_teacher_cache(
    teacher: nn.Module,
    rows: Sequence[TokenRow],
    folder: str | Path,
    *,
    k: Count = 64,
    batch_size: Count = 8,
    shard_rows: Count = 256,
    progress: Callable[[str], None] | None = None,
) -> TeacherCache:
    """Ask a teacher for every token that is learnt, and keep its k most likely tokens.

    Args:
        teacher: gives `logits` (B, T, V).
        rows: of tokens, numbered from 0 on.
        folder: to write, or one in which a stopped run of the same teacher and data goes on.
        k: tokens kept for each token of the data; at most V.
        batch_size: rows that the teacher sees at a time.
        shard_rows: rows of a file.
        progress: told what is being done.

    Returns:
        The cache.

    Raises:
        ValueError: if the folder holds a cache of another teacher, other data or another k, or rows are not numbered.

    Source: see the module.

    >>> import tempfile
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> rows = [TokenRow([1, 2, 3], [-100, 2, 3], 0)]
    >>> write_teacher_cache(LlamaForCausalLM(LlamaConfig(**sizes)), rows, tempfile.mkdtemp(), k=3).k
    3
    """
    from safetensors.torch import save_file

    if [one.row for one in rows] != list(range(len(rows))):
        raise ValueError("rows must be numbered 0, 1, 2, ... by their attribute row; encode_texts does so")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    asked: dict[str, Any] = {"format": _FORMAT, "rows": len(rows), "shard_rows": shard_rows, "k": k}
    asked |= {"data": data_fingerprint(rows), "teacher": model_fingerprint(teacher)}
    manifest = folder / _MANIFEST
    if manifest.exists():
        found = _read_manifest(manifest)
        changed = next((name for name, value in asked.items() if found.get(name) != value), None)
        if changed is not None:
            raise ValueError(f"{folder} holds a cache whose {changed} differs; name another folder, or delete this one")
    else:
        _write_aside(manifest, lambda path: path.write_text(json.dumps(asked, indent=1), encoding="utf-8"))
    shards = range(-(-len(rows) // shard_rows))
    for number in shards:
        path = folder / f"{number:05d}.safetensors"
        if not path.exists():
            if progress is not None:
                progress(f"asking the teacher, part {number + 1} of {len(shards)}")
            part = _ask(teacher, rows[number * shard_rows : (number + 1) * shard_rows], k, batch_size)
            _write_aside(path, lambda name, part=part: save_file(part, name))  # type: ignore[misc]
    return TeacherCache(folder)


def _write_aside(path: Path, write: Callable[[Path], Any]) -> None:
    aside = path.with_name(path.name + ".new")
    write(aside)
    os.replace(aside, path)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] == _FORMAT and all(type(found[name]) is int for name in ("rows", "shard_rows", "k")):
            return dict(found)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no list of a teacher's cache ({error}); write the cache anew") from error
    raise ValueError(f"{path} was written in another form; write the cache anew")


@torch.no_grad()
def _ask(teacher: nn.Module, rows: Sequence[TokenRow], k: int, batch_size: int) -> dict[str, Tensor]:
    device = next(teacher.parameters()).device
    indices, log_probs, counts = [], [], [0]
    with evaluating(teacher):
        for start in range(0, len(rows), batch_size):
            batch = {name: value.to(device) for name, value in collate_tokens(rows[start : start + batch_size]).items()}
            logits, labels = forward(teacher, batch).logits, next_labels(batch["labels"])
            counts += (labels != IGNORED).sum(1).tolist()
            flat = logits.reshape(-1, logits.shape[-1])
            if k > flat.shape[1]:
                raise ValueError(f"k={k} is more than the {flat.shape[1]} tokens of the teacher's vocabulary")
            places = (labels.reshape(-1) != IGNORED).nonzero()[:, 0]
            for part in places.split(rows_of(flat.shape[1], flat.device, None)):
                z = flat[part].float()
                z = z - log_normalizer(z, "teacher_logits", part)[0][:, None]
                best, index = z.topk(k, dim=1)
                indices.append(index.int().cpu())
                log_probs.append(_with_rest(best, z, index).clamp_min(_LEAST).cpu())
    return {
        "indices": torch.cat(indices),
        "log_probs": torch.cat(log_probs),
        "offsets": torch.tensor(counts).cumsum(0),
    }


def _with_rest(best: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """(R, k + 1): values of k entries, and log Σ exp of the others; (R, k) where there are no others."""
    if index.shape[1] == rows.shape[1]:
        return best
    rest = rows.scatter(1, index, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([best, rest], dim=1)


class TeacherCache:
    """What a teacher said, read from the disk as it is needed; stands where a loss wants a teacher.

    Args:
        folder: of `write_teacher_cache`.

    Attributes:
        k: tokens kept.
        rows: of the data.

    Raises:
        ValueError: if the folder is no whole cache.

    Source: see the module.

    >>> TeacherCache("nowhere")
    Traceback (most recent call last):
    ValueError: nowhere holds no teacher's cache; write one with write_teacher_cache
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / _MANIFEST).exists():
            raise ValueError(f"{folder} holds no teacher's cache; write one with write_teacher_cache")
        found = _read_manifest(self.folder / _MANIFEST)
        self.rows: int = found["rows"]
        self.k: int = found["k"]
        self.shard_rows: int = found["shard_rows"]
        missing = [n for n in range(-(-self.rows // self.shard_rows)) if not self._shard(n).exists()]
        if missing:
            raise ValueError(f"{self._shard(missing[0])} is missing; run write_teacher_cache again, which goes on")
        self._open: dict[int, tuple[Any, Tensor]] = {}

    def _shard(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def read(self, row: int) -> tuple[Tensor, Tensor]:
        """Token ids (n, k) and log-probabilities (n, k + 1) of the n tokens learnt in a row; k where there is no rest.

        Raises:
            ValueError: if there is no such row.
        """
        from safetensors import safe_open

        if not 0 <= row < self.rows:
            raise ValueError(f"row={row} is none of the {self.rows} rows of {self.folder}")
        number, place = divmod(row, self.shard_rows)
        if number not in self._open:
            handle = safe_open(self._shard(number), framework="pt")
            self._open[number] = handle, handle.get_tensor("offsets")
        handle, offsets = self._open[number]
        part = slice(int(offsets[place]), int(offsets[place + 1]))
        return handle.get_slice("indices")[part].long(), handle.get_slice("log_probs")[part]

    def compare(self, logits: Tensor, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both models over the kept tokens and the rest, as logits that a loss can take.

        Args:
            logits: (B, T, V) of the student.
            rows: (B,) numbers of the rows.
            labels: (B, T) the next tokens, −100 where one is not learnt.

        Returns:
            The student's (B, T, k + 1), with gradient, the teacher's, and the labels among these entries.

        Raises:
            ValueError: if a row has not the tokens to learn that the cache was made for.
        """
        counts = (labels != IGNORED).sum(1).tolist()
        kept = [self.read(row) for row in rows.tolist()]
        for row, count, (index, _) in zip(rows.tolist(), counts, kept, strict=True):
            if count != len(index):
                raise ValueError(
                    f"row {row} has {count} tokens to learn, {self.folder} was made for {len(index)}; on-policy "
                    "prefixes and other cuts need the teacher itself"
                )
        index = torch.cat([each for each, _ in kept]).to(logits.device)
        theirs = torch.cat([each for _, each in kept]).to(logits.device)
        if len(index) and int(index.max()) >= logits.shape[-1]:
            raise ValueError(f"the teacher knows token {int(index.max())}, the student has {logits.shape[-1]} only")
        places = (labels.reshape(-1) != IGNORED).nonzero()[:, 0]
        mine = logits.reshape(-1, logits.shape[-1])[places]
        mine = mine if mine.dtype is torch.float64 else mine.float()
        mine = _with_rest(mine.gather(1, index), mine, index)
        hits = index == labels.reshape(-1)[places, None]
        among = torch.where(hits.any(1), hits.int().argmax(1), self.k)
        shape = (*labels.shape, mine.shape[1])
        own = mine.new_zeros(labels.numel(), mine.shape[1]).index_put((places,), mine).view(shape)
        other = theirs.new_zeros(labels.numel(), mine.shape[1]).index_put((places,), theirs).view(shape)
        return own, other, torch.full_like(labels, IGNORED).reshape(-1).index_put((places,), among).view(labels.shape)
