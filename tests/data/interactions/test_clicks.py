import numpy as np
import pytest
import torch

from equipoise.data import Clicks, click_world, pad_histories

LISTS = [[3, 1, 4, 1], [], [5], [9, 2]]


def _clicks():
    return Clicks.from_lists(
        np.array([7, 8, 9, 10]), LISTS, [True, False, True, False], user=[-5, 2**60, 4, 4], context=torch.eye(4)
    )


def _lists(clicks):
    return [part.tolist() for part in clicks.history.split(clicks.lengths.tolist())]


def test_lists_go_in_and_come_out():
    clicks = _clicks()
    assert _lists(clicks) == LISTS
    assert clicks.label.tolist() == [1, 0, 1, 0]
    assert clicks.user.tolist() == [-5, 2**60, 4, 4]
    assert clicks.num_items == 11
    assert len(clicks) == 4


@pytest.mark.parametrize("index", [[2, 0, 0], [1], [3, 2, 1, 0], []])
def test_rows_are_those_of_the_lists(index):
    found = _clicks().rows(torch.tensor(index, dtype=torch.long))
    assert _lists(found) == [LISTS[row] for row in index]
    assert found.item.tolist() == [7 + row for row in index]
    assert found.context.equal(torch.eye(4)[index])
    chosen = torch.zeros(4, dtype=torch.bool)
    chosen[index] = True
    assert _lists(_clicks().rows(chosen)) == [LISTS[row] for row in sorted(set(index))]


@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_recent_items_are_the_last(length):
    clicks = _clicks().recent(length)
    assert _lists(clicks) == [history[-length:] for history in LISTS]
    padded = pad_histories(LISTS, length)
    assert padded.items.equal(clicks.padded().items)


def test_padding():
    items, mask = _clicks().padded()
    assert items.tolist() == [[3, 1, 4, 1], [0, 0, 0, 0], [5, 0, 0, 0], [9, 2, 0, 0]]
    assert mask.sum(1).tolist() == [4, 0, 1, 2]
    assert pad_histories([[], []]).items.shape == (2, 1)
    assert pad_histories([]).mask.shape == (0, 1)
    assert pad_histories([torch.tensor([4]), np.array([2, 3])]).items.tolist() == [[4, 0], [2, 3]]
    assert set(_clicks().inputs()) == {"item", "history", "mask", "context"}
    assert set(click_world(3).clicks.inputs()) == {"item", "history", "mask"}


def test_it_moves_to_a_device():
    moved = _clicks().to("meta")
    assert {moved.item.device.type, moved.history.device.type, moved.context.device.type} == {"meta"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label": [1, 2]}, "label holds the value 2, wanted 0 .passed over. or 1"),
        ({"label": [1]}, "label must have one entry for each of the 2 items shown, got 1"),
        ({"histories": [[1]]}, "histories must have one entry for each of the 2 items shown, got 1"),
        ({"histories": [[1], [0.5]]}, r"histories\[1\] must be one row of whole numbers"),
        ({"histories": [[1], [-1]]}, "histories holds the item index -1"),
        ({"item": [0, -2]}, "item holds the item index -2"),
        ({"user": [0]}, "user must have one entry"),
        ({"context": [[1.0], [float("nan")]]}, "context must be .n, c. finite numbers"),
        ({"context": [1.0, 2.0]}, "context must be .n, c. finite numbers"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_lists_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Clicks.from_lists(**{"item": [0, 1], "histories": [[1], []], "label": [0, 1], **changes})


def test_the_world_is_what_it_says():
    world = click_world(4000, length=9, shortest=2, rows_per_user=4, num_items=500, seed=3)
    clicks = world.clicks
    histories = clicks.history.split(clicks.lengths.tolist())
    for row in range(0, 4000, 97):
        same = world.category[histories[row]] == world.category[clicks.item[row]]
        assert int(world.matches[row]) == int(same.sum())
        assert histories[row].equal(histories[4 * (row // 4)])
    assert world.probability.equal(torch.sigmoid(1.5 * world.matches - 2.0))
    assert set(clicks.lengths.tolist()) == set(range(2, 10))
    assert clicks.user.tolist() == [row // 4 for row in range(4000)]
    assert len(world.item_features) == 500
    for k in range(3):
        chosen = world.matches == k
        rate, wanted = float(clicks.label[chosen].double().mean()), float(world.probability[chosen][0])
        assert rate == pytest.approx(wanted, abs=4 * (wanted * (1 - wanted) / int(chosen.sum())) ** 0.5)


def test_items_of_a_category_are_near_each_other_but_in_the_noise():
    world = click_world(300, num_items=400, noise=0.1, seed=1)
    spread = torch.stack([world.item_features[world.category == c].std(0) for c in range(8)]).mean(0)
    torch.testing.assert_close(spread[:8], torch.full((8,), 0.1), atol=0.02, rtol=0)
    torch.testing.assert_close(spread[8:], torch.full((8,), 1.0), atol=0.15, rtol=0)


def test_without_a_catalogue_no_item_comes_twice():
    clicks = click_world(50, length=4, seed=1).clicks
    assert len(set(clicks.item.tolist()) | set(clicks.history.tolist())) == 250


def test_a_world_is_a_function_of_its_seed():
    one, same, other = (click_world(30, seed=seed) for seed in (1, 1, 2))
    assert one.item_features.equal(same.item_features)
    assert one.clicks.label.equal(same.clicks.label)
    assert not one.item_features.equal(other.item_features)
    with pytest.raises(ValueError, match="shortest=5 must be at most length=4"):
        click_world(10, length=4, shortest=5)
