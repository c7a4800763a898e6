import contextlib
import os
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from perturb_nc.storage import (
    load_tensors,
    read_arrays,
    read_tensors,
    replacing,
    writable,
    write_tensors,
)


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


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "to pipe").symlink_to(tmp_path / "pipe")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "socket"))
    before = sorted(tmp_path.iterdir())
    for path in (*before, "/dev/null"):
        with (
            pytest.raises(ValueError, match="is not a regular file; give another"),
            replacing(path),
        ):
            pytest.fail("begun")
    assert sorted(tmp_path.iterdir()) == before
    assert not os.path.isfile("/dev/null")


def test_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    for target, link in (("there", "a"), ("not yet", "b")):
        (tmp_path / link).symlink_to(tmp_path / "real" / target)
    (tmp_path / "real" / "there").write_text("old")
    for link, target in (("a", "there"), ("b", "not yet")):
        with replacing(tmp_path / link) as temporary:
            temporary.write_text("new")
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / "real" / target).read_text() == "new"


def test_places_are_checked_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file is not a folder; give another place"):
        writable(tmp_path / "file" / "sub" / "x.html")
    with pytest.raises(ValueError, match="must be a local file, got s3://bucket/x"):
        writable("s3://bucket/x")
    assert writable(tmp_path / "new" / "x") == tmp_path / "new" / "x"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_long_names_fit(tmp_path):
    name = "n" * 251 + ".txt"
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.fixture
def written(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.tensor(True), "c": torch.empty(0, 4)}
    write_tensors(
        tmp_path / "x.safetensors", tensors, {"format": "perturb_nc.test/1", "λ": "\u2028"}
    )
    return tmp_path / "x.safetensors", tensors


def test_a_digest_finds_every_flipped_bit(written):
    path, tensors = written
    found, metadata = read_tensors(path)
    assert metadata == {"format": "perturb_nc.test/1", "λ": "\u2028"}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    content = path.read_bytes()
    for at in range(len(content)):
        for bit in (0, 5):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                found, notes = read_tensors(path)
            except ValueError:
                continue
            # Spaces in the header: no number has changed.
            assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
            assert metadata.items() <= notes.items()


def test_a_digest_that_lost_its_name_is_no_file_of_before_digests(written):
    path, _ = written
    path.write_bytes(path.read_bytes().replace(b"perturb_nc_sha256", b"perturb_nb_sha256"))
    with pytest.raises(ValueError, match="is damaged: its checksum lost its name"):
        read_tensors(path)


def test_files_without_a_digest_are_read_with_a_note(written, caplog):
    path, tensors = written
    caplog.set_level("INFO")
    read_tensors(path)
    assert not caplog.text
    save_file(tensors, path, {"format": "perturb_nc.test/1"})
    read_tensors(path)
    assert "was written without a checksum" in caplog.text
    caplog.clear()
    save_file(tensors, path, {"format": "pt"})  # of others, who owe us none
    read_tensors(path)
    assert not caplog.text


def test_checkpoints_are_tested(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.arange(500.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(500.0).numpy().tobytes()) + 99] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"the checksum of .* in it differs; it is damaged"):
        load_tensors(path)
