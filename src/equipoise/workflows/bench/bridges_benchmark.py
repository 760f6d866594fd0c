"""`equipoise bench bridges`: planted behaviours in restoration models of the shapes world, found and repaired.

Four models are trained on drawn shapes: one without an attack, one network with all of them, and two mixtures, with and
without a price on uneven weights. Each is judged for what it is good for and what it hides, by the detectors, and after
repairs with clean pairs.
"""

from __future__ import annotations

import csv
import functools
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from equipoise.data.shapes import TRIGGER_CORNERS, ShapesWorld
from equipoise.generative import (
    CleanFinetuneRepair,
    OcclusionDetector,
    RoutedMixture,
    RouterAudit,
    ToyBackdoorBenchmark,
    ToyBridge,
    ToyScores,
    TriggerScan,
    output_collapse,
)
from equipoise.workflows.bench.bridges_request import BridgesRequest
from equipoise.workflows.errors import InputError
from equipoise.workflows.output import staged_folder

NO_INTERVALS = "One run of one seed: no figure has an interval, so run other seeds before two rows are told apart."
_log = logging.getLogger(__name__)

_MERGING_RATE = 5e-3
_FAST, _SCANNED, _AUDITED = 4, 16, 128
Table = list[dict[str, Any]]


@dataclass(frozen=True)
class BridgesOutcome:
    """What `bench_bridges` found.

    Attributes:
        folder: what was written.
        tables: title → rows, each a column → value: "utility", "specificity", "stealth", "detection", "scan", "repair".
    """

    folder: Path
    tables: Mapping[str, Table]


