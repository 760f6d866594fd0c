"""Groups of small experts where batches come from different regimes, and where they do not."""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor, nn

from equipoise.claims.lab.tuning import VALIDATION_SEEDS, Setting, Tuning, grid
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.language import (
    AdapterSettings,
    LoRASettings,
    MoELoRASettings,
    TuckARouter,
    TuckASettings,
    add_adapter,
    expert_load,
    take_balance_loss,
    trainable_parameters,
    tucka_parameter_count,
)

_WIDTH, _DOMAINS, _RANK, _STEPS, _BATCH = 32, 4, 4, 1000, 32
_RATES = (0.003, 0.01, 0.03, 0.1)
_EIGHT, _ONE, _ONE_SMALL = "TuckA, 8 groups", "TuckA, 1 group", "TuckA, 1 group of the same rank"
_BY_SAMPLE = "TuckA, 8 groups, routed by sample"
_ARMS: dict[str, tuple[str, AdapterSettings]] = {
    _EIGHT: ("tucka", TuckASettings(r=4, k=8, alpha=32.0)),
    _ONE: ("tucka", TuckASettings(r=11, k=1, alpha=32.0)),
    _ONE_SMALL: ("tucka", TuckASettings(r=4, k=1, alpha=32.0)),
    "LoRA": ("lora", LoRASettings(r=10, scale=20.0)),
    "MoE-LoRA": ("moe-lora", MoELoRASettings(num_experts=4, r=2, scale=4.0)),
}
_MIXED_ARMS: dict[str, tuple[str, AdapterSettings]] = {
    _EIGHT: _ARMS[_EIGHT],
    _BY_SAMPLE: ("tucka", TuckASettings(r=4, k=8, alpha=32.0, routing="sample")),
    "LoRA": _ARMS["LoRA"],
}
_ERROR, _PARAMETERS = "test MSE", "trainable parameters"


class _World:
    """A frozen network, and domains that each change its input in their own way."""

    def __init__(self, seed: int, mixed: bool) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.mixed = mixed
        self.weights = [self._uniform(_WIDTH, _WIDTH), self._uniform(_WIDTH), self._uniform(_WIDTH, _WIDTH)]
        self.weights.append(self._uniform(_WIDTH))
        self.means = self._normal(_DOMAINS, _WIDTH)
        shared = torch.linalg.qr(self._normal(_WIDTH, _RANK)).Q
        own = self._normal(_DOMAINS, _RANK, _RANK)
        self.changes = torch.eye(_WIDTH) + shared @ own @ shared.T

    def network(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, _WIDTH))
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), self.weights, strict=True):
                parameter.copy_(value)
        return model

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = size if self.mixed else 1
        domain = torch.randint(_DOMAINS, (rows,), generator=generator).expand(size)
        x = self.means[domain] + torch.randn(size, _WIDTH, generator=generator)
        with torch.no_grad():
            target = self.network()(torch.einsum("nd,nde->ne", x, self.changes[domain]))
        return x, target

    def _uniform(self, *shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=self.generator) - 1) / math.sqrt(_WIDTH)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


def _measured(arm: str, rate: float, seed: int, part: str, steps: int, mixed: bool) -> dict[str, float]:
    world = _World(seed, mixed)
    kind, settings = {**_ARMS, **_MIXED_ARMS}[arm]
    model = world.network()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_adapter(model, kind, ["0", "2"], settings)  # type: ignore[arg-type]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, rate)
    order = torch.Generator().manual_seed(seed + 1000)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        x, target = world.batch(_BATCH, order)
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        if kind == "moe-lora":
            loss = loss + take_balance_loss(model)
        loss.backward()
        optimizer.step()
    model.eval()
    fresh = torch.Generator().manual_seed(seed + (2000 if part == "validation" else 3000))
    errors = []
    with torch.no_grad():
        for _ in range(40):
            x, target = world.batch(64, fresh)
            errors.append(float((model(x) - target).square().mean()))
    return {_ERROR: statistics.fmean(errors), _PARAMETERS: float(sum(trainable_parameters(model).values()))}


