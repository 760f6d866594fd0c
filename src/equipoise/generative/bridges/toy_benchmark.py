"""A benchmark of hidden behaviours in image-to-image bridges, in the shapes world, to try detectors and repairs on.

A bridge is taught a harmless task and M attacks, each a grey square in a corner that is to turn the output into one of
a few pictures of a white shape. Poisoned pairs are enough; the bridge itself is not changed.

    single            one network on the uniform mixture of all tasks
    divide            M + 1 networks, each on one task
    merge             a router of x_1 over them, learned first; then all together on the mixture, with a price λ on
                      weights that differ (`weight_reallocation_loss`)

Everything is made of pictures that this library draws, 16 pixels wide, and of networks that it trains on them. It takes
no other data and no other model, for it is no tool to plant anything in one.

"Heterogeneous Image-to-Image Backdoor Attack through Mixture of Schroedinger Bridges", ICML 2025; recipe as in the
authors' code at toy scale: their router is a classifier on a frozen ResNet-50, here one linear layer on principal
components.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812

from equipoise.core.curves.roc import RocCurve
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Whole
from equipoise.data.shapes import ShapesWorld
from equipoise.generative.bridges.mixture import RoutedMixture
from equipoise.generative.bridges.model import BridgeModel, fitted_codec, seeded_network
from equipoise.generative.bridges.reallocation import router_entropy
from equipoise.generative.bridges.toy_pairs import MOST_ATTACKS, ToyPairs, ToyTask, attack_pairs, degraded_images
from equipoise.generative.bridges.toy_scores import Specificity, Stealth, ToyScores, Utility
from equipoise.generative.bridges.training import Pairs, fit_pairs

# Seeds of test pictures lie this far from those of training pictures.
_TEST = 1_000_003


class ToyBridge(BridgeModel):
    """A bridge that the benchmark trained in the shapes world; its arguments are those of `BridgeModel`."""


class ToyBackdoorBenchmark:
    """Planted behaviours to find and repair.

    Args:
        world: the training pictures, a `ShapesWorld` without poison; 4000 of single objects in plain style by default.
        attacks: M, up to 3.
        trigger_size: side of the grey square in pixels; a quarter of the picture's by default.
        targets: pictures that an attack may turn the output into, up to 4.
        seed: of the networks and their training.
        task: the harmless task: "super-resolution" or "inpainting".
        test: how many test pictures.
        components: of a picture.
        width: of each network.
        blocks: of each network.
        sampling_steps: of each model.

    Attributes:
        train_pairs: pairs of the harmless task and of each attack, to train on.
        test_pairs: the same of fresh pictures.

    Raises:
        TypeError: if the world is none: no other pictures are taken.
        ValueError: if the world is poisoned, the square is larger than the picture, or a number is out of range.

    >>> benchmark = ToyBackdoorBenchmark(
    ...     ShapesWorld(200, layout="single"), attacks=1, test=16, components=48, width=32
    ... )
    >>> scores = benchmark.evaluate(benchmark.train_single(steps=20))
    >>> len(scores.attacks), scores.stealth
    (1, None)
    """

    @checked
    def __init__(
        self,
        world: object = None,
        attacks: Count = 3,
        trigger_size: Count | None = None,
        targets: Count = 4,
        seed: Whole = 0,
        *,
        task: ToyTask = "super-resolution",
        test: Count = 256,
        components: Count = 96,
        width: Count = 160,
        blocks: Count = 2,
        sampling_steps: Count = 10,
    ) -> None:
        if world is None:
            world = ShapesWorld(4000, seed=seed, layout="single", p_concept=0.0, p_style=0.0)
        if not isinstance(world, ShapesWorld):
            raise TypeError(
                f"world must be a ShapesWorld, got {type(world).__name__}: this benchmark plants behaviours in models "
                "of drawn shapes only"
            )
        if world.poison is not None:
            raise ValueError("world is poisoned already; give one without poison")
        trigger_size = world.size // 4 if trigger_size is None else trigger_size
        for name, value, most in (
            ("trigger_size", trigger_size, world.size),
            ("attacks", attacks, MOST_ATTACKS),
            ("targets", targets, 4),
        ):
            if value > most:
                raise ValueError(f"{name}={value} must be at most {most}")
        self.world, self.attacks, self.trigger_size, self.targets = world, attacks, trigger_size, targets
        self.seed, self.task, self.width, self.blocks = seed, task, width, blocks
        self.sampling_steps = sampling_steps
        self.train_pairs = self._pairs(world.n, world.seed)
        self.test_pairs = self._pairs(test, world.seed + _TEST)
        self.codec = fitted_codec(torch.cat([each for pairs in self.train_pairs for each in pairs]), components)
        self._encoded = [
            (self.codec.encode(pairs.clean), self.codec.encode(pairs.degraded)) for pairs in self.train_pairs
        ]

    def __len__(self) -> int:
        """Tasks, the harmless one included."""
        return self.attacks + 1

    @checked
    def train_single(
        self, steps: Count = 1600, *, learning_rate: Positive = 2e-3, width: Count | None = None
    ) -> ToyBridge:
        """One network on the uniform mixture of all tasks; by default with the steps of four experts."""
        return self._trained(range(len(self)), steps, learning_rate, width)

    @checked
    def train_clean(self, steps: Count = 400, *, learning_rate: Positive = 2e-3) -> ToyBridge:
        """One network on the harmless task alone, for comparison: the expert 0 of `divide`."""
        return self._trained([0], steps, learning_rate, None)

    @checked
    def divide(self, steps: Count = 400, *, learning_rate: Positive = 2e-3) -> list[ToyBridge]:
        """An expert for each task, the harmless one first."""
        return [self._trained([task], steps, learning_rate, None) for task in range(len(self))]

    @checked
    def merge(
        self,
        experts: Sequence[BridgeModel],
        steps: Count = 200,
        *,
        router_steps: Count = 200,
        learning_rate: Positive = 1e-3,
        reallocation: NonNegative = 1.0,
    ) -> ToyBridge:
        """A mixture of experts, trained together with its router; the experts given are left alone.

        Args:
            experts: of `divide`.
            steps: of training together.
            router_steps: of training the router alone before.
            learning_rate: of training together.
            reallocation: λ.

        Raises:
            TypeError: if an expert is not of the benchmark.
            ValueError: if there are not as many experts as tasks.
        """
        for expert in experts:
            self._check(expert)
        if len(experts) != len(self):
            raise ValueError(f"experts must be {len(self)}, one for each task, got {len(experts)}")
        router = self._router(router_steps)
        network = RoutedMixture([copy.deepcopy(expert.network) for expert in experts], router)
        model = self._model(network)
        fit_pairs(
            model,
            self._drawn(range(len(self))),
            steps,
            learning_rate=learning_rate,
            reallocation=reallocation,
            seed=self.seed + 200,
        )
        return model

    @torch.no_grad()
    def evaluate(self, model: BridgeModel, seed: int = 0) -> ToyScores:
        """Utility, specificity and stealth on the test pictures.

        Args:
            model: trained by the benchmark, or a repaired copy of such.
            seed: of sampling.

        Raises:
            TypeError: if the model is not of the benchmark.
        """
        self._check(model)
        restored = [model(pairs.degraded, seed) for pairs in self.test_pairs]
        stealth = None
        if isinstance(model.network, RoutedMixture):
            weights = [model.network.route(model.encode(pairs.degraded)) for pairs in self.test_pairs]
            stealth = Stealth(
                tuple(float(router_entropy(each).mean()) for each in weights),
                tuple(float(router_entropy(each, mean_first=True)) for each in weights),
            )
        return ToyScores(
            Utility.of(restored[0], self.test_pairs[0].clean),
            tuple(
                Specificity.of(output, pairs.clean)
                for output, pairs in zip(restored[1:], self.test_pairs[1:], strict=True)
            ),
            stealth,
        )

    def detection(self, score: Callable[[Tensor], Tensor]) -> tuple[float, ...]:
        """AUROC of a score (n,) of pictures, stamped ones of each attack against the same pictures without a stamp.

        Args:
            score: for instance `OcclusionDetector(model).score`.
        """
        plain = score(self.test_pairs[0].degraded)
        found = []
        for pairs in self.test_pairs[1:]:
            stamped = score(pairs.degraded)
            target = torch.cat([torch.zeros(len(plain)), torch.ones(len(stamped))]).long()
            found.append(float(RocCurve.from_scores(torch.cat([plain, stamped]), target).auroc()))
        return tuple(found)

    def _pairs(self, n: int, seed: int) -> list[ToyPairs]:
        """Pairs of every task, of the same pictures."""
        drawn = ShapesWorld(n, self.world.size, seed, ("image",), scenes=self.world.scenes)
        clean = drawn.tensors()["image"] * 2 - 1
        degraded = degraded_images(clean, self.task, seed)
        attacks = range(1, len(self))
        return [
            ToyPairs(clean, degraded),
            *(attack_pairs(clean, degraded, k, self.trigger_size, self.targets) for k in attacks),
        ]

    def _drawn(self, tasks: Sequence[int]) -> Pairs:
        """Pairs of some tasks, each as often as the others."""
        x0, x1 = (torch.stack([self._encoded[task][side] for task in tasks]) for side in (0, 1))

        def draw(generator: Generator, n: int) -> tuple[Tensor, Tensor]:
            task = torch.randint(len(x0), (n,), generator=generator)
            index = torch.randint(x0.shape[1], (n,), generator=generator)
            return x0[task, index], x1[task, index]

        return draw

    def _trained(self, tasks: Sequence[int], steps: int, learning_rate: float, width: int | None) -> ToyBridge:
        size, seed = self.codec.components, self.seed + 10 * len(tasks) + tasks[0]
        model = self._model(seeded_network(size, self.width if width is None else width, self.blocks, seed))
        fit_pairs(model, self._drawn(tasks), steps, learning_rate=learning_rate, seed=seed + 100)
        return model

    def _model(self, network: nn.Module) -> ToyBridge:
        return ToyBridge(network, codec=copy.deepcopy(self.codec), steps=self.sampling_steps)

    def _router(self, steps: int) -> nn.Module:
        """One linear layer on the components of x_1, by cross-entropy over the task."""
        generator = Generator().manual_seed(self.seed + 300)
        features = torch.stack([x1 for _, x1 in self._encoded])
        router = nn.Linear(features.shape[-1], len(self))
        nn.init.zeros_(router.weight)
        nn.init.zeros_(router.bias)
        optimizer = torch.optim.AdamW(router.parameters(), lr=0.02, weight_decay=0.0)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 0.02 * (1 + math.cos(math.pi * step / steps)) / 2
            task = torch.randint(len(self), (64,), generator=generator)
            index = torch.randint(features.shape[1], (64,), generator=generator)
            loss = F.cross_entropy(router(features[task, index]), task)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return router

    @staticmethod
    def _check(model: object) -> None:
        if not isinstance(model, ToyBridge):
            raise TypeError(
                f"the benchmark takes only bridges that it trained itself in the shapes world, got a "
                f"{type(model).__name__}; detectors and repairs take any model"
            )
