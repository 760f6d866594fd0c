import gzip

import numpy as np
import pandas as pd
import polars
import pytest

from equipoise.data import read_table, table_task

FRAME = pd.DataFrame(
    {"amount": [5.0, 80.5, 3.0, 9.0], "shop": ["a", "b", None, "a"], "fraud": ["no", "yes", "no", "no"]}
)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", lambda p: FRAME.to_csv(p, index=False)),
        ("t.CSV", lambda p: FRAME.to_csv(p, index=False)),
        ("t.csv.gz", lambda p: FRAME.to_csv(p, index=False)),
        ("t.tsv", lambda p: FRAME.to_csv(p, index=False, sep="\t")),
        ("t.txt", lambda p: FRAME.to_csv(p, index=False, sep="|")),
        ("bom.csv", lambda p: FRAME.to_csv(p, index=False, encoding="utf-8-sig")),
        ("euro.csv", lambda p: FRAME.to_csv(p, index=False, sep=";", decimal=",")),
        ("indexed.csv", lambda p: FRAME.to_csv(p)),
        ("t.parquet", lambda p: FRAME.to_parquet(p)),
        ("polars.pq", lambda p: polars.from_pandas(FRAME).write_parquet(p)),
        ("name.of.a.file.csv", lambda p: FRAME.to_csv(p, index=False)),
    ],
)
def test_the_usual_files_give_the_same_table(tmp_path, name, write):
    write(tmp_path / name)
    read = read_table(tmp_path / name)
    assert read.dtypes.tolist() == FRAME.dtypes.tolist()
    assert read.columns.tolist() == FRAME.columns.tolist()
    assert read.fillna("").to_numpy().tolist() == FRAME.fillna("").to_numpy().tolist()


