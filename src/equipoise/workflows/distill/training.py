"""Training that a killed run goes on with: checkpoints that are whole or not used, beside the output folder."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from equipoise.language.distillation.data import TokenRow, collate_tokens
from equipoise.language.distillation.objective import DistillationObjective
from equipoise.workflows.distill.models import quiet_transformers
from equipoise.workflows.distill.request import TrainingRequest
from equipoise.workflows.errors import InputError

_REQUEST, _WHOLE = "request.json", "whole"
# What may differ between a stopped run and the one that goes on.
_FREE = ("output", "overwrite", "resume")


def states_of(output: Path) -> Path:
    """Where the checkpoints of an output folder lie."""
    place = output.resolve()
    return place.with_name(f"{place.name}-checkpoints")


def claim_states(folder: Path, request: TrainingRequest, inputs: Mapping[str, str]) -> None:
    """Make the folder of checkpoints, or find it to be that of the same request.

    Args:
        folder: of `states_of`.
        request: the options.
        inputs: what else must be the same: models and fingerprints of data.

    Raises:
        InputError: if it holds what another request left, or --resume was not asked for.
    """
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    asked = {**{name: value for name, value in plain.items() if name not in _FREE}, **inputs}
    if not folder.exists():
        folder.mkdir(parents=True)
        _write(folder / _REQUEST, json.dumps(asked, indent=1))
        return
    if not request.resume:
        raise InputError(f"{folder} holds what a stopped run left; pass --resume to go on with it, or delete it")
    try:
        found = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} is no folder of checkpoints ({error}); delete it, or name another output"
        ) from error
    changed = next((name for name, value in asked.items() if found.get(name) != value), None)
    if changed is not None:
        raise InputError(
            f"{folder} was left by a run with another {changed}: {found.get(changed)!r}, not {asked[changed]!r}; give "
            "the same, or delete the folder"
        )


@contextmanager
def dropped_if_refused(folder: Path, *, whole: bool = False) -> Iterator[None]:
    """Remove the checkpoints' folder where a request turns out wrong before there is one, or with all if `whole`."""
    try:
        yield
    except InputError:
        if whole or not list(folder.glob(f"checkpoint-*/{_WHOLE}")):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def train(
    make: Callable[..., Any],
    model: Any,
    rows: Sequence[TokenRow],
    held: Sequence[TokenRow],
    request: TrainingRequest,
    states: Path,
    *,
    learning_rate: float,
    pad_token_id: int,
    progress: Callable[[str], None],
    **parts: Any,
) -> list[dict[str, float]]:
    """Train a model in place, from its last whole checkpoint if there is one.

    Args:
        make: `StudentTrainer`.
        model: to train.
        rows: to learn from.
        held: to look at after each epoch.
        request: the options.
        states: folder of the checkpoints.
        learning_rate: at the start.
        pad_token_id: to pad with.
        progress: told what is being done.
        parts: more for the trainer.

    Returns:
        What was logged.

    Raises:
        InputError: if the loss is not finite, or memory runs out.
    """
    from transformers import TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    graphics = torch.cuda.is_available()
    per_step = request.batch_size * request.accumulation
    steps = max(1, int(request.epochs * -(-len(rows) // per_step)))
    with quiet_transformers():
        arguments = TrainingArguments(
            output_dir=str(states),
            per_device_train_batch_size=request.batch_size,
            per_device_eval_batch_size=request.batch_size,
            gradient_accumulation_steps=request.accumulation,
            num_train_epochs=request.epochs,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            weight_decay=0.01 if request.adapter is None else 0.0,
            max_grad_norm=1.0,
            logging_steps=max(1, steps // 50),
            eval_strategy="epoch",
            save_strategy="steps",
            save_steps=request.save_steps,
            save_total_limit=2,
            bf16=graphics and torch.cuda.is_bf16_supported(),
            use_cpu=not graphics,
            dataloader_pin_memory=graphics,
            report_to="none",
            disable_tqdm=True,
            seed=request.seed,
            label_names=["labels"],
        )
        trainer = make(
            model,
            arguments,
            train_dataset=list(rows),
            eval_dataset=list(held),
            data_collator=functools.partial(collate_tokens, pad_token_id=pad_token_id),
            callbacks=[_states_callback(progress)],
            **parts,
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=_last_whole(states))
        except torch.OutOfMemoryError as error:
            raise InputError(
                "there is not enough memory; give a smaller --batch-size with more --accumulation, a smaller "
                "--max-length, or --fused for distill"
            ) from error
    return list(trainer.state.log_history)


def _last_whole(states: Path) -> str | None:
    """The last checkpoint that was written to its end; the others are removed."""
    found = []
    for folder in states.glob("checkpoint-*"):
        if (folder / _WHOLE).exists():
            found.append(folder)
        else:
            shutil.rmtree(folder)
    last = max(found, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
    return None if last is None else str(last)


def _states_callback(progress: Callable[[str], None]) -> Any:
    from transformers import TrainerCallback

    class _States(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            _write(Path(args.output_dir, f"checkpoint-{state.global_step}", _WHOLE), "")

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                if not torch.tensor(logs["loss"]).isfinite():
                    raise InputError(
                        f"the loss is {logs['loss']} at step {state.global_step}; give a smaller --learning-rate"
                    )
                progress(f"step {state.global_step} of {state.max_steps}, loss {logs['loss']:.4f}")

    return _States()


def _write(path: Path, text: str) -> None:
    """A file that is whole or not there."""
    aside = path.with_name(path.name + ".new")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, path)


def objective_terms(objective: DistillationObjective) -> str:
    """What is minimised, in words.

    >>> objective_terms(DistillationObjective(kd_ratio=0.5))
    '0.5 times the comparison and 0.5 times the cross-entropy'
    """
    if objective.kd_ratio == 1:
        return "the comparison alone"
    if objective.kd_ratio == 0:
        return "the cross-entropy alone"
    return f"{objective.kd_ratio:g} times the comparison and {1 - objective.kd_ratio:g} times the cross-entropy"
