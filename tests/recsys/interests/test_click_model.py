import pytest
import torch

from equipoise.data import Clicks, click_world
from equipoise.recsys import DIN

SELECTIONS = ("sigmoid", "softmax", "mean")


def _clicks(context=False):
    generator = torch.Generator().manual_seed(3)
    histories = [[1, 2, 3], [], [9], [4, 4]]
    given = torch.randn(4, 2, generator=generator) if context else None
    return Clicks.from_lists([0, 5, 9, 7], histories, [1, 0, 0, 1], context=given)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_logit_is_that_of_one_row_alone(selection):
    """A batch pads histories to the longest; a row on its own has no padding."""
    model, clicks = DIN(10, 4, selection=selection).double(), _clicks()
    whole = model(**clicks.inputs())
    alone = [model(**clicks.rows(torch.tensor([row])).inputs()) for row in range(4)]
    torch.testing.assert_close(whole, torch.cat(alone))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_it_is_its_formula(selection):
    model, clicks = DIN(10, 4, num_context=2, selection=selection).double(), _clicks(context=True)
    inputs = {**clicks.inputs(), "context": clicks.context.double()}
    weights = model.weights(*(inputs[name] for name in ("item", "history", "mask")))
    table = model.items.weight
    for row, history in enumerate([[1, 2, 3], [], [9], [4, 4]]):
        shown, interest = table[clicks.item[row]], torch.zeros(4).double()
        for place, item in enumerate(history):
            interest = interest + weights[row, place] * table[item]
        wide = torch.cat([interest, shown, interest * shown, inputs["context"][row]])
        torch.testing.assert_close(model(**inputs)[row], model.predictor(wide)[0])


def test_vectors_are_learned_or_given():
    learned, features = DIN(10, 4), torch.randn(10, 6)
    given = DIN(item_features=features)
    assert {name.partition(".")[0] for name, _ in learned.named_parameters()} == {"items", "selector", "predictor"}
    assert {name.partition(".")[0] for name, _ in given.named_parameters()} == {"selector", "predictor"}
    assert given.item_features.equal(features)
    assert "item_features" in given.state_dict()
    assert given(**_clicks().inputs()).shape == (4,)


def test_items_of_no_row_have_no_gradient():
    model = DIN(10, 4)
    model(**_clicks().inputs()).sum().backward()
    seen = model.items.weight.grad.abs().sum(1) > 0
    # Item 0 is shown, and what padding points at; nothing but 0, 1, 2, 3, 4, 5, 7 and 9 is in a row.
    assert (~seen[[6, 8]]).all()
    one = DIN(10, 4)
    one(torch.tensor([5]), torch.tensor([[3, 0, 0]]), torch.tensor([[1, 0, 0]])).sum().backward()
    assert one.items.weight.grad[0].eq(0).all()


def test_a_threshold_cuts_the_choice_of_the_trained_model():
    world = click_world(50, seed=1)
    model = DIN(item_features=world.item_features, threshold=0.5).eval()
    inputs = world.clicks.inputs()
    assert set(model.weights(inputs["item"], inputs["history"], inputs["mask"]).unique().tolist()) <= {0.0, 1.0}


def test_half_precision_and_double_go_through():
    clicks = _clicks()
    assert DIN(10, 4).double()(**clicks.inputs()).dtype is torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert DIN(10, 4)(**clicks.inputs()).isfinite().all()


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "either num_items, to learn vectors, or item_features"),
        ({"num_items": 3, "item_features": torch.ones(3, 2)}, "not both"),
        ({"num_items": 0}, "num_items=0 must be"),
        ({"num_items": 3, "selection": "max"}, "selection='max' is not known"),
        ({"num_items": 3, "selection": "mean", "threshold": 0.5}, "selection must be 'sigmoid'"),
        ({"item_features": torch.full((3, 2), torch.nan)}, "item_features holds 6 NaN"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        DIN(**settings)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"item": torch.tensor([10])}, "item holds the index 10, wanted 0 to 9"),
        ({"history": torch.tensor([[12, 0]])}, "history holds the index 12, wanted 0 to 9"),
        ({"item": torch.tensor([-1])}, "item must be at least 0, got -1"),
        ({"mask": torch.tensor([[1, 1, 0]])}, "mask must have shape"),
        ({"context": torch.ones(1, 2)}, "context must have num_context=0 features, got 2"),
    ],
)
def test_bad_batches_are_refused(changes, sentence):
    good = {"item": torch.tensor([1]), "history": torch.tensor([[1, 2]]), "mask": torch.tensor([[1, 1]])}
    with pytest.raises(ValueError, match=sentence):
        DIN(10)(**{**good, **changes})


@pytest.mark.usefixtures("plain_inputs")
def test_a_missing_context_is_refused():
    with pytest.raises(ValueError, match="context must have num_context=3 features, got 0"):
        DIN(10, num_context=3)(**_clicks().inputs())
