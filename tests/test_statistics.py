import hypothesis.strategies as st
import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings

import perturb_nc as pnc


def dense_statistics(features, labels, num_classes):
    """Means, Σ_W and class variances with a loop over classes, in float64."""
    x = features.double()
    groups = [x[labels == k] for k in range(num_classes)]
    means = torch.stack([g.mean(0) for g in groups])
    deviations = torch.cat([g - g.mean(0) for g in groups])
    variance = torch.stack([(g - g.mean(0)).square().sum(1).mean() for g in groups])
    return means, deviations.mT @ deviations / len(x), variance


def assert_same(a, b, rtol=1e-12):
    assert torch.equal(a.counts, b.counts)
    scale = a.second_moment.trace().item()
    torch.testing.assert_close(a.means, b.means, rtol=rtol, atol=rtol * scale**0.5)
    torch.testing.assert_close(a.within, b.within, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(a.class_variance, b.class_variance, rtol=rtol, atol=rtol * scale)


@pytest.fixture
def sample():
    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 40 + [3])
    return torch.randn(len(labels), 6), labels[torch.randperm(len(labels))]


def test_agrees_with_a_loop_over_classes(sample):
    features, labels = sample
    statistics = pnc.ClassStatistics.from_features(features, labels)
    means, within, variance = dense_statistics(features, labels, 4)
    torch.testing.assert_close(statistics.means, means, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(statistics.within, within, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(statistics.class_variance, variance, rtol=1e-13, atol=1e-14)
    assert statistics.counts.tolist() == [7, 2, 40, 1]


def test_derived_quantities(sample):
    features, labels = sample
    s = pnc.ClassStatistics.from_features(features, labels)
    x = features.double()
    torch.testing.assert_close(s.second_moment, x.mT @ x / len(x), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(s.priors @ s.class_variance, s.within.trace())
    means = s.means - s.means.mean(0)
    torch.testing.assert_close(s.between, torch.einsum("ki,kj->ij", means, means) / 4)
    assert (s.num_classes, s.dim, s.num_samples) == (4, 6, 50)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    cuts=st.lists(st.integers(1, 59), max_size=6, unique=True),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16]),
)
def test_batches_and_their_order_do_not_matter(seed, cuts, dtype):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(60, 5, generator=generator).to(dtype)
    labels = torch.arange(60) % 4
    whole = pnc.ClassStatistics.from_features(features, labels)
    order = torch.randperm(60, generator=generator)
    builder = pnc.StatisticsBuilder()
    for part in order.tensor_split(sorted(cuts)):
        builder.update(features[part], labels[part])
    assert_same(whole, builder.result())


