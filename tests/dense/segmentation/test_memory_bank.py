"""Pasting against its definition on whole frames, and the memory of rare classes."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from equipoise.dense import TailMemoryBank, paste_class_patch
from equipoise.dense.segmentation.paste import cut_out, paste_cutout


def _frame(seed, shape=(3, 13, 17)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator), torch.randint(0, 3, shape[1:], generator=generator)


def _pasted(image, label, stored, mask, c, ratio, top, left):
    """The whole frame resized by torch, and copied where its mask is."""
    h, w = (max(1, int(ratio * n)) for n in mask.shape)
    whole = interpolate(stored[None], size=(h, w), mode="bilinear", align_corners=False)[0]
    rows = [i * mask.shape[0] // h for i in range(h)]
    columns = [j * mask.shape[1] // w for j in range(w)]
    image, label = image.clone(), label.clone()
    for (i, a), (j, b) in itertools.product(enumerate(rows), enumerate(columns)):
        if mask[a, b]:
            image[:, top + i, left + j], label[top + i, left + j] = whole[:, i, j], c
    return image, label


@pytest.mark.parametrize("ratio", [1.0, 0.75, 0.5, 0.4, 0.31, 0.1, 0.01])
def test_a_paste_is_that_of_the_whole_frame_also_from_a_cut_out(ratio):
    image, label = _frame(0)
    stored, _ = _frame(1)
    for rows, columns in ((slice(0, 13), slice(0, 17)), (slice(4, 9), slice(11, 17)), (slice(12, 13), slice(0, 1))):
        mask = torch.zeros(13, 17, dtype=torch.bool)
        mask[rows, columns] = torch.rand(mask[rows, columns].shape, generator=torch.Generator().manual_seed(2)) < 0.7
        mask[rows.start, columns.start] = True
        wanted = _pasted(image, label, stored, mask, 7, ratio, 1 if ratio < 0.9 else 0, 0)
        top = 1 if ratio < 0.9 else 0
        torch.testing.assert_close(
            tuple(paste_class_patch(image, label, stored, mask, 7, ratio, top, 0)), wanted, rtol=1e-5, atol=1e-6
        )
        cutout = cut_out(stored, mask, ratio)
        torch.testing.assert_close(
            tuple(paste_cutout(image, label, cutout, 7, ratio, top, 0)), wanted, rtol=1e-5, atol=1e-6
        )


def test_images_of_bytes_are_rounded():
    image, label = _frame(3)
    stored, mask = _frame(4)[0], torch.ones(13, 17, dtype=torch.bool)
    found = paste_class_patch((image * 255).byte(), label, (stored * 255).byte(), mask, 1, 0.5, 2, 3)
    wanted = paste_class_patch((image * 255).byte().float(), label, (stored * 255).byte().float(), mask, 1, 0.5, 2, 3)
    assert found.image.dtype is torch.uint8
    assert found.image.equal(wanted.image.round().byte())


@pytest.mark.usefixtures("plain_inputs")
def test_what_does_not_fit_is_refused():
    image, label = _frame(5)
    mask = torch.ones(13, 17, dtype=torch.bool)
    with pytest.raises(ValueError, match="top=1 leaves 12 rows for a frame of 13"):
        paste_class_patch(image, label, image, mask, 1, 1.0, 1, 0)
    with pytest.raises(ValueError, match="left=10 leaves 7 columns for a frame of 8"):
        paste_class_patch(image, label, image, mask, 1, 0.5, 0, 10)
    with pytest.raises(ValueError, match="label"):
        paste_class_patch(image, label[:5], image, mask, 1)


def _worlds(n=40, seed=0, classes=5):
    """Images of one colour a class, in which 3 and 4 are rare."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        label = torch.randint(0, 3, (8, 8), generator=generator).repeat_interleave(2, 0).repeat_interleave(2, 1)
        for c in (3, 4):
            if torch.rand((), generator=generator) < 0.3:
                top, left = torch.randint(0, 12, (2,), generator=generator).tolist()
                label[top : top + 3, left : left + 4] = c
        yield (label[None] + torch.tensor([0.0, 10.0, 20.0])[:, None, None]).float(), label


