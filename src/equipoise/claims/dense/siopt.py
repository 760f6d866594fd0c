"""Ranking within the frames of objects, the pair loss from moments, and what a larger copy of an object changes."""

# The names of bases are read from a table, where mypy takes them for any string.
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from equipoise.claims.lab.salient_ellipses import IMAGES, STEPS, judge, train
from equipoise.claims.lab.tuning import Setting, Tuning, grid
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.dense import SizeInvariantLoss, bipartite_square_loss, saliency_metrics

_BOTH, _SI, _PLAIN = "SI-BCE and SI-AUC", "SI-BCE", "BCE"
_BASES = {_BOTH: ("bce", "auc"), _SI: ("bce",)}


def _loss(arm: str) -> nn.Module:
    return SizeInvariantLoss(_BASES[arm]) if arm in _BASES else nn.BCEWithLogitsLoss()


def _run(seed: int, quick: bool, settings: dict[str, Setting]) -> dict[str, dict[str, float]]:
    steps, images = (10, 16) if quick else (STEPS, IMAGES)
    return {
        arm: judge(train(setting, _loss(arm), seed, steps, images), seed, images) for arm, setting in settings.items()
    }


def _score(arm: str, setting: Setting, seed: int) -> float:
    return judge(train(setting, _loss(arm), seed, STEPS, IMAGES), seed, IMAGES)["SI-F, mean"]


