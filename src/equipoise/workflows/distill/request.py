"""What `distill` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class TrainingRequest(Request):
    """Options that every training of a language model has.

    Attributes:
        validation: A file of texts to judge by; a share of the data if absent.
        test_size: That share.
        max_length: The most tokens of a text; longer ones lose their end, running texts are cut in pieces.
        epochs: How often every text is seen.
        learning_rate: Of AdamW, falling to 0 along a cosine; 5e-4 for a student made anew or an adapter, 5e-5 for a
            trained model, if absent.
        batch_size: Texts per forward pass.
        accumulation: Forward passes per step; the result does not depend on how they share the texts of a step.
        adapter: Train a small adapter in place of all weights: lora, moe-lora or tucka.
        rank: Its rank; its own if absent.
        targets: Names of the linear layers to adapt, or their last parts; all but the output layer if absent.
        save_steps: Steps between checkpoints, which lie beside the output folder until it is written.
        resume: Go on where a stopped run of the same request was.
        seed: Of the split, the order and all draws.
        overwrite: Replace the output folder if an earlier run wrote it and it holds nothing else.
    """

    validation: Path | None = None
    test_size: float = 0.1
    max_length: int = 512
    epochs: float = 3.0
    learning_rate: float | None = None
    batch_size: int = 8
    accumulation: int = 1
    adapter: str | None = None
    rank: int | None = None
    targets: Sequence[str] | None = None
    save_steps: int = 200
    resume: bool = False
    seed: int = 0
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class DistillRequest(TrainingRequest):
    """Options of `distill_student`.

    Attributes:
        loss: What is compared: ab, forward_kl, reverse_kl, jsd, skew_forward_kl, skew_reverse_kl, tvd, weighted_kl,
            adaptive_kl.
        hybrid: Mix it with the cross-entropy of the texts, token by token: confidence or entropy (labels where the
            teacher is sure), or static; on prefixes of the student the teacher's likeliest tokens are the labels.
        lam: Of hybrid: the largest weight of the comparison (1 if absent), or the weight for static (0.2 if absent).
        alpha: Of ab: how strongly large differences count; 0.2 if absent.
        beta: Of ab: how strongly tokens count that the student likes (0.7 if absent); of jsd: the teacher's weight.
        temperature: Divides the logits of both.
        kd_ratio: Share of the comparison; the rest is the cross-entropy of the texts.
        corpus: A file of plain texts whose cross-entropy is added.
        lm_coef: Its weight.
        prefixes: What the models are compared on: data, teacher (its answers to the prompts), student (its own), or
            adaptive (its own, kept and used again, the more the worse it does).
        lmbda: With prefixes=student, the share of batches that the student writes.
        max_new_tokens: The most tokens of an answer.
        top_k: Ask the teacher once and keep so many tokens of each place; ask it every time if absent.
        fused: Never make the logits of a whole batch.
        allow_vocab_crop: Compare the common first entries of vocabularies that differ by padding.
        risk: Mark the bridges (where a wrong token ruins what follows) and gardens of the first text, by so many
            rollouts of the teacher after two tokens of each place; 0 for none, which is quick.
        output: The folder to write: model (or adapter), metrics.json, report.html.
    """

    loss: str = "ab"
    hybrid: str | None = None
    lam: float | None = None
    alpha: float | None = None
    beta: float | None = None
    temperature: float = 1.0
    kd_ratio: float = 1.0
    corpus: Path | None = None
    lm_coef: float = 1.0
    prefixes: str = "data"
    lmbda: float = 0.5
    max_new_tokens: int = 128
    top_k: int | None = None
    fused: bool = False
    allow_vocab_crop: bool = False
    risk: int = 0
    output: Path = Path("equipoise-distill")
