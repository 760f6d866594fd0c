"""TuckA as a method of PEFT: what PEFT's own methods are held to, on a tiny random Llama."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("peft")
pytest.importorskip("transformers")

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict

from equipoise.integrations.peft import TuckAConfig, TuckAModel
from equipoise.language import expert_load, pin_route, routes_of, tucka_parameter_groups
from language.adapters.tiny_models import gradients, llama, words

# PEFT asks transformers for what transformers calls otherwise by now.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SIZES = {"r": 3, "k": 3, "t": 2, "p": 2, "alpha": 16.0}


def config(**changes):
    return TuckAConfig(**{"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **SIZES, **changes})


def adapted(**changes):
    model = get_peft_model(llama(), config(**changes))
    model(words())
    return model.eval()


def logits(model, ids=None):
    with torch.no_grad():
        return model(words() if ids is None else ids).logits


def steps(model, count=12, lr=2e-2):
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = model(words(4), labels=words(4)).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_only_the_adapter_is_trained_and_training_lowers_the_loss():
    model = adapted()
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "tucka_" in name}
    assert sum("tucka_router" in name for name in trained) == 1
    frozen = {name: value.clone() for name, value in model.named_parameters() if name not in trained}
    losses = steps(model.train(), 30)
    assert losses[-1] < losses[0] - 0.05
    for name, value in model.named_parameters():
        if name in frozen:
            assert torch.equal(value, frozen[name])
    assert set(gradients(model)) == trained


def test_the_state_dict_holds_the_adapter_and_its_flag_without_its_name():
    names = set(get_peft_model_state_dict(adapted()))
    layer = "base_model.model.model.layers.0.self_attn.q_proj."
    assert {
        layer + part for part in ("tucka_experts.core", "tucka_router.centroids", "tucka_router.initialised")
    } <= names
    assert not any("base_layer" in name for name in names)


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("low_memory", [False, True])
def test_a_saved_adapter_gives_the_same_logits(tmp_path, init, low_memory):
    model = adapted(init=init)
    steps(model.train(), 3)
    wanted = logits(model.eval())
    model.save_pretrained(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir() if each.suffix != ".md") == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert isinstance(PeftConfig.from_pretrained(tmp_path), TuckAConfig)
    loaded = PeftModel.from_pretrained(llama(), tmp_path, low_cpu_mem_usage=low_memory)
    torch.testing.assert_close(logits(loaded), wanted)
    torch.testing.assert_close(logits(loaded), wanted)
    assert not any(value.requires_grad for value in loaded.parameters())
    trainable = PeftModel.from_pretrained(llama(), tmp_path, is_trainable=True, adapter_name="other")
    torch.testing.assert_close(logits(trainable), wanted)
    assert any(value.requires_grad for value in trainable.parameters())


def test_a_checkpoint_of_other_sizes_is_refused(tmp_path):
    adapted().save_pretrained(tmp_path)
    text = (tmp_path / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(text.replace('"r": 3', '"r": 2'))
    with pytest.raises(ValueError, match="k, t, p and r"):
        PeftModel.from_pretrained(llama(), tmp_path)


def test_a_disabled_adapter_is_the_base_model_bit_by_bit():
    base, model = llama().eval(), adapted()
    assert not torch.equal(logits(model), logits(base))
    before = int(expert_load(model).counts.sum())
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base))
    assert int(expert_load(model).counts.sum()) == before
    assert torch.equal(logits(adapted(init="identity")), logits(base))


def test_merging_needs_a_pinned_route_and_is_exact():
    model = adapted()
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(RuntimeError, match="pin_route"):
            merge()
    group, found = next(iter(routes_of(model, [words()]).items()))
    pin_route(model, group, found.weights)
    wanted = logits(model)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(logits(model), wanted, atol=2e-5, rtol=1e-4)
    model.unmerge_adapter()
    assert torch.equal(logits(model), wanted)
    with pytest.warns(UserWarning, match="unmerged"):
        model.unmerge_adapter()
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), wanted, atol=2e-5, rtol=1e-4)
    assert not any("tucka" in name for name, _ in merged.named_modules())
    assert not any(part._forward_pre_hooks for part in merged.modules())


def test_unloading_gives_the_base_back():
    model = adapted().unload()
    assert torch.equal(logits(model), logits(llama()))
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())


def test_a_layer_of_conv1d_is_adapted_and_merged():
    import transformers

    base = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=19, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2
        )
    ).eval()
    model = get_peft_model(base, config(target_modules=["c_attn", "c_fc"])).eval()
    before = logits(model)
    group, found = next(iter(routes_of(model, [words()]).items()))
    pin_route(model, group, found.weights)
    torch.testing.assert_close(logits(model), before)
    torch.testing.assert_close(logits(model.merge_and_unload()), before, atol=2e-5, rtol=1e-4)


def test_adapters_by_name_are_switched_saved_and_deleted(tmp_path):
    model = adapted()
    model.add_adapter("second", config(r=2, k=2, seed=5, target_modules=["v_proj", "down_proj"]))
    first = logits(model)
    model.set_adapter("second")
    logits(model)
    second = logits(model)
    assert not torch.equal(first, second)
    assert all("second" in name for name, value in model.named_parameters() if value.requires_grad)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    with pytest.raises(ValueError, match="already"):
        model.base_model.inject_adapter(model.base_model.model, "second")
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), tmp_path / "second")), second)
    model.delete_adapter("second")
    assert torch.equal(logits(model), first)


def test_two_active_adapters_are_applied_one_after_the_other_and_merge_so():
    model = adapted()
    model.add_adapter("second", config(r=2, k=2, seed=5))
    model.base_model.set_adapter(["default", "second"])
    logits(model)
    for adapter in ("default", "second"):
        group, found = next(iter(routes_of(model, [words()], adapter=adapter).items()))
        pin_route(model, group, found.weights, adapter=adapter)
    both = logits(model)
    model.base_model.set_adapter(["second", "default"])
    assert not torch.allclose(logits(model), both, atol=1e-6)
    model.base_model.set_adapter(["default", "second"])
    torch.testing.assert_close(logits(model.merge_and_unload()), both, atol=2e-5, rtol=1e-4)


def test_layers_and_heads_are_chosen_by_number_and_name():
    model = adapted(layers_to_transform=[1], layers_pattern="layers", modules_to_save=["lm_head"])
    assert model.base_model.targeted_module_names == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]
    assert any("lm_head" in name for name, value in model.named_parameters() if value.requires_grad)
    steps(model.train(), 2)


def test_the_router_can_be_named_and_must_be_adapted():
    model = adapted(router_name="layers.0.self_attn.v_proj", target_modules=["v_proj", "down_proj"])
    assert [name for name, _ in model.named_parameters() if "centroids" in name] == [
        "base_model.model.model.layers.0.self_attn.v_proj.tucka_router.default.centroids"
    ]
    with pytest.raises(ValueError, match="router_name='k_proj'"):
        get_peft_model(llama(), config(router_name="k_proj"))
    late = get_peft_model(llama(), config(router_name="layers.1.self_attn.v_proj"))
    with pytest.raises(RuntimeError, match="has not run"):
        late(words())


@pytest.mark.parametrize("changes", [{"t": 1}, {"k": 0}, {"bias": "some"}, {"alpha": float("nan")}])
def test_bad_settings_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        config(**changes)


def test_a_target_that_is_not_linear_is_refused():
    with pytest.raises(TypeError, match="embed_tokens"):
        get_peft_model(llama(), config(target_modules=["embed_tokens"]))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(reentrant):
    model = adapted().train()
    model.enable_input_require_grads()
    model(words(), labels=words(), use_cache=False).loss.backward()
    wanted = gradients(model)
    model.zero_grad()
    model.base_model.model._set_gradient_checkpointing(
        True, lambda *args, **kwargs: torch.utils.checkpoint.checkpoint(*args, use_reentrant=reentrant, **kwargs)
    )
    model(words(), labels=words(), use_cache=False).loss.backward()
    found = gradients(model)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_bfloat16_trains_and_keeps_its_dtype():
    model = get_peft_model(llama().to(torch.bfloat16), config())
    assert logits(model).dtype is torch.bfloat16
    assert next(v for n, v in model.named_parameters() if "core" in n).dtype is torch.float32
    losses = steps(model, 20)
    assert losses[-1] < losses[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert adapted()(words()).logits.isfinite().all()


def test_generation_with_a_cache_keeps_the_route_of_the_prompt():
    model = adapted()
    prompt = words()
    expert_load(model, reset=True)
    found = model.generate(input_ids=prompt, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert int(expert_load(model).counts.sum()) == 1
    assert found.shape == (2, 11)


def test_a_copy_and_weight_decay():
    model = adapted()
    other = copy.deepcopy(model)
    assert torch.equal(logits(other), logits(model))
    decayed, free = tucka_parameter_groups(model, 0.1)
    assert len(decayed["params"]) == 1
    assert len(free["params"]) == 12
    assert isinstance(model.base_model, TuckAModel)
    assert isinstance(next(iter(model.base_model.model.children())), nn.Module)
