"""Ops of `mixbridge`."""

from __future__ import annotations

from equipoise import generative
from golden_ops import Ops, renamed

ops = Ops()
_SCHEDULE = {name: name for name in ("num_steps", "beta_start", "beta_max", "ot_ode")}
_COLUMNS = ("beta", "std_fwd", "std_bwd", "mu_x0", "mu_x1", "std_bridge")


def _schedule(params):
    return generative.BridgeSchedule(**renamed(params, _SCHEDULE))


@ops("mixbridge", "bridge_schedule")
def bridge_schedule(inputs, params):
    schedule, steps = _schedule(params), inputs.get("steps", slice(None))
    return {name: getattr(schedule, name)[steps] for name in _COLUMNS}


@ops("mixbridge", "bridge_posterior")
def bridge_posterior(inputs, params):
    steps = {name: int({**inputs, **params}[name]) for name in ("step", "step_prev")}
    schedule = _schedule({name: value for name, value in params.items() if name not in steps})
    return schedule.posterior(inputs["x_n"].double(), inputs["x0"].double(), **steps)._asdict()


@ops("mixbridge", "bridge_training_pair")
def bridge_training_pair(inputs, params):
    step = {**inputs, **params}["step"]
    schedule = _schedule({name: value for name, value in params.items() if name != "step"})
    # One step of all is a number.
    step = step if getattr(step, "ndim", 0) else int(step)
    x0, x1 = inputs["x0"].double(), inputs["x1"].double()
    noise = inputs["noise"].double() if "noise" in inputs else None
    x_t = schedule.sample(x0, x1, step, noise)
    label = schedule.label(x_t, x0, step)
    return {"x_t": x_t, "label": label, "pred_x0": schedule.predict_x0(x_t, label, step)}


@ops("mixbridge", "space_indices")
def space_indices(inputs, params):
    return {"indices": generative.space_indices(**renamed(params, {"num_steps": "num_steps", "count": "count"}))}


@ops("mixbridge", "weight_reallocation_loss")
def weight_reallocation_loss(inputs, params):
    given = [inputs[name].double() for name in ("expert_outputs", "router_logits", "target")]
    terms = generative.weight_reallocation_terms(*given, **renamed(params, {"weight": "weight"}))
    return {
        **terms._asdict(),
        "router_entropy": generative.router_entropy(terms.weights),
        "mean_entropy": generative.router_entropy(terms.weights, mean_first=True),
    }


@ops("mixbridge", "gaussian_geometric_mean")
def gaussian_geometric_mean(inputs, params):
    given = [inputs[name].double() for name in ("weight", "mean", "std")]
    return generative.gaussian_geometric_mean(*given)._asdict()


@ops("mixbridge", "nearest_target_index")
def nearest_target_index(inputs, params):
    return {"index": generative.nearest_target_index(inputs["images"].double(), inputs["targets"].double())}
