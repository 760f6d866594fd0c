import numpy as np
import pytest
import torch

from equipoise.data.images.cifar import read_cifar


def _pixels(n, seed=0):
    return np.random.default_rng(seed).integers(256, size=(n, 3, 32, 32), dtype=np.uint8)


def test_the_binary_version_of_cifar_10_is_read_batch_by_batch(tmp_path):
    pixels, labels = _pixels(10), np.arange(10, dtype=np.uint8)
    for k in range(5):
        rows = slice(2 * k, 2 * k + 2)
        stream = np.concatenate([labels[rows, None], pixels[rows].reshape(2, -1)], 1)
        stream.tofile(tmp_path / f"data_batch_{k + 1}.bin")
    found = read_cifar(tmp_path)
    assert torch.equal(found.images, torch.from_numpy(pixels))
    assert found.target.tolist() == list(range(10))
    assert found.coarse is None
    with pytest.raises(FileNotFoundError, match="pickled"):
        read_cifar(tmp_path, "test")


def test_cifar_100_has_a_coarse_and_a_fine_class(tmp_path):
    pixels = _pixels(3)
    labels = np.array([[4, 30], [1, 1], [19, 99]], dtype=np.uint8)
    np.concatenate([labels, pixels.reshape(3, -1)], 1).tofile(tmp_path / "test.bin")
    found = read_cifar(tmp_path, "test")
    assert found.target.tolist() == [30, 1, 99]
    assert found.coarse.tolist() == [4, 1, 19]
    assert torch.equal(found.images, torch.from_numpy(pixels))


def test_arrays_are_read_in_either_order_of_axes(tmp_path):
    pixels = _pixels(4)
    for k, images in enumerate((pixels, pixels.transpose(0, 2, 3, 1))):
        path = tmp_path / f"{k}.npz"
        np.savez(path, train_images=images, train_labels=np.arange(4))
        assert torch.equal(read_cifar(path).images, torch.from_numpy(pixels))


def test_what_is_no_cifar_is_named(tmp_path, plain_inputs):
    with pytest.raises(FileNotFoundError, match="there is no"):
        read_cifar(tmp_path / "nowhere")
    (tmp_path / "train.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="3 bytes"):
        read_cifar(tmp_path)
    np.savez(tmp_path / "a.npz", train_images=np.zeros((2, 5, 5, 3), np.uint8), train_labels=np.zeros(2))
    with pytest.raises(ValueError, match="32, 32, 3"):
        read_cifar(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="test_images"):
        read_cifar(tmp_path / "a.npz", "test")
    with pytest.raises(ValueError, match="split"):
        read_cifar(tmp_path, "val")
