"""Fine-tune a language model on texts by a small adapter, and say what it changed."""

from __future__ import annotations

import functools
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from equipoise.language.distillation.objective import DistillationObjective
from equipoise.language.distillation.offline import data_fingerprint, model_fingerprint
from equipoise.report.language_page import LanguageReport, Measure, language_page
from equipoise.workflows.adapt.request import AdaptRequest
from equipoise.workflows.distill.adapter import check_adapter, put_adapter, save_trained, trained_numbers, trainer_of
from equipoise.workflows.distill.distilling import (
    EXAMPLES,
    QUICK,
    check_training,
    made_with,
    pad_of,
    placed,
    training_summary,
)
from equipoise.workflows.distill.judging import LEVEL, HeldOut, coloured_text, dearest_tokens, judge_student
from equipoise.workflows.distill.models import check_fit, load_model, load_tokenizer, parameters, quiet_transformers
from equipoise.workflows.distill.texts import load_texts
from equipoise.workflows.distill.training import claim_states, dropped_if_refused, states_of, train
from equipoise.workflows.errors import InputError
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary

_log = logging.getLogger(__name__)
_ASIDES = (
    "Means are over held-out texts, of each text the mean over its tokens; intervals are Student's, over texts.",
    "The adapter that is kept is that of the last step.",
)


@dataclass(frozen=True, kw_only=True)
class AdaptOutcome:
    """What `adapt_model` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
    """

    folder: Path
    report: LanguageReport


def adapt_model(
    model: str,
    data: str | Path,
    request: AdaptRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> AdaptOutcome:
    """Train an adapter of a model on texts; `equipoise.language.load_adapter` puts it into the model again.

    Args:
        model: folder of a causal language model and its tokenizer, or the name of one that is on this machine.
        data: texts, see `equipoise.language.distillation.data`.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; no output is written then.
    """
    started = time.perf_counter()
    notes: list[str] = []

    def noted(words: str) -> None:
        notes.append(words)
        notice(words)

    if request.adapter is None:
        raise InputError("name the adapter: lora, moe-lora or tucka")
    check_training(request)
    check_adapter(request)
    inputs: list[str | Path] = [data, *([model] if Path(model).exists() else [])]
    with staged_folder(request.output, overwrite=request.overwrite, inputs=inputs) as stage, quiet_transformers():
        progress("loading")
        tokenizer = load_tokenizer(model, "model")
        tuned = placed(load_model(model, "model"))
        progress("reading")
        texts = load_texts(Path(data), request, tokenizer, noted)
        check_fit(tuned, "model", [*texts.train, *texts.held])
        states = states_of(request.output)
        known = {"model": model_fingerprint(tuned), "data": data_fingerprint([*texts.train, *texts.held])}
        judged = functools.partial(
            judge_student,
            teacher=None,
            loss=None,
            rows=texts.held,
            batch_size=request.batch_size,
            pad_token_id=pad_of(tokenizer),
        )
        progress("judging the model before training")
        before = judged(tuned)
        put_adapter(tuned, request)
        claim_states(states, request, known)
        with dropped_if_refused(states):
            logs = train(
                trainer_of(request),
                tuned,
                texts.train,
                texts.held,
                request,
                states,
                learning_rate=request.learning_rate or QUICK,
                pad_token_id=pad_of(tokenizer),
                progress=progress,
                objective=DistillationObjective(kd_ratio=0.0),
            )
        progress("judging the model")
        with dropped_if_refused(states, whole=True):
            after = judged(tuned)
        save_trained(tuned, tokenizer, request, stage)
        trained = trained_numbers(tuned)
        report = LanguageReport(
            command="adapt",
            title=f"{Path(model).name} with {request.adapter}",
            facts=(
                f"model of {parameters(tuned) - trained:,} numbers",
                f"adapter of {trained:,}",
                *texts.facts(),
            ),
            what="the cross-entropy",
            measures=_measures(before, after),
            losses=[(entry["step"], entry["loss"]) for entry in logs if "loss" in entry],
            held=[(entry["step"], entry["eval_loss"]) for entry in logs if "eval_loss" in entry],
            costs=dearest_tokens(before, after, tokenizer),
            examples=[coloured_text(tuned, None, row, tokenizer) for row in texts.held[:EXAMPLES]],
            notes=notes,
            asides=_ASIDES,
            level=LEVEL,
            provenance=made_with(provenance(command, request.seed, time.perf_counter() - started)),
        )
        (stage / "report.html").write_text(language_page(report), encoding="utf-8")
        write_summary(stage, training_summary(request, texts, report, {"model": parameters(tuned), "adapter": trained}))
    shutil.rmtree(states, ignore_errors=True)
    return AdaptOutcome(folder=request.output, report=report)


def _measures(before: HeldOut, after: HeldOut) -> list[Measure]:
    def row(words: str, name: str, less: bool) -> Measure:
        return Measure(words, before.mean(name), after.mean(name), after.change(before, name), None, less)

    return [
        row("cross-entropy of the texts", "cross_entropy", True),
        row("next tokens that were the likeliest", "right", False),
    ]
