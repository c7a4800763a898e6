"""Maps of a sweep over (λ_W, λ_H) at several β."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from perturb_nc.show.labels import LABELS
from perturb_nc.study.sweep_plan import DERIVED, STATUSES
from perturb_nc.validation import instance

MAPPED = tuple(name for name in DERIVED if name != "objective")
_FINISHED = [STATUSES.index(name) for name in ("converged", "near_collapse")]
_MOST = 4  # maps side by side
_SENSITIVITY = r"$\log_{10}\,|\partial_{\log\lambda_H}| \,/\, |\partial_{\log\lambda_W}|$"
_RATIO: dict[str, Any] = {"label": _SENSITIVITY, "extend": "both"}
_CERTIFIED, _FREE_ZERO, _ZERO = "white", "#ffb703", "#3a3a3a"
_EDGE = [withStroke(linewidth=3.2, foreground="black")]  # seen on any colour


def plot_map(
    dataset: xr.Dataset,
    *,
    metric: str = "nc1",
    beta: float | None = None,
    sensitivity: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """A metric over (λ_W, λ_H) at one β, or which of the two moves it more.

    The metric: on a logarithmic scale, with the boundary r = 1 of certified global optimality (what
    is not certified is dotted), W = 0 hatched, and λ_W λ_H = 1, beyond which the model without
    anchor (β = 0) collapses to zero. (With an anchor W vanishes only in the limit, as long as
    class means differ.)
    The sensitivity: log10 of |∂metric/∂log λ_H| / |∂metric/∂log λ_W|, positive where λ_H moves it
    more, with the curves on which either derivative changes its sign.

    Args:
        dataset: of `sweep`, a grid with at least two values of λ_W and of λ_H.
        metric: nc1, nc1_trace, nc2_etf or cdnv.
        beta: the nearest one of the grid is drawn; by default the middle one.
        sensitivity: whether to draw that.
        ax: to draw on; by default that of a new figure.

    Raises:
        ValueError: a sweep that is not such a grid, or a metric without derivatives.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> decays = {"lambda_w": [0.01, 0.1], "lambda_h": [0.01, 0.1]}
        >>> table = pnc.sweep(statistics, **decays, beta=[1.0])
        >>> axis = pnc.plot_map(table, metric="nc1", beta=1.0)
        >>> axis.get_xscale(), axis.get_yscale()
        ('log', 'log')

    See Also:
        sweep: what it takes.
    """
    instance(dataset, xr.Dataset, "dataset", "sweep gives one")
    grid = _checked(dataset, metric)
    available = grid["beta"].values
    middle = float(available[len(available) // 2])
    (chosen,) = _betas(grid, [middle if beta is None else beta])
    part = grid.sel(beta=chosen)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure(figsize=(5.2, 4.6), layout="constrained").add_subplot()
    if sensitivity:
        mesh, bar = _draw_sensitivity(ax, part, metric), _RATIO
    else:
        scale = _range(part[metric].values)
        mesh = _draw_metric(ax, part, metric, scale)
        bar = _scale(metric, part[metric].values, scale[0])
    ax.set_xlabel(LABELS["lambda_w"].title)
    ax.set_ylabel(LABELS["lambda_h"].title)
    ax.figure.colorbar(mesh, ax=ax, **bar).minorticks_off()
    handles = _legend(grid.sel(beta=[chosen]), metric, signs=sensitivity, zeros=not sensitivity)
    if handles:
        ax.legend(handles=handles, fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.18))
    return ax


def plot_maps(
    dataset: xr.Dataset, *, metric: str = "nc1", betas: Sequence[float] | None = None, title: str
) -> Figure:
    """`plot_map` of a metric at several β, and below each its sensitivity: a whole figure.

    Args:
        dataset, metric: as there.
        betas: which β to draw, the nearest ones of the grid; by default up to four over its range.
        title: of the figure.

    Raises:
        ValueError: as there.
    """
    grid = _checked(dataset, metric)
    chosen = _betas(grid, betas)
    slices = [grid.sel(beta=b) for b in chosen]
    figure = Figure(figsize=(1.8 + 3.2 * len(chosen), 6.6), layout="constrained")
    axes = figure.subplots(2, len(chosen), sharex=True, sharey=True, squeeze=False)
    drawn = np.concatenate([part[metric].values.ravel() for part in slices])
    scale = _range(drawn)
    for column, part in enumerate(slices):
        above, below = axes[:, column]
        values = _draw_metric(above, part, metric, scale)
        said = f"{above.get_title(loc='left')}: {_spread(part, metric)}"
        above.set_title(said, fontsize=10, loc="left")
        ratios = _draw_sensitivity(below, part, metric)
        below.set_xlabel(LABELS["lambda_w"].title)
    symbol = LABELS[metric].symbol
    for row, name in zip(axes, (symbol, f"sensitivity of {symbol}"), strict=True):
        row[0].set_ylabel(f"{name}\n" + LABELS["lambda_h"].title)
    figure.colorbar(values, ax=axes[0].tolist(), pad=0.01, **_scale(metric, drawn, scale[0]))
    figure.colorbar(ratios, ax=axes[1].tolist(), pad=0.01, **_RATIO)
    handles = _legend(grid.sel(beta=chosen), metric)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _scale(metric: str, values: NDArray[np.float64], low: float) -> dict[str, Any]:
    """Name and lower end of a colour bar."""
    bar: dict[str, Any] = {"label": LABELS[metric].symbol}
    if np.nanmax(values, initial=low) < 10 * low:  # powers of ten mark nothing there
        bar |= {"ticks": MaxNLocator(5), "format": "%.3g"}
    if (values < low).any():
        bar |= {"label": f"{LABELS[metric].symbol} (black: 0)", "extend": "min"}
    return bar


def _spread(part: xr.Dataset, metric: str) -> str:
    values = part[metric].values[np.isfinite(part[metric].values)]
    if not len(values):
        return "no values"
    return f"{LABELS[metric].symbol} {values.min():.3g} to {values.max():.3g}"


def _draw_metric(axis: Axes, part: xr.Dataset, metric: str, scale: tuple[float, float]) -> QuadMesh:
    cmap = colormaps["viridis"].with_extremes(under="black")
    values = np.maximum(part[metric].values, 0.99 * scale[0])
    mesh = _mesh(axis, part, values, norm=LogNorm(*scale), cmap=cmap)
    axis.set_title(f"β = {float(part['beta']):.3g}", fontsize=10, loc="left")
    _mark_global(axis, part)
    return mesh


def _draw_sensitivity(axis: Axes, part: xr.Dataset, metric: str) -> QuadMesh:
    ratio, shares = _sensitivity(part, metric)
    mesh = _mesh(axis, part, ratio, norm=TwoSlopeNorm(0.0, -2.0, 2.0), cmap="RdBu_r")
    _mark_signs(axis, part, metric)
    axis.set_title(shares, fontsize=9, loc="left")
    return mesh


def _checked(dataset: xr.Dataset, metric: str) -> xr.Dataset:
    """The grid in increasing order."""
    if metric not in MAPPED:
        raise ValueError(f"metric must be one of {', '.join(MAPPED)}, got {metric!r}")
    if "setting" in dataset.dims:
        raise ValueError("a map needs a grid of lambda_w and lambda_h, got zipped settings")
    for name in ("lambda_w", "lambda_h"):
        if (dataset[name] > 0).sum() < 2:
            raise ValueError(
                f"a map needs at least 2 values > 0 of {name}, got {dataset[name].values}"
            )
    if (dataset["status"] == STATUSES.index("pending")).all():
        raise ValueError("no setting of the sweep is finished yet; run it first")
    ordered = dataset.sortby(["lambda_w", "lambda_h", "beta"])
    return ordered.sel(lambda_h=ordered["lambda_h"] > 0)  # axes are logarithmic


def _betas(grid: xr.Dataset, betas: Sequence[float] | None) -> list[float]:
    available = grid["beta"].values
    if betas is None:
        places = np.linspace(0, len(available) - 1, min(_MOST, len(available)))
        return [float(available[i]) for i in np.unique(places.round().astype(int))]
    nearest = {float(available[np.abs(available - b).argmin()]) for b in betas}
    if not nearest:
        raise ValueError("betas must hold at least one value, got none")
    return sorted(nearest)


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Limits of a logarithmic scale; what is 0 (exact collapse, at β = 0) lies below it."""
    finite = values[np.isfinite(values)]
    positive = finite[finite > 1e-12 * finite.max(initial=0.0)]
    low = float(positive.min(initial=np.inf))
    return (low, max(float(positive.max()), 1.01 * low)) if len(positive) else (0.1, 1.0)


