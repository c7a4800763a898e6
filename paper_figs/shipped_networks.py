"""Draw the errors of every shipped network from shipped_networks/result.json."""

import xarray as xr
from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, RESULTS, VERMILION, read, write

RESULT = RESULTS / "shipped_networks" / "result.json"
PANELS = {
    ("nc1_span", "nc1"): "NC1, placed by ÑC1 in the span",
    ("nc1", "nc1_trace"): "ÑC1, placed by NC1",
    ("nc1", "nc2_etf"): "NC2, placed by NC1",
}
STYLES = {
    "path": ("D", VERMILION),
    "shrinkage": ("s", GREY),
    "interpolation": ("^", GREEN),
    "unchanged": ("x", BLUE),
}


def draw(result: dict) -> Figure:
    """One row a network, one symbol a model; left is better."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for axis, ((metric, quantity), title) in zip(axes, PANELS.items(), strict=True):
        table = xr.DataArray.from_dict(result[metric]["errors"]).sel(quantity=quantity)
        names = [str(n).removeprefix("depth_calibration/") for n in table["network"].values]
        rows = range(len(names))
        for model, (marker, color) in STYLES.items():
            values = table.sel(model=model).values.astype(float)
            axis.plot(values, rows, marker, color=color, ms=5, label=model)
        axis.set_xscale("log")
        axis.set_xlim(1e-3, 5)
        axis.set_title(title, fontsize=10)
        axis.set_yticks(rows, names, fontsize=8)
        axis.grid(axis="y", color="0.92")
    axes[0].invert_yaxis()
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.supxlabel("median |log(predicted/measured)| on held-out layers", fontsize=9)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__, dpi=130)
