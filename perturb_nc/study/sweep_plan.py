"""What a sweep computes, in which pieces, and the empty dataset that they fill."""

import json
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib.metadata import version
from itertools import pairwise, product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from perturb_nc.layer_files import layer_sha256
from perturb_nc.metrics import table as metric_functions
from perturb_nc.metrics.table import READ_BY_WEIGHT, CollapseMetrics
from perturb_nc.study.losses import only_squared
from perturb_nc.study.models import Layer, statistics_of
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.validation import (
    ArrayLike,
    affordable,
    at_least,
    check_unmasked,
    nonnegative,
    positive,
)

Region = dict[str, slice]
METRICS = tuple(field.name for field in fields(CollapseMetrics))
FLOW_METRICS = tuple(m for m in METRICS if m not in READ_BY_WEIGHT)
DERIVED = ("nc1", "nc1_trace", "nc2_etf", "cdnv", "objective")
# Their places are the codes in stores: add at the end.
STATUSES = (
    "pending", "converged", "max_steps", "stalled", "failed", "time_limit",
    "near_collapse", "not_small", "vanished",  # of method="vicinity"
)  # fmt: skip
METHODS = ("exact", "vicinity")
FLOW_STATUSES = ("pending", "finished", "event", "max_steps", "step_too_small", "time_limit")
SCALARS = {
    "objective": "f(W*, H*) of problem (1)",
    "gap": "objective minus a certified lower bound of the minimum",
    "spectral_ratio": "r = σ_max(Q)² / (N c λ_W/K); r <= 1 proves a global optimum",
    "gradient_norm": "‖∇g‖_F relative to its bound |Q||H|/N + (λ_W/K)|W|",
}


@dataclass(frozen=True, eq=False)
class SweepPlan:
    """The checked arguments of a sweep.

    Attributes:
        lambda_w, lambda_h, beta: values along each axis, or of each setting if zipped.
        zipped: one dimension "setting" instead of the grid of the three.
        loss: one of `LOSSES`.
        bias, tol: as in `minimize`.
        method: one of METHODS.
        flow_times: of the central path, empty for none.
        chunk: settings in a piece at most.
    """

    lambda_w: NDArray[np.float64]
    lambda_h: NDArray[np.float64]
    beta: NDArray[np.float64]
    zipped: bool
    loss: str
    bias: bool
    tol: float
    flow_times: tuple[float, ...]
    chunk: int
    method: str

    @classmethod
    def checked(
        cls,
        lambda_w: ArrayLike,
        lambda_h: ArrayLike,
        beta: ArrayLike,
        flow_times: ArrayLike | None,
        **options: Any,
    ) -> "SweepPlan":
        """The plan, or a ValueError that names what is wrong."""
        w = _axis(lambda_w, "lambda_w")
        h, b = _axis(lambda_h, "lambda_h"), _axis(beta, "beta")
        for value in w:
            positive(value, "lambda_w")
        times = () if flow_times is None else tuple(_axis(flow_times, "flow_times").tolist())
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError(f"flow_times must increase, got {list(times[:10])}")
        axes = {"lambda_w": w, "lambda_h": h, "beta": b}
        if options["zipped"]:
            if not len(w) == len(h) == len(b):
                lengths = {name: len(values) for name, values in axes.items()}
                raise ValueError(f"zipped values must be lists of one length, got {lengths}")
            unbounded = bool((h + b == 0).any())
        else:
            for name, values in axes.items():
                if len(np.unique(values)) < len(values):
                    raise ValueError(f"{name} must hold distinct values, got {values.tolist()}")
            unbounded = bool(h.min() + b.min() == 0)
        if unbounded:
            raise ValueError("lambda_h and beta must not both be 0 in one setting: drop one 0")
        if (method := options["method"]) not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        if times:
            only_squared(options["loss"], "flow_times")
        if method == "vicinity":
            only_squared(options["loss"], "method vicinity")
            for name in ("lambda_h", "beta"):
                positive(axes[name].min(), name)
        positive(options["tol"], "tol")
        at_least(options["chunk"], 1, "chunk")
        return cls(w, h, b, flow_times=times, **options)

    @cached_property
    def shape(self) -> dict[str, int]:
        """Dimension → size."""
        if self.zipped:
            return {"setting": len(self.beta)}
        return {name: len(getattr(self, name)) for name in HYPERPARAMETERS}

    @property
    def flow_dims(self) -> tuple[str, ...]:
        """Dimensions of the flow, which has no β."""
        return tuple(name for name in self.shape if name != "beta")

    @cached_property
    def block_shape(self) -> dict[str, int]:
        """Sizes of a piece: whole axes from the last on, as far as `chunk` settings go."""
        room, sizes = self.chunk, {}
        for name in reversed(self.shape):
            sizes[name] = min(self.shape[name], max(1, room))
            room //= sizes[name]
        return {name: sizes[name] for name in self.shape}

    def regions(self) -> list[Region]:
        """The pieces, that cover every setting once."""
        cuts = [
            [slice(start, min(start + step, size)) for start in range(0, size, step)]
            for size, step in zip(self.shape.values(), self.block_shape.values(), strict=True)
        ]
        return [dict(zip(self.shape, parts, strict=True)) for parts in product(*cuts)]

    def settings(self, region: Region) -> NDArray[np.float64]:
        """(λ_W, λ_H, β) of a piece as rows, the last axis running fastest."""
        axes = [getattr(self, name) for name in HYPERPARAMETERS]
        if self.zipped:
            return np.stack([axis[region["setting"]] for axis in axes], axis=1)
        parts = [axis[region[name]] for name, axis in zip(HYPERPARAMETERS, axes, strict=True)]
        return np.stack(np.meshgrid(*parts, indexing="ij"), axis=-1).reshape(-1, 3)

    def flow_settings(self, region: Region) -> NDArray[np.float64]:
        """(λ_W, λ_H) of the flows that belong to a piece; each is in one piece only."""
        if not self.flow_times or region.get("beta", slice(0)).start:
            return np.empty((0, 2))
        first = region if self.zipped else {**region, "beta": slice(0, 1)}
        return self.settings(first)[:, :2]


