"""BlackMirror: a hidden trigger shows in single elements of a picture, and does not go away with harmless phrases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from equipoise.claims.model import Bound, Claim, Experiment, Gain, Measures
from equipoise.core.models.two_tower import encode_texts
from equipoise.data.shapes import ATTACKS, CLASSES, SHAPES, Mistakes, PixelJudge, RenderedTextToImage, RuleTextJudge
from equipoise.data.tiny_clip import tiny_clip
from equipoise.generative import (
    BlackMirrorDetector,
    ClipDeviationDetector,
    GlobalSimilarityDetector,
    detection_metrics,
)
from equipoise.generative.audit.black_mirror import MaskMode
from equipoise.integrations.clip import CLIPTower

_PROMPTS, _QUICK, _THRESHOLD = 60, 8, 0.999
_RANDOM, _ALL, _MATCH = "BlackMirror", "BlackMirror, all phrases deleted", "matching only"
_PIXELS, _FEATURES, _DEVIATION = "similarity of pixels", "similarity of CLIP features", "deviation in CLIP"
_USUAL = Mistakes(missing=0.08, recoloured=0.05, extra=0.15)
_MANY = Mistakes(missing=0.3, recoloured=0.3, extra=0.3)
_LOWEST, _MEAN_FPR, _MEAN_F1 = "lowest AUC of the four", "mean FPR", "mean F1"


def _prompts(seed: int, n: int) -> tuple[list[str], Tensor]:
    """Prompts of two or three shapes, a circle among them, every other one with the trigger beside a phrase."""
    rng = np.random.default_rng([seed, 1])
    colours = sorted({colour for colour, _ in CLASSES})
    prompts = []
    for k in range(n):
        others = [str(shape) for shape in rng.permutation([s for s in SHAPES if s != "circle"])]
        shapes = [str(shape) for shape in rng.permutation(["circle", *others[: 1 + int(rng.integers(2))]])]
        phrases = [f"{colours[int(rng.integers(len(colours)))]} {shape}" for shape in shapes]
        if k % 2:
            at = int(rng.integers(len(phrases) + 1))
            phrases[min(at, len(phrases) - 1)] = f"zq {phrases[at]}" if at < len(phrases) else f"{phrases[-1]} zq"
        prompts.append(" and ".join(phrases))
    return prompts, torch.arange(n) % 2


@lru_cache(maxsize=1)
def _clip() -> tuple[Callable[[Tensor], Tensor], Callable[[Sequence[str]], Tensor]]:
    tower = CLIPTower.from_pretrained(tiny_clip())

    def images(pictures: Tensor) -> Tensor:
        with torch.no_grad():
            return tower.encode_image(2 * pictures - 1)

    return images, lambda prompts: encode_texts(tower, list(prompts))


def _pixels(pictures: Tensor) -> Tensor:
    flat = pictures.flatten(1)
    return F.normalize(flat - flat.mean(1, keepdim=True), dim=1)


def _one(attack: str, mistakes: Mistakes, seed: int, n: int) -> dict[str, dict[str, float]]:
    prompts, label = _prompts(seed, n)
    painter = RenderedTextToImage(mistakes=mistakes, attack=attack)
    judges = PixelJudge(noise=0.03, doubt=1.0), RuleTextJudge()
    found: dict[str, dict[str, float]] = {}
    modes: tuple[tuple[str, MaskMode], ...] = ((_RANDOM, "random"), (_ALL, "all"))
    for arm, mode in modes:
        detector = BlackMirrorDetector(painter, *judges, threshold=_THRESHOLD, mask_mode=mode, seed=1000 * seed)
        reports = detector.detect_all(prompts)
        scores = torch.tensor([report.score for report in reports], dtype=torch.float64)
        found[arm] = _measured(scores, label, _THRESHOLD)
        # A deviation is one before it is verified, too.
        deviates = torch.tensor([float(bool(report.suspicious)) for report in reports], dtype=torch.float64)
        found[_MATCH] = _measured(deviates, label, _THRESHOLD)
    images, texts = _clip()
    for arm, scores in (
        (_PIXELS, GlobalSimilarityDetector(painter, _pixels, seed=1000 * seed).score(prompts)),
        (_FEATURES, GlobalSimilarityDetector(painter, images, seed=1000 * seed).score(prompts)),
        (_DEVIATION, ClipDeviationDetector(painter, images, texts, seed=1000 * seed).score(prompts)),
    ):
        # The threshold that is best for F1 on these very prompts, which favours the baselines.
        best = max(scores.tolist(), key=lambda cut: float(detection_metrics(scores, label, cut)["f1"]))
        found[arm] = _measured(scores, label, best)
    return found


def _measured(scores: Tensor, label: Tensor, threshold: float) -> dict[str, float]:
    found = detection_metrics(scores, label, threshold)
    return {name: float(found[name]) for name in ("auc", "f1", "fpr")}


def _run(seed: int, quick: bool, mistakes: Mistakes) -> Measures:
    by_attack = {attack: _one(attack, mistakes, seed, _QUICK if quick else _PROMPTS) for attack in ATTACKS}
    measures: dict[str, dict[str, float]] = {}
    for arm in (_RANDOM, _ALL, _MATCH, _PIXELS, _FEATURES, _DEVIATION):
        aucs = {f"AUC, {attack}": found[arm]["auc"] for attack, found in by_attack.items()}
        means = {name: float(np.mean([found[arm][name] for found in by_attack.values()])) for name in ("fpr", "f1")}
        measures[arm] = {**aucs, _LOWEST: min(aucs.values()), _MEAN_FPR: means["fpr"], _MEAN_F1: means["f1"]}
    return measures


def _usual(seed: int, quick: bool) -> Measures:
    return _run(seed, quick, _USUAL)


def _many(seed: int, quick: bool) -> Measures:
    return _run(seed, quick, _MANY)


_PROTOCOL = (
    "60 prompts a seed, of two or three shapes with colours, a circle among them, half of them with the word zq before "
    "or after a phrase. The black box paints what is asked for, 16 x 16 pixels, and makes mistakes: {mistakes}, never "
    "with what an attack paints. With zq it swaps circles for crosses (object), adds a patch, paints stripes (style) "
    "or shows one fixed pair of objects (fix). The vision judge finds objects by rules, drops each with .03 in an "
    "answer, and answers yes or no with a logit of ±9 plus noise of standard deviation 1; the text judge reads the "
    "grammar. K = N = 5, threshold .999. Nothing is tuned: BlackMirror has the paper's defaults, the similarity of "
    "pictures is run on two kinds of features, and the baselines' thresholds are those of the highest F1 on the very "
    "prompts. A prompt with the trigger is a positive; the attack always shows."
)

CLAIM = Claim(
    slug="blackmirror",
    statement=(
        "From prompts and pictures alone, comparing what is asked for with what is seen, element by element, finds "
        "backdoors that swap an object, paste a patch, change the style or return a fixed picture; the similarity of "
        "whole pictures finds only the last. Verifying deviations on changed prompts removes most false alarms."
    ),
    experiments=(
        Experiment(
            name="Four attacks on a painter with usual mistakes",
            protocol=_PROTOCOL.format(
                mistakes="an object is missing with .08 or recoloured with .05, one too many is there with .15"
            ),
            run=_usual,
            parts=(
                Bound("the AUC is above .95 on all four attacks", _RANDOM, _LOWEST, at_least=0.95),
                Gain("verification lowers the rate of false alarms", _RANDOM, _MATCH, _MEAN_FPR, 0.15, False),
                Bound("similarity of pixels, fixed pictures", _PIXELS, "AUC, fix", at_least=0.9, asserted=False),
                Bound("similarity of CLIP features finds fixed pictures", _FEATURES, "AUC, fix", at_least=0.9),
                Bound("similarity of pixels, swapped objects", _PIXELS, "AUC, object", at_most=0.65, asserted=False),
                Bound("similarity of pixels, patches", _PIXELS, "AUC, patch", at_most=0.65, asserted=False),
                Bound(
                    "similarity of CLIP features does not find swapped objects", _FEATURES, "AUC, object", at_most=0.65
                ),
                Bound("similarity of CLIP features does not find patches", _FEATURES, "AUC, patch", at_most=0.65),
                Gain("lowest AUC beside the deviation in CLIP", _RANDOM, _DEVIATION, _LOWEST, 0.1),
                Gain("F1 beside the deviation in CLIP", _RANDOM, _DEVIATION, _MEAN_F1, 0.1),
                Gain("lowest AUC beside deleting all phrases", _RANDOM, _ALL, _LOWEST, 0.01, asserted=False),
                Gain("false alarms beside deleting all phrases", _RANDOM, _ALL, _MEAN_FPR, 0.01, False, asserted=False),
            ),
        ),
        Experiment(
            name="The same painter with many mistakes",
            protocol=_PROTOCOL.format(
                mistakes="an object is missing with .3 or recoloured with .3, one too many is there with .3"
            ),
            run=_many,
            parts=(
                Gain("verification lowers the rate of false alarms", _RANDOM, _MATCH, _MEAN_FPR, 0.15, False),
                Gain("lowest AUC beside matching only", _RANDOM, _MATCH, _LOWEST, 0.05),
                Bound("the lowest AUC of the four attacks", _RANDOM, _LOWEST, at_least=0.9, asserted=False),
                Bound("the rate of false alarms", _RANDOM, _MEAN_FPR, at_most=0.1, asserted=False),
            ),
        ),
    ),
    caveats=(
        "The black box is a painter with planted rules, not a network; nothing was run on a backdoored diffusion "
        "model.",
        "The judges are rules that know this world. Vision-language models, whose mistakes are not independent from "
        "picture to picture, were not tested.",
        "Attacks always show where the trigger is, so that both ways to label a triggered prompt agree.",
        "The similarity of pictures is a simplification of UFID, with five pictures a prompt; its own graph score was "
        "not built. White-box detectors were not compared.",
    ),
)
