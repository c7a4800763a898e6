"""The words of the report: names, numbers, and the sentences that its numbers bear out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import xarray as xr

from perturb_nc.show.labels import number, symbol
from perturb_nc.study.comparison import error_table
from perturb_nc.study.quantities import JUDGED

THEORY = {"path": "the path", "pair": "the pair optimum"}
RIVALS = {
    "shrinkage": "shrinkage",
    "interpolation": "interpolation",
    "unchanged": "the unchanged previous layer",
}
MODELS = {
    "path": "the central path, each layer placed on it by one metric",
    "pair": "the optimum with the previous layer as H0, its parameters fitted or given",
    "shrinkage": "Σ_W of the first layer times one factor (naive)",
    "interpolation": "linear in the log of each metric between first and last layer (naive)",
    "unchanged": "the previous layer itself (naive)",
}


@dataclass(frozen=True)
class Standing:
    """A model of the theory against its naive rivals, in one quantity.

    Attributes:
        networks: on which the model and a rival have a median error.
        lost: of these, on which a rival's is the smaller one.
        rival: that which beats the model on most networks; of several the one with most margin.
        lost_to_rival: networks on which that one does.
    """

    networks: int
    lost: int
    rival: str
    lost_to_rival: int


NEAR = 0.1
"""Of the least error: models within it share the first place."""


def best_models(row: xr.DataArray) -> tuple[str, ...]:
    """Models within a tenth of the least error, where at least two have one."""
    known = {str(m): float(v) for m, v in zip(row["model"].values, row.values, strict=True)}
    known = {model: value for model, value in known.items() if not math.isnan(value)}
    if len(known) < 2:
        return ()
    return tuple(m for m, value in known.items() if value <= (1 + NEAR) * min(known.values()))


def quantities_of(comparison: xr.Dataset) -> list[str]:
    """Those of a comparison, in the order of the report."""
    present = comparison["quantity"].values.tolist()
    return [quantity for quantity in JUDGED if quantity in present]


def judged_errors(comparisons: Sequence[xr.Dataset]) -> xr.DataArray:
    """`error_table`, NaN for the quantity that places a network's layers: it is no prediction."""
    table = error_table(comparisons)
    metrics = [comparison.attrs["metric"] for comparison in comparisons]
    placing = xr.DataArray(metrics, dims="network", coords={"network": table["network"]})
    return table.where(table["quantity"] != placing)


def standing(table: xr.DataArray, model: str, quantity: str) -> Standing:
    """Count the networks on which rivals predict a quantity better than a model of the theory.

    Args:
        table: median errors (network, model, quantity), as `judged_errors` gives them.
        model: "path" or "pair".
        quantity: of the table.
    """
    errors = table.sel(quantity=quantity)
    excess = errors.sel(model=model, drop=True) - errors.sel(model=list(RIVALS))
    counts = {r: int((excess.sel(model=r) > 0).sum()) for r in RIVALS}
    margins = {r: float(excess.sel(model=r).fillna(-math.inf).max()) for r in RIVALS}
    rival = max(RIVALS, key=lambda r: (counts[r], margins[r]))
    return Standing(
        networks=int(excess.notnull().any("model").sum()),
        lost=int((excess > 0).any("model").sum()),
        rival=rival,
        lost_to_rival=counts[rival],
    )


def where_it_loses(table: xr.DataArray) -> list[str]:
    """Sentences: on how many networks naive rivals predict better than the theory, and which.

    Args:
        table: median errors (network, model, quantity), as `judged_errors` gives them.
    """
    sentences = []
    present = table["quantity"].values.tolist()
    for model, name in THEORY.items():
        alike: dict[Standing, list[str]] = {}  # quantities that stand the same
        for quantity in [q for q in JUDGED if q in present]:
            found = standing(table, model, quantity)
            if found.networks:
                key = found if found.lost else replace(found, rival="")
                alike.setdefault(key, []).append(symbol(quantity))
        if not alike:
            own = "; parameters fitted to the layers themselves do not count"
            why = own if model == "pair" else ""
            sentences.append(f"There is no held-out prediction of {name} to judge{why}.")
        worst_first = sorted(alike.items(), key=lambda item: -item[0].lost)
        sentences += [_verdict(name, found, labels) for found, labels in worst_first]
    return sentences


def of_pairs(comparison: xr.Dataset) -> list[str]:
    """Sentences: the misfit that the pair optimum leaves, and how often it is proved."""
    known = comparison.where(comparison["residual"].notnull(), drop=True)
    count = known.sizes["layer"]
    if count == 0:
        return []
    left = known["residual"] / known["unchanged_residual"]
    worse, proved = int((left >= 1).sum()), int((known["spectral_ratio"] <= 1).sum())
    pairs = "pair of layers" if count == 1 else "pairs of layers"
    return [
        f"The misfit of the optimum is {float(left.median()):.0%} of that of the layer before "
        f"(median of {count} {pairs}); at {worse} of {count} it is not the smaller one.",
        f"It is proved to be the global optimum (r at most 1) at {proved} of {count} {pairs}.",
    ]


def _verdict(model: str, found: Standing, labels: Sequence[str]) -> str:
    networks = found.networks
    if not found.lost:
        where = f" on any of {networks} networks" if networks > 1 else ""
        return f"No naive rival predicts {joined(labels, 'or')} better than {model}{where}."
    rival = RIVALS[found.rival]
    predicts = f"predicts {joined(labels)} better than {model}"
    if networks == 1:
        return f"{rival[0].upper()}{rival[1:]} {predicts}."
    on = f"On {found.lost} of {networks} networks"
    if found.lost == found.lost_to_rival:
        return f"{on} {rival} {predicts}."
    return f"{on} a naive rival {predicts} ({rival} on {found.lost_to_rival})."


def change(name: str, layers: Sequence[str], values: Sequence[float]) -> str:
    """From the first to the last layer that has a value: "NC1 falls from 0.7 (a) to 0.3 (c)"."""
    known = [(x, value) for x, value in zip(layers, values, strict=True) if not math.isnan(value)]
    if not known:
        return f"{name} has no value to draw"
    (first, start), (last, end) = known[0], known[-1]
    if start == end:
        where = first if first == last else f"{first} and {last}"
        return f"{name} is {number(start)} ({where})"
    verb = "falls" if end < start else "rises"
    return f"{name} {verb} from {number(start)} ({first}) to {number(end)} ({last})"


def joined(words: Sequence[str], last: str = "and") -> str:
    """ "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
