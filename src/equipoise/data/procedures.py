"""A small world of procedures: short recordings of steps in order, with rare mistakes of two kinds.

A workflow is a fixed order of actions. An action is a short clip in which a square moves across a small picture, in a
direction and place of its own. A recording follows a workflow, segment by segment; a segment is a mistake

    locally     when its motion stutters: visible in the segment itself
    globally    when an action is done well where the workflow wants another: visible only beside what came before,
                since every action is right after some other

Every workflow is the same cycle of actions, begun elsewhere; a title clip shows which. Recordings, not segments, are
split, so that no recording is on two sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.validate import check_fraction

CORRECT, LOCAL, GLOBAL = 0, 1, 2
"""Kinds of a segment."""
_ACTIONS, _SIDE = 6, 12
# Every workflow is a cyclic order of the same actions, so that an action alone does not tell whether it is in place.


@dataclass(frozen=True)
class Procedures:
    """Segments of recordings.

    Attributes:
        frames: (n, T, 3, 12, 12), each segment's clip, in [0, 1] up to noise.
        recording: (n,), which recording each segment is of.
        step: (n,), its place in that recording, from 0.
        workflow: (n,), the workflow of its recording.
        action: (n,), what is done.
        kind: (n,), 0 correct, 1 locally wrong, 2 locally right but globally wrong.
        titles: (recordings, T, 3, 12, 12), the clip that shows the workflow.
    """

    frames: Float[Tensor, "n t 3 h w"]
    recording: Int[Tensor, " n"]
    step: Int[Tensor, " n"]
    workflow: Int[Tensor, " n"]
    action: Int[Tensor, " n"]
    kind: Int[Tensor, " n"]
    titles: Float[Tensor, "r t 3 h w"]

    @property
    def target(self) -> Int[Tensor, " n"]:
        """1 for a mistake of either kind."""
        return (self.kind > 0).long()

    def __len__(self) -> int:
        return len(self.kind)

    def rows(self, keep: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> Procedures:
        """Some of the segments; titles stay those of all recordings."""
        names = ("frames", "recording", "step", "workflow", "action", "kind")
        return Procedures(**{name: getattr(self, name)[keep] for name in names}, titles=self.titles)

    def context(self) -> Float[Tensor, "n t 3 h w"]:
        """The coarse view of every segment: what the recording showed just before it.

        That is the segment before, or the title for the first one (and for one whose predecessor was left out by
        `rows`). After a global mistake the next segment is right by its workflow, though it does not follow from what
        was just done.
        """
        row = {place: k for k, place in enumerate(zip(self.recording.tolist(), self.step.tolist(), strict=True))}
        shown = self.titles[self.recording].clone()
        for (recording, step), k in row.items():
            before = row.get((recording, step - 1))
            if before is not None:
                shown[k] = self.frames[before]
        return shown


def procedure_world(
    recordings: int = 300,
    *,
    mistake_rate: float = 0.08,
    workflows: int = 3,
    length: int = 6,
    num_frames: int = 6,
    noise: float = 0.1,
    seed: int = 0,
) -> Procedures:
    """Render recordings with rare mistakes, a fair coin between the kinds.

    Args:
        recordings: how many, 1 or more.
        mistake_rate: chance of a segment to be a mistake, in (0, 1).
        workflows: orders of the six actions, 2..6.
        length: segments of a recording, 2..6.
        num_frames: of a clip, 4 or more.
        noise: standard deviation on every pixel.
        seed: the world is a function of it and the other arguments.

    Raises:
        ValueError: on an argument out of range.

    >>> world = procedure_world(10, seed=1)
    >>> tuple(world.frames.shape)
    (60, 6, 3, 12, 12)
    """
    check_fraction("mistake_rate", mistake_rate, one=False)
    if recordings < 1 or not 2 <= workflows <= _ACTIONS or not 2 <= length <= _ACTIONS or num_frames < 4 or noise < 0:
        raise ValueError(
            f"recordings={recordings} must be at least 1, workflows={workflows} and length={length} in 2..{_ACTIONS}, "
            f"num_frames={num_frames} at least 4 and noise={noise} at least 0"
        )
    generator = torch.Generator().manual_seed(seed)

    def drawn(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    flow = drawn(workflows, recordings)
    step = torch.arange(length).expand(recordings, length)
    action = (step + flow[:, None]) % _ACTIONS
    wrong = chance(recordings, length) < mistake_rate
    kind = torch.where(wrong, torch.where(chance(recordings, length) < 0.5, LOCAL, GLOBAL), CORRECT)
    # An action that belongs elsewhere: any of the other five, which another workflow may well have in this place.
    action = torch.where(kind == GLOBAL, (action + 1 + drawn(_ACTIONS - 1, recordings, length)) % _ACTIONS, action)
    frames = torch.stack(
        [_clip(int(a), bool(k == LOCAL), num_frames) for a, k in zip(action.flatten(), kind.flatten(), strict=True)]
    )
    titles = torch.zeros(recordings, num_frames, 3, _SIDE, _SIDE)
    for number, order in enumerate(flow.tolist()):
        titles[number, :, order % 3, :: 1 + order // 3] = 1
    return Procedures(
        frames=frames + noise * torch.randn(frames.shape, generator=generator),
        recording=torch.arange(recordings).repeat_interleave(length),
        step=step.flatten(),
        workflow=flow.repeat_interleave(length),
        action=action.flatten(),
        kind=kind.flatten(),
        titles=titles + noise * torch.randn(titles.shape, generator=generator),
    )


def _clip(action: int, stutters: bool, num_frames: int) -> Tensor:
    """A square of the action's own colour and row moves right; one that stutters jumps back in every other frame."""
    clip = torch.zeros(num_frames, 3, _SIDE, _SIDE)
    row = 2 * (action % 3) + 1
    for frame in range(num_frames):
        at = frame if not (stutters and frame % 2) else 0
        column = round(at * (_SIDE - 4) / (num_frames - 1))
        clip[frame, action // 3, row : row + 3, column : column + 3] = 1
    return clip


def split_recordings(
    world: Procedures, shares: tuple[float, ...] = (0.6, 0.2, 0.2), seed: int = 0
) -> tuple[Procedures, ...]:
    """Split by recording, at random, in these proportions.

    Raises:
        ValueError: on a share that is not above 0, or fewer recordings than parts.

    >>> train, val, test = split_recordings(procedure_world(10))
    >>> bool(torch.isin(train.recording, test.recording).any())
    False
    """
    names = world.recording.unique()
    if not shares or min(shares) <= 0 or len(names) < len(shares):
        raise ValueError(f"shares={shares} must be above 0, and {len(names)} recordings at least {len(shares)}")
    order = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))]
    ends = (torch.tensor(shares).double().cumsum(0) / sum(shares) * len(names)).round().long()
    # Each part has a recording, however small its share.
    last = len(names) - len(shares)
    cuts = [min(max(end, part), last + part) for part, end in enumerate(ends.tolist(), start=1)]
    starts = [0, *cuts[:-1]]
    return tuple(world.rows(torch.isin(world.recording, order[a:b])) for a, b in zip(starts, cuts, strict=True))
