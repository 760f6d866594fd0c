"""Ops of `interneg`; its `ood_metrics` is with `openauc`."""

from __future__ import annotations

import torch

from equipoise.openworld.prompts import negative_bank, negative_texts
from golden_ops import Ops, renamed

ops = Ops()


def _floats(inputs, *names):
    return [inputs[name].double() for name in names]


@ops("interneg", "select_negative_texts")
def select_negative_texts(inputs, params):
    options = renamed(params, {"m": "m", "chunk": "chunk"})
    return negative_texts.select_negative_texts(
        *_floats(inputs, "id_text", "id_image_proxies", "candidates"), **options
    )._asdict()


@ops("interneg", "grouped_negative_score")
def grouped_negative_score(inputs, params):
    images, text, negatives = _floats(inputs, "image_features", "id_text", "negative_text")
    options = renamed(params, {"scale": "scale", "groups": "groups"})
    order = inputs.get("permutation")
    return {
        "score": negative_texts.grouped_negative_score(images, text, negatives, permutation=order, **options),
        "mcm": negative_texts.mcm_score(images, text, scale=params.get("scale", 100.0)),
    }


@ops("interneg", "update_negative_bank")
def update_negative_bank(inputs, params):
    options = renamed(params, {"capacity": "capacity"})
    bank, new, base = _floats(inputs, "bank_deviation", "new_similarity", "base_similarity")
    found = negative_bank.update_negative_bank(bank, new.reshape(-1, len(base)), base, **options)
    return {
        "accepted": found.accepted,
        "bank_deviation": found.deviation,
        "from_bank": found.from_bank.to(torch.long),
        "source_index": found.source_index,
    }