def empty_dataset(layer: Layer, plan: SweepPlan) -> xr.Dataset:
    """Every variable with its attributes, NaN and "pending" everywhere, and the provenance."""
    variables: dict[str, xr.Variable] = {}
    dims, statistics = tuple(plan.shape), statistics_of(layer)
    settings = math.prod(plan.shape.values())
    numbers = statistics.num_classes + len(DERIVED) * len(HYPERPARAMETERS) + len(METRICS)
    numbers += len(FLOW_METRICS) * len(plan.flow_times)
    affordable(8 * numbers * settings, f"a sweep of {settings} settings", "sweep fewer at a time")
    sizes = {
        **plan.shape,
        "singular_value": min(statistics.num_classes, statistics.dim),
        "parameter": len(HYPERPARAMETERS),
        "flow_time": len(plan.flow_times),
    }

    def add(name: str, long_name: str, *extra: str, of: tuple[str, ...] = dims, fill: Any) -> None:
        """Adds a variable, of one value so far."""
        shape = tuple(sizes[dim] for dim in (*of, *extra))
        attributes = {"long_name": long_name, "units": "1"}
        variables[name] = xr.Variable((*of, *extra), np.full(shape, fill), attributes)

    for name in METRICS:
        add(name, _definition(name), fill=np.nan)
    for name, definition in SCALARS.items():
        add(name, definition, fill=np.nan)
    add("is_global", "whether the optimum is certified to be the global one", fill=False)
    add("steps", "Newton steps taken", fill=np.int64(0))
    add("singular_values", "singular values of W*, largest first", "singular_value", fill=np.nan)
    for name in DERIVED:
        derivative = f"derivative of {name} in the log of each hyper-parameter"
        add(f"{name}_derivative", derivative, "parameter", fill=np.nan)
    add("status", "how the minimisation ended", fill=np.int8(0))
    variables["status"].attrs |= _flags(STATUSES)
    if plan.method == "vicinity":
        add("distance", "|H0 - √ρ frame| / |√ρ frame|", fill=np.nan)
    if plan.flow_times:
        of = plan.flow_dims
        for name in FLOW_METRICS:
            on_flow = f"on the central path (β = 0): {_definition(name)}"
            add(f"flow_{name}", on_flow, "flow_time", of=of, fill=np.nan)
        add("flow_status", "how the integration of the flow ended", of=of, fill=np.int8(0))
        variables["flow_status"].attrs |= _flags(FLOW_STATUSES)
    return xr.Dataset(variables, _coordinates(plan), _provenance(layer, plan))


def _axis(values: ArrayLike, name: str) -> NDArray[np.float64]:
    check_unmasked(values, name)
    try:
        axis = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number or a list of them, got {values!r}") from None
    if axis.ndim != 1 or not len(axis):
        raise ValueError(f"{name} must be a number or a non-empty list, got shape {axis.shape}")
    for value in axis:
        nonnegative(value, name)
    return axis


def _definition(metric: str) -> str:
    """The first line of the metric's docstring."""
    if metric == "dnc1":
        return "nc1_trace, as Súkeník et al. 2023 name it"
    return (getattr(metric_functions, metric).__doc__ or metric).splitlines()[0].rstrip(".")


def _flags(meanings: tuple[str, ...]) -> dict[str, Any]:
    """Attributes of the CF conventions for an enumeration."""
    return {"flag_values": list(range(len(meanings))), "flag_meanings": " ".join(meanings)}


def _coordinates(plan: SweepPlan) -> dict[str, Any]:
    names = {"lambda_w": "λ_W", "lambda_h": "λ_H", "beta": "β"}
    coordinates: dict[str, Any] = {
        name: (
            "setting" if plan.zipped else name,
            getattr(plan, name),
            {"long_name": symbol, "units": "1"},
        )
        for name, symbol in names.items()
    }
    coordinates["parameter"] = list(HYPERPARAMETERS)
    if plan.flow_times:
        attributes = {"long_name": "flow time t", "units": "1"}
        coordinates["flow_time"] = ("flow_time", list(plan.flow_times), attributes)
    return coordinates


def _provenance(layer: Layer, plan: SweepPlan) -> dict[str, Any]:
    statistics = statistics_of(layer)
    arguments = {name: _listed(value) for name, value in asdict(plan).items()}
    return {
        "title": _TITLES[plan.method],
        "perturb_nc_version": version("perturb-nc"),
        "statistics_sha256": layer_sha256(layer),
        "num_classes": statistics.num_classes,
        "dim": statistics.dim,
        "num_samples": statistics.num_samples,
        "arguments": json.dumps(arguments),
    }


_TITLES = {
    "exact": "Optima of the near-collapse model over its hyper-parameters",
    "vicinity": "First-order predictions near collapse over the hyper-parameters",
}


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
