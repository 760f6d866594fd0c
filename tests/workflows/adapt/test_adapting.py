"""From a model and texts to an adapter: what is written, that it loads, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from equipoise.cli.main import main
from equipoise.language import load_adapter
from equipoise.workflows import AdaptRequest, InputError, adapt_model
from tiny_language import WORDS, tiny_model, tiny_tokenizer

PLAIN = {"epochs": 4.0, "batch_size": 4, "learning_rate": 0.02, "max_length": 24}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt")
    rng = np.random.default_rng(0)
    rows = [{"prompt": f"{word} ", "completion": " ".join([*WORDS[8:12], word])} for word in rng.choice(WORDS[:8], 40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tokenizer = tiny_tokenizer()
    tiny_model(0, layers=2, vocabulary=len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def _adapted(files, output, **changes):
    request = AdaptRequest(**{**PLAIN, "output": output, **changes})
    return adapt_model(str(files / "model"), files / "rows.jsonl", request, command="equipoise adapt x")


@pytest.mark.parametrize("adapter", ["lora", "tucka", pytest.param("moe-lora", marks=pytest.mark.slow)])
def test_an_adapter_learns_and_loads(files, tmp_path, adapter):
    from transformers import AutoModelForCausalLM

    outcome = _adapted(files, tmp_path / "out", adapter=adapter, rank=2)
    assert outcome.report.measures[0].change.high < 0
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    assert 0 < summary["parameters"]["adapter"] < summary["parameters"]["model"]
    page = (outcome.folder / "report.html").read_text()
    assert "equipoise adapt x" in page
    assert "the cross-entropy of the token" in page
    model = AutoModelForCausalLM.from_pretrained(files / "model").eval()
    ids = torch.tensor([[3, 11, 12, 13]])
    plain = model(ids).logits
    load_adapter(model, outcome.folder / "adapter")
    assert (model.eval()(ids).logits - plain).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "moe-lora", "tucka"])
def test_an_adapter_goes_on_from_a_checkpoint_to_the_same_numbers(files, tmp_path, adapter, monkeypatch):
    from equipoise.workflows.adapt import adapting

    whole = _adapted(files, tmp_path / "whole", adapter=adapter)

    with monkeypatch.context() as patch:
        train = adapting.train

        def train_and_stop(*arguments, **settings):
            train(*arguments, **settings)
            raise KeyboardInterrupt

        patch.setattr(adapting, "train", train_and_stop)
        with pytest.raises(KeyboardInterrupt):
            _adapted(files, tmp_path / "out", adapter=adapter, save_steps=10)
    # All but the checkpoint half-way is taken away.
    states = tmp_path / "out-checkpoints"
    kept = sorted(states.glob("checkpoint-*"), key=lambda folder: int(folder.name[11:]))
    for folder in kept[1:]:
        (folder / "whole").unlink()
    again = _adapted(files, tmp_path / "out", adapter=adapter, save_steps=10, resume=True)
    one, other = (load_file(each.folder / "adapter" / "adapter.safetensors") for each in (whole, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_done_is_said_in_a_sentence(files, tmp_path, capsys):
    for given, words in [
        (["--adapter", "adalora"], "adapter='adalora' is not known; choose one of 'lora', 'moe-lora', 'tucka'"),
        (["--targets", "query"], "match no module; linear layers are"),
        (["--rank", "0"], "rank=0 must be at least 1"),
        (["--learning-rate", "0"], "learning_rate=0.0 must be greater than 0"),
        (["--epochs", "inf"], "epochs=inf must be greater than 0, and finite"),
        (
            ["--learning-rate", "1e30", "--epochs", "1", "--batch-size", "64"],
            "the cross-entropy of 4 of 4 held-out texts is nan",
        ),
    ]:
        with pytest.raises(SystemExit) as left:
            main(["adapt", str(files / "model"), str(files / "rows.jsonl"), *given, "--output", str(tmp_path / "out")])
        assert left.value.code == 2
        said = capsys.readouterr().err
        assert words in said, said
        assert not list(tmp_path.glob("out*"))
    with pytest.raises(InputError, match="name the adapter"):
        _adapted(files, tmp_path / "out", adapter=None)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.jsonl", None, "there is no file"),
        ("x.csv", "a,b", "must end in .txt, .jsonl or .json"),
        ("x.jsonl", "", "holds no text"),
        ("x.jsonl", '{"prompt": "a"}', "row 1 has prompt, wanted text, messages"),
        ("x.jsonl", '{"text": NaN}', "row 1: text must be text, not float"),
        (
            "x.jsonl",
            '{"text": "a"}\n{"text": "b \\ud800 c"}',
            "row 2 holds \\ud800 alone, which is half of a character",
        ),
        ("x.jsonl", b'{"text": "\xe9"}', "not written in UTF-8"),
        ("x.jsonl", '{"text": "the cat"}', "has 0 rows with tokens to learn and 1 to judge by"),
    ],
)
def test_a_file_of_texts_that_is_none_is_one_sentence(files, tmp_path, capsys, name, text, words):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SystemExit) as left:
        main(["adapt", str(files / "model"), str(path), "--output", str(tmp_path / "out")])
    assert left.value.code == 2
    said = capsys.readouterr().err.strip()
    assert words in said, said
    assert "\n" not in said
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_is_one_sentence(files, tmp_path, capsys, name):
    shutil.copytree(files / "model", tmp_path / "model")
    (tmp_path / "model" / name).write_text("{}")
    with pytest.raises(SystemExit) as left:
        main(["adapt", str(tmp_path / "model"), str(files / "rows.jsonl"), "--output", str(tmp_path / "out")])
    assert left.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "cannot be loaded" in said
    assert "\n" not in said
