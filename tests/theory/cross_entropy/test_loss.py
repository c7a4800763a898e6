import torch

from perturb_nc.theory.cross_entropy.loss import CrossEntropy, Loss


def logits():
    return 2 * torch.randn(7, 4, dtype=torch.float64)


def test_outputs_and_curvature_are_derivatives_of_the_potential():
    loss, z = CrossEntropy(), logits()
    assert isinstance(loss, Loss)
    rows = z.clone().requires_grad_()
    gradient = torch.autograd.grad(loss.potential(rows).sum(), rows)[0]
    hessian = torch.stack(
        [torch.autograd.functional.hessian(lambda r: loss.potential(r[None])[0], row) for row in z]
    )
    torch.testing.assert_close(loss.outputs(z), gradient)
    torch.testing.assert_close(loss.curvature(loss.outputs(z)), hessian)
    v = torch.randn_like(z)
    expected = (hessian @ v[..., None])[..., 0]
    torch.testing.assert_close(loss.curve(loss.outputs(z), v), expected)


def test_potential_and_conjugate_touch_at_the_outputs_alone():
    loss, z = CrossEntropy(), logits()
    p = loss.outputs(z)
    torch.testing.assert_close(loss.potential(z) + loss.conjugate(p), (p * z).sum(1))
    other = loss.outputs(logits())
    assert (loss.potential(z) + loss.conjugate(other) > (other * z).sum(1)).all()


def test_a_constant_added_to_all_logits_changes_nothing():
    loss, z = CrossEntropy(), logits()
    assert loss.only_differences
    torch.testing.assert_close(loss.outputs(z + 3), loss.outputs(z))
    certain = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    assert loss.conjugate(certain).item() == 0
