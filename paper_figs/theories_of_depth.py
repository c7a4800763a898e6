"""Draw the errors of every theory of depth from what theories_of_depth has committed."""

import sys

import numpy as np
from matplotlib.figure import Figure
from style import BLUE, GREY, NC1_TRACE, ROOT, VERMILION, write

sys.path.insert(0, str(ROOT))
from experiments.theories_of_depth import FOLDER, kind_of, placed
from perturb_nc.study import bench_table

PANELS = {
    "nc1": "NC1 (in the span)",
    "directional_cdnv": "directional CDNV (in the span)",
    "nc2_etf": "NC2 (in the span)",
    "nc1_trace": NC1_TRACE,
}
COLORS = {
    "residual, squared loss": VERMILION,
    "residual, cross-entropy": BLUE,
    "not residual": GREY,
}


def draw(benches: list) -> Figure:
    """One row a theory, one point a network, a bar at the median; left is better."""
    error = bench_table(benches)["error"]
    # Without those that have been run on none of these networks.
    theories = [m for m in error["model"].values.tolist() if error.sel(model=m).notnull().any()]
    kinds = np.array([kind_of(str(n)) for n in error["network"].values])
    figure = Figure(figsize=(14, 5.5), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for axis, (quantity, title) in zip(axes, PANELS.items(), strict=True):
        for row, theory in enumerate(theories):
            values = error.sel(quantity=quantity, model=theory).values.astype(float)
            for shift, (kind, color) in zip((-0.22, 0.0, 0.22), COLORS.items(), strict=True):
                own = values[kinds == kind]
                axis.plot(own, np.full(len(own), row + shift), "o", color=color, ms=4, alpha=0.6)
                if np.isfinite(own).any():
                    axis.plot(np.nanmedian(own), row + shift, "|", color=color, ms=13, mew=2.5)
        axis.set_xscale("log")
        axis.set_xlim(1e-3, 5)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("|log(predicted/measured)|", fontsize=9)
        axis.set_yticks(range(len(theories)), [n.replace("_", " ") for n in theories], fontsize=9)
        axis.grid(axis="y", color="0.92")
    axes[0].invert_yaxis()
    counts = {kind: int((kinds == kind).sum()) for kind in COLORS}
    handles = [
        axes[0].plot([], [], "o", color=c, label=f"{k} ({counts[k]} networks)")[0]
        for k, c in COLORS.items()
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9,
        title="points: median over the layers left out of one network; bars: over networks; "
        "none where a theory says nothing or was not run",
        title_fontsize=9,
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    write(draw(placed(FOLDER, "nc1_span")[0]), __file__)
