import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from perturb_nc.measure.dataset import Dataset, batches
from perturb_nc.measure.extraction import (
    collect_features,
    collect_statistics,
    nearest_mean_scores,
)
from perturb_nc.measure.reductions import random_projection
from perturb_nc.metrics import collapse_metrics
from perturb_nc.networks.architectures import MLP, ResidualMLP
from perturb_nc.networks.convolutional import VGG, ConvNet
from perturb_nc.networks.resnet import ResNet
from perturb_nc.statistics import ClassStatistics

N, K = 60, 3


def images(n=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 4, 4, generator=generator), torch.arange(n) % K


def loader(batch_size=16, n=N):
    inputs, labels = images(n)
    return list(zip(inputs.split(batch_size), labels.split(batch_size), strict=True))


def assert_close(found, wanted, rtol=1e-10):
    for field in ("counts", "means", "within", "class_variance"):
        x, y = getattr(found, field), getattr(wanted, field)
        torch.testing.assert_close(x, y, rtol=rtol, atol=rtol)


def features(x, labels=None):
    return ClassStatistics.from_features(x, images()[1] if labels is None else labels)


def hooks(model):
    return [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]


class Returns(nn.Module):
    """A model whose middle layer gives whatever `make` makes of its input."""

    def __init__(self, make):
        super().__init__()
        self.first = nn.Linear(32, 5)
        self.odd = Lambda(make)

    def forward(self, x):
        h = self.first(x.flatten(1))
        self.odd(h)
        return h


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def test_every_layer_of_a_residual_mlp_equals_the_direct_computation():
    model = ResidualMLP(32, 6, 2, K).double()
    for block in model.blocks:
        nn.init.normal_(block.outer.weight, std=0.3)
    x, _ = images()
    data = [(inputs.double(), labels) for inputs, labels in loader()]
    found = collect_statistics(model, data)
    assert list(found) == ["embed", "blocks.0", "blocks.1", "head"]
    with torch.no_grad():
        h0 = model.embed(x.double().flatten(1))
        h1 = h0 + model.blocks[0].outer(torch.relu(model.blocks[0].inner(h0)))
        h2 = h1 + model.blocks[1].outer(torch.relu(model.blocks[1].inner(h1)))
        dense = [h0, h1, h2, h2 @ model.head.weight.T]
    for statistics, h in zip(found.values(), dense, strict=True):
        assert_close(statistics, features(h))


def test_the_blocks_of_an_mlp_are_features_after_the_activation():
    model = MLP(32, (6, 5), K)
    x, _ = images()
    found = collect_statistics(model, loader())
    assert list(found) == ["blocks.0", "blocks.1", "head"]
    with torch.no_grad():
        h = torch.relu(model.blocks[0].linear(x.flatten(1)))
    assert_close(found["blocks.0"], features(h), rtol=1e-6)


def test_the_order_and_size_of_the_batches_do_not_matter():
    model = MLP(32, (6,), K)
    x, y = images()
    data = Dataset("noise", x, y, K)
    one = collect_statistics(model, batches(data, N))
    shuffled = batches(data, 7, generator=torch.Generator().manual_seed(2))
    for name, statistics in collect_statistics(model, shuffled).items():
        assert_close(statistics, one[name], rtol=1e-6)
    # The lists that a DataLoader gives do as well as tuples.
    for name, statistics in collect_statistics(
        model, DataLoader(TensorDataset(x, y), batch_size=16)
    ).items():
        assert_close(statistics, one[name], rtol=1e-6)


def test_inputs_of_layers_are_those_before_an_in_place_module():
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 5), nn.ReLU(inplace=True), nn.Linear(5, K))
    x, _ = images()
    with torch.no_grad():
        before = model[1](x.flatten(1))
    found = collect_statistics(model, loader(), at="input")
    assert list(found) == ["1", "2", "3"]
    assert_close(found["1"], features(x.flatten(1)), rtol=1e-6)
    assert_close(found["2"], features(before), rtol=1e-6)
    assert_close(found["3"], features(before.relu()), rtol=1e-6)
    # Outputs are read before the next module overwrites them.
    assert_close(collect_statistics(model, loader())["1"], features(before), rtol=1e-6)