def test_a_nameless_first_column_that_does_not_count_rows_stays(tmp_path):
    FRAME.set_axis([7, 8, 9, 11]).to_csv(tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv").shape == (4, 4)


@pytest.mark.parametrize(
    ("content", "columns", "first"),
    [
        ("a;b\n1,5;2\n2,5;3\n", ["a", "b"], [1.5, 2]),
        ("size, m;b\n1,5;2\n2,5;3\n", ["size, m", "b"], [1.5, 2]),
        ("sep=;\na;b\n1,5;2\n", ["a", "b"], [1.5, 2]),
        ("sep=|\r\na|b\r\n1.5|2\r\n", ["a", "b"], [1.5, 2]),
        ("a|note\n1|x, y\n2|z\n", ["a", "note"], [1, "x, y"]),
        ('a, "b, c"\n1, "x, y"\n2, "z"\n', ["a", "b, c"], [1, "x, y"]),
        ("a,b\n1,x;y\n2,z;w\n", ["a", "b"], [1, "x;y"]),
    ],
)
def test_fields_are_separated_as_the_lines_agree(tmp_path, content, columns, first):
    (tmp_path / "t.csv").write_bytes(content.encode())
    read = read_table(tmp_path / "t.csv")
    assert list(read) == columns
    assert read.iloc[0].tolist() == first


@pytest.mark.parametrize("start", [0, 1, 1000])
def test_a_nameless_first_column_that_counts_rows_is_an_index(tmp_path, start):
    FRAME.set_axis(range(start, start + 4)).to_csv(tmp_path / "t.csv")
    assert list(read_table(tmp_path / "t.csv")) == list(FRAME)


def test_missing_marks_are_values_in_a_literal_column(tmp_path):
    (tmp_path / "t.csv").write_text("label,x\nNone,NA\ncat,1\n,2\n")
    read = read_table(tmp_path / "t.csv", literal=["label"])
    assert read["label"].fillna("-").tolist() == ["None", "cat", "-"]
    assert read["x"].fillna(-1).tolist() == [-1, 1, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b,a\n1,2,3\n", "2 of its columns are named 'a'; rename all but one"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b"\n\n", "is empty"),
        ("t.csv", b"a,b\n", "has a header but no rows"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "cannot be read as a table.*line 3"),
        ("t.csv", b"a,b\n1,2,3\n4,5,6\n", "more fields than its header has names"),
        ("t.csv", "é,b\n1,2\n".encode("latin-1"), "is not UTF-8 text"),
        ("t.csv.gz", b"a,b\n1,2\n", "cannot be read as a table"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:30], "cannot be read as a table"),
        ("t.parquet", b"not parquet", "cannot be read as Parquet"),
        ("t.xlsx", b"PK", "ending that is not known"),
        ("table", b"a,b\n1,2\n", "ending that is not known"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_a_folder_are_told_apart(tmp_path):
    (tmp_path / "loans.csv").write_text("a\n1\n")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*loan\.csv; did you mean .*loans\.csv\?"):
        read_table(tmp_path / "loan.csv")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_table(tmp_path / "nowhere" / "loan.csv")
    with pytest.raises(ValueError, match="is a folder"):
        read_table(tmp_path)


def test_the_rarer_text_label_is_positive_and_that_is_said():
    task = table_task(FRAME.assign(fraud=["fine", "theft", "fine", "fine"]), target="fraud")
    assert task.binary
    assert task.positive == "theft"
    assert task.classes == ("fine", "theft")
    assert task.target.tolist() == [0, 1, 0, 0]
    assert list(task.features) == ["amount", "shop"]
    assert "'theft' counts as positive: it is the rarer value of 'fraud' (25.0 % of rows)" in task.notes[0]
    assert task.class_counts.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("values", "positive"),
    [
        ([0, 1, 1, 1], 1),
        ([True, True, False, True], True),
        ([0.0, 1.0, 1.0, 1.0], 1.0),
        (["0", "1", "1", "1"], "1"),
        (["False", "True", "True", "True"], "True"),
        (["no", "yes", "yes", "yes"], "yes"),
        (["N", "Y", "Y", "Y"], "Y"),
        (["Negative", "Positive", "Positive", "Positive"], "Positive"),
    ],
)
def test_the_value_that_says_so_is_positive_even_where_it_is_common(values, positive):
    task = table_task(FRAME.assign(fraud=values), target="fraud")
    assert task.positive == positive
    assert type(task.positive) is type(positive)
    assert task.target.sum() == 3
    assert task.notes == ()


@pytest.mark.parametrize(
    ("values", "given", "meant"),
    [
        ([1, 2, 1, 1], "1", 1),
        ([1.0, 2.0, 1.0, 1.0], "1", 1.0),
        (["No", "Yes", "No", "No"], "no", "No"),
        ([False, True, False, False], "false", False),
        ([-1, 1, -1, -1], -1, -1),
        (pd.Categorical(["a", "b", "a", "a"]), "a", "a"),
    ],
)
def test_the_positive_value_is_found_by_its_text(values, given, meant):
    task = table_task(FRAME.assign(fraud=values), target="fraud", positive=given)
    assert task.positive == meant
    assert task.target.tolist() == [1, 0, 1, 1]


def test_labels_and_groups_that_differ_in_case_or_spaces_are_one():
    frame = FRAME.assign(fraud=["No", "yes ", "no", "no"], shop=["A", "b", "a", " a"])
    task = table_task(frame, target="fraud", group="shop")
    assert task.classes == ("no", "yes")
    assert task.groups.tolist() == [0, 1, 0, 0]
    assert [note.split(" that differ")[0] for note in task.notes] == ["labels of 'fraud'", "labels of 'shop'"]
    assert frame["shop"].tolist() == ["A", "b", "a", " a"]


def test_a_column_of_lists_is_refused():
    frame = FRAME.assign(history=[[1, 2], [3], [], [4]])
    with pytest.raises(ValueError, match="column 'history' holds a list in a cell; give each of its parts a column"):
        table_task(frame, target="fraud")


def test_classes_of_any_type_are_sorted_and_keep_their_type():
    task = table_task(FRAME.assign(fraud=[3, 1, 2, 1]), target="fraud")
    assert task.classes == (1, 2, 3)
    assert all(type(value) is int for value in task.classes)
    assert task.target.tolist() == [2, 0, 1, 0]
    assert task.positive is None
    mixed = table_task(FRAME.assign(fraud=["b", 1, 2, "a"]), target="fraud")
    assert mixed.classes == (1, 2, "a", "b")


def test_one_of_several_values_can_be_held_against_the_rest():
    task = table_task(FRAME.assign(fraud=["a", "b", "c", "a"]), target="fraud", positive="b")
    assert task.classes == ("not b", "b")
    assert task.target.tolist() == [0, 1, 0, 0]
    assert "against the 2 other values" in task.notes[0]


def test_groups_and_times_are_read_and_are_no_features():
    frame = FRAME.assign(who=["x", "y", "x", "z"], when=["31/01/2024", "01/02/2024", "15/02/2024", "30/01/2024"])
    task = table_task(frame, target="fraud", group="who", time="when")
    assert task.groups.tolist() == [0, 1, 0, 2]
    assert np.argsort(task.times).tolist() == [3, 0, 1, 2]
    assert list(task.features) == ["amount", "shop"]
    part = task.take(np.array([2, 1]))
    assert part.groups.tolist() == [0, 1]
    assert part.target.tolist() == [0, 1]
    assert part.features.index.tolist() == [0, 1]
    assert part.times[0] == task.times[2]


def test_a_polars_frame_will_do():
    task = table_task(polars.from_pandas(FRAME), target="fraud")
    assert task.target.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"target": "Fruad"}, "target column 'Fruad' is not in the table; did you mean 'fraud'?"),
        ({}, {"target": "zzz"}, "it has 'amount', 'shop', 'fraud'"),
        ({}, {"target": "fraud", "group": "shops"}, "group column 'shops' .*'shop'"),
        ({}, {"target": "fraud", "time": "fraud"}, "cannot be both target and time"),
        ({"fraud": ["no", None, "no", None]}, {"target": "fraud"}, "no value in 2 of 4 rows, the first being row 1"),
        ({"fraud": ["no", " ", "no", "x"]}, {"target": "fraud"}, "no value in 1 of 4 rows"),
        ({"fraud": "no"}, {"target": "fraud"}, "one value only, 'no'"),
        ({}, {"target": "fraud", "positive": "maybe"}, "positive='maybe' is not a value.*'no', 'yes'"),
        ({}, {"target": "fraud", "group": "shop"}, "group column 'shop' has no value in 1 of 4"),
        ({"g": 1}, {"target": "fraud", "group": "g"}, "one value only"),
        ({"t": ["x", "y", "z", "w"]}, {"target": "fraud", "time": "t"}, "neither numbers nor dates"),
        ({"t": [1.0, np.inf, 2, 3]}, {"target": "fraud", "time": "t"}, "1 values that cannot be read"),
        ({"t": [1.0, np.nan, 2, 3]}, {"target": "fraud", "time": "t"}, "no value in 1 of 4 rows"),
    ],
)
def test_what_is_wrong_with_a_task_is_said(change, options, message):
    with pytest.raises(ValueError, match=message):
        table_task(FRAME.assign(**change), **options)


def test_a_measurement_and_a_name_are_no_classes():
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"x": range(100), "y": generator.random(100), "name": [f"n{k}" for k in range(100)]})
    for column in ("y", "name"):
        with pytest.raises(ValueError, match=r"100 different values in 100 rows.*cut it into classes"):
            table_task(frame, target=column)
    assert len(table_task(frame.assign(y=np.arange(100) % 25), target="y").classes) == 25


def test_a_table_without_features_or_with_twins_is_refused():
    with pytest.raises(ValueError, match="no columns besides 'fraud'"):
        table_task(FRAME[["fraud"]], target="fraud")
    with pytest.raises(ValueError, match="2 columns named 'fraud'"):
        table_task(FRAME.set_axis(["a", "fraud", "fraud"], axis=1), target="fraud")
    with pytest.raises(ValueError, match="DataFrame is wanted, got ndarray"):
        table_task(np.zeros((3, 2)), target="fraud")
