"""The verdict on one network: how near collapse, what predicts best, what to distrust."""

import math
from collections.abc import Mapping

import xarray as xr

from perturb_nc.show.labels import LABELS, number, symbol
from perturb_nc.show.report.parts import Cell, Section, Sentences
from perturb_nc.show.report.words import (
    best_models,
    joined,
    of_pairs,
    where_it_loses,
)

_COLLAPSED = 0.2  # CDNV below which a layer counts as collapsed: Galanti et al. 2022
_FEW = 3  # judged layers below which a median says little
_UNSURE = 0.5  # standard error of a log, above which a parameter is hardly determined


def section(comparison: xr.Dataset, errors: xr.DataArray) -> Section:
    """Three lists of sentences that the numbers bear out.

    Args:
        comparison: of one network.
        errors: of that network (model, quantity), with `judged` and `layers`.
    """
    parts = [
        Sentences("How near collapse", how_near(comparison)),
        Sentences("Which prediction is best", which_is_best(errors)),
        Sentences("What to distrust", what_to_distrust(comparison, errors)),
    ]
    return Section("verdict", "In short", parts)


def how_near(comparison: xr.Dataset) -> list[str]:
    """The last layer's metrics, and from which layer on classes are apart."""
    names = comparison["layer"].values.tolist()
    last = comparison["measured"].isel(layer=-1)
    found = {q: float(last.sel(quantity=q)) for q in ("nc1", "nc1_trace", "cdnv")}
    known = [f"{symbol(q)} {number(v)}" for q, v in found.items() if not math.isnan(v)]
    said = [f"{names[-1]}, the last layer: {joined(known)}; 0 is collapse."] if known else []
    if (ratio := found["nc1_trace"]) == ratio:
        said.append(
            f"There the variance within classes is {_share(ratio)} that of the class means "
            f"({symbol('nc1_trace')} = {LABELS['nc1_trace'].meaning})."
        )
    cdnv = comparison["measured"].sel(quantity="cdnv").values
    below = [name for name, value in zip(names, cdnv, strict=True) if value < _COLLAPSED]
    if below:
        said.append(
            f"CDNV is below {_COLLAPSED}, where a layer counts as collapsed, at {len(below)} of "
            f"{len(names)} layers, first at {below[0]}."
        )
    elif not all(map(math.isnan, cdnv)):
        said.append(f"No layer has CDNV below {_COLLAPSED}, where it would count as collapsed.")
    return said


def which_is_best(errors: xr.DataArray) -> list[str]:
    """The best models of every quantity, those within a tenth of the least error together."""
    judged, layers = int(errors["judged"]), int(errors["layers"])
    if judged == 0:
        return ["No layer is predicted by the path and all rivals: none can be judged."]
    if judged == 1:
        return ["One layer can be judged: too few to call any prediction the best."]
    alike: dict[tuple[str, ...], dict[str, float]] = {}
    for quantity in errors["quantity"].values.tolist():
        row = errors.sel(quantity=quantity)
        if best := best_models(row):
            least = float(row.sel(model=list(best)).min())
            alike.setdefault(best, {})[symbol(quantity)] = least
    said = [
        f"{joined(list(found))}: {_models(best)}, median error {_range(found)}."
        for best, found in sorted(alike.items(), key=lambda item: -len(item[1]))
    ]
    return [*said, f"Judged at {judged} of {layers} held-out layers; an error of 0.1 is 10 %."]


def what_to_distrust(comparison: xr.Dataset, errors: xr.DataArray) -> list[str]:
    """Where the theory loses, and what the numbers do not bear out."""
    table = errors.expand_dims("network")
    judged = int(errors["judged"])
    said = where_it_loses(table) if judged > 1 else []
    if 1 < judged < _FEW:
        said.append(f"Medians over {judged} layers say little.")
    metric = symbol(str(comparison.attrs["metric"]))
    said.append(f"{metric} of the path is no prediction: the layers are placed by it.")
    said += [*_of_the_path(comparison), *of_pairs(comparison), *_of_parameters(comparison)]
    if note := str(comparison.attrs.get("sampling", "")):
        said.append(f"Finite sample: {note}.")
    return said


def headline(comparison: xr.Dataset, errors: xr.DataArray) -> list[Cell]:
    """One row of the overview: how near, and what predicts NC1 best."""
    names = comparison["layer"].values
    last = comparison["measured"].isel(layer=-1)
    cells = [Cell(str(len(names)), len(names))]
    for quantity in ("nc1_trace", "nc1", "cdnv"):
        value = float(last.sel(quantity=quantity))
        known = value == value
        cells.append(Cell(number(value), value if known else "", "" if known else "not defined"))
    judged = int(errors["judged"])
    cells.append(Cell(f"{judged} of {int(errors['layers'])}", judged))
    best = best_models(errors.sel(quantity="nc1")) if judged > 1 else ()
    why = "" if best else "fewer than two layers can be judged"
    return [*cells, Cell(", ".join(best) or "–", ", ".join(best), why)]


def _of_the_path(comparison: xr.Dataset) -> list[str]:
    said = []
    count = comparison.sizes["layer"]
    why = comparison["reason"].sel(model="path").values.tolist()
    lost = [name for name, r in zip(comparison["layer"].values, why, strict=True) if "come by" in r]
    if lost:
        said.append(f"The path does not come by {len(lost)} of {count} layers.")
    if "path_status" in comparison:
        odd = set(comparison["path_status"].values.tolist()) - {"", "converged"}
        if odd:
            states = joined(sorted(s.replace("_", " ") for s in odd))
            said.append(f"The fit of the path's λ_W did not converge ({states}).")
    return said


def _of_parameters(comparison: xr.Dataset) -> list[str]:
    fitted = comparison["residual"].notnull() & (comparison["fit_status"] != "given")
    fitted &= comparison["fit_status"] != "transferred"
    count = int(fitted.sum())
    if not count:
        return []
    error = comparison["standard_error"].where(fitted)
    unsure = ((error > _UNSURE) | error.isnull()).where(fitted, False)
    said = ["The pair's λ_W, λ_H and β are fitted to the layers that they describe."]
    loose = [
        f"{symbol(name)} at {int(unsure.sel(parameter=name).sum())}"
        for name in comparison["parameter"].values.tolist()
        if unsure.sel(parameter=name).any()
    ]
    if loose:
        said.append(f"Hardly determined by its {count} pairs: {joined(loose)}.")
    return said


def _models(best: tuple[str, ...]) -> str:
    return best[0] if len(best) == 1 else f"{joined(list(best))} (within a tenth)"


def _range(found: Mapping[str, float]) -> str:
    low, high = number(min(found.values()), 2), number(max(found.values()), 2)
    return low if low == high else f"{low} to {high}"


def _share(ratio: float) -> str:
    return f"{number(100 * ratio, 2)} % of" if ratio < 1 else f"{number(ratio, 2)} times"
