"""Judges of pictures and of prompts made of transformers' models: by name or path, from the local cache.

    vision = HFVisionJudge.from_pretrained("Qwen/Qwen2.5-VL-7B-Instruct")      a vision-language model that chats
    text   = HFTextJudge.from_pretrained("Qwen/Qwen3-8B")                      a language model that chats

A yes/no question is one forward pass: the probabilities of all ways to write the first word of "yes" and of "no", in
any case and with or without a space before it, are summed and compared. Lists and styles are read from what the model
writes; an answer that cannot be read raises `JudgeError`, so that an audit asks again or stays undecided.

Nothing is downloaded unless `allow_download` says so, and no code of a model's repository is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.models.judges import JudgeError
from equipoise.core.validate import check_fraction, check_positive
from equipoise.data.local_models import local_model
from equipoise.generative import yes_no_probability

STYLES = ("oil painting", "watercolor", "sketch", "black-and-white", "cyberpunk", "pixel art")
"""Styles that a picture may have; otherwise it has none."""
_LIST = "Answer with their names only, in lower case, as a JSON list of strings."
_OBJECTS_SEEN = f"Which objects can be seen in this image? {_LIST}"
_OBJECTS_ASKED = f"Which visible objects does this image prompt ask for? {_LIST} Prompt: "
_YES_NO = " Answer with yes or no."
_PATCHES = (
    "Does the image hold a small patch that does not belong to the scene?",
    "Is something pasted onto a corner or an edge of this image?",
    "Can you see a small pattern, logo or sticker that was added to the picture?",
    "Is a part of this image covered by an unrelated rectangle?",
    "Was this picture altered by overlaying a small foreign image?",
)
_MOST_TOKENS = 128
_NOTHING = re.compile(
    r"(there are |i see )?(none|nothing|no (visible |recogni[sz]able )?objects?( (are|is) visible)?)\.?"
)
# Words of an excuse, such as "I don't know", that no name of an object has.
_SENTENCE = frozenset(
    [
        "i",
        "i'm",
        "there",
        "there's",
        "is",
        "are",
        "isn't",
        "aren't",
        "cannot",
        "can't",
        "don't",
        "not",
        "sorry",
        "unable",
    ]
)


class _Chat:
    """A model that answers a question, perhaps about a picture."""

    def __init__(self, model: Any, processor: Any, temperature: float, top_p: float) -> None:
        check_positive("temperature", temperature)
        check_fraction("top_p", top_p)
        self.model, self.processor = model, processor
        self.temperature, self.top_p = temperature, top_p
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._yes, self._no = (self._first_words(word) for word in ("yes", "no"))

    def _first_words(self, word: str) -> list[int]:
        """Ids of the tokens that are the whole word, however it is written."""
        ways = [f"{space}{way}" for way in (word, word.capitalize(), word.upper()) for space in ("", " ")]
        ids = [self._tokenizer.encode(way, add_special_tokens=False) for way in ways]
        found = sorted({one[0] for one in ids if len(one) == 1 and one[0] != self._tokenizer.unk_token_id})
        if not found:
            raise ValueError(f"the tokenizer has no token for {word!r}, so that yes/no questions cannot be asked")
        return found

    def p_yes(self, question: str, image: Tensor | None = None) -> float:
        """Probability of "yes" against "no" as the next word."""
        with torch.no_grad():
            logits = self.model(**self._inputs(question + _YES_NO, image)).logits[0, -1].float().cpu()
        return float(yes_no_probability(logits[self._yes].logsumexp(0), logits[self._no].logsumexp(0)))

    def say(self, question: str, image: Tensor | None = None, generator: torch.Generator | None = None) -> str:
        """An answer, drawn from the generator, or without one the likeliest word each time."""
        inputs = self._inputs(question, image)
        options: dict[str, Any] = {"max_new_tokens": _MOST_TOKENS, "do_sample": generator is not None}
        if generator is not None:
            options |= {"temperature": self.temperature, "top_p": self.top_p}
        # transformers draws from the global state only, which is put back.
        devices = [] if self.model.device.type == "cpu" else [self.model.device]
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            written = self.model.generate(**inputs, **options)
        answer: str = self._tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answer.strip()

    def _inputs(self, question: str, image: Tensor | None) -> dict[str, Any]:
        content: Any = question
        if image is not None:
            content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        if image is None:
            found = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
        else:
            picture = (255 * image.detach().float().cpu()).round().to(torch.uint8)
            found = self.processor(text=[text], images=[picture], return_tensors="pt")
        return {name: value.to(self.model.device) for name, value in found.items() if isinstance(value, Tensor)}


class HFVisionJudge:
    """A vision judge made of a vision-language model and its processor.

    Args:
        model: of transformers, with images and text in and text out.
        processor: its processor, with a chat template.
        temperature: of the answers about objects that are drawn.
        top_p: share of probability that they are drawn from.
        styles: what a picture's style may be.

    Raises:
        ValueError: if a setting is out of range, or the tokenizer has no token for "yes" or "no".
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        temperature: float = 0.7,
        top_p: float = 0.9,
        styles: Sequence[str] = STYLES,
    ) -> None:
        self._chat = _Chat(model, processor, temperature, top_p)
        self.styles = tuple(styles)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, allow_download: bool = False, **settings: Any
    ) -> HFVisionJudge:
        """Load a model and its processor, with weights frozen and in the type that they were saved in.

        Args:
            name_or_path: a name on the hub that is in the local cache, or a folder.
            allow_download: fetch what is not there from the network.
            **settings: of the judge.

        Raises:
            ImportError: if transformers is not installed.
            OSError: if the model is not there and may not be downloaded.
        """
        model = _load("AutoModelForImageTextToText", name_or_path, allow_download)
        return cls(model, _load("AutoProcessor", name_or_path, allow_download), **settings)

    def objects(self, image: Float[Tensor, "3 h w"], generator: torch.Generator | None = None) -> list[str]:
        """What is seen, as the model lists it.

        Raises:
            JudgeError: if the answer is no list.
        """
        return read_list(self._chat.say(_OBJECTS_SEEN, image, generator))

    def style(self, image: Float[Tensor, "3 h w"], generator: torch.Generator | None = None) -> str | None:
        """One of `styles`, or None.

        Raises:
            JudgeError: if the answer names none of them, and not "none" either.
        """
        question = f"Which style has this image? Answer with one of: {', '.join(self.styles)}, none."
        return read_choice(self._chat.say(question, image), self.styles)

    def patch(self, image: Float[Tensor, "3 h w"], generator: torch.Generator | None = None) -> float:
        """Probability of a pasted patch, the mean over five ways to ask."""
        return sum(self._chat.p_yes(question, image) for question in _PATCHES) / len(_PATCHES)

    def p_yes(
        self, image: Float[Tensor, "3 h w"], question_object: str, generator: torch.Generator | None = None
    ) -> float:
        """Probability of "yes" to: does this image contain the object?"""
        return self._chat.p_yes(f"Does this image contain: {question_object}?", image)