def _regimes(seed: int, quick: bool, settings: dict[str, Setting]) -> dict[str, dict[str, float]]:
    steps = 20 if quick else _STEPS
    return {arm: _measured(arm, each["lr"], seed, "test", steps, False) for arm, each in settings.items()}


def _mixed(seed: int, quick: bool, settings: dict[str, Setting]) -> dict[str, dict[str, float]]:
    steps = 20 if quick else _STEPS
    return {arm: _measured(arm, each["lr"], seed, "test", steps, True) for arm, each in settings.items()}


def _score_regimes(arm: str, setting: Setting, seed: int) -> float:
    return -_measured(arm, setting["lr"], seed, "validation", _STEPS, False)[_ERROR]


def _score_mixed(arm: str, setting: Setting, seed: int) -> float:
    return -_measured(arm, setting["lr"], seed, "validation", _STEPS, True)[_ERROR]


def _balance(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """Load of 4 groups over batch means around one mean, before any training."""
    found: dict[str, dict[str, float]] = {"data-aware": {}, "Kaiming": {}}
    for sigma in (1.0, 0.3, 0.05):
        entropies: dict[str, list[float]] = {arm: [] for arm in found}
        for draw in range(2 if quick else 20):
            number = 100 * seed + draw
            generator = torch.Generator().manual_seed(number)
            means = torch.randn(64, generator=generator) + sigma * torch.randn(300, 64, generator=generator)
            for arm, init in (("data-aware", "data"), ("Kaiming", "kaiming")):
                router = TuckARouter(64, k=4, t=2, init=init, seed=number)  # type: ignore[arg-type]
                with torch.no_grad():
                    groups = torch.stack([router(mean[None]).group for mean in means])
                share = groups.bincount(minlength=4) / len(groups)
                entropies[arm].append(float(torch.special.entr(share).sum()) / math.log(4))
        for arm, values in entropies.items():
            found[arm][f"entropy of loads, sigma {sigma:g}"] = statistics.fmean(values)
    return found


def _parameters(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for _ in range(10):
        d, r, k, t, p, layers = (int(torch.randint(low, 7, (1,), generator=generator)) for low in (3, 1, 1, 2, 2, 1))
        model = nn.Sequential(*[nn.Linear(d, d) for _ in range(layers)])
        add_adapter(model, "tucka", [str(n) for n in range(layers)], TuckASettings(r=r, k=k, t=t, p=p))
        counted = sum(trainable_parameters(model).values())
        worst = max(worst, abs(counted - tucka_parameter_count(d, r=r, k=k, t=t, p=p, layers=layers)))
    network = _World(seed, False).network()
    add_adapter(network, "tucka", ["0", "2"], TuckASettings(r=4, k=8))
    network(torch.ones(2, _WIDTH))
    loads = int(expert_load(network).counts.sum())
    return {"TuckA": {"parameters off the formula": worst, "routes of one pass over two layers": float(loads)}}


_PROTOCOL = (
    "A frozen random network of 32 inputs, 32 hidden units (tanh) and 32 outputs; 4 domains with means of N(0, I) and "
    "inputs of N(mean, I); the target is the network's output for x (I + S R S^T), with S of 4 orthonormal columns "
    "shared by the domains and R of N(0, 1) their own. Both layers are adapted; 1000 Adam steps of 32 samples, rate "
    "linear to 0, mean squared error, on 40 test batches of 64. TuckA: t = p = 2, alpha 32, scale 10; of 8 groups r 4 "
    "(1288 parameters), of one group r 11 (1260) and r 4 (392). LoRA of rank 10 (1280), MoE-LoRA of 4 experts of rank "
    "2, top 2, load balance .01 (1280). Every arm has the rates .003, .01, .03 and .1 to choose from, by validation "
    "batches of 2 other seeds."
)

# Seed 0 had been looked at, at one rate, before the protocol was final.
_SEEDS = tuple(range(10, 20))

CLAIM = Claim(
    slug="tucka",
    statement=(
        "Groups of small experts that share their factors, with one router for the whole network, adapt a frozen "
        "network better than one low-rank adapter of as many parameters where batches come from different regimes."
    ),
    experiments=(
        Experiment(
            name="Every batch from one of four regimes",
            protocol=_PROTOCOL + " Every batch is of one domain, drawn at random.",
            run=_regimes,
            parts=(
                Gain("8 groups have a lower error than LoRA", _EIGHT, "LoRA", _ERROR, 0.002, higher_is_better=False),
                Gain("and than MoE-LoRA", _EIGHT, "MoE-LoRA", _ERROR, 0.002, higher_is_better=False),
                Gain("and than one group", _EIGHT, _ONE, _ERROR, 0.002, higher_is_better=False),
                Gain("and than one group of the same rank", _EIGHT, _ONE_SMALL, _ERROR, 0.002, higher_is_better=False),
            ),
            seeds=_SEEDS,
            tuning=Tuning({arm: grid(lr=_RATES) for arm in _ARMS}, _score_regimes, seeds=VALIDATION_SEEDS[:2]),
        ),
        Experiment(
            name="Negative control: every batch from all regimes",
            protocol=_PROTOCOL
            + " Every sample is of a domain of its own, so that all batches have the same mean. The arms are 8 groups, "
            "LoRA, and 8 groups that are routed by sample, an extension of ours.",
            run=_mixed,
            parts=(
                Gain(
                    "8 groups have a lower error than LoRA: not to be expected",
                    _EIGHT,
                    "LoRA",
                    _ERROR,
                    0.002,
                    higher_is_better=False,
                    asserted=False,
                ),
                Gain(
                    "routed by sample they have a lower error than routed by batch",
                    _BY_SAMPLE,
                    _EIGHT,
                    _ERROR,
                    0.002,
                    higher_is_better=False,
                    asserted=False,
                ),
            ),
            seeds=_SEEDS,
            tuning=Tuning({arm: grid(lr=_RATES) for arm in _MIXED_ARMS}, _score_mixed, seeds=VALIDATION_SEEDS[:2]),
        ),
        Experiment(
            name="Loads before training",
            protocol=(
                "64 features, 4 groups of 2 experts, 300 batch means of N(m, sigma^2 I), m of N(0, I); entropy of the "
                "groups' shares divided by log 4, mean of 20 draws a seed. Centroids around the first mean (scale 10) "
                "beside Kaiming's uniform ones."
            ),
            run=_balance,
            parts=(
                Gain(
                    "centroids from data balance the loads where batch means move",
                    "data-aware",
                    "Kaiming",
                    "entropy of loads, sigma 1",
                    0.06,
                ),
                Gain(
                    "with means that move by a third",
                    "data-aware",
                    "Kaiming",
                    "entropy of loads, sigma 0.3",
                    0.06,
                    asserted=False,
                ),
                Gain(
                    "with means that hardly move",
                    "data-aware",
                    "Kaiming",
                    "entropy of loads, sigma 0.05",
                    0.06,
                    asserted=False,
                ),
            ),
        ),
        Experiment(
            name="Counting parameters",
            protocol=(
                "Ten random sizes a seed, parameters of the adapted network beside L (k p r^2 + t p + d r) + k t d."
            ),
            run=_parameters,
            parts=(
                Bound("the formula is exact", "TuckA", "parameters off the formula", at_most=0.0),
                Bound("one route serves all layers", "TuckA", "routes of one pass over two layers", at_most=1.0),
            ),
        ),
    ),
    caveats=(
        "Synthetic regimes in a network of two layers; language models, GLUE, images and mathematics, and the paper's "
        "other baselines, are not part of this claim.",
        "Only learning rates are tuned; alpha and the number of groups are those of the protocol.",
    ),
)
