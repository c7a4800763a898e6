"""Draw NC1, ÑC1 and NC2 per epoch for five pairs of weight decays (Tirer et al. 2023, Figure 3)."""

import json
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULT = HERE.parent / "experiments" / "results" / "weight_decay" / "result.json"
OUTPUT = HERE / "weight_decay.png"
PANELS = {"nc1": "NC1", "nc1_trace": r"$\widetilde{\mathrm{NC1}}$", "nc2_etf": "NC2"}
STYLES = {
    "baseline": ("k", "-", "baseline"),
    "last layer x2": ("#2a7fb8", "-", "last layer ×2"),
    "last layer 0": ("#2a7fb8", "--", "last layer 0"),
    "features x2": ("#d1495b", "-", "feature layers ×2"),
    "features 0": ("#d1495b", "--", "feature layers 0"),
}
LOSSES = {"mse": "squared loss, no bias", "cross_entropy": "cross-entropy, bias"}


def draw(result: dict) -> Figure:
    """A row for each loss, a column for each metric."""
    losses = [name for name in LOSSES if any(run["loss"] == name for run in result["runs"])]
    figure = Figure(figsize=(10.5, 3.0 * len(losses)), layout="constrained")
    grid = figure.subplots(len(losses), 3, squeeze=False, sharex=True)
    for row, loss in zip(grid, losses, strict=True):
        for axis, (metric, title) in zip(row, PANELS.items(), strict=True):
            for run in (r for r in result["runs"] if r["loss"] == loss):
                colour, style, label = STYLES[run["decay"]]
                epochs = [e["epoch"] for e in run["epochs"]]
                values = [e["layers"][run["layer"]][metric] for e in run["epochs"]]
                axis.plot(epochs, values, style, color=colour, lw=1.5, label=label)
            axis.set_title(f"{title}: {LOSSES[loss]}", fontsize=9.5)
            if metric != "nc2_etf":
                axis.set_yscale("log")
            axis.tick_params(labelsize=8, which="both")
            axis.spines[["top", "right"]].set_visible(False)
    for axis in grid[-1]:
        axis.set_xlabel("epoch", fontsize=9)
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    draw(json.loads(RESULT.read_text(encoding="utf8"))).savefig(OUTPUT, dpi=150)
    print(f"wrote {OUTPUT}")
