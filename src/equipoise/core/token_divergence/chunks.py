"""Logits worked through a few rows at a time, in single precision or better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

InfPolicy: TypeAlias = Literal["error", "mask"]
"""What an entry means that is −∞ for one of the two models only: an error, or an entry to leave out."""

_CPU_BYTES, _DEVICE_BYTES = 5 << 18, 32 << 20
_ABSENT = -80.0


class Chunk(NamedTuple):
    """Some rows of both models, ready for a divergence.

    Attributes:
        log_p: (rows, V) of the teacher.
        log_q: (rows, V) of the student.
        delta: (rows, V) log p − log q.
        left_out: (rows, V) entries that do not count; None where all do.
    """

    log_p: Tensor
    log_q: Tensor
    delta: Tensor
    left_out: Tensor | None


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if one of the tensors is, else float32."""
    return torch.float64 if any(each.dtype is torch.float64 for each in tensors) else torch.float32


def rows_of(vocabulary: int, device: torch.device, chunk_rows: int | None) -> int:
    """How many rows to take at a time: what stays in a CPU's cache, or keeps a device busy, unless it is given."""
    size = _CPU_BYTES if device.type == "cpu" else _DEVICE_BYTES
    return chunk_rows or max(1, size // (4 * max(1, vocabulary)))


def parts(index: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of a list of row numbers, with the row numbers in them."""
    for start in range(0, len(index), rows):
        place = slice(start, start + rows)
        yield place, index[place]


def log_normalizer(logits: Tensor, name: str, place: Tensor) -> tuple[Tensor, bool]:
    """log Σ exp of rows, and whether some entry is −∞.

    Raises:
        ValueError: if a row holds NaN or +∞, or nothing but −∞; it names the first such row of the batch.
    """
    least, most = logits.aminmax(dim=1)
    bad = ~torch.isfinite(most)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        what = "NaN" if bool(most[row].isnan()) else "+inf" if most[row] > 0 else "no finite value"
        raise ValueError(f"{name} hold {what} at token {int(place[row])}; look for an overflow in the model")
    total = torch.exp(logits - most[:, None]).sum(1)
    return most + total.log_(), bool(torch.isneginf(least).any())


def chunk_of(
    student: Tensor, teacher: Tensor, student_norm: Tensor, teacher_norm: Tensor, infinite: bool, policy: InfPolicy
) -> Chunk:
    """The logarithms of both models from their scaled logits (rows, V), or any columns of them.

    Entries of probability 0 under both models, and under one where the policy is "mask", are left out: they are given
    the same small probability under both, at which every divergence is 0.

    Raises:
        ValueError: if an entry is −∞ for one model only and the policy is "error".
    """
    left_out = None
    if infinite:
        without = torch.isneginf(student), torch.isneginf(teacher)
        left_out = without[0] | without[1]
        if policy == "error" and bool((without[0] ^ without[1]).any()):
            one = "student" if bool((without[0] & ~without[1]).any()) else "teacher"
            raise ValueError(
                f"some {one}_logits are -inf where those of the other model are not, so that the divergence may be "
                "infinite; mask both models alike, or leave such entries out with inf_policy='mask'"
            )
    delta = (teacher - student).sub_((teacher_norm - student_norm)[:, None])
    chunk = Chunk(teacher - teacher_norm[:, None], student - student_norm[:, None], delta, left_out)
    if left_out is not None:
        chunk.log_p.masked_fill_(left_out, _ABSENT)
        chunk.log_q.masked_fill_(left_out, _ABSENT)
        delta.masked_fill_(left_out, 0.0)
    return chunk
