"""Both boosters' classifiers: scikit-learn's conventions, labels, calibration, saving, bad input."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from equipoise.estimators.holding_out import hold_out
from equipoise.ranking import auroc

SMALL = {
    "lightgbm": {"num_leaves": 7, "min_data_in_leaf": 2},
    "xgboost": {"max_depth": 3, "min_child_weight": 0.01},
}


def _make(library, objective="auc", params=None, **settings):
    if library == "lightgbm":
        pytest.importorskip("lightgbm")
        from equipoise.estimators.lightgbm import LightGBMRankingClassifier as Classifier
    else:
        pytest.importorskip("xgboost")
        from equipoise.estimators.xgboost import XGBoostRankingClassifier as Classifier
    defaults = {"n_estimators": 15, "learning_rate": 0.2, "n_jobs": 1, "random_state": 0}
    return Classifier(objective, booster_params={**SMALL[library], **(params or {})}, **{**defaults, **settings})


@pytest.fixture(params=list(SMALL))
def library(request):
    return request.param


@pytest.fixture(scope="module")
def table():
    random = np.random.RandomState(0)
    features = random.randn(500, 4)
    return features, (features[:, 0] + features[:, 1] ** 2 + 0.5 * random.randn(500) > 2).astype(int)


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        ("cross_entropy", {}),
        ("weighted_cross_entropy", {"metric": "average_precision"}),
        ("auc", {"warm_start_rounds": 5, "metric": "opauc", "max_fpr": 0.1}),
        ("partial_auc", {"max_fpr": 0.1}),
        ("two_way_partial_auc", {"max_fpr": 0.2, "min_tpr": 0.3}),
        ("weighted_partial_auc", {"metric": "auroc"}),
    ],
)
def test_every_objective_ranks_and_calibrates(library, table, objective, settings):
    features, target = table
    model = _make(library, objective, **settings).fit(features[:400], target[:400])
    scores = model.decision_function(features[400:])
    assert auroc(torch.from_numpy(scores), torch.from_numpy(target[400:])) > 0.88
    probabilities = model.predict_proba(features)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert probabilities[:, 1].mean() == pytest.approx(target.mean(), abs=0.06)
    np.testing.assert_array_equal(model.predict(features[400:]), (scores > 0).astype(int))


def test_scikit_learn_accepts_the_estimator(library, plain_inputs):
    rows = {"check_sample_weight_equivalence_on_dense_data": "folds hold rows, and the last digits choose tied splits"}
    model = _make(library, n_estimators=10)
    results = check_estimator(model, on_skip=None, on_fail=None, expected_failed_checks=rows)
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []


def test_it_works_in_a_pipeline_and_a_grid_search(library, table):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), _make(library, n_estimators=5)),
        {f"{type(_make(library)).__name__.lower()}__objective": ["cross_entropy", "auc"]},
        cv=2,
        scoring="roc_auc",
    )
    assert search.fit(*table).best_score_ > 0.8


def test_a_clone_fits_to_the_same_model_and_the_random_state_matters(library, table):
    model = _make(library).fit(*table)
    again = clone(model).fit(*table)
    other = clone(model).set_params(random_state=1).fit(*table)
    np.testing.assert_array_equal(again.decision_function(table[0]), model.decision_function(table[0]))
    assert not np.array_equal(other.decision_function(table[0]), model.decision_function(table[0]))


@pytest.mark.parametrize(
    "labels", [["fine", "fraud"], [False, True], [-1, 1], [2.0, 7.0], np.array(["a", "b"], object)]
)
def test_labels_of_any_type_come_back_in_their_order(library, table, labels, tmp_path):
    features, target = table
    labels = np.array(labels)
    model = _make(library, n_estimators=3).fit(features, labels[target])
    np.testing.assert_array_equal(model.classes_, labels)
    assert model.predict(features).dtype == labels.dtype
    assert (model.predict(features) == labels[target]).mean() > 0.8
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(type(model).load(tmp_path / "model").predict(features), model.predict(features))


NAMES = {
    "lightgbm": {
        "learning_rate": ["learning_rate", "eta", "shrinkage_rate"],
        "random_state": ["seed", "random_seed", "random_state"],
        "objective": ["objective", "app", "application", "loss", "objective_type"],
        "metric": ["metric", "metrics", "metric_types"],
        "n_estimators": ["num_iterations", "n_iter", "num_trees", "num_boost_round", "n_estimators", "max_iter"],
        "early_stopping_rounds": ["early_stopping_round", "early_stopping", "n_iter_no_change"],
        "the labels": ["num_class", "num_classes"],
    },
    "xgboost": {
        "learning_rate": ["learning_rate", "eta"],
        "random_state": ["seed", "random_state"],
        "objective": ["objective"],
        "metric": ["eval_metric"],
        "n_estimators": ["n_estimators", "num_boost_round", "num_round"],
        "early_stopping_rounds": ["early_stopping_rounds"],
        "the labels": ["num_class"],
    },
}


def test_every_name_of_a_booster_parameter_overrides_or_is_refused(library, table):
    features, target = table
    drawn = {"subsample": 0.5, "bagging_freq": 1} if library == "lightgbm" else {"subsample": 0.5}

    def scores(params, **settings):
        model = _make(library, n_estimators=5, validation_fraction=None, params={**drawn, **params}, **settings)
        return model.fit(features, target).decision_function(features)

    for ours, names in NAMES[library].items():
        for name in names:
            if ours == "learning_rate":
                np.testing.assert_array_equal(scores({name: 0.7}), scores({}, learning_rate=0.7))
            elif ours == "random_state":
                assert not np.array_equal(scores({name: 5}), scores({}))
            else:
                with pytest.raises(ValueError, match=f"parameter '{name}' is set by {ours}"):
                    scores({name: "binary" if ours == "objective" else 1})


@pytest.mark.parametrize("objective", ["auc", "cross_entropy"])
def test_a_dart_is_kept_as_it_was_in_its_best_round(library, table, objective, monkeypatch):
    module = importlib.import_module(f"equipoise.estimators.{library}")
    judge, course = module.judge, []
    monkeypatch.setattr(module, "judge", lambda *given: course.append(judge(*given)) or course[-1])
    dart = {"boosting_type": "dart", "drop_rate": 0.5, "booster": "dart", "rate_drop": 0.5}
    known = {name: dart[name] for name in list(dart)[slice(0, 2) if library == "lightgbm" else slice(2, 4)]}
    features, target = table
    model = _make(library, objective, params=known, n_estimators=30, learning_rate=0.5, validation_fraction=0.3)
    model.fit(features, target)
    held = hold_out(target, 0.3, np.random.RandomState(model._booster_seed))[1]
    assert len(course) == 30
    assert np.argmax(course) < 29
    kept = auroc(
        torch.from_numpy(model._raw_scores(model.booster_, features[held])).double(), torch.from_numpy(target[held])
    )
    assert float(kept) == pytest.approx(max(course), abs=1e-6)


def test_columns_of_categories_are_split_by_category(library, tmp_path):
    random = np.random.RandomState(0)
    names = np.array(["f", "c", "a", "e", "b", "d"])
    drawn, number = random.randint(6, size=1200), random.randn(1200)
    target = np.isin(names[drawn], ["a", "c", "e"]) ^ (random.rand(1200) < 0.1)
    table = pd.DataFrame({"x": number, "letter": pd.Categorical(names[drawn])})
    one_split = {"max_depth": 1} if library == "xgboost" else {"num_leaves": 2, "cat_smooth": 1, "cat_l2": 0}
    model = _make(library, params=one_split, n_estimators=1, validation_fraction=None)
    before = table.copy(deep=True)
    model.fit(table, target)
    pd.testing.assert_frame_equal(table, before)
    # In the order of the letters no single split does it.
    right = np.isin(names[drawn], ["a", "c", "e"])
    scores = model.decision_function(table)
    assert scores[right].min() > scores[~right].max()
    model.save(tmp_path)
    loaded = type(model).load(tmp_path)
    for form in (
        table,
        table.astype({"letter": object}),
        table.assign(letter=table["letter"].cat.reorder_categories(list("fedcba"))),
    ):
        np.testing.assert_array_equal(loaded.decision_function(form), scores)
    unknown = table.assign(letter=pd.Categorical(["never seen"] * 1200))
    missing = table.assign(letter=pd.Categorical([None] * 1200))
    np.testing.assert_array_equal(loaded.decision_function(unknown), loaded.decision_function(missing))
    with pytest.raises(ValueError, match=r"columns \[1\] were categories in fit"):
        loaded.predict(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(table[["x"]])


def test_missing_values_are_welcome(library, table):
    features, target = table[0].copy(), table[1]
    features[::7, 2] = np.nan
    model = _make(library).fit(features, target)
    assert np.isfinite(model.decision_function(features)).all()


def test_several_classes_are_ranked_one_vs_one(library, table, tmp_path):
    target = np.array(["low", "mid", "top"])[np.digitize(table[0][:, 0], [-0.5, 1.2])]
    for objective in ("cross_entropy", "weighted_cross_entropy", "auc"):
        model = _make(library, objective).fit(table[0], target)
        assert model.decision_function(table[0]).shape == (500, 3)
        np.testing.assert_allclose(model.predict_proba(table[0]).sum(1), 1)
        assert (model.predict(table[0]) == target).mean() > 0.9
    model.save(tmp_path)
    np.testing.assert_array_equal(type(model).load(tmp_path).predict_proba(table[0]), model.predict_proba(table[0]))


def test_a_saved_model_predicts_the_same_and_knows_its_settings(library, table, tmp_path):
    model = _make(library, "partial_auc", max_fpr=0.1, warm_start_rounds=4, early_stopping_rounds=3).fit(*table)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.decision_function(table[0]), model.decision_function(table[0]))
    assert loaded.get_params() == model.get_params()
    assert loaded.n_features_in_ == 4
    with pytest.raises(ValueError, match="4 features"):
        loaded.predict(table[0][:, :3])
    assert json.loads((tmp_path / "model" / "estimator.json").read_text())["estimator"] == type(model).__name__


def test_another_estimators_folder_is_refused(table, tmp_path):
    _make("lightgbm", n_estimators=2).fit(*table).save(tmp_path)
    with pytest.raises(ValueError, match="holds estimator 'LightGBMRankingClassifier'"):
        type(_make("xgboost")).load(tmp_path)


def test_the_held_out_part_has_every_class(library, table):
    target = np.zeros(500, dtype=int)
    target[:2] = 1
    model = _make(library, n_estimators=2).fit(table[0], target)
    assert np.isfinite(model.predict_proba(table[0])).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "aucc"}, "objective='aucc'"),
        ({"objective": "partial_auc"}, "needs max_fpr"),
        ({"max_fpr": 5.0}, "max_fpr=5.0"),
        ({"metric": "opauc"}, "needs max_fpr"),
        ({"metric": "ovo_auroc"}, "is for several classes, got 2"),
        ({"metric": "f1"}, "metric='f1'"),
        ({"surrogate": "cubic"}, "surrogate='cubic'"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"warm_start_rounds": 15}, "warm_start_rounds=15"),
        ({"widening": 0.0}, "widening=0.0"),
    ],
)
def test_a_bad_setting_is_named(library, table, settings, message):
    with pytest.raises(ValueError, match=message):
        _make(library, **settings).fit(*table)


def test_bad_labels_are_refused(library, table):
    features, target = table
    with pytest.raises(ValueError, match="1 class"):
        _make(library).fit(features, np.zeros(500))
    with pytest.raises(ValueError, match="for two classes, got 3"):
        _make(library, "partial_auc", max_fpr=0.1).fit(features, np.arange(500) % 3)
    with pytest.raises(ValueError, match="is for two classes, got 3; choose one of 'ovo_auroc'"):
        _make(library, metric="auroc").fit(features, np.arange(500) % 3)
    with pytest.raises(ValueError, match="infinity"):
        _make(library).fit(np.where(features > 2, np.inf, features), target)


def test_the_selection_is_widened_and_never_beyond_everything(library, table):
    def scores(**settings):
        return _make(library, "partial_auc", metric="auroc", **settings).fit(*table).decision_function(table[0])

    np.testing.assert_array_equal(scores(max_fpr=0.1, widening=2.0), scores(max_fpr=0.2, widening=1.0))
    np.testing.assert_array_equal(scores(max_fpr=0.6, widening=9.0), scores(max_fpr=1.0, widening=1.0))
    assert not np.array_equal(scores(max_fpr=0.1, widening=2.0), scores(max_fpr=0.1, widening=1.0))
