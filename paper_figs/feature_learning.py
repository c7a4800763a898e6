"""Draw variance shares, the collapse line, weights against class means, and fixed top layers."""

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from style import GREY, OF_SET, RESULTS, SETS, ordered, read, write

RESULT = RESULTS / "feature_learning" / "result.json"
KINDS = {"mlp": "MLP", "convnet": "ConvNet"}
MARKS = {"mlp": "o", "convnet": "^"}
READINGS = {
    "alignment": ("o-", "cosine with the class means it reads"),
    "memory_cosine_in_span": ("s--", r"with $M_{l+1}M_l^\dagger$, in the span of the means"),
    "memory_cosine": ("^:", r"with $M_{l+1}M_l^\dagger$"),
}
PUBLISHED = {  # trained layers -> accuracy on train and test (Rangamani et al. 2023, width 1024)
    "mnist": {2: (0.785, 0.772), 7: (0.9996, 0.984)},
    "fashion_mnist": {2: (0.681, 0.636), 6: (0.9985, 0.898)},
}


def draw(result: dict) -> Figure:
    """Four panels."""
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    (shares, line), (reading, fixed) = figure.subplots(2, 2)
    _shares(shares, result["layers"][-1])
    _line(line, result["layers"])
    _reading(reading, result)
    _fixed(fixed, result["fixed"])
    for axis in (shares, line, reading):
        axis.set_xlabel("layer", fontsize=9)
        axis.set_xticks(range(1, 11))
    return figure


def _shares(axis: Axes, run: dict) -> None:
    epochs = run["epochs"]
    colours = ordered(len(epochs))
    for colour, epoch in zip(colours, epochs, strict=True):
        values = [layer["within_share"] for layer in epoch["layers"].values()]
        axis.plot(range(1, len(values) + 1), values, color=colour, lw=1.4)
    last = epochs[-1]["epoch"]
    scale = BoundaryNorm([e["epoch"] - 0.5 for e in epochs] + [last + 0.5], len(epochs))
    shown = ScalarMappable(scale, ListedColormap(colours))
    bar = axis.figure.colorbar(shown, ax=axis, pad=0.01, ticks=[1, last // 2, last])
    bar.set_label("epoch", fontsize=9)
    bar.ax.tick_params(labelsize=8, length=0)
    bar.ax.minorticks_off()
    axis.set_ylabel(r"tr$\,\Sigma_W$ / (tr$\,\Sigma_W$ + tr$\,\Sigma_B$)", fontsize=9)
    axis.set_title(f"variability within classes: MLP, {SETS[run['data']]}, one seed", fontsize=10)


def _line(axis: Axes, runs: list[dict]) -> None:
    for run in runs:
        values = [layer["cdnv"] for layer in run["final"].values()]
        style = {"color": OF_SET[run["data"]], "marker": MARKS[run["kind"]], "ms": 4}
        label = f"{KINDS[run['kind']]}, {SETS[run['data']]}"
        axis.plot(range(1, len(values) + 1), values, **style, label=label)
    axis.axhline(0.2, color=GREY, lw=1, ls=":", label="collapse line, 0.2")
    axis.set_yscale("log")
    axis.set_ylabel("CDNV", fontsize=9)
    axis.set_title("distance from collapse at the end, one seed each", fontsize=10)
    axis.legend(frameon=False, fontsize=8)


def _reading(axis: Axes, result: dict) -> None:
    runs = [(run, OF_SET[run["data"]]) for run in result["layers"] if run["weights"]]
    runs += [(run, GREY) for run in result["untrained"][-1:]]
    for run, colour in runs:
        for key, (style, _) in READINGS.items():
            values = [row[key] for row in run["weights"]]
            axis.plot(range(2, len(values) + 2), values, style, color=colour, ms=4, lw=1.2)
    handles = [Line2D([], [], color=colour, lw=4, label=SETS[run["data"]]) for run, colour in runs]
    handles[-1].set_label(f"untrained, {SETS[runs[-1][0]['data']]}")
    for style, label in READINGS.values():
        look = {"marker": style[0], "ls": style[1:], "ms": 4, "lw": 1.2}
        handles.append(Line2D([], [], color="black", **look, label=label))
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("cosine of a weight", fontsize=9)
    axis.set_title("weights of MLPs against class means, one seed each", fontsize=10)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17)}
    axis.legend(handles=handles, frameon=False, fontsize=8, ncols=2, **place)


def _fixed(axis: Axes, rows: list[dict]) -> None:
    names = list(dict.fromkeys(row["data"] for row in rows))
    for name in names:
        of_name = [row for row in rows if row["data"] == name]
        counts = [row["trained_layers"] for row in of_name]
        style = {"color": OF_SET[name], "ms": 4.5, "lw": 1.3}
        for split, (line, fill) in {"train": ("-", None), "test": ("--", "white")}.items():
            values = [row[f"{split}_accuracy"] for row in of_name]
            label = f"{split}, {SETS[name]}"
            axis.plot(counts, values, line, marker="o", mfc=fill, **style, label=label)
        for count, (train, test) in PUBLISHED[name].items():
            axis.plot(count, train, "*", color=OF_SET[name], ms=10)
            axis.plot(count, test, "*", color=OF_SET[name], ms=10, mfc="white")
    axis.plot([], [], "*", color="k", ms=9, label="published, width 1024: train")
    axis.plot([], [], "*", color="k", ms=9, mfc="white", label="published, width 1024: test")
    axis.set_ylabel("accuracy", fontsize=9)
    axis.set_title("layers above fixed at frames, width 256, one seed", fontsize=10)
    axis.set_xlabel("trained layers", fontsize=9)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17)}
    axis.legend(frameon=False, fontsize=8, ncols=3, **place)


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
