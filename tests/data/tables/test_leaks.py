"""What would flatter a model is left out where it is certain and asked about where it is not."""

import uuid

import numpy as np
import pandas as pd
import pytest

from equipoise.data import table_task
from equipoise.data.tables.leaks import find_leaks

ROWS = 200
RNG = np.random.default_rng(0)
TARGET = (RNG.random(ROWS) < 0.3).astype(int)
SIZE = RNG.normal(size=ROWS) + TARGET
TRAIN, TEST = np.arange(150), np.arange(150, ROWS)


def leaks(**columns):
    frame = pd.DataFrame({"size": SIZE, **columns, "y": columns.get("y", TARGET)})
    return find_leaks(table_task(frame, target="y"), TRAIN, TEST)


@pytest.mark.parametrize(
    ("name", "column", "why"),
    [
        ("row", np.arange(1, ROWS + 1), "counts the rows"),
        ("down", np.arange(ROWS, 0, -1).astype(str), "counts the rows"),
        ("outcome", np.where(TARGET == 1, "died", "alive"), "a copy of 'y'"),
        ("flag", TARGET * 5.0 - 2, "a copy of 'y'"),
        ("patient_id", RNG.permutation(10_000)[:ROWS], "an identifier"),
        ("customerID", [f"{k}x" for k in RNG.permutation(10_000)[:ROWS]], "an identifier"),
        ("case", [f"C-{k:05d}" for k in RNG.permutation(10_000)[:ROWS]], "an identifier"),
        ("key", [str(uuid.UUID(int=int(k) << 90 | 7)) for k in RNG.permutation(10_000)[:ROWS]], "an identifier"),
    ],
)
def test_what_is_certain_is_left_out_and_said(name, column, why):
    found = leaks(**{name: column})
    assert why in found.dropped[name]
    assert list(found.task.features) == ["size"]
    assert found.warnings[0].startswith(
        f"column {name!r} is left out: it is " if why != "counts the rows" else "column"
    )


@pytest.mark.parametrize(
    "column",
    [
        RNG.permutation(ROWS),  # a rank
        RNG.permutation(10_000)[:ROWS],  # an amount
        [f"http://host/{k % 7}/page{k}" for k in range(ROWS)],
        np.where(RNG.random(ROWS) < 0.5, "a", "b"),
        np.zeros(ROWS),
        [None] * ROWS,
    ],
)
def test_features_stay(column):
    found = leaks(feature=column)
    assert found.dropped == {}
    assert found.warnings == ()


@pytest.mark.parametrize(
    "column",
    [
        np.where(TARGET == 1, RNG.random(ROWS), 2 + RNG.random(ROWS)),
        np.where(TARGET == 1, RNG.random(ROWS), np.nan),  # a date of death is filled where somebody died
        [None if y == 0 else f"2024-01-{1 + k % 28:02d}" for k, y in enumerate(TARGET)],
        [f"ward {k % 5}" if y else f"clinic {k % 5}" for k, y in enumerate(TARGET)],
    ],
)
def test_a_column_that_does_it_alone_is_asked_about_and_stays(column):
    found = leaks(late=column)
    assert found.dropped == {}
    assert len(found.warnings) == 1
    assert "column 'late' alone reaches AUROC 1.000" in found.warnings[0]


def test_one_of_three_classes_that_is_told_apart_is_no_leak():
    y = np.arange(ROWS) % 3
    found = leaks(y=y, tells_one=np.where(y == 1, 10.0, RNG.random(ROWS)))
    assert found.warnings == ()


def test_only_training_rows_are_looked_at():
    late = np.where(TARGET == 1, RNG.random(ROWS), 2 + RNG.random(ROWS))
    late[TRAIN] = RNG.random(len(TRAIN))
    assert leaks(late=late).warnings == ()


def test_dates_after_the_time_of_their_row_are_counted():
    days = pd.date_range("2024-01-01", periods=ROWS, freq="D")
    later = days + pd.to_timedelta(np.where(np.arange(ROWS) % 10 == 0, 5, -5), unit="D")
    frame = pd.DataFrame({"size": SIZE, "closed": later.astype(str), "day": days.astype(str), "y": TARGET})
    found = find_leaks(table_task(frame, target="y", time="day"), TRAIN, TEST)
    assert found.warnings == ("column 'closed' holds dates after the row's time in 20 of 200 rows.",)


def test_copies_on_both_sides_are_counted():
    frame = pd.DataFrame({"size": SIZE, "town": None, "y": TARGET})
    frame.loc[TEST[:7], ["size", "y"]] = frame.loc[TRAIN[:7], ["size", "y"]].to_numpy()
    found = find_leaks(table_task(frame, target="y"), TRAIN, TEST)
    assert found.warnings[0].startswith("7 of 50 test rows have the features of a training row")


def test_a_table_of_leaks_only_is_refused():
    frame = pd.DataFrame({"row": range(ROWS), "y": TARGET})
    with pytest.raises(ValueError, match=r"no column is left to predict from: 'row' \(it counts the rows\)"):
        find_leaks(table_task(frame, target="y"), TRAIN, TEST)


def test_small_tables_are_not_judged():
    frame = pd.DataFrame({"row": range(20), "y": [0, 1] * 10})
    assert find_leaks(table_task(frame, target="y"), np.arange(15), np.arange(15, 20)).dropped == {}
