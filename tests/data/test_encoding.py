import json
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from equipoise.data import TableEncoder, make_encoder

KINDS = ("neural", "tree")


def messy(n=400, seed=0):
    generator = np.random.default_rng(seed)
    towns = ["".join(generator.choice(list("aeioumnrst"), 6)) for _ in range(70)]
    frame = pd.DataFrame(
        {
            "age": generator.normal(50, 10, n),
            "count": generator.integers(0, 9, n),
            "lab": [f"{v:.2f}" if v > 0.2 else "<0.2" for v in generator.lognormal(1, 0.8, n)],
            "shop": generator.choice(["north", "south", "east", None], n),
            "town": generator.choice(towns, n),
            "when": pd.Series(
                pd.Timestamp("2023-01-01") + pd.to_timedelta(generator.integers(0, 600, n), "D")
            ).dt.strftime("%d/%m/%Y"),
            "seen": pd.Timestamp("2023-01-01") + pd.to_timedelta(generator.integers(0, 600 * 24, n), "h"),
            "paid": generator.random(n) < 0.4,
            "member": generator.choice(["yes", "no"], n),
            "unit": "kg",
            "nothing": None,
        }
    )
    frame.loc[generator.choice(n, 40), "age"] = np.nan
    frame.loc[generator.choice(n, 10), "town"] = None
    frame.loc[0, "when"] = "unknown"
    frame.loc[1, "age"] = 1e12
    frame.loc[2, "lab"] = "?"
    frame.loc[3, "seen"] = pd.NaT
    return frame


@pytest.mark.parametrize("kind", KINDS)
def test_a_messy_table_becomes_a_float32_matrix_with_named_columns(kind):
    frame = messy()
    encoder = make_encoder(kind)
    matrix = encoder.fit_transform(frame)
    names = encoder.get_feature_names_out().tolist()
    assert matrix.dtype == np.float32
    assert matrix.shape == (400, len(names))
    assert len(set(names)) == len(names)
    assert encoder.dropped_ == {"unit": "constant", "nothing": "empty"}
    if kind == "neural":
        assert np.isfinite(matrix).all()
        assert np.abs(matrix).max() < 12
        wanted = {
            "age",
            "age is missing",
            "lab",
            "shop=east",
            "shop is missing",
            "when days",
            "member=yes",
            "town text 0",
        }
        assert wanted <= set(names)
        assert "member=no" not in names
    else:
        assert not np.isinf(matrix).any()
        assert np.isnan(matrix[:, names.index("age")]).sum() == frame["age"].isna().sum()
        assert {"seen hour", "shop", "paid"} <= set(names)
        assert "when hour" not in names


def test_numbers_are_centred_of_unit_spread_and_one_wild_value_changes_little():
    values = np.random.default_rng(0).normal(100, 5, 2000)
    frame = pd.DataFrame({"x": values})
    tame = TableEncoder().fit_transform(frame)[:, 0]
    assert abs(tame.mean()) < 1e-5
    assert tame.std() == pytest.approx(1, abs=1e-4)
    assert np.array_equal(np.argsort(tame), np.argsort(values))
    frame.loc[0, "x"] = 1e30
    wild = TableEncoder().fit_transform(frame)[:, 0]
    assert np.abs(wild[1:] - tame[1:]).max() < 0.02


def test_infinite_numbers_are_the_edge_of_the_range():
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, np.inf, -np.inf, np.nan]})
    neural = TableEncoder().fit_transform(frame)
    assert np.isfinite(neural).all()
    assert neural[:, 0].argmax() == 3
    assert neural[:, 0].argmin() == 4
    tree = TableEncoder("tree").fit_transform(frame)[:, 0]
    assert np.isfinite(tree[:5]).all()
    assert np.argsort(tree[:5]).tolist() == [4, 0, 1, 2, 3]
    assert np.isnan(tree[5])


def test_large_whole_numbers_stay_apart_in_float32():
    frame = pd.DataFrame({"id": 1_700_000_000 + np.arange(50)})
    for kind in KINDS:
        assert len(np.unique(TableEncoder(kind).fit_transform(frame))) == 50


def test_a_column_of_mostly_one_value_is_not_blown_up():
    frame = pd.DataFrame({"flag": [0] * 999 + [1]})
    assert np.abs(TableEncoder().fit_transform(frame)).max() <= 2


def test_a_missing_number_is_the_median_and_says_so():
    frame = pd.DataFrame({"x": [1.0, 2.0, 9.0, np.nan]})
    encoder = TableEncoder()
    matrix = encoder.fit_transform(frame)
    assert encoder.get_feature_names_out().tolist() == ["x", "x is missing"]
    assert matrix[3].tolist() == [matrix[1, 0], 1.0]


