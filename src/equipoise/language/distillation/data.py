"""Texts, instructions and conversations as rows of token ids with the tokens to learn marked.

Rows of JSONL are read in the forms that trainers of language models share: `text`; `messages` with roles; `prompt` and
`completion`, as text or as messages; `instruction`, perhaps `input`, and `output`; `question` and `answer`. Only what
the model is to say is learnt: the completion, or the turns of the assistant. Prompt and answer are encoded on their
own and put together, so that no token lies across the border and the mask is exact.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count

IGNORED = -100
Message: TypeAlias = Mapping[str, str]
Batch: TypeAlias = dict[str, Tensor]
_QUESTIONS = (("instruction", "output"), ("question", "answer"))
_WANTED = "text, messages, prompt and completion, instruction and output, or question and answer"


@dataclass(frozen=True)
class TextRow:
    """A text to learn from.

    Attributes:
        response: what is learnt, without its prompt.
        prompt: what comes before it, word by word.
        messages: the same as a conversation of `{"role": ..., "content": ...}`, for tokenizers with a chat template.
        whole: a running text, which may be cut anywhere.
    """

    response: str = ""
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class TokenRow:
    """A text as tokens.

    Attributes:
        input_ids: of the text.
        labels: the same, −100 where a token is not learnt.
        row: number of the text, by which cached teachers know it.
    """

    input_ids: Sequence[int]
    labels: Sequence[int]
    row: int


@dataclass(frozen=True)
class EncodedTexts(Sequence[TokenRow]):
    """Rows of tokens, and what became of the texts.

    Attributes:
        rows: that are left.
        cut: how many texts were longer than allowed and lost their end.
        dropped: how many had no token to learn.
    """

    rows: Sequence[TokenRow]
    cut: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]


@checked
def read_text_rows(path: str | Path) -> list[TextRow]:
    """The texts of a file.

    Args:
        path: `.txt` (one running text), `.jsonl` or `.json` (rows, see the module), each perhaps with `.gz` behind it.

    Returns:
        The rows, in order.

    Raises:
        ValueError: if the file is of another kind, is not what its name says, or a row has none of the forms; it names
            the first such row.

    Source: the forms are those of common trainers.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "rows.jsonl")
    >>> _ = file.write_text('{"prompt": "2 + 2 = ", "completion": "4"}')
    >>> read_text_rows(file)
    [TextRow(response='4', prompt='2 + 2 = ', messages=(), whole=False)]
    """
    path = Path(path)
    name = path.name.removesuffix(".gz")
    if not name.endswith((".txt", ".jsonl", ".json")):
        raise ValueError(f"{path} must end in .txt, .jsonl or .json, perhaps with .gz behind it")
    try:
        with path.open("rb") as file:
            raw = file.read()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig").replace("\r\n", "\n")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged, or not written in UTF-8: {error}") from error
    if name.endswith(".txt"):
        rows = [TextRow(text, whole=True)] if text.strip() else []
    else:
        rows = [_row(record, f"{path}, row {place}") for place, record in _records(text, name, path)]
    if not rows:
        raise ValueError(f"{path} holds no text")
    return rows


def _records(text: str, name: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Rows with their number, the first being 1."""
    lines = enumerate(text.split("\n"), 1)
    if name.endswith(".json"):
        found = _parsed(text, f"{path}")
        if not isinstance(found, list):
            raise ValueError(f"{path} must hold a list of rows; name a file with a row per line .jsonl")
        yield from enumerate(found, 1)
    else:
        for number, line in lines:
            if line.strip():
                yield number, _parsed(line, f"{path}, row {number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {error}") from error


def _row(record: Any, where: str) -> TextRow:
    if not isinstance(record, dict):
        raise ValueError(f"{where} must be an object with {_WANTED}")
    if "messages" in record:
        return TextRow(messages=_messages(record["messages"], where))
    if "prompt" in record and "completion" in record:
        prompt, completion = record["prompt"], record["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            return TextRow(completion, prompt)
        return TextRow(messages=_messages(prompt, where) + _messages(completion, where))
    for question, answer in _QUESTIONS:
        if question in record and answer in record:
            asked = "\n\n".join(filter(None, (_words(record, question, where), _words(record, "input", where))))
            said = _words(record, answer, where)
            messages = ({"role": "user", "content": asked}, {"role": "assistant", "content": said})
            return TextRow(said, f"{asked}\n\n", messages)
    if "text" in record:
        return TextRow(_words(record, "text", where), whole=True)
    raise ValueError(f"{where} has {', '.join(map(str, record)) or 'nothing'}, wanted {_WANTED}")


def _words(record: Mapping[str, Any], name: str, where: str) -> str:
    value = record.get(name) or ""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be text, not {type(value).__name__}")
    return value


def _messages(given: Any, where: str) -> tuple[Message, ...]:
    def good(one: Any) -> bool:
        return isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)

    if not isinstance(given, list) or not given or not all(map(good, given)):
        raise ValueError(f"{where}: messages must be a list of objects with a role and a content, both text")
    return tuple(given)


