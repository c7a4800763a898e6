"""Image files as they are distributed."""

import gzip
import json

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def random_images(n, *shape):
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    write = gzip.open if path.suffix == ".gz" else open
    with write(path, "wb") as file:
        file.write(header + array.tobytes())


def write_mnist(folder, *, suffix=""):
    arrays = {
        "train_images": random_images(40, 28, 28),
        "train_labels": np.arange(40, dtype=np.uint8) % 10,
        "test_images": random_images(10, 28, 28),
        "test_labels": np.arange(10, dtype=np.uint8),
    }
    for split, prefix in (("train", "train"), ("test", "t10k")):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", arrays[f"{split}_images"])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", arrays[f"{split}_labels"])
    return arrays


def python2_batch(images, labels):
    """A batch as Python 2 and old NumPy pickled it: byte strings, `numpy.core.multiarray`."""
    n, d = images.shape
    size = n.to_bytes(2, "little"), d.to_bytes(2, "little")
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01"
    array += b"(M" + size[0] + b"M" + size[1] + b"tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
    array += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    array += b"T" + (n * d).to_bytes(4, "little") + images.tobytes() + b"tb"
    numbers = b"(l" + b"".join(b"K" + bytes([label]) + b"a" for label in labels)
    return b"\x80\x02}(U\x06labels" + numbers + b"U\x04data" + array + b"u."


def write_cifar10(folder, *, per_batch=20):
    images = random_images(6 * per_batch, 3, 32, 32)
    labels = np.arange(6 * per_batch, dtype=np.uint8) % 10
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name, x, y in zip(names, np.split(images, 6), np.split(labels, 6), strict=True):
        (folder / name).write_bytes(python2_batch(x.reshape(per_batch, -1), y))
        Image.fromarray(x.transpose(0, 2, 3, 1).reshape(per_batch, 1024, 3)).save(
            folder / f"{name}.png"
        )
    cut = 5 * per_batch
    (folder / "train_lables.json").write_text(json.dumps(labels[:cut].tolist()))
    (folder / "test_lables.json").write_text(json.dumps(labels[cut:].tolist()))
    return {
        "train_images": images[:cut],
        "train_labels": labels[:cut],
        "test_images": images[cut:],
        "test_labels": labels[cut:],
    }


def assert_arrays(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == np.uint8
        np.testing.assert_array_equal(found[name], array, err_msg=name)
