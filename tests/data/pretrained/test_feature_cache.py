import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch

from equipoise.data.pretrained import EncoderCard, cached_features
from equipoise.data.pretrained.feature_cache import _PART


class _Encoder:
    """Mean colour, and how often it was asked."""

    def __init__(self, size=4, fail_at=None, wait=0.0):
        self.card = EncoderCard("mean colour", 3, "none", "0", size)
        self.seen, self.fail_at, self.wait = 0, fail_at, wait

    def __call__(self, images):
        self.seen += len(images)
        if self.fail_at is not None and self.seen > self.fail_at:
            raise RuntimeError("cut off")
        time.sleep(self.wait)
        return images.mean((2, 3))


def _images(n, seed=0):
    return torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_features_are_computed_once(tmp_path):
    images, encoder = _images(2 * _PART + 5), _Encoder()
    first = cached_features(encoder, images, cache_dir=tmp_path)
    np.testing.assert_allclose(first, (images.float() / 255).mean((2, 3)), rtol=1e-6)
    assert encoder.seen == len(images)
    second = cached_features(encoder, images.numpy(), cache_dir=tmp_path)
    assert encoder.seen == len(images)
    np.testing.assert_array_equal(first, second)
    assert isinstance(second, np.memmap)
    assert not second.flags.writeable
    assert len(list(tmp_path.rglob("*.npy"))) == 1


def test_other_content_weights_and_size_have_features_of_their_own(tmp_path):
    images = _images(7)
    encoders = [_Encoder(), _Encoder(size=8)]
    for encoder in encoders:
        cached_features(encoder, images, cache_dir=tmp_path)
    changed = images.clone()
    changed[3, 0, 0, 0] ^= 1
    cached_features(encoders[0], changed, cache_dir=tmp_path)
    cached_features(encoders[0], images.float() / 255, cache_dir=tmp_path)
    assert [encoder.seen for encoder in encoders] == [21, 7]
    reordered = cached_features(encoders[0], images.flip(0), cache_dir=tmp_path)
    np.testing.assert_array_equal(reordered[::-1], cached_features(encoders[0], images, cache_dir=tmp_path))


def test_a_run_that_was_cut_off_goes_on(tmp_path):
    images = _images(3 * _PART)
    with pytest.raises(RuntimeError, match="cut off"):
        cached_features(_Encoder(fail_at=2 * _PART + 10), images, cache_dir=tmp_path)
    encoder = _Encoder()
    features = cached_features(encoder, images, cache_dir=tmp_path)
    assert encoder.seen == _PART
    np.testing.assert_allclose(features, (images.float() / 255).mean((2, 3)), rtol=1e-6)


def test_equal_parts_are_computed_once_and_progress_is_told(tmp_path):
    images = torch.cat([_images(_PART)] * 2)
    encoder, told = _Encoder(), []
    features = cached_features(encoder, images, cache_dir=tmp_path, progress=lambda done, of: told.append((done, of)))
    assert encoder.seen == _PART
    assert told == [(_PART, 2 * _PART), (2 * _PART, 2 * _PART)]
    np.testing.assert_array_equal(features[:_PART], features[_PART:])


class _Lengths:
    card = EncoderCard("lengths", 1, "none", "0", 9)

    def __call__(self, texts):
        return torch.tensor([[float(len(text))] for text in texts])


def test_texts_are_told_apart_at_their_borders(tmp_path):
    first = cached_features(_Lengths(), ["ab", "c"], cache_dir=tmp_path)
    second = cached_features(_Lengths(), ["a", "bc"], cache_dir=tmp_path)
    assert first.tolist() == [[2.0], [1.0]]
    assert second.tolist() == [[1.0], [2.0]]


def test_nothing_to_encode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        cached_features(_Lengths(), [], cache_dir=tmp_path)


def _run(folder, wait, out):
    features = cached_features(_Encoder(wait=wait), _images(3 * _PART), cache_dir=folder, batch_size=128)
    if out is not None:
        out.put(np.asarray(features))


def test_two_runs_side_by_side_and_one_that_is_killed_leave_whole_files(tmp_path):
    context = multiprocessing.get_context("fork")
    killed = context.Process(target=_run, args=(tmp_path, 0.05, None))
    killed.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("part-*.npy")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    out = context.Queue()
    both = [context.Process(target=_run, args=(tmp_path, wait, out)) for wait in (0.0, 0.01)]
    for one in both:
        one.start()
    found = [out.get(timeout=120) for _ in both]
    for one in both:
        one.join()
    expected = (_images(3 * _PART).float() / 255).mean((2, 3))
    for features in found:
        np.testing.assert_allclose(features, expected, rtol=1e-6)
