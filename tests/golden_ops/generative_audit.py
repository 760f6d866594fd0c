"""Ops of `blackmirror`."""

from __future__ import annotations

from equipoise import generative
from golden_ops import Ops, renamed

ops = Ops()


def _names(value):
    """An empty list arrives as a tensor without values."""
    return value if isinstance(value, list) else []


@ops("blackmirror", "mirror_match")
def mirror_match(inputs, params):
    pairs = {frozenset(pair) for pair in params.get("synonyms", [])}
    answers = [_names(answer) for answer in inputs["response_answers"]]
    # Votes that are not there named nothing.
    answers += [[]] * (params.get("num_votes", 0) - len(answers))
    found = generative.mirror_match(
        _names(inputs["instruction_objects"]), answers, lambda one, other: frozenset((one, other)) in pairs
    )
    names = {name: list(getattr(found, name)) for name in ("safe", "new", "lost")}
    return {"response_votes": found.votes, **names}


@ops("blackmirror", "mirror_verify")
def mirror_verify(inputs, params):
    given = renamed(params, {"threshold": "threshold"})
    new, lost = _names(inputs["new"]), _names(inputs["lost"])
    p_yes = inputs["p_yes"].double().reshape(len(new) + len(lost), -1 if new or lost else 0)
    found = generative.mirror_verify(new, lost, p_yes, **given)
    return found._asdict()


@ops("blackmirror", "yes_no_probability")
def yes_no_probability(inputs, params):
    p_yes = generative.yes_no_probability(inputs["logit_yes"].double(), inputs["logit_no"].double())
    return {"p_yes": p_yes, "mean": p_yes.mean()}


@ops("blackmirror", "detection_metrics")
def detection_metrics(inputs, params):
    return generative.detection_metrics(inputs["score"].double(), inputs["label"], **params)
