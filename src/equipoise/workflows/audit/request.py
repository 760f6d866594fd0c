"""What `audit` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class AuditRequest(Request):
    """Options of `audit_model`.

    Attributes:
        judge: Who says what pictures show: rules, for pictures of the shapes world, or a vision-language model by path
            or by a name in the local cache.
        text_judge: Who says what prompts ask for: rules, or a language model likewise.
        votes: Answers about the objects of a picture; strictly more than half must agree.
        variants: Pictures that verify a deviation.
        threshold: Score from which a prompt is flagged, in (0, 1].
        mask_mode: random, each changed prompt lacks a random part of the harmless phrases; all, each lacks all.
        verify: Branches whose deviations are verified, of object, style and patch; the others are flagged at once.
        clean_rate: Share of clean prompts that are flagged, where no group of the prompts is called clean.
        target_fpr: Rate of false alarms for which a threshold is worked out from clean prompts.
        alpha: Level of the test that calls a model suspicious.
        early_stop: Look at pictures one by one, and stop when the decision is certain.
        most_calls: Calls of judges that a prompt may cost; beyond it is undecided.
        retries: How often a judge or a service is asked again.
        timeout: Seconds to wait for a picture of a service.
        parallel: Pictures that are asked of a service at a time.
        seed: Of pictures, changed prompts and drawn answers.
        output: The folder to write: audit.json, report.html, pictures, and wanted.csv where pictures are missing.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    judge: str = "rules"
    text_judge: str = "rules"
    votes: int = 5
    variants: int = 5
    threshold: float = 0.999
    mask_mode: str = "random"
    verify: tuple[str, ...] = ("object", "style", "patch")
    clean_rate: float = 0.05
    target_fpr: float = 0.05
    alpha: float = 0.05
    early_stop: bool = False
    most_calls: int | None = None
    retries: int = 1
    timeout: float = 120.0
    parallel: int = 4
    seed: int = 0
    output: Path = Path("equipoise-audit")
    overwrite: bool = False
