"""From a teacher and texts to a student: what is written, that it goes on after a kill, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from equipoise.cli.main import main
from equipoise.workflows import DistillRequest, InputError, distill_student
from tiny_language import TEMPLATE, WORDS, tiny_model, tiny_tokenizer

PLAIN = {"epochs": 2.0, "batch_size": 4, "learning_rate": 0.01, "max_new_tokens": 6}


def _save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    rng = np.random.default_rng(0)
    words = WORDS[:16]
    rows = [
        {"instruction": " ".join(rng.choice(words, 4)), "output": " ".join(rng.choice(words, rng.integers(3, 9)))}
        for _ in range(40)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "text.txt").write_text(" ".join(rng.choice(words, 500)))
    tokenizer = tiny_tokenizer(template=TEMPLATE)
    _save(tiny_model(1, hidden=24, heads=3, scale=8.0, vocabulary=len(tokenizer)), tokenizer, folder / "teacher")
    _save(tiny_model(0, vocabulary=len(tokenizer)), tokenizer, folder / "student")
    return folder


def _distil(files, tmp_path, student="student", data="rows.jsonl", **changes):
    request = DistillRequest(**{**PLAIN, "output": tmp_path / "out", **changes})
    student = student if "=" in student else str(files / student)
    return distill_student(str(files / "teacher"), student, files / data, request, command="equipoise distill x")


def test_a_student_comes_closer_and_the_folder_says_how(files, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    outcome = _distil(files, tmp_path, epochs=8.0)
    assert sorted(path.name for path in outcome.folder.iterdir()) == [
        "manifest.json",
        "metrics.json",
        "model",
        "report.html",
    ]
    summary = json.loads((outcome.folder / "metrics.json").read_text())
    divergence = summary["measures"]["KL(teacher‖student)"]
    assert divergence["change"]["high"] < 0
    assert divergence["after"]["estimate"] < 0.8 * divergence["before"]["estimate"]
    assert summary["rows"] == {"train": 36, "held_out": 4}
    page = (outcome.folder / "report.html").read_text()
    assert "equipoise distill x" in page
    assert "Held-out texts, token by token" in page
    assert 'title="' in page
    model = AutoModelForCausalLM.from_pretrained(outcome.folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(outcome.folder / "model")
    assert model(**tokenizer("the cat", return_tensors="pt")).logits.isfinite().all()
    assert not (tmp_path / "out-checkpoints").exists()


_WAYS = [
    {"prefixes": "adaptive"},
    {"top_k": 5, "accumulation": 2},
    {"hybrid": "confidence", "loss": "forward_kl", "fused": True},
]
_MORE_WAYS = [
    {"prefixes": "student", "lmbda": 1.0},
    {"prefixes": "teacher"},
    {"loss": "jsd", "beta": 0.3, "kd_ratio": 0.5, "temperature": 2.0},
    {"loss": "reverse_kl", "fused": True},
    {"kd_ratio": 0.0},
    {"hybrid": "static", "lam": 0.3, "prefixes": "student"},
    {"adapter": "lora", "rank": 2, "targets": ["q_proj", "v_proj"]},
    {"risk": 2},
]


@pytest.mark.parametrize("changes", [*_WAYS, *(pytest.param(way, marks=pytest.mark.slow) for way in _MORE_WAYS)])
def test_each_way_of_training_runs(files, tmp_path, changes):
    outcome = _distil(files, tmp_path, epochs=1.0, **changes)
    assert all(np.isfinite(value) for _, value in outcome.report.losses)
    assert (outcome.folder / outcome.saved).is_dir()


@pytest.mark.parametrize(
    ("asked", "lam"),
    [
        ({"hybrid": "static"}, 0.2),
        ({"hybrid": "static", "lam": 1.0}, 1.0),
        ({"hybrid": "confidence"}, 1.0),
        ({"hybrid": "entropy", "lam": 0.5}, 0.5),
    ],
)
def test_the_weight_of_a_hybrid_is_what_its_authors_take(files, tmp_path, monkeypatch, asked, lam):
    from equipoise.workflows.distill import distilling

    found = []

    def stop(student, teacher, texts, corpus, objective, *_):
        found.append(objective.loss.lam)
        raise InputError("far enough")

    monkeypatch.setattr(distilling, "_train", stop)
    with pytest.raises(InputError, match="far enough"):
        _distil(files, tmp_path, **asked)
    assert found == [lam]


def test_running_text_beside_a_corpus_and_sizes_of_a_student(files, tmp_path):
    outcome = _distil(
        files,
        tmp_path,
        student="layers=2,hidden=12,heads=2",
        data="text.txt",
        max_length=32,
        corpus=files / "text.txt",
        lm_coef=0.5,
    )
    config = json.loads((outcome.folder / "model" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]) == (2, 12, 24)
    assert outcome.report.measures[0].after.estimate < outcome.report.measures[0].before.estimate


@pytest.mark.slow
def test_the_cut_of_a_step_does_not_move_the_model(files, tmp_path):
    found = []
    for accumulation in (1, 4):
        changes = {"batch_size": 4 // accumulation, "accumulation": accumulation, "kd_ratio": 0.6}
        outcome = _distil(files, tmp_path, output=tmp_path / f"{accumulation}", learning_rate=0.001, **changes)
        found.append(load_file(outcome.folder / "model" / "model.safetensors"))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_done_is_said_in_a_sentence(files, tmp_path, capsys):
    other = _save(tiny_model(2), tiny_tokenizer(words=[*WORDS[::-1]]), tmp_path / "other")
    wide = _save(tiny_model(2, vocabulary=30), tiny_tokenizer(template=TEMPLATE), tmp_path / "wide")
    teacher, student, data = (str(files / name) for name in ("teacher", "student", "rows.jsonl"))
    few = _save(tiny_model(2, vocabulary=30), tiny_tokenizer(words=[*"xyzuvw", *WORDS]), tmp_path / "few")
    small = _save(tiny_model(2), tiny_tokenizer(words=[*"xyzuvw", *WORDS]), tmp_path / "small")
    capsys.readouterr()
    for given, words in [
        ([teacher, "no/such-model", data], "'no/such-model' is no folder, and no model in the cache of Hugging Face"),
        ([teacher, other, data], "the tokenizers differ: "),
        ([teacher, wide, data], "30 entries, the teacher's 23; if only padding differs, pass --allow-vocab-crop"),
        ([teacher, "layers=two", data], "holds 'layers=two'; wanted whole numbers of layers, hidden"),
        ([teacher, "hidden=10,heads=3", data], "hidden=10 must be a multiple of heads=3"),
        ([teacher, student, str(files / "none.jsonl")], "none.jsonl"),
        ([teacher, student, data, "--loss", "kl"], "loss='kl' is not known"),
        ([teacher, student, data, "--loss", "tvd", "--alpha", "1"], "--alpha is of the loss ab"),
        ([teacher, student, data, "--prefixes", "student", "--top-k", "3"], "need the teacher at every step"),
        (
            [teacher, student, str(files / "text.txt"), "--prefixes", "student", "--max-length", "64"],
            "needs prompts to answer",
        ),
        ([teacher, student, data, "--kd-ratio", "2"], "kd_ratio"),
        (
            [teacher, student, str(files / "text.txt"), "--max-length", "99"],
            "tokens, the student takes 64; give a smaller",
        ),
        ([teacher, student, data, "--prefixes", "teacher"], "takes 64; give a smaller --max-length"),
        ([few, small, data, "--allow-vocab-crop"], "the student has 23 tokens, and the texts hold token 2"),
        ([teacher, student, data, "--hybrid", "some"], "hybrid='some' is not known"),
        ([teacher, student, data, "--hybrid", "static", "--temperature", "2"], "--hybrid mixes token by token"),
        ([teacher, student, data, "--lam", "0.2"], "--lam is the weight of --hybrid"),
        ([teacher, student, data, "--rank", "2"], "--rank is that of an adapter"),
        ([teacher, student, data, "--epochs", "0"], "epochs=0.0 must be greater than 0"),
        ([teacher, student, data, "--top-k", "99"], "k=99 is more than the 23 tokens"),
    ]:
        with pytest.raises(SystemExit) as left:
            main(["distill", *given, "--output", str(tmp_path / "out")])
        assert left.value.code == 2
        said = capsys.readouterr().err
        assert words in said, said
        assert said.strip().count("\n") == 0
        assert not list(tmp_path.glob("out*"))


def test_what_a_stopped_run_left_is_not_mixed_up(files, tmp_path):
    from equipoise.workflows.distill.training import claim_states, states_of

    request = DistillRequest(output=tmp_path / "out")
    claim_states(states_of(request.output), request, {"data": "x"})
    with pytest.raises(InputError, match="holds what a stopped run left; pass --resume"):
        claim_states(states_of(request.output), request, {"data": "x"})
    again = DistillRequest(output=tmp_path / "out", resume=True, overwrite=True)
    claim_states(states_of(request.output), again, {"data": "x"})
    with pytest.raises(InputError, match="another data: 'x', not 'y'"):
        claim_states(states_of(request.output), again, {"data": "y"})
    with pytest.raises(InputError, match=r"another learning_rate: None, not 0\.1"):
        claim_states(
            states_of(request.output), DistillRequest(output=tmp_path / "out", resume=True, learning_rate=0.1), {}
        )


@pytest.mark.slow
@pytest.mark.parametrize("prefixes", ["data", "adaptive"])
def test_a_killed_run_goes_on_to_the_same_model(files, tmp_path, prefixes):
    given = [str(files / "teacher"), str(files / "student"), str(files / "rows.jsonl"), "--prefixes", prefixes]
    given += [
        "--epochs",
        "6",
        "--batch-size",
        "4",
        "--save-steps",
        "4",
        "--learning-rate",
        "0.01",
        "--max-new-tokens",
        "6",
    ]
    command = [sys.executable, "-m", "equipoise.cli", "distill", *given, "--output", str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Slowed down, so that it is killed on its way.
    slow = (
        "import time, torch; step = torch.optim.AdamW.step; torch.optim.AdamW.step = lambda *a, **k: (time.sleep(0.2), "
    )
    slow += "step(*a, **k))[1]; from equipoise.cli.main import main; main()"
    run = subprocess.Popen([sys.executable, "-c", slow, "distill", *command[4:]], env=environment)
    states = tmp_path / "killed-checkpoints"
    for _ in range(1200):
        if list(states.glob("checkpoint-*/whole")):
            break
        assert run.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "killed").exists()
    assert list(states.glob("checkpoint-*/whole"))
    main(["distill", *given, "--output", str(tmp_path / "killed"), "--resume"])
    main(["distill", *given, "--output", str(tmp_path / "whole")])
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)
