"""SSE-SAM: the head leaves its saddles first, the tail is favoured later."""

from __future__ import annotations

from equipoise.claims.lab.long_tails import digits, gaussians
from equipoise.claims.lab.sharp_arms import compare
from equipoise.claims.model import Bound, Claim, Experiment, Gain

_ARMS = ("SGD", "SAM", "ImbSAM", "SSE-SAM")


def _ratios(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    ours = found["SSE-SAM"]
    ratios = {
        "head, of ImbSAM's": ours["head sharpness"] / found["ImbSAM"]["head sharpness"],
        "tail, of ImbSAM's": ours["tail sharpness"] / found["ImbSAM"]["tail sharpness"],
        "tail, of SGD's": ours["tail sharpness"] / found["SGD"]["tail sharpness"],
    }
    return {**found, "sharpness of SSE-SAM": ratios}


def _digits(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    return _ratios(compare(digits(seed), _ARMS, 60, seed))


def _gaussians(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    return _ratios(compare(gaussians(seed), _ARMS, 40, seed))


_SETTINGS = (
    "MLP with two hidden layers of 64, logit adjustment with tau 1, SGD (lr .1 cosine, momentum .9, weight decay "
    "5e-4), batch 64, {epochs} epochs; rho .2 for SAM, ImbSAM and the tail of SSE-SAM, .05 for its head up to 70 % of "
    "the epochs; eta 20. Sharpness: rise of a class's mean cross-entropy at distance .5; head: the 4 largest classes, "
    "tail: the 3 smallest. Same first weights and batches for every arm of a seed."
)
_BALANCED = "balanced accuracy"

CLAIM = Claim(
    slug="sse-sam",
    statement=(
        "Perturbing for head and tail each by its own loss, and for the tail alone in the last phase, leaves the head "
        "flatter than ImbSAM does and the tail as flat."
    ),
    experiments=(
        Experiment(
            name="Long-tailed digits",
            protocol="scikit-learn's digits, 120 · 0.03^(c/9) training samples, 50 a class for test. "
            + _SETTINGS.format(epochs=60),
            run=_digits,
            parts=(
                Gain("the head is flatter than with ImbSAM", "SSE-SAM", "ImbSAM", "head sharpness", 0.1, False),
                Gain("the tail is flatter than with SGD", "SSE-SAM", "SGD", "tail sharpness", 1.0, False),
                Gain("balanced accuracy against SGD", "SSE-SAM", "SGD", _BALANCED, 0.5),
                Bound("head under .9 of ImbSAM's", "sharpness of SSE-SAM", "head, of ImbSAM's", at_most=0.9),
                Bound("tail under .6 of SGD's", "sharpness of SSE-SAM", "tail, of SGD's", at_most=0.6),
                Bound("tail at most 1.1 of ImbSAM's", "sharpness of SSE-SAM", "tail, of ImbSAM's", at_most=1.1),
                Gain("against SAM", "SSE-SAM", "SAM", _BALANCED, 0.5, asserted=False),
                Gain("against ImbSAM", "SSE-SAM", "ImbSAM", _BALANCED, 0.5, asserted=False),
            ),
        ),
        Experiment(
            name="Gaussian classes",
            protocol="10 classes in 16 dimensions, centres at distance 3.5, unit noise, 200 · 0.02^(c/9) training "
            "samples, 200 a class for test. " + _SETTINGS.format(epochs=40),
            run=_gaussians,
            parts=(
                Gain("the head is flatter than with ImbSAM", "SSE-SAM", "ImbSAM", "head sharpness", 0.1, False),
                Gain("the tail is flatter than with SGD", "SSE-SAM", "SGD", "tail sharpness", 1.0, False),
                Gain("balanced accuracy against SGD", "SSE-SAM", "SGD", _BALANCED, 0.5),
                Gain("against SAM", "SSE-SAM", "SAM", _BALANCED, 0.5, asserted=False),
                Gain("against ImbSAM", "SSE-SAM", "ImbSAM", _BALANCED, 0.5, asserted=False),
            ),
        ),
    ),
    caveats=(
        "The comparison is of losses divided by the whole batch in every arm; the authors' ImbSAM divides each part by "
        "its own size.",
        "The paper's CIFAR-LT tables are not repeated here.",
    ),
)
