"""What the explorer answers beside the prediction: errors, which decay matters, code."""

import math
import shlex
from collections.abc import Mapping

from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, but not in __all__

from perturb_nc.show.explore.figures import METRICS
from perturb_nc.show.labels import number, symbol
from perturb_nc.study.depth import PLACING
from perturb_nc.study.explorer import Explorer, LayerView, Optimum
from perturb_nc.study.fit import fit_regularization
from perturb_nc.study.quantities import log_ratio
from perturb_nc.theory.hyperparameter_response import hyperparameter_response
from perturb_nc.theory.solution import Solution

_MOST = 20_000  # K·d up to which derivatives come within a move
_SECONDS = 20.0  # of a fit
Setting = Mapping[str, float]
Rows = list[tuple[str, list[str]]]


def errors(
    explorer: Explorer, layer: str, sides: Mapping[str, LayerView | None]
) -> tuple[list[str], Rows]:
    """|log(predicted/measured)| at the layer after, of each side and of the rivals."""
    following = explorer.following(layer)
    if following is None:
        return [], []
    own = {name: None if view is None else view.metrics for name, view in sides.items()}
    wanted = explorer.measured[following]
    rows = []
    for name, metrics in {**own, **explorer.rivals(layer)}.items():
        told = PLACING if name == "shrinkage" else ""
        values = (math.nan if m == told else getattr(metrics, m, math.nan) for m in METRICS)
        ratios = (log_ratio(v, getattr(wanted, m)) for v, m in zip(values, METRICS, strict=True))
        rows.append((name, [number(abs(float(ratio)), 2) for ratio in ratios]))
    return ["error", *(label.symbol for label in METRICS.values())], rows


def sensitivity(optimum: Optimum) -> str:
    """What ten per cent more of each parameter does to NC1, the largest effect first."""
    solution = optimum.solution
    if not isinstance(solution, Solution):
        return ""
    if solution.weight.numel() > _MOST:
        return "Which decay matters is not computed for features as wide as these."
    try:
        response = hyperparameter_response(solution)
    except (ValueError, ArithmeticError, LinAlgError) as error:
        return f"Which decay matters is not known here: {error}."
    now, change = optimum.view.metrics.nc1, {}
    for name, metrics in response.metrics.items():
        change[name] = 10 * metrics["nc1"] * getattr(solution.problem, name) / now if now else 0.0
    change = {name: value for name, value in change.items() if value == value}
    if not change:
        return ""
    said = [
        f"{symbol(name)} {value:+.2g} %"
        for name, value in sorted(change.items(), key=lambda item: -abs(item[1]))
    ]
    return f"10 % more of each changes NC1 by: {', '.join(said)} (to first order)."


def fitted(explorer: Explorer, layer: str) -> dict[str, float]:
    """The setting that fits the layer after this one best.

    Raises:
        ValueError: there is no layer after it of one width, or no fit.
    """
    following = explorer.following(layer)
    if following is None:
        raise ValueError("no layer follows this one")
    reference, observed = explorer.layers[layer], explorer.layers[following]
    if reference.dim != observed.dim:
        raise ValueError(
            f"{following} has another width, {observed.dim} instead of {reference.dim}"
        )
    found = fit_regularization(
        explorer.given[layer],
        explorer.given[following],
        loss=explorer.loss,
        bias=explorer.bias,
        time_limit=_SECONDS,
    )
    return {name: getattr(found, name) for name in ("lambda_w", "lambda_h", "beta")}


def code(file: str, layer: str, setting: Setting, time: float) -> str:
    """Python and a command that give the same prediction."""
    values = ", ".join(f"{name}={value:.6g}" for name, value in setting.items())
    options = " ".join(f"--{name.replace('_', '-')} {v:.6g}" for name, v in setting.items())
    decays = ", ".join(f"{name}={setting[name]:.6g}" for name in ("lambda_w", "lambda_h"))
    return (
        f"import perturb_nc as pnc\n\n"
        f"layer = pnc.load_layers({file!r})[{layer!r}]\n"
        f"optimum = pnc.minimize(pnc.NearCollapseProblem(layer, {values}))\n"
        f"path = pnc.central_path_flow(layer, {decays}, times=[{time:.6g}])\n\n"
        f"# perturb-nc predict {shlex.quote(file)} {options}"
    )
