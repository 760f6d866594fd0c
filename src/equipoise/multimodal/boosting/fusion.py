"""What trainers of several modalities share: data in, probabilities and accuracies out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, NumClasses, Whole
from equipoise.core.validate import check_finite
from equipoise.multimodal.boosting.ensemble import ModalityEnsemble, ensemble_logits
from equipoise.multimodal.boosting.loops import Augment, Loop, OptimizerFactory, check_logits, default_optimizer
from equipoise.multimodal.boosting.macro_accuracy import MacroAccuracy
from equipoise.multimodal.boosting.samples import Labelled, Samples

Monitor: TypeAlias = Literal["accuracy", "macro_accuracy"]


class Accuracies(NamedTuple):
    """How often predictions are right.

    Attributes:
        accuracy: of the sum of all modalities.
        macro_accuracy: the mean of its recalls of the classes that occur.
        by_modality: of each learner alone.
    """

    accuracy: float
    macro_accuracy: float
    by_modality: dict[str, float]


class FusionTrainer:
    """A trainer of a learner for each modality.

    Args:
        learners: name → module from an input to logits (n, C), or with a shared head to features; trained in place, on
            the device where they are. Of a sequence the names are "0", "1", ….
        num_classes: C.
        batch_size: samples of a step.
        optimizer_factory: makes an optimizer of (parameters, learning rate); SGD with momentum .9 and weight decay
            5e-4 where it is None.
        shared_head: a module from features to logits, the same for all modalities.
        autocast: `torch.bfloat16` or `torch.float16` to run forward passes in; losses are computed in float32.
        augment: a function of (inputs by modality, generator) that changes a training batch; it is given the modalities
            that are read for the batch, which may not be all.
        monitor: the value of validation data by which the best is kept.
        seed: of batches, augmentation and dropout.

    Attributes:
        ensemble: the learners and the boost rate.
    """

    @checked
    def __init__(
        self,
        learners: Mapping[str, nn.Module] | Sequence[nn.Module],
        num_classes: NumClasses,
        *,
        batch_size: Count = 64,
        optimizer_factory: OptimizerFactory | None = None,
        shared_head: nn.Module | None = None,
        autocast: torch.dtype | None = None,
        augment: Augment | None = None,
        monitor: Monitor = "accuracy",
        seed: Whole = 0,
    ) -> None:
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"autocast={autocast} must be torch.bfloat16, torch.float16 or None")
        self.ensemble = ModalityEnsemble(learners, shared_head=shared_head)
        self.num_classes, self.monitor = num_classes, monitor
        self.optimizer_factory = optimizer_factory or default_optimizer
        self.loop = Loop(batch_size, seed, autocast, augment)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modalities."""
        return self.ensemble.names

    @property
    def device(self) -> torch.device:
        """Where the learners are."""
        return self.ensemble.boost_rate.device

    def samples(self, given: Labelled, what: str) -> Samples:
        """Samples with all modalities, checked."""
        return Samples(given, self.names, self.num_classes, what)

    def part(self, name: str, x: Tensor) -> Tensor:
        """Logits (n, C) of a modality, checked."""
        with self.loop.precision(self.device):
            logits = self.ensemble.part(name, x)
        check_logits(logits, name, self.num_classes)
        return logits

    def parts(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Logits (n, C) of several modalities, checked."""
        return {name: self.part(name, inputs[name]) for name in names}

    @checked
    def predict_proba(
        self, inputs: Mapping[str, Tensor], *, exclude: Any = None, batch_size: Count = 1024
    ) -> Float[Tensor, "n classes"]:
        """Probabilities of the classes, softmax of the sum of the modalities that are given.

        Args:
            inputs: name → samples (n, ...); modalities that are missing, or None, are left out of the sum.
            exclude: modalities to leave out, by name or place.
            batch_size: samples at a time.

        Raises:
            ValueError: if a name is unknown, no modality is left, there is no sample, sizes disagree, or an input is
                not finite.
        """
        names = self.ensemble.present(inputs, exclude)
        for name in names:
            source = inputs[name]
            if not isinstance(source, Tensor) or source.ndim == 0:
                raise ValueError(f"inputs needs {name!r} as a torch.Tensor (n, ...), got {source!r:.40}")
            if not len(source):
                raise ValueError(f"inputs has no samples of {name!r}; give one or more")
            if len(source) != len(inputs[names[0]]):
                raise ValueError(
                    f"inputs has {len(source)} samples of {name!r} and {len(inputs[names[0]])} of {names[0]!r}"
                )
            if source.is_floating_point():
                check_finite(f"{name!r} of inputs", source)
        count = len(inputs[names[0]])
        found = [
            self._total({name: inputs[name][rows].to(self.device) for name in names})
            for rows in (slice(start, start + batch_size) for start in range(0, count, batch_size))
        ]
        return torch.cat(found).softmax(1)

    def predict(self, inputs: Mapping[str, Tensor], *, exclude: Any = None) -> Int[Tensor, " n"]:
        """Classes of the largest probability; arguments as in `predict_proba`."""
        return self.predict_proba(inputs, exclude=exclude).argmax(1)

    def evaluate(self, given: Labelled) -> Accuracies:
        """The accuracies of (inputs by modality, target).

        Raises:
            ValueError: as `fit` does for its data.
        """
        return self.judge(self.samples(given, "given"))

    @torch.no_grad()
    def judge(self, samples: Samples) -> Accuracies:
        """The accuracies of samples that were checked, in evaluation mode."""
        self.ensemble.eval()
        macro = MacroAccuracy(self.num_classes, sync_on_compute=False).to(self.device)
        right, alone = 0, dict.fromkeys(self.names, 0)
        for rows in torch.arange(len(samples)).split(1024):
            target = samples.classes(rows, self.device)
            parts = self.parts(samples.read(rows, self.names, self.device), self.names)
            predicted = ensemble_logits(parts, self.ensemble.boost_rate).argmax(1)
            macro.update(predicted, target)
            right += int((predicted == target).sum())
            for name, logits in parts.items():
                alone[name] += int((logits.argmax(1) == target).sum())
        count = len(samples)
        return Accuracies(right / count, float(macro.compute()), {name: hits / count for name, hits in alone.items()})

    @torch.no_grad()
    def _total(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.ensemble.eval()
        return ensemble_logits(self.parts(inputs, list(inputs)), self.ensemble.boost_rate)


def kept_weights(module: nn.Module) -> dict[str, Any]:
    """A copy of the weights."""
    return copy.deepcopy(module.state_dict())
