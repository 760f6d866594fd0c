import copy
import json
import warnings

import pytest
import safetensors.torch
import torch

from equipoise.core.models.two_tower import encode_texts
from equipoise.data.tiny_clip import tiny_tokenizer, untrained_tiny_clip
from equipoise.generative import (
    FairPrompts,
    LightFairDebiaser,
    References,
    attribute_centers,
    draw_references,
    embed_pictures,
    equalized_odds_loss,
    equalized_quality_loss,
    load_fair_adapter,
    weigh_foreground,
)
from equipoise.integrations.clip import CLIPTower
from fair_tower import SquareTower, draw_squares

COURSE = {"templates": ("{}", "a photo of a {}"), "keep_texts": ("one chair", "two lamps", "three cups"), "steps": 60}


def _debiaser(tower=None, concepts=("dax", "wug"), values=("red", "blue"), **changes):
    return LightFairDebiaser(tower or SquareTower(), draw_squares, concepts, values, **{**COURSE, **changes})


@pytest.fixture
def _quietly():
    """An untrained tower may lose what it never knew."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="prompts that name a value")
        yield


def _fitted(**changes):
    debiaser = _debiaser(**changes)
    debiaser.collect_references(6)
    return debiaser, debiaser.fit()


@pytest.mark.usefixtures("_quietly")
def test_training_balances_the_neutral_prompts_and_keeps_unrelated_texts():
    debiaser, history = _fitted(steps=150)
    assert len(history) == 150
    assert history[-1].odds < 0.2 * history[0].odds
    assert history[-1].loss < history[0].loss
    before, after = (encode_texts(t, COURSE["keep_texts"]) for t in (debiaser.tower, debiaser.debiased_encoder))
    assert float((before * after).sum(1).min().detach()) > 0.95
    for report in debiaser.report():
        assert report.trained
        assert report.odds[1] < 0.3 * report.odds[0]
        assert abs(report.skew[1][0] - 0.5) < abs(report.skew[0][0] - 0.5)


@pytest.mark.usefixtures("_quietly")
def test_the_first_step_is_the_formula():
    debiaser, history = _fitted(steps=1, lambda_q=0.7, keep=2.0, pull=0.3)
    held, odds, quality = debiaser.references, [], []
    for c, concept in enumerate(("dax", "wug")):
        for form in COURSE["templates"]:
            text = encode_texts(debiaser.tower, [form.format(concept)])
            odds.append(equalized_odds_loss(text, held.centers[c : c + 1]))
            named = encode_texts(debiaser.tower, [form.format(f"{k} {concept}") for k in ("red", "blue")])
            quality.append(equalized_quality_loss(named, list(held.embeddings[c]), 0.3))
    torch.testing.assert_close(history[0].odds, float(torch.stack(odds).mean()), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(history[0].quality, float(torch.stack(quality).mean()), rtol=1e-4, atol=1e-6)
    assert history[0].keep == pytest.approx(0, abs=1e-6)
    assert history[0].loss == pytest.approx(history[0].odds + 0.7 * history[0].quality + 2 * history[0].keep, rel=1e-5)


@pytest.mark.usefixtures("_quietly")
def test_without_the_keep_term_unrelated_texts_move_further():
    strays = []
    for keep in (0.0, 5.0):
        debiaser, _ = _fitted(keep=keep)
        before, after = (encode_texts(t, COURSE["keep_texts"]) for t in (debiaser.tower, debiaser.debiased_encoder))
        strays.append(float(1 - (before * after).sum(1).mean().detach()))
    assert strays[1] < 0.5 * strays[0]


@pytest.mark.usefixtures("_quietly")
def test_a_target_gives_the_text_side_these_shares():
    debiaser, _ = _fitted(target=(0.75, 0.25), steps=200, concepts=("dax",))
    assert debiaser.report()[0].skew[1][0] == pytest.approx(0.75, abs=0.05)


@pytest.mark.usefixtures("_quietly")
def test_combinations_of_attributes_are_balanced_together():
    values = {"colour": ("red", "blue"), "size": ("small", "large")}
    debiaser, history = _fitted(values=values, concepts=("dax",))
    assert debiaser.references.values == ("red small", "red large", "blue small", "blue large")
    assert history[-1].odds < history[0].odds


@pytest.mark.usefixtures("_quietly")
def test_the_original_is_left_alone_and_a_seed_gives_the_same_run():
    tower = SquareTower()
    kept = {name: value.clone() for name, value in tower.state_dict().items()}
    state = torch.random.get_rng_state()
    first = _fitted(tower=tower, steps=5)[1]
    assert all(tower.state_dict()[name].equal(value) for name, value in kept.items())
    assert _fitted(tower=tower, steps=5)[1] == first
    assert _fitted(tower=tower, steps=5, seed=1)[1] != first
    assert torch.random.get_rng_state().equal(state)


@pytest.mark.usefixtures("_quietly")
def test_dropout_stays_off_while_training():
    assert _fitted(tower=SquareTower(dropout=0.5), steps=3)[1] == _fitted(steps=3)[1]


@pytest.mark.usefixtures("_quietly")
def test_a_step_takes_some_of_many_concepts():
    debiaser = _debiaser(concepts=tuple(f"thing{k}" for k in range(6)), concepts_per_step=2, steps=30)
    debiaser.collect_references(2)
    history = debiaser.fit()
    assert len({round(step.odds, 9) for step in history[:5]}) > 1
    before = sum(report.odds[0] for report in debiaser.report())
    assert sum(report.odds[1] for report in debiaser.report()) < before


@pytest.mark.usefixtures("_quietly")
def test_the_report_has_concepts_that_were_not_trained():
    debiaser, _ = _fitted(steps=10)
    found = debiaser.report(["zup"], n=3)
    assert [(report.concept, report.trained) for report in found] == [("dax", True), ("wug", True), ("zup", False)]
    for report in found:
        assert sum(report.skew[1]) == pytest.approx(1, abs=1e-5)
        assert report.moved >= -1e-6
    with pytest.raises(ValueError, match="names the attribute value 'red'"):
        debiaser.report(["red zup"])


def test_prompts_that_name_a_value_are_guarded():
    debiaser = _debiaser(concepts=("dax",), lambda_q=0.0, keep=0.0, steps=1)
    named = [encode_texts(debiaser.tower, debiaser.prompts.naming("dax", value)) for value in ("red", "blue")]
    # Pictures on the side of their prompts, so that the original is faithful.
    debiaser.references = References.of(("dax",), ("red", "blue"), [[rows.repeat(3, 1) for rows in named]])
    assert debiaser.report()[0].faithful == (1.0, 1.0)
    with torch.no_grad():
        for part in debiaser._changed.modules():
            if hasattr(part, "lora_b"):
                part.lora_b.normal_(generator=torch.Generator().manual_seed(0), std=3.0)
    with pytest.warns(UserWarning, match="prompts that name a value are no longer nearest to its pictures: .* dax"):
        debiaser.fit()
    assert debiaser.report()[0].faithful[1] < 1


@pytest.mark.usefixtures("_quietly")
def test_an_adapter_is_saved_and_read_back(tmp_path):
    debiaser, _ = _fitted(steps=5, target=(0.6, 0.4))
    folder = debiaser.save_adapter(tmp_path / "fair")
    assert sorted(file.name for file in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]
    texts = debiaser.prompts.neutral("dax")
    wanted = encode_texts(debiaser.debiased_encoder, texts).detach()
    other = _debiaser(rank=2)
    adapter = other.load_adapter(folder)
    assert (adapter.rank, adapter.concepts, adapter.target) == (4, ("dax", "wug"), (0.6, 0.4))
    torch.testing.assert_close(encode_texts(other.debiased_encoder, texts), wanted)
    tower = SquareTower()
    load_fair_adapter(tower, folder)
    torch.testing.assert_close(encode_texts(tower, texts), wanted)
    torch.testing.assert_close(encode_texts(debiaser.merged_encoder(), texts), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="has an adapter already"):
        load_fair_adapter(tower, folder)


@pytest.mark.usefixtures("_quietly")
def test_an_adapter_that_does_not_fit_is_noticed(tmp_path):
    debiaser, _ = _fitted(steps=1)
    folder = debiaser.save_adapter(tmp_path)
    other = SquareTower()
    with torch.no_grad():
        other.text.layers[0].linear1.weight.mul_(1.5)
    with pytest.warns(UserWarning, match="not those that the adapter .* was trained beside"):
        load_fair_adapter(other, folder)
    load_fair_adapter(SquareTower().half(), folder)
    wide = SquareTower()
    wide.text.layers[0].linear1 = torch.nn.Linear(16, 40)
    with pytest.raises(ValueError, match="of another size"):
        load_fair_adapter(wide, folder)
    written = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps({**written, "format": 9}))
    with pytest.raises(ValueError, match="another version"):
        load_fair_adapter(SquareTower(), folder)
    layers = dict(list(written["layers"].items())[1:])
    (folder / "adapter.json").write_text(json.dumps({**written, "layers": layers}))
    with pytest.raises(ValueError, match="does not hold the layers"):
        load_fair_adapter(SquareTower(), folder)


@pytest.mark.usefixtures("_quietly")
def test_a_clip_of_transformers_is_trained_saved_and_read_into_its_text_encoder(tmp_path):
    tower = CLIPTower(untrained_tiny_clip(), tiny_tokenizer()).eval().requires_grad_(False)

    def draw(prompts, seeds):
        return torch.nn.functional.interpolate(draw_squares(prompts, seeds), 16)

    debiaser = LightFairDebiaser(tower, draw, ["dax"], ["red", "blue"], pixels=lambda x: 2 * x - 1, steps=20)
    debiaser.collect_references(4)
    history = debiaser.fit()
    assert history[-1].odds < history[0].odds
    folder = debiaser.save_adapter(tmp_path)
    alone = copy.deepcopy(tower.model.text_model)
    load_fair_adapter(alone, folder)
    ids = torch.tensor([[1, *tower.word_ids("a dax"), 3]])
    wanted = debiaser.debiased_encoder.model.text_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(alone(input_ids=ids).last_hidden_state, wanted)
    # The token states have moved, not the pooled vector alone.
    moved = wanted - tower.model.text_model(input_ids=ids).last_hidden_state
    assert float(moved.detach().abs().max()) > 1e-3


def test_references_are_those_of_the_drawn_pictures():
    tower, prompts = SquareTower(), FairPrompts(("dax", "wug"), ("red", "blue"), COURSE["templates"])
    found = draw_references(tower, draw_squares, prompts, 5, seed=2, batch_size=2)
    for c, concept in enumerate(prompts.concepts):
        rows = {}
        for k, value in enumerate(prompts.values):
            asked = [prompts.naming(concept, value)[j % 2] for j in range(5)]
            pictures = draw_squares(asked, [2_000_006 + j for j in range(5)])
            rows[value] = embed_pictures(tower, pictures, asked)
            torch.testing.assert_close(found.embeddings[c][k], rows[value])
            torch.testing.assert_close(found.means[c, k], rows[value].mean(0))
        torch.testing.assert_close(found.centers[c], attribute_centers(rows))


def test_a_foreground_is_weighted_before_the_pictures_are_embedded():
    tower = SquareTower()
    pictures = draw_squares(["a red dax"], [0])
    mask = torch.zeros(1, 4, 4)
    mask[:, 1:3, 1:3] = 1
    found = embed_pictures(tower, pictures, ["a red dax"], foreground=lambda images, prompts: mask)
    torch.testing.assert_close(found, embed_pictures(tower, weigh_foreground(pictures, mask), [""]))


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"values": ("red",)}, "at least 2"),
        ({"concepts": ("red dax",)}, "names the attribute value 'red'"),
        ({"target": (0.5, 0.6)}, "must sum to 1"),
        ({"target": (1.0, 0.0)}, "greater than 0"),
        ({"target": (0.2, 0.3, 0.5)}, "3 shares for 2"),
        ({"rank": 0}, "rank=0"),
        ({"rank": 50}, "rank=50 must lie in"),
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"lambda_q": -1.0}, "lambda_q=-1.0"),
        ({"pull": -1.0}, "pull=-1.0"),
        ({"keep": float("nan")}, "keep=nan"),
        ({"keep_texts": ()}, "keep_texts is empty"),
        ({"tower": "clip"}, "tower must be a Module"),
        ({"templates": ("photo",)}, "must have one {}"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        _debiaser(**changes)


@pytest.mark.usefixtures("plain_inputs")
def test_what_comes_too_early_or_does_not_fit_is_refused():
    debiaser = _debiaser()
    with pytest.raises(RuntimeError, match="no references yet"):
        debiaser.fit()
    with pytest.raises(ValueError, match="n=0 must be"):
        debiaser.collect_references(0)
    rows = torch.randn(2, 8)
    with pytest.raises(ValueError, match="other concepts or values"):
        debiaser.references = References.of(("dax",), ("red", "blue"), [[rows, rows]])
    with pytest.raises(ValueError, match="no picture of 'blue'"):
        References.of(("dax",), ("red", "blue"), [[rows, rows[:0]]])
    with pytest.raises(ValueError, match="must be of 1 concepts, 2 values"):
        References.of(("dax",), ("red", "blue"), [[rows]])
    narrow = torch.randn(2, 5)
    with pytest.raises(ValueError, match="of width 5, texts of 8"):
        debiaser.references = References.of(("dax", "wug"), ("red", "blue"), [[narrow, narrow]] * 2)
    with pytest.raises(ValueError, match="no references for 'zup'"):
        References.of(("dax",), ("red", "blue"), [[rows, rows]]).at("zup")


@pytest.mark.usefixtures("_quietly")
def test_what_is_no_adapter_leaves_the_model_as_it_was(tmp_path):
    debiaser, _ = _fitted(steps=1)
    folder = debiaser.save_adapter(tmp_path)
    written, tensors = (folder / "adapter.json").read_text(), (folder / "adapter.safetensors").read_bytes()
    held = json.loads(written)
    lacking = [{key: value for key, value in held.items() if key != gone} for gone in ("rank", "concepts", "layers")]
    odd = [
        {**held, "more": 1},
        {**held, "rank": "4"},
        {**held, "rank": True},
        {**held, "scale": None},
        {**held, "scale": -1.0},
        {**held, "layers": ["a"]},
        {**held, "layers": {name: [None] for name in held["layers"]}},
    ]
    tower = SquareTower()
    before = [(name, weight.requires_grad) for name, weight in tower.named_parameters()]

    def refused(words):
        with pytest.raises(ValueError, match=words):
            load_fair_adapter(tower, folder)
        assert [(name, weight.requires_grad) for name, weight in tower.named_parameters()] == before

    for text in (*map(json.dumps, lacking + odd), "{"):
        (folder / "adapter.json").write_text(text)
        refused("holds no adapter|cannot be read")
    (folder / "adapter.json").write_text(written)
    (folder / "adapter.safetensors").write_bytes(tensors[:-9])
    refused("cannot be read")
    values = safetensors.torch.load(tensors)
    name = next(iter(held["layers"]))
    values[f"{name}.b"] = values[f"{name}.b"][:, :-1].contiguous()
    safetensors.torch.save_file(values, folder / "adapter.safetensors")
    refused("of another size")
