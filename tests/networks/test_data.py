import numpy as np
import pytest
import torch

from perturb_nc.measure.dataset import Dataset
from perturb_nc.networks.data import cache_dir, channel_moments, load_dataset


def small_dataset(n=10):
    return Dataset("small", torch.arange(2.0 * n).reshape(n, 2), torch.arange(n) % 3, 3)


def write_cache(folder, name, rng):
    arrays = {
        "train_images": rng.integers(0, 256, (40, 3, 4, 5), dtype=np.uint8),
        "train_labels": np.arange(40, dtype=np.uint8) % 10,
        "test_images": rng.integers(0, 256, (20, 3, 4, 5), dtype=np.uint8),
        "test_labels": np.arange(20, dtype=np.uint8) % 10,
    }
    np.savez(folder / f"{name}.npz", **arrays)
    return arrays


def test_digits_are_split_once_stratified_and_standardised_by_the_training_split():
    train, test = load_dataset("digits"), load_dataset("digits", split="test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.inputs.shape == (1437, 64)
    assert train.inputs.double().mean().item() == pytest.approx(0, abs=1e-6)
    assert train.inputs.double().std(correction=0).item() == pytest.approx(1, abs=1e-6)
    share = train.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert torch.all((share - 0.8).abs() < 0.01)
    rows = {tuple(x) for x in train.inputs.tolist()}
    assert not any(tuple(x) in rows for x in test.inputs.tolist())
    # One offset and scale for both splits: the blank corner pixel has the same value.
    assert train.inputs[:, 0].unique().tolist() == test.inputs[:, 0].unique().tolist()


def test_cached_images_use_the_moments_of_the_training_split_per_channel(tmp_path):
    arrays = write_cache(tmp_path, "cifar10", np.random.default_rng(0))
    train = arrays["train_images"] / 255
    for split in ("train", "test"):
        data = load_dataset("cifar10", split=split, data_dir=tmp_path)
        scaled = arrays[f"{split}_images"] / 255
        wanted = (scaled - train.mean((0, 2, 3), keepdims=True)) / train.std(
            (0, 2, 3), keepdims=True
        )
        np.testing.assert_allclose(data.inputs.numpy(), wanted, atol=1e-6)
        assert data.labels.tolist() == arrays[f"{split}_labels"].tolist()
        assert data.num_classes == 10


def test_channel_moments_are_exact():
    images = np.random.default_rng(1).integers(0, 256, (7, 2, 3, 4), dtype=np.uint8)
    mean, std = channel_moments(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-14)


def test_the_cache_folder_is_the_argument_then_the_environment_then_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("PERTURB_NC_DATA", str(tmp_path))
    assert cache_dir() == tmp_path
    assert cache_dir("elsewhere").name == "elsewhere"
    monkeypatch.delenv("PERTURB_NC_DATA")
    assert cache_dir().parts[-2:] == (".cache", "perturb_nc")


def test_missing_data_say_every_way_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("PERTURB_NC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as info:
        load_dataset("mnist")
    for part in (
        str(tmp_path / "mnist.npz"),
        "make data",
        "python -m perturb_nc.networks.fetch mnist",
        "--from FOLDER",
        "PERTURB_NC_DATA",
    ):
        assert part in str(info.value)


def test_damaged_data_are_refused(tmp_path):
    arrays = write_cache(tmp_path, "mnist", np.random.default_rng(0))
    path = tmp_path / "mnist.npz"
    content = path.read_bytes()
    path.write_bytes(content[:500] + b"x" + content[501:])
    with pytest.raises(ValueError, match=r"mnist.npz could not be read as .npz: Bad CRC-32"):
        load_dataset("mnist", data_dir=tmp_path)
    for change in ({"train_labels": np.arange(3)}, {"test_images": np.zeros(20, np.uint8)}):
        np.savez(path, **arrays | change)
        with pytest.raises(ValueError, match=r"mnist.npz holds no images with labels; delete and"):
            load_dataset("mnist", data_dir=tmp_path)


def test_unknown_names_and_splits_list_the_known_ones():
    with pytest.raises(ValueError, match="digits, mnist, fashion_mnist, cifar10, got 'minst'"):
        load_dataset("minst")
    with pytest.raises(ValueError, match="split must be one of train, test, got 'val'"):
        load_dataset("digits", split="val")


def test_pixels_may_stay_as_they_are(tmp_path):
    digits = load_dataset("digits", standardise=False)
    assert digits.inputs.aminmax() == (0.0, 1.0)
    whole = load_dataset("digits")
    scaled = (digits.inputs - digits.inputs.double().mean()) / digits.inputs.double().std()
    torch.testing.assert_close(scaled.float(), whole.inputs, rtol=1e-4, atol=1e-4)
    arrays = write_cache(tmp_path, "cifar10", np.random.default_rng(0))
    found = load_dataset("cifar10", split="test", standardise=False, data_dir=tmp_path)
    np.testing.assert_allclose(found.inputs, arrays["test_images"] / 255, atol=1e-7)