@pytest.mark.parametrize("batch", [1000, 64, 7])
def test_exact_under_a_common_offset(batch):
    features = torch.randn(1000, 8, dtype=torch.float64)
    labels = torch.arange(1000) % 5
    shift = 1e4 * torch.ones(8, dtype=torch.float64)
    shifted = features + shift
    plain = pnc.ClassStatistics.from_features(shifted - shift, labels)  # the rounded features
    builder = pnc.StatisticsBuilder(5)
    for start in range(0, 1000, batch):
        builder.update(shifted[start : start + batch], labels[start : start + batch])
    moved = builder.result()
    # A one-pass sum of squares would be wrong in the 8th digit here.
    torch.testing.assert_close(moved.within, plain.within, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(moved.means - shift, plain.means, rtol=0, atol=2e-11)


def test_merge_is_the_union(sample):
    features, labels = sample
    whole = pnc.ClassStatistics.from_features(features, labels)
    extra = torch.randn(30, 6) + 3
    extra_labels = torch.arange(30) % 4
    other = pnc.ClassStatistics.from_features(extra, extra_labels)
    third = pnc.ClassStatistics.from_features(extra * 2, extra_labels)
    union = pnc.ClassStatistics.from_features(
        torch.cat([features, extra, extra * 2]), torch.cat([labels, extra_labels, extra_labels])
    )
    assert_same(whole.merge(other, third), union)
    assert_same(third.merge(whole).merge(other), union)


def test_builders_merge_where_some_lack_classes():
    features, labels = torch.randn(20, 3), torch.arange(20) % 3
    left, right = pnc.StatisticsBuilder(), pnc.StatisticsBuilder()
    first = labels < 1
    left.update(features[first], labels[first])
    right.update(features[~first], labels[~first])
    left.merge(pnc.StatisticsBuilder())
    left.merge(right)
    assert_same(left.result(), pnc.ClassStatistics.from_features(features, labels))


def test_rotation_permutation_and_relabelling(sample):
    features, labels = sample
    features = features.double()
    s = pnc.ClassStatistics.from_features(features, labels)
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    rotated = pnc.ClassStatistics.from_features(features @ q.mT, labels)
    torch.testing.assert_close(rotated.within, q @ s.within @ q.mT)
    torch.testing.assert_close(rotated.class_variance, s.class_variance)
    relabel = torch.tensor([2, 0, 3, 1])
    renamed = pnc.ClassStatistics.from_features(features, relabel[labels])
    torch.testing.assert_close(renamed.means[relabel], s.means)
    torch.testing.assert_close(renamed.within, s.within)


def _reduce_in_process(rank, path, features, labels):
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    builder = pnc.StatisticsBuilder()
    mine = torch.arange(len(labels)) % 5 < 3 if rank == 0 else torch.arange(len(labels)) % 5 >= 3
    builder.update(features[mine], labels[mine])
    pnc.save_layers({"": builder.all_reduce().result()}, f"{path}/rank{rank}.safetensors")
    pnc.save_layers({"": builder.all_reduce().result()}, f"{path}/again{rank}.safetensors")
    late = pnc.StatisticsBuilder(4)
    if rank == 0:  # the other process has seen nothing
        late.update(features, labels)
    pnc.save_layers({"": late.all_reduce().result()}, f"{path}/late{rank}.safetensors")
    dist.destroy_process_group()


def test_all_reduce_over_two_processes(tmp_path):
    features = torch.randn(50, 6) + 100
    # The classes are split unevenly: class 3 is seen by one process alone.
    labels = torch.where(torch.arange(50) % 5 < 3, torch.arange(50) % 3, torch.arange(50) % 4)
    mp.spawn(_reduce_in_process, args=(str(tmp_path), features, labels), nprocs=2)
    whole = pnc.ClassStatistics.from_features(features, labels)
    for name in ("rank0", "rank1", "again0", "again1", "late0", "late1"):
        assert_same(pnc.load_layers(tmp_path / f"{name}.safetensors")[""], whole)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (
            [[1.0, float("nan")], [0.0, 1.0]],
            [0, 1],
            r"features must be finite, got nan at \[0, 1\]",
        ),
        ([[1.0, 2.0], [float("inf"), 1.0]], [0, 1], r"got inf at \[1, 0\]"),
        ([1.0, 2.0], [0, 1], r"features must have shape \(N, d\), got \(2,\); flatten"),
        ([[1.0], [2.0]], [0, 1, 1], "labels must have one entry per sample: got 3 for 2"),
        ([[1.0], [2.0]], [0.0, 1.0], "labels must be integers .*; convert them"),
        ([[1.0], [2.0]], [-1, 1], "labels must be >= 0, got -1; drop"),
        ([[1.0], [2.0]], None, "labels must be given: one integer class"),
        ([[1.0], [2.0]], [[1, 2], [0, 1]], r"scores: pass rows.argmax\(1\)"),
        ([[1.0], [2.0]], [[1, 1], [0, 1]], "one class, got 2 in row 0; choose one class"),
        ([[1.0], [2.0]], [[[1]], [[0]]], r"labels must have shape \(N,\), got \(2, 1, 1\)"),
        (np.eye(3), [1, 2, 2], r"classes \[0\] of 3 have none; subtract 1"),
        (np.eye(300), np.arange(300) % 2 * 255, "drop the samples labelled 255"),
        ([[1.0], [2.0], [3.0]], [0, 2, 2], r"classes \[1\] of 3 have none; relabel"),
        ([[1.0], [2.0]], [0, 10**13], "labels must be 0..K-1 .*got 10000000000000 among 2 samples"),
        ([[1.0], [2.0]], [0, 0], "need at least 2 classes, got 1"),
        (np.zeros((0, 3)), [], "features must not be empty"),
        ([[1j], [2.0]], [0, 1], "features must be real, got torch.complex"),
    ],
)
def test_bad_input_is_named(features, labels, message):
    with pytest.raises(ValueError, match=message):
        pnc.ClassStatistics.from_features(features, labels)


