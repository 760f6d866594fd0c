import copy

import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear

from equipoise.core.models.low_rank import LoRALinear
from equipoise.core.models.two_tower import encode_texts
from equipoise.data.tiny_clip import tiny_tokenizer, untrained_tiny_clip
from equipoise.generative.fairness import text_lora
from equipoise.generative.fairness.text_lora import (
    load_pairs,
    lora_pairs,
    matching_layers,
    merged,
    put_lora,
    text_layers,
)
from equipoise.integrations.clip import CLIPTower
from fair_tower import SquareTower

TEXTS = ["a red dax", "one small wug and a circle"]


def _clip():
    return CLIPTower(untrained_tiny_clip(), tiny_tokenizer()).eval().requires_grad_(False)


def _shaken(tower, layers, seed=0):
    """A change that is not zero."""
    put_lora(tower, layers, 3, 6.0, seed)
    with torch.no_grad():
        for pair in lora_pairs(tower).values():
            pair.b.normal_(generator=torch.Generator().manual_seed(1), std=0.3)
    return tower


def _layers(tower):
    return text_layers(tower, lambda: encode_texts(tower, TEXTS))


@pytest.mark.parametrize("made", [SquareTower, _clip])
def test_the_layers_are_those_that_read_token_states_of_the_text(made):
    names = _layers(made())
    assert names
    assert not [name for name in names if "vision" in name or "projection" in name or "colours" in name]
    assert {name.rpartition(".")[2] for name in names} in (
        {"linear1", "linear2"},
        {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    )


def test_where_only_the_pooled_vector_is_read_all_layers_that_ran_are_taken():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    assert text_layers(model, lambda: model(torch.ones(1, 4))) == ["0", "2"]
    with pytest.raises(ValueError, match="no linear layer ran"):
        text_layers(torch.nn.Linear(2, 2), lambda: None)


@pytest.mark.parametrize("made", [SquareTower, _clip])
def test_nothing_changes_at_first_and_all_but_the_change_is_frozen(made):
    tower, other = made(), made()
    put_lora(other, _layers(other), 4, 8.0, 0)
    torch.testing.assert_close(encode_texts(other, TEXTS), encode_texts(tower, TEXTS))
    trained = {id(p) for p in other.parameters() if p.requires_grad}
    assert trained == {id(side) for pair in lora_pairs(other).values() for side in pair}


def test_the_fused_path_of_a_transformer_sees_the_change():
    tower = SquareTower()
    changed = _shaken(copy.deepcopy(tower), _layers(tower))
    with torch.no_grad():
        fused = encode_texts(changed, TEXTS)
        changed.train()
        plain = encode_texts(changed, TEXTS)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)
    assert float((fused - encode_texts(tower, TEXTS)).abs().max()) > 0.01


def test_gradients_reach_the_change_in_evaluation_mode():
    tower = SquareTower()
    changed = _shaken(tower, _layers(tower))
    encode_texts(changed, TEXTS).sum().backward()
    assert all(
        side.grad is not None and side.grad.abs().sum() > 0 for pair in lora_pairs(changed).values() for side in pair
    )


def test_encoders_of_transformers_are_changed_by_peft_and_others_by_our_own_layer(monkeypatch):
    clip = _clip()
    names = _layers(clip)
    with_peft = _shaken(copy.deepcopy(clip), names)
    assert all(isinstance(with_peft.get_submodule(name), PeftLinear) for name in names)
    monkeypatch.setattr(text_lora.importlib.util, "find_spec", lambda name: None)
    own = copy.deepcopy(clip)
    put_lora(own, names, 3, 6.0, 5)
    assert all(isinstance(own.get_submodule(name), LoRALinear) for name in names)
    load_pairs(own, lora_pairs(with_peft))
    torch.testing.assert_close(encode_texts(own, TEXTS), encode_texts(with_peft, TEXTS))


@pytest.mark.parametrize("made", [SquareTower, _clip])
def test_merged_layers_are_plain_and_give_the_same(made):
    changed = _shaken(made(), _layers(made()))
    wanted = encode_texts(changed, TEXTS).detach()
    plain = merged(copy.deepcopy(changed))
    assert not lora_pairs(plain)
    assert [name for name, _ in plain.named_modules()] == [name for name, _ in made().named_modules()]
    torch.testing.assert_close(encode_texts(plain, TEXTS), wanted, rtol=1e-4, atol=1e-5)


def test_a_seed_gives_the_same_change_and_leaves_the_global_state():
    state = torch.random.get_rng_state()
    pairs = []
    for seed in (3, 3, 4):
        tower = _clip()
        put_lora(tower, _layers(tower), 2, 4.0, seed)
        pairs.append(next(iter(lora_pairs(tower).values())).a)
    assert pairs[0].equal(pairs[1])
    assert not pairs[0].equal(pairs[2])
    assert torch.random.get_rng_state().equal(state)


def test_layers_are_found_in_an_encoder_of_its_own():
    clip = _clip()
    names = _layers(clip)
    for alone in (clip.model, clip.model.text_model):
        found = matching_layers(alone, names)
        assert list(found) == names
        assert all(alone.get_submodule(found[name]) is clip.get_submodule(name) for name in names)
    with pytest.raises(ValueError, match="no layer here can be its"):
        matching_layers(SquareTower(), names)
    with pytest.raises(ValueError, match=r"no layer here|several layers"):
        matching_layers(torch.nn.ModuleDict({"fc1": torch.nn.Linear(2, 2)}), names)


@pytest.mark.parametrize("rank", [0, 17])
def test_a_rank_that_does_not_fit_is_refused(rank):
    tower = SquareTower()
    with pytest.raises(ValueError, match=f"rank={rank} must lie in 1..16"):
        put_lora(tower, _layers(tower), rank, 1.0, 0)
    with pytest.raises(ValueError, match="no linear layer"):
        put_lora(tower, ["words"], 2, 1.0, 0)


def test_two_layers_of_an_adapter_are_never_one_layer_of_a_model():
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleDict({"fc1": torch.nn.Linear(2, 2)})})
    assert matching_layers(model, ["text.layers.fc1"]) == {"text.layers.fc1": "layers.fc1"}
    with pytest.raises(ValueError, match="another layer"):
        matching_layers(model, ["text.layers.fc1", "vision.layers.fc1"])
