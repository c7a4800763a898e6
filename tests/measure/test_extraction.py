import pytest
import torch
from small_images import K, Lambda, N, assert_close, features, images, loader
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from perturb_nc.measure.dataset import Dataset, batches
from perturb_nc.measure.extraction import collect_features, collect_statistics
from perturb_nc.measure.reductions import random_projection
from perturb_nc.metrics.table import collapse_metrics
from perturb_nc.networks.architectures import MLP, ResidualMLP
from perturb_nc.networks.convolutional import VGG, ConvNet
from perturb_nc.networks.resnet import ResNet
from perturb_nc.statistics import ClassStatistics


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


def test_named_layers_only_and_any_depth():
    model = MLP(32, (6, 5), K)
    found = collect_statistics(model, loader(), layers=["head", "blocks.1.linear"])
    assert list(found) == ["blocks.1.linear", "head"]  # order of execution
    assert found["blocks.1.linear"].means.min() < 0  # before the activation


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
    "convnet": lambda: ConvNet(2, K, width=3, num_blocks=2),
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
            # Where two means agree up to rounding their log distance is that of the processor.
            rel = 0.05 if metric == "nc2_uniformity" and value > 20 else 1e-4
            assert found == pytest.approx(value, rel=rel, abs=1e-8, nan_ok=True), (name, metric)


def test_the_span_needs_a_loader_that_can_be_read_twice():
    model = MLP(32, (6,), K)
    with pytest.raises(ValueError, match="loader must give its batches twice"):
        collect_statistics(model, iter(loader()), covariance="span")
    with pytest.raises(ValueError, match="covariance must be 'full' or 'span', got 'none'"):
        collect_statistics(model, loader(), covariance="none")
    with pytest.raises(ValueError, match=r"classes \[3\] of 4 have none"):
        collect_statistics(model, loader(), covariance="span", num_classes=4)


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
