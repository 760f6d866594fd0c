import gzip

import pandas as pd
import pytest
import torch

from equipoise.core.validate import reset_warnings
from equipoise.data import read_interactions

LOG = pd.DataFrame(
    {
        "user_id": ["ann", "bob", "ann", "ann", "cid"],
        "item_id": [30, 10, 20, 30, 40],
        "rating": [2.0, 5.0, 4.0, 3.5, 1.0],
        "timestamp": [1, 5, 3, 9, 4],
    }
)
ITEMS = pd.DataFrame(
    {
        "item_id": [10, 20, 30, 40, 50],
        "title": ["A", "B, the sequel", "C", "", "E"],
        "genres": ["x|y", "y", "x", "", "z z"],
    }
)


def _written(tmp_path, name, frame):
    path = tmp_path / name
    if name.endswith((".inter", ".item")):
        types = {"timestamp": "float", "rating": "float", "genres": "token_seq", "title": "token_seq"}
        frame = frame.rename(columns={name: f"{name}:{types.get(name, 'token')}" for name in frame.columns})
        frame.to_csv(path, sep="\t", index=False)
    elif name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("ending", [("log.csv", "items.csv"), ("log.parquet", "items.parquet"), ("m.inter", "m.item")])
def test_every_kind_of_file_gives_the_same_log(tmp_path, ending):
    log = read_interactions(_written(tmp_path, ending[0], LOG), _written(tmp_path, ending[1], ITEMS))
    assert log.user_names == ("ann", "bob", "cid")
    assert log.item_names == ("30", "10", "20", "40", "50")
    assert [log.interactions.of(user).tolist() for user in range(3)] == [[0, 2], [1], [3]]
    # Ann's later row on item 30 stands.
    assert log.ratings.tolist() == [3.5, 4.0, 5.0, 1.0]
    assert log.times.tolist() == [9, 3, 5, 4]
    assert log.titles == ("C", "A", "B, the sequel", "", "E")
    assert log.category_names == ("x", "y", "z z")
    assert log.categories.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_spaces_separate_categories_where_no_cell_has_a_bar(tmp_path):
    items = ITEMS.assign(genres=["x y", "y", " x ", "", "z"])
    log = read_interactions(_written(tmp_path, "log.csv", LOG), _written(tmp_path, "items.csv", items))
    assert log.category_names == ("x", "y", "z")
    assert log.categories[1].tolist() == [1, 1, 0]


def test_a_log_alone_has_names_and_what_it_holds(tmp_path):
    path = tmp_path / "log.csv.gz"
    with gzip.open(path, "wt") as stream:
        LOG[["user_id", "item_id"]].to_csv(stream, index=False)
    log = read_interactions(path)
    assert len(log.interactions) == 4
    assert log.ratings is log.times is log.titles is log.categories is None


def test_without_times_the_last_row_of_the_file_stands_and_dates_are_seconds(tmp_path):
    frame = LOG.drop(columns="timestamp")
    assert read_interactions(_written(tmp_path, "a.csv", frame)).ratings.tolist() == [3.5, 4.0, 5.0, 1.0]
    dated = LOG.assign(timestamp=["1970-01-02", "1970-01-01T00:01:00", "1970-01-01", "1970-01-01", "1970-01-03"])
    dated = dated.assign(timestamp=pd.to_datetime(dated.timestamp, format="ISO8601").astype(str))
    log = read_interactions(_written(tmp_path, "b.csv", dated))
    assert log.times.tolist() == [86400, 0, 60, 2 * 86400]
    assert log.ratings.tolist()[0] == 2.0


def test_low_ratings_are_left_out(tmp_path):
    log = read_interactions(_written(tmp_path, "log.csv", LOG), min_rating=3.5)
    assert log.user_names == ("bob", "ann")
    assert log.ratings.tolist() == [5.0, 3.5, 4.0] or log.ratings.tolist() == [5.0, 4.0, 3.5]
    assert len(log.interactions) == 3


def test_named_columns_are_read(tmp_path):
    frame = LOG.rename(columns={"user_id": "who", "item_id": "what", "rating": "liked", "timestamp": "when"})
    items = ITEMS.rename(columns={"item_id": "what", "genres": "kinds", "title": "called"})
    log = read_interactions(
        _written(tmp_path, "log.csv", frame),
        _written(tmp_path, "items.csv", items),
        user="who",
        item="what",
        rating="liked",
        time="when",
        category="kinds",
        title="called",
    )
    assert log.times.tolist() == [9, 3, 5, 4]
    assert log.titles[0] == "C"


def test_items_that_the_second_file_lacks_have_no_category(tmp_path):
    reset_warnings()
    with pytest.warns(UserWarning, match="2 of 4 items of the log have no row"):
        log = read_interactions(_written(tmp_path, "log.csv", LOG), _written(tmp_path, "items.csv", ITEMS[:2]))
    assert log.categories[0].tolist() == [0, 0]
    assert log.categories.dtype is torch.int64


