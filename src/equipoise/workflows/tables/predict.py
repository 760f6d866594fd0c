"""Score the rows of a table with a fitted model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.data import read_table
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.spreadsheet import quoted
from equipoise.workflows.tables.model_folder import FittedModel

_log = logging.getLogger(__name__)


def predict_table(
    model: str | Path,
    data: str | Path,
    *,
    output: str | Path,
    overwrite: bool = False,
    escape_formulas: bool = False,
    notice: Callable[[str], None] = _log.warning,
) -> Path:
    """Write `predictions.csv`: one row of scores per row of the table, in its order.

    The columns are `score` (raw, for two classes), `probability` or one `probability_<class>` per class, and
    `prediction` (the most probable class). Probabilities are calibrated on training rows that were held out or, where a
    class has fewer than 50, out of fold.

    Args:
        model: folder that `fit_table` wrote, or its `model/` folder.
        data: CSV, TSV or Parquet file with the columns the model was fitted on.
        output: folder to write.
        overwrite: replace a folder that this program wrote.
        escape_formulas: put a quote before text that a spreadsheet would run as a formula.
        notice: told in sentences what the table holds that the training table did not; logged if not given.

    Returns:
        The path of the file.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    import pandas as pd

    with staged_folder(output, overwrite=overwrite, inputs=(model, data)) as stage:
        with mendable():
            fitted = FittedModel.load(Path(model))
            features = _encoded(fitted.encoder, read_table(data), notice)
        probabilities = fitted.estimator.predict_proba(features)
        columns = {}
        if len(fitted.classes) == 2:
            columns["score"] = np.asarray(fitted.estimator.decision_function(features))
            columns["probability"] = probabilities[:, 1]
        else:
            columns = {f"probability_{label}": probabilities[:, k] for k, label in enumerate(fitted.classes)}
        classes = [quoted(label) for label in fitted.classes] if escape_formulas else fitted.classes
        columns["prediction"] = np.array(classes, dtype=object)[probabilities.argmax(1)]
        pd.DataFrame(columns).to_csv(stage / "predictions.csv", index=False)
    return Path(output) / "predictions.csv"


def _encoded(encoder: Any, frame: Any, notice: Callable[[str], None]) -> Any:
    try:
        for words in encoder.unfamiliar(frame):
            notice(f"column {words}")
        return encoder.transform(frame)
    except ValueError:
        raise
    except Exception as error:  # the steps of skrub raise of all kinds on a column of another type
        words = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(f"the table cannot be read as the one that the model was fitted on: {words}") from error
