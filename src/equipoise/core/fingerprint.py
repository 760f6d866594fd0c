"""What a run depends on, as one number, so that a checkpoint is taken up by the very run that wrote it and no other."""

from __future__ import annotations

import functools
import hashlib
import inspect
import pickle
import types
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_BOOKKEEPING = vars(nn.Module()).keys() - {"_parameters", "_buffers", "_modules"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, np.dtype)


def fingerprint(*parts: Any) -> str:
    """A digest of tensors, modules, functions, dataclasses and plain values, all of what they hold included.

    Modules count with their class, weights and settings, functions with their code and what they enclose; neither
    hooks nor training mode count, nor does where a tensor lies.

    >>> fingerprint(nn.Dropout(0.1)) == fingerprint(nn.Dropout(0.1)), fingerprint(nn.Dropout(0.1)) == fingerprint(0.1)
    (True, False)
    """
    digest = hashlib.sha256()
    _add(digest, parts, ())
    return digest.hexdigest()


def _add(digest: Any, value: Any, inside: tuple[int, ...]) -> None:
    kind = type(value)
    digest.update(f"\n{len(inside)} {kind.__module__}.{kind.__qualname__} ".encode())
    if isinstance(value, _PLAIN):
        digest.update(repr(value).encode())
    elif isinstance(value, types.BuiltinFunctionType):
        digest.update(value.__qualname__.encode())
    elif isinstance(value, Tensor):
        held = value.detach().cpu().contiguous()
        digest.update(f"{held.dtype} {tuple(held.shape)} ".encode())
        digest.update(held.flatten().view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype} {value.shape} ".encode() + value.tobytes())
    elif id(value) in inside:
        digest.update(str(inside.index(id(value))).encode())
    else:
        for part in _parts(value):
            _add(digest, part, (*inside, id(value)))


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    if isinstance(value, Set):
        return sorted(value, key=repr)
    if isinstance(value, Sequence):
        return value
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, types.CodeType):
        return value.co_code, value.co_consts, value.co_names
    if isinstance(value, types.FunctionType):
        function = inspect.unwrap(value)
        return function.__code__, function.__defaults__, [cell.cell_contents for cell in function.__closure__ or ()]
    if isinstance(value, nn.Module):
        held = {name: part for name, part in vars(value).items() if name not in _BOOKKEEPING}
        return type(value).forward, held
    try:
        return (value.__reduce_ex__(2),)
    except (TypeError, pickle.PicklingError):
        return ()
