"""Check golden cases: `python tests/golden.py FILE...` from the project's root.

A file holds {"cases": [{"op", "params", "inputs", "expected", "rtol", "atol"?, ...}]}. Its stem names the paper, e.g.
`tpauc.json` or `tpauc-2.json`. Adapters live in `golden_ops/`, keyed by (slug, op). Everything is evaluated in float64.
"""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(path) for path in (HERE, HERE.parent / "src") if str(path) not in sys.path]

import torch  # noqa: E402

import golden_ops  # noqa: E402
from equipoise.catalog import load_catalog  # noqa: E402

MOST_MISMATCHES = 4
SPECIAL = {"inf": math.inf, "+inf": math.inf, "-inf": -math.inf, "nan": math.nan}


@dataclass(frozen=True)
class Outcome:
    """What became of a case: `passed`, `failed` or `unmapped`, and why."""

    status: str
    name: str
    message: str = ""


def known_ops() -> dict[tuple[str, str], golden_ops.Adapter]:
    """(slug, op) → adapter, from every module of `golden_ops`."""
    found = golden_ops.Ops()
    for module in pkgutil.iter_modules(golden_ops.__path__):
        for (slug, op), adapter in importlib.import_module(f"golden_ops.{module.name}").ops.items():
            found(slug, op)(adapter)
    return dict(found)


def slug_of(stem: str, slugs: Iterable[str]) -> str:
    """The slug a file belongs to: the stem itself, or the longest slug that it begins with, as whole words."""
    begins = [slug for slug in slugs if stem.startswith(slug) and not stem[len(slug) :][:1].isalpha()]
    return max(begins, key=len, default=stem)


def check_file(path: Path, ops: Mapping[tuple[str, str], golden_ops.Adapter]) -> Iterator[Outcome]:
    """Check every case of a file."""
    slug = slug_of(path.name.removesuffix(".json"), [paper.slug for paper in load_catalog()])
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Outcome("failed", str(path), f"cannot be read: {type(error).__name__}: {error}")
        return
    for number, case in enumerate(cases):
        name = f"{path.name} [{number}] {case.get('op')} {json.dumps(case.get('params', {}))}"
        adapter = ops.get((slug, case.get("op")))
        if adapter is None:
            yield Outcome("unmapped", name, f"no adapter for ({slug!r}, {case.get('op')!r}) in tests/golden_ops")
            continue
        try:
            mismatches = check_case(case, adapter)
        except Exception:
            yield Outcome("failed", name, traceback.format_exc(limit=-3).strip())
            continue
        if mismatches:
            more = len(mismatches) - MOST_MISMATCHES
            shown = mismatches[:MOST_MISMATCHES] + ([f"... and {more} more"] if more > 0 else [])
            yield Outcome("failed", name, "\n".join([*shown, f"how: {case.get('how', 'not said')}"]))
        else:
            yield Outcome("passed", name)


def check_case(case: Mapping[str, Any], adapter: golden_ops.Adapter) -> list[str]:
    """The differences between what is expected and what the adapter's function gives; empty if there are none."""
    expected = case["expected"]
    inputs = {name: to_input(value) for name, value in case["inputs"].items()}
    for key in expected:
        name = key.removeprefix("grad_")
        if key != name and isinstance(inputs.get(name), (torch.Tensor, int, float)):
            inputs[name] = torch.as_tensor(inputs[name], dtype=torch.float64).requires_grad_()
    outputs = dict(adapter(inputs, case.get("params", {})))
    mismatches: list[str] = []
    for key, wanted in expected.items():
        name = key.removeprefix("grad_")
        if key not in outputs and key != name and name in inputs:
            outputs[key] = gradient(outputs, inputs[name])
        if key in outputs:
            compare(key, outputs[key], wanted, case["rtol"], case.get("atol", 0.0), mismatches)
        else:
            mismatches.append(f"{key}: expected, but the adapter gives only {', '.join(outputs)}")
    if not expected:
        mismatches.append("the case expects nothing")
    return mismatches


