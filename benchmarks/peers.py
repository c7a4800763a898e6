"""The central-path flow as a user without this library would integrate it.

Each peer maps a case and a tolerance to the class means at the last time. On the full matrix, with
features as rows, the definition is

    dH/dt = -((HWᵀ - Y)W + λ_H H),   W = (HᵀH + N(λ_W/K)I)⁻¹HᵀY, transposed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import perturb_nc as pnc

try:
    from torchdiffeq import odeint
except ImportError:
    odeint = None

RADAU_LIMIT = 2_000  # unknowns: a dense Jacobian of 2000² numbers, and as many right-hand sides


@dataclass(frozen=True, eq=False)
class Case:
    """Features (N, d) with labels (N,), and the flow to integrate from them."""

    name: str
    features: Tensor
    labels: Tensor
    statistics: pnc.ClassStatistics
    lambda_w: float
    lambda_h: float
    time: float

    @property
    def unknowns(self) -> int:
        """dN."""
        return self.features.numel()


@dataclass(frozen=True)
class Answer:
    """Class means at the last time, and the evaluations of W* they took."""

    means: Tensor
    evaluations: int


class NotAvailable(Exception):  # noqa: N818 - not an error: a peer that has no place here
    """Why a peer does not run on a case."""


def flow(case: Case, rtol: float) -> Answer:
    """This library, from class statistics."""
    path = pnc.central_path_flow(
        case.statistics,
        lambda_w=case.lambda_w,
        lambda_h=case.lambda_h,
        times=[case.time],
        rtol=rtol,
    )
    return Answer(path.means[-1], path.cost.evaluations)


def flow_from_features(case: Case, rtol: float) -> Answer:
    """This library, with the time to reduce the features to statistics."""
    statistics = pnc.ClassStatistics.from_features(case.features, case.labels)
    assert torch.equal(statistics.counts, case.statistics.counts)
    return flow(case, rtol)


def full_dopri5(case: Case, rtol: float) -> Answer:
    """torchdiffeq's dopri5 on the full matrix."""
    rate = _FullRate(case)
    final = _odeint(rate, case.features, case.time, rtol)
    return Answer(rate.class_means(final), rate.evaluations)


def full_dop853(case: Case, rtol: float) -> Answer:
    """scipy's DOP853 on the full matrix."""
    return _scipy(case, rtol, "DOP853")


def full_radau(case: Case, rtol: float) -> Answer:
    """scipy's Radau on the full matrix, whose Jacobian is dense."""
    n = case.unknowns
    if n > RADAU_LIMIT:
        raise NotAvailable(
            f"not feasible: its dense Jacobian holds (dN)² = {n**2:.1e} numbers, "
            f"{8 * n**2:.1e} bytes"
        )
    return _scipy(case, rtol, "Radau")


def reduced_dopri5(case: Case, rtol: float) -> Answer:
    """torchdiffeq's dopri5 on class means and Σ_W: our reduction with a peer's integrator."""
    s, evaluations = case.statistics, 0
    ridge = case.lambda_w / s.num_classes * torch.eye(s.dim, dtype=torch.float64)

    def rate(_: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal evaluations
        evaluations += 1
        means, within = state
        right = s.priors[:, None] * means
        root = torch.linalg.cholesky(within + means.mT @ right + ridge)
        w = torch.cholesky_solve(right.mT, root).mT
        half = w.mT @ (w @ within) + case.lambda_h * within
        return w - (means @ w.mT) @ w - case.lambda_h * means, -half - half.mT

    means, _ = _odeint(rate, (s.means, s.within), case.time, rtol)
    return Answer(means, evaluations)


PEERS: dict[str, Callable[[Case, float], Answer]] = {
    "torchdiffeq dopri5, full matrix": full_dopri5,
    "scipy DOP853, full matrix": full_dop853,
    "scipy Radau, full matrix": full_radau,
    "torchdiffeq dopri5, class statistics": reduced_dopri5,
}


class _FullRate:
    """dH/dt on the full matrix, counting its evaluations."""

    def __init__(self, case: Case) -> None:
        k, (n, d) = case.statistics.num_classes, case.features.shape
        self._lambda_h = case.lambda_h
        self._targets = torch.nn.functional.one_hot(case.labels, k).double()
        self._ridge = n * case.lambda_w / k * torch.eye(d, dtype=torch.float64)
        self._counts = case.statistics.counts
        self.evaluations = 0

    def __call__(self, _: Tensor | float, h: Tensor) -> Tensor:
        self.evaluations += 1
        root = torch.linalg.cholesky(h.mT @ h + self._ridge)
        w = torch.cholesky_solve(h.mT @ self._targets, root).mT
        return -((h @ w.mT - self._targets) @ w + self._lambda_h * h)

    def class_means(self, h: Tensor) -> Tensor:
        return self._targets.mT @ h / self._counts[:, None]


def _odeint(rate: Callable, start: Tensor | tuple, time: float, rtol: float) -> Tensor | tuple:
    if odeint is None:
        raise NotAvailable("torchdiffeq is not installed; pip install 'perturb-nc[bench]'")
    times = torch.tensor([0.0, time], dtype=torch.float64)
    found = odeint(rate, start, times, rtol=rtol, atol=rtol, method="dopri5")
    return tuple(part[-1] for part in found) if isinstance(found, tuple) else found[-1]


def _scipy(case: Case, rtol: float, method: str) -> Answer:
    rate = _FullRate(case)

    def flat_rate(time: float, flat: np.ndarray) -> np.ndarray:
        return rate(time, torch.from_numpy(flat).reshape(case.features.shape)).flatten().numpy()

    start = case.features.flatten().numpy()
    result = solve_ivp(flat_rate, (0, case.time), start, method, [case.time], rtol=rtol, atol=rtol)
    final = torch.from_numpy(np.ascontiguousarray(result.y[:, -1])).reshape(case.features.shape)
    return Answer(rate.class_means(final), rate.evaluations)
