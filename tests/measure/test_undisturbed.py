import random

import numpy as np
import pytest
import torch
from measured_models import Calls, Gives, K, batched, labelled
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from perturb_nc.measure import layers
from perturb_nc.measure.extraction import collect_features, collect_statistics
from perturb_nc.measure.monitor import CollapseMonitor
from perturb_nc.measure.nearest_mean import nearest_mean_scores
from perturb_nc.measure.reductions import random_projection
from perturb_nc.statistics import ClassStatistics

X, Y = labelled(6)


def model(*middle):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), *middle, nn.Linear(5, K))


def assert_same(found, wanted, **tolerance):
    assert found.keys() == wanted.keys()
    for name, statistics in found.items():
        for field in ("means", "within", "class_variance"):
            x, y = getattr(statistics, field), getattr(wanted[name], field)
            torch.testing.assert_close(x, y, **tolerance)


@pytest.mark.parametrize("at", ["output", "input"])
def test_features_that_are_kept_are_overwritten_by_nothing(at):
    class Buffers(nn.Module):
        """Gives the same memory every time."""

        def __init__(self):
            super().__init__()
            self.memory = torch.zeros(10, 5)

        def forward(self, x):
            self.memory[: len(x)] = x
            return self.memory[: len(x)]

    network = model(nn.ReLU(inplace=True), Buffers(), nn.Hardtanh(-0.1, 0.1, inplace=True))
    reused = torch.empty_like(X[:8]), torch.empty_like(Y[:8])

    def loader():
        for x, y in batched(X, Y, 8):
            yield reused[0].copy_(x), reused[1].copy_(y)

    found, labels = collect_features(network, loader(), at=at)
    with torch.no_grad():
        h = network[0](X)
        stages = [X, h, h.relu(), h.relu(), h.relu().clamp(-0.1, 0.1)]
        stages.append(network[4](stages[-1]))
    wanted = dict(zip("01234", stages[1:] if at == "output" else stages[:-1], strict=True))
    assert torch.equal(labels, Y)
    for name, x in wanted.items():
        torch.testing.assert_close(found[name], x, rtol=1e-5, atol=1e-6)
    direct = {n: ClassStatistics.from_features(x, Y) for n, x in wanted.items()}
    for covariance in ("full", "span"):
        statistics = collect_statistics(network, batched(X, Y, 8), at=at, covariance=covariance)
        for name, s in statistics.items():
            torch.testing.assert_close(
                s.class_variance, direct[name].class_variance, rtol=1e-5, atol=1e-6
            )


def test_a_slice_that_is_kept_does_not_hold_the_activation():
    found, _ = collect_features(model(), batched(X, Y), reduce=lambda x: x[:, :2])
    assert found["0"].untyped_storage().nbytes() == len(X) * 2 * 4


def test_no_generator_moves(unchecked):  # the checks of types draw numbers
    draw = lambda: torch.rand(1).item() + np.random.rand() + random.random()  # noqa: E731, NPY002
    network = model(Gives(lambda x: x + 0 * draw()))
    generator = torch.Generator().manual_seed(7)
    loaders = [
        DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True),
        DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True, generator=generator),
    ]

    def states():
        torch_states = torch.get_rng_state(), generator.get_state()
        return [s.tolist() for s in torch_states], np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states(), random.getstate()
    for loader in loaders:
        collect_statistics(network, loader, covariance="span")
        collect_features(network, loader)
        CollapseMonitor(network, loader)(1)
    assert (states(), random.getstate()) == before