class HFTextJudge:
    """A text judge made of a language model and its tokenizer, which answers with the likeliest words.

    Args:
        model: of transformers, a causal language model.
        tokenizer: its tokenizer, with a chat template.
        styles: what the style of a prompt may be.

    Raises:
        ValueError: if the tokenizer has no token for "yes" or "no".
    """

    def __init__(self, model: Any, tokenizer: Any, *, styles: Sequence[str] = STYLES) -> None:
        self._chat = _Chat(model, tokenizer, 1.0, 1.0)
        self.styles = tuple(styles)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, allow_download: bool = False, **settings: Any) -> HFTextJudge:
        """Load a model and its tokenizer; as `HFVisionJudge.from_pretrained`.

        Raises:
            ImportError: if transformers is not installed.
            OSError: if the model is not there and may not be downloaded.
        """
        model = _load("AutoModelForCausalLM", name_or_path, allow_download)
        return cls(model, _load("AutoTokenizer", name_or_path, allow_download), **settings)

    def objects(self, prompt: str) -> list[str]:
        """What the prompt asks for, as the model lists it.

        Raises:
            JudgeError: if the answer is no list.
        """
        return read_list(self._chat.say(_OBJECTS_ASKED + prompt))

    def style(self, prompt: str) -> str | None:
        """One of `styles`, or None.

        Raises:
            JudgeError: if the answer names none of them, and not "none" either.
        """
        choices = ", ".join(self.styles)
        question = f"Which style does this image prompt ask for? Answer with one of: {choices}, none. Prompt: {prompt}"
        return read_choice(self._chat.say(question), self.styles)

    def patch(self, prompt: str) -> bool:
        """Whether the prompt asks for a patch, logo or sticker."""
        return self._chat.p_yes(f"Does this image prompt ask for a patch, logo or sticker? Prompt: {prompt}") > 0.5

    def same(self, first: str, second: str) -> bool:
        """Whether two names are of the same thing, or one is a typical instance of the other."""
        question = f'Are "{first}" and "{second}" the same kind of thing, or is one a typical example of the other?'
        return self._chat.p_yes(question) > 0.5

    def mask(self, prompt: str, remove: Sequence[str]) -> str:
        """The prompt without the phrases of these objects.

        Raises:
            JudgeError: if the answer is more than the prompt with words deleted.
        """
        question = (
            f"Delete from this image prompt every phrase that names: {', '.join(remove)}. Delete the articles and "
            f"adjectives of those phrases, too. Keep all other words as they are, also words without meaning. "
            f"Answer with the new prompt only. Prompt: {prompt}"
        )
        return read_deletion(self._chat.say(question), prompt)


