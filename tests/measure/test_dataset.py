import pytest
import torch

from perturb_nc.measure.dataset import Dataset, batches


def small_dataset(n=10):
    return Dataset("small", torch.arange(2.0 * n).reshape(n, 2), torch.arange(n) % 3, 3)


def test_datasets_refuse_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="labels must be < num_classes = 2, got 2"):
        Dataset("x", torch.zeros(3, 2), torch.arange(3), 2)
    with pytest.raises(ValueError, match="number of samples in inputs must be >= 1"):
        Dataset("x", torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), 2)


def test_a_dataset_moves_as_a_whole():
    data = small_dataset().to("cpu")
    assert (data.name, data.num_classes, len(data)) == ("small", 3, 10)
    assert torch.equal(data.inputs, small_dataset().inputs)


def test_batches_in_order_give_every_sample_once():
    data = small_dataset()
    parts = list(batches(data, 4))
    assert [len(labels) for _, labels in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in parts]), data.inputs)
    assert torch.equal(torch.cat([y for _, y in parts]), data.labels)


def test_batches_with_a_generator_are_a_reproducible_permutation_with_its_labels():
    data = small_dataset(60)
    first, second = (
        list(batches(data, 7, generator=torch.Generator().manual_seed(3))) for _ in range(2)
    )
    inputs = torch.cat([x for x, _ in first])
    assert torch.equal(inputs, torch.cat([x for x, _ in second]))
    assert not torch.equal(inputs, data.inputs)
    order = inputs[:, 0].long() // 2
    assert torch.equal(order.sort().values, torch.arange(60))
    assert torch.equal(torch.cat([y for _, y in first]), data.labels[order])


def test_batches_refuse_a_size_below_one():
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        next(batches(small_dataset(), 0))
