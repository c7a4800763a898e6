import sys

import numpy as np
import pytest
import torch

from perturb_nc.networks.keras_cnn import KerasCNN, read_keras_cnn


def published(rng):
    """Arrays under the names and in the layouts of Keras: kernels (h, w, in, out) and (in, out)."""
    arrays = {}
    widths = (3, 64, 64, 128, 128, 64, 64)
    for i in range(6):
        end = f"_{i}" if i else ""
        arrays[f"conv2d{end}", "kernel"] = rng.normal(0, 0.05, (3, 3, widths[i], widths[i + 1]))
        arrays[f"conv2d{end}", "bias"] = rng.normal(0, 0.05, widths[i + 1])
        for name in ("gamma", "beta", "moving_mean"):
            arrays[f"batch_normalization{end}", name] = rng.normal(0.5, 0.3, widths[i + 1])
        arrays[f"batch_normalization{end}", "moving_variance"] = rng.uniform(1, 2, widths[i + 1])
    for end, shape in (("", (64, 1024)), ("_1", (1024, 512)), ("_2", (512, 10))):
        arrays[f"dense{end}", "kernel"] = rng.normal(0, 0.05, shape)
        arrays[f"dense{end}", "bias"] = rng.normal(0, 0.05, shape[1])
    return {key: value.astype(np.float32) for key, value in arrays.items()}


def dense_forward(arrays, x):
    """The network written out on (N, 32, 32, 3) pixels in 0..255, in NumPy."""
    for i in range(6):
        end = f"_{i}" if i else ""
        if i in (2, 4):
            half = x.shape[1] // 2
            x = x[:, : 2 * half, : 2 * half].reshape(len(x), half, 2, half, 2, -1).max((2, 4))
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        x = np.einsum("nabchw,hwco->nabo", windows, arrays[f"conv2d{end}", "kernel"])
        x = np.maximum(x + arrays[f"conv2d{end}", "bias"], 0)
        norm = {n: arrays[f"batch_normalization{end}", n] for n in
                ("gamma", "beta", "moving_mean", "moving_variance")}  # fmt: skip
        x = (x - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-3)
        x = x * norm["gamma"] + norm["beta"]
    x = x.reshape(len(x), -1)
    for end in ("", "_1", "_2"):
        x = np.maximum(x @ arrays[f"dense{end}", "kernel"] + arrays[f"dense{end}", "bias"], 0)
    return x


def test_the_file_of_keras_becomes_our_class(tmp_path):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    arrays = published(rng)
    path = tmp_path / "cnn.h5"
    with h5py.File(path, "w") as file:
        for (layer, name), value in arrays.items():
            file[f"model_weights/{layer}/{layer}/{name}:0"] = value
    model = KerasCNN().eval()
    model.load_state_dict(read_keras_cnn(path))
    pixels = rng.integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    wanted = dense_forward(
        {k: v.astype(np.float64) for k, v in arrays.items()}, pixels.astype(float)
    )
    assert wanted.max() > 0
    inputs = torch.from_numpy(pixels / 255).permute(0, 3, 1, 2)
    with torch.no_grad():
        np.testing.assert_allclose(model(inputs).numpy(), wanted, rtol=1e-3, atol=1e-3)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cnn.h5 is not the HDF5 file of that network"):
        read_keras_cnn(path)


def test_without_h5py_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"cnn.h5 needs h5py; install it with `pip install h5py`"):
        read_keras_cnn(tmp_path / "cnn.h5")


def test_its_outputs_end_in_a_relu():
    model = KerasCNN().eval()
    with torch.no_grad():
        outputs = model(torch.rand(4, 3, 32, 32))
        features = torch.rand(4, 3, 32, 32)
        for block in model.blocks:
            features = block(features)
    assert outputs.min() >= 0
    assert features.shape == (4, 512)
