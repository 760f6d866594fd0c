"""Ops of `voice-face`."""

from __future__ import annotations

from equipoise import multimodal
from golden_ops import Ops, renamed

ops = Ops()


def _double(inputs, *names):
    return [inputs[name].double() for name in names]


@ops("voice-face", "cross_modal_npair_loss")
def cross_modal_npair_loss(inputs, params):
    options = renamed(params, {"offset": "offset", "reduction": "reduction"})
    face, voice = _double(inputs, "face", "voice")
    identity = inputs.get("identity")
    given = face, voice, None if identity is None else identity.long()
    losses = multimodal.cross_modal_npair_loss(*given, **{**options, "reduction": "none"})
    return {"per_sample": losses, "loss": multimodal.cross_modal_npair_loss(*given, **options)}


@ops("voice-face", "shared_identity_loss")
def shared_identity_loss(inputs, params):
    options = renamed(params, {"reduction": "reduction"})
    face, voice, classifier = _double(inputs, "face", "voice", "classifier")
    weight = inputs.get("weight")
    given = face, voice, classifier, inputs["identity"].long(), None if weight is None else weight.double()
    losses = multimodal.shared_identity_loss(*given, **{**options, "reduction": "none"})
    return {"per_sample": losses, "loss": multimodal.shared_identity_loss(*given, **options)}


@ops("voice-face", "IdentityReweighter")
def identity_reweighter(inputs, params):
    names = ("num_identities", "start_fraction", "step_fraction", "decay", "max_fraction", "momentum")
    settings = {name: value for name, value in params.items() if name != "n_updates"}
    # The cases go on where a step admits nobody, as the formula does.
    reweighter = multimodal.IdentityReweighter(**renamed(settings, {name: name for name in names}), on_stall="keep")
    if inputs.get("loss_ema") is not None:
        reweighter.loss_ema.copy_(inputs["loss_ema"])
    for _ in range(params["n_updates"]):
        reweighter.update()
    return {
        "raw_weight": reweighter.raw_weight,
        "normalized_weight": reweighter.normalized_weight,
        "active_fraction": reweighter.active_fraction,
    }


@ops("voice-face", "matching_accuracy")
def matching_accuracy(inputs, params):
    options = renamed(params, {"n_way": "n_way", "ties": "ties"})
    return {"accuracy": multimodal.matching_accuracy(*_double(inputs, "query", "candidates"), **options)}


@ops("voice-face", "retrieval_and_verification")
def retrieval_and_verification(inputs, params):
    renamed(params, {})
    given = *_double(inputs, "query", "gallery"), inputs["query_identity"].long(), inputs["gallery_identity"].long()
    groups = {name: inputs[name] for name in ("query_group", "gallery_group") if inputs.get(name) is not None}
    return {
        "mAP": multimodal.cross_modal_retrieval_map(*given, **groups),
        "verification_auc": multimodal.verification_auc(*given, **groups),
    }
