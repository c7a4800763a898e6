"""Is what `minimize` returns ever a strict saddle? 1,000 degenerate problems against full matrices.

Features of low rank, with dead units, with class means that coincide, or fewer samples than
dimensions; λ_W, λ_H from 1e-4 to 1, β 0 or 1e-3 to 1e4, a bias in a third. Every problem is also
minimised from 50 random starts by BFGS on (W, b), with H from a dense solve on full matrices and
gradients by automatic differentiation: nothing of the package but its answer is used.

    python -m benchmarks.degenerate --problems 1000

Pieces of 50 problems are kept in a folder, from which the next run goes on.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

import perturb_nc as pnc
from benchmarks.machine import QUICK
from perturb_nc.storage import write_json

SHAPES = ((2, 3, 4), (2, 4, 8), (3, 4, 6), (3, 6, 6), (3, 3, 9), (4, 6, 8))  # K, d, N
PIECE = 50
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

    def part(self, rows: Tensor) -> "Family":
        """Some of the problems."""
        return Family(self.reference[rows], self.labels, self.settings[rows], self.bias[rows])

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


@dataclass(frozen=True)
class Ends:
    """Where descents ended: of P problems from S starts each."""

    value: Tensor  # (P, S)
    gradient: Tensor  # its norm, (P, S)
    weight: Tensor  # (P, S, K, d)
    bias: Tensor  # (P, S, K)


def oracle(family: Family, starts: int, iterations: int, seed: int) -> Ends:
    """Every problem minimised by BFGS from random starts; those that have ended are left out."""
    many = family.repeated(starts)
    k, d = many.onehot.shape[0], many.reference.shape[1]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(many.settings), k * d + k, generator=generator, dtype=torch.float64)
    x = x * 10 ** (2 * torch.rand(len(x), 1, generator=generator, dtype=torch.float64) - 1.5)
    inverse = torch.eye(x.shape[1], dtype=torch.float64).repeat(len(x), 1, 1)
    value, gradient = _evaluate(many, x)
    live = torch.arange(len(x))
    for _ in range(iterations):
        own = many.part(live)
        at, slope_at, metric = x[live], gradient[live], inverse[live]
        move = -(metric @ slope_at[..., None])[..., 0]
        slope = (move * slope_at).sum(1)
        step = torch.ones_like(slope)
        for _ in range(12):
            trial, found = _evaluate(own, at + step[:, None] * move)
            good = trial <= value[live] + 1e-4 * step * slope
            if good.all():
                break
            step = torch.where(good, step, 0.3 * step)
        good = trial <= value[live]
        change = torch.where(good[:, None], step[:, None] * move, 0.0)
        bend = torch.where(good[:, None], found - slope_at, 0.0)
        x[live], gradient[live] = at + change, slope_at + bend
        value[live] = torch.where(good, trial, value[live])
        inverse[live] = _updated(metric, change, bend)
        live = live[gradient[live].norm(dim=1) >= 1e-11]
        if not len(live):
            break
    shape = (len(family.settings), starts)
    weight, bias = x[:, : k * d].unflatten(1, (k, d)), x[:, k * d :]
    parts = (value, gradient.norm(dim=1), weight, bias)
    return Ends(*(part.unflatten(0, shape) for part in parts))


def _evaluate(family: Family, x: Tensor) -> tuple[Tensor, Tensor]:
    """g(W, b) = min over H of f, and its gradient: that of f at the best H."""
    x = x.detach().requires_grad_()
    k, d = family.onehot.shape[0], family.reference.shape[1]
    weight, bias = x[:, : k * d].unflatten(1, (k, d)), x[:, k * d :]
    features = family.best_features(weight.detach(), bias.detach())
    value = family.objective(weight, bias, features)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def _updated(inverse: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """BFGS, where the curvature along the step is positive."""
    inner = (s * y).sum(1)
    use = inner > 1e-14 * s.norm(dim=1) * y.norm(dim=1)
    rho = torch.where(use, 1 / torch.where(use, inner, 1.0), 0.0)[:, None, None]
    left = torch.eye(s.shape[1], dtype=torch.float64) - rho * s[:, :, None] * y[:, None]
    new = left @ inverse @ left.mT + rho * s[:, :, None] * s[:, None]
    return torch.where(use[:, None, None], new, inverse)


def relative_curvature(family: Family, i: int, weight: Tensor, bias: Tensor | None) -> float:
    """Lowest eigenvalue of the Hessian of f in (W, b, H), relative to its diagonal blocks."""
    (k, d), n = weight.shape, len(family.labels)
    one = family.part(torch.tensor([i]))
    bias = torch.zeros(k, dtype=torch.float64) if bias is None else bias
    features = one.best_features(weight[None], bias[None])[0]
    sizes = [k * d, d * n, k][: 3 if bool(family.bias[i]) else 2]

    def value(x: Tensor) -> Tensor:
        parts = [*x.split(sizes), torch.zeros(k, dtype=torch.float64)]
        w, h = parts[0].unflatten(0, (k, d)), parts[1].unflatten(0, (d, n))
        return one.objective(w[None], parts[2][None], h[None])[0]

    x = torch.cat([weight.flatten(), features.flatten(), bias])[: sum(sizes)]
    hessian = torch.autograd.functional.hessian(value, x)
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    blocks = [hessian[a:b, a:b] for a, b in pairwise(ends)]
    root = torch.linalg.cholesky(torch.block_diag(*blocks))
    whitened = torch.linalg.solve_triangular(root, hessian, upper=False)
    whitened = torch.linalg.solve_triangular(root, whitened.mT, upper=False)
    return float(torch.linalg.eigvalsh(0.5 * (whitened + whitened.mT))[0])


def other_minima(family: Family, i: int, ends: Ends, best: float) -> dict[float, int]:
    """Local minima of problem i above the best by more than 1e-6 of f: value → starts that end
    there. Stationary (gradient below 1e-9), with no curvature below SADDLE.
    """
    value, order = ends.value[i].sort()
    known: dict[float, int] = {}
    last = None
    for v, j in zip(value.tolist(), order.tolist(), strict=True):
        if v / best - 1 <= 1e-6 or ends.gradient[i, j] > 1e-9:
            continue
        if last is not None and v / last - 1 <= 1e-6:
            known[last] = known.get(last, 0) + (last in known)
            continue
        last = v
        if relative_curvature(family, i, ends.weight[i, j], ends.bias[i, j]) >= SADDLE:
            known[last] = 1
    return {v: count for v, count in known.items() if count}


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
    with_other_minima: int = 0
    other_minima: int = 0
    starts_at_others: int = 0
    starts_unfinished: int = 0

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

    def take_minima(self, others: dict[float, int]) -> None:
        """Count the local minima of one problem that are not the best."""
        self.with_other_minima += bool(others)
        self.other_minima += len(others)
        self.starts_at_others += sum(others.values())

    def add(self, other: "Audit") -> None:
        """Count another audit's problems too."""
        for name, value in vars(other).items():
            own = getattr(self, name)
            setattr(self, name, max(own, value) if name == "worst" else own + value)


