"""Places for things from comparisons of distances, with the estimator interface of scikit-learn.

The Gram form is convex and needs no dimension: it is solved over all positive semidefinite matrices and cut to the
leading dimensions afterwards. The factored form has the dimension from the start, is not convex, and takes many items.

Ma, Xu and Cao, AAAI 2019, for the distributional margin; see `crowd.embedding.losses` for the other losses.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

from equipoise.core.arrays import as_tensor
from equipoise.core.settings import HasSettings
from equipoise.core.signature import as_whole
from equipoise.core.validate import check_choice, check_nonnegative, check_positive, warn_once
from equipoise.crowd.embedding.conflicts import Conflicts, conflicts_of
from equipoise.crowd.embedding.factored import (
    PointsFit,
    PointsObjective,
    fit_points,
    points_of_gram,
    spectral_start,
)
from equipoise.crowd.embedding.gram_solvers import GramFit, dmoe_fit
from equipoise.crowd.embedding.losses import degrees
from equipoise.crowd.embedding.margins import AnswerMap, as_answers, margins

METHODS = ("distributional", "gnmds", "ckl", "ste", "tste", "soe")
FORMS = ("gram", "factored")
SOLVERS = {"gram": ("auto", "gradient", "admm"), "factored": ("auto", "lbfgs")}
IN_GRAM_FORM = ("distributional", "gnmds")


class OrdinalEmbedding(HasSettings):
    """Items placed so that answers "a is nearer to b than to c" hold.

    Args:
        method: the loss: "distributional", "gnmds", "ckl", "ste", "tste" or "soe", see `triplet_loss`.
        form: "factored", points of `dim` coordinates; or "gram", a convex problem over Gram matrices, of
            "distributional" and "gnmds".
        dim: coordinates of `embedding_`.
        lam: λ of the trace of the Gram matrix, against the sum of losses.
        solver: "auto"; of the Gram form also "gradient" (p = 2) and "admm"; of the factored "lbfgs".
        p: of "distributional", 1 or 2.
        gamma0: γ₀ of "distributional", where every margin should be.
        lower_weight: of margins below γ₀.
        upper_weight: of margins above γ₀; 0 for the hinge or squared hinge.
        margin: of "gnmds" and "soe".
        delta: of "ckl".
        alpha: of "tste"; max(1, dim − 1) by default.
        init: start of the factored form: "spectral" where that is possible, "random", or points (n, dim).
        n_init: starts of the factored form, of which the best is kept; all but the first are random.
        max_iter: steps at most.
        tol: relative change of the objective at which it is settled.
        seed: of random starts.

    Attributes:
        embedding_: (n, dim).
        gram_: (n, n): of the Gram form the solution, which may have more dimensions; else of the embedding.
        margins_: (t,) of the training answers in the embedding.
        objective_: of the Gram form the sum, of the factored the mean loss, with the penalty.
        history_: the objective on the way.
        gap_: of the Gram form a bound of how far the objective is from the optimum, else None.
        num_items_: n.

    >>> generator = np.random.default_rng(0)
    >>> x = generator.normal(size=(12, 2))
    >>> t = np.array([generator.permutation(12)[:3] for _ in range(500)])
    >>> near, far = (((x[t[:, 0]] - x[t[:, k]]) ** 2).sum(1) for k in (1, 2))
    >>> t = np.where((near < far)[:, None], t, t[:, [0, 2, 1]])
    >>> OrdinalEmbedding("ste", dim=2).fit(t[:400]).score(t[400:]) > 0.9
    True
    """

    def __init__(
        self,
        method: str = "ste",
        form: str = "factored",
        dim: int = 2,
        lam: float = 0.0,
        solver: str = "auto",
        p: int = 2,
        gamma0: float = 1.0,
        lower_weight: float = 1.0,
        upper_weight: float = 1.0,
        margin: float = 1.0,
        delta: float = 0.05,
        alpha: float | None = None,
        init: str | ArrayLike = "spectral",
        n_init: int = 1,
        max_iter: int = 1000,
        tol: float = 1e-7,
        seed: int = 0,
    ) -> None:
        self.method = method
        self.form = form
        self.dim = dim
        self.lam = lam
        self.solver = solver
        self.p = p
        self.gamma0 = gamma0
        self.lower_weight = lower_weight
        self.upper_weight = upper_weight
        self.margin = margin
        self.delta = delta
        self.alpha = alpha
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.seed = seed
        self.embedding_: NDArray[np.float64]
        self.margins_: NDArray[np.float64]
        self.objective_: float
        self.history_: list[float]
        self.gap_: float | None
        self._gram: NDArray[np.float64] | None = None

    def fit(self, triplets: ArrayLike | Tensor, n_items: int | None = None) -> OrdinalEmbedding:
        """Place the items of answers.

        Args:
            triplets: (t, 3) anchor, near, far, or (t, 4) a nearer pair and a farther one, whole numbers from 0.
            n_items: n; one more than the largest index by default. An item in no answer is put in the middle (warned).

        Raises:
            ValueError: naming the first bad row; on settings out of range; if `dim` is not below n.
        """
        self._check_settings()
        quads, n = as_answers(as_tensor(triplets), n_items)
        if self.dim > n - 1:
            raise ValueError(f"dim={self.dim} must be at most {n - 1}, one less than the {n} items")
        asked = torch.bincount(quads.flatten(), minlength=n) > 0
        if not bool(asked.all()):
            lacking = (~asked).nonzero().flatten()
            warn_once(f"{len(lacking)} of {n} items are in no answer, the first {int(lacking[0])}; they are put at 0")
        answers = AnswerMap(quads, n)
        points = self._by_gram(quads, n) if self.form == "gram" else self._by_points(answers, asked)
        self.embedding_, self.num_items_ = points.numpy(), n
        self.margins_ = margins(points, quads, gram=False).numpy()
        return self

    @property
    def gram_(self) -> NDArray[np.float64]:
        """(n, n) the solution of the Gram form, or the Gram matrix of the embedding."""
        return self.embedding_ @ self.embedding_.T if self._gram is None else self._gram

    def score(self, triplets: ArrayLike | Tensor) -> float:
        """The share of answers (t, 3) or (t, 4) that the embedding keeps; distances that are equal keep none."""
        return float((self._margins(triplets)[1] > 0).double().mean())

    def conflicts(self, triplets: ArrayLike | Tensor) -> Conflicts:
        """For each item, how many answers it is in, how many the embedding does not keep, how many have an opposite."""
        quads, margin = self._margins(triplets)
        return conflicts_of(quads, margin, self.num_items_)

    def transform(self, triplets: ArrayLike | Tensor) -> NDArray[np.float64]:
        """Places (m, dim) of new items by answers about them; the fitted items stay where they are.

        Args:
            triplets: (t, 3) or (t, 4); the new items have the numbers n, n + 1, ... up to the largest.

        Raises:
            ValueError: if no answer has a new item, a new item is in none, or a row is bad.
        """
        quads, n = as_answers(as_tensor(triplets), None)
        known = self._points()
        new = n - self.num_items_
        if new < 1:
            raise ValueError(f"triplets have no new item, whose number is {self.num_items_} or more")
        quads = quads[(quads >= self.num_items_).any(1)]
        told = torch.bincount(quads.flatten(), minlength=n)[self.num_items_ :] > 0
        if not bool(told.all()):
            missing = int((~told).nonzero()[0]) + self.num_items_
            raise ValueError(f"triplets have no answer about the new item {missing}; give items numbers without gaps")
        objective = PointsObjective(AnswerMap(quads, n), self._kind(), self.lam, self._loss_settings(), held=known)
        found = [
            fit_points(objective, start, self.max_iter, self.tol) for start in self._starts_of_new(quads, known, new)
        ]
        return min(found, key=lambda fit: fit.objective).points.numpy()

    def save(self, path: str | Path) -> None:
        """Write the fitted model to one safetensors file.

        Raises:
            RuntimeError: before `fit`.
        """
        from safetensors.torch import save_file

        self._points()
        plain = {k: v.tolist() if isinstance(v, np.ndarray | Tensor) else v for k, v in self.get_params().items()}
        about = {"settings": plain, "objective": self.objective_, "gap": self.gap_, "history": self.history_}
        parts = {"embedding": self.embedding_, "margins": self.margins_}
        if self._gram is not None:
            parts["gram"] = self._gram
        tensors = {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()}
        save_file(tensors, path, metadata={"model": type(self).__name__, "about": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> OrdinalEmbedding:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file does not hold an embedding.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as held:
                metadata = held.metadata() or {}
                parts = {name: held.get_tensor(name).numpy() for name in held.keys()}  # noqa: SIM118
            if metadata["model"] != cls.__name__:
                raise ValueError(f"it holds a {metadata['model']}")
            about = json.loads(metadata["about"])
            found = cls(**about["settings"])
            found.embedding_, found.margins_, found._gram = parts["embedding"], parts["margins"], parts.get("gram")
            found.objective_, found.gap_, found.history_ = about["objective"], about["gap"], about["history"]
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise ValueError(f"{path} does not hold an OrdinalEmbedding: {error}") from error
        found.num_items_ = len(found.embedding_)
        return found

    def _by_gram(self, quads: Tensor, n: int) -> Tensor:
        hinge = self.method == "gnmds"
        found: GramFit = dmoe_fit(
            quads,
            n,
            1 if hinge else self.p,  # type: ignore[arg-type]
            self.margin if hinge else self.gamma0,
            self.lam,
            lower_weight=1.0 if hinge else self.lower_weight,
            upper_weight=0.0 if hinge else self.upper_weight,
            solver=self.solver,  # type: ignore[arg-type]
            max_iter=self.max_iter,
            tol=self.tol,
        )
        self._gram, self.objective_, self.history_ = found.gram.numpy(), found.objective, found.history
        self.gap_ = found.gap
        return points_of_gram(found.gram, self.dim)

    def _by_points(self, answers: AnswerMap, asked: Tensor) -> Tensor:
        objective = PointsObjective(answers, self._kind(), self.lam, self._loss_settings())
        best: PointsFit | None = None
        for start in self._starts(answers):
            found = fit_points(objective, start * asked[:, None], self.max_iter, self.tol)
            best = found if best is None or found.objective < best.objective else best
        assert best is not None
        if not best.converged:
            warn_once(
                f"OrdinalEmbedding stopped after max_iter={self.max_iter} steps before the objective settled; raise "
                "max_iter or tol"
            )
        self._gram, self.gap_ = None, None
        self.objective_, self.history_ = best.objective, best.history
        # Distances do not change, and the penalty can only fall.
        return (best.points - best.points[asked].mean(0)) * asked[:, None]

    def _starts(self, answers: AnswerMap) -> list[Tensor]:
        shape = answers.num_items, self.dim
        generator = Generator().manual_seed(self.seed)
        drawn = [self._drawn(shape, generator) for _ in range(self.n_init)]
        if not isinstance(self.init, str):
            given = torch.from_numpy(np.array(self.init, dtype=np.float64, order="C"))
            if given.shape != shape or not bool(torch.isfinite(given).all()):
                raise ValueError(f"init must hold finite points of shape {shape}, got shape {tuple(given.shape)}")
            return [given, *drawn[1:]]
        spectral = spectral_start(answers, self.dim, self._size()) if self.init == "spectral" else None
        return drawn if spectral is None else [spectral, *drawn[1:]]

    def _starts_of_new(self, quads: Tensor, known: Tensor, new: int) -> list[Tensor]:
        """The middle of the items that each is nearer to, and random places, since the loss has several valleys."""
        n = len(known)
        middle = torch.zeros(new, self.dim, dtype=torch.float64)
        count = torch.zeros(new, dtype=torch.float64)
        for item, other in ((0, 1), (1, 0)):
            rows = quads[(quads[:, item] >= n) & (quads[:, other] < n)]
            middle.index_add_(0, rows[:, item] - n, known[rows[:, other]])
            count += torch.bincount(rows[:, item] - n, minlength=new)
        generator = Generator().manual_seed(self.seed)
        spread = max(float(known.std()), 1e-12)
        drawn = [spread * torch.randn(new, self.dim, generator=generator, dtype=torch.float64) for _ in range(_RANDOM)]
        return [middle / count.clamp_min(1)[:, None] + 1e-3 * drawn[0], *drawn]

    def _drawn(self, shape: tuple[int, int], generator: Generator) -> Tensor:
        size = (self._size() / (2 * self.dim)) ** 0.5
        return size * torch.randn(shape, generator=generator, dtype=torch.float64)

    def _size(self) -> float:
        """The size of squared distances to begin with."""
        return {"distributional": self.gamma0, "gnmds": self.margin, "soe": self.margin**2}.get(self.method, 1.0)

    def _kind(self) -> Any:
        return self.method

    def _loss_settings(self) -> dict[str, Any]:
        return {
            "margin": self.margin,
            "delta": self.delta,
            "alpha": degrees(self.alpha, self.dim),
            "p": self.p,
            "gamma0": self.gamma0,
            "lower_weight": self.lower_weight,
            "upper_weight": self.upper_weight,
        }

    def _points(self) -> Float[Tensor, "n dim"]:
        if not hasattr(self, "embedding_"):
            raise RuntimeError("OrdinalEmbedding is not fitted; call fit(triplets) first")
        return torch.from_numpy(self.embedding_)

    def _margins(self, triplets: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
        points = self._points()
        quads, _ = as_answers(as_tensor(triplets), self.num_items_)
        return quads, margins(points, quads, gram=False)

    def _check_settings(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("form", self.form, FORMS)
        check_choice("solver", self.solver, SOLVERS[self.form])
        if self.form == "gram" and self.method not in IN_GRAM_FORM:
            raise ValueError(f"method={self.method!r} has no form='gram'; use 'factored', or one of {IN_GRAM_FORM}")
        for name in ("gamma0", "margin", "delta", "tol"):
            check_positive(name, getattr(self, name))
        if self.alpha is not None:
            check_positive("alpha", self.alpha)
        for name in ("lam", "lower_weight", "upper_weight"):
            check_nonnegative(name, getattr(self, name))
        if self.p not in (1, 2):
            raise ValueError(f"p={self.p!r} must be 1 or 2")
        for name in ("dim", "n_init", "max_iter"):
            if as_whole(name, getattr(self, name)) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number at least 1")
        if isinstance(self.init, str):
            check_choice("init", self.init, ("spectral", "random"))


_RANDOM = 4
