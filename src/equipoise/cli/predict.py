"""`equipoise predict`."""

from __future__ import annotations

from pathlib import Path

from equipoise.cli.terminal import print_notice, print_path


def predict(
    model: Path,
    data: str,
    /,
    *,
    output: Path = Path("equipoise-predictions"),
    overwrite: bool = False,
    escape_formulas: bool = False,
) -> None:
    """Score the rows of a table with a fitted model.

    Parameters
    ----------
    model: Path
        The folder that `equipoise fit` wrote, or its model/ folder.
    data: str
        A CSV, TSV or Parquet file with the columns the model was fitted on.
    output: Path
        The folder to write: predictions.csv.
    overwrite: bool
        Replace the folder if an earlier run wrote it and it holds nothing else.
    escape_formulas: bool
        Put a quote before text that a spreadsheet would run as a formula (it begins with =, +, -, @, tab or return).
    """
    from equipoise.workflows.tables.predict import predict_table

    path = predict_table(
        model, data, output=output, overwrite=overwrite, escape_formulas=escape_formulas, notice=print_notice
    )
    print_path("predictions", path)
