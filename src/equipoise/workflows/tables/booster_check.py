"""Whether the file of a booster is sound enough to be given to its library, which may bring the process down otherwise.

Checked is what prediction walks along: every tree has as many children, features and thresholds as it has splits, every
child comes after its parent, every feature is one of the encoder's, and leaves are finite.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SPLITS, _NUMBERS = ("split_feature", "left_child", "right_child"), ("threshold", "decision_type", "leaf_value")


def check_booster(path: Path, *, features: int, outputs: int) -> None:
    """Read the trees of `booster.txt` (LightGBM) or `booster.json` (XGBoost).

    Args:
        path: the file.
        features: columns of the matrix that it will be asked about.
        outputs: trees per round: 1 for two classes, else one per class.

    Raises:
        ValueError: if it is no sound booster of that size; wrong types raise what Python does.
    """
    text = path.read_text(encoding="utf-8")
    (_check_xgboost if path.suffix == ".json" else _check_lightgbm)(text, features, outputs)


def _check_lightgbm(text: str, features: int, outputs: int) -> None:
    head, mark, rest = text.partition("\nTree=0\n")
    body, end, _ = rest.partition("end of trees")
    header = _lines(head)
    _require(text.startswith("tree\n") and bool(mark) and bool(end), "it has no trees")
    _require(int(header["max_feature_idx"]) == features - 1, f"it is not for {features} columns")
    _require(len(header["feature_infos"].split()) == features, f"it is not for {features} columns")
    _require(int(header["num_class"]) == int(header["num_tree_per_iteration"]) == outputs, "it has other classes")
    body = mark[1:] + body
    sizes = [int(size) for size in header["tree_sizes"].split()]
    _require(len(body.encode()) == sum(sizes) and min(sizes) > 0, "its trees have other sizes than it says")
    trees = re.split(r"^Tree=\d+\n", body, flags=re.MULTILINE)[1:]
    _require(len(trees) == len(sizes) and len(trees) % outputs == 0, "it lacks trees")
    for number, (size, tree) in enumerate(zip(sizes, trees, strict=True)):
        _require(len(f"Tree={number}\n{tree}".encode()) == size, "its trees have other sizes than it says")
        found = _lines(tree)
        leaves = int(found["num_leaves"])
        _require(found["num_cat"] == found["is_linear"] == "0", "it has trees of another kind")
        split, left, right = ([int(x) for x in found[key].split()] for key in _SPLITS)
        threshold, decision, values = ([float(x) for x in found[key].split()] for key in _NUMBERS)
        _require(len(threshold) == len(decision) == leaves - 1 and len(values) == leaves, "a tree is cut off")
        # A child below zero is the leaf -1 - child.
        _check_tree(split, left, right, values, nodes=leaves - 1, leaves=range(-leaves, 0), features=features)


def _check_xgboost(text: str, features: int, outputs: int) -> None:
    learner = json.loads(text)["learner"]
    booster = learner["gradient_booster"]
    _require(booster["name"] == "gbtree", "it has trees of another kind")
    _require(int(learner["learner_model_param"]["num_feature"]) == features, f"it is not for {features} columns")
    model = booster["model"]
    trees, rounds = model["trees"], model["iteration_indptr"]
    _require(len(trees) == len(model["tree_info"]) == int(model["gbtree_model_param"]["num_trees"]), "it lacks trees")
    _require(set(model["tree_info"]) == set(range(outputs)), "it has other classes")
    _require(rounds == list(range(0, len(trees) + 1, outputs)), "it lacks trees")
    for tree in trees:
        nodes = int(tree["tree_param"]["num_nodes"])
        keys = ("split_conditions", "default_left", "split_type", "base_weights", "sum_hessian", "loss_changes")
        _require(all(len(tree[key]) == nodes for key in (*keys, "parents")), "a tree is cut off")
        _require(not any(tree["split_type"]) and not tree["categories"], "it has trees of another kind")
        _check_tree(
            tree["split_indices"],
            tree["left_children"],
            tree["right_children"],
            tree["split_conditions"],
            nodes=nodes,
            leaves=range(-1, 0),
            features=features,
        )


def _check_tree(
    split: Sequence[int],
    left: Sequence[int],
    right: Sequence[int],
    values: Sequence[float],
    *,
    nodes: int,
    leaves: range,
    features: int,
) -> None:
    _require(len(split) == len(left) == len(right) == nodes, "a tree is cut off")
    _require(all(0 <= feature < features for feature in split), f"it is not for {features} columns")
    for children in (left, right):
        sound = (child in leaves or parent < child < nodes for parent, child in enumerate(children))
        _require(all(sound), "a tree leads nowhere")
    _require(all(math.isfinite(value) for value in values), "a tree holds a value that is not finite")


def _lines(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _require(held: Any, words: str) -> None:
    if not held:
        raise ValueError(words)
