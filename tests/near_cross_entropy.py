"""Samples near the collapsed optimum with cross-entropy, and how far its closed form is off."""

import numpy as np
import torch

import perturb_nc as pnc
from perturb_nc.theory.cross_entropy.collapse import cross_entropy_collapse
from perturb_nc.theory.cross_entropy.vicinity import cross_entropy_vicinity

SETTING = {"lambda_w": 0.3, "lambda_h": 0.2, "beta": 0.7}
CASES = {
    "bias": {},
    "bias, offset": {"offset": 3.0},
    "bias decay": {"bias_decay": True},
    "no bias": {"bias": False},
    "smoothed": {"label_smoothing": 0.1},
    "two classes": {"num_classes": 2, "dim": 5},
    "two classes, no bias": {"num_classes": 2, "dim": 5, "bias": False},
    "no dimension to spare": {"num_classes": 3, "dim": 2},
    "strong decay": {"lambda_w": 1.4, "lambda_h": 0.3},
}


def near_collapse(step, *, num_classes=4, dim=9, offset=0.0, counts=None, skew=0.0, **options):
    """Class means off by `step`, and deviations by its root, of another covariance in each class.

    Deviations come in pairs ±ξ, or (`skew`) with third moments.
    """
    setting = {name: options.pop(name, value) for name, value in SETTING.items()}
    smoothing = options.get("label_smoothing", 0.0)
    exact = cross_entropy_collapse(
        num_classes=num_classes, dim=dim, lambda_w=setting["lambda_w"],
        lambda_h=setting["lambda_h"], label_smoothing=smoothing, seed=1,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = exact.means + step * draw(num_classes, dim) + offset * draw(dim)
    own = 0.3 * draw(num_classes, 4, dim) * torch.linspace(0.5, 1.5, num_classes)[:, None, None]
    own = torch.cat([own, -own * (1 - skew)], dim=1)
    own = step**0.5 * (own - own.mean(1, keepdim=True))
    labels = torch.arange(num_classes).repeat_interleave(8)
    features = (means[:, None] + own).flatten(0, 1)
    if counts is not None:  # repeated as often as it takes
        rows = torch.cat([8 * k + torch.arange(n) % 8 for k, n in enumerate(counts)])
        features, labels = features[rows], labels[rows]
    return pnc.CrossEntropyProblem(features, labels, **setting, **options)


def remainders(case, steps, order=1):
    """Errors of weight, means, Σ_W, class variances (and bias) for every step."""
    rows = []
    for step in steps:
        problem = near_collapse(step, **case)
        found = cross_entropy_vicinity(problem, order=order)
        exact = pnc.minimize(problem, tol=1e-13)
        errors = [found.weight - exact.weight]
        errors += [
            getattr(found.statistics, name) - getattr(exact.statistics, name)
            for name in ("means", "within", "class_variance")
        ]
        errors += [] if found.bias is None else [found.bias - exact.bias]
        rows.append([error.norm().item() for error in errors])
    return np.array(rows)


def slopes(errors, steps):
    return np.diff(np.log(errors), axis=0) / np.diff(np.log(steps))[:, None]
