"""Draw NC1, ÑC1 and NC2 of every layer of four architectures on two data sets."""

from matplotlib.figure import Figure
from style import GREEN, NC1_TRACE, PURPLE, RESULTS, SETS, SKY, VERMILION, read, write

RESULT = RESULTS / "every_layer" / "result.json"
PANELS = {"nc1": "NC1", "nc1_trace": NC1_TRACE, "nc2_etf": "NC2"}
STYLES = {
    "mlp": (SKY, "o", "10-layer MLP"),
    "residual_mlp": (GREEN, "s", "residual MLP"),
    "convnet": (VERMILION, "^", "ConvNet"),
    "resnet18": (PURPLE, "D", "ResNet-18, narrow"),
}


def draw(result: dict) -> Figure:
    """A row for each data set, a column for each metric."""
    sets = list(dict.fromkeys(run["data"] for run in result["runs"]))
    figure = Figure(figsize=(10.5, 3.0 * len(sets)), layout="constrained")
    grid = figure.subplots(len(sets), 3, squeeze=False)
    for row, name in zip(grid, sets, strict=True):
        for axis, (metric, title) in zip(row, PANELS.items(), strict=True):
            for run in (r for r in result["runs"] if r["data"] == name):
                colour, mark, label = STYLES[run["kind"]]
                values = [layer[metric] for layer in run["final"].values()]
                depths = [i / (len(values) - 1) for i in range(len(values))]
                axis.plot(depths, values, color=colour, marker=mark, ms=4, lw=1.4, label=label)
            axis.set_title(SETS[name], fontsize=9.5)
            axis.set_ylabel(title, fontsize=9.5)
            if metric != "nc2_etf":
                axis.set_yscale("log")
    for axis in grid[-1]:
        axis.set_xlabel("depth (first layer 0, last 1)", fontsize=9)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(),
        loc="outside upper center", ncols=4, frameon=False, fontsize=9,
        title="squared loss, all training images, one seed", title_fontsize=9,
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
