"""The risk of a token, exactly, in a world of finitely many contexts; and why it makes exposure bias.

In context s a teacher p writes token a, which leads to context s' = next(s, a); l(s) is the student's loss there. With
the teacher going on,

    J(s) = l(s) + Σ_a p(a|s) Q(s, a)         Q(s, a) = J(next(s, a)), 0 after the end
    κ(a|s) = Q(s, a) − Σ_b p(b|s) Q(s, b)    κ(s) = Σ_a κ(a|s)

so κ(a|s) is the loss to come that is due to one forced token. Contexts with a large κ(s) are bridges, where one wrong
token ruins what follows, those with a small one gardens, where many tokens will do. With d_q(s) the expected number of
visits of a student q,

    Σ_s d_q(s) l(s) − Σ_s d_p(s) l(s) = Σ_s d_q(s) Σ_a (q(a|s) − p(a|s)) κ(a|s)

exactly: exposure bias is the student's drift of probability to tokens of high risk.

"The Bridge-Garden Dilemma in LLM Distillation: Why Mixing Hard and Soft Labels Works", ICML 2026, arXiv 2605.26246, by
its code and a second-hand note. The identity, and the recursions over levels of the graph, are derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Range, Whole

StateActionProbabilities: TypeAlias = Annotated[Float[Tensor, "states actions"], Range(0)]
NextState: TypeAlias = Annotated[Integer[Tensor, "states actions"], Range(-1)]

_SUMS_TO_ONE = 1e-6
_TIED = 1e-9


class KappaResult(NamedTuple):
    """What is exact in a tabular world, float64. With a horizon, per-state results have a dimension of time in front.

    Attributes:
        loss_to_go: (S,) J, with the loss of the state itself.
        q: (S, A) loss to go after each token.
        qbar: (S,) its mean under the teacher.
        kappa: (S, A) risk of each token.
        state_kappa: (S,) its sum over tokens, but those left out.
        visitation_teacher: (S,) expected visits of the teacher from the start.
        visitation_student: (S,) of the student; None without a student, as is all that follows from it.
        teacher_forced_error: scalar, Σ d_p l.
        inference_error: scalar, Σ d_q l.
        exposure_bias: scalar, the difference of the two.
        drift: (S,) what each state adds to the exposure bias, d_q(s) Σ_a (q − p) κ(a|s); its sum is the exposure bias.
    """

    loss_to_go: Tensor
    q: Tensor
    qbar: Tensor
    kappa: Tensor
    state_kappa: Tensor
    visitation_teacher: Tensor
    visitation_student: Tensor | None
    teacher_forced_error: Tensor
    inference_error: Tensor | None
    exposure_bias: Tensor | None
    drift: Tensor | None


@checked
def kappa_tabular(
    teacher_probs: StateActionProbabilities,
    next_state: NextState,
    state_loss: Float[Tensor, " states"],
    *,
    start_state: Whole = 0,
    student_probs: StateActionProbabilities | None = None,
    horizon: Count | None = None,
    left_out: Sequence[int] = (),
) -> KappaResult:
    """Risk of every token in every context of a tabular world, and the exposure bias of a student in it.

    Args:
        teacher_probs: (S, A) distribution of the teacher over tokens in each state.
        next_state: (S, A) state that a token leads to, −1 after the last one.
        state_loss: (S,) loss of the student in each state, such as the KL from the teacher.
        start_state: where sequences begin.
        student_probs: (S, A) distribution of the student; None for no exposure bias.
        horizon: number of tokens after which every sequence ends. A graph that comes back to a state needs one; the
            same state is another one then after other numbers of tokens, and results per state are (horizon, S, ...).
        left_out: tokens that do not count in a state's sum of risks, such as padding and the start token.

    Returns:
        The result, in float64. It takes O(S·A), times the horizon where there is one.

    Raises:
        ValueError: if rows do not sum to 1, a state or token does not exist, or the graph is cyclic and no horizon is
            given.

    Source: the Bridge-Garden paper, see the module.

    >>> ends, risky = [-1, -1], [1, 2]  # token 1 of state 0 leads to state 2, where the loss is high
    >>> found = kappa_tabular(
    ...     torch.tensor([[0.9, 0.1], [1.0, 0.0], [1.0, 0.0]]),
    ...     torch.tensor([risky, ends, ends]),
    ...     torch.tensor([0.0, 0.1, 1.1]),
    ...     student_probs=torch.tensor([[0.7, 0.3], [1.0, 0.0], [1.0, 0.0]]),
    ... )
    >>> found.kappa[0], found.exposure_bias
    (tensor([-0.1000,  0.9000], dtype=torch.float64), tensor(0.2000, dtype=torch.float64))
    """
    states, actions = next_state.shape
    if int(next_state.max()) >= states:
        raise ValueError(f"next_state holds {int(next_state.max())}, wanted states from 0 to {states - 1}, or -1")
    if start_state >= states:
        raise ValueError(f"start_state={start_state} is none of the {states} states")
    if left_out and not 0 <= min(left_out) <= max(left_out) < actions:
        raise ValueError(f"left_out={tuple(left_out)} must be tokens from 0 to {actions - 1}")
    teacher = _distribution("teacher_probs", teacher_probs)
    loss, target = state_loss.double(), next_state.long()
    counts = torch.ones(actions, dtype=torch.bool, device=loss.device)
    counts[list(left_out)] = False

    visits: Callable[[Tensor], Tensor]
    if horizon is None:
        order = _levels(target)
        to_go, q = _backward(teacher, target, loss, order)
        visits = partial(_forward, target=target, start=start_state, order=order)
    else:
        to_go, q = _backward_in_time(teacher, target, loss, horizon)
        visits = partial(_forward_in_time, target=target, start=start_state, horizon=horizon)
    of_teacher, of_student = visits(teacher), None
    qbar = (teacher * q).sum(-1)
    kappa = q - qbar[..., None]
    forced = (of_teacher * loss).sum()
    inference = bias = drift = None
    if student_probs is not None:
        student = _distribution("student_probs", student_probs)
        of_student = visits(student)
        inference = (of_student * loss).sum()
        bias = inference - forced
        drift = of_student * ((student - teacher) * kappa).sum(-1)
    return KappaResult(
        to_go,
        q,
        qbar,
        kappa,
        kappa[..., counts].sum(-1),
        of_teacher,
        of_student,
        forced,
        inference,
        bias,
        drift,
    )


def _distribution(name: str, probabilities: Tensor) -> Tensor:
    p = probabilities.double()
    off = (p.sum(1) - 1).abs()
    if float(off.max()) > _SUMS_TO_ONE:
        row = int(off.argmax())
        raise ValueError(f"{name} must sum to 1 in every state, state {row} sums to {float(p[row].sum()):.6g}")
    return p


def _levels(target: Tensor) -> list[Tensor]:
    """States by the longest way to the end, the last ones first.

    A state is taken off when all its successors are; each edge is looked at once.
    """
    states, actions = target.shape
    edges = target.flatten()
    kept = (edges >= 0).nonzero()[:, 0]
    head, tail = edges[kept], kept // actions
    order = head.argsort(stable=True)
    sources = tail[order]
    first = torch.searchsorted(head[order].contiguous(), torch.arange(states + 1, device=target.device))
    waiting = torch.bincount(tail, minlength=states)
    ready, levels, found = (waiting == 0).nonzero()[:, 0], [], 0
    while len(ready):
        levels.append(ready)
        found += len(ready)
        length = first[ready + 1] - first[ready]
        ends = length.cumsum(0)
        place = torch.arange(int(ends[-1]), device=target.device) + (first[ready] - ends + length).repeat_interleave(
            length
        )
        touched, times = sources[place].unique(return_counts=True)
        waiting[touched] -= times
        ready = touched[waiting[touched] == 0]
    if found < states:
        raise ValueError(
            "next_state comes back to a state, so that sequences may never end; pass horizon, the number of tokens "
            "after which they do"
        )
    return levels


def _after(to_go: Tensor, target: Tensor) -> Tensor:
    """The loss to go after each token, 0 after the end."""
    return to_go[target.clamp_min(0)].where(target >= 0, 0)


def _backward(teacher: Tensor, target: Tensor, loss: Tensor, order: list[Tensor]) -> tuple[Tensor, Tensor]:
    to_go, q = torch.zeros_like(loss), torch.zeros_like(teacher)
    for level in order:
        q[level] = _after(to_go, target[level])
        to_go[level] = loss[level] + (teacher[level] * q[level]).sum(1)
    return to_go, q


def _backward_in_time(teacher: Tensor, target: Tensor, loss: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    to_go, q = loss.new_zeros(horizon, len(loss)), loss.new_zeros(horizon, *target.shape)
    for time in reversed(range(horizon)):
        if time + 1 < horizon:
            q[time] = _after(to_go[time + 1], target)
        to_go[time] = loss + (teacher * q[time]).sum(1)
    return to_go, q


def _moved(visits: Tensor, policy: Tensor, target: Tensor, into: Tensor) -> None:
    """Add to `into` where the visits of some states go on to."""
    going = target >= 0
    into.index_add_(0, target[going], (visits[:, None] * policy)[going])


def _forward(policy: Tensor, target: Tensor, start: int, order: list[Tensor]) -> Tensor:
    visits = policy.new_zeros(len(policy))
    visits[start] = 1
    for level in reversed(order):
        _moved(visits[level], policy[level], target[level], visits)
    return visits


def _forward_in_time(policy: Tensor, target: Tensor, start: int, horizon: int) -> Tensor:
    visits = policy.new_zeros(horizon, len(policy))
    visits[0, start] = 1
    for time in range(horizon - 1):
        _moved(visits[time], policy, target, visits[time + 1])
    return visits


class BridgeGarden(NamedTuple):
    """Masks over states that leave no state out and share none.

    Attributes:
        bridge: (S,) among the states of highest risk, whatever becomes of ties.
        garden: (S,) among those of lowest.
        middle: (S,) neither.
        ties: (S,) as risky as others on the other side of one of the two cuts.
    """

    bridge: Tensor
    garden: Tensor
    middle: Tensor
    ties: Tensor


@checked
def split_bridge_garden(
    state_kappa: Float[Tensor, " states"],
    fraction: Annotated[float, Range(0, 0.5, low_open=True, high_open=True)] = 0.2,
) -> BridgeGarden:
    """The states of highest and of lowest risk.

    Args:
        state_kappa: (S,) risk of each state, at least 2 of them.
        fraction: share of the states that are bridges, and of those that are gardens; ⌊fraction · S⌋ of each, at least
            one.

    Returns:
        Masks. Where a cut falls among states of equal risk (up to 10⁻⁹ of the range of all), all of these are ties and
        neither bridge nor garden.

    Raises:
        ValueError: if the fraction is out of range or there is one state only.

    Source: the code of the Bridge-Garden paper.

    >>> found = split_bridge_garden(torch.tensor([3.0, 0.0, 1.0, 1.0, 0.0]), fraction=0.2)
    >>> found.bridge.tolist(), found.ties.tolist()
    ([True, False, False, False, False], [False, True, False, False, True])
    """
    states = len(state_kappa)
    if states < 2:
        raise ValueError(f"state_kappa has {states} state; at least 2 are needed to tell bridges from gardens")
    number = max(1, int(fraction * states))
    value = state_kappa.double()
    near = _TIED * float(value.max() - value.min())
    bridge, upper = _beyond(value, number, near)
    garden, lower = _beyond(-value, number, near)
    ties = upper | lower
    bridge, garden = bridge & ~ties, garden & ~ties
    return BridgeGarden(bridge, garden, ~(bridge | garden | ties), ties)


def _beyond(value: Tensor, number: int, near: float) -> tuple[Tensor, Tensor]:
    """The `number` largest, and those among which the cut falls, if it falls among equals."""
    cut = value.topk(number).values[-1]
    inside = value >= cut - near
    at_cut = (value - cut).abs() <= near
    return (inside, torch.zeros_like(inside)) if int(inside.sum()) == number else (inside & ~at_cut, at_cut)
