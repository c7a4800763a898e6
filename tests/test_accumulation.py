import hypothesis.strategies as st
import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from problems import assert_same

import perturb_nc as pnc


@pytest.fixture
def sample():
    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 40 + [3])
    return torch.randn(len(labels), 6), labels[torch.randperm(len(labels))]


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


def test_builders_merge_where_some_lack_classes():
    features, labels = torch.randn(20, 3), torch.arange(20) % 3
    left, right = pnc.StatisticsBuilder(), pnc.StatisticsBuilder()
    first = labels < 1
    left.update(features[first], labels[first])
    right.update(features[~first], labels[~first])
    left.merge(pnc.StatisticsBuilder())
    left.merge(right)
    assert_same(left.result(), pnc.ClassStatistics.from_features(features, labels))


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