def test_labels_beyond_num_classes_and_objects_are_refused():
    with pytest.raises(ValueError, match="labels must be < num_classes = 2, got 2"):
        pnc.ClassStatistics.from_features(np.eye(3), [0, 1, 2], num_classes=2)
    with pytest.raises(ValueError, match="num_classes must be >= 2, got 1"):
        pnc.StatisticsBuilder(1)
    with pytest.raises(TypeError, match="features must be an array of numbers, got str"):
        pnc.ClassStatistics.from_features("features.npz", [0, 1])
    builder = pnc.StatisticsBuilder()
    with pytest.raises(ValueError, match="no batch was added"):
        builder.result()
    builder.update(np.eye(2), [0, 1])
    with pytest.raises(ValueError, match="features must have dimension 2, got 3"):
        builder.update(np.eye(3), [0, 1, 1])
    other = pnc.StatisticsBuilder()
    other.update(np.eye(3), [0, 1, 1])
    with pytest.raises(ValueError, match="cannot merge features of dimension 3 into dimension 2"):
        builder.merge(other)


def test_a_rejected_batch_leaves_the_builder_as_it_was(sample):
    features, labels = sample
    builder = pnc.StatisticsBuilder()
    builder.update(features, labels)
    bad = features.clone()
    bad[3, 2] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        builder.update(bad, labels)
    assert_same(builder.result(), pnc.ClassStatistics.from_features(features, labels), rtol=0)


def test_a_covariance_that_cannot_fit_is_refused_before_allocation(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=3 * 8 * 100**2 - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    pnc.ClassStatistics.from_features(torch.randn(4, 99), [0, 1, 0, 1])
    with pytest.raises(MemoryError, match=r"d = 100 needs 0.0 GiB.*average-pool"):
        pnc.ClassStatistics.from_features(torch.randn(4, 100), [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("within", "message"),
    [
        (torch.zeros(2, 2).double(), r"within must have shape \(3, 3\), got \(2, 2\)"),
        (torch.zeros(3, 3), "within must be float64, got torch.float32"),
        (torch.full((3, 3), torch.nan).double(), "within must be finite"),
        (-torch.eye(3).double(), "variances in within must be >= 0, got -1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_constructor_checks_its_fields(within, message):
    zeros = torch.zeros(2, 3).double()
    with pytest.raises(ValueError, match=message):
        pnc.ClassStatistics(torch.tensor([1, 1]), zeros, within, zeros[:, 0])


def test_a_change_of_the_given_tensors_changes_nothing(sample):
    found = pnc.ClassStatistics.from_features(*sample)
    tensors = [getattr(found, name).clone() for name in ("counts", "means", "within")]
    held = pnc.ClassStatistics(*tensors, found.class_variance)
    before = str(pnc.collapse_metrics(held))
    for tensor in tensors:
        tensor.mul_(3)
    found.class_variance.zero_()
    assert str(pnc.collapse_metrics(held)) == before


def test_tensors_made_under_inference_mode_are_ordinary_ones(sample):
    features, labels = sample
    with torch.inference_mode():
        builder = pnc.StatisticsBuilder()
        builder.update(features, labels)
        made = pnc.ClassStatistics.from_features(features, labels)
    builder.update(features, labels)
    assert builder.result().num_samples == 2 * made.num_samples
    torch.testing.assert_close(builder.result().means, made.means)
    assert_same(made.merge(made), builder.result())
    assert not any(field.is_inference() for field in (made.means, made.within, made.class_variance))