def test_a_network_trained_with_a_monitor_is_the_one_trained_without():
    def trained(watched):
        network = model(nn.BatchNorm1d(5), nn.Dropout(0.3))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        loader = DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)
        monitor = CollapseMonitor(network, loader)
        for epoch in range(3):
            for x, y in loader:
                loss = nn.functional.cross_entropy(network(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if watched:
                monitor(epoch, loss=loss.item())
        return network.state_dict()

    plain, watched = trained(False), trained(True)
    assert all(torch.equal(value, watched[name]) for name, value in plain.items())


def test_two_passes_see_the_same_samples_when_they_draw_from_the_global_generators():
    class Augmented(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + torch.randn(6), y

    loader = DataLoader(Augmented(X, Y), batch_size=8, shuffle=True)
    state = torch.get_rng_state()
    span = collect_statistics(model(), loader, covariance="span")
    torch.set_rng_state(state)
    full = collect_statistics(model(), loader)
    for name, statistics in full.items():
        torch.testing.assert_close(span[name].class_variance, statistics.class_variance)


def test_modes_are_restored_by_the_modules_own_train():
    class Adapter(nn.Linear):
        """Merged in eval mode, as adapters of low rank are."""

        merged = False

        def train(self, mode=True):
            super().train(mode)
            self.merged = not mode
            return self

    network = nn.Sequential(Adapter(6, 5), nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, K)))
    network.train()
    network[1][0].eval()
    modes = [m.training for m in network.modules()]
    merged = []
    network[0].register_forward_hook(lambda m, *_: merged.append(m.merged))
    collect_statistics(network, batched(X, Y))
    assert merged == [True] * 3
    assert not network[0].merged
    assert [m.training for m in network.modules()] == modes


def test_autocast_reaches_the_model_but_no_reduction():
    network, project = model(), random_projection(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = collect_statistics(network, batched(X, Y), reduce=project)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = network[0](X)
    assert hidden.dtype == torch.bfloat16
    wanted = ClassStatistics.from_features(project(hidden), Y)
    assert_same({"0": found["0"]}, {"0": wanted}, rtol=1e-6, atol=1e-7)


def test_statistics_made_under_inference_mode_are_ordinary_tensors():
    network = model()

    @torch.inference_mode()
    def forward(x):
        return network[1](network[0](x))

    wanted = collect_statistics(network, batched(X, Y))
    network.forward = forward
    with torch.inference_mode():
        found = collect_statistics(network, batched(X, Y))
        features, labels = collect_features(network, batched(X, Y))
        nearest_mean_scores(network, batched(X, Y), found)
    assert_same(found, wanted)
    tensors = [*features.values(), labels, *(s.within for s in found.values())]
    assert not any(x.is_inference() for x in tensors)
    found["0"].merge(found["0"])


def test_another_default_device_changes_nothing():
    network = model()
    wanted = collect_statistics(network, batched(X, Y), reduce=random_projection(3))
    torch.set_default_device("meta")
    try:
        loader = batched(X, Y)
        found = collect_statistics(network, loader, reduce=random_projection(3))
        span = collect_statistics(network, loader, covariance="span")
        features, _ = collect_features(network, loader)
        nearest_mean_scores(network, loader, wanted, reduce=random_projection(3))
    finally:
        torch.set_default_device(None)
    assert_same(found, wanted)
    assert span["0"].means.device.type == features["0"].device.type == "cpu"


def test_where_there_is_no_float64_sums_are_taken_on_the_cpu(monkeypatch):
    class OnMPS(torch.Tensor):
        """Says it is on an Apple GPU, and has no float64."""

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function == torch.Tensor.device.__get__:
                return torch.device("mps")
            if function is torch.Tensor.double or any(a is torch.float64 for a in args):
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
            if function is torch.Tensor.cpu:
                with torch._C.DisableTorchFunctionSubclass():
                    return args[0].as_subclass(torch.Tensor)
            return super().__torch_function__(function, types, args, kwargs or {})

    wanted = collect_statistics(model(), batched(X, Y))
    network = model()
    network.forward = lambda x: network[1](network[0](x.as_subclass(OnMPS)))
    found = collect_statistics(network, batched(X, Y))
    assert_same(found, wanted)
    monkeypatch.setattr(layers, "_WITHOUT_FLOAT64", ())
    with pytest.raises((TypeError, RuntimeError), match=r"MPS|mps"):
        collect_statistics(network, batched(X, Y))


def test_the_network_s_own_class_is_read_from_tuples_and_records():
    network = model()
    statistics = collect_statistics(network, batched(X, Y))
    wanted = nearest_mean_scores(network, batched(X, Y), statistics)
    plain = network.forward
    for wrap in (lambda z: (z, None), lambda z: [z], lambda z: {"loss": None, "logits": z}):
        network.forward = lambda x, wrap=wrap: wrap(plain(x))
        assert nearest_mean_scores(network, batched(X, Y), statistics) == wanted
    network.forward = lambda x: {"scores": plain(x)}
    with pytest.raises(ValueError, match=r'outputs \(10, K\) with K >= 3, .*"logits".* got dict'):
        nearest_mean_scores(network, batched(X, Y), statistics)
    network.forward = lambda x: plain(x)[:, :1]
    with pytest.raises(ValueError, match=r"got \(10, 1\)"):
        nearest_mean_scores(network, batched(X, Y), statistics)


def test_inputs_given_by_keyword_are_inputs_of_layers():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(6, K)

        def forward(self, *, hidden_states):
            return self.out(hidden_states)

    network = Calls(lambda body, x: body(hidden_states=2 * x), Attention())
    found = collect_features(network, [(X, Y)], at="input")[0]
    torch.testing.assert_close(found["body"], 2 * X)


def test_layers_of_transformers_give_records():
    states = Gives(lambda x: {"last_hidden_state": 2 * x, "attentions": None})
    network = Calls(lambda body, x: body(x)["last_hidden_state"], states)
    found = collect_features(network, [(X, Y)])[0]
    torch.testing.assert_close(found["body"], 2 * X)


def test_an_exported_model_is_refused_by_name():
    class Exported(nn.Linear):
        """As a module of torch.export, which costs seconds to make."""

        def train(self, mode=True):
            raise NotImplementedError("Calling train() is not supported yet.")

    model = Exported(4, 3)
    with pytest.raises(TypeError, match="pass the module it was exported from"):
        collect_statistics(model, [(torch.ones(6, 4), torch.arange(6) % 3)])
