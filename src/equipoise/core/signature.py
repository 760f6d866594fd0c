"""A public signature is its contract: `checked` derives the readable error from the annotations, once for all.

    @checked
    def loss(scores: Scores, target: BinaryTarget, margin: Positive = 1.0) -> Scalar: ...

At every call, before the function runs:

    tensors    are tensors (lists and NumPy arrays are refused with the conversion to write), of the rank, the sizes and
               the kind of dtype that the annotation says; the same dimension name means the same size in all arguments;
               nothing is empty unless `MayBeEmpty`; floating values are finite, or only not NaN where `MayBeInfinite`;
               targets hold the values of their rule
    numbers    are finite and in range; a whole number is no 1.5 and no True; NumPy scalars are taken
    strings    are among the `Literal` choices

and what is right is made uniform: NumPy scalars become Python numbers, class indices int64, and tensors in half
precision float32, so that no sum overflows and a loss under autocast comes back in float32; gradients flow back in the
dtype that was given. Under `torch.compile` values cannot be looked at and the checks are left out.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union

import numpy as np
import torch
from jaxtyping import AbstractArray, Bool, Float, Inexact, Int, Integer, Num, Real, UInt
from torch import Tensor, nn

from equipoise.core.types import ClassIndex, MayBeEmpty, MayBeInfinite, Range, Values

F = TypeVar("F", bound=Callable[..., Any])
Sizes = dict[str, tuple[int, str]]
"""Name of a dimension → its size, and the argument that said so."""
Check = Callable[[str, Any, Sizes], Any]
"""(name, value, sizes) → the value to go on with; raises `ValueError`."""

_HALF = (torch.float16, torch.bfloat16)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def checked(function: F) -> F:
    """Check and make uniform the arguments of a function or method by its annotations, see the module.

    Raises (when called):
        ValueError: naming the argument, what was given, what is wanted, and where it is plain how to mend it.

    >>> from equipoise.core.types import Positive
    >>> @checked
    ... def double(x: Float[Tensor, " n"], by: Positive = 2.0) -> Float[Tensor, " n"]:
    ...     return x * by
    >>> double(torch.ones(2), by=np.float32(3))
    tensor([3., 3.])
    >>> double([1.0, 2.0])
    Traceback (most recent call last):
    ValueError: x must be a torch.Tensor, got list; convert it with torch.as_tensor(x)
    """
    checks: list[tuple[str, int | None, Check]] = []
    ready = False

    def prepare() -> None:
        nonlocal ready
        hints = typing.get_type_hints(function, include_extras=True)
        for place, parameter in enumerate(inspect.signature(function).parameters.values()):
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name not in hints:
                continue
            check = check_of(hints[parameter.name])
            if check is not _pass:
                checks.append((parameter.name, None if parameter.kind is parameter.KEYWORD_ONLY else place, check))
        ready = True

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if not ready:
            prepare()
        sizes: Sizes = {}
        given = list(args)
        for name, place, check in checks:  # in the order of the signature: scores say how many classes a target has
            if place is not None and place < len(given):
                given[place] = check(name, given[place], sizes)
            elif name in kwargs:
                kwargs[name] = check(name, kwargs[name], sizes)
        return function(*given, **kwargs)

    return typing.cast(F, wrapper)


def check_of(hint: Any) -> Check:
    """The check that an annotation asks for; of an annotation that says nothing checkable, one that passes all."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        inner, *rules = typing.get_args(hint)
        return _ruled(inner, rules)
    if origin is Literal:
        return _choice(typing.get_args(hint))
    if origin in (Union, types.UnionType):
        return _union(typing.get_args(hint), ())
    return _ruled(hint, ())


