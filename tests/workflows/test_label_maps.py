import numpy as np
import pytest
import torch
from PIL import Image

from equipoise.workflows.errors import InputError
from equipoise.workflows.label_maps import class_names, label_map_files, read_label_map

MAP = np.array([[0, 3], [255, 1]], np.uint8)


@pytest.mark.parametrize("ending", [".png", ".npy", ".bmp", ".tiff"])
def test_labels_are_read_from_pictures_and_arrays(ending, tmp_path):
    path = tmp_path / f"a{ending}"
    if ending == ".npy":
        np.save(path, MAP)
    else:
        Image.fromarray(MAP).save(path)
    assert torch.equal(read_label_map(path), torch.tensor(MAP.astype(np.int64)))
    assert label_map_files(tmp_path) == {"a": path}


def test_a_picture_of_a_palette_gives_its_indices(tmp_path):
    picture = Image.fromarray(MAP)
    picture.putpalette([value for k in range(256) for value in (k, 0, 255 - k)])
    picture.save(tmp_path / "a.png")
    assert torch.equal(read_label_map(tmp_path / "a.png"), torch.tensor(MAP.astype(np.int64)))


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n\0\0"])
@pytest.mark.parametrize("ending", [".png", ".npy"])
def test_damaged_files_are_refused_by_name(content, ending, tmp_path):
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"a{ending} cannot be read"):
        read_label_map(path)


def test_colours_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="class indices, not colours"):
        read_label_map(tmp_path / "a.png")


def test_names_may_stand_in_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("sky\n\n road \n")
    assert class_names([str(tmp_path / "names.txt")]) == ["sky", "road"]
    assert class_names(["sky", "road"]) == ["sky", "road"]
    with pytest.raises(InputError, match=r"there is no file none\.txt"):
        class_names(["none.txt"])


def test_folders_without_or_with_doubled_maps_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no label map"):
        label_map_files(tmp_path)
    for ending in ("png", "bmp"):
        Image.fromarray(MAP).save(tmp_path / f"a.{ending}")
    with pytest.raises(InputError, match="two label maps of 'a'"):
        label_map_files(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        label_map_files(tmp_path / "b")
