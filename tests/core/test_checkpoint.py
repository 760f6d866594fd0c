"""Files of states: read as written, of one training, whole."""

import pytest
import torch

from equipoise.core.checkpoint import read_checkpoint, write_checkpoint


def test_a_state_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "state.pt"
    assert read_checkpoint(path, "mine") is None
    for step in (1, 2):
        write_checkpoint(path, {"weights": torch.full((3,), step), "step": step, "name": None}, "mine")
    found = read_checkpoint(path, "mine")
    assert found["step"] == 2
    assert found["weights"].tolist() == [2, 2, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_another_training_and_damage_are_refused(tmp_path):
    path = tmp_path / "state.pt"
    write_checkpoint(path, {"step": 1}, "mine")
    with pytest.raises(ValueError, match="of other data or settings"):
        read_checkpoint(path, "yours")
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], b"text"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is no checkpoint of a training"):
            read_checkpoint(path, "mine")
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="is no checkpoint of a training"):
        read_checkpoint(path, "mine")


def test_a_folder_that_is_not_there_is_said_before_the_training(tmp_path, plain_inputs):
    path = tmp_path / "none" / "state.pt"
    with pytest.raises(ValueError, match=r"there is no folder .*none; make it first"):
        read_checkpoint(path, "mine")
    with pytest.raises(ValueError, match="there is no folder"):
        write_checkpoint(path, {"step": 1}, "mine")
