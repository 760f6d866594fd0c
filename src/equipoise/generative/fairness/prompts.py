"""The prompts of a debiasing: neutral ones, ones that name an attribute value, and what is refused as neither."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equipoise.generative.fairness.balance import check_attributes
from equipoise.generative.fairness.bias import intersect_attributes

TEMPLATES = ("{}", "a {}", "a photo of a {}", "a picture of the {}")
"""What concepts are put into by default."""
UNRELATED = (
    "a photo of a dog",
    "a city street at night",
    "a bowl of fruit on a table",
    "a lake in the mountains",
    "an old wooden house",
    "a car on the road",
    "a glass of water",
    "an empty room with a window",
    "a painting of flowers",
    "a train at a station",
    "a chair and a lamp",
    "a close-up of a leaf",
)
"""Texts about nothing that has to be balanced, which are kept where they are by default."""


@dataclass(frozen=True)
class FairPrompts:
    """Concepts, the values that pictures of them should show equally often, and the templates they are put into.

    Args:
        concepts: what neutral prompts are about, such as ("doctor", "nurse").
        attributes: the values of one attribute, such as ("female", "male"), or attribute → values, whose combinations
            are then balanced.
        templates: texts with one {} for the concept, perhaps with a value before it.

    Raises:
        ValueError: if there is no concept or template, fewer than two values, a template without one {}, or a concept
            or template that names a value already.

    >>> prompts = FairPrompts(("doctor",), ("female", "male"), ("a photo of a {}",))
    >>> prompts.neutral("doctor"), prompts.naming("doctor", "male")
    (['a photo of a doctor'], ['a photo of a male doctor'])
    """

    concepts: Sequence[str]
    attributes: Sequence[str] | Mapping[str, Sequence[str]]
    templates: Sequence[str] = TEMPLATES

    def __post_init__(self) -> None:
        for name in ("concepts", "templates"):
            given = getattr(self, name)
            if isinstance(given, str) or not all(isinstance(one, str) and one.strip() for one in given):
                raise ValueError(f"{name} must be a list of texts, got {given!r}")
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name}={list(given)} must be different texts, at least one")
            object.__setattr__(self, name, tuple(given))
        if isinstance(self.attributes, str):
            raise ValueError(f"attributes must be a list of values, got the string {self.attributes!r}")
        if not isinstance(self.attributes, Mapping):
            object.__setattr__(self, "attributes", tuple(self.attributes))
            if not all(isinstance(value, str) and value.strip() for value in self.attributes):
                raise ValueError(f"attributes must be a list of texts, got {self.attributes!r}")
            check_attributes("attributes", len(self.attributes))
        for template in self.templates:
            if template.count("{}") != 1 or re.search(r"[{}]", template.replace("{}", "")):
                raise ValueError(
                    f"template {template!r} must have one {{}}, where the concept goes, and no other brace"
                )
        words = {word for value in self.values for word in _words(value)}
        for what, texts in (("concept", self.concepts), ("template", self.templates)):
            for text in texts:
                named = [word for word in _words(text) if word in words]
                if named:
                    raise ValueError(
                        f"{what} {text!r} names the attribute value {named[0]!r} already; use a neutral one"
                    )

    @property
    def values(self) -> tuple[str, ...]:
        """The value that stands before a concept, of several attributes every combination: "young female"."""
        if isinstance(self.attributes, Mapping):
            return tuple(" ".join(each) for each in intersect_attributes(self.attributes))
        return tuple(self.attributes)

    def neutral(self, concept: str) -> list[str]:
        """The prompts that name no value, one for each template."""
        return [template.format(concept) for template in self.templates]

    def naming(self, concept: str, value: str) -> list[str]:
        """The prompts that name a value."""
        return [template.format(f"{value} {concept}") for template in self.templates]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())
