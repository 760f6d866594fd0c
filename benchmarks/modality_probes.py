"""What features of two modalities are worth alone and together, under five ways to train their encoders.

    .venv/bin/python benchmarks/modality_probes.py ../shared/data/multimodal [--folds 3] [--strength 0.01]

The folder holds `crema_d_features.npz` and `ave_features.npz`, penultimate features of the authors' encoders on their
test samples: <method>_audio and <method>_visual (n, 512), <method>_labels (n,). A linear probe, logistic regression on
standardised features, is trained on two folds and judged on the third; the table has the mean over folds. It says how
good encoders are that others trained, and nothing about training from scratch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

METHODS = ("joint", "ogm_ge", "umt", "ume", "reconboost")


def probe(x: np.ndarray, y: np.ndarray, folds: int, strength: float) -> float:
    """Accuracy of a logistic regression, mean over folds."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    return float(cross_val_score(model, x, y, cv=split).mean())


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--strength", type=float, default=0.01)
    asked = parser.parse_args()
    print("| data | encoders trained by | rows | audio | visual | both |\n|---|---|---|---|---|---|")
    for name in ("crema_d", "ave"):
        with np.load(asked.folder / f"{name}_features.npz", allow_pickle=False) as held:
            for method in METHODS:
                y = held[f"{method}_labels"].astype(np.int64)
                audio, visual = (held[f"{method}_{kind}"].astype(np.float32) for kind in ("audio", "visual"))
                blocks = (audio, visual, np.hstack([audio, visual]))
                values = [f"{probe(x, y, asked.folds, asked.strength):.3f}" for x in blocks]
                print(f"| {name} | {method} | {len(y)} | {' | '.join(values)} |", flush=True)


if __name__ == "__main__":
    main()