def audit(problems: int, starts: int = 50, iterations: int = 300, seed: int = 0) -> Audit:
    """Problems of every shape, solved and counted."""
    found = Audit()
    for s, shape in enumerate(SHAPES):
        size = (problems + len(SHAPES) - 1 - s) // len(SHAPES)
        family = draw(shape, size, seed + s)
        ends = oracle(family, starts, iterations, seed)
        found.starts_unfinished += int((ends.gradient > 1e-9).sum())
        for i in range(size):
            statistics = pnc.ClassStatistics.from_features(family.reference[i].mT, family.labels)
            w, h, beta = family.settings[i].tolist()
            problem = pnc.NearCollapseProblem(
                statistics, lambda_w=w, lambda_h=h, beta=beta, bias=bool(family.bias[i])
            )
            solution = pnc.minimize(problem)
            best = ends.value[i].min().item()
            curvature = relative_curvature(family, i, solution.weight, solution.bias)
            found.take(solution, best, curvature)
            others = other_minima(family, i, ends, min(best, solution.objective))
            found.take_minima(others)
    return found


def main() -> None:
    """Audit pieces that are not in the folder yet, and print all counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=QUICK / "degenerate")
    options = parser.parse_args()
    total = Audit()
    for seed, first in enumerate(range(0, options.problems, PIECE)):
        size = min(PIECE, options.problems - first)
        path = options.folder / f"{size}x{options.starts}-{seed}.json"
        if not path.is_file():
            write_json(path, vars(audit(size, options.starts, seed=1000 * seed)))
        total.add(Audit(**json.loads(path.read_text(encoding="utf8"))))
        print(total, flush=True)


if __name__ == "__main__":
    main()
