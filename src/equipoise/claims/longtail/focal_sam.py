"""Focal-SAM: flat for the tail without giving up the head, at three backward passes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from equipoise.claims.lab.long_tails import digits
from equipoise.claims.lab.sharp_arms import compare
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.longtail import FocalSAM

_ARMS = ("SGD", "SAM", "ImbSAM", "Focal-SAM")


def _run(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    found = compare(digits(seed), _ARMS, 60, seed)
    focal = found["Focal-SAM"]
    ratios = {
        "head, of ImbSAM's": focal["head sharpness"] / found["ImbSAM"]["head sharpness"],
        "tail, of SGD's": focal["tail sharpness"] / found["SGD"]["tail sharpness"],
    }
    return {**found, "sharpness of Focal-SAM": ratios}


def _cost(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """Backward passes, and the time of a step beside SGD's with 10 and with 1,000 classes, in turns."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 3, 32, 32, generator=generator)
    held = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for classes in (10, 1000):
        y = torch.randint(classes, (64,), generator=generator)
        works: dict[str, Callable[[], None]] = {}
        passes: list[int] = []
        for name in ("SGD", "Focal-SAM"):
            model = _small_convolutions(classes)
            if name == "SGD":
                works[name] = _sgd_step(model, x, y)
                continue
            optimizer = FocalSAM(model.parameters(), torch.optim.SGD, [10] * classes, lr=0.01, momentum=0.9)
            works[name] = _focal_step(model, x, y, optimizer)
            hook = model[-1].register_full_backward_hook(lambda *_, passes=passes: passes.append(0))
            works[name]()
            hook.remove()
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(5 if quick else 21):
            for name, work in works.items():
                start = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - start)
        median = {name: sorted(t)[len(t) // 2] for name, t in times.items()}
        ratio = median["Focal-SAM"] / median["SGD"]
        found[f"{classes} classes"] = {"backward passes": float(len(passes)), "time beside SGD": ratio}
    torch.set_num_threads(held)
    quotient = found["1000 classes"]["time beside SGD"] / found["10 classes"]["time beside SGD"]
    return {**found, "1000 beside 10 classes": {"quotient": quotient}}


def _small_convolutions(classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for narrow, wide in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(narrow, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))


def _sgd_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def _focal_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, optimizer: FocalSAM) -> Callable[[], None]:
    def step() -> None:
        optimizer.step(lambda: (cross_entropy(model(x), y, reduction="none"), y))

    return step


CLAIM = Claim(
    slug="focal-sam",
    statement=(
        "Weighing classes smoothly inside one perturbation makes the loss of rare classes flat without leaving the "
        "frequent ones in sharp minima, at three backward passes whatever the number of classes."
    ),
    experiments=(
        Experiment(
            name="Long-tailed digits",
            protocol=(
                "scikit-learn's digits, classes permuted by seed, 120 · 0.03^(c/9) training samples of class c, 50 a "
                "class for test. MLP 64-64-64-10, logit adjustment with tau 1, SGD (lr .1 cosine, momentum .9, weight "
                "decay 5e-4), batch 64, 60 epochs; rho .2 for all, gamma 2, lambda .8, eta 20. Sharpness: rise of a "
                "class's mean cross-entropy at distance .5 along its gradient; head: the 4 largest classes, tail: the "
                "3 smallest. Same first weights and batches for every arm of a seed."
            ),
            run=_run,
            parts=(
                Gain("flatter for the head than ImbSAM", "Focal-SAM", "ImbSAM", "head sharpness", 0.5, False),
                Gain("flatter for the tail than SGD", "Focal-SAM", "SGD", "tail sharpness", 1.0, False),
                Bound(
                    "head sharpness under .75 of ImbSAM's", "sharpness of Focal-SAM", "head, of ImbSAM's", at_most=0.75
                ),
                Bound("tail sharpness under .7 of SGD's", "sharpness of Focal-SAM", "tail, of SGD's", at_most=0.7),
                Gain("the head keeps more accuracy than with ImbSAM", "Focal-SAM", "ImbSAM", "head accuracy", 0.5),
                Gain("balanced accuracy against SGD", "Focal-SAM", "SGD", "balanced accuracy", 0.5),
                Gain("against SAM", "Focal-SAM", "SAM", "balanced accuracy", 0.5, asserted=False),
                Gain("against ImbSAM", "Focal-SAM", "ImbSAM", "balanced accuracy", 0.5, asserted=False),
            ),
        ),
        Experiment(
            name="Cost",
            protocol=(
                "Three convolutions on 32 x 32 pixels and a linear head, batch 64, SGD with momentum, one thread, "
                "medians of 21 steps in turns, for 10 and for 1,000 classes."
            ),
            run=_cost,
            parts=(
                Bound("three backward passes with 1,000 classes", "1000 classes", "backward passes", at_most=3.0),
                Bound("at most 2.2 times the step of SGD", "10 classes", "time beside SGD", at_most=2.2),
                Bound("1,000 classes cost no more than 10", "1000 beside 10 classes", "quotient", at_most=1.3),
            ),
        ),
    ),
    caveats=("The paper's CIFAR-LT, ImageNet-LT and iNaturalist tables are not repeated here.",),
)