def _ruled(hint: Any, rules: Sequence[Any]) -> Check:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union(typing.get_args(hint), rules)
    if _is_array(hint):
        return _tensor([hint], rules)
    if hint in (int, float):
        return _number(hint, rules)
    if hint is bool:
        return _flag
    if hint is str:
        return _text
    if origin in (Sequence, list, tuple, typing.get_origin(Sequence[int])):
        items = [item for item in typing.get_args(hint) if item is not Ellipsis]
        if origin is not tuple or Ellipsis in typing.get_args(hint):
            return _sequence(items[0], rules) if items else _pass
    if callable(hint) and inspect.isclass(hint) and hint in (nn.Module, torch.Generator, Tensor):
        return _instance(hint)
    return _pass


def _union(options: Sequence[Any], rules: Sequence[Any]) -> Check:
    """The tensors of a union are checked together; of other options the first that a value's kind fits."""
    flat: list[Any] = []
    for option in options:
        flat.extend(typing.get_args(option) if typing.get_origin(option) in (Union, types.UnionType) else [option])
    none = type(None) in flat
    flat = [option for option in flat if option is not type(None)]
    arrays = [option for option in flat if _is_array(option)]
    others = [option for option in flat if not _is_array(option)]
    of_array = _tensor(arrays, rules) if arrays else None
    of_others = [(option, check_of(Annotated[(option, *rules)] if rules else option)) for option in others]

    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if value is None and none:
            return None
        if of_array is not None and (isinstance(value, Tensor) or not of_others):
            return of_array(name, value, sizes)
        if len(of_others) == 1:
            return of_others[0][1](name, value, sizes)
        errors = []
        for _, each in of_others:
            try:
                return each(name, value, sizes)
            except ValueError as error:
                errors.append(str(error))
        raise ValueError("; or ".join(errors))

    return check


def _is_array(hint: Any) -> bool:
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
        if typing.get_origin(hint) in (Union, types.UnionType):
            return all(_is_array(option) for option in typing.get_args(hint))
    return inspect.isclass(hint) and issubclass(hint, AbstractArray)


def _pass(name: str, value: Any, sizes: Sizes) -> Any:
    return value


def _flag(name: str, value: Any, sizes: Sizes) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={value!r} must be True or False")
    return bool(value)


def _text(name: str, value: Any, sizes: Sizes) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{name}={value!r} must be a string, got {type(value).__name__}")
    return value


def _instance(kind: type) -> Check:
    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"{name} must be a {kind.__module__}.{kind.__name__}, got {_kind(value)}")
        return value

    return check


def _choice(choices: Sequence[Any]) -> Check:
    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
            raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, choices))}")
        return value

    return check


def _number(kind: type, rules: Sequence[Any]) -> Check:
    ranges = [rule for rule in rules if isinstance(rule, Range)]
    infinite = any(isinstance(rule, MayBeInfinite) for rule in rules)

    def check(name: str, value: Any, sizes: Sizes) -> Any:
        value = as_whole(name, value) if kind is int else _as_real(name, value)
        if not math.isfinite(value) and (math.isnan(value) or not infinite):
            raise ValueError(f"{name}={value!r} must be a finite number")
        for allowed in ranges:
            if value not in allowed:
                percent = allowed.high == 1 and 1 < value <= 100
                hint = f"; did you mean {value / 100:g}?" if percent else ""
                what = "whole number " if kind is int else "number "
                text = f"lie {allowed}" if str(allowed).startswith("in") else f"be a {what}{allowed}"
                raise ValueError(f"{name}={value!r} must {text}{hint}")
        return value

    return check


