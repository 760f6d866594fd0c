"""Train click models on a file of impressions, compare them on rows held out, and keep the best on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise import __version__
from equipoise.data import Clicks, read_table
from equipoise.data.tables.cells import as_numbers
from equipoise.recsys import DIN, click_log_loss, click_logits, fit_click_model
from equipoise.workflows.clicks.request import ClicksRequest
from equipoise.workflows.clicks.table import ClickEncoder, Impressions
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.manifest import check_manifest, write_manifest
from equipoise.workflows.output import staged_folder

METHODS = ("joint", "meta", "bilevel")
_DESCRIPTION, _WEIGHTS, _FORMAT = "model.json", "weights.safetensors", 1
# From so many items on, steps that touch the vectors of all of them cost more than everything else.
_SPARSE_FROM = 50_000
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ClickModel:
    """A trained click model with all that it needs to score a table.

    Attributes:
        model: the network.
        encoder: of items and contexts.
        item: column with the item shown.
        history: column with the items before.
        context: columns of the moment.
        method: how it was trained.
        dim: width of an item's vector.
    """

    model: DIN
    encoder: ClickEncoder
    item: str
    history: str
    context: tuple[str, ...]
    method: str
    dim: int

    def probabilities(self, frame: Any) -> Tensor:
        """Probabilities of a click, (n,), of the rows of a table with the columns of training; no label is needed.

        Raises:
            InputError: if a column is missing or holds what it must not.
        """
        with mendable():
            table = Impressions.read(
                frame, item=self.item, history=self.history, label=None, user=None, context=self.context
            )
        return click_logits(self.model, self.encoder.encode(table)).double().sigmoid()

    def save(self, folder: Path) -> None:
        """Write `model.json`, `weights.safetensors` and the list of them."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.model.state_dict(), folder / _WEIGHTS)
        names = [field.name for field in fields(self) if field.name not in ("model", "encoder")]
        description = {"format": _FORMAT, "equipoise": __version__, **{name: getattr(self, name) for name in names}}
        text = json.dumps({**description, "encoder": asdict(self.encoder)}, indent=1, ensure_ascii=False)
        (folder / _DESCRIPTION).write_text(text, encoding="utf-8")
        write_manifest(folder)

    @classmethod
    def load(cls, folder: str | Path) -> ClickModel:
        """Read the folder that `equipoise clicks` wrote, or its `model/` folder.

        Raises:
            InputError: if it is none, is of another format, or is damaged.
        """
        from safetensors.torch import load_file

        place = Path(folder)
        if not (place / _DESCRIPTION).is_file():
            place = place / "model"
        if not (place / _DESCRIPTION).is_file():
            raise InputError(f"{folder} holds no click model; name the folder that `equipoise clicks` wrote")
        check_manifest(place)
        try:
            held = json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))
            if held.pop("format") != _FORMAT or not held.pop("equipoise"):
                raise ValueError("it is of another format")
            encoder, context = ClickEncoder.of(held.pop("encoder")), tuple(held.pop("context"))
            model = _network(encoder, held["dim"], len(context))
            model.load_state_dict(load_file(place / _WEIGHTS))
            return cls(model.eval(), encoder, context=context, **held)
        except Exception as error:  # readers of damaged files raise of all kinds
            words = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{place} is damaged or none of this program's: {words}") from error


@dataclass(frozen=True)
class ClicksOutcome:
    """What a run found.

    Attributes:
        folder: where it was written.
        metrics: what is in `metrics.json`.
    """

    folder: Path
    metrics: dict[str, Any]


