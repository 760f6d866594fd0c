import numpy as np
import pytest
import torch

from equipoise.crowd import TieMLE, tie_nll
from equipoise.data import Comparisons, simulate_partial_rankings


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("link", ["logistic", "normal"])
def test_nothing_near_is_likelier(link, ridge):
    said = simulate_partial_rankings(4, 5, comparisons_per_user=(100, 100), spread=1.0, seed=2).comparisons
    model = TieMLE(link, ridge=ridge).fit(said)
    columns = (said.annotator, said.left, said.right, said.label)
    score, width = model.scores_.clone().requires_grad_(), torch.tensor(model.threshold_).double().requires_grad_()
    loss = tie_nll(*columns, score, width, link=link)
    assert model.loss_ == pytest.approx(float(loss.detach()), rel=1e-10)
    for slope in torch.autograd.grad(loss + ridge / 2 * score.square().sum(), (score, width)):
        assert slope.abs().max() < 1e-6


def test_the_truth_is_found():
    world = simulate_partial_rankings(
        20, 6, comparisons_per_user=(2000, 2000), spread=1.0, threshold=0.8, abnormal_share=0.0, seed=1
    )
    model = TieMLE().fit(world.comparisons)
    torch.testing.assert_close(model.scores_, world.common_score - world.common_score.mean(), atol=0.06, rtol=0.0)
    assert model.threshold_ == pytest.approx(0.8, abs=0.03)


def test_two_items_have_their_closed_form():
    # With one pair the model is free: its probabilities are the shares.
    said = Comparisons.from_columns(None, [0] * 10, [1] * 10, [1] * 5 + [0] * 3 + [-1] * 2)
    found = TieMLE(ridge=0.0).fit(said).predict_proba(torch.tensor([0]), torch.tensor([1]))
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64), rtol=1e-5, atol=0.0)


def test_a_weight_is_an_answer_given_twice():
    columns = ([0, 0, 1, 0], [0, 1, 2, 0], [1, 2, 0, 2], [1, 0, 1, -1])
    weighed = TieMLE(ridge=0.1).fit(Comparisons.from_columns(*columns, [2, 1, 1, 1]))
    twice = TieMLE(ridge=0.1).fit(Comparisons.from_columns(*(c + c[:1] for c in columns)))
    torch.testing.assert_close(weighed.scores_, twice.scores_, rtol=1e-6, atol=1e-8)


def test_without_ties_the_threshold_is_the_least_and_an_unbeaten_item_stays_finite():
    model = TieMLE(threshold_min=0.01).fit(Comparisons.from_columns(None, [0, 0, 1, 2], [1, 2, 2, 1], [1, 1, 1, 1]))
    assert model.threshold_ == 0.01
    assert model.scores_.isfinite().all()
    assert model.scores_.argmax() == 0


def test_groups_that_were_never_compared_are_named_and_unseen_items_told_apart():
    said = Comparisons.from_columns(
        None, [0, 1, 2, 3], [1, 0, 3, 2], [1, 1, 0, 1], item_names=("ant", "bee", "cat", "dog", "elk")
    )
    with pytest.warns(UserWarning, match=r"2 groups .*0: ant, bee; 1: cat, dog\)"):
        model = TieMLE().fit(said)
    assert model.identified_.tolist() == [True, True, True, True, False]
    assert model.scores_[4] == 0
    assert model.scores_[:2].sum().abs() < 1e-6
    assert model.scores_[2:4].sum().abs() < 1e-6


def test_a_model_ranks_and_is_saved(tmp_path):
    said = Comparisons.from_columns(None, [0, 0, 1, 1, 0], [1, 2, 2, 2, 1], [1, 1, 0, 0, 0], num_items=4)
    model = TieMLE("normal", ridge=0.01).fit(said)
    assert model.rank() == [[0], [1, 2]]
    model.save(tmp_path / "mle.json")
    loaded = TieMLE.load(tmp_path / "mle.json")
    assert loaded.scores_.equal(model.scores_)
    assert (loaded.link, loaded.ridge, loaded.threshold_) == ("normal", 0.01, model.threshold_)
    assert loaded.rank() == model.rank()
    (tmp_path / "mle.json").write_text("[]")
    with pytest.raises(ValueError, match="does not hold a fitted model"):
        TieMLE.load(tmp_path / "mle.json")


@pytest.mark.usefixtures("plain_inputs")
def test_only_ties_unknown_items_and_no_fit_are_refused():
    with pytest.raises(ValueError, match="all comparisons are ties"):
        TieMLE().fit(Comparisons.from_columns(None, [0], [1], [0]))
    with pytest.raises(RuntimeError, match="not fitted"):
        TieMLE().predict(torch.tensor([0]), torch.tensor([1]))
    model = TieMLE().fit(Comparisons.from_columns(None, np.array([0, 1]), [1, 0], [1, 1]))
    with pytest.raises(KeyError, match="item_j holds 2"):
        model.predict(torch.tensor([0]), torch.tensor([2]))