def test_convolutions_are_flattened_pooled_projected_or_reduced_by_a_function():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, K))
    with torch.no_grad():
        a = model[0](images()[0])
    maximum = lambda x: x.amax((2, 3)) if x.ndim == 4 else x  # noqa: E731
    for reduce, wanted in (
        ("flatten", a.flatten(1)),
        ("pool", a.double().mean((2, 3))),
        (maximum, a.amax((2, 3))),
    ):
        found = collect_statistics(model, loader(), reduce=reduce)
        assert list(found) == ["0", "2"]
        assert_close(found["0"], features(wanted), rtol=1e-6)
        assert found["2"].dim == K
    found = collect_statistics(model, loader(), reduce=random_projection(4, seed=1))
    matrix = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)) / 2
    assert_close(found["0"], features(a.flatten(1) @ matrix), rtol=1e-5)
    assert found["2"].dim == 4


def test_a_random_projection_is_fixed_by_its_seed_and_keeps_squared_lengths():
    x = torch.randn(50, 20, 10)
    project = random_projection(2000, seed=3)
    y = project(x)
    assert torch.equal(y, random_projection(2000, seed=3)(x))
    assert not torch.equal(y, random_projection(2000, seed=4)(x))
    assert torch.equal(project(x.double()), y)
    ratio = (y.square().sum(1) / x.flatten(1).square().sum(1)).mean().item()
    assert ratio == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match="dim must be >= 1, got 0"):
        random_projection(0)


def test_containers_are_opened_and_shape_only_modules_skipped():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tail = nn.Linear(4, K)  # declared first, run last
            self.branches = nn.ModuleDict({"a": nn.Linear(32, 4), "b": nn.Linear(32, 4)})
            self.stack = nn.Sequential(
                nn.Dropout(0.9), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Identity()
            )
            self.block = MLP(4, (4,), 4)  # no container: one layer
            self.unused = nn.Linear(1, 1)

        def forward(self, x):
            x = x.flatten(1)
            return self.tail(self.block(self.stack(self.branches["b"](x) + self.branches["a"](x))))

    with pytest.warns(UserWarning, match=r"layers \['unused'\] never ran in the forward pass"):
        found = collect_statistics(Model(), loader())
    assert list(found) == ["branches.b", "branches.a", "stack.1.0", "stack.1.1", "block", "tail"]


def test_a_parallel_wrapper_is_replaced_by_its_inner_module():
    model = MLP(32, (6,), K)
    wrapped = nn.DataParallel(model)
    wrapped.forward = None  # it must not be called
    found = collect_statistics(wrapped, loader())
    assert list(found) == ["blocks.0", "head"]
    assert_close(found["head"], collect_statistics(model, loader())["head"])


def test_a_module_that_runs_twice_is_reported_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(32, 5)
            self.again = nn.Linear(5, 5)
            self.alias = self.again

        def forward(self, x):
            return self.again(self.again(self.first(x.flatten(1))))

    model = Twice()
    found = collect_statistics(model, loader())
    assert list(found) == ["first", "again", "again#2"]
    with torch.no_grad():
        h = model.again(model.first(images()[0].flatten(1)))
        assert_close(found["again"], features(h), rtol=1e-6)
        assert_close(found["again#2"], features(model.again(h)), rtol=1e-6)


def test_a_module_shared_by_two_containers_has_the_first_name():
    shared = nn.Linear(32, 32)
    model = nn.Sequential(
        nn.Flatten(), nn.Sequential(shared, nn.Tanh()), nn.Sequential(shared, nn.Linear(32, K))
    )
    assert list(collect_statistics(model, loader())) == ["1.0", "1.1", "1.0#2", "2.1"]


def test_named_layers_only_and_any_depth():
    model = MLP(32, (6, 5), K)
    found = collect_statistics(model, loader(), layers=["head", "blocks.1.linear"])
    assert list(found) == ["blocks.1.linear", "head"]  # order of execution
    assert found["blocks.1.linear"].means.min() < 0  # before the activation


