import gzip
import json
from pathlib import Path

import pytest
import torch

from equipoise.language.distillation.data import TextRow, TokenRow, collate_tokens, encode_texts, read_text_rows
from equipoise.language.distillation.vocabulary import check_same_tokens
from tiny_language import TEMPLATE, tiny_tokenizer

REAL = Path("/work/shared/data/text")


def _write(folder, *records, name="rows.jsonl"):
    file = folder / name
    file.write_text("\n".join(map(json.dumps, records)))
    return file


def test_each_form_of_a_row(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file = _write(
        tmp_path,
        {"text": "a b"},
        {"messages": messages, "prompt": "not this"},
        {"prompt": "a ", "completion": "b"},
        {"prompt": messages[:1], "completion": messages[1:]},
        {"instruction": "a", "input": "", "output": "b"},
        {"instruction": "a", "input": "c", "output": "b"},
        {"question": "a", "answer": "b", "final": "1"},
    )
    rows = read_text_rows(file)
    assert rows[0] == TextRow("a b", whole=True)
    assert rows[1] == rows[3] == TextRow(messages=tuple(messages))
    assert rows[2] == TextRow("b", "a ")
    assert rows[4] == rows[6] == TextRow("b", "a\n\n", tuple(messages))
    assert rows[5].prompt == "a\n\nc\n\n"
    assert rows[5].messages[0]["content"] == "a\n\nc"


def test_other_files(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}]))
    with gzip.open(tmp_path / "b.txt.gz", "wt") as stream:
        stream.write("a b\nc")
    assert read_text_rows(tmp_path / "a.json") == [TextRow("a", whole=True)]
    assert read_text_rows(tmp_path / "b.txt.gz") == [TextRow("a b\nc", whole=True)]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "a", "must end in .txt, .jsonl or .json"),
        ("a.jsonl", "{", "a.jsonl, row 1 is no JSON"),
        ("a.jsonl", '\n{"text": "a"}\n{"sentence": "a", "id": 1}', "row 3 has sentence, id, wanted text, messages"),
        ("a.jsonl", "[1]", "row 1 must be an object"),
        ("a.jsonl", '{"text": 3}', "row 1: text must be text, not int"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "messages must be a list of objects with a role"),
        ("a.json", '{"text": "a"}', "must hold a list of rows"),
        ("a.txt", " \n", "holds no text"),
        ("a.txt.gz", "plain", "is damaged"),
    ],
)
def test_what_is_no_text_says_where(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        read_text_rows(tmp_path / name)


def test_prompts_are_not_learnt_and_the_end_is():
    tokenizer = tiny_tokenizer()
    (row,) = encode_texts([TextRow("cat sat", "the ")], tokenizer)
    assert tokenizer.convert_ids_to_tokens(row.input_ids) == ["the", "cat", "sat", "</s>"]
    assert row.labels == [-100, *row.input_ids[1:]]


def test_a_token_of_the_beginning_comes_first():
    tokenizer = tiny_tokenizer(bos=True)
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    (row,) = encode_texts([TextRow("cat", "the")], tokenizer)
    assert tokenizer.convert_ids_to_tokens(row.input_ids) == ["<s>", "the", "cat", "</s>"]


def test_turns_of_the_assistant_are_learnt_in_a_chat_template():
    tokenizer = tiny_tokenizer(template=TEMPLATE)
    messages = [{"role": role, "content": words} for role, words in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    (row,) = encode_texts([TextRow(messages=tuple(messages))], tokenizer)
    assert tokenizer.convert_ids_to_tokens(row.input_ids) == (
        ["user", ":", "a", "assistant", ":", "b", "</s>", "user", ":", "c", "assistant", ":", "d", "</s>"]
    )
    learnt = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label != -100]
    assert tokenizer.convert_ids_to_tokens(learnt) == ["b", "</s>", "d", "</s>"]


def test_a_template_that_rewrites_is_refused():
    tokenizer = tiny_tokenizer(template="{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    messages = tuple({"role": role, "content": "a"} for role in ["user", "assistant"])
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        encode_texts([TextRow(messages=messages)], tokenizer)
    with pytest.raises(ValueError, match="no chat template"):
        encode_texts([TextRow(messages=messages)], tiny_tokenizer())


def test_nothing_of_a_running_text_is_lost():
    tokenizer = tiny_tokenizer()
    rows = encode_texts([TextRow("a b c d e f g h", whole=True)], tokenizer, max_length=4)
    assert [token for row in rows for token in row.input_ids] == tokenizer("a b c d e f g h </s>")["input_ids"][:8]
    assert rows.dropped == 0
    assert [row.row for row in rows] == [0, 1]


def test_long_texts_are_cut_and_those_without_an_answer_dropped():
    rows = encode_texts(
        [TextRow("d e", "a b c"), TextRow("a", "b"), TextRow("b", "a b c d")], tiny_tokenizer(), max_length=4
    )
    assert (len(rows), rows.cut, rows.dropped) == (2, 2, 1)
    assert rows[0].labels[:3] == [-100] * 3


def test_a_batch_is_padded_at_the_right():
    rows = encode_texts([TextRow("b c", "a"), TextRow("b", "a")], tiny_tokenizer())
    batch = collate_tokens(rows, pad_token_id=7)
    assert batch["input_ids"][1, -1] == 7
    assert batch["attention_mask"].sum(1).tolist() == [4, 3]
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_tokenizers_that_differ_are_told_apart_by_their_first_text(plain_inputs):
    one, same, other = tiny_tokenizer(), tiny_tokenizer(), tiny_tokenizer(words=["the", "a", "b", "c"])
    check_same_tokens(one, same, ["the cat", "a b"])
    with pytest.raises(ValueError, match=r"'b a' is .* for the student, .* for the teacher, from token 0 on"):
        check_same_tokens(one, other, ["<unk>", "b a", "the"])
    with pytest.raises(ValueError, match="rows is empty"):
        collate_tokens([])


@pytest.mark.parametrize("labels", [[5], [5, 6], [5, 6, 7, 8]])
def test_labels_are_not_spread_over_tokens(plain_inputs, labels):
    with pytest.raises(ValueError, match=rf"rows\[1\] has 3 input_ids and {len(labels)} labels; give each token"):
        collate_tokens([TokenRow([1], [1], 0), TokenRow([1, 2, 3], labels, 1)])


@pytest.mark.skipif(not REAL.exists(), reason="needs the texts")
@pytest.mark.parametrize(
    ("name", "count"), [("tinyshakespeare.txt.gz", 1), ("gsm8k.jsonl.gz", 8792), ("instructions.jsonl.gz", 427)]
)
def test_real_files(name, count):
    rows = read_text_rows(REAL / name)
    assert len(rows) == count
    assert all(row.response for row in rows)


def test_batches_hold_whole_numbers():
    assert {value.dtype for value in collate_tokens(encode_texts([TextRow("a b")], tiny_tokenizer())).values()} == {
        torch.int64
    }
