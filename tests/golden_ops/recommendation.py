"""Ops of `dpcml`, `dpcml-plus` and `sfcml`."""

from __future__ import annotations

from equipoise.recsys import (
    diversity_control,
    dpcml_triplet_loss,
    full_pairwise_hinge,
    max_sum_dispersion,
    metrics_per_user,
    multi_vector_distance,
    num_interests,
    preference_diversity,
    ranking_metrics,
    sampling_quantile_weight,
    sampling_total_variation,
    sfcml_loss,
    sfcml_user_solution,
    topk_negative_loss,
)
from golden_ops import Ops, renamed

ops = Ops()


def _with_gradients(function, inputs, params, **names):
    """The outputs of `function`, and the gradients of its loss in some inputs under the names the cases use."""
    leaves = {name: inputs[name].detach().double().clone().requires_grad_() for name in names}
    found = function(**{**inputs, **leaves}, **params)
    outputs = found._asdict() if isinstance(found, tuple) else {"loss": found}
    outputs["loss"].backward()
    return {**outputs, **{called: leaves[name].grad for name, called in names.items()}}


@ops("dpcml", "multi_vector_distance")
@ops("dpcml-plus", "multi_vector_distance")
def distance(inputs, params):
    return {"distance": multi_vector_distance(**inputs, **params)}


@ops("dpcml", "dpcml_triplet_loss")
def triplets(inputs, params):
    return {"loss": dpcml_triplet_loss(**inputs, **params)}


@ops("dpcml", "full_pairwise_hinge")
def full_hinge(inputs, params):
    return _with_gradients(full_pairwise_hinge, inputs, params, distance="grad")


@ops("dpcml", "diversity_control")
@ops("dpcml-plus", "diversity_control")
def diversity(inputs, params):
    return _with_gradients(diversity_control, inputs, params, user="grad")


@ops("dpcml", "ranking_metrics")
def metrics(inputs, params):
    options = renamed(params, {"k": "k", "min_test": "min_test"})
    k = int(options["k"])
    found = ranking_metrics(inputs["scores"], inputs["relevant"], inputs["exclude"], **options)
    names = {"precision": f"precision@{k}", "recall": f"recall@{k}", "ndcg": f"ndcg@{k}", "hit": f"hit_rate@{k}"}
    return {name: found[names.get(name, name)] for name in (*names, "map", "mrr", "auc", "num_users")}


@ops("dpcml", "max_sum_dispersion")
def dispersion(inputs, params):
    return {"value": max_sum_dispersion(**inputs, **params)}


@ops("dpcml", "preference_diversity")
def tags(inputs, params):
    return {"value": preference_diversity(**inputs, **params)}


@ops("dpcml-plus", "num_interests")
def interests(inputs, params):
    return {"num_vectors": num_interests(**inputs, **params)}


@ops("dpcml-plus", "topk_negative_loss")
def nearest_negatives(inputs, params):
    return _with_gradients(topk_negative_loss, inputs, params, pos_distance="grad_pos", neg_distance="grad_neg")


@ops("dpcml-plus", "opauc")
def partial_area(inputs, params):
    options = renamed(params, {"beta": "max_fpr"})
    values, _ = metrics_per_user(inputs["score"][None], inputs["target"][None], k=1, **options)
    return {"value": values["opauc"][0]}


@ops("dpcml-plus", "sampling_quantile_weight")
def quantile_weight(inputs, params):
    return {"weight": sampling_quantile_weight(**inputs, **params)}


@ops("sfcml", "sfcml_loss")
def sampling_free(inputs, params):
    return {"loss": sfcml_loss(**inputs, **params)}


@ops("sfcml", "sfcml_user_solution")
def solution(inputs, params):
    return sfcml_user_solution(**inputs, **params)._asdict()


@ops("sfcml", "sampling_total_variation")
def variation(inputs, params):
    return {"value": sampling_total_variation(**inputs, **params)}