@checked
def encode_texts(rows: Sequence[TextRow], tokenizer: Any, *, max_length: Count = 512) -> EncodedTexts:
    """Rows of tokens from texts.

    A running text becomes consecutive pieces of at most `max_length` tokens, of which nothing is lost; another text
    that is longer loses its end. Completions and running texts end with the token of the end, if there is one.

    Args:
        rows: of `read_text_rows`.
        tokenizer: of transformers; conversations are written in its chat template.
        max_length: most tokens of a row.

    Returns:
        The rows with something to learn.

    Raises:
        ValueError: if a conversation meets a tokenizer without a chat template, or the template rewrites what it wrote
            before when a turn is added, so that the turns cannot be told apart.

    Source: ours.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> plain = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    >>> plain.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> encode_texts([TextRow("b a", "a")], PreTrainedTokenizerFast(tokenizer_object=plain)).rows
    [TokenRow(input_ids=[0, 1, 0], labels=[-100, 1, 0], row=0)]
    """
    first, last = _borders(tokenizer)
    found: list[TokenRow] = []
    cut = dropped = 0
    for text in rows:
        pieces = _pieces(text, tokenizer, first, last)
        ids = [token for tokens, _ in pieces for token in tokens]
        labels = [token if learnt else IGNORED for tokens, learnt in pieces for token in tokens]
        ends = range(max_length, len(ids) + max_length, max_length) if text.whole else (max_length,)
        cut += not text.whole and len(ids) > max_length
        before = len(found)
        for end in ends:
            part = slice(end - max_length, end)
            # Nothing comes before the first token, so it cannot be learnt.
            marked = [IGNORED, *labels[part][1:]]
            if any(label != IGNORED for label in marked):
                found.append(TokenRow(ids[part], marked, len(found)))
        dropped += len(found) == before
    return EncodedTexts(found, cut, dropped)


def _borders(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before a text, and the token of its end."""
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    before = tokenizer("", add_special_tokens=True)["input_ids"][:1]
    return (before if start is not None and before == [start] else []), ([] if end is None else [end])


def _pieces(text: TextRow, tokenizer: Any, first: list[int], last: list[int]) -> list[tuple[list[int], bool]]:
    """Tokens with whether they are learnt."""

    def tokens(words: str) -> list[int]:
        return list(tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]) if words else []

    if text.messages and getattr(tokenizer, "chat_template", None):
        return [(tokens(words), learnt) for words, learnt in _turns(text.messages, tokenizer)]
    if text.messages and not text.response:
        raise ValueError(
            "the tokenizer has no chat template to put messages in; give it one (tokenizer.chat_template), or rows "
            "with prompt and completion"
        )
    return [(first + tokens(text.prompt), False), (tokens(text.response) + last, True)]


def _turns(messages: Sequence[Message], tokenizer: Any) -> Iterator[tuple[str, bool]]:
    """The conversation in pieces: each turn of the assistant, learnt, and what lies between."""
    ends = [place for place, one in enumerate(messages) if one["role"] == "assistant"]
    written = [""]
    for place in ends:
        written.append(tokenizer.apply_chat_template(messages[:place], tokenize=False, add_generation_prompt=True))
        written.append(tokenizer.apply_chat_template(messages[: place + 1], tokenize=False))
    for number, (before, after) in enumerate(pairwise(written)):
        if not after.startswith(before):
            raise ValueError(
                "the chat template rewrites earlier turns when one is added, so that what the assistant says cannot be "
                "marked; give rows with prompt and completion"
            )
        yield after[len(before) :], number % 2 == 1


@checked
def collate_tokens(rows: Sequence[TokenRow], pad_token_id: int = 0) -> Batch:
    """A batch of rows of tokens, padded at the right.

    Args:
        rows: of one batch.
        pad_token_id: what to pad with; any token will do, as attention and labels leave it out.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each (B, T), and `row` (B,).

    Raises:
        ValueError: if there is no row, or a row has not as many labels as tokens.

    Source: ours.

    >>> collate_tokens([TokenRow([5, 6], [-100, 6], 0), TokenRow([7], [-100], 1)])["attention_mask"]
    tensor([[1, 1],
            [1, 0]])
    """
    if not rows:
        raise ValueError("rows is empty, wanted at least one row of tokens")
    for place, one in enumerate(rows):
        if len(one.labels) != len(one.input_ids):
            raise ValueError(
                f"rows[{place}] has {len(one.input_ids)} input_ids and {len(one.labels)} labels; give each token a "
                f"label, {IGNORED} where it is not learnt"
            )
    shape = (len(rows), max(len(one.input_ids) for one in rows))
    ids, labels = torch.full(shape, pad_token_id), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for place, one in enumerate(rows):
        count = len(one.input_ids)
        ids[place, :count] = torch.as_tensor(one.input_ids)
        labels[place, :count] = torch.as_tensor(one.labels)
        mask[place, :count] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "row": torch.tensor([one.row for one in rows]),
    }