def _mesh(axis: Axes, part: xr.Dataset, values: NDArray[np.float64], **style: Any) -> QuadMesh:
    w, h = part["lambda_w"].values, part["lambda_h"].values
    axis.set_facecolor("#d9d9d9")  # where nothing is known
    mesh = axis.pcolormesh(_edges(w), _edges(h), values.T, rasterized=True, **style)
    axis.set_xscale("log")
    axis.set_yscale("log")
    unsolved = (~part["status"].isin(_FINISHED)).values
    rows, columns = np.nonzero(unsolved)
    axis.plot(w[rows], h[columns], "x", color="black", ms=4)
    return mesh


def _mark_global(axis: Axes, part: xr.Dataset) -> None:
    w, h = part["lambda_w"].values, part["lambda_h"].values
    ratio = part["spectral_ratio"].values.T
    # At β = 0 r is 1 to rounding everywhere: the level lies a little above it.
    _curve(axis, w, h, ratio - (1 + 1e-6), _EDGE, colors=_CERTIFIED, linewidths=1.8)
    _hatch(axis, w, h, np.isfinite(ratio) & ~part["is_global"].values.T, "....")
    _hatch(axis, w, h, _zero(part).T, "xx")
    inside = (h > 1 / w.max()) & (h < 1 / w.min())
    if inside.any():
        ends = np.clip([1 / w.max(), 1 / w.min()], h.min(), h.max())
        axis.plot(1 / ends, ends, "--", color=_FREE_ZERO, lw=1.5)


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the cells around them, halfway on a logarithmic axis."""
    logs = np.log(values)
    ends = [1.5 * logs[0] - 0.5 * logs[1]], [1.5 * logs[-1] - 0.5 * logs[-2]]
    return np.exp(np.concatenate([ends[0], (logs[1:] + logs[:-1]) / 2, ends[1]]))


def _hatch(
    axis: Axes, w: NDArray[np.float64], h: NDArray[np.float64], where: NDArray[np.bool_], kind: str
) -> None:
    """Hatch these cells, those at the edges whole."""
    if where.any():
        x, y = ([_edges(v)[0], *v[1:-1], _edges(v)[-1]] for v in (w, h))
        axis.contourf(x, y, where.astype(float), [0.5, 1.5], colors="none", hatches=[kind])


def _mark_signs(axis: Axes, part: xr.Dataset, metric: str) -> None:
    w, h = part["lambda_w"].values, part["lambda_h"].values
    slopes = part[f"{metric}_derivative"]
    for parameter, line in (("lambda_h", "-"), ("lambda_w", ":")):
        values = slopes.sel(parameter=parameter).values.T
        _curve(axis, w, h, values, colors="black", linestyles=line, linewidths=1.2)


def _curve(
    axis: Axes,
    w: NDArray[np.float64],
    h: NDArray[np.float64],
    values: NDArray[np.float64],
    effects: Sequence[AbstractPathEffect] = (),
    **style: Any,
) -> None:
    """Where the values change their sign, if they do."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() < 0 < finite.max():
        axis.contour(w, h, values, [0.0], **style).set(path_effects=effects)


