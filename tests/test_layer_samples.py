"""Samples of layers: which are kept, and that what is kept comes back."""

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.layer_files import load_samples
from perturb_nc.layer_samples import LayerSamples, stratified_rows


def imbalanced():
    """Labels of 60, 30 and 10 samples, shuffled."""
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([60, 30, 10]))
    return labels[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("samples", "counts"),
    [(50, [30, 15, 5]), (7, [3, 2, 2]), (33, [20, 10, 3]), (100, [60, 30, 10])],
)
def test_a_subsample_has_the_proportions_of_all(samples, counts):
    labels = imbalanced()
    rows = stratified_rows(labels, samples)
    assert torch.bincount(labels[rows]).tolist() == counts
    assert bool((rows.diff() > 0).all())
    assert torch.equal(rows, stratified_rows(labels, samples))
    if samples < 100:
        assert not torch.equal(rows, stratified_rows(labels, samples, seed=1))


def test_a_class_of_one_sample_keeps_it():
    labels = torch.tensor([0] * 9 + [1])
    assert torch.bincount(labels[stratified_rows(labels, 4)]).tolist() == [3, 1]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="samples must be >= 6, got 5"):
        stratified_rows(imbalanced(), 5)
    with pytest.raises(ValueError, match="samples must be <= 100, got 101"):
        stratified_rows(imbalanced(), 101)
    with pytest.raises(ValueError, match=r"classes \[1\] of 3 have none"):
        LayerSamples(torch.ones(3, 2), [0, 2, 2])


def test_samples_are_kept_beside_the_statistics(tmp_path):
    x, y, path = torch.randn(100, 5), imbalanced(), tmp_path / "layers.safetensors"
    layers = {name: pnc.ClassStatistics.from_features(x, y) for name in ("a/b", "c")}
    rows = stratified_rows(y, 40)
    kept = {name: LayerSamples(x, y).take(rows) for name in layers}
    pnc.save_layers(layers, path, {"data": "made up"}, samples=kept)
    found = load_samples(path)
    assert [*found] == ["a/b", "c"]
    assert torch.equal(found["c"].features, x[rows])
    assert torch.equal(found["c"].labels, y[rows])
    torch.testing.assert_close(pnc.load_layers(path)["c"].within, layers["c"].within)
    plain = tmp_path / "plain.safetensors"
    pnc.save_layers(layers, plain)
    # 4 n (d + 1) bytes a layer, and what names them.
    assert 0 <= path.stat().st_size - plain.stat().st_size - 2 * 4 * 40 * 6 < 1000
    with pytest.raises(ValueError, match="holds no samples, which the loss cross-entropy needs; "):
        load_samples(plain)
    with pytest.raises(ValueError, match=r"samples must be of the layers \['a/b', 'c'\]"):
        pnc.save_layers(layers, plain, samples={"c": kept["c"]})
    other = {name: LayerSamples(x[:, :4], y) for name in layers}
    with pytest.raises(ValueError, match=r"must have \(K, d\) = \(3, 5\), got \(3, 4\)"):
        pnc.save_layers(layers, plain, samples=other)
