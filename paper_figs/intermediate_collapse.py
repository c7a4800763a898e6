"""Draw the collapse of every layer of several networks (Parker et al. 2023)."""

import matplotlib
from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, ORANGE, PURPLE, RESULTS, VERMILION, read, write

RESULT = RESULTS / "intermediate_collapse" / "result.json"
COLOURS = [GREEN, VERMILION, BLUE, ORANGE, PURPLE, GREY]
NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "digits": "digits",
}


def draw(result: dict) -> Figure:
    """By layer at the end, one line a network; and by epoch, one line a layer, for the first."""
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    (trace, angles), (mean, epochs) = figure.subplots(2, 2)
    for i, run in enumerate(result["summaries"]):
        name = f"{run['kind'].upper()}, {run['activation']}, {NAMES[run['data']]}"
        layers = range(1, len(run["nc1_trace"]) + 1)
        style = {"color": COLOURS[i % len(COLOURS)], "ms": 4, "lw": 1.4, "label": name}
        trace.plot(layers, run["nc1_trace"], "o-", **style)
        angles.plot(layers, run["nc2_equiangular"], "o-", **style)
        mean.plot(layers, run["ncc_train"], "o-", **style)
    trace.set_yscale("log")
    trace.set_title(r"$\widetilde{\mathrm{NC1}}$ = tr$\,\Sigma_W/$tr$\,\Sigma_B$", fontsize=10)
    angles.set_title(r"NC2: mean $|\cos + 1/(K-1)|$", fontsize=10)
    mean.set_title("accuracy of the nearest class mean, training set", fontsize=10)
    trace.legend(frameon=False, fontsize=8)
    run = result["runs"][1 if len(result["runs"]) > 1 else 0]
    names = list(run["final"])
    colours = matplotlib.colormaps["viridis"].resampled(len(names) + 1)
    for i, name in enumerate(names):
        values = [epoch["layers"][name]["nc1_trace"] for epoch in run["epochs"]]
        numbers = [epoch["epoch"] for epoch in run["epochs"]]
        epochs.plot(numbers, values, "o-", color=colours(i), ms=3.5, lw=1.3, label=f"layer {i + 1}")
    epochs.set_yscale("log")
    epochs.set_title(
        rf"$\widetilde{{\mathrm{{NC1}}}}$ by epoch: {run['activation']}, {NAMES[run['data']]}",
        fontsize=10,
    )
    epochs.set_ylim(top=3 * epochs.get_ylim()[1])  # room for the legend
    epochs.legend(frameon=False, fontsize=8, ncols=3, loc="upper left")
    epochs.set_xlabel("epoch")
    for axis in (trace, angles, mean):
        axis.set_xlabel("layer")
    for axis in figure.axes:
        axis.tick_params(labelsize=8, which="both")
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
