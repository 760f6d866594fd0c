"""The state of a training in a file that is written whole or not at all, and taken up by the same training only."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

# What the reader of pickles raises on bytes that are none.
_UNREADABLE = (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError)
_DAMAGED = (OSError, RuntimeError, *_UNREADABLE)


def write_checkpoint(path: str | Path, state: dict[str, Any], fingerprint: str) -> None:
    """Write tensors and plain values to a file, in place of what is there.

    Args:
        path: of the file.
        state: what `torch.load(weights_only=True)` reads.
        fingerprint: of the data and the settings, see `core.fingerprint`.

    Raises:
        ValueError: if its folder is not there.
    """
    path = Path(path)
    check_folder(path)
    stage = path.with_name(f".{path.name}.new")
    torch.save({"fingerprint": fingerprint, "state": state}, stage)
    os.replace(stage, path)


def read_checkpoint(path: str | Path, fingerprint: str) -> dict[str, Any] | None:
    """The state in a file; None where there is no file.

    Raises:
        ValueError: if the file is damaged, or of another training, or its folder is not there.
    """
    check_folder(path)
    if not Path(path).exists():
        return None
    try:
        found = torch.load(path, weights_only=True)
        of, state = found["fingerprint"], found["state"]
    except _DAMAGED as error:
        why = str(error).strip().partition("\n")[0] or "it is cut off"
        raise ValueError(f"{path} is no checkpoint of a training: {why}") from error
    if of != fingerprint:
        raise ValueError(f"checkpoint {path} is of other data or settings; remove it or name another")
    taken: dict[str, Any] = state
    return taken


def check_folder(path: str | Path) -> None:
    """Raise `ValueError` if the folder of a checkpoint is not there, before a training that could not be kept."""
    if not (folder := Path(path).parent).is_dir():
        raise ValueError(f"checkpoint {path} cannot be written, there is no folder {folder}; make it first")