def test_no_paste_ever_damages_what_is_stored():
    # Every stored pixel of a class must still have its colour after many pastes over the images it came from.
    bank = TailMemoryBank([3, 4], memory_size=2)
    for image, label in _worlds():
        kept = image.clone(), label.clone()
        found = bank(image, label)
        assert image.equal(kept[0])
        assert label.equal(kept[1])
        assert found.image[0].equal(found.label.float())
        # Changing the result or the input later must not reach the memory.
        found.image.fill_(-1)
        image.fill_(-1)
    for c, entries in bank.state_dict()["entries"].items():
        assert len(entries) == 2
        for entry in entries:
            mask = entry["mask"]
            rows, columns = mask.shape
            assert (entry["image"][0, :rows, :columns][mask] == c).all()


def test_after_a_while_every_image_has_every_tail_class():
    bank = TailMemoryBank([3, 4])
    held = [{3, 4} <= set(bank(image, label).label.unique().tolist()) for image, label in _worlds(60)]
    assert sum(held[20:]) >= 39
    found = bank.coverage()
    assert found.stored == 1.0
    assert found.before < 0.3 < 0.8 < found.after == pytest.approx(sum(held) / 60)


def test_a_part_of_the_missing_classes_is_pasted():
    bank = TailMemoryBank(range(3, 13), sample_ratio=0.25)
    _, label = next(_worlds())
    for c in range(3, 13):
        bank(torch.zeros(3, 16, 16), torch.full_like(label, 0).index_fill(0, torch.tensor([c]), c))
    missing = torch.zeros(16, 16, dtype=torch.long)
    added = [len(set(bank(torch.zeros(3, 16, 16), missing).label.unique().tolist()) - {0}) for _ in range(30)]
    # Of ten classes ⌈2.5⌉ are pasted, of which one may cover another.
    assert max(added) == 3
    assert min(added) >= 1


def test_a_batch_gets_what_none_of_its_images_has():
    bank = TailMemoryBank([3, 4])
    worlds = list(_worlds(40, seed=1))
    for start in range(0, 40, 4):
        images, labels = (torch.stack(parts) for parts in zip(*worlds[start : start + 4], strict=True))
        kept = images.clone()
        found = bank.fill_batch(images, labels)
        assert images.equal(kept)
        assert found.image[:, 0].equal(found.label.float())
        before = {3, 4} & set(labels.unique().tolist())
        changed = (found.label != labels).flatten(1).any(1)
        assert int(changed.sum()) <= 2 - len(before)
    assert bank.coverage().after == 1.0


def test_the_memory_is_bounded_reported_and_smaller_than_frames():
    bank = TailMemoryBank([3, 4], memory_size=3)
    half = TailMemoryBank([3, 4], memory_size=3, storage=torch.float16)
    for image, label in _worlds(60):
        bank(image, label)
        half(image, label)
    assert 0 < bank.nbytes < 2 * 3 * (3 * 4 * 5 * 4 + 3 * 4) * 2
    assert bank.nbytes < 0.2 * 6 * (image.numel() * 4 + label.numel())
    assert half.nbytes < 0.6 * bank.nbytes
    assert all(len(held) == 3 for held in bank.state_dict()["entries"].values())


def test_images_of_another_size_and_bytes_can_be_filled():
    bank = TailMemoryBank([3])
    label = torch.zeros(20, 30, dtype=torch.uint8)
    label[15:, 25:] = 3
    bank(torch.full((3, 20, 30), 99, dtype=torch.uint8), label)
    found = bank(torch.zeros(3, 9, 11, dtype=torch.uint8), torch.zeros(9, 11, dtype=torch.uint8))
    assert found.image.dtype is torch.uint8
    assert int((found.label == 3).sum()) > 0
    assert (found.image[0] == 99).equal(found.label == 3)


def _one_class(dtype=torch.long):
    label = torch.zeros(8, 8, dtype=dtype)
    label[2:5, 2:5] = 3
    return label


@pytest.mark.parametrize(
    "pixels", [torch.rand(3, 8, 8) * 0.9 + 0.05, torch.full((3, 8, 8), -0.5), 300 * torch.ones(3, 8, 8)]
)
def test_bytes_hold_only_pixels_of_their_scale(pixels):
    with pytest.raises(ValueError, match=r"keeps pixels from 0 to 255, those of the image lie from .*float16"):
        TailMemoryBank([3], storage=torch.uint8)(pixels, _one_class())
    half = TailMemoryBank([3], storage=torch.float16)
    half(pixels, _one_class())
    found = half(torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.long))
    torch.testing.assert_close(found.image.flatten(1).sum(1), pixels[:, 2:5, 2:5].flatten(1).sum(1), rtol=1e-3, atol=0)


