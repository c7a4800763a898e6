"""Draw variance shares, the collapse line, weights against class means, and fixed top layers."""

import matplotlib
from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, RESULTS, VERMILION, read, write

RESULT = RESULTS / "feature_learning" / "result.json"
COLOURS = {"mnist": GREEN, "fashion_mnist": VERMILION, "cifar10": BLUE}
NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
PUBLISHED = {  # trained layers -> accuracy on train and test (Rangamani et al. 2023, width 1024)
    "mnist": {2: (0.785, 0.772), 7: (0.9996, 0.984)},
    "fashion_mnist": {2: (0.681, 0.636), 6: (0.9985, 0.898)},
}


def draw(result: dict) -> Figure:
    """Four panels."""
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    (shares, line), (reading, fixed) = figure.subplots(2, 2)
    _shares(shares, result["layers"][-1])
    for run in result["layers"]:
        colour, name = COLOURS[run["data"]], NAMES[run["data"]]
        kind = {"mlp": "MLP", "convnet": "ConvNet"}[run["kind"]]
        layers = list(run["final"].values())
        numbers = range(1, len(layers) + 1)
        values = [layer["cdnv"] for layer in layers]
        line.plot(numbers, values, "o-", color=colour, ms=4, label=f"{kind}, {name}")
        for key, style, label in (
            ("alignment", "o-", "alignment with the means read"),
            ("memory_cosine_in_span", "s--", "cosine with the memory, in their span"),
            ("memory_cosine", "^:", "cosine with the memory"),
        ):
            if not run["weights"]:
                continue
            values = [row[key] for row in run["weights"]]
            label = label if run is result["layers"][-1] else None
            reading.plot(numbers[1:], values, style, color=colour, ms=4, lw=1.2, label=label)
    for key, style in (
        ("alignment", "o-"),
        ("memory_cosine_in_span", "s--"),
        ("memory_cosine", "^:"),
    ):
        values = [row[key] for row in result["untrained"][-1]["weights"]]
        reading.plot(range(2, len(values) + 2), values, style, color=GREY, ms=3, lw=1)
    line.axhline(0.2, color=GREY, lw=1, ls=":")
    line.set_yscale("log")
    line.set_title("CDNV by layer, and the collapse line 0.2", fontsize=10)
    line.legend(frameon=False, fontsize=8)
    reading.set_ylim(0, 1.02)
    reading.set_title(
        r"MLP weights (grey: untrained), class means and $M_{l+1}M_l^\dagger$", fontsize=10
    )
    legend = reading.legend(frameon=False, fontsize=8)
    for handle in legend.legend_handles:
        handle.set_color("k")  # the colours are those of the panel above; grey: untrained
    _fixed(fixed, result["fixed"])
    for axis in (shares, line, reading):
        axis.set_xlabel("layer", fontsize=9)
    for axis in figure.axes:
        axis.tick_params(labelsize=8, which="both")
    return figure


def _shares(axis, run: dict) -> None:
    colours = matplotlib.colormaps["viridis"].resampled(len(run["epochs"]) + 1)
    for i, epoch in enumerate(run["epochs"]):
        values = [layer["within_share"] for layer in epoch["layers"].values()]
        first_or_last = i in (0, len(run["epochs"]) - 1)
        label = f"epoch {epoch['epoch']}" if first_or_last else None
        axis.plot(range(1, len(values) + 1), values, color=colours(i), lw=1.4, label=label)
    axis.set_title(
        rf"tr$\,\Sigma_W$/(tr$\,\Sigma_W$ + tr$\,\Sigma_B$), {NAMES[run['data']]}", fontsize=10
    )
    axis.legend(frameon=False, fontsize=8)


def _fixed(axis, rows: list[dict]) -> None:
    for name in dict.fromkeys(row["data"] for row in rows):
        of_name = [row for row in rows if row["data"] == name]
        counts = [row["trained_layers"] for row in of_name]
        for split, style in (("train", "o-"), ("test", "o--")):
            values = [row[f"{split}_accuracy"] for row in of_name]
            label = f"{split}, {NAMES[name]}"
            axis.plot(counts, values, style, color=COLOURS[name], ms=4.5, lw=1.3, label=label)
        published = PUBLISHED.get(name, {})
        for count, (train, test) in published.items():
            axis.plot(count, train, "*", color=COLOURS[name], ms=10)
            axis.plot(count, test, "*", color=COLOURS[name], ms=10, mfc="none")
    axis.plot([], [], "*", color="k", ms=9, label="published, width 1024")
    axis.set_title("accuracy, layers above fixed at frames", fontsize=10)
    axis.set_xlabel("trained layers", fontsize=9)
    axis.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
