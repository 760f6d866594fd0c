"""Margins near one value, against margins that are only large enough: how they spread, and what new answers say."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from equipoise.claims.lab.tuning import Setting, Tuning, grid
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.crowd import GramFit, dmoe_fit
from equipoise.crowd.embedding.margins import margins

_ITEMS, _DIMENSIONS, _TESTED, _STEPS = 40, 4, 5000, 120
_TWO, _ONE, _PLAIN = "two-sided", "squared hinge", "squared hinge without a penalty"
_SPREAD = "spread of training margins, in their mean"


class _World(NamedTuple):
    train: Tensor
    test: Tensor


def _answers(points: Tensor, count: int, noise: float, generator: torch.Generator) -> Tensor:
    rows = torch.stack([torch.randperm(_ITEMS, generator=generator)[:3] for _ in range(count)])
    near, far = ((points[rows[:, 0]] - points[rows[:, side]]).square().sum(1) for side in (1, 2))
    turned = (near > far) ^ (torch.rand(count, generator=generator) < noise)
    return torch.where(turned[:, None], rows[:, [0, 2, 1]], rows)


def _world(seed: int, count: int, noise: float) -> _World:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(_ITEMS, _DIMENSIONS, generator=generator, dtype=torch.float64) / (2 * _DIMENSIONS) ** 0.5
    train = _answers(points, count, noise, generator)
    return _World(train, _answers(points, _TESTED, noise, generator))


def _fitted(arm: str, lam: float, world: _World, steps: int) -> GramFit:
    with warnings.catch_warnings():
        # So many steps are the protocol, settled or not.
        warnings.filterwarnings("ignore", message="dmoe_fit stopped after max_iter")
        return dmoe_fit(
            world.train,
            _ITEMS,
            2,
            1.0,
            0.0 if arm == _PLAIN else lam,
            upper_weight=1.0 if arm == _TWO else 0.0,
            solver="gradient",
            max_iter=steps,
        )


def _error(fit: GramFit, world: _World) -> float:
    quads = world.test[:, [0, 1, 0, 2]]
    return float((margins(fit.gram, quads, gram=True) <= 0).double().mean())


def _measured(fit: GramFit, world: _World) -> dict[str, float]:
    spread = float(fit.margins.std() / fit.margins.mean())
    return {_SPREAD: spread, "test error": _error(fit, world), "training error": fit.train_error}


def _run_alike(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    world = _world(seed, 400, 0.0)
    steps = 20 if quick else _STEPS
    found = {arm: _measured(_fitted(arm, 3.0, world, steps), world) for arm in (_TWO, _ONE, _PLAIN)}
    found[_TWO]["spread less that of the squared hinge"] = found[_TWO][_SPREAD] - found[_ONE][_SPREAD]
    found[_TWO]["error less that of the squared hinge"] = found[_TWO]["test error"] - found[_ONE]["test error"]
    return found


def _run_at(noise: float, seed: int, quick: bool, settings: dict[str, Setting]) -> dict[str, dict[str, float]]:
    world = _world(seed, 400, noise)
    steps = 20 if quick else _STEPS
    return {arm: _measured(_fitted(arm, setting["lam"], world, steps), world) for arm, setting in settings.items()}


def _run_clean(seed: int, quick: bool, settings: dict[str, Setting]) -> dict[str, dict[str, float]]:
    return _run_at(0.0, seed, quick, settings)


def _run_noisy(seed: int, quick: bool, settings: dict[str, Setting]) -> dict[str, dict[str, float]]:
    return _run_at(0.15, seed, quick, settings)


def _score_clean(arm: str, setting: Setting, seed: int) -> float:
    world = _world(seed, 400, 0.0)
    return -_error(_fitted(arm, setting["lam"], world, _STEPS), world)


def _score_noisy(arm: str, setting: Setting, seed: int) -> float:
    world = _world(seed, 400, 0.15)
    return -_error(_fitted(arm, setting["lam"], world, _STEPS), world)


_DATA = (
    "40 points N(0, I/8) in 4 dimensions; 400 random triplets of different items, ordered by true distances{noise}; "
    "5,000 test triplets of the same law. Gram matrices of any rank, γ₀ = 1, p = 2, 120 accelerated steps for every "
    "arm; the squared hinge is the same problem with no weight above γ₀. "
)
_TUNED = "Every arm has λ of 3, 10 and 30 to choose from, by the error on 3 other seeds."
_GRIDS = {arm: grid(lam=(3.0, 10.0, 30.0)) for arm in (_TWO, _ONE)}


def _tuned(name: str, noise: str, run: object, score: object) -> Experiment:
    return Experiment(
        name=name,
        protocol=_DATA.format(noise=noise) + _TUNED,
        run=run,  # type: ignore[arg-type]
        parts=(
            Gain(
                "two-sided margins: new answers are kept more often than with the squared hinge",
                _TWO,
                _ONE,
                "test error",
                0.01,
                higher_is_better=False,
                asserted=False,
            ),
            Bound("two-sided margins: better than chance", _TWO, "test error", at_most=0.5),
        ),
        seeds=tuple(range(10)),
        tuning=Tuning(_GRIDS, score),  # type: ignore[arg-type]
    )


CLAIM = Claim(
    slug="dmoe",
    statement=(
        "With few answers an embedding that only pushes violated margins overfits. Asking that all margins be near one "
        "value gives margins that are large on average and vary little, and with it better answers to new questions."
    ),
    experiments=(
        Experiment(
            name="Spread of margins at one penalty",
            protocol=_DATA.format(noise="") + "λ = 3 for both, and a squared hinge with λ = 0.",
            run=_run_alike,
            parts=(
                Bound(
                    "margins spread less for their mean than with the squared hinge, on every seed",
                    _TWO,
                    "spread less that of the squared hinge",
                    at_most=0.0,
                ),
                Gain(
                    "margins spread less for their mean than with the squared hinge",
                    _TWO,
                    _ONE,
                    _SPREAD,
                    0.05,
                    higher_is_better=False,
                ),
                Bound(
                    "the test error is within .03 of that of the squared hinge, on every seed",
                    _TWO,
                    "error less that of the squared hinge",
                    at_most=0.03,
                ),
                Bound("two-sided margins: better than chance", _TWO, "test error", at_most=0.5),
                Bound("squared hinge: better than chance", _ONE, "test error", at_most=0.5),
                Gain(
                    "two-sided margins: new answers are kept more often than by a squared hinge without a penalty",
                    _TWO,
                    _PLAIN,
                    "test error",
                    0.005,
                    higher_is_better=False,
                ),
                Gain(
                    "squared hinge: new answers are kept more often than by a squared hinge without a penalty",
                    _ONE,
                    _PLAIN,
                    "test error",
                    0.005,
                    higher_is_better=False,
                ),
                Gain(
                    "two-sided margins: new answers are kept more often than with the squared hinge",
                    _TWO,
                    _ONE,
                    "test error",
                    0.01,
                    higher_is_better=False,
                    asserted=False,
                ),
            ),
            seeds=tuple(range(10)),
        ),
        _tuned("New answers, λ tuned, no errors", "", _run_clean, _score_clean),
        _tuned("New answers, λ tuned, 15 % errors", ", 15 % of them turned round", _run_noisy, _score_noisy),
    ),
    caveats=(
        "Synthetic points with the rank left free. The paper's tables of test errors were not readable and are not "
        "part of this claim, nor are its data.",
    ),
)
