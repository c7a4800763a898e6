"""What every table, figure and page calls a quantity, and how it draws a side: the one list.

The colours are those of Okabe & Ito, which colour-blind readers tell apart, each darkened or
lightened until it is legible on the ground it stands on.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """How a quantity is written.

    Attributes:
        symbol: in tables and legends.
        meaning: its definition, in a line.
        title: of an axis, in the mathematics of matplotlib.
    """

    symbol: str
    meaning: str
    title: str

    @property
    def line(self) -> str:
        """Symbol and meaning."""
        return f"{self.symbol}: {self.meaning}"


LABELS = {
    "nc1_trace": Label(
        "ÑC1",
        "tr Σ_W / tr Σ_B",
        r"$\widetilde{\mathrm{NC1}} = \mathrm{tr}\,\Sigma_W / \mathrm{tr}\,\Sigma_B$",
    ),
    "nc1_span": Label(
        "ÑC1 in the span",
        "tr PΣ_W / tr Σ_B, P: span of class means",
        r"$\widetilde{\mathrm{NC1}}$ in the span of the means",
    ),
    "nc1": Label(
        "NC1",
        "tr(Σ_W Σ_B†) / K",
        r"$\mathrm{NC1} = \mathrm{tr}(\Sigma_W \Sigma_B^\dagger) / K$",
    ),
    "cdnv": Label(
        "CDNV",
        "class-distance normalised variance",
        "CDNV: class-distance normalised variance",
    ),
    "directional_cdnv": Label(
        "directional CDNV",
        "uᵀΣ_Wu / distance², u from one class mean to the other, mean over pairs",
        "directional CDNV",
    ),
    "nc1_parker": Label(
        "D",
        "separability tr(Σ_W Σ_B†) = K · NC1",
        r"$D = \mathrm{tr}(\Sigma_W \Sigma_B^\dagger)$",
    ),
    "discrimination": Label(
        "discrimination",
        "1 - largest cosine of two class means",
        r"$1 - \max\,\cos(\mu_k, \mu_l)$",
    ),
    "nc2_uniformity": Label(
        "NC2 uniformity",
        "variance over pairs of log 1/distance of the directions of class means",
        r"NC2: variance of $\log 1/\|\hat\mu_k - \hat\mu_l\|$",
    ),
    "nc3_uniformity": Label(
        "NC3 uniformity",
        "variance over classes of the cosine of weight and class mean",
        r"NC3: variance of $\cos(w_k, \mu_k - \mu_G)$",
    ),
    "nc2_etf": Label(
        "NC2", "distance of class means to a simplex ETF", "NC2: distance to a simplex ETF"
    ),
    "nc2_equinorm": Label(
        "NC2 norms",
        "spread of the norms of the class means over their mean",
        "NC2: std / mean of the norms",
    ),
    "nc2_equiangular": Label(
        "NC2 angles",
        "mean of |cos + 1/(K-1)| over pairs of classes",
        r"NC2: mean $|\cos + 1/(K-1)|$",
    ),
    "within_share": Label(
        "within share",
        "tr Σ_W / (tr Σ_W + tr Σ_B)",
        r"$\mathrm{tr}\,\Sigma_W / (\mathrm{tr}\,\Sigma_W + \mathrm{tr}\,\Sigma_B)$",
    ),
    "nc3_duality": Label(
        "NC3", "distance of the weight to the class means", "NC3: distance of weight and means"
    ),
    "span_eigenvalues": Label(
        "eigenvalues in the span",
        "first five eigenvalues of PΣ_WP / tr Σ_B, P: span of class means, median",
        r"eigenvalues of $P\Sigma_W P / \mathrm{tr}\,\Sigma_B$",
    ),
    "top_eigenvalues": Label(
        "eigenvalues",
        "first five eigenvalues of Σ_W / tr Σ_B, median",
        r"eigenvalues of $\Sigma_W / \mathrm{tr}\,\Sigma_B$",
    ),
    "scaled_within_trace": Label(
        "e^(2λ_H t) tr Σ_W",
        "within-class variance without the decay of features",
        r"$e^{2\lambda_H t}\,\mathrm{tr}\,\Sigma_W$",
    ),
    "scaled_between_trace": Label(
        "e^(2λ_H t) tr Σ_B",
        "between-class variance without the decay of features",
        r"$e^{2\lambda_H t}\,\mathrm{tr}\,\Sigma_B$",
    ),
    "flow_time": Label("t", "flow time of a layer on the path", "flow time t of the layers"),
    "lambda_w": Label("λ_W", "weight of |W|²/(2K)", r"$\lambda_W$"),
    "lambda_h": Label("λ_H", "weight of |H|²/(2N)", r"$\lambda_H$"),
    "beta": Label("β", "weight of |H - H0|²/(2N)", r"$\beta$"),
}


@dataclass(frozen=True)
class Side:
    """How measurements, or the predictions of one model, are drawn.

    Attributes:
        light, dark: colour on a light and on a dark ground.
        both: legible on either.
        marker, line: of matplotlib.
        symbol, dash: of plotly.
    """

    light: str
    dark: str
    both: str
    marker: str
    line: str
    symbol: str
    dash: str


SIDES = {
    "measured": Side("#1b1f24", "#f2f4f6", "#7d8894", "o", "-", "circle", "solid"),
    "path": Side("#0072b2", "#56b4e9", "#2a8fd0", "v", "-", "diamond", "dash"),
    "pair": Side("#d55e00", "#f28e4b", "#e0701c", "D", "-", "square", "dashdot"),
    "shrinkage": Side("#00795a", "#35c59c", "#0f9e78", "s", "--", "triangle-up", "dot"),
    "interpolation": Side("#b0578d", "#e59ac6", "#c973a5", "^", ":", "triangle-down", "longdash"),
    "unchanged": Side("#757575", "#a9a9a9", "#8c8c8c", "x", "-.", "x", "longdashdot"),
}
SIDES["optimum"] = SIDES["pair"]  # of (1): with chosen parameters rather than fitted ones

# The theories of depth on the bench, and the naive rivals among them.
THEORIES = {
    "measured": SIDES["measured"],
    "central_path": SIDES["path"],
    "chain": SIDES["pair"],
    "chain_decay": Side("#d55e00", "#f28e4b", "#e0701c", "X", "--", "x", "dash"),
    "chain_placed": Side("#d55e00", "#f28e4b", "#e0701c", "8", ":", "octagon", "dot"),
    "straight_line": Side("#8a6d00", "#f0d060", "#b08c10", "<", "-", "triangle-left", "solid"),
    "straight_line_displacement": Side(
        "#8a6d00", "#f0d060", "#b08c10", ">", "--", "triangle-right", "dash"
    ),
    "straight_line_placed": Side("#8a6d00", "#f0d060", "#b08c10", "p", ":", "pentagon", "dot"),
    "equi_separation": Side("#00795a", "#35c59c", "#0f9e78", "P", "-", "cross", "solid"),
    "load_curve": Side("#00795a", "#35c59c", "#0f9e78", "*", "--", "star", "dash"),
    "deep_linear": Side("#00795a", "#35c59c", "#0f9e78", "h", ":", "hexagon", "dot"),
    "shrinkage": Side("#757575", "#a9a9a9", "#8c8c8c", "s", "--", "triangle-up", "dot"),
    "interpolation": SIDES["interpolation"],
    "local": Side("#b0578d", "#e59ac6", "#c973a5", "d", "--", "diamond-tall", "dash"),
    "unchanged": SIDES["unchanged"],
}


def symbol(quantity: str) -> str:
    """How a quantity is written in tables; its own name where no symbol is known."""
    return LABELS[quantity].symbol if quantity in LABELS else quantity


def number(value: float, digits: int = 3) -> str:
    """So many significant digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}g}"


