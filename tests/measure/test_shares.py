import pytest
import torch
from measured_models import X, Y, means, model
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from perturb_nc.measure.extraction import collect_features


@pytest.mark.parametrize("total", [24, 23, 22, 4, 1])
def test_samples_that_fill_up_the_processes_are_left_out(total):
    data = TensorDataset(X[:total], torch.arange(total))
    seen = []
    for rank in range(3):
        sampler = DistributedSampler(data, 3, rank, shuffle=True, seed=4)
        loader = DataLoader(data, batch_size=3, sampler=sampler)
        if total > rank:
            seen += collect_features(model(), loader)[1].tolist()
        else:
            with pytest.raises(ValueError, match="loader gave no batch"):
                collect_features(model(), loader)
    assert sorted(seen) == list(range(total))


def test_a_sampler_whose_repetitions_are_not_known_is_refused():
    class Other(DistributedSampler):
        def __iter__(self):
            return reversed(list(super().__iter__()))

    data = TensorDataset(X[:22], Y[:22])
    loader = DataLoader(data, batch_size=3, sampler=Other(data, 3, 0))
    with pytest.raises(ValueError, match=r"Other repeats samples .*\(22 to 24\).*drop_last=True"):
        means(loader)
    loader = DataLoader(data, batch_size=3, sampler=Other(data, 2, 0))
    assert len(collect_features(model(), loader)[1]) == 11


def test_batches_that_are_filled_up_are_refused():
    class BatchSamplerShard:  # of accelerate
        num_processes, even_batches, split_batches, batch_size, drop_last = 2, True, False, 5, False

        def __iter__(self):
            return iter([[0, 1, 2, 3, 4], [10, 11, 12, 13, 14], [20, 21, 22, 23, 0]])

    loader = DataLoader(TensorDataset(X, Y), batch_sampler=BatchSamplerShard())
    with pytest.raises(ValueError, match=r"BatchSamplerShard repeats .* even_batches=False"):
        means(loader)
