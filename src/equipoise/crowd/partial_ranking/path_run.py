"""Running a path from the consensus on, or from where another one ended."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Range
from equipoise.crowd.partial_ranking.path import GroupRows, PathSettings, SplitPath
from equipoise.crowd.partial_ranking.split_lbi import Scale, SplitState, Steps, ThresholdMin, advance, default_steps
from equipoise.crowd.partial_ranking.tie_mle import TieMLE
from equipoise.crowd.partial_ranking.tie_model import Link
from equipoise.crowd.partial_ranking.tie_table import TieTable
from equipoise.data.comparisons.answers import Comparisons

# The objective is looked at after so many steps; when it rose by this share, steps are halved, so often at most.
_LOOK, _ROSE, _HALVINGS = 10, 1e-2, 8
_MOST_CHANGE = 2.0
Watch = Callable[[int, SplitState], None]


@checked
def split_lbi_path(
    comparisons: Comparisons,
    *,
    times: Float[Tensor, " times"] | None = None,
    num_times: Count = 50,
    time_ratio: Annotated[float, Range(1, low_open=True)] = 20.0,
    nu: Positive = 1.0,
    kappa: Positive = 10.0,
    link: Link = "logistic",
    scale: Scale = "per_user",
    step: Positive | None = None,
    threshold_min: ThresholdMin = 1e-3,
    support_tolerance: NonNegative = 1e-6,
    keep_dense: bool = True,
    resume: SplitPath | None = None,
    watch: Watch | None = None,
) -> SplitPath:
    """Run a path, and record it at times that are spaced by logarithm.

    It starts from the most likely consensus. Steps that meet a recorded time are shortened to end there. In one step a
    threshold at most doubles or halves, for the slope of a small one has no bound. When the objective that steps
    descend rises, they are halved from then on.

    Args:
        comparisons: who said what.
        times: (times,) when to record, ascending; by default `num_times` from the first entry t₀ to `time_ratio` · t₀,
            and after `resume` from its end to `time_ratio` times its first time.
        num_times: how often to record.
        time_ratio: the last time over the first.
        nu: ν, how far the dense deviations may be from the sparse ones.
        kappa: κ, the damping; a larger one is nearer to the continuous path and takes more steps.
        link: noise of the answers.
        scale: "per_user" or "mean", see `split_lbi_step`.
        step: α; by default below twice the inverse of the curvature.
        threshold_min: least threshold of anybody.
        support_tolerance: a group of Γ that is no longer counts as 0.
        keep_dense: keep the dense deviations of everybody at all times, 4 · times · users · (items + 1) bytes; else of
            those in the support, and of all at the last time.
        resume: a path to go on from, on the same comparisons; its settings hold, and its times come first.
        watch: called with the number of each recorded time and the state there.

    Returns:
        The path.

    Raises:
        ValueError: on a setting out of range; if all answers are ties; if `times` do not ascend; if `resume` is of
            other users or items, or ends later.

    Warns:
        UserWarning: if the items fall into groups that were never compared; if `step` is longer than is stable; if
            halving did not keep the objective from rising.

    Equations (9a) to (9d) of the paper; t₀ = 1 / max_u |gradient of u| at the consensus is derived here.

    >>> from equipoise.data import simulate_partial_rankings
    >>> world = simulate_partial_rankings(6, 5, comparisons_per_user=(30, 40))
    >>> path = split_lbi_path(world.comparisons, num_times=4)
    >>> len(path), path.scores().shape
    (4, torch.Size([6, 6]))
    """
    if resume is not None:
        kept = resume.settings
        link, scale, nu, kappa, threshold_min = kept.link, kept.scale, kept.nu, kept.kappa, kept.threshold_min
        support_tolerance, keep_dense = kept.support_tolerance, kept.keep_dense
    settings = PathSettings(link, nu, kappa, scale, threshold_min, support_tolerance, keep_dense)
    table = TieTable(comparisons, link)
    if resume is not None:
        _check_resume(resume, table)
        state, steps, begin = resume.state.clone(), resume.steps, float(resume.times[-1])
        entry = resume.entry_time.clone()
    else:
        consensus = TieMLE(link, threshold_min=threshold_min).fit(comparisons)
        state = SplitState.start(consensus.common, table.num_users)
        steps, begin = default_steps(table, nu, kappa, scale), 0.0
        if step is not None:
            steps = _given(step, steps, kappa, scale)
        entry = torch.full((table.num_users,), math.inf, dtype=torch.float64)
    if times is None:
        first = first_entry(table, state, steps) if resume is None else begin
        last = time_ratio * (first if resume is None else float(resume.times[0]))
        times = torch.from_numpy(np.geomspace(first, last, num_times + (resume is not None)))[resume is not None :]
    times = _check_times(times, begin)
    recorder = _Recorder(settings, watch)
    steps = _run(state, table, steps, settings, times.tolist(), begin, entry, recorder)
    found = recorder.path(times, entry, state, steps)
    return found if resume is None else _joined(resume, found)


def first_entry(table: TieTable, state: SplitState, steps: Steps) -> float:
    """t₀ = 1 / max_u |gradient of user u| at the consensus: when the first dual would be of length 1.

    Raises:
        ValueError: if no user differs from the consensus.
    """
    most = float(table.gradient(state.common.expand_as(state.personal)).norm(dim=1).max())
    # What the ridge and the last iteration of the consensus leave is no deviation.
    if most * table.num_users <= 1e-4 * (1 + float(state.common.norm())):
        raise ValueError("no user differs from the consensus, so that nobody would ever leave it; use TieMLE")
    return 1 / (most * steps.scale)


class _Recorder:
    """Copies of the state at the recorded times."""

    def __init__(self, settings: PathSettings, watch: Watch | None) -> None:
        self.settings, self.watch = settings, watch
        self.losses: list[float] = []
        self.common: list[Tensor] = []
        self.norms: list[tuple[Tensor, Tensor]] = []
        self.rows: dict[str, list[tuple[Tensor, Tensor]]] = {"gamma": [], "personal": []}

    def take(self, loss: float, state: SplitState, last: bool) -> None:
        number = len(self.losses)
        self.losses.append(loss)
        self.common.append(state.common.clone())
        length = state.gamma.norm(dim=1)
        self.norms.append((length.float(), state.personal.norm(dim=1).float()))
        there = (length > self.settings.support_tolerance).nonzero()[:, 0]
        self.rows["gamma"].append((there, state.gamma[there].float()))
        if self.settings.keep_dense or last:
            there = torch.arange(len(length))
        self.rows["personal"].append((there, state.personal[there].float()))
        if self.watch is not None:
            self.watch(number, state)

    def path(self, times: Tensor, entry: Tensor, state: SplitState, steps: Steps) -> SplitPath:
        gamma, personal = (
            GroupRows(
                torch.arange(len(rows)).repeat_interleave(torch.tensor([len(users) for users, _ in rows])),
                torch.cat([users for users, _ in rows]),
                torch.cat([values for _, values in rows]),
            )
            for rows in (self.rows["gamma"], self.rows["personal"])
        )
        ours, theirs = (torch.stack(each) for each in zip(*self.norms, strict=True))
        losses = torch.tensor(self.losses, dtype=torch.float64)
        common = torch.stack(self.common)
        return SplitPath(times, losses, common, gamma, personal, ours, theirs, entry, state, steps, self.settings)


def _run(
    state: SplitState,
    table: TieTable,
    steps: Steps,
    settings: PathSettings,
    times: list[float],
    begin: float,
    entry: Tensor,
    recorder: _Recorder,
) -> Steps:
    """Advance to every time in turn; the steps at the end."""
    now, count, halved = begin, 0, 0
    last = split_objective(table, state, steps.scale, settings.nu)
    for number, target in enumerate(times):
        while now < target:
            # A rest shorter than rounding is not worth a step.
            share = min(1.0, (target - now) / steps.time)
            advance(
                state,
                table,
                steps.shorter(share),
                settings.nu,
                settings.kappa,
                settings.threshold_min,
                most_change=_MOST_CHANGE,
            )
            now = target if share < 1 else now + steps.time
            new = state.gamma.norm(dim=1) > settings.support_tolerance
            entry[new & entry.isinf()] = now
            count += 1
            if count % _LOOK == 0:
                loss = split_objective(table, state, steps.scale, settings.nu)
                if not math.isfinite(loss):
                    raise ValueError(f"the path diverged at time {now:g}; give a step below {steps.time:g}")
                if loss > last + _ROSE * abs(last) and halved < _HALVINGS:
                    steps, halved = steps.shorter(0.5), halved + 1
                    if halved == _HALVINGS:
                        warnings.warn(
                            f"the objective still rises at time {now:g} although steps were halved {halved} times",
                            UserWarning,
                            stacklevel=4,
                        )
                last = loss
        recorder.take(table.loss(state.personal + state.common), state, number == len(times) - 1)
    return steps


def split_objective(table: TieTable, state: SplitState, scale: float, nu: float) -> float:
    """The loss, times its scale, plus |dense − Γ|² / 2ν: what the steps descend, and no step below twice the curvature
    raises.

    The loss alone may rise where deviations give way to the consensus.
    """
    loss = scale * table.loss(state.personal + state.common)
    return loss + float((state.personal - state.gamma).square().sum()) / (2 * nu)


def _given(step: float, steps: Steps, kappa: float, scale: Scale) -> Steps:
    # The default has half the length that the curvature allows.
    if step > 2 * steps.time:
        warnings.warn(
            f"step={step:g} is longer than {2 * steps.time:g}, twice the inverse of the curvature over kappa; the path "
            "may diverge",
            UserWarning,
            stacklevel=4,
        )
    return steps._replace(time=step, common=kappa * step if scale == "mean" else steps.common)


def _check_times(times: Tensor, begin: float) -> Tensor:
    times = times.double()
    gaps = torch.diff(times, prepend=times.new_tensor([begin]))
    if not bool((gaps > 0).all()):
        row = int((gaps <= 0).nonzero()[0])
        raise ValueError(f"times must ascend from above {begin:g}, got {float(times[row]):g} at index {row}")
    return times


def _check_resume(path: SplitPath, table: TieTable) -> None:
    shape = (table.num_users, table.num_items + 1)
    if path.state.personal.shape != shape:
        raise ValueError(
            f"resume is of {path.num_users} users and {path.common.shape[1] - 1} items, the comparisons are of "
            f"{table.num_users} and {table.num_items}"
        )


def _joined(first: SplitPath, then: SplitPath) -> SplitPath:
    """One path of two, of which the second went on from the first."""
    whole = {
        name: torch.cat([getattr(first, name), getattr(then, name)])
        for name in ("times", "losses", "common", "gamma_norm", "personal_norm")
    }
    return SplitPath(
        **whole,
        gamma=first.gamma.joined(then.gamma, len(first)),
        personal=first.personal.joined(then.personal, len(first)),
        entry_time=then.entry_time,
        state=then.state,
        steps=then.steps,
        settings=then.settings,
    )