def short_names(names: Sequence[str], most: int = 20) -> list[str]:
    """Names that fit where there is little room, no two the same; whole where that fails.

    Long ones lose the parts, between dots, that all begin or end with; then all but their end.
    """
    if len(names) < 2 or all(len(name) <= most for name in names):
        kept = list(names)
    else:
        parts = [name.split(".") for name in names]
        first, last = _alike(parts), _alike([part[::-1] for part in parts])
        if first and any(part[first][:1].isdigit() for part in parts):
            first -= 1  # "blocks.3" rather than "3"
        kept = [".".join(part[first : max(first + 1, len(part) - last)]) for part in parts]
    for room in (most, 2 * most):
        short = [name if len(name) <= room else "…" + name[1 - room :] for name in kept]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def _alike(parts: Sequence[Sequence[str]]) -> int:
    """How many parts all begin with, but for one of each."""
    count = 0
    while all(len(p) > count + 1 for p in parts) and len({p[count] for p in parts}) == 1:
        count += 1
    return count


def literal(text: str) -> str:
    """A name as text of a matplotlib figure, where dollars would enclose mathematics.

    One that would leave no room for the figure keeps its end.
    """
    short = text if len(text) <= _LONGEST else "…" + text[1 - _LONGEST :]
    return short.replace("$", r"\$")


_LONGEST = 40


def printable(text: str) -> str:
    """A name for the terminal: what would command it, or end or turn its lines, as escapes."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


_COMMANDS = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]"
)
