"""The central-path flow to ten digits for any time, in 80-bit numbers: a judge for small problems.

Radau IIA collocation of order 9 on class means and φ = e^{λ_H t}Ψ, all d dimensions of them, with
steps that grow in proportion to the time; Jacobians by complex steps. Nothing of the package.
"""

from functools import cache

import mpmath
import numpy as np
import torch

STAGES = 5
REAL, COMPLEX = np.longdouble, np.clongdouble


@cache
def radau():
    """Nodes and matrix of Radau IIA."""
    with mpmath.workdps(40):
        x = mpmath.mp.mpf
        polynomial = mpmath.taylor(
            lambda t: mpmath.legendre(STAGES, 2 * t - 1) - mpmath.legendre(STAGES - 1, 2 * t - 1),
            x(0),
            STAGES,
        )
        nodes = sorted(
            mpmath.re(r) for r in mpmath.polyroots(polynomial[::-1], maxsteps=500, extraprec=200)
        )
        powers = mpmath.matrix(STAGES, STAGES)
        integrals = mpmath.matrix(STAGES, STAGES)
        for i, c in enumerate(nodes):
            for j in range(STAGES):
                powers[i, j], integrals[i, j] = c**j, c ** (j + 1) / (j + 1)
        matrix = integrals * powers**-1

        def exact(value):
            return REAL(mpmath.nstr(value, 25))

        return (
            np.array([exact(c) for c in nodes]),
            np.array([[exact(matrix[i, j]) for j in range(STAGES)] for i in range(STAGES)]),
        )


def solve(matrix, right):
    """Gaussian elimination with pivots, for (..., n, n) and (..., n, p); pivots of the first."""
    a = np.concatenate([matrix, right], axis=-1)
    n = matrix.shape[-1]
    for i in range(n):
        p = i + int(np.argmax(np.abs(a[..., i:, i].reshape(-1, n - i)[0])))
        a[..., [i, p], :] = a[..., [p, i], :]
        a[..., i, :] /= a[..., i, i, None]
        factor = a[..., :, i].copy()
        factor[..., i] = 0
        a -= factor[..., None] * a[..., i, None, :]
    return a[..., n:]


class Flow:
    """The flow of flat states (means, φ) from given statistics."""

    def __init__(self, start, lambda_w, lambda_h):
        self.shape = start.means.shape
        self.priors = start.priors.numpy().astype(REAL)[:, None]
        self.within = start.within.numpy().astype(REAL)
        self.ridge = REAL(lambda_w) / self.shape[0]
        self.lambda_h = REAL(lambda_h)
        self.state = np.concatenate(
            [start.means.numpy().ravel(), np.eye(self.shape[1]).ravel()]
        ).astype(REAL)

    def parts(self, flat):
        k, d = self.shape
        return flat[..., : k * d].reshape(*flat.shape[:-1], k, d), flat[..., k * d :].reshape(
            *flat.shape[:-1], d, d
        )

    def rate(self, time, flat):
        means, phi = self.parts(flat)
        shrunk = np.exp(-2 * self.lambda_h * time)[..., None, None]
        turned, pull = np.swapaxes(phi, -1, -2), np.swapaxes(self.priors * means, -1, -2)
        moment = shrunk * (phi @ self.within @ turned) + pull @ means
        w = np.swapaxes(solve(moment + self.ridge * np.eye(self.shape[1]), pull), -1, -2)
        back = np.swapaxes(w, -1, -2)
        moved = w - means @ back @ w - self.lambda_h * means
        return np.concatenate(
            [x.reshape(*flat.shape[:-1], -1) for x in (moved, -back @ (w @ phi))], axis=-1
        )

    def jacobians(self, times, flat):
        """Derivatives of the rates at several times, (stages, n, n)."""
        n, h = flat.shape[-1], REAL(1e-40)
        moved = flat[:, None] + 1j * h * np.eye(n, dtype=COMPLEX)
        slopes = self.rate(np.repeat(times[:, None], n, axis=1), moved).imag / h
        return np.swapaxes(slopes, -1, -2)

    def step(self, time, size):
        """One step of collocation by Newton's method; two halves where that does not converge."""
        nodes, matrix = radau()
        n = len(self.state)
        change, last = np.zeros((STAGES, n), REAL), np.inf
        for _ in range(15):
            times, now = time + size * nodes, self.state + change
            slopes = self.jacobians(times, now)
            system = -size * np.einsum("ij,jab->iajb", matrix, slopes)
            system = system.reshape(STAGES * n, -1) + np.eye(STAGES * n, dtype=REAL)
            right = size * (matrix @ self.rate(times, now)) - change
            gap = np.linalg.solve(system.astype(float), right.ravel().astype(float))
            gap = gap.reshape(STAGES, n)
            change = change + gap
            moved = np.abs(gap).max() / np.abs(self.state).max()
            if moved < 1e-16 or 0.5 * last < moved < 1e-13:  # no more to be had
                self.state = self.state + change[-1]
                return
            if not moved < 10 * last:
                break
            last = moved
        self.step(time, size / 2)
        self.step(time + size / 2, size / 2)

    def to(self, time, end, per_decade):
        """On to a later time."""
        while time < end:
            size = time * (10 ** (1 / per_decade) - 1)
            size = end - time if time + 1.01 * size > end else size
            self.step(time, size)
            time = end if size == end - time else time + size
        return end


def path(start, lambda_w, lambda_h, times, per_decade=20, first=None):
    """Means and Ψ (float64) at increasing times."""
    flow = Flow(start, lambda_w, lambda_h)
    first = first or 1e-3 * lambda_w
    flow.step(REAL(0), REAL(first))
    time, found = REAL(first), []
    for end in times:
        time = flow.to(time, REAL(end), per_decade)
        means, phi = flow.parts(flow.state)
        psi = np.exp(-flow.lambda_h * time) * phi
        found.append([torch.from_numpy(x.astype(float)) for x in (means, psi)])
    return found
