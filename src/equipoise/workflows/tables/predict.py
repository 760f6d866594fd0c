"""Score the rows of a table with a fitted model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from equipoise.data import read_table
from equipoise.workflows.errors import mendable
from equipoise.workflows.output import check_output, staged_folder
from equipoise.workflows.tables.model_folder import FittedModel


def predict_table(model: str | Path, data: str | Path, *, output: str | Path, overwrite: bool = False) -> Path:
    """Write `predictions.csv`: a row of scores for every row of the table, in its order.

    The columns are `score` (raw, for two classes), `probability` (calibrated on held-out training rows) or one
    `probability_<class>` a class, and `prediction` (the most probable class).

    Args:
        model: folder that `fit_table` wrote, or its `model/` folder.
        data: CSV, TSV or Parquet file with the columns the model was fitted on.
        output: folder to write.
        overwrite: replace the folder.

    Returns:
        The path of the file.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    with mendable():
        output = check_output(output, overwrite=overwrite)
        fitted = FittedModel.load(Path(model))
        features = fitted.encoder.transform(read_table(data))
    probabilities = fitted.estimator.predict_proba(features)
    columns = {}
    if len(fitted.classes) == 2:
        columns["score"] = np.asarray(fitted.estimator.decision_function(features))
        columns["probability"] = probabilities[:, 1]
    else:
        columns = {f"probability_{label}": probabilities[:, k] for k, label in enumerate(fitted.classes)}
    columns["prediction"] = np.array(fitted.classes, dtype=object)[probabilities.argmax(1)]
    import pandas as pd

    with staged_folder(output, overwrite=overwrite) as stage:
        pd.DataFrame(columns).to_csv(stage / "predictions.csv", index=False)
    return output / "predictions.csv"
