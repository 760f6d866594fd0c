"""Train a student from a teacher, and say what it learnt and where it is still short."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from equipoise.core.curves.intervals import Interval
from equipoise.core.token_divergence.families import AlphaBeta, JensenShannon, resolve_divergence
from equipoise.core.validate import check_choice
from equipoise.language.distillation.data import TokenRow
from equipoise.language.distillation.divergence_loss import TokenDivergenceLoss
from equipoise.language.distillation.hybrid import HybridKDLoss
from equipoise.language.distillation.objective import DistillationObjective
from equipoise.language.distillation.offline import (
    TeacherCache,
    data_fingerprint,
    model_fingerprint,
    write_teacher_cache,
)
from equipoise.language.distillation.prefixes import Sampling, StudentPrefixes, answer_prompts
from equipoise.language.distillation.replay import AdaptiveReplay
from equipoise.language.distillation.vocabulary import check_same_tokens
from equipoise.report import Provenance
from equipoise.report.language_page import LanguageReport, Measure, language_page
from equipoise.workflows.distill.adapter import check_adapter, put_adapter, save_trained, trained_numbers, trainer_of
from equipoise.workflows.distill.judging import (
    LEVEL,
    HeldOut,
    coloured_text,
    dearest_tokens,
    judge_student,
    with_risks,
)
from equipoise.workflows.distill.models import (
    check_fit,
    is_sizes,
    load_model,
    load_tokenizer,
    parameters,
    quiet_transformers,
    student_from_sizes,
)
from equipoise.workflows.distill.request import DistillRequest, TrainingRequest
from equipoise.workflows.distill.texts import Texts, load_corpus, load_texts
from equipoise.workflows.distill.training import claim_states, dropped_if_refused, objective_terms, states_of, train
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.output import staged_folder
from equipoise.workflows.scores.judging import provenance, write_summary

_log = logging.getLogger(__name__)
LOSSES = (
    "ab",
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skew_forward_kl",
    "skew_reverse_kl",
    "tvd",
    "weighted_kl",
    "adaptive_kl",
)
_PREFIXES = ("data", "teacher", "student", "adaptive")
_HYBRID = ("confidence", "entropy", "static")
_STATIC_LAM = 0.2
EXAMPLES = 3
QUICK, CAREFUL = 5e-4, 5e-5
_ASIDES = (
    "Means are over held-out texts, of each text the mean over its tokens; intervals are Student's, over texts.",
    "Both models see the same prefixes, those of the held-out texts: what a student does on its own is not judged.",
    "The model that is kept is that of the last step.",
)


@dataclass(frozen=True, kw_only=True)
class DistillOutcome:
    """What `distill_student` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        saved: the folder in it that holds what was trained, "model" or "adapter".
    """

    folder: Path
    report: LanguageReport
    saved: str


def distill_student(
    teacher: str,
    student: str,
    data: str | Path,
    request: DistillRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> DistillOutcome:
    """Train a student to say what its teacher would.

    Args:
        teacher: folder of a causal language model and its tokenizer, or the name of one that is on this machine.
        student: likewise, or sizes such as "layers=4,hidden=256" of a student that is made anew in the teacher's form.
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

    objective = _checked(request)
    data = Path(data)
    inputs: list[str | Path] = [data, *(name for name in (teacher, student) if Path(name).exists())]
    with staged_folder(request.output, overwrite=request.overwrite, inputs=inputs) as stage, quiet_transformers():
        progress("loading")
        tokenizer = load_tokenizer(teacher, "teacher")
        theirs = load_model(teacher, "teacher", dtype="auto")
        anew = is_sizes(student)
        ours = student_from_sizes(student, theirs, request.seed) if anew else load_model(student, "student")
        progress("reading")
        texts = load_texts(data, request, tokenizer, noted)
        if texts.running and request.prefixes != "data":
            raise InputError(f"prefixes={request.prefixes} needs prompts to answer, and {data} holds running text only")
        if not anew:
            with mendable():
                check_same_tokens(load_tokenizer(student, "student"), tokenizer, _words(texts))
        _check_vocabularies(ours, theirs, request)
        corpus = None if request.corpus is None else load_corpus(request.corpus, request, tokenizer, noted)
        more = 0 if request.prefixes == "data" else request.max_new_tokens
        for what, model in (("student", ours), ("teacher", theirs)):
            check_fit(model, what, [*texts.train, *texts.held, *(corpus or [])], more=more)
        states = states_of(request.output)
        known = {"teacher": model_fingerprint(theirs), "student": model_fingerprint(ours)}
        known["data"] = data_fingerprint([*texts.train, *texts.held, *(corpus or [])])
        claim_states(states, request, known)
        pad = pad_of(tokenizer)
        ours, theirs = (placed(model) for model in (ours, theirs))
        put_adapter(ours, request)
        judged = functools.partial(
            judge_student,
            teacher=theirs,
            loss=objective.loss,
            rows=texts.held,
            batch_size=request.batch_size,
            pad_token_id=pad,
        )
        progress("judging the student before training")
        before = judged(ours)
        with dropped_if_refused(states):
            logs = _train(ours, theirs, texts, corpus, objective, request, anew, tokenizer, progress)
        progress("judging the student")
        after = judged(ours)
        saved = save_trained(ours, tokenizer, request, stage)
        shown = [coloured_text(ours, theirs, row, tokenizer) for row in texts.held[:EXAMPLES]]
        if request.risk:
            progress("looking for bridges and gardens")
            shown[0] = with_risks(shown[0], ours, theirs, texts.held[0], request.risk, ends_of(tokenizer), request.seed)
        report = LanguageReport(
            command="distill",
            title=f"{_named(student)} learns from {_named(teacher)}",
            facts=(
                f"teacher of {parameters(theirs):,} numbers",
                f"student of {parameters(ours):,}, {trained_numbers(ours):,} of them trained",
                *texts.facts(),
                f"{request.loss}: {objective_terms(objective)}"
                if request.hybrid is None
                else f"{request.loss}, hybrid",
            ),
            what="the divergence KL(teacher‖student)",
            measures=_measures(before, after, compared=request.kd_ratio > 0),
            losses=[(entry["step"], entry["loss"]) for entry in logs if "loss" in entry],
            held=[(entry["step"], entry["eval_loss"]) for entry in logs if "eval_loss" in entry],
            costs=dearest_tokens(before, after, tokenizer),
            examples=shown,
            notes=notes,
            asides=_ASIDES,
            level=LEVEL,
            provenance=made_with(provenance(command, request.seed, time.perf_counter() - started)),
        )
        (stage / "report.html").write_text(language_page(report), encoding="utf-8")
        sizes = {"student": parameters(ours), "teacher": parameters(theirs)}
        write_summary(stage, training_summary(request, texts, report, sizes))
    shutil.rmtree(states, ignore_errors=True)
    return DistillOutcome(folder=request.output, report=report, saved=saved)


