"""Small adapters in place of all weights: put in, trained with what evens out their load, written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from equipoise.core.models.low_rank import linear_sizes
from equipoise.core.validate import check_choice
from equipoise.language.adapters.moe_lora import take_balance_loss
from equipoise.language.adapters.saving import ADAPTERS, add_adapter, save_adapter, trainable_parameters
from equipoise.workflows.distill.request import TrainingRequest
from equipoise.workflows.errors import InputError, mendable

# AdaLoRA's budget has a state of its own, which checkpoints do not hold.
KINDS = ("lora", "moe-lora", "tucka")


def check_adapter(request: TrainingRequest) -> None:
    """What can be checked before a model is there.

    Raises:
        InputError: if the adapter is not known, or its options are given without one.
    """
    if request.adapter is None:
        given = next((name for name in ("rank", "targets") if getattr(request, name) is not None), None)
        if given is not None:
            raise InputError(f"--{given} is that of an adapter; name one with --adapter")
        return
    with mendable():
        check_choice("adapter", request.adapter, KINDS)
    if request.rank is not None and request.rank < 1:
        raise InputError(f"rank={request.rank} must be at least 1")
    if request.targets is not None and not len(request.targets):
        raise InputError("name at least one of the targets, or leave --targets out for all linear layers")


def put_adapter(model: Any, request: TrainingRequest) -> None:
    """Freeze the model and adapt its linear layers.

    Raises:
        InputError: if no layer matches, or the sizes do not fit.
    """
    if request.adapter is None:
        return
    settings: Any = ADAPTERS[request.adapter]()
    if any(field.name == "seed" for field in dataclasses.fields(settings)):
        settings = dataclasses.replace(settings, seed=request.seed)
    try:
        if request.rank is not None:
            settings = dataclasses.replace(settings, r=request.rank)
        device = next(model.parameters()).device
        with torch.random.fork_rng([]):
            torch.manual_seed(request.seed)
            add_adapter(
                model,
                request.adapter,  # type: ignore[arg-type]
                list(request.targets or _linear_layers(model)),
                settings,
                example={"input_ids": torch.zeros(1, 2, dtype=torch.long, device=device)},
            )
    except (ValueError, TypeError) as error:
        raise InputError(f"adapter {request.adapter}: {error}") from error


def _linear_layers(model: Any) -> list[str]:
    """All linear layers but the output layer."""
    output = model.get_output_embeddings()
    return [name for name, part in model.named_modules() if linear_sizes(part) is not None and part is not output]


def save_trained(model: Any, tokenizer: Any, request: TrainingRequest, stage: Path) -> str:
    """Write the adapter, or the whole model with its tokenizer; the name of the folder."""
    if request.adapter is not None:
        save_adapter(model, stage / "adapter")
        return "adapter"
    model.save_pretrained(stage / "model")
    tokenizer.save_pretrained(stage / "model")
    return "model"


def trainer_of(request: TrainingRequest) -> Any:
    """The trainer, which adds the loss that evens out the load of experts where tokens choose among them."""
    from equipoise.language.distillation.trainer import StudentTrainer

    if request.adapter != "moe-lora":
        return StudentTrainer

    class _BalancedTrainer(StudentTrainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if not model.training:
                return found
            return found + take_balance_loss(model) / self.current_gradient_accumulation_steps

    return _BalancedTrainer


def trained_numbers(model: Any) -> int:
    """How many numbers are trained."""
    return sum(trainable_parameters(model).values())
