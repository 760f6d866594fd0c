"""Comparisons counted a part at a time are those of the whole file, wherever it is cut."""

import numpy as np
import pandas as pd
import pytest

from equipoise.data import ComparisonTally, PairCounts, read_comparisons

FIELDS = ("first", "second", "first_wins", "second_wins", "ties")


def _frame(seed=0, rows=400, items=9, label="number"):
    generator = np.random.default_rng(seed)
    left = generator.integers(items, size=rows)
    right = (left + generator.integers(1, items, size=rows)) % items
    answer = generator.integers(-1, 2, size=rows)
    names = np.array([f"item {k}" for k in generator.permutation(items)], dtype=object)
    if label == "winner":
        said = np.where(answer == 1, names[left], np.where(answer == -1, names[right], "tie"))
    else:
        said = answer if label == "number" else np.array(["tie", "left", "right"], dtype=object)[answer]
    weight = generator.integers(1, 5, size=rows)
    columns = {"who": generator.integers(5, size=rows), "item_a": names[left], "item_b": names[right]}
    return pd.DataFrame({**columns, "label": said, "votes": weight})


def _same(one, other):
    assert one.num_items == other.num_items
    for name in FIELDS:
        assert getattr(one, name).equal(getattr(other, name)), name


@pytest.mark.parametrize("label", ["number", "winner", "word"])
@pytest.mark.parametrize("ending", ["csv", "tsv.gz", "parquet"])
def test_a_file_counted_in_chunks_is_the_file_read_at_once(tmp_path, label, ending):
    frame, path = _frame(label=label), tmp_path / f"x.{ending}"
    if ending == "parquet":
        frame.to_parquet(path, row_group_size=70)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending.startswith("tsv") else ",")
    whole = read_comparisons(path)
    for rows in (7, 100, 1000):
        found = ComparisonTally.of(path, chunk_rows=rows).counts()
        _same(found.counts, PairCounts.of(whole.comparisons))
        assert found.item_names == whole.comparisons.item_names
        assert found.rows == 400
        assert found.notes == whole.notes


def test_files_counted_apart_are_one_file(tmp_path):
    frame = _frame(1, rows=300)
    frame.to_csv(tmp_path / "whole.csv", index=False)
    parts = [tmp_path / f"{k}.csv" for k in range(3)]
    for path, cut in zip(parts, (slice(0, 50), slice(50, 70), slice(70, 300)), strict=True):
        frame.iloc[cut].to_csv(path, index=False)
    whole = ComparisonTally.of(tmp_path / "whole.csv").counts()
    first, *others = [ComparisonTally.of(path, chunk_rows=20) for path in parts]
    together = first.merged(*others).counts()
    _same(together.counts, whole.counts)
    assert together.item_names == whole.item_names
    # Counts of one list of names are merged without the files.
    names = sorted(whole.item_names)
    apart = [tally.counts(item_names=names).counts for tally in (first, *others)]
    _same(apart[0].merged(*apart[1:]), first.merged(*others).counts(item_names=names).counts)


def test_numbers_are_items_in_their_order_and_01_is_not_1(tmp_path):
    (tmp_path / "x.csv").write_text("left,right,label\n10,9,-1\n9,2,1\n02,2,1\n", encoding="utf-8")
    found = ComparisonTally.of(tmp_path / "x.csv", chunk_rows=1).counts()
    assert found.item_names == ("02", "2", "9", "10") == read_comparisons(tmp_path / "x.csv").comparisons.item_names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("left,right,label\na,b,1\nb,c,-1\nc,,1\n", "line 4 of .*x.csv has no value in column 'right'"),
        ("left,right,label\na,b,1\nb,c,-1\nc,c,1\n", "line 4 of .*x.csv compares 'c' with itself"),
        ("left,right,label\na,b,1\nb,c,-1\na,b,1\nc,a,what\n", "line 5 of .*x.csv has the label 'what'"),
        ("left,right,label,votes\na,b,1,1\nb,c,-1,0\n", "line 3 of .*x.csv has the weight 0"),
        ("left,right,label\na,b,1\nb,c,0\n", "only 0 and 1"),
        ("left,right,label\n", "no rows"),
        ("left,right\na,b\n", "plainly the label"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_as_by_the_whole_file(tmp_path, text, words):
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="utf-8")
    for work in (lambda: ComparisonTally.of(path, chunk_rows=1).counts(), lambda: read_comparisons(path)):
        with pytest.raises(ValueError, match=words):
            work()


def test_a_bad_line_of_the_second_file_is_named(tmp_path):
    for name, last in (("a", "1"), ("b", "nobody")):
        text = f"left,right,label\na,b,1\nb,c,-1\nc,a,{last}\n"
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    one, two = (ComparisonTally.of(tmp_path / f"{name}.csv") for name in "ab")
    with pytest.raises(ValueError, match=r"line 4 of .*b\.csv has the label 'nobody'"):
        one.merged(two).counts()
    with pytest.raises(ValueError, match="item 'a' is none of the 1 item_names"):
        one.counts(item_names=["b"])
