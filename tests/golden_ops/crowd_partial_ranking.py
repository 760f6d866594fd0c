"""Ops of `isplit-lbi` about answers with ties and the path."""

from __future__ import annotations

import torch

from equipoise.crowd import (
    SplitState,
    group_shrink,
    split_lbi_step,
    tie_log_probabilities,
    tie_metrics,
    tie_nll,
    tie_probabilities,
)
from equipoise.data import Comparisons
from golden_ops import Ops

ops = Ops()
_PARTS = {"common": "common", "personal": "personal", "dual": "z", "gamma": "gamma"}


@ops("isplit-lbi", "tie_nll")
def nll(inputs, params):
    return {"loss": tie_nll(**inputs, **params)}


@ops("isplit-lbi", "tie_probabilities")
def probabilities(inputs, params):
    return {"prob": tie_probabilities(**inputs, **params)}


@ops("isplit-lbi", "tie_log_probabilities")
def log_probabilities(inputs, params):
    return {"log_prob": tie_log_probabilities(**inputs, **params)}


@ops("isplit-lbi", "group_shrink")
def shrink(inputs, params):
    return {"gamma": group_shrink(inputs["z"], **params)}


@ops("isplit-lbi", "split_lbi_step")
def step(inputs, params):
    parts = {
        part: torch.cat(
            [inputs[f"{name}_score"].double(), torch.as_tensor(inputs[f"{name}_threshold"]).double()[..., None]], -1
        )
        for part, name in _PARTS.items()
    }
    columns = (inputs[name].long() for name in ("user", "item_i", "item_j", "y"))
    users, width = parts["personal"].shape
    comparisons = Comparisons.from_columns(*columns, num_annotators=users, num_items=width - 1)
    found = split_lbi_step(SplitState(**parts), comparisons, **params)
    outputs = {}
    for part, name in _PARTS.items():
        outputs |= {f"{name}_score": getattr(found, part)[..., :-1], f"{name}_threshold": getattr(found, part)[..., -1]}
    return outputs


@ops("isplit-lbi", "tie_metrics")
def metrics(inputs, params):
    return tie_metrics(**inputs, **params)._asdict()
