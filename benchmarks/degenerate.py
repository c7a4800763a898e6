"""Is what `minimize` returns ever a strict saddle? 1,000 degenerate problems against full matrices.

Features of low rank, with dead units, with class means that coincide, or fewer samples than
dimensions; λ_W, λ_H from 1e-4 to 1, β 0 or 1e-3 to 1e4, a bias in a third. Every problem is also
minimised from 50 random starts by BFGS on (W, b), with H from a dense solve on full matrices and
gradients by automatic differentiation: nothing of the package but its answer is used.

    python -m benchmarks.degenerate --problems 1000
"""

import argparse
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

import perturb_nc as pnc

SHAPES = ((2, 3, 4), (2, 4, 8), (3, 4, 6), (3, 6, 6), (3, 3, 9), (4, 6, 8))  # K, d, N
SADDLE = -1e-6
"""Relative curvature below which a point is a saddle: far above rounding and stopping errors."""


@dataclass(frozen=True)
class Family:
    """Problems of one shape, on full matrices, with columns as in the paper."""

    reference: Tensor  # (P, d, N)
    labels: Tensor  # (N,)
    settings: Tensor  # (P, 3): λ_W, λ_H, β
    bias: Tensor  # (P,)

    @property
    def onehot(self) -> Tensor:
        """Y, (K, N)."""
        return torch.nn.functional.one_hot(self.labels).double().mT

    def repeated(self, times: int) -> "Family":
        """Every problem several times, one after the other."""
        parts = (self.reference, self.settings, self.bias)
        reference, settings, bias = (x.repeat_interleave(times, dim=0) for x in parts)
        return Family(reference, self.labels, settings, bias)

    def objective(self, weight: Tensor, bias: Tensor, features: Tensor) -> Tensor:
        """f, (P,)."""
        n, k = len(self.labels), self.onehot.shape[0]
        w, h, beta = self.settings.unbind(1)
        error = weight @ features + (bias * self.bias[:, None])[..., None] - self.onehot

        def squares(x: Tensor) -> Tensor:
            return x.square().sum((-2, -1))

        anchor = beta * squares(features - self.reference)
        fit = squares(error) + h * squares(features) + anchor
        return fit / (2 * n) + w / (2 * k) * squares(weight)

    def best_features(self, weight: Tensor, bias: Tensor) -> Tensor:
        """H at W and b: (WᵀW + cI)H = Wᵀ(Y - b1ᵀ) + βH0."""
        _, h, beta = (x[:, None, None] for x in self.settings.unbind(1))
        targets = self.onehot - (bias * self.bias[:, None])[..., None]
        system = weight.mT @ weight + (h + beta) * torch.eye(weight.shape[2], dtype=torch.float64)
        return torch.linalg.solve(system, weight.mT @ targets + beta * self.reference)


def draw(shape: tuple[int, int, int], problems: int, seed: int) -> Family:
    """Random degenerate problems."""
    k, d, n = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    labels = torch.arange(n) % k
    reference = normal(problems, d, k)[:, :, labels] + 0.5 * normal(problems, d, n)
    kind = torch.arange(problems) % 5
    low = normal(problems, d, 1) @ reference[:, :1]
    dead = reference * (torch.arange(d) < (d + 1) // 2)[:, None]
    same = torch.where((labels == 1)[None, None], reference[:, :, :1], reference)
    same = torch.where((labels == 0)[None, None], reference[:, :, :1], same)
    centred = reference - (reference @ _membership(labels))[:, :, labels] / (n / k)
    few = normal(problems, d, k)[:, :, labels] * (uniform(problems, 1, 1) < 0.7)
    for i, other in enumerate((low, dead, same, centred, few)):
        reference = torch.where((kind == i)[:, None, None], other, reference)
    settings = 10 ** torch.stack(
        [-4 * uniform(problems), -4 * uniform(problems), 7 * uniform(problems) - 3], dim=1
    )
    settings[::10, 2] = 0.0
    return Family(reference, labels, settings, (torch.arange(problems) % 3 == 0).double())


def _membership(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels).double()


def oracle(family: Family, starts: int, iterations: int, seed: int) -> Tensor:
    """The lowest objective that BFGS finds for every problem, (P,)."""
    many = family.repeated(starts)
    k, d = many.onehot.shape[0], many.reference.shape[1]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(many.settings), k * d + k, generator=generator, dtype=torch.float64)
    x = x * 10 ** (2 * torch.rand(len(x), 1, generator=generator, dtype=torch.float64) - 1.5)

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        weight, bias = x[:, : k * d].unflatten(1, (k, d)), x[:, k * d :]
        value = many.objective(weight, bias, many.best_features(weight, bias))
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    inverse = torch.eye(x.shape[1], dtype=torch.float64).repeat(len(x), 1, 1)
    value, gradient = evaluate(x)
    for _ in range(iterations):
        move = -(inverse @ gradient[..., None])[..., 0]
        slope = (move * gradient).sum(1)
        step = torch.ones_like(slope)
        for _ in range(12):
            trial, found = evaluate(x + step[:, None] * move)
            good = trial <= value + 1e-4 * step * slope
            if good.all():
                break
            step = torch.where(good, step, 0.3 * step)
        good = trial <= value
        change = torch.where(good[:, None], step[:, None] * move, 0.0)
        bend = torch.where(good[:, None], found - gradient, 0.0)
        x, value = x + change, torch.where(good, trial, value)
        gradient = gradient + bend
        inverse = _updated(inverse, change, bend)
        if (gradient.norm(dim=1) < 1e-11).all():
            break
    return value.unflatten(0, (-1, starts)).amin(1)


