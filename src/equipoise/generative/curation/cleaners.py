"""Cleaners of one identity: which of its samples to keep, by their embeddings or by a judge who looks at them.

Several cleaners are asked about the same samples, and `combine_cleaners` makes one decision of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from equipoise.core.models.judges import JudgeError
from equipoise.core.settings import HasSettings
from equipoise.core.signature import checked
from equipoise.core.types import Count, OpenFraction, Positive, Probability
from equipoise.generative.curation.clusters import auto_threshold_cluster, largest_consistent_cluster
from equipoise.generative.curation.judges import IdentityJudge, checked_outliers


class CleanerDecision(NamedTuple):
    """What a cleaner keeps.

    Attributes:
        kept: numbers of samples, ascending.
        verified: False where the cleaner could not decide and kept everything.
    """

    kept: list[int]
    verified: bool = True


@runtime_checkable
class Cleaner(Protocol):
    """What decides about the samples of an identity; its `name` is shown in manifests."""

    name: str

    def __call__(self, samples: Sequence[Any], embeddings: Tensor) -> CleanerDecision:
        """Which of n samples to keep, given also as embeddings (n, d)."""
        ...


class ClusterCleaner(HasSettings):
    """The largest cluster of embeddings, see `auto_threshold_cluster`.

    Args:
        threshold: cosine from which two samples are neighbours; None moves it until the kept share lies in the range.
        initial_threshold: cosine to begin with.
        min_fraction: least share to keep.
        max_fraction: largest share to keep; 1.0 where the source is clean.
        step: by which the threshold is moved.
        max_iter: thresholds to try at most.
        bounds: least and largest threshold.
        mode: "grid" or "exact".
        min_samples: neighbours that make a sample the core of a cluster.

    >>> import torch
    >>> ClusterCleaner(threshold=0.6)([], torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])).kept
    [0, 2]
    """

    name = "cluster"

    @checked
    def __init__(
        self,
        threshold: OpenFraction | None = None,
        initial_threshold: OpenFraction = 0.6,
        min_fraction: Probability = 0.5,
        max_fraction: Probability = 0.8,
        step: Positive = 0.02,
        max_iter: Count = 10,
        bounds: Sequence[float] = (0.3, 0.9),
        mode: Literal["grid", "exact"] = "grid",
        min_samples: Count = 2,
    ) -> None:
        if min_fraction > max_fraction:
            raise ValueError(f"min_fraction={min_fraction:g} is above max_fraction={max_fraction:g}; swap them")
        self.threshold, self.initial_threshold = threshold, initial_threshold
        self.min_fraction, self.max_fraction, self.step, self.max_iter = min_fraction, max_fraction, step, max_iter
        self.bounds, self.mode, self.min_samples = bounds, mode, min_samples

    def __call__(self, samples: Sequence[Any], embeddings: Tensor) -> CleanerDecision:
        """The samples of the largest cluster."""
        if self.threshold is not None:
            return CleanerDecision(largest_consistent_cluster(embeddings, self.threshold, self.min_samples).tolist())
        found = auto_threshold_cluster(
            embeddings,
            self.initial_threshold,
            self.min_fraction,
            self.max_fraction,
            self.step,
            self.max_iter,
            self.bounds,
            self.mode,
            min_samples=self.min_samples,
        )
        return CleanerDecision(found.indices.tolist())


class JudgeCleaner:
    """What a judge does not call an outlier; everything, unverified, where the judge has no answer.

    Args:
        judge: who looks at the samples.
        name: in manifests.

    >>> import torch
    >>> from equipoise.generative import MedoidJudge
    >>> cleaner = JudgeCleaner(MedoidJudge(torch.stack))
    >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> cleaner(list(rows), rows)
    CleanerDecision(kept=[0, 1], verified=True)
    """

    @checked
    def __init__(self, judge: IdentityJudge, name: str = "judge") -> None:
        if not isinstance(judge, IdentityJudge):
            raise ValueError(f"judge must have a method outliers(images), got {type(judge).__name__}")
        self.judge, self.name = judge, name

    def __call__(self, samples: Sequence[Any], embeddings: Tensor) -> CleanerDecision:
        """The samples that the judge leaves.

        Raises:
            ValueError: if the judge names a sample that it was not shown.
        """
        try:
            outliers = set(checked_outliers(self.judge.outliers(samples), len(samples)))
        except JudgeError:
            return CleanerDecision(list(range(len(samples))), verified=False)
        return CleanerDecision([k for k in range(len(samples)) if k not in outliers])