def test_a_file_of_items_may_have_no_categories(tmp_path):
    items = _written(tmp_path, "items.csv", ITEMS.drop(columns="genres"))
    log = read_interactions(_written(tmp_path, "log.csv", LOG), items)
    assert log.categories is None
    assert log.category_names == ()
    assert len(log.titles) == len(log.item_names)


def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path):
    good = _written(tmp_path, "log.csv", LOG)
    gap, nameless = LOG.assign(item_id=[1, None, 2, 3, 4]), ITEMS.assign(genres=["", "", "", "", "z"])
    for path, items, options, words in (
        (tmp_path / "none.inter", None, {}, "there is no file"),
        (good, None, {"user": "user"}, "user column 'user' is not in .*; did you mean 'user_id'"),
        (_written(tmp_path, "a.csv", LOG.drop(columns="user_id")), None, {}, "no column of .* is plainly the user"),
        (
            _written(tmp_path, "b.csv", gap),
            None,
            {},
            "'item_id' of .* has no value in 1",
        ),
        (
            _written(tmp_path, "c.csv", LOG.assign(rating=list("12x45"))),
            None,
            {},
            "holds 'x', which is no",
        ),
        (_written(tmp_path, "d.csv", LOG.assign(timestamp=list("abcde"))), None, {}, "neither numbers nor dates"),
        (_written(tmp_path, "e.csv", LOG.drop(columns="rating")), None, {"min_rating": 3}, "needs a column of ratings"),
        (good, None, {"min_rating": 9}, "min_rating=9 leaves no row"),
        (good, _written(tmp_path, "f.csv", pd.concat([ITEMS, ITEMS])), {}, "item '10' has several rows"),
        (good, _written(tmp_path, "h.csv", ITEMS.assign(genres="")), {}, "holds no category"),
        (
            good,
            _written(tmp_path, "j.csv", nameless),
            {},
            "no item of .* has a category",
        ),
        (_written(tmp_path, "empty.inter", LOG[:0]), None, {}, "no rows"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            read_interactions(path, items, **options)


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.csv.gz", "m.inter"])
def test_identifiers_stay_as_they_are_written(tmp_path, name):
    long = ["12345678901234567890123", "12345678901234567890124"]
    frame = pd.DataFrame({"user_id": ["007", "7", *long, "NA"], "item_id": ["1e3", "01", "1", "1000", "None"]})
    kind = {"sep": "\t"} if name != "log.csv" and not name.endswith("gz") else {}
    if name.endswith(".inter"):
        frame = frame.rename(columns="{}:token".format)
    frame.to_csv(tmp_path / name, index=False, **kind)
    log = read_interactions(tmp_path / name)
    assert log.user_names == ("007", "7", *long, "NA")
    assert log.item_names == ("1e3", "01", "1", "1000", "None")


def test_numbers_with_leading_zeros_are_the_same_items_in_both_files(tmp_path):
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("user,item\n1,007\n2,008\n")
    items.write_text("item,title\n007,1984\n008,\nA9,2001\n")
    found = read_interactions(log, items)
    assert found.item_names == ("007", "008", "A9")
    assert found.titles == ("1984", "", "2001")


def test_whole_numbers_with_a_point_are_whole_numbers(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n1.0,5.0\n2.0,6.0\n")
    pd.DataFrame({"item": [6, 5], "title": ["six", "five"]}).to_parquet(tmp_path / "items.parquet")
    found = read_interactions(tmp_path / "log.csv", tmp_path / "items.parquet")
    assert (found.user_names, found.item_names, found.titles) == (("1", "2"), ("5", "6"), ("five", "six"))


def test_a_file_of_other_items_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n1,5\n2,6\n")
    (tmp_path / "items.csv").write_text("item,title\nm5,five\n")
    with pytest.raises(ValueError, match=r"no item of the log is in .*items.csv, such as '5' beside 'm5'"):
        read_interactions(tmp_path / "log.csv", tmp_path / "items.csv")


def test_columns_may_be_written_with_spaces_and_hyphens(tmp_path):
    (tmp_path / "log.csv").write_text("Date,User-ID,Movie ID\n2024-01-02,007,01\n2024-01-01,007,02\n")
    log = read_interactions(tmp_path / "log.csv")
    assert (log.user_names, log.item_names) == (("007",), ("01", "02"))
    assert log.times.tolist() == [1704153600.0, 1704067200.0]


def test_an_infinite_time_is_said_plainly(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time\na,x,inf\na,y,1\n")
    with pytest.raises(ValueError, match=r"column 'time' of .* holds 'inf', which is no finite number"):
        read_interactions(tmp_path / "log.csv")
