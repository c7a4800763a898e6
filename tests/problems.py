"""Cases with known answers, and dense computations on full matrices to hold the theory against.

Everything here is written with columns, as in the paper, and knows nothing of class statistics.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import perturb_nc as pnc


@dataclass
class DenseProblem:
    """Problem (1) on full matrices: H0 (d×N), Y (K×N)."""

    reference: Tensor
    labels: Tensor
    lambda_w: float
    lambda_h: float
    beta: float
    bias: bool = False

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def onehot(self) -> Tensor:
        return torch.nn.functional.one_hot(self.labels).double().mT

    @property
    def reduced(self) -> pnc.NearCollapseProblem:
        statistics = pnc.ClassStatistics.from_features(self.reference.mT, self.labels)
        return pnc.NearCollapseProblem(
            statistics,
            lambda_w=self.lambda_w,
            lambda_h=self.lambda_h,
            beta=self.beta,
            bias=self.bias,
        )

    def objective(self, weight: Tensor, features: Tensor, bias: Tensor) -> Tensor:
        n = self.reference.shape[1]
        error = weight @ features + bias[:, None] - self.onehot
        return (
            error.square().sum() / (2 * n)
            + self.lambda_w / (2 * self.num_classes) * weight.square().sum()
            + self.lambda_h / (2 * n) * features.square().sum()
            + self.beta / (2 * n) * (features - self.reference).square().sum()
        )

    def best_features(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """H and b for a given W: one dense linear least-squares system."""
        d, k = len(self.reference), self.num_classes
        penalty = (self.lambda_h + self.beta) * torch.eye(d, dtype=torch.float64)
        system = weight.mT @ weight + penalty
        pull = weight.mT @ self.onehot + self.beta * self.reference
        if not self.bias:
            return torch.linalg.solve(system, pull), torch.zeros(k, dtype=torch.float64)
        # The mean over samples of the stationarity conditions: P h̄ + Wᵀb = ..., W h̄ + b = π.
        mean_system = torch.cat(
            [
                torch.cat([system, weight.mT], dim=1),
                torch.cat([weight, torch.eye(k, dtype=torch.float64)], dim=1),
            ]
        )
        right = torch.cat([pull.mean(1), self.onehot.mean(1)])
        bias = torch.linalg.solve(mean_system, right)[d:]
        return torch.linalg.solve(system, pull - (weight.mT @ bias)[:, None]), bias

    def reduced_objective(self, weight: Tensor) -> Tensor:
        return self.objective(weight, *self.best_features(weight))

    def best_weight(self, features: Tensor) -> Tensor:
        n = features.shape[1]
        targets = self.onehot
        if self.bias:
            features = features - features.mean(1, keepdim=True)
            targets = targets - targets.mean(1, keepdim=True)
        ridge = self.lambda_w / self.num_classes * torch.eye(len(features), dtype=torch.float64)
        return torch.linalg.solve(features @ features.mT / n + ridge, features @ targets.mT / n).mT

    def alternate(self, iterations: int) -> float:
        """Plain alternating exact minimisation from H = H0."""
        features = self.reference
        weight = self.best_weight(features)
        for _ in range(iterations):
            features, _ = self.best_features(weight)
            weight = self.best_weight(features)
        return self.reduced_objective(weight).item()


def random_problem(
    *,
    seed: int,
    num_classes: int = 4,
    dim: int = 12,
    counts: tuple[int, ...] | None = None,
    lambda_w: float = 0.05,
    lambda_h: float = 0.02,
    beta: float = 0.5,
    bias: bool = False,
    offset: float = 0.0,
) -> DenseProblem:
    """Gaussian features with random class means; balanced with 6 a class unless counts say else."""
    generator = torch.Generator().manual_seed(seed)
    counts = counts or (6,) * num_classes
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    means = torch.randn(dim, len(counts), generator=generator, dtype=torch.float64)
    noise = torch.randn(dim, len(labels), generator=generator, dtype=torch.float64)
    reference = means[:, labels] + 0.7 * noise + offset
    return DenseProblem(reference, labels, lambda_w, lambda_h, beta, bias)


def near_collapse(step, *, num_classes=4, dim=9, uneven=0.0, bias=False, **setting):
    """Statistics at a distance `step` from collapse in a fixed direction; setting; bias."""
    setting = {"lambda_w": 0.3, "lambda_h": 0.2, "beta": 0.7, **setting}
    generator = torch.Generator().manual_seed(1)
    exact = pnc.exact_collapse(
        num_classes=num_classes, dim=dim, lambda_w=setting["lambda_w"],
        lambda_h=setting["lambda_h"], bias=bias, seed=1,
    )  # fmt: skip

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = exact.means + step * draw(num_classes, dim)
    if bias:
        means += draw(dim)
    root = draw(dim, dim)
    within = step * root @ root.mT / (4 * dim)
    share = draw(num_classes)
    share = uneven * step * (share - share.mean())
    counts = (1e12 * (1 + share)).long()
    variance = within.trace().expand(num_classes).clone()
    return pnc.ClassStatistics(counts, means, within, variance), setting, bias


def statistics_of(means, within=None, counts=None, class_variance=None):
    """Class statistics of given means; nothing varies, or alike in every class."""
    k, d = means.shape
    within = torch.zeros(d, d, dtype=torch.float64) if within is None else within
    counts = torch.full((k,), 5) if counts is None else counts
    variance = within.trace().expand(k).clone() if class_variance is None else class_variance
    return pnc.ClassStatistics(counts, means, within, variance)


CASES = {
    "balanced": {},
    "bias": {"bias": True},
    "imbalanced": {"counts": (2, 9, 5, 7)},
    "imbalanced, bias, offset": {"counts": (2, 9, 5, 7), "bias": True, "offset": 3.0},
    "unconstrained": {"beta": 0.0},
    "unconstrained, bias": {"beta": 0.0, "bias": True},
    "no feature decay": {"lambda_h": 0.0},
    "fewer dimensions than classes": {"dim": 3},
    "large": {"dim": 30, "num_classes": 8, "beta": 20.0},
}


def weights(problem, *, count):
    """Random weights of a problem."""
    shape = (problem.num_classes, len(problem.reference))
    return [torch.randn(shape, dtype=torch.float64) for _ in range(count)]


def assert_same(a, b, rtol=1e-12):
    assert torch.equal(a.counts, b.counts)
    scale = a.second_moment.trace().item()
    torch.testing.assert_close(a.means, b.means, rtol=rtol, atol=rtol * scale**0.5)
    torch.testing.assert_close(a.within, b.within, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(a.class_variance, b.class_variance, rtol=rtol, atol=rtol * scale)


def batch_point(problem, weight):
    """A problem at one weight, as a batch of one."""
    point = problem.at(weight)
    return replace(point, weight=weight[None], hyperparameters=point.hyperparameters[None])


OPTIMA = CASES | {  # cases with an optimum to look for
    "unconstrained, imbalanced": {"beta": 0.0, "counts": (2, 9, 5, 7)},
    "nearly free": {"beta": 1e-8},
    "nearly free, bias": {"beta": 1e-6, "bias": True},
    "weak": {"lambda_w": 1e-3, "lambda_h": 1e-3, "beta": 1e-2},
    "strong": {"lambda_w": 2.0, "lambda_h": 0.5, "beta": 1.0},
    "large": {"dim": 30, "num_classes": 8},
}
SMALL = {"num_classes": 3, "dim": 5}
CERTIFIED = {  # stationary points with r <= 1
    "balanced": {"lambda_w": 1.2},
    "imbalanced": {"lambda_w": 0.9, "counts": (2, 5, 9)},
    "bias": {"lambda_w": 1.2, "bias": True},
    "imbalanced, bias": {"lambda_w": 1.2, "bias": True, "counts": (2, 5, 9)},
    "unconstrained": {"beta": 0.0},
    "unconstrained, bias": {"beta": 0.0, "bias": True},
    "unconstrained, imbalanced": {"beta": 0.0, "counts": (2, 5, 9)},
    "unused dimensions": {"lambda_w": 0.4, "dim": 20, "counts": (2, 2, 2)},
}
OPEN = {"weak": {"lambda_w": 0.1}, "weak, bias": {"lambda_w": 0.1, "bias": True}}
