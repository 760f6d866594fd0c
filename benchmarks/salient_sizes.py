"""Plain and size-invariant losses on real pictures, by the size of objects: `python benchmarks/salient_sizes.py FILE`.

FILE is an .npz with packed pictures `images` and masks `masks`, or maps of instance ids `instances`, each with its
`_offsets`. Pictures are scaled to `--side` pixels square; of each seed, half are trained on, a quarter chooses the
learning rate of every arm by the mean SI-F, and a quarter is tested. Every run is a line of `--output`, written when it
ends, so that a stopped benchmark goes on where it was; the table at the end is of all lines.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from equipoise.dense import SaliencyReport, SizeInvariantLoss, WarmupLoss, instance_frames, object_frames

_RATES = (1e-3, 3e-3)
_SHOWN = ("mae", "si_mae", "f_mean", "si_f_mean", "auc", "si_auc", "small mae", "large mae")
ARMS: dict[str, Callable[[int], nn.Module]] = {
    "BCE": lambda warm: SizeInvariantLoss(("bce",)),
    "SI-BCE": lambda warm: WarmupLoss(SizeInvariantLoss(("bce",), reduction="mean"), warm),
    "SI-BCE + SI-dice": lambda warm: WarmupLoss(SizeInvariantLoss(("bce", "dice"), reduction="mean"), warm),
    "SI-BCE + SI-AUC": lambda warm: WarmupLoss(SizeInvariantLoss(("bce", "auc"), reduction="mean"), warm),
}


class Network(nn.Module):
    """Three scales with skips, 16 to 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, 16), _block(16, 32), _block(32, 64)])
        self.up = nn.ModuleList([_block(96, 32), _block(48, 16)])
        self.last = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, height, width)."""
        kept = []
        for scale, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if scale else x)
            kept.append(x)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([nn.functional.interpolate(x, size=skip.shape[-2:], mode="bilinear"), skip], 1))
        return self.last(x)[:, 0]


def _block(width: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for each in (width, out):
        layers += [nn.Conv2d(each, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers)


def load(path: Path, side: int, most: int | None) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Pictures (n, 3, side, side), masks and frames."""
    with np.load(path, allow_pickle=False) as file:
        key = "instances" if "instances" in file else "masks"
        packed = {name: (file[name], file[f"{name}_offsets"]) for name in ("images", key)}

    def read(name: str, mode: str | None, how: Image.Resampling) -> list[Tensor]:
        data, ends = packed[name]
        found = []
        for a, b in list(pairwise(ends))[:most]:
            image = Image.open(io.BytesIO(data[a:b].tobytes()))
            image = image.convert(mode) if mode else image
            found.append(torch.from_numpy(np.array(image.resize((side, side), how))))
        return found

    x = torch.stack(read("images", "RGB", Image.Resampling.BOX)).permute(0, 3, 1, 2) / 255
    ids = [each.long() for each in read(key, None, Image.Resampling.NEAREST)]
    frames = [instance_frames(each) if key == "instances" else object_frames(each) for each in ids]
    return x, torch.stack(ids) > 0, frames


def train(arm: str, rate: float, data: tuple[Tensor, Tensor, list[Tensor]], epochs: int, seed: int) -> Network:
    """Adam on batches of eight, with flips."""
    x, masks, frames = data
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network()
    side = x.shape[-1]
    whole = torch.tensor([[0, side, 0, side]])
    loss = ARMS[arm](epochs // 5)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for epoch in range(epochs):
        if isinstance(loss, WarmupLoss):
            loss.set_epoch(epoch)
        for rows in torch.randperm(len(x), generator=generator).split(8):
            inputs, target = x[rows], masks[rows]
            boxes = [whole if arm == "BCE" else frames[row] for row in rows.tolist()]
            if bool(torch.rand((), generator=generator) < 0.5):
                inputs, target = inputs.flip(-1), target.flip(-1)
                boxes = [torch.stack([b[:, 0], b[:, 1], side - b[:, 3], side - b[:, 2]], 1) for b in boxes]
            optimizer.zero_grad()
            loss(network(inputs), target, boxes).backward()
            optimizer.step()
    return network.eval()


@torch.no_grad()
def judge(network: Network, x: Tensor, masks: Tensor) -> dict[str, float]:
    """Measures, and the error in the boxes of the smallest and the largest third of objects."""
    report = SaliencyReport(structural=False, min_area=4)
    for rows in torch.arange(len(x)).split(16):
        report.update(network(x[rows]).sigmoid(), masks[rows])
    found = {name: float(value) for name, value in report.compute().items()}
    objects = sorted(report.per_object(), key=lambda row: row["area"])
    third = max(1, len(objects) // 3)
    for name, part in (("small", objects[:third]), ("large", objects[-third:])):
        found[f"{name} mae"] = float(np.mean([row["mae"] for row in part]))
    return {name: found[name] for name in _SHOWN}


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most", type=int, help="so many pictures")
    parser.add_argument("--output", type=Path, default=Path("salient_sizes.jsonl"))
    options = parser.parse_args()
    x, masks, frames = load(options.path, options.side, options.most)
    n = len(x)
    settings = [options.path.name, n, options.side, options.epochs]
    lines = options.output.read_text(encoding="utf-8").splitlines() if options.output.exists() else []
    done = [found for found in map(json.loads, lines) if found["settings"] == settings]
    for seed in range(options.seeds):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        kept, chosen, tested = order[: n // 2], order[n // 2 : 3 * n // 4], order[3 * n // 4 :]
        data = x[kept], masks[kept], [frames[row] for row in kept.tolist()]
        for arm in ARMS:
            if any((found["seed"], found["arm"]) == (seed, arm) for found in done):
                continue
            start = time.perf_counter()
            networks = {rate: train(arm, rate, data, options.epochs, seed) for rate in _RATES}
            valued = {rate: judge(each, x[chosen], masks[chosen])["si_f_mean"] for rate, each in networks.items()}
            rate = max(valued, key=lambda each: valued[each])
            measures = judge(networks[rate], x[tested], masks[tested])
            found = {"settings": settings, "seed": seed, "arm": arm, "rate": rate, **measures}
            done.append(found | {"seconds": time.perf_counter() - start})
            with options.output.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(done[-1]) + "\n")
            print(done[-1], flush=True)
    print("| arm | " + " | ".join(_SHOWN) + " |\n|---|" + "---:|" * len(_SHOWN))
    for arm in ARMS:
        columns = [np.array([found[name] for found in done if found["arm"] == arm]) for name in _SHOWN]
        print(f"| {arm} | " + " | ".join(f"{each.mean():.3f} ± {each.std():.3f}" for each in columns) + " |")


if __name__ == "__main__":
    main()