def _updated(inverse: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """BFGS, where the curvature along the step is positive."""
    inner = (s * y).sum(1)
    use = inner > 1e-14 * s.norm(dim=1) * y.norm(dim=1)
    rho = torch.where(use, 1 / torch.where(use, inner, 1.0), 0.0)[:, None, None]
    left = torch.eye(s.shape[1], dtype=torch.float64) - rho * s[:, :, None] * y[:, None]
    new = left @ inverse @ left.mT + rho * s[:, :, None] * s[:, None]
    return torch.where(use[:, None, None], new, inverse)


def relative_curvature(family: Family, i: int, solution: pnc.Solution) -> float:
    """Lowest eigenvalue of the Hessian of f in (W, b, H), relative to its diagonal blocks."""
    (k, d), n = solution.weight.shape, len(family.labels)
    one = Family(
        family.reference[i : i + 1],
        family.labels,
        family.settings[i : i + 1],
        family.bias[i : i + 1],
    )
    bias = torch.zeros(k, dtype=torch.float64) if solution.bias is None else solution.bias
    features = one.best_features(solution.weight[None], bias[None])[0]
    sizes = [k * d, d * n, k][: 3 if bool(family.bias[i]) else 2]

    def value(x: Tensor) -> Tensor:
        parts = [*x.split(sizes), torch.zeros(k, dtype=torch.float64)]
        w, h = parts[0].unflatten(0, (k, d)), parts[1].unflatten(0, (d, n))
        return one.objective(w[None], parts[2][None], h[None])[0]

    x = torch.cat([solution.weight.flatten(), features.flatten(), bias])[: sum(sizes)]
    hessian = torch.autograd.functional.hessian(value, x)
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    blocks = [hessian[a:b, a:b] for a, b in pairwise(ends)]
    root = torch.linalg.cholesky(torch.block_diag(*blocks))
    whitened = torch.linalg.solve_triangular(root, hessian, upper=False)
    whitened = torch.linalg.solve_triangular(root, whitened.mT, upper=False)
    return float(torch.linalg.eigvalsh(0.5 * (whitened + whitened.mT))[0])


@dataclass
class Audit:
    """Counts over all problems."""

    problems: int = 0
    certified: int = 0
    converged: int = 0
    saddles: int = 0
    unjudged: int = 0
    worse: int = 0
    worst: float = 0.0
    products: int = 0

    def take(self, solution: pnc.Solution, best: float, curvature: float) -> None:
        """Count one solution; worse: above the best of the starts by more than 1e-6 of f."""
        self.problems += 1
        self.certified += solution.certificate.is_global
        self.converged += solution.status is pnc.Status.CONVERGED
        self.saddles += curvature < SADDLE
        judged = solution.lowest_curvature == solution.lowest_curvature
        self.unjudged += not (judged or solution.certificate.is_global)
        excess = solution.objective / best - 1
        self.worse += excess > 1e-6
        self.worst = max(self.worst, excess)
        self.products += solution.products


def audit(problems: int, starts: int = 50, iterations: int = 300, seed: int = 0) -> Audit:
    """Problems of every shape, solved and counted."""
    found = Audit()
    for s, shape in enumerate(SHAPES):
        size = (problems + len(SHAPES) - 1 - s) // len(SHAPES)
        family = draw(shape, size, seed + s)
        best = oracle(family, starts, iterations, seed)
        for i in range(size):
            statistics = pnc.ClassStatistics.from_features(family.reference[i].mT, family.labels)
            w, h, beta = family.settings[i].tolist()
            problem = pnc.NearCollapseProblem(
                statistics, lambda_w=w, lambda_h=h, beta=beta, bias=bool(family.bias[i])
            )
            solution = pnc.minimize(problem)
            found.take(solution, best[i].item(), relative_curvature(family, i, solution))
    return found


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=50)
    options = parser.parse_args()
    print(audit(options.problems, options.starts))


if __name__ == "__main__":
    main()
