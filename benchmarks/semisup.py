"""Two-pass selection of the worst view beside one pass over all views, and beside a plain network.

`python benchmarks/semisup.py [--quick]`. A step of the plain network is one cross-entropy of as many images, all with
labels: no views, no targets, no average.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, medians, table

from equipoise.semisup import EMATeacher, StepLoss, WorstCaseConsistencyLoss, consistency_step
from equipoise.semisup.consistency.step import supervised_loss

_LABELLED, _UNLABELLED, _VARIANTS = 8, 56, 3


class _Block(nn.Module):
    """Two convolutions around which the input goes, as in the wide residual networks of the field."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(4, width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.inner(x)
        return x + inner


def _network() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1)]
    for narrow, wide in ((16, 32), (32, 64)):
        layers += [_Block(narrow), nn.Conv2d(narrow, wide, 3, stride=2, padding=1)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*layers, _Block(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def _batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(_LABELLED, 3, 32, 32, generator=generator, dtype=dtype)
    weak = torch.rand(_UNLABELLED, 3, 32, 32, generator=generator, dtype=dtype)
    strong = weak + 0.3 * torch.randn(_VARIANTS, *weak.shape, generator=generator, dtype=dtype)
    return x, torch.arange(_LABELLED) % 10, weak, strong


def _saved_bytes(network: nn.Module, step: Callable[[], StepLoss]) -> int:
    """What the graph of a step holds for its backward pass, parameters aside, each storage once."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    held: dict[int, int] = {}
    keep = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
            keep.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(held.values())


def _step(
    network: nn.Module, criterion: WorstCaseConsistencyLoss, teacher: nn.Module | None, two_pass: bool
) -> Callable[[], StepLoss]:
    batch = _batch()
    return lambda: consistency_step(network, *batch, criterion, teacher=teacher, two_pass=two_pass)


def _trained(network: nn.Module, step: Callable[[], StepLoss], average: EMATeacher | None = None) -> Callable[[], None]:
    def work() -> None:
        network.zero_grad()
        step().loss.backward()
        if average is not None:
            average.update(network)

    return work


def _plain(network: nn.Module) -> Callable[[], None]:
    """A step of the network alone on as many images as a step on labelled and unlabelled ones is given."""
    x, _, weak, _ = _batch()
    images = torch.cat([x, weak])
    target = torch.arange(len(images)) % 10

    def work() -> None:
        network.zero_grad()
        supervised_loss(network(images), target).backward()

    return work


def rows(quick: bool) -> list[Row]:
    """Every figure of this file."""
    network = _network()
    found = []
    for name, teacher in (("the network", None), ("an average", EMATeacher(network))):
        with torch.no_grad():
            confidence = network(_batch()[2]).softmax(1).amax(1)
        for share, threshold in (("all", 0.0), ("half", float(confidence.median()))):
            criterion = WorstCaseConsistencyLoss(threshold)
            steps = [_step(network, criterion, teacher, two_pass) for two_pass in (True, False)]
            memory = _saved_bytes(network, steps[0]) / _saved_bytes(network, steps[1])
            two, one = (_trained(network, step, teacher) for step in steps)
            times = medians(two, one, _plain(network), repeats=9 if quick else 31, seconds=40.0)
            time = times[0] / times[1]
            work = f"two passes, K = {_VARIANTS}, targets by {name}, {share} confident"
            found += [
                Row(f"{work}: time", "one pass", time, 0.7, larger_is_better=False),
                Row(f"{work}: memory of activations", "one pass", memory, 0.5, larger_is_better=False),
                Row(f"{work}: time", "a plain network", times[0] / times[2], larger_is_better=False),
                Row("the same in one pass: time", "a plain network", times[1] / times[2], larger_is_better=False),
            ]
    return [*found, Row("largest difference of the gradients, float64", "one pass", _difference(), 1e-12, False, "")]


def _difference() -> float:
    network, batch = _network().double(), _batch(torch.float64)
    gradients = []
    for two_pass in (True, False):
        loss = consistency_step(network, *batch, WorstCaseConsistencyLoss(0.0), two_pass=two_pass).loss
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    pairs = list(zip(*gradients, strict=True))
    return max(float((a - b).abs().max()) for a, b in pairs) / max(float(b.abs().max()) for _, b in pairs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(table(rows(parser.parse_args().quick)))
