"""A fitted table encoder as JSON and arrays: numbers, text, lists, and objects of the classes listed here only.

A file names the classes of its objects; the names are looked up in `CLASSES` and never imported, and an object gets its
attributes without any call. So no file can run code that is not the encoder's own.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from equipoise.data.tables.encoding import KINDS, TableEncoder

TREE, ARRAYS = "encoder.json", "encoder.safetensors"

# What fitted encoders are made of, by skrub from 0.8 on; tests/workflows/tables/test_encoder_file.py compares.
CLASSES = frozenset(
    {
        "equipoise.data.tables.columns.ColumnReading",
        "equipoise.data.tables.columns.NumberFormat",
        "equipoise.data.tables.encoding.TableEncoder",
        "sklearn.decomposition._truncated_svd.TruncatedSVD",
        "sklearn.feature_extraction.text.TfidfTransformer",
        "sklearn.feature_extraction.text.TfidfVectorizer",
        "sklearn.impute._base.MissingIndicator",
        "sklearn.impute._base.SimpleImputer",
        "sklearn.pipeline.Pipeline",
        "sklearn.preprocessing._data.RobustScaler",
        "sklearn.preprocessing._encoders.OneHotEncoder",
        "sklearn.preprocessing._encoders.OrdinalEncoder",
        "skrub._apply_to_each_col.ApplyToEachCol",
        "skrub._check_input.CheckInputDataFrame",
        "skrub._clean_categories.CleanCategories",
        "skrub._clean_null_strings.CleanNullStrings",
        "skrub._datetime_encoder.DatetimeEncoder",
        "skrub._datetime_encoder._CircularEncoder",
        "skrub._drop_uninformative.DropUninformative",
        "skrub._duration_to_float.DurationToFloat",
        "skrub._squashing_scaler.SquashingScaler",
        "skrub._squashing_scaler._MinMaxScaler",
        "skrub._string_encoder.StringEncoder",
        "skrub._table_vectorizer.PassThrough",
        "skrub._table_vectorizer.ShortReprDict",
        "skrub._table_vectorizer.TableVectorizer",
        "skrub._to_datetime.ToDatetime",
        "skrub._to_float.ToFloat",
        "skrub._to_str.ToStr",
    }
)
# Which columns a step was fitted on: functions, which are read while fitting only.
_NOT_KEPT = "cols"


def write_encoder(encoder: TableEncoder, folder: Path) -> None:
    """Write `encoder.json` and `encoder.safetensors`.

    Raises:
        TypeError: if the encoder holds an object that is not of `CLASSES`.
    """
    writer = _Writer()
    tree = writer.tree(encoder)
    (folder / TREE).write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    save_file(writer.arrays, folder / ARRAYS)


def read_encoder(folder: Path) -> TableEncoder:
    """Read what `write_encoder` wrote.

    Raises:
        ValueError: if it holds no encoder, or an object of another class; damaged files raise what their readers do.
    """
    reader = _Reader(load_file(folder / ARRAYS))
    encoder = reader.value(json.loads((folder / TREE).read_text(encoding="utf-8")))
    if not isinstance(encoder, TableEncoder) or encoder.kind not in KINDS:
        raise ValueError("it holds no table encoder")
    return encoder


class _Writer:
    """Turns values into JSON, with arrays of numbers aside."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._objects: dict[int, int] = {}

    def tree(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) is list:
            return [self.tree(item) for item in value]
        if type(value) is tuple:
            return {"tuple": [self.tree(item) for item in value]}
        if type(value) is dict:
            return {"dict": [[self.tree(key), self.tree(item)] for key, item in value.items()]}
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, np.generic):
            return {"number": value.item(), "dtype": value.dtype.str}
        if isinstance(value, np.dtype | pd.api.extensions.ExtensionDtype):
            return {"dtype": str(value)}
        if isinstance(value, type) and issubclass(value, np.generic):
            return {"type": np.dtype(value).str}
        return self._object(value)

    def _array(self, value: np.ndarray) -> dict[str, Any]:
        if value.dtype.kind in "biuf":
            name = str(len(self.arrays))
            self.arrays[name] = np.array(value, order="C")
            return {"array": name}
        if value.dtype.kind not in "OU":
            raise TypeError(f"an encoder with an array of {value.dtype} cannot be written")
        return {"cells": [self.tree(cell) for cell in value.ravel().tolist()], "shape": list(value.shape)}

    def _object(self, value: Any) -> dict[str, Any]:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        if name not in CLASSES:
            raise TypeError(f"an encoder that holds an object of {name} cannot be written")
        if id(value) in self._objects:
            return {"same": self._objects[id(value)]}
        self._objects[id(value)] = len(self._objects)
        kept = {key: item for key, item in vars(value).items() if key != _NOT_KEPT}
        return {"object": name, "state": {key: self.tree(item) for key, item in kept.items()}}


class _Reader:
    """Turns the JSON back into values."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._objects: list[Any] = []

    def value(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self.value(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        kind = next(iter(tree), None)
        if kind == "tuple":
            return tuple(map(self.value, tree[kind]))
        if kind == "dict":
            return {self.value(key): self.value(item) for key, item in tree[kind]}
        if kind == "array":
            return self._arrays[tree[kind]]
        if kind == "cells":
            cells = np.empty(len(tree[kind]), dtype=object)
            cells[:] = [self.value(cell) for cell in tree[kind]]
            return cells.reshape(tree["shape"])
        if kind == "number":
            return np.dtype(tree["dtype"]).type(tree[kind])
        if kind == "dtype":
            return pd.api.types.pandas_dtype(str(tree[kind]))
        if kind == "type":
            return np.dtype(tree[kind]).type
        if kind == "same":
            return self._objects[tree[kind]]
        if kind == "object":
            return self._object(tree[kind], tree["state"])
        raise ValueError(f"it holds a value of an unknown kind, {kind!r}")

    def _object(self, name: Any, state: dict[str, Any]) -> Any:
        if not isinstance(name, str) or name not in CLASSES:
            raise ValueError(f"it holds an object of a class that no encoder has, {name!r}")
        module, _, own = name.rpartition(".")
        kind = getattr(import_module(module), own)
        made = kind.__new__(kind)
        self._objects.append(made)
        vars(made).update({key: self.value(item) for key, item in state.items()}, **{_NOT_KEPT: None})
        return made
