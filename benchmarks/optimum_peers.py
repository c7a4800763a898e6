"""The optimum of (1) as a user without this library would find it.

A peer gets a Case and a Recorder, which it calls with every W. All start from H = H0 and W at its
optimum for H0, and would never stop by themselves: the Recorder stops them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

import perturb_nc as pnc


class Stopped(Exception):  # noqa: N818 - not an error: how a peer ends
    """The tolerance or the time limit is reached."""


@dataclass
class Recorder:
    """Judges every weight by ‖∇g(W)‖ relative to its bound; the clock stands still meanwhile."""

    problem: pnc.NearCollapseProblem
    tolerance: float
    limit: float
    trace: list[tuple[float, float]] = field(default_factory=list)
    _judging: float = 0.0
    _start: float = field(default_factory=time.perf_counter)

    def __call__(self, weight: Tensor) -> None:
        now = time.perf_counter()
        seconds = now - self._start - self._judging
        norm = self.problem.at(weight.detach()).gradient_norm.item()
        self.trace.append((seconds, norm))
        self._judging += time.perf_counter() - now
        if norm <= self.tolerance or seconds > self.limit:
            raise Stopped


@dataclass(frozen=True, eq=False)
class Case:
    """Features (N, d) with labels, and the problem to solve."""

    name: str
    features: Tensor
    labels: Tensor
    problem: pnc.NearCollapseProblem

    @property
    def targets(self) -> Tensor:
        """One-hot labels, (N, K)."""
        k = self.problem.statistics.num_classes
        return torch.nn.functional.one_hot(self.labels, k).double()


def alternating(case: Case, record: Recorder) -> None:
    """W and H in turn at their optimum for the other, on the full matrices."""
    p, h0, y = case.problem, case.features, case.targets
    n, d = h0.shape
    ridge = n * p.lambda_w / y.shape[1] * torch.eye(d, dtype=torch.float64)
    h = h0
    while True:
        root = torch.linalg.cholesky(h.mT @ h + ridge)
        w = torch.cholesky_solve(h.mT @ y, root).mT
        record(w)
        h = _optimal_rows(p, w, y @ w + p.beta * h0)


def alternating_on_statistics(case: Case, record: Recorder) -> None:
    """The same iteration on class means and Σ_W."""
    p, s = case.problem, case.problem.statistics
    ridge = p.lambda_w / s.num_classes * torch.eye(s.dim, dtype=torch.float64)
    means, within = s.means, s.within
    while True:
        right = s.priors[:, None] * means
        root = torch.linalg.cholesky(within + right.mT @ means + ridge)
        w = torch.cholesky_solve(right.mT, root).mT
        record(w)
        means = _optimal_rows(p, w, w + p.beta * s.means)
        half = _optimal_rows(p, w, s.within)
        within = p.beta**2 * _optimal_rows(p, w, half.mT)


def _optimal_rows(problem: pnc.NearCollapseProblem, w: Tensor, rows: Tensor) -> Tensor:
    """Rows times (WᵀW + cI)⁻¹, by a K×K system."""
    c = problem.lambda_h + problem.beta
    gram = w @ w.mT + c * torch.eye(len(w), dtype=torch.float64)
    return (rows - torch.linalg.solve(gram, w @ rows.mT).mT @ w) / c


def torch_lbfgs(case: Case, record: Recorder) -> None:
    """torch.optim.LBFGS with strong Wolfe line search on (W, H)."""
    objective, w, h = _objective(case), case.problem.central_path_weight(), case.features.clone()
    w, h = w.requires_grad_(), h.requires_grad_()
    forever = {"max_iter": 10**9, "max_eval": 10**9, "tolerance_grad": 0, "tolerance_change": 0}
    optimizer = torch.optim.LBFGS([w, h], line_search_fn="strong_wolfe", **forever)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(w, h)
        value.backward()
        record(w)
        return value

    optimizer.step(closure)


def scipy_lbfgs(case: Case, record: Recorder) -> None:
    """scipy's L-BFGS-B on (W, H)."""
    objective, shape = _objective(case), (case.problem.statistics.num_classes, -1)
    w0 = case.problem.central_path_weight()
    cut, dim = w0.numel(), case.features.shape[1]

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(flat).requires_grad_()
        value = objective(x[:cut].reshape(shape), x[cut:].reshape(-1, dim))
        value.backward()
        assert x.grad is not None
        return value.item(), x.grad.numpy()

    def callback(intermediate_result: object) -> None:
        record(torch.from_numpy(intermediate_result.x[:cut].copy()).reshape(shape))

    start = torch.cat([w0.flatten(), case.features.flatten()]).numpy()
    options = {"maxiter": 10**9, "maxfun": 10**9, "ftol": 0.0, "gtol": 0.0}
    minimize(
        value_and_gradient, start, jac=True, method="L-BFGS-B", callback=callback, options=options
    )


def _objective(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    """f of (1) on the full matrices."""
    p, h0, y = case.problem, case.features, case.targets
    n, k = y.shape

    def objective(w: Tensor, h: Tensor) -> Tensor:
        fit = (h @ w.mT - y).square().sum() / n + p.lambda_w / k * w.square().sum()
        return 0.5 * (fit + (p.lambda_h * h.square().sum() + p.beta * (h - h0).square().sum()) / n)

    return objective


PEERS: dict[str, Callable[[Case, Recorder], None]] = {
    "alternating minimisation, class statistics": alternating_on_statistics,
    "alternating minimisation, full matrices": alternating,
    "torch L-BFGS on (W, H)": torch_lbfgs,
    "scipy L-BFGS-B on (W, H)": scipy_lbfgs,
}
