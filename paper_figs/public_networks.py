"""Draw the collapse of the networks that others trained, block by block, on training and test."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, NC1_TRACE, ORANGE, RESULTS, VERMILION, read, write

FOLDER = RESULTS / "public_networks"
TITLES = {
    "resnet56_cifar10": "ResNet-56",
    "resnet18_cifar10": "ResNet-18",
    "vgg16_cifar10": "VGG-16, batch norm",
    "cnn_cifar10": "Keras CNN",
    "cnn_mnist": "CNN, MNIST",
}


def collapse(axis: Axes, layers: list[dict]) -> None:
    """NC1 and ÑC1 with their intervals, and test collapse."""
    x = np.arange(len(layers))
    for metric, label, colour in (("nc1", "NC1", BLUE), ("nc1_trace", NC1_TRACE, VERMILION)):
        values = [layer["trained"][metric] for layer in layers]
        axis.plot(x, values, "o-", color=colour, ms=3.5, lw=1.2, label=label)
        bounds = np.array([layer["intervals"][metric] for layer in layers], float)
        axis.fill_between(x, *bounds.T, color=colour, alpha=0.25, lw=0)
    test = [layer["test_collapse"] for layer in layers]
    axis.plot(x, test, "s--", color=GREEN, ms=3, lw=1, label=f"{NC1_TRACE}, test about train means")
    axis.set_yscale("log")


def frame(axis: Axes, layers: list[dict]) -> None:
    """The frame of the class means, and nearest-mean errors."""
    x = np.arange(len(layers))
    nc2 = [layer["trained"]["nc2_etf"] for layer in layers]
    axis.plot(x, nc2, "o-", color=BLUE, ms=3.5, lw=1.2, label="NC2, distance to a simplex ETF")
    for split, style in (("trained", "-"), ("test", "--")):
        errors = [1 - layer["nearest_mean"][split] for layer in layers]
        axis.plot(x, errors, style, color=ORANGE, lw=1.2, label=f"nearest-mean error, {split}")
    axis.set_ylim(0)


def draw(results: dict[str, dict]) -> Figure:
    """A column for each network; a grey line where the width changes."""
    figure = Figure(figsize=(3.4 * len(results), 5.6), layout="constrained")
    axes = figure.subplots(2, len(results), squeeze=False, sharex="col")
    for column, (name, result) in zip(axes.T, results.items(), strict=True):
        layers, names = list(result["layers"].values()), list(result["layers"])
        collapse(column[0], layers)
        frame(column[1], layers)
        accuracy = result["accuracy"]
        column[0].set_title(
            f"{TITLES[name]}: {accuracy['trained']:.4f} / {accuracy['test']:.3f}", fontsize=9
        )
        step = max(1, len(names) // 9)
        column[1].set_xticks(
            range(0, len(names), step), names[::step], rotation=60, ha="right", fontsize=7
        )
        for stage in result["straightness"]:
            for axis in column:
                axis.axvline(names.index(stage.split(" to ")[0]) - 0.5, color=GREY, lw=0.6, ls=":")
    for row in axes:
        row[0].legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    found = {name: FOLDER / f"{name}.json" for name in TITLES}
    write(draw({name: read(path) for name, path in found.items() if path.is_file()}), __file__)
