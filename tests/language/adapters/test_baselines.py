"""LoRA and AdaLoRA beside PEFT's own layers, MoE-LoRA by brute force, and adapters by name."""

import json
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from equipoise.core.models.low_rank import LoRALinear, linear_sizes
from equipoise.language import (
    ADAPTERS,
    AdaLoRALinear,
    AdaLoRASettings,
    LoRASettings,
    MoELoRALinear,
    MoELoRASettings,
    RankAllocator,
    TuckASettings,
    add_adapter,
    base_fingerprint,
    load_adapter,
    merge_adapter,
    moe_balance_loss,
    pin_route,
    save_adapter,
    take_balance_loss,
    trainable_parameters,
)

SETTINGS = {
    "lora": LoRASettings(r=2, rank_stabilised=True),
    "adalora": AdaLoRASettings(r=3),
    "moe-lora": MoELoRASettings(num_experts=3, r=2),
    "tucka": TuckASettings(r=2, k=3, alpha=9.0, init="identity"),
}


def base(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def shaken(model):
    """The model with all that is trained moved."""
    model(torch.randn(3, 6))
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.3)
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("r", [1, 4])
def test_lora_is_that_of_peft(stabilised, r):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=r, lora_alpha=6, use_rslora=stabilised, target_modules=["0"])
    theirs = peft.get_peft_model(base(), config).base_model.model[0]
    ours = LoRALinear(base()[0], r, 6.0, rank_stabilised=stabilised)
    for name, value in (("lora_A", ours.lora_a), ("lora_B", ours.lora_b)):
        nn.init.normal_(value)
        getattr(theirs, name)["default"].weight.data.copy_(value.data)
    x = torch.randn(7, 6)
    torch.testing.assert_close(ours(x), theirs(x))
    theirs.merge()
    torch.testing.assert_close(ours.merged().weight, theirs.weight)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_adalora_and_its_budget_are_those_of_peft():
    peft = pytest.importorskip("peft")
    steps, initial, final, every = 20, 3, 5, 2
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=7, target_modules=["0", "2"], total_step=steps, tinit=initial, tfinal=final,
        deltaT=every, orth_reg_weight=0.5,
    )  # fmt: skip
    theirs = peft.get_peft_model(base(), config)
    ours = base()
    add_adapter(ours, "adalora", ["0", "2"], AdaLoRASettings(r=4, scale=7.0))
    for number in (0, 2):
        for name in ("a", "b", "e"):
            getattr(ours[number], f"lora_{name}").data.copy_(
                getattr(theirs.base_model.model[number], f"lora_{name.upper()}")["default"].data
            )
    allocator = RankAllocator(ours, steps, 2, initial, final, every)
    optimizers = [torch.optim.SGD([v for v in m.parameters() if v.requires_grad], 0.5) for m in (ours, theirs)]
    budgets = []
    for step in range(steps):
        x = torch.randn(9, 6)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            penalty = allocator.penalty() if model is ours else _orthogonality(theirs)
            (model(x).square().sum() + penalty).backward()
            optimizer.step()
        budgets.append(allocator.step())
        theirs.base_model.update_and_allocate(step)
        for number in (0, 2):
            their = theirs.base_model.model[number]
            torch.testing.assert_close(ours[number].lora_e, their.lora_E["default"], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)
    assert budgets == sorted(budgets, reverse=True)
    assert (budgets[0], budgets[-1]) == (8, 4)
    assert sum(int((ours[number].lora_e != 0).sum()) for number in (0, 2)) == 4
    assert sum(int(kept.sum()) for kept in allocator.kept.values()) == 4


def _orthogonality(model):
    total = []
    for name, value in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            product = value @ value.T if "lora_A" in name else value.T @ value
            total.append(torch.norm(product - torch.eye(len(product))))
    return 0.5 * torch.stack(total).mean()