def as_whole(name: str, value: Any) -> int:
    """A whole number from a Python or NumPy integer; `ValueError` for a fraction, a truth value or anything else."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and value.dtype not in _INTEGERS):
        raise ValueError(f"{name}={value!r} must be a whole number")
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be a whole number") from None


def _as_real(name: str, value: Any) -> float | int:
    if isinstance(value, Tensor) and value.ndim == 0 and value.dtype is not torch.bool:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.number):
        raise ValueError(f"{name}={value!r} must be a number, got {_kind(value)}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _sequence(item: Any, rules: Sequence[Any]) -> Check:
    each = check_of(Annotated[(item, *rules)] if rules else item)

    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray | Tensor | range):
            raise ValueError(f"{name} must be a list or tuple, got {_kind(value)}")
        if isinstance(value, np.ndarray | Tensor):
            value = value.tolist() if value.ndim == 1 else list(value)
        if each is _pass:
            return value
        return tuple(each(f"{name}[{place}]", one, {}) for place, one in enumerate(value))

    return check


_FAMILIES: dict[Any, tuple[str, str]] = {
    Float: ("floating point", ".float()"),
    Inexact: ("floating point", ".float()"),
    Integer: ("integers", ".long()"),
    Int: ("integers", ".long()"),
    UInt: ("integers", ".long()"),
    Bool: ("booleans", ".bool()"),
}


def _fits(dtype: torch.dtype, family: Any) -> bool:
    if family in (Float, Inexact):
        return dtype.is_floating_point
    if family in (Integer, Int, UInt):
        return dtype in _INTEGERS
    if family is Bool:
        return dtype is torch.bool
    if family in (Num, Real):
        return dtype is not torch.bool and not dtype.is_complex
    return True


def _tensor(options: Sequence[Any], rules: Sequence[Any]) -> Check:
    """One check for the alternatives of a tensor: dtypes first, then the shapes of those whose dtype fits."""
    forms: list[tuple[Any, list[str], list[Any]]] = []
    for option in options:
        own = list(rules)
        if typing.get_origin(option) is Annotated:
            option, *more = typing.get_args(option)
            own += more
        for array in typing.get_args(option) if typing.get_origin(option) in (Union, types.UnionType) else (option,):
            forms.append((array.dtype, array.dim_str.split(), own))
    families = list(dict.fromkeys(family for family, _, _ in forms))

    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if not isinstance(value, Tensor):
            hint = f"; convert it with torch.as_tensor({name})" if isinstance(value, list | tuple | np.ndarray) else ""
            raise ValueError(f"{name} must be a torch.Tensor, got {_kind(value)}{hint}")
        fitting = [form for form in forms if _fits(value.dtype, form[0])]
        if not fitting:
            kinds = list(dict.fromkeys(_FAMILIES.get(family, ("numbers", ""))[0] for family in families))
            convert = _FAMILIES.get(families[0], ("", ".float()"))[1]
            raise ValueError(
                f"{name} must {'hold' if 'floating' not in kinds[0] else 'be'} {' or '.join(kinds)}, "
                f"got {value.dtype}; convert it with {name}{convert}"
            )
        problems = []
        for _, dims, own in fitting:
            problem = _misfit(value, dims, sizes)
            if problem is None:
                _bind(name, value, dims, sizes)
                return _valued(name, value, own, sizes)
            problems.append(problem)
        squeeze = value.ndim == 2 and value.shape[1] == 1 and any(len(dims) == 1 for _, dims, _ in fitting)
        raise ValueError(
            f"{name} must have shape {' or '.join(dict.fromkeys(problems))}, got {tuple(value.shape)}"
            + ("; squeeze its last dimension" if squeeze else "")
        )

    return check


def _misfit(value: Tensor, dims: list[str], sizes: Sizes) -> str | None:
    """What shape was wanted, where the tensor has another."""
    variadic = next((k for k, dim in enumerate(dims) if dim == "..." or dim.startswith("*")), None)
    shape = list(value.shape)
    if variadic is not None:
        fixed = len(dims) - 1
        if len(shape) >= fixed:
            tail = len(dims) - variadic - 1
            dims_of, sizes_of = dims[:variadic] + dims[variadic + 1 :], shape[:variadic] + shape[len(shape) - tail :]
            if _fit(dims_of, sizes_of, sizes):
                return None
    elif len(shape) == len(dims) and _fit(dims, shape, sizes):
        return None
    names = [dim.lstrip("#_") or "any" for dim in dims]
    shown = f"({names[0]},)" if len(names) == 1 else f"({', '.join(names)})"
    known = [f"{dim} = {sizes[dim][0]} as in {sizes[dim][1]}" for dim in names if dim in sizes]
    return shown + (f" with {', '.join(known)}" if known else "")


def _fit(dims: Sequence[str], shape: Sequence[int], sizes: Sizes) -> bool:
    """Whether every dimension has the size of its name, in other arguments and within this one."""
    own: dict[str, int] = {}
    for dim, size in zip(dims, shape, strict=True):
        if dim.isdigit():
            if size != int(dim):
                return False
        elif dim.isidentifier() and not dim.startswith("_"):
            wanted = sizes[dim][0] if dim in sizes else own.setdefault(dim, size)
            if size != wanted:
                return False
    return True


def _bind(name: str, value: Tensor, dims: list[str], sizes: Sizes) -> None:
    if len(dims) == value.ndim:
        for dim, size in zip(dims, value.shape, strict=True):
            if dim.isidentifier() and not dim.startswith("_"):
                sizes.setdefault(dim, (size, name))


def _valued(name: str, value: Tensor, rules: Sequence[Any], sizes: Sizes) -> Tensor:
    if value.numel() == 0 and value.ndim and not any(isinstance(rule, MayBeEmpty) for rule in rules):
        raise ValueError(f"{name} is empty, its shape is {tuple(value.shape)}; at least one sample is needed")
    if value.is_floating_point():
        infinite = any(isinstance(rule, MayBeInfinite) for rule in rules)
        check_finite(name, value, infinite=infinite)
        if value.dtype in _HALF:
            value = value.float()
    for rule in rules:
        if isinstance(rule, Values):
            _check_values(name, value, rule)
        elif isinstance(rule, ClassIndex):
            value = _class_indices(name, value, rule, sizes)
        elif isinstance(rule, Range) and value.numel():
            low, high = (float(v) for v in value.detach().aminmax())
            for found in (low, high):
                if found not in rule:
                    text = f"lie {rule}" if str(rule).startswith("in") else f"be {rule}"
                    raise ValueError(f"{name} must {text}, got {found:g}")
    return value


def check_finite(name: str, value: Tensor, *, infinite: bool = False) -> None:
    """Raise `ValueError` if a floating tensor holds NaN, or infinity unless `infinite`; says where and what to do."""
    # NaN and infinity survive a sum, so one cheap pass clears the usual case; an overflowing sum is looked at again.
    if value.numel() == 0 or math.isfinite(float(value.detach().sum())):
        return
    bad = value.detach().isnan() if infinite else ~torch.isfinite(value.detach())
    count = int(bad.sum())
    if count:
        where = tuple(int(k) for k in bad.nonzero()[0]) if bad.ndim else ()
        place = f", the first at index {where[0] if len(where) == 1 else where}" if where else ""
        kind = "NaN" if infinite else f"NaN or infinite value{'s' if count > 1 else ''}"
        raise ValueError(
            f"{name} holds {count} {kind}{place}; drop or impute them, or look for an overflow in the model"
        )


def _check_values(name: str, value: Tensor, rule: Values) -> None:
    if value.dtype is torch.bool or value.numel() == 0:
        return
    allowed = torch.zeros_like(value, dtype=torch.bool)
    for number, _ in rule.meaning:
        allowed |= value == number
    if not bool(allowed.all()):
        raise ValueError(f"{name} holds the value {value[~allowed][0].item()}, wanted {rule}")


def _class_indices(name: str, value: Tensor, rule: ClassIndex, sizes: Sizes) -> Tensor:
    value = value.long()
    classes = sizes[rule.dim][0] if rule.dim in sizes else None
    if value.numel():
        low, high = (int(v) for v in value.aminmax())
        if low < rule.low or (classes is not None and high >= classes):
            wrong = low if low < rule.low else high
            most = "" if classes is None else f" to {classes - 1} ({sizes[str(rule.dim)][1]} has {classes} classes)"
            none = ", −1 marking samples of no class," if rule.low < 0 else ""
            raise ValueError(f"{name} holds the value {wrong}, wanted class indices{none} from {rule.low}{most}")
    return value


def _kind(value: Any) -> str:
    return type(value).__name__
