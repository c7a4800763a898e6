"""Draw the collapse of every layer of several networks (Parker et al. 2023)."""

from matplotlib.figure import Figure
from style import OF_SET, RESULTS, SETS, ordered, read, write

RESULT = RESULTS / "intermediate_collapse" / "result.json"
LINES = {"relu": "o-", "tanh": "s--"}
ACTIVATIONS = {"relu": "ReLU", "tanh": "tanh"}


def draw(result: dict) -> Figure:
    """By layer at the end, one line a network; and by epoch, one line a layer, for the first."""
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    (trace, angles), (mean, epochs) = figure.subplots(2, 2)
    for run in result["summaries"]:
        name = f"{run['kind'].upper()}, {ACTIVATIONS[run['activation']]}, {SETS[run['data']]}"
        layers = range(1, len(run["nc1_trace"]) + 1)
        line = LINES[run["activation"]]
        style = {"color": OF_SET[run["data"]], "ms": 4, "lw": 1.4, "label": name}
        trace.plot(layers, run["nc1_trace"], line, **style)
        angles.plot(layers, run["nc2_equiangular"], line, **style)
        mean.plot(layers, run["ncc_train"], line, **style)
    trace.set_yscale("log")
    trace.set_ylabel(r"$\widetilde{\mathrm{NC1}}$ = tr$\,\Sigma_W/$tr$\,\Sigma_B$")
    angles.set_ylabel(r"NC2: mean $|\cos + 1/(K-1)|$")
    mean.set_ylabel("nearest-mean accuracy, training")
    trace.legend(frameon=False, fontsize=8)
    run = result["runs"][1 if len(result["runs"]) > 1 else 0]
    names = list(run["final"])
    colours = ordered(len(names))
    for i, name in enumerate(names):
        values = [epoch["layers"][name]["nc1_trace"] for epoch in run["epochs"]]
        numbers = [epoch["epoch"] for epoch in run["epochs"]]
        style = {"color": colours[i], "ms": 3.5, "lw": 1.3, "label": f"layer {i + 1}"}
        epochs.plot(numbers, values, "o-", **style)
    epochs.set_yscale("log")
    epochs.set_ylabel(r"$\widetilde{\mathrm{NC1}}$")
    epochs.set_title(f"{ACTIVATIONS[run['activation']]}, {SETS[run['data']]}", fontsize=10)
    epochs.set_ylim(top=3 * epochs.get_ylim()[1])  # room for the legend
    epochs.legend(frameon=False, fontsize=8, ncols=3, loc="upper left")
    epochs.set_xlabel("epoch")
    for axis in (trace, angles, mean):
        axis.set_xlabel("layer")
    figure.suptitle("MLP6, width 256, squared loss, one seed each", fontsize=10)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
