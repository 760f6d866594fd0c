"""Ops of `si-sod` and `siopt`."""

from __future__ import annotations

import torch

from equipoise import dense
from golden_ops import Ops, renamed

ops = Ops()
_MEASURED = {
    name: name for name in ("beta2", "num_levels", "min_area", "normalize", "s_alpha", "wf_beta2", "aggregate")
}
_LOSS = {name: name for name in ("base", "background", "alpha", "reduction", "min_area", "gamma")}


@ops("si-sod", "saliency_metrics")
def saliency_metrics(inputs, params):
    return dense.saliency_metrics(inputs["pred"].double(), inputs["gt"], **renamed(params, _MEASURED))


@ops("siopt", "structural_saliency_metrics")
def structural_saliency_metrics(inputs, params):
    return dense.structural_saliency_metrics(inputs["pred"].double(), inputs["gt"], **renamed(params, _MEASURED))


@ops("siopt", "SaliencyReport")
def report(inputs, params):
    made = dense.SaliencyReport(**renamed(params, _MEASURED))
    maps, masks = (
        [torch.as_tensor(each) for each in inputs[name]] if isinstance(inputs[name], list) else list(inputs[name])
        for name in ("pred", "gt")
    )
    made.update([each.double() for each in maps], masks)
    return made.compute()


@ops("si-sod", "SizeInvariantLoss")
@ops("siopt", "SizeInvariantLoss")
def size_invariant_loss(inputs, params):
    return {"loss": dense.SizeInvariantLoss(**renamed(params, _LOSS))(inputs["logits"].double(), inputs["target"])}
