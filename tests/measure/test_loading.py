import pytest
import torch
from measured_models import Calls, K, N, batched, labelled
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import perturb_nc as pnc
from perturb_nc.measure.dataset import Dataset
from perturb_nc.measure.extraction import (
    collect_features,
    collect_statistics,
    nearest_mean_scores,
)
from perturb_nc.statistics import ClassStatistics

X, Y = labelled(6)


def model(**options):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, K)).to(**options)


def means(loader, network=None, **options):
    return collect_statistics(network or model(), loader, **options)["2"].means


def wanted(network=None):
    with torch.no_grad():
        return ClassStatistics.from_features((network or model())(X), Y).means


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


def test_other_batches_are_unpacked_by_a_function():
    index = torch.arange(N)
    loader = DataLoader(TensorDataset(X, Y, index), batch_size=7)
    with pytest.raises(ValueError, match=r"got list of 3; .* unpack=lambda batch: batch\[:2\]"):
        means(loader)
    unpack = lambda batch: batch[:2]  # noqa: E731
    torch.testing.assert_close(means(loader, unpack=unpack), wanted(), rtol=1e-6, atol=1e-7)
    statistics = collect_statistics(model(), loader, unpack=unpack)
    features, labels = collect_features(model(), loader, unpack=unpack)
    assert torch.equal(labels, Y)
    torch.testing.assert_close(features["2"], model()(X).detach())
    scores = nearest_mean_scores(model(), loader, statistics, unpack=unpack)
    assert 0 <= scores["2"].accuracy <= 1
    with pytest.raises(ValueError, match=r"unpack must turn a batch into \(inputs, labels\)"):
        means(loader, unpack=lambda batch: batch[0])
    with pytest.raises(ValueError, match=r"dictionary of \['x', 'y'\] without \"labels\".*unpack="):
        means([{"x": X, "y": Y}])


def test_several_inputs_go_by_position_or_by_keyword():
    two = Calls(lambda body, a, b=None: body(a + b))
    by_position = collect_statistics(two, [((X, 2 * X), Y)])["body"].means
    with torch.no_grad():
        direct = ClassStatistics.from_features(two.body(3 * X), Y).means
    torch.testing.assert_close(by_position, direct, rtol=1e-6, atol=1e-7)

    class Keywords(Calls):
        def forward(self, *, a, b=None):
            return self.body(a if b is None else a + b)

    two = Keywords(None, two.body)
    by_keyword = collect_statistics(two, [{"a": X, "b": 2 * X, "labels": Y}])["body"].means
    assert torch.equal(by_keyword, by_position)
    one = collect_statistics(two, [(3 * X, Y)])["body"].means  # the only one it needs
    torch.testing.assert_close(one, direct, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match=r"takes \(\*, a, b=None\) and the batch gives a, text"):
        collect_statistics(two, [{"a": X, "text": X, "labels": Y}])

    class Both(Calls):
        def forward(self, *, a, b):
            return self.body(a + b)

    with pytest.raises(ValueError, match=r"takes keywords only \(a, b\).*unpack="):
        collect_statistics(Both(None), [(X, Y)])


def test_a_model_may_overwrite_its_inputs_but_not_the_data_of_the_loader():
    overwriting = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, K))
    before = X.clone()
    collect_statistics(overwriting, batched(X, Y), covariance="span")
    assert torch.equal(X, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_take_the_dtype_of_the_model_and_integers_stay(dtype):
    network = model(dtype=dtype)
    found = means(batched(X, Y), network)
    torch.testing.assert_close(
        found, ClassStatistics.from_features(network(X.to(dtype)).detach(), Y).means,
        rtol=1e-2, atol=1e-2,
    )  # fmt: skip
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, K)).to(dtype)
    tokens = torch.arange(3 * N).view(N, 3) % 9
    assert collect_statistics(words, [(tokens, Y)], reduce="flatten")["0"].dim == 12


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
    with pytest.raises(RuntimeError) as caught:
        means([(torch.zeros(4, 5), torch.arange(4) % 2)])
    assert "inputs (4, 5) torch.float32" in caught.value.__notes__[0]


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


def test_parameters_held_elsewhere_do_not_draw_the_inputs_there():
    class Offloaded(nn.Module):  # as accelerate leaves it: weights come when they are needed
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 4, device="meta")
            self.second = nn.Linear(4, K)

        def forward(self, x):
            return self.second(self.kept(x))

        def kept(self, x):
            return nn.functional.linear(x, torch.ones(4, 6))

    with pytest.warns(UserWarning, match="'first'"):
        found = collect_statistics(Offloaded(), batched(X, Y))
    assert list(found) == ["second"]


def test_a_model_without_numbers_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 3, device="meta"))
    with pytest.raises(ValueError, match="on device meta; load its weights"):
        pnc.collect_statistics(model, [(torch.ones(6, 4), torch.arange(6) % 3)])
