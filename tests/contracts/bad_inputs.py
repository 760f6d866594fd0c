"""Bad arguments, made from a signature and a good call: what every public callable must refuse with a sentence."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from equipoise.core.types import ClassIndex, MayBeEmpty, MayBeInfinite, Values

Bad = tuple[str, str, Any]
"""(argument, what is wrong with it, the bad value)."""


def accepted(function: Callable[..., Any], good: Mapping[str, Any], call: Callable[[dict[str, Any]], Any]) -> list[str]:
    """What is wrong with how `call` refuses each bad argument of `function`; nothing if all are refused by name."""
    wrong = []
    for name, what, value in bad_arguments(function, good):
        try:
            call({name: value})
        except ValueError as error:
            if name not in str(error):
                wrong.append(f"{name} ({what}): the error does not name it: {error}"[:300])
        except Exception as error:
            wrong.append(f"{name} ({what}): {type(error).__name__}: {error}"[:300])
        else:
            wrong.append(f"{name} ({what}): accepted")
    return wrong


def bad_arguments(function: Callable[..., Any], good: Mapping[str, Any]) -> Iterator[Bad]:
    """Bad values of every argument of a good call, and of every number with a default."""
    if inspect.isclass(function):
        function = function.__init__
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        value = good.get(name, parameter.default)
        if isinstance(value, Tensor):
            yield from _bad_tensors(name, value, hints.get(name))
        elif isinstance(value, bool):
            yield name, "no truth value", 2
        elif isinstance(value, int | float):
            yield from _bad_numbers(name, value, _rules(hints.get(name)), _optional(hints.get(name)))
        elif isinstance(value, str) and _choices(hints.get(name)):
            yield name, "unknown choice", "no such choice"


def _bad_tensors(name: str, value: Tensor, hint: Any) -> Iterator[Bad]:
    rules, options = _rules(hint), _options(hint)
    variadic = any(sign in getattr(option, "dim_str", "") for option in options for sign in ("*", "..."))
    yield name, "a list", value.tolist()
    if not any(typing.get_origin(option) is np.ndarray for option in options):
        yield name, "a NumPy array", value.detach().numpy()
    if not _optional(hint):
        yield name, "None", None
    if not variadic:
        yield name, "one dimension too many", value[..., None]
    if value.ndim:
        yield name, "one dimension too few", value[0]
        if not any(isinstance(rule, MayBeEmpty) for rule in rules):
            yield name, "empty", value[:0]
    if value.is_floating_point():
        yield name, "whole numbers", value.long()
        if value.numel():
            bad = value.clone()
            bad.reshape(-1)[-1] = math.nan
            yield name, "NaN", bad
            if not any(isinstance(rule, MayBeInfinite) for rule in rules):
                bad = value.clone()
                bad.reshape(-1)[-1] = math.inf
                yield name, "infinite", bad
    elif value.dtype is torch.int64:
        yield name, "fractions", value + 0.5
        if any(isinstance(rule, Values | ClassIndex) for rule in rules):
            yield name, "a value out of range", value - 7


def _bad_numbers(name: str, value: float, rules: list[Any], optional: bool) -> Iterator[Bad]:
    yield name, "NaN", math.nan
    if not any(isinstance(rule, MayBeInfinite) for rule in rules):
        yield name, "infinite", math.inf
    yield name, "a string", "much"
    if not optional:
        yield name, "None", None
    if isinstance(value, int):
        yield name, "no whole number", 1.5
    for rule in rules:
        if hasattr(rule, "low") and math.isfinite(rule.low):
            yield name, "too low", rule.low - 1
        if hasattr(rule, "high") and math.isfinite(rule.high):
            yield name, "too high", rule.high + 1


def _rules(hint: Any) -> list[Any]:
    """The rules of an annotation, also of the one beside None."""
    if typing.get_origin(hint) is Annotated:
        inner, *rules = typing.get_args(hint)
        return [*rules, *_rules(inner)]
    return [rule for option in typing.get_args(hint) if option is not type(None) for rule in _rules(option)]


def _options(hint: Any) -> list[Any]:
    """The types of nested unions, without their rules."""
    if typing.get_origin(hint) is Annotated:
        return _options(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [option for each in typing.get_args(hint) for option in _options(each)]
    return [hint]


def _optional(hint: Any) -> bool:
    return any(option in (None, Any, type(None)) for option in _options(hint))


def _choices(hint: Any) -> bool:
    return any(typing.get_origin(option) is typing.Literal for option in _options(hint))
