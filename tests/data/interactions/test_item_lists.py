"""Interactions from text."""

import pytest

from equipoise.data import read_item_lists


def _written(tmp_path, text):
    path = tmp_path / "users.dat"
    path.write_text(text)
    return path


def test_a_line_is_a_user(tmp_path):
    path = _written(tmp_path, "2 5 1\n0\n3 1 1 2\n")
    likes = read_item_lists(path, num_items=8)
    assert (likes.num_users, likes.num_items) == (3, 8)
    assert [row.tolist() for row in likes] == [[1, 5], [], [1, 2]]
    assert read_item_lists(str(path)).num_items == 6


def test_what_is_no_such_file_is_named(tmp_path):
    for text, words in (
        ("1 2\n2 3\n", "line 2 .* has 1 items where its count is 2"),
        ("1 2\n\n1 0", "line 2 .* must hold a count"),
        ("1 a\n", "line 1 .* must hold a count and item indices, got '1 a'"),
        ("", "there are no items"),
    ):
        with pytest.raises(ValueError, match=words):
            read_item_lists(_written(tmp_path, text))
    for text in ("1 4\n", "1 -1\n"):
        with pytest.raises(IndexError, match="wanted 0 to 3"):
            read_item_lists(_written(tmp_path, text), num_items=4)
