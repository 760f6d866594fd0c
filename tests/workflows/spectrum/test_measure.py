"""From a model and inputs to the folder of `equipoise spectrum`."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch

from equipoise.cli.main import main
from equipoise.language import GLUBlock, empirical_ntk, ntk_spectrum, two_layer_ntk
from equipoise.workflows import InputError, SpectrumRequest, measure_spectrum

# Layers of transformers are tied or frozen in ways that PyTorch warns of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def _table(folder, rows=40, columns=6):
    x = np.random.default_rng(0).normal(size=(rows, columns))
    frame = pd.DataFrame(x, columns=[f"f{k}" for k in range(columns)])
    frame["y"], frame["name"] = np.maximum(x[:, 0], 0), "a"
    frame.to_csv(folder / "table.csv", index=False)
    np.save(folder / "x.npy", x)
    np.savez(folder / "xy.npz", x=x, y=x[:, 0])
    return x


def _rows(path):
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_numbers_of_a_net_are_those_of_the_library(tmp_path):
    x = _table(tmp_path)
    request = SpectrumRequest(output=tmp_path / "out", activation="gelu", target="y")
    found = measure_spectrum("6-24-2", tmp_path / "table.csv", request)
    scaled = torch.from_numpy((x - x.mean(0)) / x.std(0, ddof=1))
    net = GLUBlock(6, 24, 2, "gelu", False, generator=torch.Generator().manual_seed(0)).double()
    wanted = ntk_spectrum(empirical_ntk(net, scaled))
    assert found.spectra["plain net"].condition_number == pytest.approx(wanted.condition_number)
    width = 24 * 8 // 14
    gated = ntk_spectrum(two_layer_ntk(scaled, width, "gelu", True).ntk)
    assert found.spectra["gated, expected"].condition_number == pytest.approx(gated.condition_number)
    lines = _rows(tmp_path / "out" / "spectrum.csv")
    assert len(lines) == 4 * 40
    assert float(lines[0]["eigenvalue"]) == pytest.approx(wanted.lambda_max)
    layers = _rows(tmp_path / "out" / "layers.csv")
    assert [line["layer"] for line in layers] == ["gate", "down", "gate", "up", "down"]
    for net_name in ("plain net", "gated net"):
        shares = [float(line["share_of_trace"]) for line in layers if line["net"] == net_name]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    counts = [
        sum(int(line["parameters"]) for line in layers if line["net"] == name) for name in ("plain net", "gated net")
    ]
    assert counts[0] - (2 * 6 + 2) < counts[1] <= counts[0]
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert summary["crossing_step"] == found.crossing
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "one step size for both blocks" in page.replace("\n", " ")
    assert "random target" not in page


@pytest.mark.parametrize("name", ["x.npy", "xy.npz"])
def test_arrays_are_read_and_the_command_prints_where_things_are(name, tmp_path, capsys):
    _table(tmp_path)
    target = ["--target", "y"] if name == "xy.npz" else []
    main(["spectrum", "6-12-1", str(tmp_path / name), *target, "--rows", "20", "--output", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert "report.html" in printed.out.replace("\n", "")
    assert "20 of 40 samples" in printed.err
    assert ("random target" in printed.err) is (name == "x.npy")


def test_fewer_samples_than_inputs_and_repeated_ones_are_told(tmp_path):
    x = _table(tmp_path, rows=7)
    np.save(tmp_path / "twice.npy", np.concatenate([x, x]))
    told = []
    request = SpectrumRequest(output=tmp_path / "out")
    measure_spectrum("6-12-1", tmp_path / "x.npy", request, notice=told.append)
    assert any("not more than the 6 inputs" in words for words in told)
    told.clear()
    again = SpectrumRequest(output=tmp_path / "out", overwrite=True)
    with pytest.warns(UserWarning, match="is rounding"):
        found = measure_spectrum("6-12-1", tmp_path / "twice.npy", again, notice=told.append)
    assert any("unbounded" in words for words in told)
    assert found.spectra["plain, expected"].condition_number == float("inf")
    assert "∞" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tiny_gpt2(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("gpt2")
    words = ["[PAD]", "[UNK]", *["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "far", "away", "and", "then"]]
    core = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", eos_token="[PAD]"
    ).save_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    transformers.GPT2Model(config).save_pretrained(folder)
    return folder


def _texts(folder):
    lines = ["the cat sat", "a dog ran far away", "the dog sat on a mat", "then the cat ran", "a mat", "and then far"]
    (folder / "lines.txt").write_text("\n".join([*lines, "", "the mat and the cat"]), encoding="utf-8")
    return folder / "lines.txt"


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_a_language_model_has_the_kernel_of_its_gradients(tiny_gpt2, tmp_path, pool):
    import transformers

    request = SpectrumRequest(output=tmp_path / "out", pool=pool, outputs=2, params=("*h.*", "*ln_f*"))
    found = measure_spectrum(str(tiny_gpt2), _texts(tmp_path), request)
    net = transformers.AutoModel.from_pretrained(tiny_gpt2).eval().double()
    tokens = transformers.AutoTokenizer.from_pretrained(tiny_gpt2)
    draws = torch.Generator().manual_seed(0)
    directions = torch.randn(8, 2, generator=draws, dtype=torch.float64).float().double() / 8**0.5
    chosen = [weight for name, weight in net.named_parameters() if "h." in name or "ln_f" in name]
    rows = []
    for line in filter(None, (tmp_path / "lines.txt").read_text(encoding="utf-8").splitlines()):
        hidden = net(**tokens(line, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0]
        out = (hidden.mean(0) if pool == "mean" else hidden[-1]) @ directions
        parts = [torch.autograd.grad(one, chosen, retain_graph=True) for one in out]
        rows.append(torch.cat([each.flatten() for part in parts for each in part]))
    jacobian = torch.stack(rows)
    wanted = torch.linalg.eigvalsh(jacobian @ jacobian.T).flip(0)
    torch.testing.assert_close(found.spectra["model"].eigenvalues, wanted, rtol=1e-5, atol=1e-7 * float(wanted[0]))
    layers = _rows(tmp_path / "out" / "layers.csv")
    assert {line["layer"] for line in layers} >= {"net.h.0.attn.c_attn", "net.h.1.mlp.c_proj", "net.ln_f"}


@pytest.mark.parametrize(
    ("model", "data", "changes", "words"),
    [
        ("6-12", "table.csv", {}, "three widths"),
        ("6-0-1", "table.csv", {}, "at least 1"),
        ("5-12-1", "table.csv", {}, "7 columns of numbers, and the model takes 5"),
        ("7-12-1", "missing.csv", {}, "missing.csv"),
        ("6-12-1", "x.npy", {"target": "y"}, "without name"),
        ("6-12-1", "xy.npz", {"target": "z"}, "has no array 'z'"),
        ("6-12-1", "table.csv", {"target": "z"}, "has no column 'z'"),
        ("6-12-1", "table.csv", {"target": "name"}, "name of .* finite number"),
        ("6-12-1", "x.npy", {"activation": "swish"}, "'relu', 'leaky_relu'"),
        ("6-12-1", "x.npy", {"rows": 1}, "rows=1"),
        ("6-12-1", "x.npy", {"step": 1.0}, "step=1.0"),
        ("6-12-1", "x.npy", {"params": ("nothing",)}, "'nothing'"),
        ("6-1-1", "x.npy", {}, "too narrow"),
        ("6-12-1", "bad.npy", {}, "NaN or infinite"),
        ("6-12-1", "objects.npy", {}, "objects.npy|pickle"),
        ("no-such-model", "x.npy", {}, "no text in UTF-8"),
        ("no-such-model", "table.csv", {}, "nothing is downloaded"),
        ("no-such-model", "table.csv", {"target": "y"}, "--target is a column"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(model, data, changes, words, tmp_path):
    x = _table(tmp_path)
    np.save(tmp_path / "bad.npy", np.where(x > 2, np.nan, x))
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=words):
        measure_spectrum(model, tmp_path / data, SpectrumRequest(output=tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
