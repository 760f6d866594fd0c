"""Files of comparisons and triplets as people have them."""

import numpy as np
import pandas as pd
import pytest

from equipoise.core.validate import reset_warnings
from equipoise.data import as_quadruples, check_quadruples, check_triplets, read_comparisons, read_triplets


def _file(folder, text, name="said.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _answers(table):
    said = table.comparisons
    names = said.item_names
    return [
        (said.annotator_names[a], names[i], names[j], y)
        for a, i, j, y in zip(
            *(getattr(said, n).tolist() for n in ("annotator", "left", "right", "label")), strict=True
        )
    ]


WANTED = [("ann", "x", "y", 1), ("bob", "z", "y", -1), ("ann", "x", "z", 0)]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("1", "-1", "0"), "numbers"),
        (("1.0", "-1.0", "0.0"), "numbers"),
        (("x", "y", "tie"), "name the winner; 1 ties"),
        (("left", "Right", "DRAW"), "words"),
        (("a", "b", "equal"), "words"),
    ],
)
def test_labels_are_read_in_every_form(tmp_path, labels, said):
    text = "worker,left,right,label\n" + "\n".join(
        f"{who},{one},{two},{label}" for (who, one, two, _), label in zip(WANTED, labels, strict=True)
    )
    table = read_comparisons(_file(tmp_path, text))
    assert _answers(table) == WANTED
    assert said in table.notes[-1]
    assert "annotator: column 'worker'" in table.notes


def test_zero_and_one_alone_must_be_explained(tmp_path):
    path = _file(tmp_path, "item_i,item_j,label,strength\n2,10,1,3\n10,1,0,2\n")
    with pytest.raises(ValueError, match="only 0 and 1"):
        read_comparisons(path)
    tied, lost = (read_comparisons(path, zero=zero).comparisons for zero in ("tie", "right"))
    assert tied.label.tolist() == [1, 0]
    assert lost.label.tolist() == [1, -1]
    assert tied.item_names == ("1", "2", "10")
    assert tied.weight.tolist() == [3.0, 2.0]
    assert tied.num_annotators == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("left,right,label\na,b,1\na,,1\n", r"line 3 of .* has no value in column 'right'"),
        ("left,right,label\na,b,1\nb,b,1\n", r"line 3 of .* compares 'b' with itself"),
        (
            "left,right,label\na,b,1\nb,a,-1\na,b,7\n",
            r"line 4 of .* has the label '7' in column 'label', wanted a number",
        ),
        ("left,right,label\na,b,a\nb,a,c\n", r"line 3 of .* has the label 'c' .* winner"),
        ("left,right,label,weight\na,b,1,0\nb,a,-1,1\n", r"line 2 of .* has the weight 0"),
        ("left,right,label\n0,1,1\n1,0,0\n", "could be the names of the winners"),
        ("left,right,verdict\na,b,1\n", "no column of .* is plainly the label"),
    ],
)
def test_bad_rows_are_named_by_their_line(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        read_comparisons(_file(tmp_path, text))


def test_names_stay_as_they_are_written(tmp_path):
    pd.DataFrame({"who": ["1", "2"], "a": ["007", "NA"], "b": ["NA", "07"], "winner": ["NA", "NA"]}).to_csv(
        tmp_path / "said.csv", index=False
    )
    table = read_comparisons(tmp_path / "said.csv", annotator="who")
    assert set(table.comparisons.item_names) == {"007", "NA", "07"}
    assert table.comparisons.label.tolist() == [-1, 1]


def test_triplets_of_tables_and_arrays(tmp_path):
    table = read_triplets(_file(tmp_path, "far,anchor,near\n10,1,2\n2,10,1\n"))
    assert table.triplets.tolist() == [[0, 1, 2], [2, 0, 1]]
    assert table.item_names == ("1", "2", "10")
    rows = np.array([[0, 1, 2], [1, 2, 3]])
    for responses in (np.array([1, -1]), np.array([True, False])):
        np.savez(tmp_path / "t.npz", triplets=rows, responses=responses)
        assert read_triplets(tmp_path / "t.npz").triplets.tolist() == [[0, 1, 2], [1, 3, 2]]
    assert as_quadruples(table.triplets).tolist() == [[0, 1, 0, 2], [2, 0, 2, 1]]


@pytest.mark.parametrize(
    ("rows", "items", "error", "words"),
    [
        ([[0, 1, 1]], None, ValueError, "row 0 of triplets"),
        ([[0, 1, 2], [2, 0, 2]], None, ValueError, "row 1 of triplets"),
        ([[1, 2, 3]], 3, ValueError, "subtract 1"),
        ([[0, 1, 3]], 3, ValueError, r"row 0 of triplets is \[0, 1, 3\], wanted items of 0 to 2"),
        ([[0, -1, 3]], None, ValueError, r"row 0 of triplets is \[0, -1, 3\], wanted items of at least 0"),
        ([[0.0, 1.0, 2.0]], None, ValueError, "whole numbers"),
        (np.zeros((0, 3), dtype=int), None, ValueError, "at least one row"),
    ],
)
def test_bad_triplets_are_refused(rows, items, error, words):
    with pytest.raises(error, match=words):
        check_triplets(rows, items)


def test_bad_quadruples_are_refused():
    assert check_quadruples([[0, 1, 0, 2]])[1] == 3
    for row in ([0, 0, 1, 2], [0, 1, 2, 2], [0, 1, 1, 0]):
        with pytest.raises(ValueError, match="compares something with itself"):
            check_quadruples([row, [0, 1, 0, 2]])


def test_rows_that_say_nothing_are_left_out_with_a_word(tmp_path):
    reset_warnings()
    path = _file(tmp_path, "anchor,near,far\n1,2,3\n1,2,1\n4,2,3\n")
    with pytest.warns(UserWarning, match=r"1 of 3 rows .* left out, the first in line 3"):
        assert read_triplets(path).triplets.tolist() == [[0, 1, 2], [3, 1, 2]]