def _train(
    student: Any,
    teacher: Any,
    texts: Texts,
    corpus: Sequence[TokenRow] | None,
    objective: DistillationObjective,
    request: DistillRequest,
    anew: bool,
    tokenizer: Any,
    progress: Callable[[str], None],
) -> list[dict[str, float]]:
    states, pad = states_of(request.output), pad_of(tokenizer)
    sampling = Sampling(request.max_new_tokens, pad_token_id=pad, eos_token_ids=ends_of(tokenizer))
    rows = _rows(teacher, texts, request, sampling, states, progress)
    return train(
        trainer_of(request),
        student,
        rows,
        texts.held,
        request,
        states,
        learning_rate=request.learning_rate or (QUICK if anew or request.adapter else CAREFUL),
        pad_token_id=pad,
        progress=progress,
        teacher=_asked(teacher, [*rows, *texts.held], request, states, progress),
        objective=objective,
        prefixes=_source(request, sampling),
        corpus=corpus,
    )


def check_training(request: TrainingRequest) -> None:
    """What can be checked of a training before anything is read.

    Raises:
        InputError: if a number is out of its range.
    """
    for name in ("max_length", "batch_size", "accumulation", "save_steps"):
        if getattr(request, name) < (2 if name == "max_length" else 1):
            raise InputError(f"{name}={getattr(request, name)} must be at least {2 if name == 'max_length' else 1}")
    if not 0 < request.test_size < 1:
        raise InputError(f"test_size={request.test_size} must lie between 0 and 1")
    if not request.epochs > 0:
        raise InputError(f"epochs={request.epochs} must be greater than 0")
    if request.learning_rate is not None and not request.learning_rate > 0:
        raise InputError(f"learning_rate={request.learning_rate} must be greater than 0")
    if torch.cuda.device_count() > 1:
        raise InputError("several GPUs are visible, of which one is used; say which with CUDA_VISIBLE_DEVICES=0")
    if not 0 <= request.seed < 2**32:
        raise InputError(f"seed={request.seed} must lie between 0 and {2**32 - 1}")


