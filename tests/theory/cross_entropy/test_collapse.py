import numpy as np
import pytest
import torch
from dense_cross_entropy import DenseCrossEntropy

import perturb_nc as pnc
from perturb_nc.theory.cross_entropy.collapse import (
    cross_entropy_collapse,
    cross_entropy_spectrum,
)

SETTINGS = {"lambda_w": 0.3, "lambda_h": 0.1}


def collapsed(num_classes, dim, samples_per_class, beta, **options):
    """The model whose reference features are the collapsed optimum itself."""
    smoothing = {name: v for name, v in options.items() if name == "label_smoothing"}
    exact = cross_entropy_collapse(num_classes=num_classes, dim=dim, **SETTINGS, **smoothing)
    labels = torch.arange(num_classes).repeat_interleave(samples_per_class)
    dense = DenseCrossEntropy(
        exact.means[labels], labels, SETTINGS["lambda_w"], SETTINGS["lambda_h"], beta, options
    )
    return exact, dense


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_it_is_the_optimum_at_any_anchor(num_classes, smoothing):
    for beta in (0.2, 3.0):
        exact, dense = collapsed(num_classes, 6, 2, beta, label_smoothing=smoothing)
        solution = pnc.minimize(dense.problem)
        torch.testing.assert_close(solution.weight, exact.weight, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(solution.statistics.means, exact.means, rtol=1e-8, atol=1e-9)
        assert solution.bias.abs().max() < 1e-9
        assert solution.objective == pytest.approx(exact.objective, rel=1e-12)
        assert solution.certificate.is_global


def test_probabilities_are_those_of_the_logits():
    exact = cross_entropy_collapse(num_classes=4, dim=5, **SETTINGS, label_smoothing=0.1)
    p = (exact.weight @ exact.means.mT).softmax(1)
    torch.testing.assert_close(p.diagonal(), torch.full_like(p[0], exact.own))
    assert p[0, 1].item() == pytest.approx(exact.other)
    assert exact.own + 3 * exact.other == pytest.approx(1.0)


def test_zero_where_decay_is_strong():
    exact = cross_entropy_collapse(num_classes=3, dim=3, lambda_w=1.0, lambda_h=0.9**2)
    assert exact.gap > 0
    nothing = cross_entropy_collapse(
        num_classes=3, dim=3, lambda_w=1.0, lambda_h=0.9**2, label_smoothing=0.1
    )
    assert nothing.gap == pytest.approx(0, abs=1e-15)
    assert nothing.objective == pytest.approx(np.log(3))


BIASES = ({}, {"bias": False}, {"bias_decay": True})


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("bias", BIASES, ids=str)
@pytest.mark.parametrize(("num_classes", "dim", "n"), [(2, 1, 2), (2, 3, 3), (3, 2, 2), (4, 6, 2)])
def test_spectrum_against_the_dense_hessian(num_classes, dim, n, smoothing, bias):
    beta = 0.7
    exact, dense = collapsed(num_classes, dim, n, beta, label_smoothing=smoothing, **bias)
    zero = torch.zeros(num_classes, dtype=torch.float64)
    hessian = dense.hessian(dense.joined(exact.weight, zero, dense.reference))
    size = num_classes * (dim + dense.has_bias)
    inner, across = hessian[:size, :size], hessian[:size, size:]
    pseudo = torch.linalg.pinv(inner, hermitian=True, rtol=1e-12)
    # F = (β/N) (Schur complement in H)⁻¹.
    schur = hessian[size:, size:] - across.mT @ pseudo @ across
    found = beta / len(dense.labels) / torch.linalg.eigvalsh(schur)
    spectrum = cross_entropy_spectrum(
        num_classes=num_classes, dim=dim, samples_per_class=n, **SETTINGS, beta=beta,
        label_smoothing=smoothing, **bias,
    )  # fmt: skip
    assert spectrum.multiplicities.sum() == dim * len(dense.labels)
    wanted = np.repeat(spectrum.eigenvalues, spectrum.multiplicities)
    np.testing.assert_allclose(np.sort(found.numpy()), np.sort(wanted), rtol=1e-10)


def test_contraction_stops_as_decay_vanishes_and_the_means_go_on_growing():
    settings = [{"lambda_w": 10.0**-e, "lambda_h": 10.0**-e} for e in (2, 4, 6)]
    shape = {"num_classes": 3, "dim": 4}
    sizes = [cross_entropy_collapse(**shape, **s).means.norm().item() for s in settings]
    assert sizes == sorted(sizes)
    stiffness = [
        cross_entropy_spectrum(**shape, samples_per_class=2, **s, beta=1.0).stiffness[:2]
        for s in settings
    ]
    assert stiffness[2].max() < 1e-4
    assert stiffness[0].max() > 1e-2


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"sqrt\(lambda_w \* lambda_h\) must be < 0.9, got 1"):
        cross_entropy_spectrum(
            num_classes=3, dim=3, samples_per_class=2, lambda_w=1.0, lambda_h=1.0, beta=1.0,
            label_smoothing=0.1,
        )  # fmt: skip
    with pytest.raises(ValueError, match="bias_decay is for a model with a bias"):
        cross_entropy_spectrum(
            num_classes=3, dim=3, samples_per_class=2, **SETTINGS, beta=1.0, bias=False,
            bias_decay=True,
        )  # fmt: skip
    with pytest.raises(ValueError, match="dim must be >= 2, got 1"):
        cross_entropy_collapse(num_classes=3, dim=1, **SETTINGS)
    with pytest.raises(ValueError, match=r"label_smoothing must be < 1, got 1\.0"):
        cross_entropy_collapse(num_classes=3, dim=3, **SETTINGS, label_smoothing=1.0)