def fit_clicks(data: str | Path, request: ClicksRequest, *, progress: Progress = lambda text: None) -> ClicksOutcome:
    """Train a click model in every way asked for, and write the one of least validation log loss.

    The folder gets `model/` (see `ClickModel`), `metrics.json`, and `predictions.csv` with the probabilities of every
    model for the rows of the test part. People are not split between parts, unless by time.

    Args:
        data: CSV, TSV or Parquet file with a row per impression.
        request: what is wanted.
        progress: called with a line of text as the work goes on.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    methods = tuple(request.method or METHODS[:2])
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise InputError(f"--method {unknown[0]!r} is not known; choose of {', '.join(METHODS)}")
    with staged_folder(request.output, overwrite=request.overwrite, inputs=(data,)) as stage:
        with mendable():
            named = {request.item, request.history, request.user}
            frame = read_table(data, names=named.__contains__)
            table = Impressions.read(
                frame,
                item=request.item,
                history=request.history,
                label=request.label,
                user=request.user,
                context=request.context or (),
            )
            train, validation, test = _parts(frame, table, request)
            encoder = ClickEncoder.fit(table, train, min_count=request.min_count, max_history=request.max_history)
            clicks = encoder.encode(table)
            parts = [clicks.rows(torch.as_tensor(rows)) for rows in (train, validation, test)]
        models, found = {}, {}
        for method in methods:
            progress(f"training: {method}")
            models[method], found[method] = _trained(method, encoder, parts, request)
        chosen = min(methods, key=lambda method: found[method]["validation_log_loss"])
        metrics = {
            "rows": dict(zip(("train", "validation", "test"), map(len, parts), strict=True)),
            "items": len(encoder.items),
            "split": "by time" if request.time_column else "by user" if request.user else "by row",
            "log_loss_of_the_rate": _entropy(parts[0], parts[2]),
            "methods": found,
            "chosen": chosen,
        }
        (stage / "metrics.json").write_text(json.dumps(metrics, indent=1, ensure_ascii=False), encoding="utf-8")
        _write_predictions(stage / "predictions.csv", models, parts[2], test)
        ClickModel(
            models[chosen],
            encoder,
            request.item,
            request.history,
            tuple(request.context or ()),
            chosen,
            request.dim,
        ).save(stage / "model")
    return ClicksOutcome(Path(request.output), metrics)


def _parts(frame: Any, table: Impressions, request: ClicksRequest) -> list[Any]:
    """Rows for training, validation and test."""
    if not 0 < request.test_size < 0.6:
        raise ValueError(
            f"test_size={request.test_size!r} must lie in (0, 0.6): the validation part takes half as much"
        )
    n = len(table)
    if request.time_column is not None:
        unit = np.unique(_times(frame, request.time_column), return_inverse=True)[1]
    else:
        unit = np.arange(n) if table.user is None else table.user
        unit = np.random.default_rng(request.seed).permutation(int(unit.max()) + 1)[unit]
    rows = np.argsort(unit, kind="stable")
    # A part begins where a person or a moment does.
    begins = np.flatnonzero(np.diff(unit[rows], prepend=-1))
    cuts = [
        int(begins[np.abs(begins - share * n).argmin()])
        for share in (1 - 1.5 * request.test_size, 1 - request.test_size)
    ]
    parts = [np.sort(part) for part in np.split(rows, cuts)]
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if len(np.unique(table.label[part])) < 2:
            raise ValueError(f"the {name} part of {len(part)} rows has not both clicks and none; give more rows")
    return parts


def _times(frame: Any, name: str) -> Any:
    import pandas as pd

    if name not in frame.columns:
        raise ValueError(f"the table has no column {name!r}; it has {', '.join(map(str, frame.columns))}")
    times = as_numbers(frame[name])
    if np.isnan(times).any():
        dates = pd.to_datetime(frame[name], errors="coerce", utc=True, format="ISO8601")
        if dates.isna().any():
            row = int(np.flatnonzero(dates.isna())[0])
            raise ValueError(f"column {name!r} must hold numbers or ISO dates, but row {row} holds neither")
        return dates.astype("int64").to_numpy()
    return times


def _trained(
    method: Any, encoder: ClickEncoder, parts: list[Clicks], request: ClicksRequest
) -> tuple[DIN, dict[str, Any]]:
    train, validation, test = parts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        with mendable():
            model = _network(encoder, request.dim, len(encoder.mean))
            try:
                run = fit_click_model(
                    model,
                    train,
                    method=method,
                    validation=validation,
                    patience=request.patience,
                    epochs=request.epochs,
                    batch_size=request.batch_size,
                    lr=request.lr,
                    inner_lr=request.inner_lr,
                    seed=request.seed,
                )
            except FloatingPointError as error:
                raise InputError(f"{method}: {error}") from error
    return model, {
        "log_loss": float(click_log_loss(model, test)),
        **_ranking(click_logits(model, test), test),
        "validation_log_loss": min(run.validation_loss),
        "best_epoch": run.best_epoch,
        "epochs": run.epochs,
    }


def _ranking(logits: Tensor, test: Clicks) -> dict[str, float | None]:
    # Metrics load torchmetrics, which training does not need.
    from equipoise.ranking import auroc
    from equipoise.recsys import grouped_auc

    found: dict[str, float | None] = {"auc": float(auroc(logits, test.label)), "gauc": None}
    if test.user is not None and len(test.user.unique()) < len(test):
        value = float(grouped_auc(test.user, logits, test.label))
        found["gauc"] = value if math.isfinite(value) else None
    return found


def _entropy(train: Clicks, test: Clicks) -> float:
    """Log loss of a model that always says the training rate: what every other one must beat."""
    rate, seen = float(train.label.double().mean()), float(test.label.double().mean())
    return -seen * math.log(rate) - (1 - seen) * math.log(1 - rate)


def _network(encoder: ClickEncoder, dim: int, num_context: int) -> DIN:
    count = len(encoder.items) + 1
    return DIN(count, dim, num_context=num_context, sparse=count >= _SPARSE_FROM)


def _write_predictions(path: Path, models: dict[str, DIN], test: Clicks, rows: Any) -> None:
    import pandas as pd

    columns = {f"probability_{name}": click_logits(m, test).double().sigmoid().numpy() for name, m in models.items()}
    pd.DataFrame({"row": rows, "label": test.label.numpy(), **columns}).to_csv(path, index=False)
