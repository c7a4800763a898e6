"""`perturb-nc stats`: files, shards and folders as layers."""

import json

import numpy as np
import pytest
import torch

import perturb_nc as pnc

LABELS = np.arange(60) % 3


def samples(seed, dim=5):
    return np.random.default_rng(seed).normal(size=(60, dim)) + 2 * np.eye(3, dim)[LABELS]


def expected(seed, dim=5):
    return pnc.ClassStatistics.from_features(samples(seed, dim), LABELS)


def same(found, wanted):
    torch.testing.assert_close(found.within, wanted.within)
    torch.testing.assert_close(found.means, wanted.means)
    assert found.counts.equal(wanted.counts)


def test_files_are_layers_in_the_order_given(tmp_path, run):
    for seed, name in enumerate(("b", "a")):
        np.savez(tmp_path / f"{name}.npz", features=samples(seed, 5 + seed), labels=LABELS)
    out = tmp_path / "all.safetensors"
    code, said, _ = run("stats", tmp_path / "b.npz", tmp_path / "a.npz", "-o", out)
    assert code == 0
    assert said.splitlines() == [
        f"wrote {out}: 2 layers",
        "b: K = 3 classes, d = 5, N = 60",
        "a: K = 3 classes, d = 6, N = 60",
    ]
    layers = pnc.load_layers(out)
    assert list(layers) == ["b", "a"]
    same(layers["a"], expected(1, 6))
    code, said, _ = run("stats", tmp_path / "b.npz", "-o", out, "--json")
    sizes = {"classes": 3, "dim": 5, "samples": 60}
    assert json.loads(said) == {"file": str(out), "layers": {"": sizes}}


def test_a_folder_is_its_files_and_a_folder_in_it_one_layer(tmp_path, run):
    net = tmp_path / "net"
    (net / "blocks.2").mkdir(parents=True)
    for seed, number in enumerate((10, 9)):
        np.savez(net / f"stem{number}.npz", features=samples(seed), labels=LABELS)
    for part in range(3):
        rows = slice(20 * part, 20 * part + 20)
        np.savez(net / "blocks.2" / f"{part}.npz", features=samples(5)[rows], labels=LABELS[rows])
    (net / "notes.txt").write_text("not features")
    out = net / "all.safetensors"
    for _ in range(2):  # the second time it stands in the folder itself
        assert run("stats", net, "-o", out)[0] == 0
        layers = pnc.load_layers(out)
        assert list(layers) == ["stem9", "stem10", "blocks.2"]
        same(layers["blocks.2"], expected(5))
        same(layers["stem10"], expected(0))


def test_shards_are_one_layer_with_labels_of_all(tmp_path, run):
    for part in range(3):
        np.save(tmp_path / f"head-{part}-of-3.npy", samples(0)[20 * part : 20 * part + 20])
    np.save(tmp_path / "y.npy", LABELS)
    shards, out = sorted(tmp_path.glob("head*")), tmp_path / "all.safetensors"
    words = ("-o", out, "--labels", tmp_path / "y.npy")
    assert run("stats", *shards, *words)[0] == 0
    same(pnc.load_layers(out)[""], expected(0))
    code, _, err = run("stats", *shards[:2], *words)
    assert code == 2
    assert "layer 'head' has shards [0, 1] of 3; give them all" in err
    np.save(tmp_path / "y.npy", LABELS[:50])
    code, _, err = run("stats", *shards, *words)
    assert code == 2
    assert "labels" in err


def test_every_array_of_a_file_is_a_layer_where_none_is_the_features(tmp_path, run):
    np.savez(tmp_path / "net.npz", **{"blocks.0": samples(0), "head": samples(1)}, labels=LABELS)
    out = tmp_path / "all.safetensors"
    assert run("stats", tmp_path / "net.npz", "-o", out)[0] == 0
    layers = pnc.load_layers(out)
    assert list(layers) == ["blocks.0", "head"]
    same(layers["head"], expected(1))
    code, _, err = run("stats", tmp_path / "net.npz", "-o", out, "--features-key", "x")
    assert code == 2
    assert "none named 'x'" in err


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.npz", "sub/a.npz"), "layer 'a' stands there twice"),
        (("none.npz",), "no file at"),
        (("empty",), "holds no features; it must hold .npz"),
        (("a-1-of-2.npz", "other.npz", "a-2-of-2.npz"), "holds ['x', 'z'], and"),
    ],
)
def test_what_names_no_layers_is_refused(names, message, tmp_path, run):
    (tmp_path / "empty").mkdir()
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/a", "other"):
        np.savez(tmp_path / f"{name}.npz", features=samples(0), labels=LABELS)
    np.savez(tmp_path / "a-1-of-2.npz", x=samples(0), y=samples(1), labels=LABELS)
    np.savez(tmp_path / "a-2-of-2.npz", x=samples(0), z=samples(1), labels=LABELS)
    out = tmp_path / "out.safetensors"
    code, _, err = run("stats", *(tmp_path / name for name in names), "-o", out)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not out.exists()
