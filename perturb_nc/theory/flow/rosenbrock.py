"""Rosenbrock steps of the central-path flow, for long times: they see how W* answers to a step.

Late in a flow WM ≈ I and WΣ_W ≈ 0. Deviations then decay at the rates of WᵀW, but the means hardly
move: their pull Wᵀ(I - WM) stays near 0 because W* follows them. A step that holds W fixed takes
the means to where that W would have them within a time of 1/|W|², whatever its length; one that
contains the derivative of W* may be as long as the path is smooth, and steps grow with the time.

A linearly implicit step solves (s - J)k = r for the means and the deviations, s = 1/(γ·step). With
δW given, both follow from products with (s + c + WᵀW)⁻¹; what remains is a symmetric system in the
K·m entries of δW, the Hessian of (1) about the present features with β = s.

The deviations carry e^{-λ_H t} exactly where β = 0. The method is Rodas5P (Steinebach 2023, BIT
63:27): order 5, L-stable, stiffly accurate, its last stage the estimate of the error.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.flow.state import Factor, FlowModel, FlowState, Inner, Rows, step_error

ORDER = 5
STAGES = 8
Both = Float64[Tensor, "... r m"]  # K class means above the m rows of φ

_GAMMA = 0.21193756319429014
_LAST = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256)
_A = (  # of the arguments from the second on, in terms of the stages before
    (3.0,),
    (2.849394379747939, 0.45842242204463923),
    (-6.954028509809101, 2.489845061869568, -10.358996098473584),
    (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
    (*_LAST, 0.030198172008377946),
    (*_LAST, 0.030198172008377946, 1.0),
    (*_LAST, 0.030198172008377946, 1.0, 1.0),
)
_C = (  # of the right-hand sides, over the step
    (-14.155112264123755,),
    (-17.97296035885952, -2.859693295451294),
    (147.12150275711716, -1.41221402718213, 71.68940251302358),
    (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
    (
        24.854864614690072,
        -3.0009227002832186,
        47.4931110020768,
        5.5814197821558125,
        -0.6610691825249471,
    ),
    (
        30.91273214028599,
        -3.1208243349937974,
        77.79954646070892,
        34.28646028294783,
        -19.097331116725623,
        -28.087943162872662,
    ),
    (
        37.80277123390563,
        -3.2571969029072276,
        112.26918849496327,
        66.9347231244047,
        -40.06618937091002,
        -54.66780262877968,
        -9.48861652309627,
    ),
)
_TIMES = (0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1, 1, 1)
_OF_TIME = (
    -0.42387512638858027,
    -0.3384627126235924,
    1.8046452872882734,
    2.325825639765069,
    0,
    0,
    0,
)


def rosenbrock_step(
    model: FlowModel, state: FlowState, weight: Rows, step: float, rtol: float, atol: float
) -> tuple[FlowState, Rows, float]:
    """The state one step on from a state and its weight W*, its W*, and its error over tolerances.

    Where β = 0, e^{2λ_H t} tr Σ_W does not rise: φ is scaled down where rounding or the error of
    the step would have it rise.
    """
    linear = _Linearised(model, state, weight, 1 / (_GAMMA * step))
    start = torch.cat([state.means, state.propagator], dim=-2)
    by_time = linear.time_derivative()
    stages = [linear.solve(linear.rate(start, weight) + _GAMMA * step * by_time)]
    for a, c, time, of_time in zip(_A, _C, _TIMES, _OF_TIME, strict=True):
        made = torch.stack(stages)
        now = start + torch.tensordot(start.new_tensor(a), made, 1)
        right = linear.rate(now, linear.best_weight(now, time * step))
        right += torch.tensordot(start.new_tensor(c) / step, made, 1)
        if of_time:
            right += of_time * step * by_time
        stages.append(linear.solve(right))
    means, inner = linear.split(now + stages[-1])
    gap = linear.split(stages[-1])
    # Of WᵀWφ, where Wφ ≈ 0, over the step.
    noise = 10 * torch.finfo(torch.float64).eps * step * weight.square().sum((-2, -1))
    error = step_error(model, state, means, gap, rtol, atol, noise=noise)
    before = model.spread(state.propagator, torch.zeros_like(state.outer))
    after = model.spread(inner, torch.zeros_like(state.outer))
    fitting = torch.where(after > before, (before / after).sqrt(), 1.0)[..., None, None]
    inner = torch.where(model.beta > 0, inner, fitting * inner)
    alpha, gamma = model.relaxation(step)
    new = FlowState(means, torch.exp(-linear.shift * step) * inner, alpha * state.outer + gamma)
    return new, model.weight(new), error


@dataclass(frozen=True, eq=False)
class _Linearised:
    """The flow of class means and φ = e^{κτ}ψ about a state, κ = λ_H where β = 0 and 0 elsewhere.

    Attributes:
        scale: s of s - J.
    """

    model: FlowModel
    state: FlowState
    weight: Rows
    scale: float

    @cached_property
    def shift(self) -> Factor:
        """κ."""
        return torch.where(self.model.beta > 0, 0.0, self.model.c)

    def split(self, both: Both) -> tuple[Rows, Inner]:
        """Class means and φ."""
        k = len(self.model.priors)
        return both[..., :k, :], both[..., k:, :]

    def best_weight(self, both: Both, time: float) -> Rows:
        """W* at a time after the state's."""
        means, inner = self.split(both)
        propagator = torch.exp(-self.shift * time) * inner
        return self.model.weight(FlowState(means, propagator, self.state.outer))

    def rate(self, both: Both, weight: Rows) -> Both:
        """Time derivatives of both."""
        means, inner = self.split(both)
        moved, turned = self.model.rate(FlowState(means, inner, self.state.outer), weight)
        return torch.cat([moved, turned + self.shift * inner], dim=-2)

    @cached_property
    def _image(self) -> Inner:
        """Σ_W0ψᵀ."""
        return self.model.within @ self.state.propagator.mT

    @cached_property
    def _within(self) -> Inner:
        """Σ_W."""
        return self.state.propagator @ self._image

    @cached_property
    def _moment(self) -> Inner:
        """C = S + (λ_W/K)I."""
        model, means = self.model, self.state.means
        ridge = model.lambda_w / len(model.priors) * model.identity
        return self._within + means.mT @ (model.priors[:, None] * means) + ridge

    @cached_property
    def _classes(self) -> Float64[Tensor, "K K"]:
        """I_K."""
        return torch.diag(torch.ones_like(self.model.priors))

    @cached_property
    def _error(self) -> Float64[Tensor, "... K K"]:
        """E = I - WM."""
        return self._classes - self.weight @ self.state.means.mT

    @cached_property
    def _resolvents(self) -> tuple[Inner, Inner]:
        """(s + c + WᵀW)⁻¹, of means, and (s + c - κ + WᵀW)⁻¹, of φ."""
        gram, identity = self.weight.mT @ self.weight, self.model.identity
        own = (self.scale + self.model.c) * identity
        return (
            torch.cholesky_inverse(torch.linalg.cholesky(gram + own)),
            torch.cholesky_inverse(torch.linalg.cholesky(gram + own - self.shift * identity)),
        )

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        """LU factors of the symmetric system in δW.

        Its terms are A δW B and A δWᵀ B, with entries A_kl B_ji and A_kj B_li at (ki, lj).
        """
        w, (q, p), error = self.weight, self._resolvents, self._error
        pull = self.model.priors[:, None] * self.state.means
        wq, wp, wz = w @ q, w @ p, w @ self._within
        pushed = error @ pull  # EΠM
        between = self.state.means.mT @ pull
        spread = (error * self.model.priors) @ error.mT
        identity = self._classes.expand_as(spread)
        left = torch.stack([identity, -wp @ w.mT, -wz @ w.mT, -spread, -wq @ w.mT], dim=-1)
        right = [self._moment, self._within, p, q, between]
        right_side = torch.stack([x.expand_as(self._moment) for x in right], dim=-1)
        straight = torch.einsum("...kln,...ijn->...kilj", left, right_side)
        left = torch.stack([pushed, wq, -wp, -wz], dim=-1)
        twisted = torch.einsum(
            "...kjn,...lin->...kilj", left, torch.stack([wq, pushed, wz, wp], dim=-1)
        )
        size = w.shape[-2] * w.shape[-1]
        system = (straight + twisted).reshape(*w.shape[:-2], size, size)
        factors, pivots, _ = torch.linalg.lu_factor_ex(system)
        return factors, pivots

    def solve(self, right: Both) -> Both:
        """(s - J)⁻¹ of a right-hand side."""
        w, (q, p), error = self.weight, self._resolvents, self._error
        priors, means = self.model.priors[:, None], self.state.means
        own, turned = self.split(right)
        own, turned = own @ q, p @ turned
        image = turned @ self._image
        force = error @ (priors * own) - (w @ own.mT) @ (priors * means)
        force = force - w @ (image + image.mT)
        flat = force.reshape(*force.shape[:-2], -1, 1)
        change = torch.linalg.lu_solve(*self._factors, flat).reshape(force.shape)
        own = own + (error.mT @ change - (means @ change.mT) @ w) @ q
        turned = turned - p @ self._turned(change)
        return torch.cat([own, turned], dim=-2)

    def _turned(self, change: Rows) -> Inner:
        """(δWᵀW + WᵀδW)φ."""
        w, inner = self.weight, self.state.propagator
        return change.mT @ (w @ inner) + w.mT @ (change @ inner)

    def time_derivative(self) -> Both:
        """∂/∂τ of the rate: Σ_W = e^{-2κτ}φΣ_W0φᵀ moves W*."""
        w, means = self.weight, self.state.means
        pull = 2 * self.shift * (w @ self._within)
        change = torch.linalg.solve(self._moment, pull.mT).mT
        own = self._error.mT @ change - (means @ change.mT) @ w
        return torch.cat([own, -self._turned(change)], dim=-2)
