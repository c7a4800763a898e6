"""Maps of the optimum over the hyper-parameters, in pieces that run anywhere and resume."""

import math
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from perturb_nc.layer_samples import LayerSamples
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.in_flight import results
from perturb_nc.study.models import NUMBERS, Layer, Model, model_of
from perturb_nc.study.sweep_plan import (
    DERIVED,
    FLOW_METRICS,
    FLOW_STATUSES,
    METRICS,
    STATUSES,
    Region,
    SweepPlan,
    empty_dataset,
)
from perturb_nc.study.sweep_store import SweepStore
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.flow.central_path import central_path_flows
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.vicinity.batch import balanced_frame, small_vicinity_batch
from perturb_nc.theory.vicinity.prediction import SMALL
from perturb_nc.validation import ArrayLike

Values = dict[str, NDArray[np.generic]]
_PENDING, _FAILED = STATUSES.index("pending"), STATUSES.index("failed")
_NEAR, _FAR, _VANISHED = map(STATUSES.index, ("near_collapse", "not_small", "vanished"))
_LATE = STATUSES.index("time_limit")


def sweep(
    statistics: Layer,
    *,
    lambda_w: ArrayLike,
    lambda_h: ArrayLike,
    beta: ArrayLike,
    zipped: bool = False,
    loss: str = "squared",
    bias: bool = False,
    method: str = "exact",
    flow_times: ArrayLike | None = None,
    executor: Executor | None = None,
    store: str | Path | None = None,
    chunk: int = 256,
    tol: float = 1e-10,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> xr.Dataset:
    """The certified optimum of (1) at every setting of λ_W, λ_H and β, or what is near collapse.

    Dimensions are lambda_w, lambda_h and beta (their grid), or "setting" if zipped. Variables:
    every metric of the optimum, objective, gap, spectral_ratio, gradient_norm, is_global, steps,
    singular_values of W, and NAME_derivative, the exact derivative of nc1, nc1_trace, nc2_etf, cdnv
    and objective in log λ_W, log λ_H, log β (dimension "parameter"). `status` says of every setting
    how it ended: converged, max_steps, stalled, time_limit, pending (not begun), or failed (too
    badly scaled for float64: NaN).
    With method="vicinity" the closed forms of `small_vicinity_batch` are taken instead: nc1,
    nc1_trace, nc2_etf and their derivatives, certified by nothing, and `distance` from collapse
    with all else NaN. Status is then near_collapse, not_small (distance² above a tenth) or vanished
    (λ_W λ_H >= 1: NaN).
    With flow_times, flow_METRIC holds metrics of the central path (β = 0) at these times.

    Args:
        statistics: class statistics of H0; its samples (`LayerSamples`) for cross-entropy.
        lambda_w, lambda_h, beta: numbers or lists of them, λ_W > 0, λ_H and β >= 0.
        zipped: take the three lists together, setting by setting, instead of their grid.
        loss: "squared", or "cross-entropy", whose settings are solved one after the other.
        bias: whether the last layer has a bias.
        method: "exact", or "vicinity", which needs λ_H and β > 0 and the squared loss.
        flow_times: increasing flow times >= 0, of the squared loss.
        executor: any concurrent.futures.Executor, for instance `dask_client.get_executor()`.
            Its workers get NumPy arrays and use one thread each; by default all runs here, on
            the device of the statistics.
        store: folder of a zarr store, made with the first chunk. Finished chunks are kept in it,
            and a call with the same arguments goes on from them; damaged ones are computed again.
        chunk: settings solved together (and lost at most, by a kill, per worker).
        tol: relative gradient norm to reach.
        time_limit: seconds after which settings under way end with status time_limit, and those not
            begun stay pending (NaN). With a store, a later call computes both. Chunks that an
            executor has begun come to their end.
        progress: called as progress(settings, of how many) at the start and after every chunk.

    Raises:
        ValueError: arguments out of range; a store of another sweep, or a URL for one; statistics
            so badly scaled that every setting fails, or, with method="vicinity", without a nearest
            frame or of unequal classes.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> table = pnc.sweep(statistics, lambda_w=[0.01, 0.1], lambda_h=0.05, beta=[0.1, 1.0])
        >>> dict(table["nc1"].sizes)
        {'lambda_w': 2, 'lambda_h': 1, 'beta': 2}

    See Also:
        plot_map: its picture. minimize_batch: the same settings as solutions.

    Source: docs §4.1-4.3, 4.5.
    """
    clock = Clock.of(time_limit, progress)
    plan = SweepPlan.checked(
        lambda_w, lambda_h, beta, flow_times,
        zipped=zipped, loss=loss, bias=bias, tol=tol, chunk=chunk, method=method,
    )  # fmt: skip
    model = model_of(statistics, loss, bias=bias, name="statistics")
    if method == "vicinity":
        balanced_frame(model.statistics, bias)  # raises where there is none
    dataset = empty_dataset(model.layer, plan)
    kept = None if store is None else SweepStore(store, dataset, plan.block_shape)
    if kept is not None:
        dataset = kept.dataset
    status = dataset["status"]
    unfinished = np.isin(status.values, [_PENDING, _LATE])
    regions = [r for r in plan.regions() if unfinished[tuple(r.values())].any()]
    finished = _settled(status.values)  # counted on from here: whole it takes all settings
    clock.report(finished, status.size)
    variables = {str(name): (v.values, v.dims) for name, v in dataset.variables.items()}
    for region, values in _computed(model, plan, regions, executor, clock):
        place = tuple(region.values())
        finished -= _settled(status.values[place])
        for name, value in values.items():
            array, dims = variables[name]
            part = array[tuple(region.get(str(dim), slice(None)) for dim in dims)]
            part[...] = value.reshape(part.shape)
        if kept is not None:
            kept.write(region, list(values))
        finished += _settled(status.values[place])
        clock.report(finished, status.size)
    if bool((status == _FAILED).all()):
        _solve(model, plan.settings(plan.regions()[0])[:1], plan, clock)  # raises the reason
    return dataset


def _settled(codes: NDArray[np.generic]) -> int:
    """How many settings need no further work."""
    return codes.size - int(np.isin(codes, [_PENDING, _LATE]).sum())


def _computed(
    model: Model,
    plan: SweepPlan,
    regions: list[Region],
    executor: Executor | None,
    clock: Clock,
) -> Iterator[tuple[Region, Values]]:
    """The pieces as they get done, until the time is up."""

    def arguments(region: Region) -> tuple[NDArray[np.float64], NDArray[np.float64], SweepPlan]:
        return plan.settings(region), plan.flow_settings(region), plan

    if executor is None:
        for region in regions:
            if clock.expired():
                return
            yield region, _piece(model, *arguments(region), clock)
        return
    layer = model.layer
    kind, arrays = (
        type(layer),
        {f.name: getattr(layer, f.name).cpu().numpy() for f in fields(layer)},
    )
    yield from results(
        lambda region: executor.submit(_remote_piece, kind, arrays, *arguments(region)),
        regions,
        clock,
    )


def _remote_piece(
    kind: type[ClassStatistics] | type[LayerSamples],
    arrays: dict[str, NDArray[np.generic]],
    settings: NDArray[np.float64],
    flow_settings: NDArray[np.float64],
    plan: SweepPlan,
) -> Values:
    """`_piece` in a worker, of which there is one per core."""
    torch.set_num_threads(1)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    model = model_of(kind(**tensors), plan.loss, bias=plan.bias)
    return _piece(model, settings, flow_settings, plan, Clock())


def _piece(
    model: Model,
    settings: NDArray[np.float64],
    flow_settings: NDArray[np.float64],
    plan: SweepPlan,
    clock: Clock,
) -> Values:
    if plan.method == "vicinity":
        values = _near_collapse(model.statistics, settings, plan.bias)
    else:
        values = _solved(model, settings, plan, clock)
    if len(flow_settings) and not clock.expired():
        values |= _flows(model.statistics, flow_settings, plan.flow_times, clock)
    return values


def _solved(model: Model, settings: NDArray[np.float64], plan: SweepPlan, clock: Clock) -> Values:
    """The variables at some settings; one that float64 cannot hold does not spoil the others."""
    try:
        return _solve(model, settings, plan, clock)
    except (ValueError, LinAlgError):
        if len(settings) == 1:
            return {"status": np.array([_FAILED], np.int8)} | _undefined(model.statistics)
        halves = np.array_split(settings, 2)
        first, second = (_solved(model, half, plan, clock) for half in halves)
        return {name: np.concatenate([first[name], second[name]]) for name in first}


def _solve(model: Model, settings: NDArray[np.float64], plan: SweepPlan, clock: Clock) -> Values:
    own = [dict(zip(HYPERPARAMETERS, row, strict=True)) for row in settings.tolist()]
    found = model.optima(own, tol=plan.tol, clock=clock)
    tensors = {name: found.metrics[name] for name in METRICS}
    tensors |= {**found.numbers, "singular_values": found.singular_values}
    tensors |= {f"{name}_derivative": found.derivatives[name] for name in DERIVED}
    codes = [STATUSES.index(status.name.lower()) for status in found.status]
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    return {**arrays, "status": np.array(codes, np.int8)}


def _undefined(statistics: ClassStatistics) -> Values:
    """One setting without a solution."""
    values: Values = {name: np.full(1, np.nan) for name in (*METRICS, *NUMBERS)}
    values["is_global"], values["steps"] = np.zeros(1, bool), np.zeros(1, np.int64)
    values["singular_values"] = np.full((1, min(statistics.means.shape)), np.nan)
    return values | {f"{n}_derivative": np.full((1, len(HYPERPARAMETERS)), np.nan) for n in DERIVED}


def _near_collapse(
    statistics: ClassStatistics, settings: NDArray[np.float64], bias: bool
) -> Values:
    """The closed forms of some settings, and NaN for what they do not give."""
    w, h, b = settings.T
    found = small_vicinity_batch(statistics, lambda_w=w, lambda_h=h, beta=b, bias=bias)
    tensors = {**found.metrics, "distance": found.distance}
    for name, slopes in found.derivatives.items():
        tensors[f"{name}_derivative"] = torch.stack([slopes[p] for p in HYPERPARAMETERS], dim=1)
    values: Values = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    small = (found.distance.square() <= SMALL).cpu().numpy()
    status = np.where(w * h < 1, np.where(small, _NEAR, _FAR), _VANISHED).astype(np.int8)
    nothing = {name: value.repeat(len(w), axis=0) for name, value in _undefined(statistics).items()}
    return {**nothing, **values, "status": status}


def _flows(
    statistics: ClassStatistics,
    settings: NDArray[np.float64],
    times: tuple[float, ...],
    clock: Clock,
) -> Values:
    """Metrics along the central paths; NaN at times that the integration did not reach."""
    w, h = settings.T.tolist()
    paths = central_path_flows(
        statistics, lambda_w=w, lambda_h=h, times=times, time_limit=clock.left()
    )
    values: Values = {f"flow_{m}": np.full((len(paths), len(times)), np.nan) for m in FLOW_METRICS}
    for i, path in enumerate(paths):
        for t, metrics in enumerate(path.metrics):
            for name in FLOW_METRICS:
                values[f"flow_{name}"][i, t] = getattr(metrics, name)
    codes = [FLOW_STATUSES.index(path.status.name.lower()) for path in paths]
    return {**values, "flow_status": np.array(codes, np.int8)}