@pytest.mark.parametrize("kind", [tuple, list])
def test_of_a_tuple_or_list_the_first_tensor_is_taken(kind):
    model = Returns(lambda h: kind([2 * h, None]))
    found = collect_statistics(model, loader())
    torch.testing.assert_close(found["odd"].means, 2 * found["first"].means)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda h: {"h": h}, TypeError, r"'odd' must give a tensor.*got dict; .*layers="),
        (lambda h: (None, h), TypeError, "'odd' must give a tensor.*got NoneType"),
        (lambda h: h.argmax(1), TypeError, "'odd' must give floats, got torch.int64"),
        (lambda h: h.mean(), ValueError, r"'odd' must give one row per sample, got shape \(\)"),
        (lambda h: h.T, ValueError, r"'odd' must give one row per sample, got shape \(5, 16\)"),
        (lambda h: h / 0, ValueError, "layer 'odd': features must be finite"),
        (lambda h: h[:, :0], ValueError, "layer 'odd': features must not be empty"),
        (lambda h: h.new_zeros(1).expand(len(h), 10**6), MemoryError, "'odd'.*random_projection"),
    ],
)
def test_layers_without_features_are_named(make, error, message):
    model = Returns(make).train()
    with pytest.raises(error, match=message):
        collect_statistics(model, loader())
    assert hooks(model) == []
    assert all(module.training for module in model.modules())


def test_training_flags_hooks_and_gradients_are_as_before():
    model = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 5), nn.Linear(5, K)
    )
    model.train()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first = collect_statistics(model, loader())
    assert [module.training for module in model.modules()] == flags
    assert hooks(model) == []
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
    assert_close(collect_statistics(model, loader())["4"], first["4"])  # no dropout


def test_the_model_runs_in_eval_mode_without_gradients():
    seen = []
    model = Returns(lambda h: seen.append((torch.is_grad_enabled(), model.training)) or h).train()
    collect_statistics(model, loader(N))
    assert seen == [(False, False)]


def test_the_hooks_of_others_stay_and_do_not_disturb():
    model, seen = MLP(32, (6,), K), []
    handle = model.head.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    collect_statistics(model, loader())
    assert hooks(model) == [handle.id]
    assert seen == [16, 16, 16, 12]


def test_an_extraction_within_the_loader_of_another_disturbs_neither():
    model, inner = MLP(32, (6,), K), []

    def extracting():
        for batch in loader():
            inner.append(collect_statistics(model, loader(20), layers=["blocks.0"]))
            yield batch

    outer, plain = collect_statistics(model, extracting()), collect_statistics(model, loader())
    assert_close(outer["blocks.0"], plain["blocks.0"])
    assert_close(outer["head"], plain["head"])
    for statistics in inner:
        assert_close(statistics["blocks.0"], plain["blocks.0"], rtol=1e-6)
    assert hooks(model) == []


def test_no_activation_outlives_its_layer():
    alive = []

    def forget(h):
        gc.collect()
        assert [ref for ref in alive if ref() is not None] == []
        out = h.clone()
        alive.append(weakref.ref(out))
        return out

    model = nn.Sequential(nn.Flatten(), Lambda(forget), nn.ReLU(), Lambda(forget))
    collect_statistics(model, loader())
    assert len(alive) == 8


def test_classes_may_be_missing_from_a_batch_but_not_from_all():
    x, y = images()
    order = y.argsort()
    ordered = list(zip(x[order].split(10), y[order].split(10), strict=True))
    model = MLP(32, (6,), K)
    assert_close(
        collect_statistics(model, ordered)["head"],
        collect_statistics(model, loader())["head"],
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match=r"classes \[3\] of 4 have none"):
        collect_statistics(model, loader(), num_classes=4)
    with pytest.raises(ValueError, match="labels must be < num_classes = 2, got 2"):
        collect_statistics(model, loader(), num_classes=2)


def test_bad_arguments_are_named():
    model = MLP(32, (6, 5), K)
    with pytest.raises(ValueError, match="at must be 'output' or 'input', got 'before'"):
        collect_statistics(model, loader(), at="before")
    with pytest.raises(ValueError, match=r"reduce must be one of 'flatten', 'pool', .* got 'mean'"):
        collect_statistics(model, loader(), reduce="mean")
    with pytest.raises(ValueError, match=r"got 'block.0'; there are \['blocks.0'"):
        collect_statistics(model, loader(), layers=["block.0"])
    with pytest.raises(ValueError, match=r"got 'zzz'; there are \['blocks', 'blocks.0'"):
        collect_statistics(model, loader(), layers=["zzz"])
    with pytest.raises(ValueError, match=r"layers must hold at least one name, got \[\]"):
        collect_statistics(model, loader(), layers=[])
    with pytest.raises(ValueError, match="num_classes must be >= 2, got 1"):
        collect_statistics(model, loader(), num_classes=1)