def _zero(part: xr.Dataset) -> NDArray[np.bool_]:
    largest = part["singular_values"].max("singular_value")
    return (largest <= 1e-6 * largest.max()).values


def _sensitivity(part: xr.Dataset, metric: str) -> tuple[NDArray[np.float64], str]:
    slopes = part[f"{metric}_derivative"]
    by_h, by_w = (np.abs(slopes.sel(parameter=name).values) for name in ("lambda_h", "lambda_w"))
    known = np.isfinite(by_h) & np.isfinite(by_w) & (by_h > 0) & (by_w > 0)
    ratio = np.full(by_h.shape, np.nan)
    ratio[known] = np.log10(by_h[known]) - np.log10(by_w[known])
    if not known.any():
        return ratio, "no derivatives here"
    share = f"in {(ratio[known] > 0).mean():.0%} of the settings"
    return ratio, f"$\\lambda_H$ moves {LABELS[metric].symbol} more {share}"


def _legend(
    grid: xr.Dataset, metric: str, *, signs: bool = True, zeros: bool = True
) -> list[Line2D | Patch]:
    """Of what is drawn: on the sensitivity (signs), on the metric (zeros), on both."""
    w, h = grid["lambda_w"].values, grid["lambda_h"].values
    slopes = grid[f"{metric}_derivative"]
    handles: list[Line2D | Patch] = []
    if zeros and _crosses(grid["spectral_ratio"].values - (1 + 1e-6)):
        said = "r = 1: certified on the undotted side"
        handles.append(Line2D([], [], color=_CERTIFIED, lw=1.8, path_effects=_EDGE, label=said))
    if zeros and w.min() * h.min() < 1 < w.max() * h.max():
        label = r"$\lambda_W\lambda_H = 1$"
        handles.append(Line2D([], [], color=_FREE_ZERO, ls="--", label=label))
    for parameter, line, sign in (("lambda_h", "-", "H"), ("lambda_w", ":", "W")):
        if signs and _crosses(slopes.sel(parameter=parameter).values):
            label = rf"$\partial_{{\log\lambda_{sign}}}$ changes sign"
            handles.append(Line2D([], [], color="black", ls=line, label=label))
    if zeros and any(_zero(grid.isel(beta=i)).any() for i in range(grid.sizes["beta"])):
        handles.append(Patch(facecolor="none", edgecolor=_ZERO, hatch="xx", label="W = 0"))
    if (grid["status"] != STATUSES.index("converged")).any():
        handles.append(
            Line2D([], [], color="black", marker="x", ls="", label="not converged (see status)")
        )
    return handles


def _crosses(values: NDArray[np.float64]) -> bool:
    return bool((values < 0).any() and (values > 0).any())