def test_dates_are_days_and_places_on_circles():
    frame = pd.DataFrame({"d": ["2024-01-01", "2024-01-08", "2024-07-01", None]})
    tree = TableEncoder("tree").fit(frame)
    assert tree.get_feature_names_out().tolist() == ["d days", "d month", "d weekday"]
    matrix = tree.transform(frame)
    assert np.diff(matrix[:3, 0]).tolist() == [7, 175]
    assert matrix[:3, 1].tolist() == [0, 0, 6]
    assert matrix[:3, 2].tolist() == [0, 0, 0]
    assert np.isnan(matrix[3]).all()
    neural = TableEncoder().fit(frame)
    names = neural.get_feature_names_out().tolist()
    assert names == ["d days", "d month sin", "d month cos", "d weekday sin", "d weekday cos", "d is missing"]
    circles = neural.transform(frame)
    assert circles[0, 1:3] == pytest.approx([0, 1])
    assert circles[2, 1:3] == pytest.approx([0, -1], abs=1e-6)
    assert circles[3, 1:].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_training_rows_are_learnt_from(kind):
    frame = messy()
    encoder = make_encoder(kind).fit(frame.iloc[:300])
    alone = encoder.transform(frame.iloc[[350]])
    among = encoder.transform(frame.iloc[300:])[50:51]
    assert np.allclose(alone, among, equal_nan=True, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_may_change_order_and_others_be_there(kind):
    frame = messy()
    encoder = make_encoder(kind).fit(frame)
    turned = frame[frame.columns[::-1]].assign(more=1)
    assert np.array_equal(encoder.transform(turned), encoder.transform(frame), equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_column_need_not_be_there(kind):
    frame = messy()
    encoder = make_encoder(kind).fit(frame)
    assert encoder.transform(frame.drop(columns=["unit", "nothing"])).shape[0] == 400


def test_unseen_categories_are_none_of_the_known():
    encoder = TableEncoder().fit(pd.DataFrame({"c": ["a", "b", "c", "a"]}))
    assert encoder.transform(pd.DataFrame({"c": ["z", "a"]})).tolist() == [[0, 0, 0], [1, 0, 0]]
    tree = TableEncoder("tree").fit(pd.DataFrame({"c": ["a", "b", "c", "a"]}))
    assert np.isnan(tree.transform(pd.DataFrame({"c": ["z", "a"]}))).ravel().tolist() == [True, False]
    with pytest.warns(UserWarning, match="'c' holds no value that was there in training, as 'a'"):
        encoder.transform(pd.DataFrame({"c": ["z", "y"]}))


def test_unseen_text_is_near_what_it_looks_like():
    frame = messy()
    encoder = TableEncoder("tree").fit(frame[["town"]])
    town = frame["town"].dropna().iloc[0]
    others = frame["town"].dropna()[lambda s: s != town].unique()[:20]
    places = encoder.transform(pd.DataFrame({"town": [town, town + " x", *others]}))[:, 1:]
    distances = np.linalg.norm(places[1:] - places[0], axis=1)
    assert distances.argmin() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_json_and_gives_the_same_matrix(kind):
    frame = messy()
    encoder = make_encoder(kind).fit(frame.iloc[:300])
    again = TableEncoder.from_state(json.loads(json.dumps(encoder.state(), allow_nan=False)))
    assert np.array_equal(again.transform(frame), encoder.transform(frame), equal_nan=True)
    assert again.get_feature_names_out().tolist() == encoder.get_feature_names_out().tolist()
    assert again.dropped_ == encoder.dropped_
    assert again.get_params() == encoder.get_params()
    assert json.dumps(again.state()) == json.dumps(encoder.state())


def test_the_state_does_not_depend_on_the_order_of_rows():
    frame = messy()
    first = TableEncoder("tree").fit(frame).transform(frame)
    second = TableEncoder("tree").fit(frame.sample(frac=1, random_state=1)).transform(frame)
    assert np.allclose(first, second, equal_nan=True, atol=1e-3)


def test_it_is_a_transformer_of_scikit_learn():
    frame = messy()
    target = (frame["count"] > 4).astype(int)
    pipeline = make_pipeline(make_encoder("neural"), LogisticRegression(max_iter=300))
    assert clone(pipeline).fit(frame, target).score(frame, target) > 0.9
    copied = pickle.loads(pickle.dumps(make_encoder("tree").fit(frame)))
    assert copied.transform(frame).shape[0] == 400


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_encoder("forest"), "kind='forest'"),
        (lambda: TableEncoder(max_categories=0).fit(messy()), "max_categories=0"),
        (lambda: TableEncoder().fit(messy().iloc[:0]), "no rows"),
        (lambda: TableEncoder().fit(pd.DataFrame({"a": [1, 1], "b": [None, None]})), "none of the 2 feature columns"),
        (lambda: TableEncoder().fit(np.zeros((3, 2))), "DataFrame is wanted, got ndarray"),
        (lambda: TableEncoder().fit(pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"])), "two columns named 'a'"),
        (
            lambda: TableEncoder().fit(messy()).transform(messy().rename(columns={"town": "towns"})),
            "column 'town' of the training table is absent; did 'towns' use to be 'town'?",
        ),
        (
            lambda: TableEncoder().fit(messy()).transform(messy().drop(columns=["age", "shop"])),
            "columns 'age', 'shop' of the training table are absent",
        ),
        (
            lambda: TableEncoder().fit(messy()).transform(messy().assign(age="n. a. yet")),
            "'age' held numbers in training, but none of its 400 values is one now, as 'n. a. yet'",
        ),
        (
            lambda: TableEncoder().fit(messy()).transform(messy().assign(when="2024-01-31")),
            "'when' held dates like %d/%m/%Y in training",
        ),
        (lambda: TableEncoder.from_state({"kind": "neural"}), "not the state of a table encoder"),
    ],
)
def test_what_cannot_be_encoded_is_said(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)