def test_bad_batches_are_named():
    model = MLP(32, (6,), K)
    x, y = images()
    with pytest.raises(ValueError, match="loader gave no batch"):
        collect_statistics(model, [])
    with pytest.raises(ValueError, match=r"must give \(inputs, labels\) pairs, got Tensor"):
        collect_statistics(model, [x])
    with pytest.raises(ValueError, match="one entry per sample: got 59 for 60"):
        collect_statistics(model, [(x, y[:-1])])
    with pytest.raises(ValueError, match="labels must be integers"):
        collect_statistics(model, [(x, y.float())])


def test_layers_that_do_not_run_are_named():
    model = Returns(lambda h: h)
    model.unused = nn.Linear(1, 1)
    with pytest.warns(UserWarning, match=r"layers \['unused'\] never ran"):
        assert list(collect_statistics(model, loader())) == ["first", "odd"]
    with pytest.raises(ValueError, match=r"\['unused'\] never ran"):
        collect_statistics(model, loader(), layers=["first", "unused"])
    # A ModuleList is no call of its own.
    with pytest.raises(ValueError, match=r"\['blocks'\] never ran"):
        collect_statistics(MLP(32, (6,), K), loader(), layers=["blocks"])
    with pytest.raises(ValueError, match="no layers were found"):
        collect_statistics(nn.Flatten(), loader())
    assert hooks(model) == []


def test_layers_that_run_in_some_batches_only_are_named():
    model = Returns(lambda h: h)

    def forward(x):
        h = model.first(x.flatten(1))
        return model.odd(h) if len(h) == 16 else h

    model.forward = forward
    with pytest.raises(ValueError, match=r"\['odd'\] ran in some batches only"):
        collect_statistics(model, loader())


def test_half_precision_is_pooled_in_single_precision():
    model = nn.Sequential(Lambda(lambda x: x.bfloat16()))
    found = collect_statistics(model, loader(), reduce="pool")["0"]
    assert_close(found, features(images()[0].bfloat16().double().mean((2, 3))), rtol=1e-6)


def test_a_reduction_must_give_one_row_of_features_per_sample():
    model = MLP(32, (6,), K)
    with pytest.raises(ValueError, match=r"layer 'blocks.0': features must have shape \(N, d\)"):
        collect_statistics(model, loader(), reduce=lambda x: x.mean(1))
    with pytest.raises(
        ValueError, match=r"layer 'blocks.0': labels must have one entry per sample"
    ):
        collect_statistics(model, loader(), reduce=lambda x: x[:5])


