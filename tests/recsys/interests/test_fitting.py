import copy

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from equipoise.core.solvers.bilevel import MetaWrapper
from equipoise.data import Clicks, click_world
from equipoise.ranking import auroc
from equipoise.recsys import DIN, click_log_loss, click_logits, fit_click_model
from equipoise.recsys.interests.fitting import split_batch

WORLD = click_world(600, length=6, shortest=0, rows_per_user=3, seed=5)
TRAIN, REST = (WORLD.clicks.rows(index) for index in torch.arange(600).split(300))
METHODS = ("joint", "meta", "bilevel")


def _model(**settings):
    torch.manual_seed(0)
    known = {"selector_hidden": (8,), "predictor_hidden": (8,)}
    return DIN(item_features=WORLD.item_features, **{**known, **settings})


def _flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _loss(model, clicks):
    return binary_cross_entropy_with_logits(model(**clicks.inputs()), clicks.label.float())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(method):
    model = _model()
    before = float(click_log_loss(model, TRAIN))
    run = fit_click_model(model, TRAIN, method=method, epochs=25, batch_size=64, lr=1e-2)
    assert run.epochs == 25 == len(run.train_loss)
    assert run.validation_loss == []
    assert run.best_epoch is None
    assert float(click_log_loss(model, TRAIN)) < before - 0.05
    assert float(auroc(click_logits(model, TRAIN), TRAIN.label)) > 0.7


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_a_function_of_its_seed_and_leaves_the_random_state(method):
    state = torch.random.get_rng_state()
    found = []
    for seed in (1, 1, 2):
        model = _model(dropout=0.2)
        torch.manual_seed(9)
        fit_click_model(model, TRAIN, method=method, epochs=2, seed=seed)
        assert torch.random.get_rng_state().equal(torch.manual_seed(9).get_state())
        found.append(_flat(model))
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])
    torch.random.set_rng_state(state)


def test_one_step_of_each_method_is_that_of_its_formula():
    """One batch: the gradient that the optimizer gets, seen in the direction of Adam's first step."""
    first, last = split_batch(TRAIN.rows(_order(0, 300)).user, 300, torch.Generator().manual_seed(1))
    batch = TRAIN.rows(_order(0, 300))
    for method in METHODS:
        model, twin = _model(), _model()
        fit_click_model(model, TRAIN, method=method, epochs=1, batch_size=300, lr=1e-3, inner_lr=0.5, seed=0)
        if method == "joint":
            _loss(twin, batch).backward()
        else:
            wrapper = MetaWrapper(twin, ["predictor"], inner_lr=0.5, variant=method)
            wrapper.step(batch.rows(first), batch.rows(last), _loss)
        for (name, moved), old in zip(model.named_parameters(), twin.parameters(), strict=True):
            if method == "bilevel" and name.startswith("predictor"):
                torch.testing.assert_close(moved, old - 0.5 * old.grad)
            else:
                wanted = old - 1e-3 * old.grad / (old.grad.abs() + 1e-8)
                torch.testing.assert_close(moved, wanted, rtol=1e-4, atol=2e-6)