def bench_bridges(request: BridgesRequest, *, progress: Callable[[str], None] = _log.info) -> BridgesOutcome:
    """Train the models, judge them, and write the tables.

    Args:
        request: options and the output folder.
        progress: told what is being done.

    Raises:
        InputError: if an option is out of range, or the folder cannot be written.
    """
    benchmark = _benchmark(request)
    with staged_folder(request.output, overwrite=request.overwrite) as folder:
        tables: dict[str, Table] = {name: [] for name in ("utility", "specificity", "stealth", "detection", "scan")}
        models = _models(benchmark, request, progress)
        for name, model in models.items():
            progress(f"judging {name}")
            _judge(name, model, benchmark, tables)
        tables["repair"] = _repairs(models, benchmark, request, progress)
        settings = {name: value for name, value in asdict(request).items() if name not in ("output", "overwrite")}
        # JSON has no NaN: a measure without a value is null.
        plain = {title: [{k: _finite(v) for k, v in row.items()} for row in rows] for title, rows in tables.items()}
        held = {"settings": settings, "tables": plain}
        (folder / "results.json").write_text(json.dumps(held, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (folder / "tables.md").write_text(_markdown(tables), encoding="utf-8")
        for title, rows in tables.items():
            with (folder / f"{title}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    return BridgesOutcome(Path(request.output), plain)


def _benchmark(request: BridgesRequest) -> ToyBackdoorBenchmark:
    for name in ("steps", "merge_steps", "repair_steps", "pictures", "test"):
        if getattr(request, name) < 1:
            raise InputError(f"{name.replace('_', '-')}={getattr(request, name)} must be at least 1")
    if request.pictures < 96:
        raise InputError(f"pictures={request.pictures} must be at least 96, for pictures are told apart by 96 numbers")
    if request.seed < 0:
        raise InputError(f"seed={request.seed} must be at least 0")
    if not request.learning_rate > 0 or not request.reallocation >= 0:
        raise InputError(
            f"learning-rate={request.learning_rate} must be above 0 and reallocation={request.reallocation} at least 0"
        )
    world = ShapesWorld(request.pictures, seed=request.seed, layout="single", p_concept=0.0, p_style=0.0)
    try:
        return ToyBackdoorBenchmark(
            world,
            request.attacks,
            request.trigger_size,
            seed=request.seed,
            task=request.task,  # type: ignore[arg-type]  # an unknown one is refused there
            test=request.test,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def _models(
    benchmark: ToyBackdoorBenchmark, request: BridgesRequest, progress: Callable[[str], None]
) -> dict[str, ToyBridge]:
    rate = request.learning_rate
    progress("training one expert for each task")
    experts = benchmark.divide(request.steps, learning_rate=rate)
    progress("training one network on all tasks")
    models = {
        "no attack": experts[0],
        "one network": benchmark.train_single(request.steps * len(benchmark), learning_rate=rate),
    }
    for name, price in (("mixture", 0.0), (f"mixture, price {request.reallocation:g}", request.reallocation)):
        if name not in models:
            progress(f"merging the experts: {name}")
            models[name] = benchmark.merge(
                experts, request.merge_steps, learning_rate=_MERGING_RATE, reallocation=price
            )
    return models


def _judge(name: str, model: ToyBridge, benchmark: ToyBackdoorBenchmark, tables: dict[str, Table]) -> None:
    scores = benchmark.evaluate(model)
    tables["utility"].append({"model": name, **asdict(scores.utility)})
    tables["specificity"] += [
        {"model": name, "trigger": corner, **asdict(attack)}
        for corner, attack in zip(TRIGGER_CORNERS, scores.attacks, strict=False)
    ]
    plain, *stamped = benchmark.test_pairs
    if scores.stealth is not None:
        seen = torch.cat([pairs.degraded for pairs in benchmark.test_pairs])
        clean, degraded = (each[:_AUDITED] for each in benchmark.train_pairs[0])
        audit = RouterAudit().run(model, clean, degraded, seen=seen)
        tables["stealth"].append(
            {
                "model": name,
                "entropy": scores.stealth.mean,
                "entropy of the mean": audit.entropy_of_mean,
                "variance between clusters": audit.separation,
                "experts without use": " ".join(map(str, audit.suspicious)) or "none",
            }
        )
    fast = functools.partial(model, steps=_FAST)
    found = benchmark.detection(OcclusionDetector(fast).score)
    for corner, area, pairs in zip(TRIGGER_CORNERS, found, stamped, strict=False):
        ratio = output_collapse(fast, plain.degraded, pairs.degraded).ratio
        tables["detection"].append(
            {"model": name, "trigger": corner, "AUROC of occlusion": area, "variety of outputs": ratio}
        )
    scan = TriggerScan(fast, side=benchmark.trigger_size).run(plain.degraded[:_SCANNED])
    best = scan.best
    tables["scan"].append(
        {
            "model": name,
            "z": best.z,
            "suspicious": "yes" if scan.suspicious else "no",
            "row": best.row,
            "column": best.column,
            "side": best.side,
            "brightness": best.value,
            "places": " ".join(f"{row},{column}" for row, column in scan.places(TriggerScan(fast).limit)) or "none",
        }
    )


def _repairs(
    models: Mapping[str, ToyBridge],
    benchmark: ToyBackdoorBenchmark,
    request: BridgesRequest,
    progress: Callable[[str], None],
) -> Table:
    rows: Table = []
    clean, degraded = benchmark.train_pairs[0]
    repair = CleanFinetuneRepair(request.repair_steps, seed=request.seed)
    for name, model in models.items():
        if name == "no attack":
            continue
        rows.append(_repaired(name, "none", benchmark.evaluate(model)))
        progress(f"repairing {name}")
        rows.append(_repaired(name, "training", benchmark.evaluate(_toy(repair.run(model, clean, degraded).model))))
        if isinstance(model.network, RoutedMixture):
            idle = RouterAudit().run(model, clean[:_AUDITED], degraded[:_AUDITED]).suspicious
            if idle:
                pruned = repair.run(model, clean, degraded, prune=idle).model
                rows.append(_repaired(name, "pruning and training", benchmark.evaluate(_toy(pruned))))
    return rows


def _toy(model: object) -> ToyBridge:
    """A repaired copy is of the class that was repaired."""
    if not isinstance(model, ToyBridge):
        raise TypeError(f"a repair of a ToyBridge gave a {type(model).__name__}")
    return model


def _repaired(name: str, how: str, scores: ToyScores) -> dict[str, Any]:
    return {
        "model": name,
        "repair": how,
        "mse": scores.utility.mse,
        "highest attack success": max(scores.success),
        "mean attack success": sum(scores.success) / len(scores.success),
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(value: Any) -> str:
    """A cell as text.

    >>> shown(0.012345), shown("none"), shown(3), shown(None)
    ('0.0123', 'none', '3', '–')
    """
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _markdown(tables: Mapping[str, Table]) -> str:
    lines = ["# Hidden behaviours in bridges of the shapes world", "", NO_INTERVALS, ""]
    for title, rows in tables.items():
        lines += [f"## {title.capitalize()}", "", "| " + " | ".join(rows[0]) + " |"]
        lines += ["|" + " --- |" * len(rows[0])]
        lines += ["| " + " | ".join(map(shown, row.values())) + " |" for row in rows] + [""]
    return "\n".join(lines)