class Odd(nn.Module):
    """Reused modules, functional ReLUs, a module that gives a tuple, a residual sum."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.pair = Lambda(lambda h: (h.mean((2, 3)), h.shape))
        self.head = nn.Linear(4, K)

    def forward(self, x):
        h = nn.functional.relu(self.conv(x))
        h = h + nn.functional.relu(self.again(h))
        h = nn.functional.relu(self.again(h))
        return self.head(self.pair(h)[0])


MODELS = {
    "mlp": lambda: MLP(32, (7, 6), K, batch_norm=True, activation="silu"),
    "residual": lambda: ResidualMLP(32, 6, 2, K, activation="leaky_relu"),
    "convnet": lambda: ConvNet(2, K, width=3, depth=2),
    "vgg": lambda: VGG(2, K, stages=(1, 1), width=3, hidden=(5,)),
    "resnet": lambda: ResNet(2, K, stages=(1, 1), width=3),
    "odd": Odd,
}


def plain_loop(model, reduce):
    """One pass for every layer: keep its outputs in a list, then compute by the definitions."""
    names = [n for n in collect_statistics(model, loader()) if "#" not in n]
    wanted = {}
    for name in names:
        kept = []
        module = model.get_submodule(name)
        handle = module.register_forward_hook(lambda m, a, out, kept=kept: kept.append(out))
        model.eval()
        with torch.no_grad():
            model(images()[0])
        handle.remove()
        for call, out in enumerate(kept, start=1):
            out = out[0] if isinstance(out, tuple) else out
            x = out.double()
            x = x.mean((2, 3)) if reduce == "pool" and x.ndim == 4 else x.flatten(1)
            y = images()[1]
            means = torch.stack([x[y == k].mean(0) for k in range(K)])
            deviations = x - means[y]
            variance = torch.stack([deviations[y == k].square().sum(1).mean() for k in range(K)])
            wanted[name if call == 1 else f"{name}#{call}"] = ClassStatistics(
                torch.bincount(y), means, deviations.mT @ deviations / N, variance
            )
    return wanted


@pytest.mark.parametrize("reduce", ["flatten", "pool"])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_every_architecture_gives_what_a_plain_loop_per_layer_gives(build, reduce):
    model = build()
    found, wanted = collect_statistics(model, loader(), reduce=reduce), plain_loop(model, reduce)
    assert found.keys() == wanted.keys()
    for name, statistics in found.items():
        for field in ("counts", "means", "within", "class_variance"):
            x, y = getattr(statistics, field).double(), getattr(wanted[name], field).double()
            assert (x - y).abs().max() <= 1e-6 * y.abs().max(), (name, field)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_in_the_span_of_the_means_the_metrics_are_the_same_without_square_matrices(build):
    model = build()
    full = collect_statistics(model, loader())
    span = collect_statistics(model, loader(13), covariance="span")
    assert full.keys() == span.keys()
    for name, statistics in span.items():
        assert statistics.dim <= K + 1
        for metric, value in collapse_metrics(full[name]).as_dict().items():
            found = getattr(collapse_metrics(statistics), metric)
            if metric == "dnc2":  # infinite for dependent means, as those after a dead ReLU
                found, value = 1 / found, 1 / value
            assert found == pytest.approx(value, rel=1e-4, abs=1e-8, nan_ok=True), (name, metric)


def test_the_span_needs_a_loader_that_can_be_read_twice():
    model = MLP(32, (6,), K)
    with pytest.raises(ValueError, match="loader must give its batches twice"):
        collect_statistics(model, iter(loader()), covariance="span")
    with pytest.raises(ValueError, match="covariance must be 'full' or 'span', got 'none'"):
        collect_statistics(model, loader(), covariance="none")
    with pytest.raises(ValueError, match=r"classes \[3\] of 4 have none"):
        collect_statistics(model, loader(), covariance="span", num_classes=4)


def test_nearest_means_classify_every_layer_of_other_samples_in_one_pass():
    model = ConvNet(2, K, width=4, depth=1)
    statistics = collect_statistics(model, loader(), reduce="pool")
    x, y = images(n=45, seed=5)
    other = list(zip(x.split(20), y.split(20), strict=True))
    scores = nearest_mean_scores(model, other, statistics, reduce="pool")
    assert list(scores) == ["blocks.0", "blocks.1", "blocks.2", "head"]
    model.eval()
    with torch.no_grad():
        h, predicted = x, model(x).argmax(1)
        for name, block in zip(scores, model.blocks, strict=False):
            h = block(h)
            distances = torch.cdist(h.mean((2, 3)).double(), statistics[name].means)
            nearest = distances.argmin(1)
            assert scores[name].accuracy == pytest.approx((nearest == y).double().mean().item())
            against = (nearest != predicted).double().mean().item()
            assert scores[name].against_network == pytest.approx(against)
    assert len({score.accuracy for score in scores.values()}) > 1


def test_layers_without_statistics_are_named():
    model = MLP(32, (6, 5), K)
    statistics = collect_statistics(model, loader(), layers=["head"])
    with pytest.raises(
        ValueError, match=r"'blocks.0': statistics hold no such layer, only \['head"
    ):
        nearest_mean_scores(model, loader(), statistics)
    assert list(nearest_mean_scores(model, loader(), statistics, layers=["head"])) == ["head"]


def test_features_are_those_that_the_statistics_reduce():
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    x, y = torch.randn(30, 5), torch.arange(30) % 3
    loader = [(x[:20], y[:20]), (x[20:], y[20:])]
    features, labels = collect_features(model, loader)
    assert torch.equal(labels, y)
    assert list(features) == ["0", "1", "2"]
    torch.testing.assert_close(features["1"], model[:2](x).detach())
    for name, found in collect_statistics(model, loader).items():
        again = ClassStatistics.from_features(features[name], labels)
        torch.testing.assert_close(found.within, again.within)
    only, _ = collect_features(model, loader, layers=["2"], at="input")
    torch.testing.assert_close(only["2"], features["1"])