def _pairs(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """The loss of a frame of 64 × 64 over all pairs, and from moments, each with its gradient."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(4096, generator=generator) < 0.4).long()
    scores = torch.rand(4096, generator=generator)

    def of_pairs(x: Tensor) -> Tensor:
        return ((1 - (x[labels == 1][:, None] - x[labels == 0][None])) ** 2).mean()

    def taken(function: Callable[[Tensor], Tensor]) -> tuple[float, Tensor, float]:
        best = float("inf")
        for _ in range(3 if quick else 7):
            x = scores.clone().requires_grad_()
            start = time.process_time()
            value = function(x)
            value.backward()
            best = min(best, time.process_time() - start)
        assert x.grad is not None
        return float(value.detach()), x.grad, best

    pairs, moments = taken(of_pairs), taken(lambda x: bipartite_square_loss(x, labels).sum())
    return {
        "moments": {
            "relative difference of the loss": abs(moments[0] / pairs[0] - 1),
            "relative difference of the gradient": float((moments[1] - pairs[1]).norm() / pairs[1].norm()),
            "time of pairs in that of moments": pairs[2] / moments[2],
        }
    }


def _copies(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """An object of 12 × 12 pixels once, twice and three times as large, beside one of 6 × 6 in 64 × 64."""
    generator = torch.Generator().manual_seed(seed)

    def noisy(side: int) -> tuple[Tensor, Tensor]:
        shape = torch.ones(side, side, dtype=torch.long)
        shape[:2, 0], shape[-1, -2:] = 0, 0
        return shape, (0.4 * shape + 0.6 * torch.rand(side, side, generator=generator)).double()

    object_, small = noisy(12), noisy(6)
    behind = 0.3 * torch.rand(64, 64, generator=generator).double()
    found = []
    for times in (1, 2, 3):
        mask, pred = torch.zeros(64, 64, dtype=torch.long), behind.clone()
        side = slice(2, 2 + 12 * times)
        mask[side, side], pred[side, side] = (
            each.repeat_interleave(times, 0).repeat_interleave(times, 1) for each in object_
        )
        mask[50:56, 50:56], pred[50:56, 50:56] = small
        found.append(saliency_metrics(pred, mask))

    def moved(name: str) -> float:
        values = [each[name] for each in found]
        return max(values) - min(values)

    names = {"F, mean": "f_mean", "AUC": "auc", "SI-AUC": "si_auc", "SI-MAE": "si_mae"}
    measures = {f"range of {title}": moved(name) for title, name in names.items()}
    # Of the curve without its lowest threshold, at which the whole image is taken.
    lowest = [_lowest(each["frames"]) for each in found]
    curves = [(256 * each["si_f_mean"] - low) / 255 for each, low in zip(found, lowest, strict=True)]
    measures["range of SI-F, mean"] = max(curves) - min(curves)
    return {"three sizes": measures}


def _lowest(frames: Tensor) -> float:
    """SI-F at the lowest threshold, where all 64 × 64 pixels are salient; objects lack four pixels of their frames."""
    top, bottom, left, right = frames.unbind(1)
    size = (bottom - top).double()
    # The corners that are cut off scale with the object: 4 pixels of 12 × 12, and 4 of 6 × 6.
    unit = torch.where(size > 6, size / 12, size / 6)
    precision = (size * (right - left) - 4 * unit**2) / 4096
    return float((1.3 * precision / (0.3 * precision + 1)).mean())


CLAIM = Claim(
    slug="siopt",
    statement=(
        "Any measure and any loss of salient objects can be made blind to size, frame by frame. Ranking the pixels of "
        "each frame adds to it, and its pairs need not be listed."
    ),
    experiments=(
        Experiment(
            name="Pairs from moments",
            protocol=(
                "A frame of 64 × 64 pixels with random scores, four in ten of which are positive: the square loss over "
                "all pairs and its gradient, from the list of pairs and from moments, the fastest of seven by "
                "processor time."
            ),
            run=_pairs,
            parts=(
                Bound("the loss is the same", "moments", "relative difference of the loss", at_most=1e-6),
                Bound("so is its gradient", "moments", "relative difference of the gradient", at_most=1e-5),
                Bound("moments are 20 times as fast", "moments", "time of pairs in that of moments", at_least=20.0),
            ),
        ),
        Experiment(
            name="A larger copy of an object",
            protocol=(
                "A noisy map of an object of 12 × 12 pixels and one of 6 × 6 in 64 × 64; the first, with its map, is "
                "enlarged twice and three times by repeating pixels. How far each measure ranges over the three. The "
                "mean of SI-F leaves out the lowest threshold, at which all pixels of the image are salient by "
                "definition."
            ),
            run=_copies,
            parts=(
                Bound("SI-F does not change", "three sizes", "range of SI-F, mean", at_most=1e-9),
                Bound("SI-AUC does not change", "three sizes", "range of SI-AUC", at_most=1e-12),
                Bound("F changes by more than .02", "three sizes", "range of F, mean", at_least=0.02),
                Bound("AUC changes", "three sizes", "range of AUC", at_least=1e-4),
                Bound("SI-MAE may change", "three sizes", "range of SI-MAE", at_least=0.0, asserted=False),
            ),
        ),
        Experiment(
            name="One large ellipse and some small ones",
            protocol=(
                "Pictures of 40 × 40: the mask plus .8 N(0, 1), with one ellipse of sides 15 to 16 and one to three of "
                "sides 3 to 4, a pixel apart; 96 to train on, 96 fresh ones to test. Three 3 × 3 convolutions of 12 "
                "channels, dilated by 1, 2 and 4, with batch normalisation, and one of 1 × 1; 150 steps of Adam on 8 "
                "pictures. γ = 1, the two losses are added. Each arm has learning rates of .002, .005 and .01 to "
                "choose from, by the mean SI-F on three other seeds."
            ),
            run=_run,
            parts=(
                Gain("SI-AUC is higher by .003 with the ranking loss", _BOTH, _SI, "SI-AUC", 0.003),
                Gain("the mean SI-F is higher, too", _BOTH, _SI, "SI-F, mean", 0.002),
                Gain("SI-MAE is below that of BCE", _BOTH, _PLAIN, "SI-MAE", 0.01, higher_is_better=False),
                Gain("SI-MAE of SI-BCE is, too", _SI, _PLAIN, "SI-MAE", 0.01, higher_is_better=False),
                Gain("MAE is below that of BCE", _BOTH, _PLAIN, "MAE", 0.005, higher_is_better=False, asserted=False),
            ),
            seeds=tuple(range(6)),
            tuning=Tuning({arm: grid(lr=(0.005, 0.002, 0.01)) for arm in (_BOTH, _SI, _PLAIN)}, _score),
        ),
    ),
    caveats=(
        "Drawn ellipses and a network of a few thousand weights. The paper's networks, its data sets of RGB, depth and "
        "thermal pictures, foundation models and the bound on generalisation are not part of this claim.",
    ),
)