def to_input(value: Any) -> Any:
    """Rectangular numbers as a tensor, numbers as they are, anything else element by element."""
    if isinstance(value, dict):
        return {key: to_input(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [SPECIAL.get(item, item) if isinstance(item, str) else item for item in _flat(value)]
        shape = _shape(value)
        if shape is None or not all(isinstance(item, (bool, int, float)) for item in items):
            return [to_input(item) for item in value]
        if all(isinstance(item, bool) for item in items) and items:
            dtype = torch.bool
        else:
            dtype = torch.float64 if any(isinstance(item, float) for item in items) or not items else torch.int64
        return torch.tensor(items, dtype=dtype).reshape(shape)
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    return SPECIAL.get(value, value) if isinstance(value, str) else value


def gradient(outputs: Mapping[str, Any], leaf: torch.Tensor) -> torch.Tensor:
    """Gradient of the loss, or of the value, or of the sum of all outputs, with respect to an input."""
    main = [outputs[key] for key in ("loss", "value") if key in outputs][:1] or list(outputs.values())
    parts = [part.sum() for part in main if isinstance(part, torch.Tensor) and part.requires_grad]
    if not parts:
        return torch.zeros_like(leaf)
    (result,) = torch.autograd.grad(sum(parts), leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if result is None else result


def compare(where: str, got: Any, wanted: Any, rtol: float, atol: float, mismatches: list[str]) -> None:
    """Add a line for every place where `got` is not within `atol + rtol * |wanted|` of `wanted`."""
    if isinstance(got, torch.Tensor):
        got = got.detach().tolist()
    if isinstance(wanted, dict):
        if not isinstance(got, Mapping) or not set(wanted) <= set(got):
            mismatches.append(f"{where}: wanted the keys {sorted(wanted)}, got {got!r}")
            return
        for key, item in wanted.items():
            compare(f"{where}.{key}", got[key], item, rtol, atol, mismatches)
    elif isinstance(wanted, list):
        if not isinstance(got, (list, tuple)) or len(got) != len(wanted):
            size = f"{len(got)} of them" if isinstance(got, (list, tuple)) else repr(got)
            mismatches.append(f"{where}: wanted {len(wanted)} values, got {size}")
            return
        for number, (one, item) in enumerate(zip(got, wanted, strict=True)):
            compare(f"{where}[{number}]", one, item, rtol, atol, mismatches)
    elif not _close(got, wanted, rtol, atol):
        mismatches.append(f"{where}: got {got!r}, wanted {wanted!r} (rtol {rtol:g}, atol {atol:g})")


def _close(got: Any, wanted: Any, rtol: float, atol: float) -> bool:
    wanted = SPECIAL.get(wanted, wanted) if isinstance(wanted, str) else wanted
    if not isinstance(wanted, (bool, int, float)) or not isinstance(got, (bool, int, float)):
        return type(got) is type(wanted) and bool(got == wanted)
    if math.isnan(wanted) or math.isinf(wanted):
        return math.isnan(got) if math.isnan(wanted) else got == wanted
    return abs(got - wanted) <= atol + rtol * abs(wanted)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of nested lists; None where they are ragged."""
    if not isinstance(value, list):
        return ()
    shapes = {_shape(item) for item in value}
    if len(shapes) > 1 or None in shapes:
        return None
    inner = shapes.pop() if shapes else ()
    return (len(value), *(inner or ()))


def main(arguments: list[str]) -> int:
    """Check the files, print what failed and the tally; 0 if everything passed."""
    if not arguments:
        print("usage: python tests/golden.py FILE...")
        return 2
    ops = known_ops()
    tally: Counter[str] = Counter()
    for argument in arguments:
        for outcome in check_file(Path(argument), ops):
            tally[outcome.status] += 1
            if outcome.status != "passed":
                print(f"{outcome.status.upper()} {outcome.name}")
                print("    " + outcome.message.replace("\n", "\n    "))
    print(f"{tally['passed']} passed, {tally['failed']} failed, {tally['unmapped']} unmapped")
    return 1 if tally["failed"] or tally["unmapped"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
