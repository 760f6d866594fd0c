"""What `evaluate` can be asked for. The command line reads options, defaults and help from here.

Annotations are not postponed, so that a subclass in another module keeps them readable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class JudgeRequest(Request):
    """What every evaluation is asked for.

    Attributes:
        confidence: Of intervals and guaranteed thresholds.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        output: The folder to write: metrics.json, report.html.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0
    output: Path = Path("equipoise-evaluation")
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoresRequest(JudgeRequest):
    """What every evaluation of a file of scores is asked for.

    Attributes:
        target: The column of true labels.
        score: The columns of scores, higher meaning more positive; several are compared.
        group: A column whose rows belong together: intervals and guarantees then count its values, not rows.
    """

    target: str
    score: Sequence[str]
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentationRequest(JudgeRequest):
    """Options of `evaluate_segmentation`, which judges folders of label maps.

    Attributes:
        classes: With --segmentation, the names of the classes in their order, or a file with one on each line.
        ignore_index: With --segmentation, the label of pixels that do not count.
        tail: With --segmentation, the names of the rare classes; the third with the fewest true pixels if not given.
        worst: With --saliency or --segmentation, how many of the worst images to show.
    """

    classes: Sequence[str] | None = None
    ignore_index: int = 255
    tail: Sequence[str] | None = None
    worst: int = 6


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(ScoresRequest):
    """Options of `evaluate_scores`, which judges a binary target.

    Attributes:
        positive: The value of the target that counts as positive.
        max_fpr: The false-positive budget of OPAUC and TPAUC; 0.05 if not given.
        min_tpr: The least true-positive rate of TPAUC; 0.5 if not given.
        wanted_fpr: False-positive rates to find a threshold for.
        wanted_tpr: True-positive rates to find a threshold for.
        stream: Read Parquet piece by piece, whatever its size, and give certified bounds; done without asking for
            several files and for one of more than five million rows.
        workers: Threads of a stream, or processes of --saliency; by default one for each core.
        ray: Stream on a Ray cluster (that of RAY_ADDRESS, else one on this machine).
    """

    positive: str | None = None
    max_fpr: float | None = None
    min_tpr: float | None = None
    wanted_fpr: Sequence[float] | None = None
    wanted_tpr: Sequence[float] | None = None
    stream: bool = False
    workers: int | None = None
    ray: bool = False


@dataclass(frozen=True, kw_only=True)
class OpenRequest(ScoresRequest):
    """Options of `evaluate_open`, which judges class scores where some samples belong to no known class.

    Columns may be named by patterns. `score` names one column per class, such as `score_*`; a class has the name of its
    column, or what the star stands for. `target` holds names of classes, or their positions from 0 with -1 for unknown;
    as a pattern such as `label_*` it names one column of 0 and 1 per label, and samples without any are unknown.

    Attributes:
        open_score: With --open, the column that says how known a sample looks; the highest class score if not given.
        new: With --open, the columns of scores of new classes, which have names but were not trained on.
        unknown: With --open, what the target holds for samples of no class; -1 always means that.
        higher_is: With --open, "in" where a higher open score means known, "out" where it means unknown.
        k: With --open, the lengths of the top-k list; those of 1, 3 and 5 that fit if not given.
        known_recall: With --open, the share of known samples to accept at least.
    """

    open_score: str | None = None
    new: Sequence[str] | None = None
    unknown: str = "unknown"
    higher_is: str = "in"
    k: Sequence[int] | None = None
    known_recall: float = 0.95
