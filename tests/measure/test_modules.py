import pytest
import torch
from measured_models import C, Calls, Gives, K, T, batched, labelled
from torch import nn
from torch.nn.utils import parametrize

from perturb_nc.measure.extraction import collect_features, collect_statistics
from perturb_nc.measure.modules import found_layers, modules_by_name
from perturb_nc.networks.architectures import MLP

X, Y = labelled(6)


class Block(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.relu(self.inner(x)))


class Net(nn.Module):
    """Blocks in stages, as a residual network."""

    def __init__(self):
        super().__init__()
        self.stage1 = nn.Sequential(Block(), Block())
        self.stage2 = nn.Sequential(Block(), Block())
        self.head = nn.Linear(6, K)

    def forward(self, x):
        return self.head(self.stage2(self.stage1(x)))


PLAIN = ["stage1.0", "stage1.1", "stage2.0", "stage2.1", "head"]


def means(model, **options):
    return {n: s.means for n, s in collect_statistics(model, batched(X, Y), **options).items()}


def assert_same(found, wanted):
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, rtol=1e-6, atol=1e-7)


def test_every_block_of_a_traced_model_is_there():
    model = Net()
    traced = torch.fx.symbolic_trace(model)
    found, wanted = means(traced), means(model)
    assert [n for n in found if n.endswith("relu#2")] == [f"{n}.relu#2" for n in PLAIN[:-1]]
    assert_same({n.removesuffix(".relu#2"): x for n, x in found.items()}, wanted)


def test_compiled_models_and_parts_are_measured_uncompiled_under_their_own_names():
    model = Net()
    wanted = means(model)
    compiled = torch.compile(model, backend="eager")
    assert list(means(compiled)) == PLAIN
    compiled(X)  # compiled code of before knows no hooks
    assert_same(means(compiled), wanted)
    assert_same(means(compiled, layers=["_orig_mod.stage1.0"]), {"stage1.0": wanted["stage1.0"]})
    inside = Net()
    inside.load_state_dict(model.state_dict())
    inside.stage1 = torch.compile(inside.stage1, backend="eager")
    inside.head.compile(backend="eager")
    inside(X)
    assert list(means(inside)) == PLAIN
    assert_same(means(inside), wanted)
    assert_same(means(inside, layers="stage1.*"), {n: wanted[n] for n in PLAIN[:2]})


def test_parallel_modules_inside_a_model_run_whole_batches_under_their_own_names():
    model = Net()
    wanted = means(model)
    model.stage1 = nn.DataParallel(model.stage1)
    model.stage1.device_ids = [0, 1]  # as on a machine with two devices
    assert list(means(model)) == PLAIN
    assert_same(means(model), wanted)
    assert model.stage1.device_ids == [0, 1]
    assert_same(means(nn.DataParallel(model), layers=["module.head", "stage1.module.0"]), {})


def test_parametrised_modules_are_measured_and_their_parametrisations_are_not():
    class Scaled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.ones(10, 6))  # as many rows as a batch
            self.first = nn.Linear(6, 6)
            self.head = nn.Linear(6, K)

        def forward(self, x):
            return self.head(self.first(x + self.token[0]))

    model = Token()
    wanted = means(model)
    halved = model.first.weight.detach() / 2
    parametrize.register_parametrization(model, "token", nn.Identity())
    parametrize.register_parametrization(model.first, "weight", Scaled(), unsafe=True)
    model.first.parametrizations.weight.original.data = halved
    assert list(means(model)) == ["first", "head"]
    assert_same(means(model), wanted)
    nn.utils.parametrizations.weight_norm(model.head)
    assert_same(means(model), wanted)


