"""Ops of `hybrid-generative-fusion`."""

from __future__ import annotations

from equipoise import generative
from golden_ops import Ops, renamed

ops = Ops()
_SAME = {
    name: name
    for name in (
        "threshold", "min_samples", "initial_threshold", "min_fraction", "max_fraction", "step", "max_iter", "bounds",
        "mode", "min_images", "synthetic_first", "allow_short", "weights", "bound",
    )
}  # fmt: skip


def _rows(value):
    """No rows arrive without a width."""
    return value.double() if value.ndim == 2 else value.double().reshape(0, 1)


def _settings(params):
    return renamed(params, _SAME)


@ops("hybrid-generative-fusion", "largest_consistent_cluster")
def largest_consistent_cluster(inputs, params):
    return {"indices": generative.largest_consistent_cluster(_rows(inputs["embeddings"]), **_settings(params))}


@ops("hybrid-generative-fusion", "auto_threshold_cluster")
def auto_threshold_cluster(inputs, params):
    return generative.auto_threshold_cluster(_rows(inputs["embeddings"]), **_settings(params))._asdict()


@ops("hybrid-generative-fusion", "combine_cleaners")
def combine_cleaners(inputs, params):
    members = inputs["members"].tolist()
    outliers = {int(each) for each in inputs["judge_outliers"]}
    kept = [int(each) for each in inputs["cluster_keep"]], [each for each in members if each not in outliers]
    return {"kept": generative.combine_cleaners(members, *kept, **_settings(params))}


@ops("hybrid-generative-fusion", "leakage_check")
def leakage_check(inputs, params):
    both = inputs["candidates"].double(), inputs["reference"].double()
    return generative.leakage_check(*both, **_settings(params))._asdict()


@ops("hybrid-generative-fusion", "greedy_separation")
def greedy_separation(inputs, params):
    return {"kept": generative.greedy_separation(_rows(inputs["identity_embeddings"]), **_settings(params))}


@ops("hybrid-generative-fusion", "replace_small_identities")
def replace_small_identities(inputs, params):
    given = dict(inputs["image_counts"]), list(inputs["synthetic_identities"])
    return generative.replace_small_identities(*given, **_settings(params))._asdict()
