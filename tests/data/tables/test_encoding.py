"""The table encoder on what real tables have."""

import numpy as np
import pandas as pd
import pytest

from equipoise.data.tables.encoding import TableEncoder, make_encoder


@pytest.fixture(scope="module")
def frame():
    generator = np.random.default_rng(0)
    n = 120
    frame = pd.DataFrame(
        {
            "amount": np.r_[generator.normal(size=n - 1), 1e9],
            "text number": [str(x) for x in generator.integers(0, 50, n)],
            "gap": np.where(generator.random(n) < 0.3, np.nan, generator.normal(size=n)),
            "town": generator.choice(["Rome", "Bonn", None], n),
            "sex": generator.choice(["f", "m"], n),
            "note": [f"item {i} of {i % 9}" for i in range(n)],
            "day": [f"2024-01-{1 + i % 28:02d}" for i in range(n)],
            "constant": 1,
            "empty": [None] * n,
            "flag": generator.random(n) < 0.5,
            "endless": np.r_[np.inf, generator.normal(size=n - 1)],
        }
    )
    frame.loc[3, "day"] = None
    return frame


@pytest.mark.parametrize("kind", ["neural", "tree"])
def test_rows_keep_their_place_whatever_the_order_of_rows_and_columns(frame, kind):
    encoder = TableEncoder(kind)
    matrix = encoder.fit_transform(frame)
    assert matrix.dtype == np.float32
    assert len(matrix) == len(frame)
    turned = frame.iloc[::-1][frame.columns[::-1]]
    np.testing.assert_allclose(encoder.transform(turned)[::-1], matrix, rtol=1e-5, atol=1e-5)


def test_networks_get_bounded_numbers_and_trees_keep_what_is_missing(frame):
    neural, tree = (TableEncoder(kind).fit_transform(frame) for kind in ("neural", "tree"))
    assert np.isfinite(neural).all()
    assert np.abs(neural).max() < 10
    assert np.isnan(tree).sum() >= frame["gap"].isna().sum()
    assert not np.isinf(tree).any()


@pytest.mark.parametrize("kind", ["neural", "tree"])
def test_unseen_categories_and_gaps_are_scored_not_refused(frame, kind):
    encoder = TableEncoder(kind).fit(frame)
    new = frame.head(5).copy()
    new["town"] = "Paris"
    new["sex"] = None
    new["amount"] = np.nan
    assert encoder.transform(new).shape == encoder.transform(frame.head(5)).shape


def test_an_unseen_category_is_not_the_first_one():
    frame = pd.DataFrame({"sex": ["f", "m"] * 30, "x": np.arange(60.0)})
    new = pd.DataFrame({"sex": ["f", "m", "x"], "x": 3.0})
    assert TableEncoder("neural").fit(frame).transform(new)[:, :2].tolist() == [[1, 0], [0, 1], [0, 0]]


def test_what_trees_never_saw_missing_is_the_usual_value_and_what_they_did_stays_missing():
    frame = pd.DataFrame({"town": ["a", "b", "b"] * 20, "x": np.arange(60.0), "gap": [np.nan, 1.0, 2.0] * 20})
    new = pd.DataFrame({"town": ["z", None], "x": np.nan, "gap": np.nan})
    found = TableEncoder("tree").fit(frame).transform(new)
    assert found[:, :2].tolist() == [[1, 29], [1, 29]]
    assert np.isnan(found[:, 2]).all()


def test_what_is_new_to_a_model_is_counted(frame):
    encoder = TableEncoder("tree").fit(frame)
    assert encoder.unfamiliar(frame) == []
    new = frame.head(6).assign(day=["soon", *frame["day"][1:6]], sex=["f", "m", "x", "f", None, "m"])
    assert encoder.unfamiliar(new) == [
        "'sex' is empty in 1 of 6 rows, and was in none of training",
        "'sex' holds a value that training did not in 1 of 6 rows, as 'x'",
        "'day' holds no date in 1 of 6 rows, as 'soon': counted as missing",
    ]
    with pytest.raises(ValueError, match=r"column 'sex' holds no value that the model was fitted on, as 'x'; it knows"):
        encoder.unfamiliar(new.assign(sex="x"))


def test_each_column_says_what_it_was_read_as(frame):
    told = TableEncoder("tree").fit(frame).read_as()
    assert list(told) == list(frame)
    assert [told[name] for name in ("amount", "text number", "town", "note", "day", "empty")] == [
        "number",
        "number",
        "category (2 values)",
        "text",
        "date (%Y-%m-%d)",
        "left out (it holds nothing)",
    ]


def test_held_out_rows_do_not_change_the_encoding(frame):
    encoder = TableEncoder().fit(frame.head(80))
    alone = encoder.transform(frame.iloc[80:90])
    np.testing.assert_array_equal(encoder.transform(frame.iloc[80:])[:10], alone)


def test_a_missing_column_is_named_with_its_likely_other_name(frame):
    encoder = TableEncoder("tree").fit(frame)
    with pytest.raises(ValueError, match=r"lacks column 'town'.*did you mean 'Town'"):
        encoder.transform(frame.rename(columns={"town": "Town"}))


def test_a_table_without_information_is_refused():
    with pytest.raises(ValueError, match="no column is left"):
        TableEncoder().fit(pd.DataFrame({"a": [None, None, None]}))
    with pytest.raises(ValueError, match="kind='forest'"):
        make_encoder("forest")