def test_encoders_are_opened_whoever_wrote_them():
    class Encoder(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.layers = nn.ModuleList([block(), block()])
            self.norm = nn.LayerNorm(6)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.norm(x)

    class Whole(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.body = nn.ModuleDict({"encoder": Encoder(block)})
            self.head = nn.Linear(6, K)

        def forward(self, x):
            return self.head(self.body["encoder"](x))

    names = ["layers.0", "layers.1", "norm"]
    encoder = [*(f"body.encoder.{n}" for n in names), "body.encoder"]
    assert list(means(Whole(lambda: nn.Sequential(Block(), Block())))) == [
        *(f"body.encoder.layers.{i}.{j}" for i in (0, 1) for j in (0, 1)), *encoder[2:], "head",
    ]  # fmt: skip
    assert list(means(Whole(lambda: Encoder(Block)))) == [*encoder, "head"]
    # Lists of single operations, as in branches, make no encoder.
    assert list(means(Whole(Block))) == ["body.encoder", "head"]
    # A block that holds a list of its own, as of experts, stays one layer.
    assert list(found_layers(nn.Sequential(Whole(Block), Whole(Block)))) == ["0", "1"]
    layer = nn.TransformerEncoderLayer(C, 2, 8, 0.0, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    found = collect_statistics(model, [labelled(T, C)])
    assert list(found) == ["0.layers.0", "0.layers.1"]


def test_an_encoder_of_torch_runs_its_layers_on_ordinary_tensors():
    layer = nn.TransformerEncoderLayer(C, 2, 8, 0.0, batch_first=True)
    body = nn.TransformerEncoder(layer, 2)  # fused in eval mode, on nested tensors where it can
    model = Calls(lambda b, x, attention_mask: b(x, src_key_padding_mask=attention_mask == 0), body)
    x, y = labelled(T, C)
    mask = (torch.arange(T) < 1 + torch.arange(len(y))[:, None] % T).long()
    batch = {"x": x, "attention_mask": mask, "labels": y}
    names = ["body", *(f"body.layers.*{part}" for part in ("", ".linear1", ".self_attn"))]
    found, _ = collect_features(model, [batch], layers=names, reduce="last_token")
    h = body.train()(x, src_key_padding_mask=mask == 0).detach()  # no dropout
    last = h[torch.arange(len(y)), mask.sum(1) - 1]
    torch.testing.assert_close(found["body.layers.1"], last, rtol=1e-5, atol=1e-6)
    assert len(found) == 1 + 3 * 2
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torchscript_is_refused_by_name():
    model = Net()
    with pytest.raises(TypeError, match=r"TorchScript, .*pass the module it was made from"):
        means(torch.jit.script(model))
    wanted = means(model)
    model.stage2 = torch.jit.script(model.stage2)
    with pytest.raises(TypeError, match=r"layer 'stage2' is TorchScript, .*leave it out"):
        means(model)
    assert_same(means(model, layers=["stage1.1", "head"]), {"head": wanted["head"]})


def test_layers_are_named_by_patterns_numbers_and_modules():
    model = MLP(6, (5, 4), K)
    assert list(means(model, layers="blocks.*")) == ["blocks.0", "blocks.1"]
    assert list(means(model, layers=["blocks.*.linear", "head"])) == [
        "blocks.0.linear", "blocks.1.linear", "head",
    ]  # fmt: skip
    assert list(means(model, layers="**.linear")) == ["blocks.0.linear", "blocks.1.linear"]
    assert list(means(model, layers="head")) == ["head"]
    assert list(means(model, layers=[model.blocks[1], model.head])) == ["blocks.1", "head"]
    assert list(means(model, layers=model.head)) == ["head"]
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, K))
    assert list(means(plain, layers=[0, 2])) == ["0", "2"]
    with pytest.raises(ValueError, match=r"layers 'block.\*' fits no module; there are \['blocks"):
        means(model, layers="block.*")
    with pytest.raises(ValueError, match=r"modules of this model, got a Linear that is none"):
        means(model, layers=[nn.Linear(1, 1)])
    with pytest.raises(ValueError, match=r"got '7'; there are \['0', '1', '2'\]"):
        means(plain, layers=[7])


def test_layers_that_never_ran_are_named():
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, K))
    model.spare = nn.ModuleList([nn.Linear(5, 5)])
    model.forward = lambda x: model[1](model[0](x))
    with pytest.warns(UserWarning, match=r"layers \['spare.0'\] never ran"):
        assert list(means(model)) == ["0", "1"]
    with pytest.warns(UserWarning, match=r"layers \['spare', 'spare.0'\] never ran"):
        means(model, layers=["*", "spare.*"])
    with pytest.raises(ValueError, match=r"layers \['spare'\] never ran .* layers=\"spare.\*\""):
        means(model, layers=["0", "spare"])


def test_modules_have_the_names_that_torch_gives_them():
    model = nn.Sequential(Net(), Gives(lambda x: x))
    wanted = {name: module for name, module in model.named_modules() if name}
    assert modules_by_name(model) == wanted
