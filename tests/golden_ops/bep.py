"""Ops of `bep`."""

from __future__ import annotations

from equipoise.recsys import bubble_escape_potential, user_traits
from golden_ops import Ops, renamed

ops = Ops()


@ops("bep", "bubble_escape_potential")
def potential(inputs, params):
    options = renamed(params, {name: name for name in ("diversity", "weighting", "correction")})
    beside = options.get("diversity") == "jensen_shannon"
    if beside:
        del options["diversity"]
    found = bubble_escape_potential(**inputs, **options)
    per_user = found.jensen_shannon if beside else found.per_user
    return {"value": per_user.mean() if beside else found.value, "per_user": per_user}


@ops("bep", "user_traits")
def traits(inputs, params):
    return user_traits(**inputs, **params)._asdict()
