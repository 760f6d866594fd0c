"""One route per forward pass: also under gradient checkpointing, with several passes waiting, and in generation."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from equipoise.language import TuckASettings, apply_tucka, pin_route, routing_mask
from language.adapters.tiny_models import SETTINGS, Stack, blocks, gradients, llama, words


def _inputs():
    generator = torch.Generator().manual_seed(1)
    shifts = torch.tensor([[3.0, 0, 0, 0, 0], [0, -3.0, 0, 3.0, 0]], dtype=torch.float64)
    return [torch.randn(4, 5, generator=generator, dtype=torch.float64) + shift for shift in shifts]


def _placed(settings=SETTINGS):
    """A model whose centroids are placed, and which routes the two inputs to different groups."""
    model = blocks(settings)
    for seed in range(20):
        model.parts[0][0].router.seed = seed
        model.parts[0][0].router.initialised.fill_(False)
        groups = []
        for x in _inputs():
            model(x)
            groups.append(int(model.parts[0][0].route.last.group))
        if groups[0] != groups[1]:
            return model
    raise AssertionError("no seed tells the inputs apart")


def _trained(model, order, *, reentrant, first_plain=False):
    """Two forward passes wait at the same time; gradients after the backward passes in this order."""
    model = copy.deepcopy(model)
    model.reentrant, model.first_plain = reentrant, first_plain
    inputs = [x.clone().requires_grad_() for x in _inputs()]
    losses = [model(x).square().sum() * (1 + number) for number, x in enumerate(inputs)]
    if order is None:
        sum(losses).backward()
    else:
        for number in order:
            losses[number].backward()
    return {**gradients(model), "x0": inputs[0].grad, "x1": inputs[1].grad}


@pytest.mark.parametrize("first_plain", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("order", [None, (0, 1), (1, 0)])
def test_checkpointing_changes_no_gradient_whichever_pass_is_recomputed_first(order, reentrant, first_plain):
    model = _placed()
    wanted = _trained(model, order, reentrant=None)
    found = _trained(model, order, reentrant=reentrant, first_plain=first_plain)
    assert set(found) == set(wanted)
    assert float(wanted["parts.0.0.router.centroids"].abs().max()) > 0
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_the_gradient_of_centroids_is_that_of_finite_differences():
    model, x = _placed(), _inputs()[0]
    model(x).square().sum().backward()
    centroids = model.parts[0][0].router.centroids
    for place in ((0, 0), (3, 2), (5, 4)):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                centroids[place] += step
                values.append(float(model(x).square().sum()))
                centroids[place] -= step
        assert float(centroids.grad[place]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_nothing_holds_the_graph_after_the_backward_pass(reentrant):
    model = _placed()
    model.reentrant = reentrant
    x = _inputs()[0].requires_grad_()
    y = model(x)
    state = model.parts[0][0].route
    waiting = [ref for ref in state._live if ref() is not None]
    assert len(waiting) == 1
    node = weakref.ref(y)
    y.sum().backward()
    assert not state._local.replays
    assert not state.last.weights.requires_grad
    del y
    gc.collect()
    assert node() is None
    assert all(ref() is None for ref in state._live)


def test_an_evaluation_pass_leaves_nothing_waiting():
    model = _placed()
    with torch.no_grad():
        model(_inputs()[0])
    assert all(ref() is None for ref in model.parts[0][0].route._live)
    assert not model.parts[0][0].route._local.frames


def test_a_failing_forward_pass_closes_its_context():
    model = blocks()
    with pytest.raises(ValueError, match="features"):
        model.parts[0][0](torch.ones(2, 4).double())
    assert not model.parts[0][0].route._local.frames
    model(_inputs()[0])


class _FromNoModule(Stack):
    def forward(self, x):
        def segment(x):
            return self.parts[0](x.sin())

        return torch.utils.checkpoint.checkpoint(segment, x, use_reentrant=False)


def test_a_segment_that_no_input_identifies_takes_the_only_pass_there_is_or_says_so():
    model = _FromNoModule([nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))]).double()
    apply_tucka(model, ["parts.0.0", "parts.0.2"], SETTINGS)
    with torch.no_grad():
        model(_inputs()[0])
    model(_inputs()[0].requires_grad_()).sum().backward()
    assert set(gradients(model)) >= {"parts.0.0.router.centroids", "parts.0.2.experts.core"}
    losses = [model(x.requires_grad_()).sum() for x in _inputs()]
    with pytest.raises(RuntimeError, match="2 forward passes"):
        losses[0].backward()


def test_a_copy_of_a_model_routes_for_itself():
    model = _placed()
    other = copy.deepcopy(model)
    x = _inputs()[0]
    assert other.parts[0][0].route is other.parts[1][2].route
    assert other.parts[0][0].route is not model.parts[0][0].route
    torch.testing.assert_close(other(x), model(x))
    pin_route(other, 1, torch.tensor([0.5, 0.6]))
    assert not torch.equal(other(x), model(x))
    before = int(model.parts[0][0].route.counts.sum())
    other(x)
    assert int(model.parts[0][0].route.counts.sum()) == before
    other.parts[0][0].route.detach()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in other.modules())
    model(x)


def test_a_part_that_is_called_before_the_router_is_told_what_to_pass():
    model = blocks()
    with pytest.raises(RuntimeError, match=r"router module parts\.0\.0 has not run, .*router_name='parts\.1\.0'"):
        model.parts[1](_inputs()[0])


def test_a_part_that_holds_the_router_is_a_forward_pass_of_its_own():
    model = _placed()
    x = _inputs()[0]
    expected = model.parts[0](x)
    model.parts[0](_inputs()[1])
    torch.testing.assert_close(model.parts[0](x), expected)


# --- transformers


@pytest.fixture
def model():
    pytest.importorskip("transformers")
    made = llama()
    apply_tucka(made, ["q_proj", "v_proj", "down_proj"], SETTINGS)
    return made


def _mask():
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, :3] = 0
    return mask


def test_padding_takes_no_part_where_the_model_is_told_a_mask(model):
    model.eval()
    state = model.get_submodule("model.layers.0.self_attn.q_proj").route
    ids = words()
    other = ids.clone()
    other[0, :3] = 5
    model(ids, attention_mask=_mask())
    with_mask = state.last
    model(other, _mask())
    torch.testing.assert_close(state.last.weights, with_mask.weights)
    with routing_mask(model, torch.ones(2, 6)):
        model(ids, attention_mask=_mask())
    whole = state.last
    model(ids)
    torch.testing.assert_close(state.last.weights, whole.weights)
    assert not torch.equal(whole.weights, with_mask.weights)


@pytest.mark.parametrize("mask", [torch.zeros(2, 6), torch.ones(2, 5)])
def test_a_mask_that_hides_everything_or_does_not_fit_is_refused(model, mask):
    with pytest.raises(ValueError, match="mask"), routing_mask(model, mask):
        model(words())


class _Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, x, attention_mask):
        return self.linear(x)


def test_a_mask_of_another_sequence_is_left_out_with_a_warning():
    model = _Masked()
    apply_tucka(model, ["linear"], SETTINGS)
    x = torch.randn(2, 6, 5)
    with pytest.warns(UserWarning, match="attention mask"):
        model(x, torch.ones(3, 9))
    state = model.linear.route
    unmasked = state.last
    # The last tokens of a longer mask are those of a chunk; a mask for attention weights is none of tokens.
    model(x, torch.ones(2, 1, 6, 6))
    torch.testing.assert_close(state.last, unmasked)
    mask = torch.ones(2, 9)
    mask[0, 3:6] = 0
    model(x, attention_mask=mask)
    late = state.last
    model(x, attention_mask=mask[:, 3:])
    torch.testing.assert_close(late, state.last)
    assert not torch.equal(late.weights, unmasked.weights)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_of_transformers_changes_nothing(model, reentrant):
    model.train()
    ids = [words(seed=seed) for seed in range(2)]
    model(ids[0])
    model.enable_input_require_grads()
    losses = [model(each, labels=each, use_cache=False).loss for each in ids]
    (losses[0] + 2 * losses[1]).backward()
    wanted = gradients(model)
    model.zero_grad()
    model._set_gradient_checkpointing(
        True, lambda *args, **kwargs: torch.utils.checkpoint.checkpoint(*args, use_reentrant=reentrant, **kwargs)
    )
    losses = [model(each, labels=each, use_cache=False).loss for each in ids]
    (losses[0] + 2 * losses[1]).backward()
    found = gradients(model)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("routing", ["batch", "sample"])
def test_generation_keeps_the_route_of_the_prompt(routing):
    pytest.importorskip("transformers")
    model = llama().eval()
    apply_tucka(model, ["q_proj", "v_proj"], TuckASettings(r=3, k=3, t=2, alpha=64.0, routing=routing))
    prompt = words()
    model(prompt)
    state = model.get_submodule("model.layers.0.self_attn.q_proj").route
    state.counts = None
    found = model.generate(prompt, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(prompt))
    assert int(state.counts.sum()) == (1 if routing == "batch" else 2)
    # Without a cache, and with the route of the prompt held by hand.
    model(prompt)
    state.pinned = state.last
    wanted = model.generate(
        prompt, max_new_tokens=5, do_sample=False, use_cache=False, attention_mask=torch.ones_like(prompt)
    )
    assert torch.equal(found, wanted)


def test_beams_and_single_steps_can_route_anew():
    pytest.importorskip("transformers")
    model = llama().eval()
    apply_tucka(model, ["q_proj"], TuckASettings(r=3, k=3, t=2, route_lifetime="forward"))
    prompt = words()
    model(prompt)
    state = model.get_submodule("model.layers.0.self_attn.q_proj").route
    state.counts = None
    found = model.generate(prompt, max_new_tokens=4, min_new_tokens=4, num_beams=2, do_sample=False)
    assert int(state.counts.sum()) == found.shape[1] - prompt.shape[1]


def test_a_cache_that_goes_on_by_hand_keeps_its_route(model):
    model.eval()
    state = model.get_submodule("model.layers.0.self_attn.q_proj").route
    with torch.no_grad():
        first = model(words(), use_cache=True)
        route = state.last
        model(words(seed=3))
        assert not torch.equal(state.last.weights, route.weights)
        model(words(length=1), **{name: value for name, value in first.items() if hasattr(value, "get_seq_length")})
    assert torch.equal(state.last.weights, route.weights)
