"""The path as an object: who leaves the consensus when, and every estimate on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.validate import check_choice
from equipoise.crowd.partial_ranking.split_lbi import Scale, SplitState, Steps
from equipoise.crowd.partial_ranking.tie_model import Link

Estimate: TypeAlias = Literal["dense", "sparse"]
_FILES = ("path.json", "path.safetensors")


class PathSettings(NamedTuple):
    """What a path was made with.

    Attributes:
        link: noise of the answers.
        nu: ν.
        kappa: κ.
        scale: "mean" or "per_user".
        threshold_min: least threshold.
        support_tolerance: a group of Γ that is no longer counts as 0.
        keep_dense: whether the dense deviations of all users stand at all times.
    """

    link: Link
    nu: float
    kappa: float
    scale: Scale
    threshold_min: float
    support_tolerance: float
    keep_dense: bool


class GroupRows(NamedTuple):
    """Rows of matrices (users, items + 1), one matrix for each recorded time; rows that do not stand here are 0.

    Attributes:
        time: (rows,) number of the time, ascending.
        user: (rows,) ascending within a time.
        value: (rows, items + 1) float32.
    """

    time: Int[Tensor, " rows"]
    user: Int[Tensor, " rows"]
    value: Float[Tensor, "rows width"]

    def at(self, index: int, num_users: int) -> Float[Tensor, "users width"]:
        """The matrix of a time."""
        first, last = (int(torch.searchsorted(self.time, index, right=right)) for right in (False, True))
        found = self.value.new_zeros(num_users, self.value.shape[1])
        found[self.user[first:last]] = self.value[first:last]
        return found

    def joined(self, other: GroupRows, times: int) -> GroupRows:
        """These, and others that come `times` later."""
        later = other._replace(time=other.time + times)
        return GroupRows(*(torch.cat(pair) for pair in zip(self, later, strict=True)))


@dataclass(frozen=True, eq=False)
class SplitPath:
    """A path of split linearized Bregman iterations.

    `split_lbi_path` makes it, and goes on from where it ends.

    Attributes:
        times: (times,) float64, when it was recorded.
        losses: (times,) mean loss of the answers it was made of, under the dense estimate.
        common: (times, items + 1) float64 consensus: scores, and the threshold last.
        gamma: Γ, of those who have left 0.
        personal: dense deviations, of everybody, or of those in the support and of all at the last time.
        gamma_norm: (times, users) float32 length of each group of Γ.
        personal_norm: (times, users) float32 length of each user's dense deviations.
        entry_time: (users,) when a user's Γ left 0; infinite for who stayed.
        state: where it stands at the last time, in full precision.
        steps: lengths of the last step.
        settings: what it was made with.
    """

    times: Float[Tensor, " times"]
    losses: Float[Tensor, " times"]
    common: Float[Tensor, "times width"]
    gamma: GroupRows
    personal: GroupRows
    gamma_norm: Float[Tensor, "times users"]
    personal_norm: Float[Tensor, "times users"]
    entry_time: Float[Tensor, " users"]
    state: SplitState
    steps: Steps
    settings: PathSettings

    def __len__(self) -> int:
        return len(self.times)

    @property
    def num_users(self) -> int:
        """Users of the path."""
        return len(self.entry_time)

    @property
    def support(self) -> Bool[Tensor, "times users"]:
        """Who has left the consensus by each time: whose Γ is not 0."""
        return self.gamma_norm > self.settings.support_tolerance

    def index(self, time: float) -> int:
        """The number of the last recorded time that is not later.

        Raises:
            ValueError: if the path begins later.
        """
        found = int(torch.searchsorted(self.times, torch.tensor(time, dtype=self.times.dtype), right=True)) - 1
        if found < 0:
            raise ValueError(f"time={time!r} lies before the first recorded one, {float(self.times[0]):g}")
        return found

    def scores(self, index: int = -1, estimate: Estimate = "dense") -> Float[Tensor, "users width"]:
        """Scores and thresholds of every user at a recorded time: consensus plus deviations.

        Args:
            index: number of the time; negative ones count from the end.
            estimate: "dense", with the deviations of everybody; "sparse", of those in the support.

        Raises:
            IndexError: if there is no such time.
            ValueError: if the dense deviations of that time were not kept.
        """
        place = self._place(index)
        if estimate == "dense" and not (self.settings.keep_dense or place == len(self) - 1):
            raise ValueError(
                f"the dense deviations at index {place} were not kept; run the path with keep_dense=True, or up to "
                f"time {float(self.times[place]):g}"
            )
        rows = self.personal.at(place, self.num_users).double()
        if estimate == "sparse":
            rows[~self.support[place]] = 0
        found = rows + self.common[place]
        # What was kept in single precision may be a rounding below the bound.
        found[:, -1].clamp_(min=self.settings.threshold_min)
        return found

    def gamma_at(self, index: int = -1) -> Float[Tensor, "users width"]:
        """Γ at a recorded time."""
        return self.gamma.at(self._place(index), self.num_users)

    def table(self) -> Any:
        """A data frame to plot: a row per time and user with time, user, gamma_norm, personal_norm and in_support."""
        import pandas as pd

        users = torch.arange(self.num_users)
        return pd.DataFrame(
            {
                "time": self.times.repeat_interleave(self.num_users).numpy(),
                "user": users.repeat(len(self)).numpy(),
                "gamma_norm": self.gamma_norm.flatten().numpy(),
                "personal_norm": self.personal_norm.flatten().numpy(),
                "in_support": self.support.flatten().numpy(),
            }
        )

    def save(self, folder: str | Path) -> None:
        """Write it: JSON and safetensors."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name) for name in _TENSORS}
        for name in ("gamma", "personal", "state"):
            tensors |= {f"{name}.{part}": value for part, value in getattr(self, name)._asdict().items()}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / _FILES[1])
        about = {"settings": self.settings._asdict(), "steps": self.steps._asdict()}
        (folder / _FILES[0]).write_text(json.dumps(about, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> SplitPath:
        """Read what `save` wrote.

        Raises:
            ValueError: if the folder does not hold a path, or its files do not go together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            about = json.loads((folder / _FILES[0]).read_text(encoding="utf-8"))
            for name, choices in (("link", get_args(Link)), ("scale", get_args(Scale))):
                check_choice(name, about["settings"][name], choices)
            tensors = load_file(folder / _FILES[1])
            gamma, personal = (
                GroupRows(**{part: tensors[f"{name}.{part}"] for part in GroupRows._fields})
                for name in ("gamma", "personal")
            )
            found = cls(
                **{name: tensors[name] for name in _TENSORS},
                gamma=gamma,
                personal=personal,
                state=SplitState(**{part: tensors[f"state.{part}"] for part in SplitState._fields}),
                steps=Steps(**about["steps"]),
                settings=PathSettings(**about["settings"]),
            )
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise ValueError(f"{folder} does not hold a path: {error}") from error
        if found.common.shape[1] != found.state.gamma.shape[1] or len(found.entry_time) != len(found.state.gamma):
            raise ValueError(f"{folder} does not hold a path: its tables are of different users or items")
        return found

    def _place(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index={index} is none of the {len(self)} recorded times")
        return index % len(self)


_TENSORS = ("times", "losses", "common", "gamma_norm", "personal_norm", "entry_time")
