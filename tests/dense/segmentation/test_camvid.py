"""Real street scenes, where `EQUIPOISE_CAMVID` names the file of them; else skipped."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from equipoise.dense import SegmentationMeter, TailMemoryBank, pixel_auc_loss, pixel_auroc, tail_classes_by_pixels

_PATH, _VOID = os.environ.get("EQUIPOISE_CAMVID", ""), 11
pytestmark = pytest.mark.skipif(not Path(_PATH).is_file(), reason="EQUIPOISE_CAMVID names no file of CamVid")


@pytest.fixture(scope="module")
def camvid():
    with np.load(_PATH, allow_pickle=False) as archive:
        ends, found = {}, {"pixels": archive["train_class_pixels"]}
        for key in ("train_images", "train_labels"):
            ends[key], data = archive[f"{key}_offsets"], archive[key]
            pictures = [data[ends[key][k] : ends[key][k + 1]].tobytes() for k in range(0, 360, 40)]
            found[key] = torch.from_numpy(np.stack([np.asarray(Image.open(io.BytesIO(p))) for p in pictures]))
    found["train_images"] = found["train_images"].movedim(-1, 1).float() / 255
    return found


def test_the_tail_is_what_is_thin_and_small(camvid):
    groups = tail_classes_by_pixels(camvid["pixels"][:_VOID].tolist(), max_share=0.02)
    # Pole, sign, fence, pedestrian, bicyclist.
    assert groups.tail == (2, 6, 7, 9, 10)
    assert set(groups.head) <= {0, 1, 3, 5}


def test_the_loss_of_whole_scenes_is_that_of_class_moments(camvid):
    labels = camvid["train_labels"][:2, ::2, ::2].long()
    logits = torch.randn(2, _VOID, *labels.shape[1:], generator=torch.Generator().manual_seed(0))
    found = pixel_auc_loss(logits, labels, surrogate="square", ignore_index=_VOID)
    columns, flat = logits.movedim(1, 0).flatten(1).double().sigmoid(), labels.flatten()
    losses = []
    for c in flat.unique().tolist():
        for j in flat.unique().tolist():
            if _VOID not in (c, j) and c != j:
                pos, neg = columns[c][flat == c], columns[c][flat == j]
                losses.append((1 - pos.mean() + neg.mean()) ** 2 + pos.var(correction=0) + neg.var(correction=0))
    torch.testing.assert_close(found.double(), torch.stack(losses).mean(), rtol=1e-6, atol=0)
    assert 0.45 < float(pixel_auroc(logits, labels, ignore_index=_VOID)) < 0.55


def test_the_memory_fills_real_scenes_with_a_small_part_of_their_memory(camvid):
    images, labels = camvid["train_images"], camvid["train_labels"]
    bank = TailMemoryBank((2, 6, 7, 9, 10), ignore_index=_VOID, storage=torch.float16)
    for image, label in zip(images, labels, strict=True):
        found = bank(image, label)
    assert set(bank.tail_classes) <= set(found.label.unique().tolist())
    entries = sum(len(held) for held in bank.state_dict()["entries"].values())
    assert bank.nbytes < 0.5 * entries * 4 * image.numel()
    meter = SegmentationMeter(_VOID, ignore_index=_VOID)
    meter.update(labels.clamp_max(_VOID - 1), labels)
    assert float(meter.compute()["miou"]) == 1.0
