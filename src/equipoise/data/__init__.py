"""Embedded data sets, file readers, splits and samplers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from equipoise.data.corruptions import CORRUPTIONS, corrupt, corrupted_sets
from equipoise.data.identity_sampler import IdentityBatchSampler
from equipoise.data.samplers import ClassBalancedBatchSampler, StratifiedBatchSampler

if TYPE_CHECKING:
    from equipoise.data.cifar import read_cifar
    from equipoise.data.embedded import DatasetInfo, EmbeddedTable, list_datasets, load_dataset, load_npz_tables
    from equipoise.data.encoding import TableEncoder, make_encoder
    from equipoise.data.splits import fold_splits, holdout_split
    from equipoise.data.synthetic import long_tail_counts, long_tail_subset
    from equipoise.data.tables import TableTask, read_table, table_task

__all__ = [
    "CORRUPTIONS",
    "ClassBalancedBatchSampler",
    "DatasetInfo",
    "EmbeddedTable",
    "IdentityBatchSampler",
    "StratifiedBatchSampler",
    "TableEncoder",
    "TableTask",
    "corrupt",
    "corrupted_sets",
    "fold_splits",
    "holdout_split",
    "list_datasets",
    "load_dataset",
    "load_npz_tables",
    "long_tail_counts",
    "long_tail_subset",
    "make_encoder",
    "read_cifar",
    "read_table",
    "table_task",
]

# Tables need pandas, scikit-learn and skrub, which are optional and slow to import: their names are loaded when asked.
_ROOMS = {
    "DatasetInfo": "embedded",
    "EmbeddedTable": "embedded",
    "TableEncoder": "encoding",
    "TableTask": "tables",
    "fold_splits": "splits",
    "holdout_split": "splits",
    "list_datasets": "embedded",
    "load_dataset": "embedded",
    "load_npz_tables": "embedded",
    "long_tail_counts": "synthetic",
    "long_tail_subset": "synthetic",
    "make_encoder": "encoding",
    "read_cifar": "cifar",
    "read_table": "tables",
    "table_task": "tables",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
