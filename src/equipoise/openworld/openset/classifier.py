"""A classifier that may answer "none of these", at a threshold that keeps the wanted share of known samples.

The threshold is set on held-out known samples alone, so no unknown sample is needed. As estimated, it keeps the wanted
share of *those*; with a confidence, it keeps it on new known samples with that probability (see
`core.curves.thresholds`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from equipoise.core.curves.thresholds import Threshold, guaranteed_threshold_at_tpr, threshold_at_tpr
from equipoise.core.pairs.means import wide
from equipoise.core.scores import HIGHER_IS_IN, ScoreSpec
from equipoise.core.signature import checked
from equipoise.core.solvers.perturbation import evaluation_mode
from equipoise.core.types import Fraction, OpenFraction
from equipoise.openworld.openset.open_auc_loss import max_logit

UNKNOWN = -1


class OpenSetPrediction(NamedTuple):
    """What a batch was taken for.

    Attributes:
        label: (n,) a known class, or `UNKNOWN` = −1.
        closed_label: (n,) the class among the known ones, whether or not accepted.
        score: (n,) the score, in the direction of the classifier's `spec`.
        accepted: (n,) whether it was taken as known.
    """

    label: Int[Tensor, " n"]
    closed_label: Int[Tensor, " n"]
    score: Float[Tensor, " n"]
    accepted: Bool[Tensor, " n"]


class OpenSetClassifier(nn.Module):
    """Any classifier of known classes, with a rejection threshold.

    Args:
        classifier: inputs to logits (n, C).
        score: logits to scores (n,), for example `max_logit` or a `Detector` of this room.
        spec: direction of the score; that of the score, if it has one, else "in".

    The threshold travels in the state dict and is never rounded to half precision, whatever the model is cast to or its
    scores come in. Before `calibrate` nothing can be predicted.

    >>> model = OpenSetClassifier(torch.nn.Identity())
    >>> held_out = torch.tensor([[4.0, 0.0], [0.0, 3.0], [5.0, 1.0], [0.0, 0.5]])
    >>> _ = model.calibrate([held_out], recall=0.75)
    >>> model.predict(torch.tensor([[9.0, 0.0], [0.1, 0.2]])).label
    tensor([ 0, -1])
    """

    @checked
    def __init__(
        self, classifier: nn.Module, score: Callable[[Tensor], Tensor] = max_logit, spec: ScoreSpec | None = None
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.open_score = score
        self.spec: ScoreSpec = getattr(score, "spec", HIGHER_IS_IN) if spec is None else spec
        # No buffer, which a cast of the model would round.
        self.threshold = math.nan

    def forward(self, inputs: Any) -> Float[Tensor, "n classes"]:
        """The classifier's logits."""
        return self.classifier(inputs)

    def get_extra_state(self) -> Tensor:
        """The threshold, for the state dict."""
        return torch.tensor(self.threshold, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the threshold of a state dict."""
        self.threshold = float(state)

    @checked
    @torch.no_grad()
    def calibrate(
        self, batches: Iterable[Any], recall: Fraction = 0.95, confidence: OpenFraction | None = None
    ) -> Threshold:
        """Set the threshold on known samples that were not used in training.

        Args:
            batches: inputs of the classifier, or (inputs, ...) tuples as a DataLoader gives them.
            recall: share of known samples to accept, in (0, 1].
            confidence: if given, the probability, over the draw of these samples, that at least `recall` of *new* known
                samples are accepted; else the share is that of these samples.

        Returns:
            The threshold on the inward score; a sample is accepted above it. It is −∞ where there are too few samples
            for the promise, and everything is accepted.

        Raises:
            ValueError: if there are no samples, a score is not finite, or a rate is out of range.
        """
        with evaluation_mode(self.classifier):
            scores = [self.spec.inward(self.open_score(self(_inputs_of(batch)))) for batch in batches]
        if not sum(map(len, scores)):
            raise ValueError("batches holds no samples; calibration needs held-out known samples")
        known = torch.cat(scores)
        cut = (
            threshold_at_tpr(known, recall)
            if confidence is None
            else guaranteed_threshold_at_tpr(known, recall, confidence)
        )
        self.threshold = cut.value
        return cut

    @torch.no_grad()
    def predict(self, inputs: Any) -> OpenSetPrediction:
        """Classes, with `UNKNOWN` where the score does not exceed the threshold; in evaluation mode.

        Raises:
            RuntimeError: before `calibrate`.
        """
        if math.isnan(self.threshold):
            raise RuntimeError("the rejection threshold is not set; call calibrate(held-out known samples) first")
        with evaluation_mode(self.classifier):
            logits = self(inputs)
        score, closed = self.open_score(logits), logits.argmax(1)
        accepted = self.spec.inward(score).to(wide(score)) > self.threshold
        return OpenSetPrediction(closed.where(accepted, UNKNOWN), closed, score, accepted)


def _inputs_of(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch
