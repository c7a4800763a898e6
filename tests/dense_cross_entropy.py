"""The model with cross-entropy on all its unknowns at once, by automatic differentiation.

Nothing is eliminated: f is written out for (W, b, H), its Hessian is dense, and what the theory
says about W alone is compared with Newton's method and Schur complements on that.
"""

from dataclasses import dataclass, field

import torch
from problems import random_problem
from torch import Tensor
from torch.nn.functional import cross_entropy

from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem


@dataclass
class DenseCrossEntropy:
    """f on full matrices; samples are rows."""

    reference: Tensor
    labels: Tensor
    lambda_w: float
    lambda_h: float
    beta: float
    options: dict = field(default_factory=dict)

    @property
    def problem(self) -> CrossEntropyProblem:
        strengths = {"lambda_w": self.lambda_w, "lambda_h": self.lambda_h, "beta": self.beta}
        return CrossEntropyProblem(self.reference, self.labels, **strengths, **self.options)

    @property
    def shapes(self) -> tuple[int, int, int]:
        n, d = self.reference.shape
        return n, d, int(self.labels.max()) + 1

    @property
    def has_bias(self) -> bool:
        return self.options.get("bias", True)

    def objective(self, weight: Tensor, bias: Tensor, features: Tensor) -> Tensor:
        n, _, k = self.shapes
        weights = self.options.get("class_weights")
        per_sample = cross_entropy(
            features @ weight.mT + bias,
            self.labels,
            weight=None if weights is None else weight.new_tensor(weights),
            label_smoothing=self.options.get("label_smoothing", 0.0),
            reduction="none",
        )
        if weights is not None and self.options.get("label_smoothing"):
            # torch weighs the smoothed part by the weight of every class, not of the sample's own.
            smoothing = self.options["label_smoothing"]
            onehot = torch.nn.functional.one_hot(self.labels, k).double()
            targets = onehot * (1 - smoothing) + smoothing / k
            own = weight.new_tensor(weights)[self.labels]
            per_sample = -own * (targets * (features @ weight.mT + bias).log_softmax(1)).sum(1)
        decay = self.lambda_w / (2 * k)
        return (
            per_sample.sum() / n
            + decay * weight.square().sum()
            + (decay * bias.square().sum() if self.options.get("bias_decay") else 0.0)
            + self.lambda_h / (2 * n) * features.square().sum()
            + self.beta / (2 * n) * (features - self.reference).square().sum()
        )

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(W, b, H) of one vector."""
        n, d, k = self.shapes
        sizes = [k * d, k * self.has_bias, n * d]
        w, b, h = flat.split(sizes)
        return w.view(k, d), b if self.has_bias else flat.new_zeros(k), h.view(n, d)

    def joined(self, weight: Tensor, bias: Tensor | None, features: Tensor) -> Tensor:
        column = bias if self.has_bias else weight.new_zeros(0)
        return torch.cat([weight.flatten(), column, features.flatten()])

    def value(self, flat: Tensor) -> Tensor:
        return self.objective(*self.split(flat))

    def hessian(self, flat: Tensor) -> Tensor:
        return torch.autograd.functional.hessian(self.value, flat, vectorize=True)

    def best_features(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """H and b for a given W, by Newton's steps on both at once."""
        _, d, k = self.shapes
        start = -weight @ self.reference.mean(0)
        flat = self.joined(weight, start, self.reference.clone())
        for _ in range(60):
            flat.requires_grad_(True)
            gradient = torch.autograd.grad(self.value(flat), flat)[0][k * d :]
            flat = flat.detach()
            move = torch.linalg.lstsq(
                self.hessian(flat)[k * d :, k * d :], -gradient, driver="gelsd"
            ).solution
            step, before = 1.0, self.value(flat)
            while step > 1e-3:
                trial = torch.cat([flat[: k * d], flat[k * d :] + step * move])
                if self.value(trial) <= before + 1e-15:
                    break
                step /= 2
            flat = trial
            if move.norm() < 1e-13 * flat.norm():
                break
        _, bias, features = self.split(flat)
        return bias, features

    def reduced_hessian(self, flat: Tensor) -> Tensor:
        """∇²g in W: the Schur complement of the Hessian in (b, H)."""
        _, d, k = self.shapes
        full, size = self.hessian(flat), k * d
        across, rest = full[:size, size:], full[size:, size:]
        return (
            full[:size, :size]
            - across @ torch.linalg.lstsq(rest, across.mT.contiguous(), driver="gelsd").solution
        )


CASES = {
    "bias": {},
    "no bias": {"bias": False},
    "bias decay": {"bias_decay": True},
    "smoothed": {"label_smoothing": 0.1},
    "weighted, imbalanced": {"class_weights": (1.0, 2.5, 0.5, 1.5), "counts": (2, 9, 5, 7)},
    "all of it": {
        "bias_decay": True,
        "label_smoothing": 0.2,
        "class_weights": (1.0, 2.5, 0.5, 1.5),
        "counts": (2, 9, 5, 7),
    },
    "offset": {"offset": 30.0},
    "fewer dimensions than classes": {"dim": 3},
    "weak": {"lambda_w": 1e-3, "lambda_h": 1e-3, "beta": 0.1},
    "no feature decay": {"lambda_h": 0.0, "beta": 5.0},
}


def dense_cross_entropy(*, seed: int, **case: object) -> DenseCrossEntropy:
    """Features of `problems.random_problem`; what it does not know goes to the problem."""
    names = ("bias", "bias_decay", "label_smoothing", "class_weights")
    options = {name: case.pop(name) for name in names if name in case}
    base = random_problem(seed=seed, **{"dim": 8, **case})
    strengths = (base.lambda_w, base.lambda_h, base.beta)
    return DenseCrossEntropy(base.reference.mT.contiguous(), base.labels, *strengths, options)
