"""Distillation with transformers' `Trainer`, or another trainer made of it, as one class in front.

    class MyTrainer(DistillationMixin, Trainer): ...

The loss is all that is replaced (`compute_loss`). Batches are exchanged for generated ones before the trainer counts
their tokens (`get_batch_samples`), since a count of the old ones would scale the loss of the new ones wrongly; and what
was measured on the way is put into the logs (`log`). `StudentTrainer` is the mixin over `transformers.Trainer`, made
when it is first touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from equipoise.language.distillation.data import TokenRow, collate_tokens
from equipoise.language.distillation.objective import CORPUS, DistillationObjective
from equipoise.language.distillation.offline import TeacherCache
from equipoise.language.distillation.prefixes import Moment, PrefixSource
from equipoise.language.distillation.replay import AdaptiveReplay

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


_MIXED = ("soft_weight", "soft", "hard")


class DistillationMixin(_Base):
    """What makes a `Trainer` train a student; it stands before the trainer in the list of bases.

    The loss is divided by the trainer's count of the tokens of a whole step: loss and gradient then depend neither on
    `gradient_accumulation_steps` nor on the number of processes. The logs hold, beside the loss, the means over tokens
    of `forward_kl` (on the prefixes of the data or of the source), `student_entropy`, `teacher_entropy` and
    `agreement`, and of a hybrid loss `soft_weight`, `soft` and `hard`, measured in the steps that are logged.

    Args:
        model: the student.
        args: as of the trainer.
        teacher: a model, or a `TeacherCache`. A model is set to evaluation mode, loses its gradients, and is put where
            the student is unless it was spread over devices.
        objective: what is minimised. A loss with a `set_step`, such as a `HybridKDLoss` with a curriculum, is told
            before each batch how many optimizer steps were taken.
        prefixes: where prefixes come from, such as `StudentPrefixes` or `AdaptiveReplay`; the data if None. The state
            of a replay goes into every checkpoint and comes back with it.
        corpus: rows of plain text for the objective's `lm_coef`, walked through in an order of their own.
        settings: as of the trainer.

    Raises:
        ValueError: if parts do not fit: no teacher for `kd_ratio` > 0, a corpus without `lm_coef` or the other way
            round, prefixes with a cached teacher, several devices in one process.

    Source: Wang et al., "ABKD", ICML 2025, by its code; the counting of tokens is ours.
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        *,
        teacher: nn.Module | TeacherCache | None = None,
        objective: DistillationObjective | None = None,
        prefixes: PrefixSource | None = None,
        corpus: Sequence[TokenRow] | None = None,
        **settings: Any,
    ) -> None:
        objective = objective or DistillationObjective()
        if teacher is None and objective.kd_ratio > 0:
            raise ValueError("teacher is missing; pass a model or a TeacherCache, or an objective with kd_ratio=0")
        if (corpus is None) != (objective.lm_coef == 0):
            raise ValueError(f"corpus and lm_coef={objective.lm_coef:g} go together; give both or none")
        if corpus is not None and not len(corpus):
            raise ValueError("corpus has no rows, wanted at least one")
        if prefixes is not None and isinstance(teacher, TeacherCache):
            raise ValueError("a cached teacher knows the prefixes of the data only; pass the teacher itself")
        self.objective: DistillationObjective = objective
        super().__init__(model, args, **settings)
        if self.args.n_gpu > 1:
            raise ValueError("several devices in one process are not supported; start with `torchrun` or `accelerate`")
        # The loss below is divided by the count of a whole step, whatever the model's own forward takes.
        self.model_accepts_loss_kwargs = True
        self.prefixes, self.corpus = prefixes, corpus
        self.teacher = teacher
        if isinstance(teacher, nn.Module):
            teacher.eval().requires_grad_(False)
            if not hasattr(teacher, "hf_device_map"):
                teacher.to(self.args.device)
        self._sums: dict[str, list[dict[str, Tensor]]] = {"": [], "eval_": []}
        if isinstance(prefixes, AdaptiveReplay):
            self.add_callback(_replay_callback(prefixes))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective's loss of a batch."""
        training = model.training
        objective = self.objective if training else replace(self.objective, lm_coef=0.0)
        set_step = getattr(objective.loss, "set_step", None)
        if set_step is not None:
            set_step(self.state.global_step)
        found = objective(
            model,
            self.teacher,
            inputs,
            num_items_in_batch=num_items_in_batch,
            measure=not training or self._is_logged(),
        )
        if found.sums is not None:
            self._sums["" if training else "eval_"].append({**found.sums._asdict(), **self._mixed(found.sums.tokens)})
        loss = found.loss
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # Gradients of processes are averaged, and the count is of all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, found.outputs) if return_outputs else loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The batches of a step, with the prefixes and the corpus rows that belong to them."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.corpus is not None:
            batches = self._beside_corpus(batches)
        if self.prefixes is not None:
            student = self.accelerator.unwrap_model(self.model_wrapped)
            total = max(1, self.state.max_steps)
            for place, batch in enumerate(batches):
                moment = Moment(self.state.global_step, total, place, self.args.process_index)
                batches[place] = self.prefixes.replace(batch, student, moment)
            items = self._get_num_items_in_batch(batches, device)
        return batches, items

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's logs with the means over tokens."""
        for prefix, found in self._sums.items():
            if found and any(name == f"{prefix}loss" for name in logs):
                names = list(found[0])
                sums = torch.stack([torch.stack([each[name].float() for name in names]) for each in found]).sum(0)
                tokens, *others = self.accelerator.reduce(sums, reduction="sum").tolist()
                logs.update(
                    {f"{prefix}{name}": one / max(tokens, 1) for name, one in zip(names[1:], others, strict=True)}
                )
                found.clear()
        super().log(logs, start_time)

    def _mixed(self, tokens: Tensor) -> dict[str, Tensor]:
        """Sums of what a hybrid loss says that it mixed in the last batch."""
        means: dict[str, Tensor] = getattr(self.objective.loss, "logs", {})
        return {name: means[name] * tokens for name in _MIXED if name in means}

    def _is_logged(self) -> bool:
        """Whether the step that is being made will be logged."""
        step, every = self.state.global_step + 1, self.state.logging_steps
        if self.args.logging_strategy != "steps":
            return self.args.logging_strategy != "no"
        return step % max(every, 1) == 0 or (step == 1 and self.args.logging_first_step)

    def _beside_corpus(self, batches: list[Any]) -> list[Any]:
        """Rows of the corpus beside the rows of the batches: the same for a step however it is cut."""
        assert self.corpus is not None
        order = np.random.default_rng(self.args.seed).permutation(len(self.corpus))
        per_batch, processes = self.args.per_device_train_batch_size, self.args.world_size
        start = self.state.global_step * per_batch * self.args.gradient_accumulation_steps * processes
        pad = getattr(self.processing_class, "pad_token_id", None) or 0
        found = []
        for number, batch in enumerate(batches):
            first = start + (number * processes + self.args.process_index) * per_batch
            count = len(batch["input_ids"])
            rows = [self.corpus[order[place % len(order)]] for place in range(first, first + count)]
            beside = collate_tokens(rows, pad)
            device = batch["input_ids"].device
            found.append({**batch, **{CORPUS + name: value.to(device) for name, value in beside.items()}})
        return found


def _replay_callback(replay: AdaptiveReplay) -> Any:
    """Keeps a replay's state beside the checkpoints and tells it the held-out loss."""
    from transformers import TrainerCallback

    def place(args: Any, state: Any) -> Path:
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        return folder if args.world_size == 1 else folder / f"process-{args.process_index}"

    class _ReplayState(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
            if metrics and "eval_loss" in metrics:
                replay.validated(metrics["eval_loss"])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            place(args, state).mkdir(parents=True, exist_ok=True)
            replay.save(place(args, state))

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step:
                replay.load(place(args, state))

    return _ReplayState()


if TYPE_CHECKING:

    class StudentTrainer(DistillationMixin):
        """The mixin over `transformers.Trainer`."""


def __getattr__(name: str) -> Any:
    if name != "StudentTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from transformers import Trainer

    made = type(
        "StudentTrainer",
        (DistillationMixin, Trainer),
        {"__module__": __name__, "__doc__": "`DistillationMixin` over `transformers.Trainer`."},
    )
    globals()[name] = made
    return made
