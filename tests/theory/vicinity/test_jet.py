import torch

from perturb_nc.theory.vicinity.jet import parameters


def settings():
    return 0.1 + torch.rand(3, 5, dtype=torch.float64)


def formula(w, h, b):
    """Every operation that closed forms are written in."""
    root = (w * h).sqrt()
    return (1.0 - root) * b / (b + 4.0 * h * (1.0 - root)) - 2.0 * w + -h * 0.5


def test_slopes_are_derivatives_in_the_logs():
    logs = settings().log().requires_grad_()
    value = formula(*logs.exp())
    (expected,) = torch.autograd.grad(value.sum(), logs)
    found = formula(*parameters(*logs.detach().exp()))
    torch.testing.assert_close(found.value, value.detach(), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found.slope, expected, rtol=1e-13, atol=1e-14)


def test_functions_come_with_their_own_derivative():
    w, h, _ = parameters(*settings())
    product = w * h
    found = product.of(product.value.exp(), product.value.exp())
    for parameter in (0, 1):  # d exp(λ_W λ_H) / d log λ = λ_W λ_H exp(λ_W λ_H), for either
        expected = product.value * product.value.exp()
        torch.testing.assert_close(found.slope[parameter], expected)
    assert not found.slope[2].any()
