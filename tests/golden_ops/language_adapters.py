"""Ops of `tucka`."""

from __future__ import annotations

from equipoise.core.models.low_rank import lora_parameter_count
from equipoise.language import (
    tucka_data_aware_init,
    tucka_linear,
    tucka_merged_weight,
    tucka_parameter_count,
    tucka_routing,
)
from golden_ops import Ops

ops = Ops()


@ops("tucka", "tucka_linear")
def layer(inputs, params):
    found = tucka_linear(
        inputs["x"],
        inputs["weight"],
        inputs.get("bias"),
        inputs["core"],
        inputs["factor"],
        inputs["expert_coef"],
        inputs["centroids"],
        k=params["k"],
        t=params["t"],
        alpha=params["alpha"],
        mask=inputs.get("mask"),
        routing=params.get("routing", "batch"),
    )
    loss = found.output.square().mean()
    answer = {**found._asdict(), "loss": loss, "loss_mean_square": loss}
    if found.mixed_core.ndim == 2:
        answer["merged_weight"] = tucka_merged_weight(
            inputs["weight"], inputs["factor"], found.mixed_core, alpha=params["alpha"]
        )
    return answer


@ops("tucka", "tucka_data_aware_init")
def first_centroids(inputs, params):
    centroids = tucka_data_aware_init(inputs["batch_mean"], inputs["uniform01"], params["perturb_scale"])
    found = tucka_routing(inputs["batch_mean"], centroids, k=params["k"], t=params["t"])
    return {
        "centroids": centroids,
        "affinity": found.affinity,
        "group": found.route.group,
        "expert_weights": found.route.weights,
    }


@ops("tucka", "tucka_param_count")
def parameters(inputs, params):
    counts = []
    for d, o, r, k, t, p, layers in inputs["din_dout_r_k_t_p_layers"].tolist():
        sizes = {"r": r, "k": k, "t": t, "p": p, "layers": layers}
        counts.append(
            {
                "tucka": tucka_parameter_count(d, **sizes),
                "tucka_router_per_layer": tucka_parameter_count(d, **sizes, router_per_layer=True),
                "lora": lora_parameter_count(d, o, r, layers),
            }
        )
    return {"counts": counts}
