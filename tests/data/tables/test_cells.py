import numpy as np
import pandas as pd
import pytest

from equipoise.core.validate import reset_warnings
from equipoise.data.tables.cells import as_dates, as_numbers, as_text, date_format, is_text, mostly_numbers


def test_marks_for_missing_cells_are_missing():
    marks = ["", "  ", "?", "NA", "n/a", "NaN", "null", "None", "-", None, np.nan, pd.NA, pd.NaT]
    assert as_text(pd.Series(marks, dtype=object)).isna().all()


def test_a_whole_number_is_the_same_text_whether_or_not_others_are_missing():
    assert as_text(pd.Series([1, 2])).tolist() == as_text(pd.Series([1.0, 2.0, None])).tolist()[:2] == ["1", "2"]


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (["1", " 2.5", "1e3", "x", None], [1, 2.5, 1000, np.nan, np.nan]),
        ([True, False, True, True, None], [1, 0, 1, 1, np.nan]),
        (pd.array([1, None, 3, 4, 5], dtype="Int64"), [1, np.nan, 3, 4, 5]),
        (pd.Categorical(["1", "2", "1", None, "3"]), [1, 2, 1, np.nan, 3]),
        (pd.to_timedelta([1, 2, None, 4, 5], unit="min"), [60, 120, np.nan, 240, 300]),
        (pd.to_datetime(["2024-01-01"] * 5), [np.nan] * 5),
        ([0.5, 1, -np.inf, np.nan, 2], [0.5, 1, -np.inf, np.nan, 2]),
    ],
)
def test_numbers_are_read_from_every_type(column, wanted):
    assert np.array_equal(as_numbers(pd.Series(column)), np.array(wanted, dtype=float), equal_nan=True)


def test_a_few_remarks_do_not_make_a_column_of_numbers_text():
    assert mostly_numbers(pd.Series(["1.5"] * 19 + ["<0.5"]))
    assert not mostly_numbers(pd.Series(["1.5"] * 8 + ["A1", "B2"]))
    assert not mostly_numbers(pd.Series([None, None], dtype=object))


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        (["2024-01-31", "2024-02-01"], "%Y-%m-%d"),
        (["01/02/2024", "23/03/2024"], "%d/%m/%Y"),
        (["31.12.2023", "01.02.2024"], "%d.%m.%Y"),
        (["2024-01-31 10:20:30", "2024-02-01 00:00:00"], "%Y-%m-%d %H:%M:%S"),
        (["2024-01-31"] * 30 + ["unknown"], "%Y-%m-%d"),
        (["A12", "B3"], None),
        (["12 Main Street", "4 Hill Road"], None),
        (["2024-01-31", "31.01.2024"], None),
        ([None, None], None),
    ],
)
def test_the_one_format_of_dates_is_found(cells, form):
    assert date_format(pd.Series(cells, dtype=object)) == form


def test_dates_of_any_zone_are_compared_in_utc():
    text = as_dates(pd.Series(["2024-01-01T12:00:00+02:00", "2024-01-01T12:00:00-01:00"]), "%Y-%m-%dT%H:%M:%S%z")
    assert text.dt.hour.tolist() == [10, 13]
    typed = as_dates(pd.Series(pd.to_datetime(["2024-01-01T12:00:00+02:00"])))
    assert typed.dt.hour.tolist() == [10]
    assert as_dates(pd.Series(["2024-01-01", "soon"]), "%Y-%m-%d").isna().tolist() == [False, True]


def test_only_types_that_say_what_they_are_are_not_read_as_text():
    assert is_text(pd.Series(["a"]))
    assert is_text(pd.Series([1.5]).astype("category"))
    assert not any(is_text(pd.Series(v)) for v in ([1], [1.5], [True], pd.to_datetime(["2024-01-01"])))


def test_dates_that_could_be_read_both_ways_are_said():
    reset_warnings()
    with pytest.warns(UserWarning, match=r"'0\d/0\d/2024' are read with the month first"):
        assert date_format(pd.Series(["01/02/2024", "03/02/2024"] * 5)) == "%m/%d/%Y"


@pytest.mark.parametrize(
    "cells", [["2024-02-01", "2024-03-02"], ["01/02/2024", "23/02/2024"], ["05/05/2024", "06/06/2024"]]
)
def test_dates_that_can_be_read_one_way_are_not(cells):
    reset_warnings()
    assert date_format(pd.Series(cells)) is not None
