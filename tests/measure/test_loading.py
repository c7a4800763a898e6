import pytest
import torch
from measured_models import Calls, K, N, X, Y, batched, means, wanted
from torch.utils.data import DataLoader, Subset, TensorDataset

from perturb_nc.measure.dataset import Dataset
from perturb_nc.measure.extraction import collect_statistics


@pytest.mark.parametrize(
    "loader",
    [
        Dataset("noise", X, Y, K),
        TensorDataset(X, Y),
        Subset(TensorDataset(X, Y), range(N)),
        DataLoader(TensorDataset(X, Y), batch_size=7),
        [(X.numpy(), Y.numpy())],
        [(X.double(), Y)],  # NumPy's floats
        [((X,), Y)],
        [{"input": X, "labels": Y}],
        [{"input": X, "label": Y}],
    ],
    ids=lambda loader: type(loader).__name__,
)
def test_batches_and_data_sets_of_every_kind_are_taken(loader):
    torch.testing.assert_close(means(loader), wanted(), rtol=1e-6, atol=1e-7)


def test_what_is_no_model_loader_or_batch_is_named_with_the_remedy(unchecked):
    loader = batched(X, Y)
    with pytest.raises(TypeError, match=r"got function; .*ClassStatistics.from_features"):
        collect_statistics(lambda x: x, loader)
    for bad in (X, {"x": X}, 3):
        with pytest.raises(TypeError, match=r"loader must give .*DataLoader, a Dataset, or a list"):
            means(bad)
    with pytest.raises(ValueError, match=r"got Tensor.*\[\(inputs, labels\)\]"):
        means((X, Y))
    with pytest.raises(ValueError, match=r"single sample with one label; .*DataLoader"):
        means(list(zip(X, Y, strict=True)))
    with pytest.raises(ValueError, match=r"single sample with one label; .*DataLoader"):
        means([(X[0], 1)])


def test_classes_without_samples_are_named_before_the_model_runs():
    ran = []
    network = Calls(lambda body, x: ran.append(1) or body(x))
    y = Y.where(Y != 1, 2)
    in_memory = TensorDataset(X, y)
    shuffled = DataLoader(in_memory, batch_size=5, shuffle=True)
    for loader in (batched(X, y), Dataset("gap", X, y, 4), in_memory, shuffled):
        with pytest.raises(ValueError, match=r"classes \[1, 3\] of 4 have none in the loader"):
            collect_statistics(network, loader, num_classes=4)
    with pytest.raises(ValueError, match=r"classes \[1\] of 3 have none in the loader"):
        collect_statistics(network, batched(X, y))
    assert ran == []
    with pytest.raises(ValueError, match=r"classes \[1\] of 3 have none in the loader"):
        collect_statistics(network, iter(batched(X, y)))
