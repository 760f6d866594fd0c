"""How fast the pixel AUC loss is: `python benchmarks/segmentation.py [--quick]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, ratio, table

from equipoise.dense import pixel_auc_loss, pixel_auroc


def _batch(images: int, classes: int, size: int) -> tuple[Tensor, Tensor]:
    """Logits, and blocks of 16 × 16 pixels whose classes have a long tail."""
    generator = torch.Generator().manual_seed(0)
    share = torch.arange(1, classes + 1).double().pow(-1.0)
    blocks = torch.multinomial(share, images * (size // 16) ** 2, replacement=True, generator=generator)
    labels = blocks.view(images, size // 16, size // 16).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return torch.randn(images, classes, size, size, generator=generator).requires_grad_(), labels


def class_loop(logits: Tensor, target: Tensor) -> Tensor:
    """The square loss of every pair of classes by a loop over classes on a one-hot matrix, each over all pixels.

    The way of the authors' code, by its description: for class c every pixel gets the weight 1 / (n_c n_y), and the
    square of pairs is opened into sums over weighted pixels.
    """
    classes = logits.shape[1]
    scores = logits.movedim(1, -1).reshape(-1, classes).sigmoid()
    hot = one_hot(target.reshape(-1), classes).float()
    counts = hot.sum(0)
    present = (counts > 0).nonzero().squeeze(1).tolist()
    per_pixel = (hot / counts.clamp_min(1)).sum(1)
    loss = scores.new_zeros(())
    for c in present:
        positive = hot[:, c]
        share = per_pixel * (1 - positive)
        lack = 1 - scores[:, c]
        others = len(present) - 1
        first = (positive / counts[c] * lack.square()).sum() * others
        cross = (positive / counts[c] * lack).sum() * (share * scores[:, c]).sum()
        loss = loss + first + 2 * cross + (share * scores[:, c].square()).sum()
    return loss / (2 * len(present) * (len(present) - 1))


def one_hot_product(logits: Tensor, target: Tensor) -> Tensor:
    """The same from moments by two products with the one-hot matrix, without a loop."""
    classes = logits.shape[1]
    scores = logits.movedim(1, -1).reshape(-1, classes).sigmoid()
    hot = one_hot(target.reshape(-1), classes).float()
    counts = hot.sum(0)
    share = hot / counts.clamp_min(1)
    mean = scores.T @ share
    variance = scores.square().T @ share - mean.square()
    loss = (1 - mean.diagonal()[:, None] + mean).square() + variance.diagonal()[:, None] + variance
    present = counts > 0
    off = present[:, None] & present & ~torch.eye(classes, dtype=torch.bool)
    return loss[off].mean() / 2


def _beside(name: str, peer: object, size: tuple[int, int, int], goal: float | None, repeats: int) -> Row:
    logits, target = _batch(*size)

    def step(loss: object) -> object:
        def run() -> None:
            logits.grad = None
            loss(logits, target).backward()  # type: ignore[operator]

        return run

    with torch.no_grad():
        torch.testing.assert_close(peer(logits, target), pixel_auc_loss(logits, target), rtol=1e-3, atol=1e-5)  # type: ignore[operator]
    images, classes, side = size
    work = f"pixel AUC, value + gradient, {images} × {classes} classes × {side}²"
    return Row(work, name, ratio(step(peer), step(pixel_auc_loss), repeats=repeats, seconds=60), goal)  # type: ignore[arg-type]


def _metric(repeats: int) -> Row:
    """Beside scikit-learn's AUROC of every pair of classes."""
    from sklearn.metrics import roc_auc_score

    logits, target = _batch(1, 8, 64)
    scores, labels = logits.detach().movedim(1, -1).reshape(-1, 8), target.reshape(-1)

    def loop() -> None:
        for c in range(8):
            for j in range(8):
                kept = (labels == c) | (labels == j)
                if c != j and len(labels[kept].unique()) == 2:
                    roc_auc_score(labels[kept] == c, scores[kept, c])

    measured = ratio(loop, lambda: pixel_auroc(scores, labels), repeats=repeats)
    return Row("pixel AUROC, 8 classes × 64²", "scikit-learn, pair by pair of classes", measured)


def rows(quick: bool = False) -> list[Row]:
    """All measurements of this file."""
    large, repeats = ((2, 40, 128) if quick else (2, 150, 256)), 3 if quick else 5
    return [
        _beside("a loop over classes on a one-hot matrix", class_loop, large, None if quick else 14, repeats),
        _beside("two products with a one-hot matrix", one_hot_product, large, None if quick else 1.2, repeats),
        _beside("a loop over classes on a one-hot matrix", class_loop, (2, 19, 256), None, repeats),
        _beside("two products with a one-hot matrix", one_hot_product, (2, 19, 256), None, repeats),
        _metric(repeats),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, smaller sizes")
    print(table(rows(parser.parse_args().quick)))
