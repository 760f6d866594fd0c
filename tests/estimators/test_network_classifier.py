import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from equipoise.estimators.network_classifier import EquipoiseClassifier
from equipoise.ranking import opauc

_ROWS = {
    "check_sample_weight_equivalence_on_dense_data": "batches and folds hold rows, of which repeated ones are several"
}


@parametrize_with_checks(
    [EquipoiseClassifier(epochs=15, batch_size=64, learning_rate=0.02)], expected_failed_checks=lambda _: _ROWS
)
def test_it_keeps_the_conventions_of_scikit_learn(estimator, check, plain_inputs):
    check(estimator)


@pytest.fixture(scope="module")
def cancer():
    features, target = load_breast_cancer(return_X_y=True)
    return features, 1 - target


@pytest.mark.parametrize(
    "objective", ["cross_entropy", "weighted_cross_entropy", "auc", "partial_auc", "weighted_partial_auc"]
)
@pytest.mark.parametrize("model", ["mlp", "linear"])
def test_every_objective_learns_to_rank(cancer, objective, model):
    features, target = cancer
    classifier = EquipoiseClassifier(objective, model, max_fpr=0.1, epochs=25, random_state=0)
    classifier.fit(features[:400], target[:400])
    scores = torch.from_numpy(classifier.decision_function(features[400:]))
    assert float(opauc(scores, torch.from_numpy(target[400:]), 0.1)) > 0.85


def test_two_way_bounds_reach_the_objective_and_the_metric(cancer):
    features, target = cancer
    classifier = EquipoiseClassifier("two_way_partial_auc", max_fpr=0.3, min_tpr=0.5, epochs=20, random_state=0)
    classifier.fit(features, target)
    assert 0.5 < classifier.best_score_ <= 1


@pytest.mark.parametrize("labels", [["no", "yes"], [False, True], [-1, 7]])
def test_labels_of_any_type_come_back(cancer, labels):
    features, target = cancer
    y = np.array(labels)[target]
    classifier = EquipoiseClassifier(epochs=10, random_state=0).fit(features, y)
    assert classifier.classes_.tolist() == sorted(labels)
    assert (classifier.predict(features) == y).mean() > 0.9


def test_probabilities_are_calibrated_in_order_and_on_average(cancer):
    features, target = cancer
    classifier = EquipoiseClassifier("auc", epochs=20, random_state=0).fit(features[:400], target[:400])
    probability = classifier.predict_proba(features[400:])[:, 1]
    order = classifier.decision_function(features[400:]).argsort(kind="stable")
    assert (np.diff(probability[order]) >= 0).all()
    assert abs(probability.mean() - target[400:].mean()) < 0.1


def test_several_classes_are_ranked_one_against_one():
    features, target = load_iris(return_X_y=True)
    classifier = EquipoiseClassifier("auc", epochs=40, learning_rate=0.02, random_state=0).fit(features, target)
    assert classifier.decision_function(features).shape == (150, 3)
    np.testing.assert_allclose(classifier.predict_proba(features).sum(1), 1, rtol=1e-5)
    assert (classifier.predict(features) == target).mean() > 0.9


def test_the_same_seed_gives_the_same_model_and_leaves_global_state_alone(cancer):
    features, target = cancer
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    models = [EquipoiseClassifier(dropout=0.2, epochs=4, random_state=3).fit(features, target) for _ in range(2)]
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(*(m.decision_function(features) for m in models))


def test_it_works_in_pipelines_searches_and_clones(cancer):
    features, target = cancer
    pipeline = make_pipeline(PowerTransformer(), EquipoiseClassifier(epochs=4, random_state=0))
    search = GridSearchCV(
        pipeline, {"equipoiseclassifier__objective": ["auc", "cross_entropy"]}, cv=2, scoring="roc_auc"
    ).fit(features, target)
    assert search.best_score_ > 0.9
    assert clone(search.best_estimator_).get_params()["equipoiseclassifier__epochs"] == 4


@pytest.mark.parametrize("labels", [["no", "yes"], [0, 1]])
def test_a_saved_model_predicts_the_same(cancer, labels, tmp_path):
    features, target = cancer
    classifier = EquipoiseClassifier("partial_auc", max_fpr=0.1, epochs=4, random_state=0)
    classifier.fit(features, np.array(labels)[target]).save(tmp_path / "model")
    loaded = EquipoiseClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.decision_function(features), classifier.decision_function(features))
    np.testing.assert_array_equal(loaded.predict(features), classifier.predict(features))
    np.testing.assert_allclose(loaded.predict_proba(features), classifier.predict_proba(features), rtol=1e-6)


