"""A central-path flow at the times asked for: kept, saved, gone on with."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics import table as metric_functions
from perturb_nc.metrics.table import READ_BY_WEIGHT, CollapseMetrics, collapse_metrics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.storage import read_tensors, write_tensors
from perturb_nc.summary import Tabular
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.flow.integrators import Exponential, Leg, Method, Scipy
from perturb_nc.theory.flow.space import FlowSetting, FlowSpace, transported
from perturb_nc.theory.flow.state import FlowState, Rows
from perturb_nc.theory.flow.walk import Event, FlowCost, Trajectory
from perturb_nc.theory.status import Status
from perturb_nc.validation import ArrayLike, as_features, as_labels, nonnegative


@dataclass(frozen=True, eq=False, repr=False)
class FlowPath(Tabular):
    """The flow at a list of times, with all that is needed to go on.

    Attributes:
        reference: class statistics of H0 = H(0).
        lambda_w, lambda_h, beta: of the flow.
        times: flow times reached, (T,).
        means: class means of H(t), (T, K, d).
        basis: V, (d, m): the weights and the class means of H0 lie in its span.
        inner, outer: ψ (T, m, m) and a (T,): within-class deviations are δ(t) = Ψ(t)δ(0) with
            Ψ = VψVᵀ + a(I - VVᵀ).
        status: how the integration ended.
        cost: steps, evaluations of W*, and m.
        rtol, atol: tolerances asked for.
        method: that made the path, and goes on with it.
    """

    reference: ClassStatistics
    lambda_w: float
    lambda_h: float
    beta: float
    times: Float64[Tensor, "T"]
    means: Float64[Tensor, "T K d"]
    basis: Float64[Tensor, "d m"]
    inner: Float64[Tensor, "T m m"]
    outer: Float64[Tensor, "T"]
    status: Status
    cost: FlowCost
    rtol: float
    atol: float
    method: Method

    _index = ("time",)

    def _columns(self) -> dict[str, list[Any]]:
        """Metrics that read no weight: a path has none."""
        names = [n for n in self.metrics[0].as_dict() if n not in READ_BY_WEIGHT]
        columns = {n: [getattr(m, n) for m in self.metrics] for n in names}
        return {"time": self.times.tolist()} | columns

    def _summary(self) -> dict[str, object]:
        return {
            "times": len(self),
            "last_time": self.times[-1],
            "num_classes": self.reference.num_classes,
            "dim": self.reference.dim,
            "lambda_w": self.lambda_w,
            "lambda_h": self.lambda_h,
            "beta": self.beta,
            "steps": self.cost.steps,
            "method": type(self.method).__name__,
            "status": self.status,
        }

    def __len__(self) -> int:
        """T."""
        return len(self.times)

    def statistics(self, i: int) -> ClassStatistics:
        """Class statistics at times[i]; class variances as in `ClassStatistics.moved`."""
        return transported(self.reference, self.basis, self.means[i], self.inner[i], self.outer[i])

    def propagator(self, i: int) -> Float64[Tensor, "d d"]:
        """Ψ(times[i])."""
        return self._moved(torch.diag(self.means.new_ones(self.reference.dim)), i).mT

    def _moved(self, rows: Float64[Tensor, "n d"], i: int) -> Float64[Tensor, "n d"]:
        """Rows times Ψᵀ."""
        read = rows @ self.basis
        own = read @ self.inner[i].mT - self.outer[i] * read
        return self.outer[i] * rows + own @ self.basis.mT

    def features(
        self, reference_features: ArrayLike, labels: ArrayLike, i: int
    ) -> Float64[Tensor, "N d"]:
        """H(times[i]) for given samples (N, d): μ_k(t) + Ψ(t)(h0 - μ_k(0)), exact for the path.

        Raises:
            ValueError: wrong shapes, NaN or infinity, labels out of range.
        """
        k, d = self.means.shape[1:]
        x = as_features(reference_features, name="reference_features", dim=d).to(self.means)
        y = as_labels(labels, len(x), num_classes=k).to(x.device)
        return self.means[i][y] + self._moved(x - self.reference.means[y], i)

    @cached_property
    def metrics(self) -> list[CollapseMetrics]:
        """All collapse metrics at every time."""
        return [collapse_metrics(self.statistics(i)) for i in range(len(self))]

    def extend(
        self,
        times: Sequence[float],
        *,
        until: Mapping[str, float] | None = None,
        time_limit: float = math.inf,
        progress: Progress | None = None,
    ) -> "FlowPath":
        """Go on from the last state to further times; returns the longer path.

        Arguments as for `central_path_flow`.
        """
        more = self.from_last(times, until=until, time_limit=time_limit, progress=progress)
        size = more.basis.shape[1]
        past = [self._state(i).padded(size) for i in range(len(self))]
        return replace(
            more,
            times=torch.cat([self.times, more.times]),
            means=torch.cat([self.means, more.means]),
            inner=torch.cat([*(state.propagator for state in past), more.inner]),
            outer=torch.cat([self.outer, more.outer]),
            cost=self.cost + more.cost,
        )

    def from_last(
        self,
        times: Sequence[float],
        *,
        until: Mapping[str, float] | None = None,
        time_limit: float = math.inf,
        progress: Progress | None = None,
    ) -> "FlowPath":
        """`extend`, but the path at further times alone; H0 stays what it was."""
        clock, reached = Clock.of(time_limit, progress), float(self.times[-1])
        further = checked_times(times, reached)
        return self._continue(self._state(-1), reached, further, until or {}, clock)

    def at(self, time: float) -> ClassStatistics:
        """Class statistics at any time up to the last, integrated from the nearest one before."""
        time = nonnegative(time, "time")
        if time > float(self.times[-1]):
            raise ValueError(f"time must be <= {float(self.times[-1])}, got {time}; use extend()")
        before = int((self.times <= time).sum()) - 1
        start = 0.0 if before < 0 else float(self.times[before])
        state = self._space().model.initial_state() if before < 0 else self._state(before)
        return self._continue(state, start, [time], {}, Clock()).statistics(0)

    def _continue(
        self,
        state: FlowState,
        start: float,
        times: Sequence[float],
        until: Mapping[str, float],
        clock: Clock,
    ) -> "FlowPath":
        watch: dict[str, Any] = {"events": events(until), "clock": clock}
        leg = Leg(self._space(), state, start, times, self.rtol, self.atol, **watch)
        run = self.method.integrate(leg)
        return flow_paths(run, self.rtol, self.atol, self.method)[0]

    def save(self, path: str | Path) -> None:
        """Write the path as one safetensors file, atomically."""
        names = [f.name for f in fields(ClassStatistics)]
        tensors = {name: getattr(self.reference, name) for name in names}
        tensors |= {f"path/{name}": getattr(self, name) for name in _ARRAYS}
        plain = {name: getattr(self, name) for name in _NUMBERS}
        record = {**plain, "status": self.status.name, "cost": asdict(self.cost)}
        record["method"] = {"kind": type(self.method).__name__, **asdict(self.method)}
        write_tensors(path, tensors, {"format": _FORMAT, "path": json.dumps(record)})

    @classmethod
    def load(cls, path: str | Path) -> "FlowPath":
        """Read a file written by `save`; ValueError when it is not one."""
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{path} holds no flow path; make one with central_path_flow().save()")
        record = json.loads(metadata["path"])
        status, cost = Status[record.pop("status")], FlowCost(**record.pop("cost"))
        options = record.pop("method")
        method = _KINDS[options.pop("kind")](**options)
        reference = ClassStatistics(*(tensors[f.name] for f in fields(ClassStatistics)))
        record |= {name: tensors[f"path/{name}"] for name in _ARRAYS}
        return cls(reference=reference, status=status, cost=cost, method=method, **record)

    def _space(self) -> FlowSpace:
        w, h, beta = columns(self.reference, [self.lambda_w], [self.lambda_h], [self.beta])
        return FlowSetting(self.reference, w, h, beta).space(self.basis[None])

    def _state(self, i: int) -> FlowState:
        means = self.means[i] @ self.basis
        return FlowState(means[None], self.inner[i][None], self.outer[i].reshape(1, 1, 1))


_FORMAT = "perturb_nc.FlowPath/3"
_KINDS: dict[str, type[Method]] = {"Exponential": Exponential, "Scipy": Scipy}
_ARRAYS = ("times", "means", "basis", "inner", "outer")
_NUMBERS = ("lambda_w", "lambda_h", "beta", "rtol", "atol")


def scaled_traces(path: FlowPath) -> dict[str, list[float]]:
    """e^{2λ_H t} tr Σ_W ("within") and e^{2λ_H t} tr Σ_B ("between") at every time of a path.

    At β = 0 the first falls, and for balanced classes the second rises (Tirer et al. 2023,
    Theorem 3.1).
    """
    growth = torch.exp(2 * path.lambda_h * path.times).tolist()
    moments = [path.statistics(i) for i in range(len(path))]
    return {
        "within": [g * s.within.trace().item() for g, s in zip(growth, moments, strict=True)],
        "between": [g * s.between.trace().item() for g, s in zip(growth, moments, strict=True)],
    }


def columns(statistics: ClassStatistics, *values: Sequence[float]) -> list[Tensor]:
    """Numbers of every setting of a batch as (B, 1, 1), on the device of the statistics."""
    return [statistics.means.new_tensor(v).reshape(-1, 1, 1) for v in values]


def flow_paths(run: Trajectory, rtol: float, atol: float, method: Method) -> list[FlowPath]:
    """One path for every setting of a batch."""
    space, model, basis = run.space, run.space.model, run.space.basis
    return [
        FlowPath(
            reference=space.statistics,
            lambda_w=float(model.lambda_w[b]),
            lambda_h=float(model.lambda_h[b]),
            beta=float(model.beta[b]),
            times=basis.new_tensor(run.times),
            means=torch.stack([state.means[b] @ basis[b].mT for state in run.states]),
            basis=basis[b].clone(),  # an ordinary tensor
            inner=torch.stack([state.propagator[b] for state in run.states]),
            outer=torch.stack([state.outer[b, 0, 0] for state in run.states]),
            status=run.status,
            rtol=rtol,
            atol=atol,
            method=method,
            cost=run.cost,
        )
        for b in range(len(basis))
    ]


def checked_times(times: Sequence[float], start: float) -> list[float]:
    """The times as floats; ValueError unless they increase from `start` on."""
    values = [nonnegative(t, "times") for t in times]
    if not values or any(b <= a for a, b in pairwise(values)):
        raise ValueError(f"times must be a list of increasing numbers, got {values[:10]}")
    if values[0] < start:
        raise ValueError(f"times must not lie before {start}, the last time reached")
    return values


def events(until: Mapping[str, float]) -> list[Event]:
    """Functions of a state that change their sign where a metric, or the speed, has its value."""
    known = [f.name for f in fields(CollapseMetrics) if f.name not in _NO_EVENTS]
    unknown = [name for name in until if name not in (*known, "speed")]
    if unknown:
        raise ValueError(f"until must name metrics ({', '.join(known)}) or speed, got {unknown}")

    def event(name: str, value: float) -> Event:
        """0 where the quantity has the value."""

        def distance(space: FlowSpace, state: FlowState, weight: Rows) -> float:
            """The quantity less the value."""
            if name == "speed":
                return float(space.model.speed(state, weight)) - value
            return float(getattr(metric_functions, name)(space.statistics_at(state))) - value

        return distance

    return [event(name, value) for name, value in until.items()]


_NO_EVENTS = ("dnc1", *READ_BY_WEIGHT)
