"""The words of the report: names, numbers, and the sentences that its numbers bear out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import xarray as xr

from perturb_nc.study.comparison import error_table

QUANTITIES = {
    "nc1_trace": ("ÑC1", "tr Σ_W / tr Σ_B"),
    "nc1_span": ("ÑC1 in the span", "tr PΣ_W / tr Σ_B, P onto the span of the centred class means"),
    "nc1": ("NC1", "tr(Σ_W Σ_B†) / K"),
    "cdnv": ("CDNV", "class-distance normalised variance, mean over pairs of classes"),
    "nc2_etf": ("NC2", "distance of the centred class means to a simplex frame"),
    "nc2_equinorm": ("NC2 norms", "spread of the norms of the class means over their mean"),
    "nc2_equiangular": ("NC2 angles", "mean of |cos + 1/(K-1)| over pairs of classes"),
    "within_share": ("within share", "tr Σ_W / (tr Σ_W + tr Σ_B)"),
    "top_eigenvalues": ("eigenvalues", "first five eigenvalues of Σ_W / tr Σ_B, median"),
}
THEORY = {"path": "the path", "pair": "the pair optimum"}
RIVALS = {
    "shrinkage": "shrinkage",
    "interpolation": "interpolation",
    "unchanged": "the unchanged previous layer",
}
MODELS = {
    "path": "the central path, each layer placed on it by one metric",
    "pair": "the optimum of (1) with the previous layer as H0, its parameters fitted or given",
    "shrinkage": "Σ_W of the first layer times one factor (naive)",
    "interpolation": "linear in the log of each metric between first and last layer (naive)",
    "unchanged": "the previous layer itself (naive)",
}


@dataclass(frozen=True)
class Contest:
    """How often a naive rival predicts a quantity better than a model of the theory.

    Attributes:
        model, rival, quantity: names of the comparison.
        lost: networks on which the rival's median error is the smaller one.
        networks: networks on which both have one.
        margin: largest excess of the model's median error over the rival's.
    """

    model: str
    rival: str
    quantity: str
    lost: int
    networks: int
    margin: float


def label(quantity: str) -> str:
    """Symbol of a quantity."""
    return QUANTITIES.get(quantity, (quantity, ""))[0]


def quantities_of(comparison: xr.Dataset) -> list[str]:
    """Those of a comparison, in the order of the report."""
    present = comparison["quantity"].values.tolist()
    return [quantity for quantity in QUANTITIES if quantity in present]


def number(value: float) -> str:
    """Three significant digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def judged_errors(comparisons: Sequence[xr.Dataset]) -> xr.DataArray:
    """`error_table`, NaN for the quantity that places a network's layers: it is no prediction."""
    table = error_table(comparisons)
    metrics = [comparison.attrs["metric"] for comparison in comparisons]
    placing = xr.DataArray(metrics, dims="network", coords={"network": table["network"]})
    return table.where(table["quantity"] != placing)


def contests(table: xr.DataArray) -> list[Contest]:
    """Every model of the theory against every rival, for each quantity both predict somewhere.

    Args:
        table: median errors (network, model, quantity), as `judged_errors` gives them.
    """
    found = []
    for model, quantity, rival in product(THEORY, table["quantity"].values.tolist(), RIVALS):
        both = table.sel(quantity=quantity, model=[model, rival]).dropna("network").values
        if len(both):
            excess = both[:, 0] - both[:, 1]
            lost, margin = int((excess > 0).sum()), float(excess.max())
            found.append(Contest(model, rival, quantity, lost, len(both), margin))
    return found


def where_it_loses(table: xr.DataArray) -> list[str]:
    """Sentences: for each model and quantity the rival that beats it most often; where none does.

    Args:
        table: median errors (network, model, quantity), as `judged_errors` gives them.
    """
    strongest: dict[tuple[str, str], Contest] = {}
    for contest in sorted(contests(table), key=lambda c: (c.lost, c.margin)):
        strongest[contest.model, contest.quantity] = contest
    sentences = []
    for model, name in THEORY.items():
        of_model = {q: strongest[model, q] for q in QUANTITIES if (model, q) in strongest}
        if not of_model:
            own = "; parameters fitted to the layers themselves do not count"
            why = own if model == "pair" else ""
            sentences.append(f"There is no held-out prediction of {name} to judge{why}.")
        alike: dict[tuple[int, int, str], list[str]] = {}  # quantities lost in the same way
        for quantity, c in of_model.items():
            rival = c.rival if c.lost else ""
            alike.setdefault((c.lost, c.networks, rival), []).append(label(quantity))
        for (lost, networks, rival), labels in sorted(alike.items(), reverse=True):
            sentences.append(_verdict(name, rival, labels, lost, networks))
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


def _verdict(model: str, rival: str, labels: Sequence[str], lost: int, networks: int) -> str:
    if not lost:
        where = f" on any of {networks} networks" if networks > 1 else ""
        return f"No naive rival predicts {_listed(labels, 'or')} better than {model}{where}."
    text = f"{RIVALS[rival]} predicts {_listed(labels, 'and')} better than {model}."
    return (
        f"On {lost} of {networks} networks {text}" if networks > 1 else text[0].upper() + text[1:]
    )


def change(name: str, layers: Sequence[str], values: Sequence[float]) -> str:
    """From the first to the last layer that has a value: "NC1 falls from 0.7 (a) to 0.3 (c)"."""
    known = [(x, value) for x, value in zip(layers, values, strict=True) if not math.isnan(value)]
    if not known:
        return f"{name} has no value"
    (first, start), (last, end) = known[0], known[-1]
    if start == end:
        where = first if first == last else f"{first} and {last}"
        return f"{name} is {number(start)} ({where})"
    verb = "falls" if end < start else "rises"
    return f"{name} {verb} from {number(start)} ({first}) to {number(end)} ({last})"


def _listed(words: Sequence[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
