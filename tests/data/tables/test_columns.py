"""What columns are read as: written numbers, codes, dates, and what is not told apart in float32."""

import numpy as np
import pandas as pd
import pytest

from equipoise.data.tables.columns import NumberFormat, column_reading, number_format
from equipoise.data.tables.encoding import TableEncoder

AMOUNTS = np.r_[np.arange(1, 40) * 37.25, 1234.5, 98765.25, 0.75]


def written(numbers, decimal=".", thousands=",", pattern="{}"):
    marks = str.maketrans({".": decimal, ",": thousands})
    return pd.Series([pattern.format(f"{number:,.2f}".translate(marks)) for number in numbers])


@pytest.mark.parametrize(
    ("decimal", "thousands", "pattern", "unit"),
    [
        (".", "", "{}", ""),
        (".", ",", "{}", ""),
        (",", "", "{}", ""),
        (",", ".", "{}", ""),
        (".", " ", "{}", ""),
        (",", " ", "{}", ""),
        (",", "\N{NO-BREAK SPACE}", "{}", ""),
        (",", "\N{NARROW NO-BREAK SPACE}", "{} €", "€"),
        (".", "'", "CHF {}", ""),
        (".", "’", "{}", ""),
        (".", ",", "${}", ""),
        (".", ",", "USD {}", ""),
        (".", ",", "{}%", "%"),
        (",", ".", "{} kg", "kg"),
        (".", ",", "{} mg/dl", "mg/dl"),
    ],
)
def test_numbers_are_read_however_they_are_written(decimal, thousands, pattern, unit):
    text = written(AMOUNTS, decimal, thousands, pattern)
    form = number_format(text)
    assert form.numbers(text).tolist() == AMOUNTS.tolist()
    assert form.unit == unit


def test_signs_exponents_and_bare_marks_are_numbers():
    cells = ["-5", "+5", "−5", "- 5", "-$5", "$-5", "1e3", "2.5E-2", ".5", "5.", "abc", "5 5", "", None]
    numbers = NumberFormat().numbers(pd.Series(cells, dtype=object))
    assert numbers[:10].tolist() == [-5, 5, -5, -5, -5, -5, 1000, 0.025, 0.5, 5]
    assert np.isnan(numbers[10:]).all()


@pytest.mark.parametrize("cell", ["12,34", "1,2345", "1,234,56", "0,123", ",123", "1,234 lb"])
def test_a_cell_that_breaks_the_format_is_not_a_number(cell):
    assert np.isnan(NumberFormat(".", ",", "kg").numbers(pd.Series([cell]))[0])


def test_a_few_numbers_beside_a_word_are_codes_and_many_are_a_measurement():
    codes = pd.Series([*list("1234" * 30), "other"])
    assert column_reading(codes).kind == "text"
    assert column_reading(codes[:-1]).kind == "number"
    laboratory = pd.Series([*(f"{k}.5" for k in range(60)), "<0.5", "hemolysed"])
    reading = column_reading(laboratory)
    assert (reading.kind, reading.lost, reading.rows) == ("number", 2, 62)
    assert str(reading) == "number (2 of 62 cells hold something else and count as missing)"


def test_names_and_numbered_names_stay_text():
    for cells in (["Rome", "Bonn"] * 20, [f"item {k}" for k in range(40)], [f"{k} of 9" for k in range(40)]):
        assert column_reading(pd.Series(cells)).kind == "text"
    assert column_reading(pd.Series(pd.Categorical(["1", "2"] * 20))).kind == "text"


def test_dates_keep_the_format_of_the_training_rows():
    reading = column_reading(pd.Series([f"{day:02d}/03/2024" for day in range(1, 30)]))
    assert (reading.kind, reading.dates) == ("date", "%d/%m/%Y")
    # Alone, these two would be read month first.
    assert reading.read(pd.Series(["01/02/2024", "05/06/2024"])).dt.month.tolist() == [2, 6]


@pytest.mark.parametrize(
    ("trained", "given", "message"),
    [
        ([f"{k}.5" for k in range(40)], ["high", "low"], "column 'x' holds no numbers, as 'high'"),
        ([f"2024-01-{1 + k % 28:02d}" for k in range(40)], ["soon", None], "holds no dates of the format %Y-%m-%d"),
    ],
)
def test_a_column_that_became_something_else_is_refused_and_an_empty_one_is_not(trained, given, message):
    reading = column_reading(pd.Series(trained, name="x"))
    with pytest.raises(ValueError, match=message):
        reading.read(pd.Series(given, name="x"))
    assert reading.read(pd.Series([None, ""], name="x")).isna().all()


def test_cells_that_cannot_be_read_are_counted():
    reading = column_reading(pd.Series([f"{k}.5" for k in range(40)], name="x"))
    cells = pd.Series(["1.5", "high", None, "N/A", "low"], name="x")
    assert reading.unread(cells).tolist() == [False, True, False, False, True]
    assert not reading.unread(pd.Series([1.5, np.nan], name="x")).any()


@pytest.mark.parametrize("start", [1_700_000_000_000, 20_240_101_000_000, -(2**60)])
def test_large_numbers_stay_apart_in_float32(start):
    column = start + np.arange(200) * 1000
    for given in (pd.Series(column), pd.Series(column.astype(str))):
        matrix = TableEncoder("tree").fit_transform(given.to_frame("time"))
        assert len(np.unique(matrix)) == 200
        assert (np.diff(matrix[:, 0]) > 0).all()


def test_numbers_of_usual_size_are_left_as_they_are():
    assert column_reading(pd.Series([0.5, 2.0**24 - 1])).center == 0.0
    assert TableEncoder("tree").fit_transform(pd.DataFrame({"x": [3.0, 4.0]})).tolist() == [[3], [4]]