def test_pixels_kept_in_bytes_are_rounded():
    bank = TailMemoryBank([3], storage=torch.uint8)
    bank(torch.full((3, 8, 8), 254.6), _one_class())
    found = bank(torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.long))
    assert found.image.unique().tolist() == [0, 255]
    assert found.image.dtype is torch.float32


@pytest.mark.usefixtures("plain_inputs")
def test_bytes_and_floating_point_are_not_mixed():
    of_bytes, floating = torch.full((3, 8, 8), 200, dtype=torch.uint8), torch.rand(3, 8, 8)
    for first, then in ((of_bytes, floating), (floating, of_bytes)):
        bank = TailMemoryBank([3])
        bank(first, _one_class())
        loaded = TailMemoryBank([3])
        loaded.load_state_dict(bank.state_dict())
        for each in (bank, loaded):
            with pytest.raises(ValueError, match="whose scale differs; convert all images alike"):
                each(then, torch.zeros(8, 8, dtype=torch.long))
            with pytest.raises(ValueError, match="whose scale differs; convert all images alike"):
                each.fill_batch(then[None], torch.zeros(1, 8, 8, dtype=torch.long))
        with pytest.raises(ValueError, match="whose scale of pixels differs"):
            paste_class_patch(then, _one_class(), first, _one_class(), 3)


def _run(bank, n=20, seed=2):
    return [bank(image, label) for image, label in _worlds(n, seed)]


def test_seeds_states_copies_and_pickles_go_on_alike():
    first, same, other = (TailMemoryBank([3, 4], seed=seed) for seed in (5, 5, 6))
    state = torch.random.get_rng_state()
    runs = [_run(bank) for bank in (first, same, other)]
    assert torch.random.get_rng_state().equal(state)
    assert all(a.label.equal(b.label) for a, b in zip(runs[0], runs[1], strict=True))
    assert not all(a.label.equal(b.label) for a, b in zip(runs[0], runs[2], strict=True))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    loaded = TailMemoryBank([3, 4])
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    twins = [copy.deepcopy(first), pickle.loads(pickle.dumps(first)), loaded]
    wanted = _run(first, seed=3)
    for twin in twins:
        assert all(a.image.equal(b.image) for a, b in zip(_run(twin, seed=3), wanted, strict=True))
        assert twin.coverage() == first.coverage()


class _Filled(Dataset):
    def __init__(self):
        self.worlds, self.bank = list(_worlds(24, seed=4)), TailMemoryBank([3, 4])

    def __len__(self):
        return len(self.worlds)

    def __getitem__(self, k):
        self.bank(*self.worlds[k])
        return torch.tensor([torch.utils.data.get_worker_info().id, self.bank._draw(1 << 30)])


def test_workers_of_a_loader_draw_differently():
    loader = DataLoader(_Filled(), batch_size=4, num_workers=2, generator=torch.Generator().manual_seed(0))
    rows = torch.cat(list(loader))
    assert len(rows[:, 1].unique()) == 24
    again = torch.cat(list(DataLoader(_Filled(), 4, num_workers=2, generator=torch.Generator().manual_seed(0))))
    assert again.equal(rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tail_classes": []}, "at least one"),
        ({"tail_classes": [3, 3]}, "distinct"),
        ({"tail_classes": [255]}, "ignore_index"),
        ({"tail_classes": [-1]}, "tail_classes"),
        ({"memory_size": 0}, "memory_size"),
        ({"sample_ratio": 0.0}, "sample_ratio"),
        ({"resize_ratio": 1.5}, "resize_ratio"),
        ({"storage": torch.int32}, "storage"),
    ],
)
def test_bad_settings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        TailMemoryBank(**{"tail_classes": [3], **change})


@pytest.mark.usefixtures("plain_inputs")
def test_a_label_map_of_another_size_and_a_state_of_another_bank_are_refused():
    bank = TailMemoryBank([3, 4])
    with pytest.raises(ValueError, match="label"):
        bank(torch.zeros(3, 8, 8), torch.zeros(7, 8, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\[3\], not \[3, 4\]"):
        bank.load_state_dict(TailMemoryBank([3]).state_dict())
