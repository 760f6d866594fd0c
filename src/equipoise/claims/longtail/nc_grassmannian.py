"""Neural collapse to Grassmannian frames with free features, and equivalent frames that do not generalise alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from equipoise.claims.longtail.nc_generalization import _split, initialised
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.longtail import FrameClassifier, grassmannian_frame, neural_collapse_metrics, symmetric_generalization
from equipoise.longtail.collapse.grassmannian import frame_correlation, optimal_coherence, permute_frame

_SIZES = ((4, 2), (5, 2), (12, 3))
_PERMUTATIONS, _RUNS = 8, 4


def _free(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """Features and class vectors free on the sphere, cross-entropy with a scale that grows."""
    found = {}
    for classes, dim in _SIZES:
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(classes).repeat_interleave(4)
        z = torch.randn(len(y), dim, generator=generator, dtype=torch.float64).requires_grad_()
        m = torch.randn(classes, dim, generator=generator, dtype=torch.float64).requires_grad_()
        for scale in (2.0, 8.0, 32.0, 128.0, 512.0):
            optimizer = torch.optim.LBFGS([z, m], max_iter=400, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

            def closure(scale: float = scale, optimizer: torch.optim.LBFGS = optimizer) -> Tensor:
                optimizer.zero_grad()
                logits = scale * normalize(z, dim=1) @ normalize(m, dim=1).T  # noqa: B023
                loss = cross_entropy(logits, y) / scale  # noqa: B023
                loss.backward()
                return loss

            optimizer.step(closure)
        features, vectors = normalize(z.detach(), dim=1), normalize(m.detach(), dim=1)
        measured = neural_collapse_metrics(features, y, vectors)
        best = optimal_coherence(classes, dim)
        gap = frame_correlation(vectors).max_cosine - (0.0 if best is None else best)
        found[f"{classes} classes in {dim} dimensions"] = {
            "coherence above the best": gap,
            "trace ratio within/between": float(measured["nc1_trace_ratio"]),
            "distance of features from class vectors": float(measured["gnc3"]),
        }
    return found


def _permuted(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    frame = grassmannian_frame(10, 3).vectors
    generator = torch.Generator().manual_seed(seed)
    frames = [
        permute_frame(frame, torch.randperm(10, generator=generator)) for _ in range(3 if quick else _PERMUTATIONS)
    ]

    def train(chosen: Tensor, run: int) -> float:
        x, y, x_test, y_test = _split(run, 40)
        draw = torch.Generator().manual_seed(run)
        head = FrameClassifier(chosen, 16.0)
        body = initialised(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 3)), draw)
        optimizer = torch.optim.Adam(body.parameters(), lr=3e-3)
        for _ in range(80):
            for rows in torch.randperm(len(y), generator=draw).split(64):
                optimizer.zero_grad()
                cross_entropy(head(body(x[rows])), y[rows]).backward()
                optimizer.step()
        with torch.no_grad():
            return 100 * float((head(body(x_test)).argmax(1) == y_test).double().mean())

    found = symmetric_generalization(train, frames, range(2 if quick else _RUNS))
    spread, p_value, by_chance = permutation_test(found.accuracy, generator)
    return {
        "permutations": {"F": found.f_statistic, "spread of means": spread, "p": p_value},
        "shuffled": {"spread of means": by_chance},
    }


def permutation_test(
    accuracies: Tensor, generator: torch.Generator, shuffles: int = 2000
) -> tuple[float, float, float]:
    """Spread of the row means, the share of shuffles that reach it, and the mean spread over shuffles.

    A shuffle deals the values of every column to the rows anew: runs with the same seed stay together. The observed
    values count as one more shuffle, so that under chance the share is at most a with probability at most a.

    Args:
        accuracies: (frames, runs).
        generator: of the shuffles.
        shuffles: how many.
    """
    order = torch.rand(shuffles, *accuracies.shape, generator=generator).argsort(1)
    means = torch.cat([accuracies[None], accuracies.expand(shuffles, -1, -1).gather(1, order)]).mean(2)
    spreads = means.amax(1) - means.amin(1)
    reached = spreads >= spreads[0] - 1e-9
    return float(spreads[0]), float(reached.double().mean()), float(spreads[1:].mean())


_NAMES = [f"{classes} classes in {dim} dimensions" for classes, dim in _SIZES]

CLAIM = Claim(
    slug="nc-grassmannian",
    statement=(
        "With more classes than dimensions allow for a simplex, cross-entropy drives class vectors and features to a "
        "Grassmannian frame; frames that differ by a permutation only do not generalise alike."
    ),
    experiments=(
        Experiment(
            name="Free features",
            protocol=(
                "Four features a class and the class vectors, free on the sphere; cross-entropy minimised by L-BFGS at "
                "scales 2, 8, 32, 128, 512 one after another, for 4 and 5 classes in 2 dimensions and 12 in 3."
            ),
            run=_free,
            parts=(
                *(
                    Bound(f"{name}: within .01 of the best coherence", name, "coherence above the best", at_most=0.01)
                    for name in _NAMES
                ),
                *(
                    Bound(f"{name}: features collapse", name, "trace ratio within/between", at_most=0.001)
                    for name in _NAMES
                ),
            ),
        ),
        Experiment(
            name="Permutations of one frame",
            protocol=(
                "40 training and 50 test samples of every digit, MLP 64-128-3 with a fixed frame of 10 vectors in 3 "
                "dimensions, scale 16, Adam 3e-3, batch 64, 80 epochs; 8 permutations of the frame with the same 4 "
                "seeds each. F of a one-way analysis of variance; p, the share of 2,000 shuffles that spread the means "
                "of the frames as widely, where a shuffle deals the runs of every seed to the frames anew; shuffled: "
                "the mean spread of these."
            ),
            run=_permuted,
            parts=(
                Bound("permutations differ more than seeds do", "permutations", "F", at_least=1.5),
                Bound("by more than chance, p ≤ .05", "permutations", "p", at_most=0.05),
                Gain("wider apart than when shuffled", "permutations", "shuffled", "spread of means", 0.5),
            ),
        ),
    ),
    caveats=(
        "A seed of the second experiment is a draw of permutations; the runs of a permutation share their seeds.",
    ),
)