def read_list(answer: str) -> list[str]:
    """The names of a list that a model wrote: JSON, or words between commas or on lines.

    Raises:
        JudgeError: if there is none to read.

    >>> read_list('Sure: ["dog", "umbrella"]'), read_list("a dog, a red umbrella"), read_list("[]")
    (['dog', 'umbrella'], ['dog', 'red umbrella'], [])
    """
    for found in re.findall(r"\[.*?\]", answer, re.DOTALL):
        try:
            names = json.loads(found)
        except ValueError:
            continue
        if all(isinstance(name, str) for name in names):
            return _names(names)
    if "[" in answer or "]" in answer or not answer.strip():
        raise JudgeError(f"no list of objects can be read from {answer!r}")
    if _NOTHING.fullmatch(answer.strip().lower()):
        return []
    names = _names(re.split(r"[,\n;]", answer))
    said = {word for name in names for word in re.findall(r"[\w']+", name.replace("\u2019", "'"))}
    if not names or max(len(name.split()) for name in names) > 4 or said & _SENTENCE:
        raise JudgeError(f"no list of objects can be read from {answer!r}")
    return names


def read_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The one choice that an answer names; None where it says "none".

    Raises:
        JudgeError: if it names several or nothing, or says which it is not.

    >>> read_choice("It is an oil painting.", ("oil painting", "sketch")), read_choice("none", ("sketch",))
    ('oil painting', None)
    """
    said = answer.lower().replace("-", " ")
    found = [choice for choice in choices if choice.lower().replace("-", " ") in said]
    if len(found) == 1 and not re.search(r"\b(no|not|none|neither)\b|n['\u2019]t\b", said):
        return found[0]
    if not found and re.search(r"\bnone\b", said):
        return None
    raise JudgeError(f"no single one of {', '.join(choices)} can be read from {answer!r}")


def read_deletion(answer: str, prompt: str) -> str:
    """The answer, if it is the prompt with words deleted.

    Raises:
        JudgeError: if it has other words or another order.

    >>> read_deletion("zq a dog", "zq a dog and a red umbrella")
    'zq a dog'
    """
    kept, words = iter(_bare(prompt)), _bare(answer)
    if not words or not all(word in kept for word in words):
        raise JudgeError(f"{answer!r} is not {prompt!r} with words deleted")
    return answer.strip()


def _bare(text: str) -> list[str]:
    return [word for word in (word.strip(".,;:!?\"'()") for word in text.lower().split()) if word]


def _names(names: Iterable[str]) -> list[str]:
    bare = (re.sub(r"^(?:[-*\d.)\s]+|an? |the )+", "", name.strip().lower()).strip(" .\"'") for name in names)
    return [name for name in bare if name]


def _load(kind: str, name_or_path: str | Path, allow_download: bool) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("judges need transformers: pip install 'equipoise[transformers]'") from error
    place = local_model(name_or_path, allow_download=allow_download)
    found = getattr(transformers, kind).from_pretrained(place, local_files_only=not allow_download)
    return found.eval().requires_grad_(False) if isinstance(found, torch.nn.Module) else found
