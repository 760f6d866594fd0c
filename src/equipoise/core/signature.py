"""A public signature is its contract: `checked` derives the readable error from the annotations, once for all.

    @checked
    def loss(scores: Scores, target: BinaryTarget, margin: Positive = 1.0) -> Scalar: ...

At every call, before the function runs:

    tensors    are tensors (lists and NumPy arrays are refused with the conversion to write), of the rank, the sizes and
               the kind of dtype that the annotation says; the same dimension name means the same size in all arguments;
               nothing is empty unless `MayBeEmpty`; floating values are finite, or only not NaN where `MayBeInfinite`,
               or not looked at where `MayBeNaN` or `InParts`; targets hold the values of their rule
    numbers    are finite and in range; a whole number is no 1.5 and no True; NumPy scalars are taken
    strings    are among the `Literal` choices
    the rest   is of the class that the annotation names

and what is right is made uniform: NumPy scalars become Python numbers, class indices int64, sequences tuples, and
tensors in half precision (but `InParts`) float32, so that no sum overflows and a loss under autocast comes back in
float32; gradients flow back in the dtype that was given.

Values are looked at once: a function that passes its tensor on to another checked function does not pay twice. Under
`torch.compile` they cannot be looked at; all else is checked while the graph is traced.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
import threading
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar, Union

import numpy as np
import torch
from jaxtyping import AbstractArray, Int, Integer, UInt
from torch import Tensor

from equipoise.core.types import ClassIndex, InParts, MayBeEmpty, MayBeInfinite, MayBeNaN, Range, Values

F = TypeVar("F", bound=Callable[..., Any])
Sizes = dict[str, tuple[Any, str]]
"""Name of a dimension → its size, and the argument that said so; of a variadic one, all its sizes."""
Check = Callable[[str, Any, Sizes], Any]
"""(name, value, sizes) → the value to go on with; raises `ValueError`."""

_DTYPES = frozenset(each for each in vars(torch).values() if isinstance(each, torch.dtype))
_INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
_HALF = frozenset({torch.float16, torch.bfloat16})
_FINITE, _NO_NAN = "finite", "not NaN"


class _Looked(threading.local):
    """Tensors that the checked calls in progress have looked at, with their version and what was found true."""

    def __init__(self) -> None:
        self.at: list[tuple[Tensor, int, frozenset[Any]]] = []


_looked = _Looked()


def checked(function: F) -> F:
    """Check and make uniform the arguments of a function, a method or a dataclass by its annotations, see the module.

    Raises (when called):
        ValueError: naming the argument, what was given, what is wanted, and where it is plain how to mend it.

    >>> from jaxtyping import Float
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
    if inspect.isclass(function):
        function.__init__ = checked(function.__init__)  # type: ignore[method-assign]
        return function
    checks: list[tuple[str, int | None, Check]] | None = None

    def prepare() -> list[tuple[str, int | None, Check]]:
        hints = typing.get_type_hints(function, include_extras=True)
        first: list[tuple[str, int | None, Check]] = []
        last: list[tuple[str, int | None, Check]] = []
        for place, parameter in enumerate(inspect.signature(function).parameters.values()):
            hint = hints.get(parameter.name, Any)
            check = _check_of(hint)
            if check is _pass or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            # Scores say how many classes there are, wherever they stand.
            classes = any(isinstance(rule, ClassIndex) for _, rules in _flat(hint, ()) for rule in rules)
            keyword = parameter.kind is parameter.KEYWORD_ONLY
            (last if classes else first).append((parameter.name, None if keyword else place, check))
        return first + last

    with suppress(NameError):  # an annotation may name what is defined further down, and is there at the first call
        checks = prepare()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal checks
        compiling = torch.compiler.is_compiling()
        if checks is None:
            checks = prepare()
        outer = 0 if compiling else len(_looked.at)
        try:
            given = list(args)
            sizes: Sizes = {}
            for name, place, check in checks:
                if place is not None and place < len(given):
                    given[place] = check(name, given[place], sizes)
                elif name in kwargs:
                    kwargs[name] = check(name, kwargs[name], sizes)
            return function(*given, **kwargs)
        finally:
            if not compiling:
                del _looked.at[outer:]

    return typing.cast(F, wrapper)


