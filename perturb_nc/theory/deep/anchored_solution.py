"""A minimum of the anchored deep model (3), as it is handed out."""

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.deep.anchored import AnchoredDeepProblem
from perturb_nc.theory.status import Status

Weights = list[Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class AnchoredSolution(Summarised):
    """A minimum of (3).

    Attributes:
        problem: what was solved.
        weights: W_1..W_L, balanced.
        head: A = W_L … W_1, (K, d).
        statistics: class statistics of H*, as in `Solution`.
        objective: f.
        gradient_norm: largest entry of ∇f in the weights.
        lower_bound: no weights and features have a smaller f, from the certificate of (1); NaN
            where β = λ_H = 0 has none.
        is_global: True where objective and bound agree to 1e-9 of what the head can change; None
            where that is open, as it is for most heads of L >= 2.
        starts: descents made, head zero among them for L >= 2.
        agreeing: how many of them ended at this objective, to 1e-6 of what the head can change.
        contractions: β/(β + λ_H + σ_i(A)²), (K,): what deviations within a class are multiplied by
            along the right singular vectors of A; β/(β + λ_H) off them.
        status: how it ended.
    """

    problem: AnchoredDeepProblem
    weights: Weights
    head: Float64[Tensor, "K d"]
    statistics: ClassStatistics
    objective: float
    gradient_norm: float
    lower_bound: float
    is_global: bool | None
    starts: int
    agreeing: int
    contractions: Float64[Tensor, "K"]
    status: Status

    def _summary(self) -> dict[str, object]:
        measured = self.statistics._summary()
        sizes = {name: measured[name] for name in ("num_classes", "dim", "nc1_trace")}
        ends = [self.contractions.min(), self.contractions.max()]
        given = super()._summary()
        left_out = ("problem", "weights", "head", "statistics", "contractions")
        kept = {name: value for name, value in given.items() if name not in left_out}
        return {"layers": len(self.weights)} | sizes | {"contractions": ends} | kept

    def layers(self) -> list[ClassStatistics]:
        """Statistics of H, W_1 H, …, W_{L-1} … W_1 H: what enters W_1..W_L."""
        found = [self.statistics]
        for weight in self.weights[:-1]:
            s = found[-1]
            found.append(s.moved(s.means @ weight.mT, weight @ s.within @ weight.mT))
        return found
