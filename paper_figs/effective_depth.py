"""Draw nearest-class-mean errors by layer, and the effective depth by the number of layers."""

from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, ORANGE, RESULTS, VERMILION, ordered, read, seeds, write

COLOURS = (BLUE, VERMILION, ORANGE, GREEN)
RESULT = RESULTS / "effective_depth" / "result.json"


def draw(result: dict) -> Figure:
    """Left: error by layer, a line a network. Right: the first layer with error at most ε."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    depths = sorted({run["depth"] for run in result["runs"]})
    colours = dict(zip(depths, ordered(len(depths)), strict=True))
    for run in result["runs"]:
        scores = run["nearest_mean"]["train"].values()
        errors = [max(1 - s["accuracy"], 1e-5) for s in scores]
        label = f"L = {run['depth']}" if run["seed"] == 0 else None
        style = {"color": colours[run["depth"]], "ms": 3, "lw": 1.2}
        left.plot(range(1, len(errors) + 1), errors, "o-", **style, label=label)
    left.set_yscale("log")
    left.set_xticks(range(0, max(depths) + 1, 4))
    left.set_xlabel("layer")
    left.set_ylabel("nearest-class-mean error, training")
    left.legend(frameon=False, fontsize=8)
    epsilons = list(result["table"][0]["effective_depth"])
    for epsilon, colour, mark in zip(epsilons, COLOURS, "osD^", strict=True):
        for seed in sorted({row["seed"] for row in result["table"]}):
            rows = [row for row in result["table"] if row["seed"] == seed]
            points = [(row["depth"], row["effective_depth"][epsilon]) for row in rows]
            points = [(x, y) for x, y in points if y is not None]
            label = f"ε = {float(epsilon):g}" if seed == 0 else None
            x, y = zip(*points, strict=True) if points else ((), ())
            right.plot(x, y, f"{mark}-", color=colour, ms=5, lw=1.2, mfc="none", label=label)
    right.plot(depths, depths, ":", color=GREY, lw=1, label="the last layer")
    right.set_xticks(depths)
    right.set_yticks(range(0, max(depths) + 1, 4))
    right.set_xlabel("number of layers L")
    right.set_ylabel("first layer with error at most ε")
    count = seeds(len({run["seed"] for run in result["runs"]}))
    figure.suptitle(f"MLPs on MNIST, a line each of {count}", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