def _check_of(hint: Any, rules: Sequence[Any] = ()) -> Check:
    """The check that an annotation asks for; of an annotation that says nothing checkable, one that passes all."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _check_of(arguments[0], [*arguments[1:], *rules])
    if origin in (Union, types.UnionType):
        return _union(hint, rules)
    if origin is Literal:
        return _choice(arguments)
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if hint in (int, float):
        return _number(hint, rules)
    if origin in (Sequence, list) or (origin is tuple and arguments[-1:] == (Ellipsis,)):
        return _sequence(_check_of(arguments[0], rules))
    kind = hint if origin is None else origin
    if not inspect.isclass(kind) or kind is object or getattr(kind, "_is_protocol", False):
        return _pass
    return _tensor([(hint, rules)]) if issubclass(kind, AbstractArray) else _instance(kind)


def _flat(hint: Any, rules: Sequence[Any]) -> list[tuple[Any, Sequence[Any]]]:
    """The options of nested unions, each with its rules."""
    if typing.get_origin(hint) is Annotated:
        inner, *more = typing.get_args(hint)
        return _flat(inner, [*more, *rules])
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [option for each in typing.get_args(hint) for option in _flat(each, rules)]
    return [(hint, rules)]


def _union(hint: Any, rules: Sequence[Any]) -> Check:
    """The tensors of a union are checked together; of other options the first that a value fits."""
    options = _flat(hint, rules)
    none = any(option is type(None) for option, _ in options)
    arrays = [each for each in options if inspect.isclass(each[0]) and issubclass(each[0], AbstractArray)]
    others = [_check_of(*each) for each in options if each not in arrays and each[0] is not type(None)]
    of_array = _tensor(arrays) if arrays else None
    checks = [*([of_array] if of_array else []), *others]

    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if value is None and none:
            return None
        if of_array is not None and (isinstance(value, Tensor) or not others):
            return of_array(name, value, sizes)
        errors = []
        for each in checks:
            try:
                return each(name, value, sizes)
            except ValueError as error:
                errors.append(str(error))
        raise ValueError("; or ".join(errors))

    return check


def _pass(name: str, value: Any, sizes: Sizes) -> Any:
    return value


def _flag(name: str, value: Any, sizes: Sizes) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={value!r} must be True or False")
    return bool(value)


def _text(name: str, value: Any, sizes: Sizes) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}={value!r} must be a string, got {type(value).__name__}")
    return str(value)


_SIMPLE: dict[Any, Check] = {bool: _flag, str: _text, Any: _pass}


def _instance(kind: type) -> Check:
    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"{name} must be a {kind.__qualname__}, got {type(value).__name__}")
        return value

    return check


def _choice(choices: Sequence[Any]) -> Check:
    def check(name: str, value: Any, sizes: Sizes) -> Any:
        plain = value.item() if isinstance(value, np.generic) else value
        for choice in choices:
            if type(plain) is type(choice) and plain == choice:
                return choice
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, choices))}")

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
                hint = f"; did you mean {value / 100:g}?" if allowed.high == 1 and 1 < value <= 100 else ""
                raise ValueError(f"{name}={value!r} must {allowed.words(kind)}{hint}")
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
    if type(value) is float:
        return value
    if isinstance(value, Tensor) and value.ndim == 0 and value.dtype is not torch.bool:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.number):
        raise ValueError(f"{name}={value!r} must be a number, got {type(value).__name__}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _sequence(each: Check) -> Check:
    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray | Tensor):
            raise ValueError(f"{name} must be a list or tuple, got {type(value).__name__}")
        if isinstance(value, np.ndarray | Tensor):
            value = value.tolist() if value.ndim == 1 else list(value)
        return tuple(each(f"{name}[{place}]", one, {}) for place, one in enumerate(value))

    return check


class _Form:
    """One alternative of a tensor argument: its dtypes, its dimensions and its rules."""

    def __init__(self, array: Any, rules: Sequence[Any]) -> None:
        known = array.dtypes if isinstance(array.dtypes, list | tuple) else [str(each)[6:] for each in _DTYPES]
        integers = array.dtype in (Int, Integer, UInt)
        self.dtypes = _INTEGERS if integers else frozenset(each for each in _DTYPES if str(each)[6:] in known)
        self.dims: list[str] = array.dim_str.split()
        self.variadic = next((k for k, dim in enumerate(self.dims) if dim == "..." or dim.startswith("*")), None)
        self.empty = any(isinstance(rule, MayBeEmpty) for rule in rules)
        self.classes = next((rule for rule in rules if isinstance(rule, ClassIndex)), None)
        self.finite = _NO_NAN if any(isinstance(rule, MayBeInfinite) for rule in rules) else _FINITE
        self.in_parts = any(isinstance(rule, InParts) for rule in rules)
        unseen = self.in_parts or any(isinstance(rule, MayBeNaN) for rule in rules)
        self.floats: frozenset[Any] = frozenset() if unseen else frozenset({self.finite, _NO_NAN})
        self.rules = frozenset(rule for rule in rules if isinstance(rule, Range | Values))

    def words(self) -> tuple[str, str]:
        """What is wanted, and the conversion to it."""
        if all(each.is_floating_point for each in self.dtypes):
            return "be floating point", ".float()"
        if self.dtypes <= _INTEGERS:
            return "hold integers", ".long()"
        return ("hold booleans", ".bool()") if self.dtypes == {torch.bool} else ("hold numbers", ".float()")

    def fit(self, name: str, value: Tensor, sizes: Sizes) -> bool:
        """Whether every dimension has the size of its name, in other arguments and within this one; noted if so."""
        shape: Sequence[Any] = value.shape
        dims, k = self.dims, self.variadic
        if k is not None:
            held = len(shape) - len(dims) + 1
            if held < 0:
                return False
            shape = [*shape[:k], tuple(shape[k : k + held]), *shape[k + held :]]
        if len(shape) != len(dims):
            return False
        found: Sizes = {}
        for dim, size in zip(dims, shape, strict=True):
            if dim.isdigit():
                if size != int(dim):
                    return False
            elif dim.isidentifier() or dim.startswith("*"):
                wanted = sizes.get(dim) or found.setdefault(dim, (size, name))
                if not dim.startswith("_") and size != wanted[0]:
                    return False
        sizes.update(found)
        return True

    def shape(self, sizes: Sizes) -> str:
        """The shape that is wanted, in words."""
        names = [dim.lstrip("#_") or "any" for dim in self.dims]
        known = [f"{dim} = {sizes[dim][0]} as in {sizes[dim][1]}" for dim in dict.fromkeys(names) if dim in sizes]
        text = f"({names[0]},)" if len(names) == 1 and self.variadic is None else f"({', '.join(names)})"
        return text + (f" with {', '.join(known)}" if known else "")


def _tensor(options: Sequence[tuple[Any, Sequence[Any]]]) -> Check:
    """One check for the alternatives of a tensor: dtypes first, then the shapes of those whose dtype fits."""
    forms = [_Form(array, rules) for array, rules in options]

    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if not isinstance(value, Tensor):
            # Torch shares no memory that is read backwards.
            copied = ".copy()" if isinstance(value, np.ndarray) and min(value.strides, default=0) < 0 else ""
            known = isinstance(value, list | tuple | np.ndarray)
            hint = f"; convert it with torch.as_tensor({name}{copied})" if known else ""
            raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}{hint}")
        dtype = value.dtype
        for form in forms:
            if dtype in form.dtypes and form.fit(name, value, sizes):
                return _uniform(name, value, form, sizes)
        fitting = [form for form in forms if dtype in form.dtypes]
        shaped = [form for form in forms if form.fit(name, value, dict(sizes))]
        if not fitting or (shaped and not any(form in fitting for form in shaped)):
            wanted = " or ".join(dict.fromkeys(form.words()[0] for form in shaped or forms)).replace("or hold ", "or ")
            convert = (shaped or forms)[0].words()[1]
            raise ValueError(f"{name} must {wanted}, got {dtype}; convert it with {name}{convert}")
        shapes = " or ".join(dict.fromkeys(form.shape(sizes) for form in fitting))
        squeeze = value.ndim == 2 and value.shape[1] == 1 and any(len(form.dims) == 1 for form in fitting)
        raise ValueError(
            f"{name} must have shape {shapes}, got {tuple(value.shape)}"
            + ("; squeeze its last dimension" if squeeze else "")
        )

    return check


def _uniform(name: str, value: Tensor, form: _Form, sizes: Sizes) -> Tensor:
    """The tensor in the dtype to compute in, its values looked at."""
    if not form.empty and value.ndim and 0 in value.shape:
        raise ValueError(f"{name} is empty, its shape is {tuple(value.shape)}; at least one sample is needed")
    if value.dtype in _HALF and not form.in_parts:
        value = value.float()
    facts: frozenset[Any] = form.rules
    if form.classes is not None:
        value, known = value.long(), sizes.get(str(form.classes.dim))
        if known is not None and known[0] < 2:
            raise ValueError(f"{known[1]} must have at least 2 classes, got shape (n, {known[0]})")
        facts |= {(form.classes, known)}
    if value.dtype.is_floating_point:
        facts |= form.floats
    if not facts or torch.compiler.is_compiling() or value.dtype is torch.bool or not value.numel():
        return value
    version = -1 if value.is_inference() else value._version
    if not any(each is value and then == version and facts <= true for each, then, true in _looked.at):
        _look(name, value.detach(), form, facts, sizes)
        if version >= 0:
            _looked.at.append((value, version, facts))
    return value


def _look(name: str, value: Tensor, form: _Form, facts: frozenset[Any], sizes: Sizes) -> None:
    """Look at the values; NaN and infinity show in the extremes, so that one pass does where they are wanted."""
    if value.dtype.is_floating_point and not form.rules:
        check_finite(name, value, infinite=form.finite is _NO_NAN)
        return
    least: Any
    most: Any
    least, most = (each.item() for each in value.aminmax())
    if not (math.isfinite(least) and math.isfinite(most)):
        check_finite(name, value, infinite=form.finite is _NO_NAN)
    if form.classes is not None:
        _check_classes(name, least, most, form.classes, sizes.get(str(form.classes.dim)))
    for rule in form.rules:
        if isinstance(rule, Range):
            for found in (least, most):
                if found not in rule:
                    raise ValueError(f"{name} must {rule.words()}, got {found:g}")
        elif value.dtype.is_floating_point or not all(k in rule for k in range(least, most + 1)):
            allowed = functools.reduce(operator.or_, (value == number for number, _ in rule.meaning))
            if not bool(allowed.all()):
                raise ValueError(f"{name} holds the value {value[~allowed][0].item()}, wanted {rule}")


def check_finite(name: str, value: Tensor, *, infinite: bool = False) -> None:
    """Raise `ValueError` if a floating tensor holds NaN, or infinity unless `infinite`; says where and what to do."""
    # NaN and infinity survive a sum, so one cheap pass clears the usual case; an overflowing sum is looked at again.
    if value.numel() == 0 or math.isfinite(value.detach().sum().item()):
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


def _check_classes(name: str, least: int, most: int, rule: ClassIndex, known: tuple[int, str] | None) -> None:
    if least < rule.low or (known is not None and most >= known[0]):
        wrong = least if least < rule.low else most
        upto = "" if known is None else f" to {known[0] - 1} ({known[1]} has {known[0]} classes)"
        none = ", −1 marking samples of no class," if rule.low < 0 else ""
        raise ValueError(f"{name} holds the value {wrong}, wanted class indices{none} from {rule.low}{upto}")