def _checked(request: DistillRequest) -> DistillationObjective:
    check_training(request)
    check_adapter(request)
    if request.hybrid is not None and (request.temperature != 1 or request.kd_ratio != 1):
        raise InputError("--hybrid mixes token by token, at temperature 1; leave --temperature and --kd-ratio out")
    if request.lam is not None and request.hybrid is None:
        raise InputError(
            "--lam is the weight of --hybrid; pass --hybrid confidence, entropy or static, or leave it out"
        )
    if request.risk < 0:
        raise InputError(f"risk={request.risk} must be at least 0")
    with mendable():
        check_choice("loss", request.loss, LOSSES)
        check_choice("prefixes", request.prefixes, _PREFIXES)
        if request.alpha is not None and request.loss != "ab":
            raise InputError(f"--alpha is of the loss ab, {request.loss} has none; leave it out")
        if request.beta is not None and request.loss not in ("ab", "jsd"):
            raise InputError(f"--beta is of the losses ab and jsd, {request.loss} has none; leave it out")
        if request.top_k is not None and request.prefixes in ("student", "adaptive"):
            raise InputError(f"prefixes={request.prefixes} need the teacher at every step; leave --top-k out")
        if request.top_k is not None and request.fused:
            raise InputError(
                "--fused makes no logits, and --top-k compares those of the student; leave one of them out"
            )
        if request.max_new_tokens < 1 or (request.top_k is not None and request.top_k < 1):
            raise InputError("--max-new-tokens and --top-k must be at least 1")
        if not 0 <= request.lmbda <= 1:
            raise InputError(f"lmbda={request.lmbda} must lie between 0 and 1")
        if request.loss == "ab":
            family: Any = AlphaBeta(
                0.2 if request.alpha is None else request.alpha, 0.7 if request.beta is None else request.beta
            )
        elif request.loss == "jsd" and request.beta is not None:
            family = JensenShannon(request.beta)
        else:
            family = resolve_divergence(request.loss)  # type: ignore[arg-type]
        return DistillationObjective(
            _loss(family, request),
            kd_ratio=request.kd_ratio,
            lm_coef=request.lm_coef if request.corpus is not None else 0.0,
            fused=request.fused,
            allow_vocab_crop=request.allow_vocab_crop,
        )


def _loss(family: Any, request: DistillRequest) -> Any:
    if request.hybrid is None:
        return TokenDivergenceLoss(family, temperature=request.temperature)
    check_choice("hybrid", request.hybrid, _HYBRID)
    usual = _STATIC_LAM if request.hybrid == "static" else 1.0
    return HybridKDLoss(
        request.hybrid,  # type: ignore[arg-type]
        lam=usual if request.lam is None else request.lam,
        divergence=family,
        hard="argmax" if request.prefixes in ("student", "adaptive") else "labels",
    )


def _check_vocabularies(student: Any, teacher: Any, request: DistillRequest) -> None:
    own, other = (model.get_output_embeddings().weight.shape[0] for model in (student, teacher))
    if own != other and not request.allow_vocab_crop:
        raise InputError(
            f"the student's vocabulary has {own} entries, the teacher's {other}; if only padding differs, pass "
            "--allow-vocab-crop to compare the common first ones"
        )


