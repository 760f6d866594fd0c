"""Spoken digits beside noisy pictures of digits: ReconBoost and its baselines at one budget of epochs.

    .venv/bin/python benchmarks/modality_competition.py ../shared/data/speech/spoken_digits.npz [--seeds 0 1 2 3 4]

Every recording (log-mel spectrogram, 40 bands x 32 frames, averaged over 2 x 2) is paired with a picture of the same
digit (8 x 8, of scikit-learn, plus noise). Recordings are divided by speaker: four to learn from, one to choose
by, one to judge by, and pictures as well, so that no picture is in two parts. Pictures are learned quickly, unknown
speakers are not. Every method has 24 epochs for each learner, the same first weights, and its best of three rates and
its best epoch or stage on the speaker to choose by.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from equipoise.multimodal import Accuracies, LateFusionTrainer, ReconBoostTrainer

METHODS = ("ReconBoost", "joint", "gradient modulation", "independent")
_FUSION = {"joint": "joint", "gradient modulation": "ogm", "independent": "independent"}
_RATES = (0.005, 0.01, 0.03)
_EPOCHS, _NOISE, _SPEAKERS = 24, 0.6, 6
Part = tuple[dict[str, Tensor], Tensor]


def parts(file: Path, seed: int) -> list[Part]:
    """Samples to learn from, to choose by and to judge by."""
    with np.load(file, allow_pickle=False) as held:
        sound, digit, speaker = held["logmel"].astype(np.float32), held["digit"].astype(np.int64), held["speaker"]
    sound = sound.reshape(-1, 20, 2, 16, 2).mean((2, 4))
    sound = (sound - sound.mean()) / sound.std()
    generator = np.random.default_rng(seed)
    pictures = load_digits()
    group = generator.choice(3, size=len(pictures.target), p=(0.6, 0.2, 0.2))
    part_of = np.zeros(_SPEAKERS, dtype=np.int64)
    part_of[[seed % _SPEAKERS, (seed + 1) % _SPEAKERS]] = 2, 1
    found: list[Part] = []
    for part in range(3):
        rows = np.flatnonzero(part_of[speaker] == part)
        chosen = [generator.choice(np.flatnonzero((group == part) & (pictures.target == d))) for d in digit[rows]]
        picture = pictures.images[chosen] / 16 + _NOISE * generator.normal(size=(len(rows), 8, 8))
        inputs = {"picture": torch.tensor(picture, dtype=torch.float32), "sound": torch.tensor(sound[rows, None])}
        found.append((inputs, torch.tensor(digit[rows])))
    return found


def learners(seed: int) -> dict[str, nn.Module]:
    """Two layers for pictures, three convolutions for sounds."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        picture = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        layers: list[nn.Module] = []
        for narrow, wide in ((1, 8), (8, 16), (16, 32)):
            layers += [nn.Conv2d(narrow, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        sound = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 2 * 2, 10))
    return {"picture": picture, "sound": sound}


def trained(method: str, rate: float, train: Part, val: Part, seed: int) -> ReconBoostTrainer | LateFusionTrainer:
    """24 epochs of every learner; ReconBoost 12 stages of two epochs of a turn and one of rectification."""
    given: dict[str, Any] = {"lr": rate, "seed": seed}
    if method == "ReconBoost":
        boosted = ReconBoostTrainer(learners(seed), 10, epochs_per_stage=2, rectify_epochs=1, **given)
        return boosted.fit(train, val, max_stages=_EPOCHS // 2)
    return LateFusionTrainer(learners(seed), 10, method=_FUSION[method], **given).fit(train, val, epochs=_EPOCHS)


def best(method: str, seed: int, file: Path) -> Accuracies:
    """On the speaker to judge by, with the best rate on the speaker to choose by."""
    train, val, test = parts(file, seed)
    found = [trained(method, rate, train, val, seed) for rate in _RATES]
    return max(found, key=lambda trainer: trainer.evaluate(val).accuracy).evaluate(test)


def main() -> None:
    """Print a table in Markdown: means over seeds, and their standard deviations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| method | fused accuracy | picture alone | sound alone | fused above joint, by seed | seconds |")
    print("|---|---|---|---|---|---|")
    fused: dict[str, list[float]] = {}
    for method in ("joint", *(name for name in METHODS if name != "joint")):
        started = time.process_time()
        found = [best(method, seed, asked.file) for seed in asked.seeds]
        seconds = (time.process_time() - started) / len(asked.seeds) / len(_RATES)
        fused[method] = [one.accuracy for one in found]
        alone = [[one.by_modality[name] for one in found] for name in ("picture", "sound")]
        shown = [f"{statistics.fmean(each):.3f} ± {statistics.pstdev(each):.3f}" for each in (fused[method], *alone)]
        above = ", ".join(f"{a - b:+.3f}" for a, b in zip(fused[method], fused["joint"], strict=True))
        print(f"| {method} | {' | '.join(shown)} | {above} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