def test_folds_and_settings_may_share_a_checkpoint_folder(cancer, tmp_path):
    features, target = cancer
    flipped = features.copy()
    flipped[0, 0] *= 2

    def scores(x, y, folder=None, **settings):
        model = EquipoiseClassifier(**{"epochs": 3, "random_state": 0, **settings}, checkpoint_folder=folder)
        return model.fit(x, y).decision_function(features)

    fits = [(features, target), (flipped, target), (features[:300], target[:300]), (features, 1 - target)]
    for repeated in range(2):
        for x, y in fits:
            np.testing.assert_array_equal(scores(x, y, tmp_path), scores(x, y))
        np.testing.assert_array_equal(scores(*fits[0], tmp_path, dropout=0.5), scores(*fits[0], dropout=0.5))
        assert len(list(tmp_path.glob("*/resume.ckpt"))) == 5, repeated


def test_a_loss_of_ones_own_may_be_given(cancer):
    features, target = cancer

    class Smooth(torch.nn.Module):
        def forward(self, logits, target):
            return torch.nn.functional.softplus(-(2.0 * target - 1) * logits).mean()

    classifier = EquipoiseClassifier(Smooth(), epochs=10, random_state=0).fit(features, target)
    assert (classifier.predict(features) == target).mean() > 0.9
    with pytest.raises(ValueError, match="cannot be saved"):
        classifier.save("unused")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "partial_auc"}, "needs max_fpr"),
        ({"objective": "pauc"}, "objective='pauc' is not known"),
        ({"model": "cnn"}, "model='cnn'"),
        ({"objective": "partial_auc", "max_fpr": 5}, "max_fpr=5"),
        ({"metric": "ovo_auroc"}, "several classes"),
        ({"epochs": 0}, "epochs=0"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(cancer, settings, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        EquipoiseClassifier(**settings).fit(*cancer)


def _long_tailed(rows, shares, seed):
    random = np.random.default_rng(seed)
    target = random.choice(3, rows, p=shares)
    centres = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])
    return centres[target] + random.normal(size=(rows, 2)), target


@pytest.mark.parametrize("objective", ["logit_adjusted", "balanced_softmax", "ldam", "vs"])
def test_a_long_tailed_objective_decides_for_rare_classes_and_comes_back_from_disk(objective, tmp_path):
    features, target = _long_tailed(1500, [0.9, 0.07, 0.03], 0)
    fresh, truth = _long_tailed(1500, [1 / 3] * 3, 1)

    def fit(name):
        model = EquipoiseClassifier(name, metric="balanced_accuracy", epochs=30, random_state=0)
        return model.fit(features, target)

    def worst(model):
        predicted = model.predict(fresh)
        return min((predicted[truth == c] == c).mean() for c in range(3))

    model = fit(objective)
    assert worst(model) > worst(fit("cross_entropy")) + 0.2
    model.save(tmp_path)
    np.testing.assert_array_equal(EquipoiseClassifier.load(tmp_path).predict_proba(fresh), model.predict_proba(fresh))


def test_a_topk_objective_and_a_sharpness_aware_optimizer_are_chosen_by_name():
    features, target = load_iris(return_X_y=True)
    settings = {"metric": "top_k_accuracy", "k": 1, "epochs": 30, "random_state": 0}
    plain = EquipoiseClassifier("autkc", **settings).fit(features, target)
    flat = EquipoiseClassifier("autkc", optimizer="focal_sam", **settings).fit(features, target)
    assert min(plain.score(features, target), flat.score(features, target)) > 0.9
    assert not np.array_equal(plain.predict_proba(features), flat.predict_proba(features))
    with pytest.raises(ValueError, match="for several classes, got 2"):
        EquipoiseClassifier("autkc").fit(features[:100], target[:100])


def test_an_array_that_is_read_backwards_is_taken():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(80, 3)), np.arange(80) % 2
    model = EquipoiseClassifier(model="linear", epochs=2, random_state=0)
    found = model.fit(features[::-1], labels[::-1]).predict_proba(features[::-1])
    assert found.tolist() == model.predict_proba(features[::-1].copy()).tolist()