def _words(texts: Texts) -> list[str]:
    return [
        words
        for row in texts.rows
        for words in (row.prompt, row.response, *(one["content"] for one in row.messages))
        if words
    ]


def made_with(made: Provenance) -> Provenance:
    """The versions of what trains language models, too."""
    more = {package: importlib.metadata.version(package) for package in ("transformers", "accelerate")}
    return replace(made, versions={**made.versions, **more})


def pad_of(tokenizer: Any) -> int:
    """What to pad with; any token will do."""
    return next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)


def ends_of(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a text."""
    return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)


def placed(model: Any) -> Any:
    """The model on the device that the trainer will take."""
    return model.to("cuda") if torch.cuda.is_available() else model


def _rows(
    teacher: Any,
    texts: Texts,
    request: DistillRequest,
    sampling: Sampling,
    states: Path,
    progress: Callable[[str], None],
) -> Sequence[TokenRow]:
    """What is learnt from: the data, or the teacher's answers, kept for a run that goes on."""
    if request.prefixes != "teacher":
        return texts.train
    kept = states / "answers.json"
    if kept.exists():
        return [TokenRow(*each) for each in json.loads(kept.read_text(encoding="utf-8"))]
    rows = answer_prompts(
        teacher, texts.train, sampling, batch_size=request.batch_size, seed=request.seed, progress=progress
    )
    aside = kept.with_name("answers.json.new")
    aside.write_text(json.dumps([[list(row.input_ids), list(row.labels), row.row] for row in rows]), encoding="utf-8")
    aside.replace(kept)
    return rows


def _asked(
    teacher: Any, rows: Sequence[TokenRow], request: DistillRequest, states: Path, progress: Callable[[str], None]
) -> Any:
    """The teacher, or what it once said."""
    if request.kd_ratio == 0:
        return None
    if request.top_k is None:
        return teacher
    with mendable():
        cache: TeacherCache = write_teacher_cache(
            teacher,
            [replace(row, row=place) for place, row in enumerate(rows)],
            states / "teacher",
            k=request.top_k,
            batch_size=request.batch_size,
            progress=progress,
        )
    return cache


def _source(request: DistillRequest, sampling: Sampling) -> Any:
    if request.prefixes == "student":
        return StudentPrefixes(sampling, lmbda=request.lmbda, seed=request.seed)
    return AdaptiveReplay(sampling, seed=request.seed) if request.prefixes == "adaptive" else None


def _named(name: str) -> str:
    return name if is_sizes(name) else Path(name).name


def _measures(before: HeldOut, after: HeldOut, *, compared: bool) -> list[Measure]:
    """Measure by measure, first the divergence, or the cross-entropy where that alone was trained on."""

    def row(words: str, name: str, *, less: bool | None = True, teacher: str | None = None) -> Measure:
        theirs = None if teacher is None else after.mean(teacher).estimate
        return Measure(words, before.mean(name), after.mean(name), after.change(before, name), theirs, less)

    found = [
        row("KL(teacher‖student)", "forward_kl"),
        row("the loss of the comparison", "loss"),
        row("cross-entropy of the texts", "cross_entropy"),
        row("same likeliest token", "agreement", less=False),
        row("entropy", "student_entropy", less=None, teacher="teacher_entropy"),
    ]
    return found if compared else [found.pop(2), *found]


def training_summary(
    request: TrainingRequest, texts: Texts, report: LanguageReport, sizes: Mapping[str, int]
) -> dict[str, Any]:
    """What `metrics.json` holds."""

    def plain(value: Interval) -> dict[str, float]:
        return {"estimate": value.estimate, "low": value.low, "high": value.high}

    return {
        "request": {name: str(each) if isinstance(each, Path) else each for name, each in asdict(request).items()},
        "parameters": dict(sizes),
        "rows": {"train": len(texts.train), "held_out": len(texts.held)},
        "measures": {
            one.name: {"before": plain(one.before), "after": plain(one.after), "change": plain(one.change)}
            for one in report.measures
        },
        "notes": list(report.notes),
    }
