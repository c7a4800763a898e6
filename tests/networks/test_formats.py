import pickle

import numpy as np
import pytest
from image_files import assert_arrays, write_cifar10, write_idx, write_mnist

from perturb_nc.networks.formats import (
    read_cifar10_batches,
    read_cifar10_png,
    read_idx,
    read_idx_folder,
)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read_plain_or_gzipped(tmp_path, suffix):
    wanted = write_mnist(tmp_path, suffix=suffix)
    wanted = {k: v[:, None] if v.ndim == 3 else v for k, v in wanted.items()}
    assert_arrays(read_idx_folder(tmp_path), wanted)


def test_a_folder_without_idx_files_says_which_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        read_idx_folder(tmp_path)


def test_broken_idx_files_are_refused(tmp_path):
    path = tmp_path / "x-idx1-ubyte"
    write_idx(path, np.arange(9, dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"\(9,\) bytes after its header, got 8"):
        read_idx(path)
    path.write_bytes(b"\x00\x00\x0d\x01")
    with pytest.raises(ValueError, match="not an IDX file of unsigned bytes"):
        read_idx(path)


def test_cifar10_is_the_same_from_pickles_and_from_sheets(tmp_path):
    wanted = write_cifar10(tmp_path)
    assert_arrays(read_cifar10_batches(tmp_path), wanted)
    assert_arrays(read_cifar10_png(tmp_path), wanted)


def test_cifar10_batches_of_current_numpy_are_read_too(tmp_path):
    wanted = write_cifar10(tmp_path)
    batch = {b"data": wanted["test_images"].reshape(20, -1), b"labels": [0] * 20}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=4))
    np.testing.assert_array_equal(
        read_cifar10_batches(tmp_path)["test_images"], wanted["test_images"]
    )


def test_a_pickle_that_asks_for_anything_but_arrays_is_not_run(tmp_path):
    write_cifar10(tmp_path)
    target = tmp_path / "was-run"
    attack = b"cos\nsystem\n(S'touch " + str(target).encode() + b"'\ntR."
    (tmp_path / "data_batch_3").write_bytes(attack)
    with pytest.raises(ValueError, match=r"data_batch_3 is not a CIFAR-10 batch: .* os\.system"):
        read_cifar10_batches(tmp_path)
    assert not target.exists()
