import contextlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from perturb_nc.storage import read_arrays, replacing


def test_replacing_keeps_the_old_file_when_interrupted(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with replacing(target) as temporary:
        temporary.write_text("old")
    with contextlib.suppress(KeyboardInterrupt), replacing(target) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


def test_reads_every_format_that_users_bring(tmp_path):
    x, y = torch.randn(4, 3), torch.arange(4)
    np.savez(tmp_path / "a.npz", features=x.numpy(), labels=y.numpy())
    np.save(tmp_path / "b.npy", x.numpy())
    torch.save({"features": x, "labels": y, "note": "skipped"}, tmp_path / "c.pt")
    torch.save(x, tmp_path / "d.pth")
    save_file({"features": x, "labels": y}, tmp_path / "e.safetensors")
    for name in ("a.npz", "c.pt", "e.safetensors"):
        arrays = read_arrays(tmp_path / name)
        assert sorted(arrays) == ["features", "labels"]
        assert torch.equal(arrays["features"], x)
        assert torch.equal(arrays["labels"], y)
    for name in ("b.npy", "d.pth"):
        assert torch.equal(read_arrays(tmp_path / name)[""], x)


def test_refuses_pickles_and_unknown_files(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    torch.save(np.random.default_rng(0), tmp_path / "code.pt")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "table.csv").write_text("1,2")
    with pytest.raises(
        ValueError, match=r"objects.npy could not be read as .npy: it holds Python objects"
    ):
        read_arrays(tmp_path / "objects.npy")
    with pytest.raises(ValueError, match=r"code.pt could not be read as .pt: "):
        read_arrays(tmp_path / "code.pt")
    with pytest.raises(ValueError, match=r"broken.npz could not be read as .npz: "):
        read_arrays(tmp_path / "broken.npz")
    with pytest.raises(ValueError, match=r"must end in .npz, .npy, .pt, .pth or .safetensors"):
        read_arrays(tmp_path / "table.csv")
    with pytest.raises(FileNotFoundError, match=r"no file at .*absent.npz; check the path"):
        read_arrays(tmp_path / "absent.npz")
