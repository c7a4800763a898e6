import pytest
import torch

import perturb_nc as pnc
from perturb_nc.layer_files import load_layers
from perturb_nc.span_statistics import SpanStatistics
from perturb_nc.storage import read_tensors, write_tensors

FIELDS = ("counts", "means", "within", "class_variance")


def assert_equal(a, b):
    assert type(a) is type(b)
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@pytest.fixture
def sample():
    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 40 + [3])
    return torch.randn(len(labels), 6), labels[torch.randperm(len(labels))]


def test_saves_and_loads_exactly(tmp_path, sample):
    s = pnc.ClassStatistics.from_features(*sample)
    pnc.save_layers({"": s}, tmp_path / "one.safetensors", {"layer": "fc"})
    assert_equal(pnc.load_layers(tmp_path / "one.safetensors")[""], s)
    assert pnc.load_metadata(tmp_path / "one.safetensors") == {"layer": "fc"}
    pnc.save_layers({"a": s, "b": s}, tmp_path / "same.safetensors")
    assert list(pnc.load_layers(tmp_path / "same.safetensors")) == ["a", "b"]
    pnc.save_layers({"block/1": s, "a": s.merge(s)}, tmp_path / "two.safetensors")
    layers = pnc.load_layers(tmp_path / "two.safetensors")
    assert list(layers) == ["block/1", "a"]
    assert_equal(layers["a"], s.merge(s))


@pytest.mark.usefixtures("unchecked")
def test_bad_files_are_named(tmp_path, sample):
    s = pnc.ClassStatistics.from_features(*sample)
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="layers must hold at least one layer, got none"):
        pnc.save_layers({}, path)
    for metadata in ({"epoch": 3}, {"format": "v2"}):
        with pytest.raises(ValueError, match="metadata must map strings to strings, none 'format'"):
            pnc.save_layers({"": s}, path, metadata)
    assert not path.exists()
    pnc.save_layers({"": s}, path)
    tensors, metadata = read_tensors(path)
    del tensors["0//means"]
    write_tensors(path, tensors, metadata)
    with pytest.raises(
        ValueError, match=r"a.safetensors is damaged \('0//means'\); write it again"
    ):
        pnc.load_layers(path)


def test_refuses_files_that_hold_something_else(tmp_path):
    (tmp_path / "text.safetensors").write_text("nothing of the kind")
    with pytest.raises(ValueError, match="could not be read as a safetensors file"):
        pnc.load_layers(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError, match="no file at"):
        pnc.load_layers(tmp_path / "absent.safetensors")


def test_layers_in_single_precision_take_half_the_space_and_keep_seven_digits(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 20, generator=generator, dtype=torch.float64)
    layers = {"a": pnc.ClassStatistics.from_features(x, torch.arange(60) % 3)}
    sizes = []
    for dtype in (torch.float64, torch.float32):
        path = tmp_path / f"{dtype}.safetensors"
        pnc.save_layers(layers, path, dtype=dtype)
        sizes.append(path.stat().st_size)
        found = pnc.load_layers(path)["a"]
        for name in ("means", "within", "class_variance"):
            wanted = getattr(layers["a"], name)
            assert getattr(found, name).dtype == torch.float64
            exact = dtype == torch.float64
            assert torch.allclose(getattr(found, name), wanted, rtol=0 if exact else 1e-7, atol=0)
            assert exact == torch.equal(getattr(found, name), wanted)
        assert torch.equal(found.counts, layers["a"].counts)
    assert sizes[1] < 0.6 * sizes[0]
    with pytest.raises(ValueError, match=r"dtype must be torch.float64 or torch.float32, got .*16"):
        pnc.save_layers(layers, tmp_path / "x.safetensors", dtype=torch.float16)


def test_statistics_in_the_span_keep_their_kind_and_are_refused_where_the_theory_reads(tmp_path):
    x, labels = torch.randn(60, 20), torch.arange(60) % 3
    path = tmp_path / "span.safetensors"
    pnc.save_layers({"wide": SpanStatistics.from_features(x, labels)}, path)
    found = load_layers(path, span=True)["wide"]
    assert_equal(found, SpanStatistics.from_features(x, labels))
    assert found.features_dim == 20
    with pytest.raises(ValueError, match=r"layer 'wide' holds .*; collect it with covariance"):
        load_layers(path)
    # A file from before the kinds were told apart has no mark.
    tensors, metadata = read_tensors(path)
    write_tensors(path, {k: v for k, v in tensors.items() if "features_dim" not in k}, metadata)
    assert isinstance(load_layers(path)["wide"], pnc.ClassStatistics)
    assert not isinstance(load_layers(path)["wide"], SpanStatistics)