def test_what_an_allocator_cannot_do_is_said():
    model = base()
    with pytest.raises(ValueError, match="no AdaLoRALinear"):
        RankAllocator(model, 10)
    add_adapter(model, "adalora", ["0"], AdaLoRASettings(r=3))
    with pytest.raises(ValueError, match="target_r=4"):
        RankAllocator(model, 10, 4)
    with pytest.raises(ValueError, match="total_steps=10"):
        RankAllocator(model, 10, 2, 5, 5)
    with pytest.raises(RuntimeError, match="no gradient"):
        RankAllocator(model, 10, 2).step()


def test_moe_lora_is_the_sum_over_chosen_experts_of_each_token():
    layer = MoELoRALinear(nn.Linear(6, 5), MoELoRASettings(num_experts=4, r=2, scale=3.0))
    nn.init.normal_(layer.lora_b)
    x = torch.randn(2, 3, 6)
    found = layer(x)
    counts, total = torch.zeros(4), torch.zeros(4)
    for row in range(2):
        for place in range(3):
            token = x[row, place]
            probability = linear(token, layer.gate).softmax(0)
            best = probability.argsort(descending=True)[:2].tolist()
            wanted = layer.base(token)
            for expert in best:
                share = probability[expert] / sum(probability[each] for each in best)
                wanted = wanted + share * 3 / 2 * layer.lora_b[expert] @ (layer.lora_a[expert] @ token)
                counts[expert] += 1
            total += probability.detach()
            torch.testing.assert_close(found[row, place], wanted)
    loss = 0.01 * 4 * (counts / counts.sum() * total / 6).sum()
    torch.testing.assert_close(layer.take_balance_loss(), loss)
    assert float(layer.take_balance_loss().detach()) == 0
    layer.eval()
    layer(x)
    assert float(layer.take_balance_loss().detach()) == 0


def test_the_balance_loss_pushes_towards_even_loads():
    logits = torch.randn(64, 4, requires_grad=True)
    for _ in range(200):
        probability = logits.softmax(1)
        loss = moe_balance_loss(probability, probability.topk(2).indices)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits.data -= 20 * gradient
    assert float(loss.detach()) == pytest.approx(1, abs=0.02)
    one = torch.tensor([[1.0, 0], [1.0, 0]])
    assert float(moe_balance_loss(one, torch.tensor([[0], [0]]))) == 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_balance_loss_under_checkpointing(reentrant):
    model = nn.Sequential(MoELoRALinear(nn.Linear(6, 5), MoELoRASettings(r=2)))
    x = torch.randn(4, 6, requires_grad=True)
    if reentrant:
        with pytest.warns(UserWarning, match="re-entrant"):
            torch.utils.checkpoint.checkpoint(model, x, use_reentrant=True)
        return
    y = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
    loss = take_balance_loss(model)
    (y.sum() + loss).backward()
    assert model[0]._loss is None
    assert float(model[0].gate.grad.abs().max()) > 0


# --- by name


@pytest.mark.parametrize("kind", list(ADAPTERS))
def test_an_adapter_is_saved_and_loaded_by_name(kind, tmp_path):
    model = base()
    before = model(torch.ones(2, 6))
    assert add_adapter(model, kind, ["0", "2"], SETTINGS[kind], also_train=["4"]) == ["0", "2"]
    torch.testing.assert_close(model(torch.ones(2, 6)), before)
    assert all(name.startswith("4.") or "base" not in name for name in trainable_parameters(model))
    shaken(model).eval()
    x = torch.randn(5, 6)
    wanted = model(x)
    folder = save_adapter(model, tmp_path / "a" / "b")
    assert sorted(each.name for each in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]
    assert json.loads((folder / "adapter.json").read_text())["kind"] == kind
    other = base()
    assert load_adapter(other, folder) == ["0", "2"]
    torch.testing.assert_close(other.eval()(x), wanted)
    assert trainable_parameters(other) == trainable_parameters(model)
    with pytest.warns(UserWarning, match="not those"):
        load_adapter(base(seed=1), folder)