def _order(seed, n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def test_early_stopping_keeps_the_best_epoch():
    whole = fit_click_model(_model(), TRAIN, method="joint", validation=REST, epochs=30, batch_size=64, lr=2e-2)
    model = _model()
    stopped = fit_click_model(
        model, TRAIN, method="joint", validation=REST, patience=3, epochs=30, batch_size=64, lr=2e-2
    )
    assert stopped.epochs == stopped.best_epoch + 3 < 30
    assert stopped.validation_loss == whole.validation_loss[: stopped.epochs]
    assert float(click_log_loss(model, REST)) == pytest.approx(min(stopped.validation_loss), abs=1e-7)
    assert whole.epochs == 30
    assert float(click_log_loss(whole.model, REST)) == pytest.approx(whole.validation_loss[-1], abs=1e-7)
    assert not model.training


def test_validation_rows_give_no_gradient():
    alone, watched = _model(), _model()
    fit_click_model(alone, TRAIN, epochs=3, batch_size=64)
    fit_click_model(watched, TRAIN, epochs=3, batch_size=64, validation=REST)
    assert _flat(alone).equal(_flat(watched))


def test_learned_vectors_are_outer_parameters_dense_or_sparse():
    world = click_world(200, num_items=40, length=4, seed=2)
    found = {}
    for sparse in (False, True):
        torch.manual_seed(0)
        model = DIN(40, 4, sparse=sparse)
        before = model.items.weight.detach().clone()
        run = fit_click_model(model, world.clicks, epochs=2, batch_size=50)
        assert not model.items.weight.equal(before)
        found[sparse] = run.train_loss
    # Both move the rows seen alike in the first step; an epoch later they have drifted a little.
    assert found[True][0] == pytest.approx(found[False][0], abs=5e-3)


def test_embeddings_may_be_inner_parameters_unless_sparse():
    world = click_world(60, num_items=20, length=3, seed=2)
    fit_click_model(DIN(20, 4), world.clicks, epochs=1, inner_params=["predictor", "items"])
    with pytest.raises(ValueError, match=r"'items\.weight', whose sparse gradients"):
        fit_click_model(DIN(20, 4, sparse=True), world.clicks, epochs=1, inner_params=["predictor", "items"])


def test_a_batch_of_one_user_trains_jointly():
    clicks = Clicks(TRAIN.item, TRAIN.label, TRAIN.history, TRAIN.offsets, torch.zeros(300, dtype=torch.long))
    models = [_model(), _model()]
    for model, method in zip(models, ("joint", "meta"), strict=True):
        fit_click_model(model, clicks, method=method, epochs=1, batch_size=64)
    assert _flat(models[0]).equal(_flat(models[1]))


def test_any_module_of_these_inputs_can_be_trained():
    class Popularity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.selector, self.predictor = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

        def forward(self, item, history, mask, context=None):
            return self.predictor(self.selector(mask.float().sum(1, keepdim=True))).squeeze(1)

    assert fit_click_model(Popularity(), TRAIN, method="bilevel", epochs=1).epochs == 1


@pytest.mark.parametrize("seed", range(6))
def test_halves_are_apart_whole_and_nearly_even(seed):
    generator = torch.Generator().manual_seed(seed)
    user = torch.randint(-4, 20, (64,), generator=generator) * 10**15
    first, last = split_batch(user, 64, generator)
    assert not set(user[first].tolist()) & set(user[last].tolist())
    assert torch.cat([first, last]).sort().values.equal(torch.arange(64))
    assert abs(len(first) - len(last)) <= int(user.unique(return_counts=True)[1].max())
    plain = split_batch(None, 65, generator)
    assert sorted(map(len, plain)) == [32, 33]


def test_what_cannot_be_halved():
    generator = torch.Generator()
    assert split_batch(torch.tensor([4, 4, 4]), 3, generator) is None
    assert split_batch(None, 1, generator) is None
    first, last = split_batch(torch.tensor([1] * 30 + [2]), 31, generator)
    assert sorted([len(first), len(last)]) == [1, 30]


def test_logits_do_not_depend_on_batches_and_leave_the_mode():
    model = _model(dropout=0.5).train()
    model.selector.eval()
    found = click_logits(model, TRAIN, batch_size=7)
    torch.testing.assert_close(found, click_logits(model, TRAIN))
    assert model.training
    assert not model.selector.training
    assert not found.requires_grad
    twin = copy.deepcopy(model).eval()
    torch.testing.assert_close(float(click_log_loss(model, TRAIN)), float(_loss(twin, TRAIN).detach()))


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "wrapper"}, "method='wrapper' is not known"),
        ({"patience": 2}, "patience=2 needs validation rows"),
        ({"inner_lr": -1.0}, "inner_lr=-1.0"),
        ({"inner_steps": 0}, "inner_steps=0"),
        ({"method": "bilevel", "inner_params": ["selector"]}, "holds the selector"),
        ({"method": "bilevel", "mu": 1.0}, "leave mu at 0"),
        ({"inner_params": ["head"]}, "'head', which the model has not"),
        ({"clicks": [1, 2]}, "clicks must be a Clicks, got list"),
    ],
)
def test_bad_requests_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit_click_model(**{"model": _model(), "clicks": TRAIN, "epochs": 1, **settings})


def test_divergence_is_told():
    with pytest.raises(FloatingPointError, match="lower inner_lr"):
        fit_click_model(_model(), TRAIN, inner_lr=1e30, inner_steps=4, epochs=1)
