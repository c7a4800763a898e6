import gc
import weakref

import pytest
import torch
from small_images import K, Lambda, N, Returns, assert_close, features, hooks, images, loader
from torch import nn

from perturb_nc.measure.extraction import collect_statistics
from perturb_nc.networks.architectures import MLP


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