@pytest.mark.parametrize("kind", list(ADAPTERS))
def test_an_adapter_is_merged_where_that_is_possible(kind):
    model = base()
    add_adapter(model, kind, ["0", "2"], SETTINGS[kind])
    shaken(model).eval()
    x = torch.randn(5, 6)
    if kind == "moe-lora":
        with pytest.raises(TypeError, match="token"):
            merge_adapter(model)
        return
    if kind == "tucka":
        with pytest.raises(RuntimeError, match="pin_route"):
            merge_adapter(model)
        pin_route(model, 1, torch.tensor([0.4, 0.6]))
    wanted = model(x)
    merge_adapter(model)
    assert [type(part) for part in model] == [type(part) for part in base()]
    torch.testing.assert_close(model(x), wanted)
    with pytest.raises(ValueError, match="no adapter"):
        merge_adapter(model)


def test_a_folder_of_another_model_is_refused(tmp_path):
    model = base()
    add_adapter(model, "tucka", ["0", "2"], router_name="0")
    save_adapter(shaken(model), tmp_path)
    with pytest.raises(ValueError, match="no 2"):
        load_adapter(nn.Sequential(nn.Linear(6, 5)), tmp_path)
    wider = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="do not fit"):
        load_adapter(wider, tmp_path)
    written = json.loads((tmp_path / "adapter.json").read_text())
    (tmp_path / "adapter.json").write_text(json.dumps({**written, "format": 2}))
    with pytest.raises(ValueError, match="format 2"):
        load_adapter(base(), tmp_path)


@pytest.mark.usefixtures("plain_inputs")
def test_what_add_adapter_refuses():
    with pytest.raises(ValueError, match="kind='qlora'"):
        add_adapter(base(), "qlora", ["0"])
    with pytest.raises(TypeError, match="LoRASettings"):
        add_adapter(base(), "lora", ["0"], TuckASettings())
    with pytest.raises(ValueError, match="list of names"):
        add_adapter(base(), "lora", "0")
    model = base()
    with pytest.raises(ValueError, match=r"1\.\.2"):
        add_adapter(model, "lora", ["0", "4"], LoRASettings(r=3))
    assert all(value.requires_grad for value in model.parameters())
    add_adapter(model, "lora", ["0"], LoRASettings(r=1))
    with pytest.raises(ValueError, match="already"):
        add_adapter(model, "lora", ["2"], LoRASettings(r=1))
    with pytest.raises(ValueError, match="no adapter"):
        save_adapter(base(), "nowhere")
    with pytest.raises(TypeError, match="Tanh"):
        AdaLoRALinear(nn.Tanh(), AdaLoRASettings())
    with pytest.raises(TypeError, match="Tanh"):
        MoELoRALinear(nn.Tanh(), MoELoRASettings())
    with pytest.raises(ValueError, match="top_k=3"):
        MoELoRASettings(num_experts=2, top_k=3)


def test_the_fingerprint_is_of_the_frozen_weights_only():
    model = base()
    before = base_fingerprint(model)
    add_adapter(model, "lora", ["0"], LoRASettings(r=1))
    assert base_fingerprint(shaken(model)) == before
    with torch.no_grad():
        model[0].base.weight[0, 0] += 1
    assert base_fingerprint(model) != before
    assert base_fingerprint(base().double()) == before
    assert not math.isnan(int(before, 16))


def test_conv1d_of_transformers_is_a_linear_layer():
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    layer = pytorch_utils.Conv1D(3, 5)
    assert linear_sizes(layer) == (5, 3)
    for kind, settings in SETTINGS.items():
        model = nn.Sequential(pytorch_utils.Conv1D(3, 6))
        add_adapter(model, kind, ["0"], settings)
        shaken(model).eval()
        if kind == "moe-lora":
            continue
        if kind == "tucka":
            pin_route(model, 0, torch.tensor([0.4, 0.6]))
        x = torch.randn(4, 6)
        wanted = model(x)
        merge_adapter(model)
        assert type(model[0]) is pytorch_utils.Conv1D
        torch.testing.assert_close(model(x), wanted)


def test_loading_the_same_weights_is_silent(tmp_path):
    model = base()
    add_adapter(model, "lora", ["0"], LoRASettings(r=1))
    save_adapter(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_adapter(base(), tmp_path)
