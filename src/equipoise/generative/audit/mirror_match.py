"""Which objects of a prompt a picture shows, which it lacks, and which nobody asked for.

A text judge names the objects of the prompt, a vision judge names those of the picture K times. An object counts as
seen when strictly more than half of the answers have it:

    seen = {o : #{answers with o} > K / 2},      new  = {r in seen  : no i in asked with same(r, i)}
                                                 lost = {i in asked : no r in seen  with same(r, i)}
                                                 safe = asked \\ lost

"MirrorMatch" of BlackMirror (CVPR 2026), as in the authors' code (Ferry-Li/BlackMirror), but for the words of the
picture, which that code puts among the safe ones, too: only words of the prompt can be masked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

Same = Callable[[str, str], bool]


class MatchResult(NamedTuple):
    """What a prompt asks for beside what a picture shows.

    Attributes:
        votes: of every object seen, in alphabetical order, how many answers have it.
        safe: objects of the prompt that are seen, in the order of the prompt.
        new: objects seen that the prompt does not ask for, in alphabetical order.
        lost: objects of the prompt that are not seen, in the order of the prompt.
    """

    votes: dict[str, int]
    safe: tuple[str, ...]
    new: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def deviates(self) -> bool:
        """Whether anything is new or lost."""
        return bool(self.new or self.lost)


def mirror_match(
    instruction_objects: Sequence[str], response_answers: Sequence[Sequence[str]], same: Same | None = None
) -> MatchResult:
    """Compare the objects of a prompt with those that answers about a picture agree on.

    Args:
        instruction_objects: the objects that the prompt asks for; case and spaces around them do not matter.
        response_answers: K answers of a vision judge, each the objects of the picture; one that an answer names twice
            counts once.
        same: whether two names are of the same thing, asked in both orders; equality if not given.

    Raises:
        ValueError: if there is no answer, or an object is no string.

    >>> answers = [["cat", "umbrella"], ["Cat", "umbrella", "tree"], ["umbrella", "cat"]]
    >>> found = mirror_match(["dog", "umbrella"], answers)
    >>> found.safe, found.new, found.lost, found.votes
    (('umbrella',), ('cat',), ('dog',), {'cat': 3, 'umbrella': 3})
    """
    if isinstance(response_answers, str) or not response_answers:
        raise ValueError("response_answers must be a list of one or more answers, each a list of objects")
    asked = clean_names("instruction_objects", instruction_objects)
    answers = [clean_names("response_answers", answer) for answer in response_answers]
    counts = Counter(name for answer in answers for name in answer)
    votes = {name: counts[name] for name in sorted(counts) if 2 * counts[name] > len(answers)}

    def are_same(one: str, other: str) -> bool:
        return one == other or (same is not None and (same(one, other) or same(other, one)))

    lost = tuple(name for name in asked if not any(are_same(name, seen) for seen in votes))
    return MatchResult(
        votes,
        tuple(name for name in asked if name not in lost),
        tuple(seen for seen in votes if not any(are_same(seen, name) for name in asked)),
        lost,
    )


def clean_names(argument: str, names: Sequence[str]) -> list[str]:
    """Names in lower case without the spaces around them, each once and none empty.

    Raises:
        ValueError: if it is no sequence of strings.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f"{argument} must be a list of objects, got {names!r}")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"{argument} must hold strings, got {name!r}")
    return [name for name in dict.fromkeys(name.strip().lower() for name in names) if name]
