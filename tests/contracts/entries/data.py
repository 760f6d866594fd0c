"""The public names of `equipoise.data`."""

import pandas as pd
import torch

from contracts.model import Function
from equipoise.data import Comparisons, Interactions, make_family_graph, table_task


def _labels(generator, n):
    return {"target": torch.arange(n) % 3}


def _images(generator, n):
    return {"images": torch.rand(n, 6, 6, generator=generator)}


def _task():
    return table_task(pd.DataFrame({"x": range(40), "y": [0, 1] * 20}), target="y")


ENTRIES = (
    Function("equipoise.data.StratifiedBatchSampler", {"batch_size": 6, "min_per_class": 1}, _labels),
    Function("equipoise.data.ClassBalancedBatchSampler", {"batch_size": 6}, _labels),
    Function("equipoise.data.IdentityBatchSampler", {"num_ids": 2, "num_per_id": 2}, _labels),
    Function("equipoise.data.long_tail_counts", {"num_classes": 5, "max_count": 100, "ratio": 10.0}),
    Function("equipoise.data.long_tail_subset", {"counts": [5, 2, 1]}, _labels),
    Function("equipoise.data.corrupt", {"kind": "blur", "severity": 3}, _images),
    Function("equipoise.data.corrupted_sets", {"severities": [1]}, _images),
    Function("equipoise.data.holdout_split", {"task": _task()}),
    Function("equipoise.data.fold_splits", {"task": _task()}),
    Function(
        "equipoise.data.split_interactions",
        {"interactions": Interactions.from_pairs([0] * 6 + [1] * 8, [*range(6), *range(8)])},
        exempt={
            "numpy_numbers_and_arrays_are_settings": "its parts cannot be compared as tensors",
            "autocast_changes_nothing": "it computes no floating values",
        },
    ),
    Function("equipoise.data.make_interest_world", {"num_users": 4, "noise": 0.1, "seed": 2}),
    Function(
        "equipoise.data.split_triples",
        {"graph": make_family_graph(), "fractions": (0.7, 0.1, 0.2), "seed": 1},
        exempt={
            "numpy_numbers_and_arrays_are_settings": "its parts cannot be compared as tensors",
            "autocast_changes_nothing": "it computes no floating values",
        },
    ),
    Function("equipoise.data.make_cluster_graph", {"num_entities": 40, "noise": 0.2, "seed": 1}),
    Function("equipoise.data.make_family_graph", {"families": 2, "generations": 3, "seed": 1}),
    Function("equipoise.data.make_tree_ring_graph", {"branching": 2, "depth": 2, "steps": (1, 3), "chain": 6}),
    Function(
        "equipoise.data.simulate_partial_rankings",
        {"num_users": 3, "num_items": 4, "comparisons_per_user": [5, 6], "threshold": 0.5, "seed": 1},
    ),
    Function(
        "equipoise.data.comparison_folds",
        {"comparisons": Comparisons.from_columns([0] * 6, [0] * 6, [1] * 6, [1, 0, -1] * 2), "folds": 3, "seed": 1},
    ),
    Function("equipoise.data.click_world", {"rows": 5, "shortest": 1, "num_items": 9, "seed": 1}),
)

OTHERS = {
    "equipoise.data.Interactions": "read from pairs or a sparse matrix; its test gives it bad ones",
    "equipoise.data.KGDataset": "takes triples in any form; its test gives it bad ones",
    "equipoise.data.KnownTails": "built from triples; its test gives it bad ones",
    "equipoise.data.read_triples": "reads files; its test gives it bad ones",
    "equipoise.data.leave_one_out": "moments may be whole numbers or fractions; its test gives it bad ones",
    "equipoise.data.split_by_time": "moments may be whole numbers or fractions; its test gives it bad ones",
    "equipoise.data.InteractionSplit": "a result that the library makes",
    "equipoise.data.InteractionLog": "a result that the library makes",
    "equipoise.data.read_interactions": "reads files; its test gives it bad ones",
    "equipoise.data.Comparisons": "built from columns; its test gives it bad ones",
    "equipoise.data.PartialRankingWorld": "a result that the library makes",
    "equipoise.data.PairCounts": "counted from comparisons",
    "equipoise.data.ComparisonTable": "what a reader returns",
    "equipoise.data.ComparisonTally": "reads files; its test gives it bad ones",
    "equipoise.data.CountedComparisons": "what a reader returns",
    "equipoise.data.read_comparisons": "reads files; its test gives it bad ones",
    "equipoise.data.TripletTable": "what a reader returns",
    "equipoise.data.as_quadruples": "of checked triplets",
    "equipoise.data.check_triplets": "checks by itself; its test gives it bad ones",
    "equipoise.data.check_quadruples": "checks by itself; its test gives it bad ones",
    "equipoise.data.read_triplets": "reads files; its test gives it bad ones",
    "equipoise.data.Clicks": "built from lists; its test gives it bad ones",
    "equipoise.data.InterestWorld": "a result that the library makes",
    "equipoise.data.ClickWorld": "a result that the library makes",
    "equipoise.data.PaddedHistories": "a result that the library makes",
    "equipoise.data.pad_histories": "takes lists of lists; its test gives it bad ones",
    "equipoise.data.CORRUPTIONS": "a table of functions that `corrupt` checks the inputs of",
    "equipoise.data.read_cifar": "reads files; its test gives it bad ones",
    "equipoise.data.read_item_lists": "reads files; its test gives it bad ones",
    "equipoise.data.read_table": "reads files; its test gives it bad ones",
    "equipoise.data.load_npz_tables": "reads files; its test gives it bad ones",
    "equipoise.data.load_dataset": "takes a name only; its test gives it a wrong one",
    "equipoise.data.list_datasets": "takes nothing that could be wrong",
    "equipoise.data.DatasetInfo": "a result that the library makes",
    "equipoise.data.EmbeddedTable": "a result that the library makes",
    "equipoise.data.TableTask": "a result that the library makes",
    "equipoise.data.table_task": "takes frames and names of columns; its test gives it bad ones",
    "equipoise.data.TableEncoder": "a transformer of frames, held by its own test",
    "equipoise.data.make_encoder": "takes a name only; its test gives it a wrong one",
}
