import pytest
import torch

from perturb_nc.networks.architectures import MLP, ResidualMLP


def test_an_mlp_is_its_formula_and_flattens_its_inputs():
    model = MLP(12, (7, 5), 3)
    x = torch.randn(4, 3, 2, 2)
    first, second = (block.linear for block in model.blocks)
    h = torch.relu(x.reshape(4, 12) @ first.weight.T + first.bias)
    h = torch.relu(h @ second.weight.T + second.bias)
    torch.testing.assert_close(model(x), h @ model.head.weight.T)


def test_a_residual_mlp_is_its_formula():
    model = ResidualMLP(6, 8, 2, 3, activation="tanh")
    for block in model.blocks:
        torch.nn.init.normal_(block.outer.weight)
        torch.nn.init.normal_(block.outer.bias)
    x = torch.randn(4, 6)
    h = model.embed(x)
    for b in model.blocks:
        h = h + torch.tanh(h @ b.inner.weight.T + b.inner.bias) @ b.outer.weight.T + b.outer.bias
    torch.testing.assert_close(model(x), h @ model.head.weight.T)


def test_residual_blocks_start_as_the_identity():
    model = ResidualMLP(6, 8, 3, 3)
    x = torch.randn(4, 6)
    torch.testing.assert_close(model(x), model.head(model.embed(x)))


@pytest.mark.parametrize(
    "build", [lambda **k: MLP(4, [5], 3, **k), lambda **k: ResidualMLP(4, 5, 1, 3, **k)]
)
def test_the_head_is_a_linear_layer_with_a_bias_only_on_request(build):
    assert build().head.bias is None
    assert build(bias_last=True).head.bias.shape == (3,)
    with pytest.raises(ValueError, match="one of relu, leaky_relu, gelu, silu, tanh, got 'swish'"):
        build(activation="swish")


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="the number of widths must be >= 1, got 0"):
        MLP(4, [], 3)
    with pytest.raises(ValueError, match="widths must be >= 1, got 0"):
        MLP(4, [0], 3)
    with pytest.raises(ValueError, match="num_blocks must be >= 1, got 0"):
        ResidualMLP(4, 5, 0, 3)
    with pytest.raises(ValueError, match="num_classes must be >= 1, got 0"):
        ResidualMLP(4, 5, 1, 0)
