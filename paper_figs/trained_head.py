"""Draw loss and DNC metrics per layer of deep heads on trained backbones: trained_head.json."""

from statistics import median

from matplotlib.figure import Figure
from style import BLUE, RESULTS, SETS, ordered, read, seeds, write

RESULT = RESULTS / "trained_head.json"


def draw(result: dict) -> Figure:
    """A row a data set and depth: excess loss, DNC1, DNC2 - 1, DNC3 over training."""
    config = result["manifest"]["config"]
    settings = [(name, depth) for name, _ in config["data"] for depth in config["depths"]]
    figure = Figure(figsize=(13, 2.6 * len(settings)), layout="constrained")
    axes = figure.subplots(len(settings), 4, squeeze=False, sharex=True)
    metrics = (("dnc1", "DNC1", 0), ("dnc2", "DNC2 − 1", 1), ("dnc3", "DNC3", 0))
    for row, (name, depth) in zip(axes, settings, strict=True):
        parts = [result["parts"][f"{name},L={depth},seed={s}"] for s in config["seeds"]]
        steps = [max(h["step"], 1) for h in parts[0]["history"]]
        for part in parts:
            row[0].loglog(steps, [h["excess"] for h in part["history"]], color=BLUE)
        row[0].set_ylabel("f − f*")
        row[0].set_title(f"{SETS[name]}, L = {depth}, every seed", fontsize=10)
        for axis, (metric, label, offset) in zip(row[1:], metrics, strict=True):
            for layer in range(depth):
                values = [
                    median(max(p["history"][i]["layers"][layer][metric] - offset, 1e-16)
                           for p in parts)
                    for i in range(len(steps))
                ]  # fmt: skip
                which = r"$H_1$" if layer == 0 else rf"$\sigma(H_{layer + 1})$"
                colour = ordered(depth)[layer]
                axis.loglog(steps, values, color=colour, label=which)
            axis.set_ylabel(label)
            count = seeds(len(parts))
            axis.set_title(f"{SETS[name]}, L = {depth}, median of {count}", fontsize=10)
        row[1].legend(frameon=False, fontsize=7)
    for axis in axes.flat:
        axis.grid(alpha=0.2)
    for axis in axes[-1]:
        axis.set_xlabel("Adam steps")
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
