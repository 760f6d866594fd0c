"""Scores that say whether an input holds any known class, from a trained model's logits or features.

    name              formula on logits z                 higher for   made for
    msp               max_c softmax(z)_c                  known        exclusive classes (Hendrycks & Gimpel, ICLR 2017)
    max_logit         max_c z_c                           known        both
    energy            logsumexp_c z_c                     known        exclusive classes (Liu et al., NeurIPS 2020)
    entropy           − Σ_c softmax(z)_c log softmax(z)_c unknown      exclusive classes
    joint_energy      Σ_c log(1 + exp z_c)                known        labels that go together (Wang et al., NeurIPS
                                                                       2021)
    max_energy        max_c log(1 + exp z_c)              known        labels that go together
    sum_probability   Σ_c sigmoid(z)_c                    known        labels that go together

`DETECTORS` has them by name, each with its direction as a `ScoreSpec`. `ODIN` needs the model, `Mahalanobis` and any
scikit-learn outlier estimator (`estimator_detector`: local outlier factor, isolation forest, ...) need its features.

Energies have the sign of the score, the opposite of the physicist's. What is near 1 for the known (`msp`,
`sum_probability`, ODIN) comes in float64: in float32 all samples whose best logit leads by 17 or more would tie. The
formulas of ODIN and of the Mahalanobis score are reconstructed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from equipoise.core.scores import HIGHER_IS_IN, HIGHER_IS_OUT, ScoreSpec
from equipoise.core.signature import checked
from equipoise.core.solvers.perturbation import Model, evaluation_mode, input_gradient
from equipoise.core.types import ClassScores, Count, MultilabelTarget, NonNegative, Positive, Scores
from equipoise.core.validate import check_classes, check_finite
from equipoise.openworld.openset.open_auc_loss import max_logit
from equipoise.openworld.types import SampleClasses


@checked
def msp(logits: ClassScores, temperature: Positive = 1.0) -> Scores:
    """Maximum softmax probability, of logits divided by the temperature, in float64.

    >>> msp(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    tensor([0.5000, 0.8808], dtype=torch.float64)
    """
    return (logits.double() / temperature).softmax(1).max(1).values


@checked
def energy(logits: ClassScores, temperature: Positive = 1.0) -> Scores:
    """T · logsumexp(z / T), the negative of what its paper calls the energy.

    >>> energy(torch.tensor([[0.0, 0.0]]))
    tensor([0.6931])
    """
    return temperature * (logits / temperature).logsumexp(1)


@checked
def entropy(logits: ClassScores) -> Scores:
    """Entropy of the softmax in nats: higher for what is unknown, as its `spec` says to whatever takes a score.

    >>> entropy(torch.tensor([[0.0, 0.0], [9.0, 0.0]]))
    tensor([0.6931, 0.0012])
    """
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


entropy.spec = HIGHER_IS_OUT  # type: ignore[attr-defined]


@checked
def joint_energy(logits: ClassScores) -> Scores:
    """Sum over classes of log(1 + exp z), the evidence of all labels together; never negative.

    It equals − Σ_c log(1 − sigmoid z_c), which would overflow from z = 17 on in float32; this form does not.

    Args:
        logits: (n, C).

    Returns:
        (n,), differentiable.

    >>> joint_energy(torch.tensor([[0.0, 0.0], [100.0, -100.0]]))
    tensor([  1.3863, 100.0000])
    """
    return _softplus(logits).sum(1)


@checked
def max_energy(logits: ClassScores) -> Scores:
    """The largest class's log(1 + exp z); ranks as `max_logit` does.

    >>> max_energy(torch.tensor([[0.0, -3.0]]))
    tensor([0.6931])
    """
    return _softplus(max_logit(logits))


@checked
def sum_probability(logits: ClassScores) -> Scores:
    """Sum over classes of sigmoid(z), in float64: how many labels the model expects.

    >>> sum_probability(torch.tensor([[0.0, 0.0, 0.0]]))
    tensor([1.5000], dtype=torch.float64)
    """
    return logits.double().sigmoid().sum(1)


@dataclass(frozen=True)
class Detector:
    """A score with its name and its direction.

    Attributes:
        name: what it is called in tables and arguments.
        score: logits (n, C), or whatever else the detector looks at, to scores (n,).
        spec: which way the score points, for `ood_metrics(..., higher_is=detector.spec)`.

    >>> DETECTORS["entropy"](torch.tensor([[0.0, 0.0]])), DETECTORS["entropy"].spec.higher_is
    (tensor([0.6931]), 'out')
    """

    name: str
    score: Callable[[Tensor], Tensor]
    spec: ScoreSpec = HIGHER_IS_IN

    def __call__(self, outputs: Tensor) -> Tensor:
        """The scores (n,) of a model's outputs."""
        return self.score(outputs)


DETECTORS: dict[str, Detector] = {
    detector.name: detector
    for detector in (
        Detector("msp", msp),
        Detector("max_logit", max_logit),
        Detector("energy", energy),
        Detector("entropy", entropy, HIGHER_IS_OUT),
        Detector("joint_energy", joint_energy),
        Detector("max_energy", max_energy),
        Detector("sum_probability", sum_probability),
    )
}


@checked
def multilabel_ood_scores(logits: ClassScores) -> dict[str, Scores]:
    """All scores of `DETECTORS` that are higher for what is known, side by side.

    Args:
        logits: (n, C) of a multi-label classifier.

    Returns:
        name → scores (n,), for `joint_energy`, `max_energy`, `energy`, `max_logit`, `msp` and `sum_probability`.

    >>> sorted(multilabel_ood_scores(torch.zeros(1, 2)))
    ['energy', 'joint_energy', 'max_energy', 'max_logit', 'msp', 'sum_probability']
    """
    return {name: detector(logits) for name, detector in DETECTORS.items() if detector.spec == HIGHER_IS_IN}


@checked
@dataclass(frozen=True)
class ODIN:
    """The largest tempered probability, after a small step of the input that raises it.

        S(x) = max_c p_c(z(x) / T)        score = S(x + ε sign ∇ log S(x))

    The step raises the score of known inputs more than that of others. T and ε are meant to be chosen on held-out data
    with unknown inputs; the defaults are those of the paper for images in [0, 1].

    Attributes:
        model: inputs (n, ...) to logits (n, C); put into evaluation mode meanwhile.
        temperature: T > 0.
        epsilon: ε ≥ 0, in units of the inputs.
        multilabel: p is the sigmoid rather than the softmax.
        spec: higher for what is known.

    Liang, Li and Srikant, "Enhancing the Reliability of Out-of-distribution Image Detection in Neural Networks", ICLR
    2018.

    >>> odin = ODIN(torch.nn.Identity(), temperature=1.0, epsilon=0.5)
    >>> odin(torch.tensor([[1.0, 0.0]]))
    tensor([0.8808], dtype=torch.float64)
    """

    model: Model
    temperature: Positive = 1000.0
    epsilon: NonNegative = 0.0014
    multilabel: bool = False
    spec: ScoreSpec = HIGHER_IS_IN

    def __call__(self, inputs: Float[Tensor, " n *shape"]) -> Scores:
        """The scores (n,) of inputs (n, ...).

        Raises:
            ValueError: if an input or a logit is NaN or infinite.
            RuntimeError: if the logits do not depend on the inputs.
        """
        # In the model's own precision, so not made uniform.
        check_finite("inputs", inputs)
        with evaluation_mode(self.model):
            if self.epsilon:
                # The gradient of a mean over samples; only its signs are used.
                start = torch.zeros_like(inputs)
                _, gradient = input_gradient(self.model, inputs, start, self._log_confidence)
                inputs = inputs + self.epsilon * gradient.sign()
            with torch.no_grad():
                return self._log_confidence(self.model(inputs)).exp()

    @checked
    def _log_confidence(self, logits: ClassScores) -> Scores:
        tempered = logits.double() / self.temperature
        return (F.logsigmoid(tempered) if self.multilabel else tempered.log_softmax(1)).max(1).values


class Mahalanobis(nn.Module):
    """Nearness to the closest class, with one covariance for all: max_c − (f − μ_c)ᵀ Σ⁻¹ (f − μ_c).

    Σ is the mean over samples, or over pairs of a sample and a label of its own, of (f − μ_c)(f − μ_c)ᵀ. A share of its
    mean variance is added to its diagonal, so that features that are constant or fewer than their dimensions do no
    harm. Means and covariance are taken, and kept, in float64; they travel in the state dict.

    Args:
        num_features: d.
        num_classes: C.
        ridge: share of the mean variance added to the diagonal, above 0.

    Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS
    2018, without its input step and its several layers.

    >>> features = torch.tensor([[0.0, 0.0], [0.0, 2.0], [5.0, 0.0], [5.0, 2.0]])
    >>> detector = Mahalanobis(2, 2).fit(features, torch.tensor([0, 0, 1, 1]))
    >>> near, far = detector(torch.tensor([[5.0, 1.0], [2.5, 1.0]]))
    >>> bool(near > far)
    True
    """

    means: Tensor
    root: Tensor
    known: Tensor
    spec = HIGHER_IS_IN

    @checked
    def __init__(self, num_features: Count, num_classes: Count, ridge: Positive = 1e-6) -> None:
        super().__init__()
        self.ridge = ridge
        self.register_buffer("means", torch.zeros(num_classes, num_features, dtype=torch.float64))
        self.register_buffer("root", torch.zeros(num_features, num_features, dtype=torch.float64))
        # Which classes have been seen; none before `fit`.
        self.register_buffer("known", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    @checked
    def fit(self, features: Float[Tensor, "n d"], target: SampleClasses | MultilabelTarget) -> Mahalanobis:
        """Take means and covariance from known samples.

        Args:
            features: (n, d).
            target: (n,) class indices, or a matrix (n, C) in {0, 1}; a sample without a label takes no part.

        Returns:
            The detector itself. A class without samples stays out of the maximum.

        Raises:
            ValueError: on a bad argument, by name; on no label at all, or features that do not vary.
        """
        self._check_width(features)
        member = self._membership(target)
        counts = member.sum(0)
        wide = features.double()
        means = member.T @ wide / counts.clamp_min(1)[:, None]
        sample, label = member.nonzero(as_tuple=True)
        if not len(sample):
            raise ValueError("target holds no label; the class means need at least one")
        centred = wide[sample] - means[label]
        covariance = centred.T @ centred / len(sample)
        spread = covariance.diagonal().mean()
        if not spread > 0:
            raise ValueError("the features of every class are constant, so that distances have no unit")
        covariance.diagonal().add_(self.ridge * spread)
        self.means.copy_(means)
        self.root.copy_(torch.linalg.cholesky(covariance))
        self.known.copy_(counts > 0)
        return self

    @checked
    def forward(self, features: Float[Tensor, "n d"]) -> Scores:
        """The scores (n,) of features (n, d), at most 0.

        Raises:
            ValueError: on a bad argument, by name.
            RuntimeError: before `fit`.
        """
        self._check_width(features)
        if not bool(self.known.any()):
            raise RuntimeError("the class means are not set; call fit(features, target) first")
        # After the change of basis the distance is the plain one; about 0, where its squares keep their digits.
        means = self.means[self.known]
        centre = means.mean(0)
        whitened, middles = (
            torch.linalg.solve_triangular(self.root, (x - centre).T, upper=False).T for x in (features.double(), means)
        )
        score = -torch.cdist(whitened, middles).square().amin(1)
        return score.to(features.dtype)

    def _check_width(self, features: Tensor) -> None:
        if features.shape[1] != self.means.shape[1]:
            raise ValueError(f"features must have shape (n, {self.means.shape[1]}), got {tuple(features.shape)}")

    def _membership(self, target: Tensor) -> Tensor:
        """(n, C) in {0, 1}, float64."""
        classes = len(self.means)
        if target.ndim == 1:
            check_classes(target, classes)
            return F.one_hot(target, classes).double()
        if target.shape[1] != classes:
            raise ValueError(f"target must have shape (n,) or (n, {classes}), got {tuple(target.shape)}")
        return target.double()


@runtime_checkable
class _ScoresSamples(Protocol):
    def score_samples(self, x: Any) -> Any:
        """Higher for what is normal."""
        ...


@checked
def estimator_detector(name: str, estimator: _ScoresSamples) -> Detector:
    """A detector of features (n, d) from a fitted scikit-learn outlier estimator.

    Args:
        name: of the detector.
        estimator: whatever has `score_samples` with higher values for what is normal: `IsolationForest`,
            `LocalOutlierFactor(novelty=True)`, `OneClassSVM`, `GaussianMixture`, ...

    >>> class Centre:
    ...     def score_samples(self, x):
    ...         return -abs(x).sum(1)
    >>> estimator_detector("centre", Centre())(torch.tensor([[1.0, -2.0]]))
    tensor([-3.])
    """

    @checked
    def score(features: Float[Tensor, "n d"]) -> Scores:
        return torch.as_tensor(estimator.score_samples(features.detach().cpu().numpy()), device=features.device)

    return Detector(name, score)


def _softplus(x: Tensor) -> Tensor:
    # Beyond the threshold softplus is the identity; PyTorch's 20 is coarse for float64.
    return F.softplus(x, threshold=40.0)
