"""Draw predicted and measured effects of weight decay from weight_decay_theory/result.json."""

from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, NC1_TRACE, ORANGE, RESULTS, VERMILION, read, write

RESULT = RESULTS / "weight_decay_theory" / "result.json"
PANELS = {"nc1": "NC1", "nc1_trace": NC1_TRACE, "nc2_etf": "NC2"}
STYLES = {
    "measured": ("o", BLUE),
    "one step": ("D", VERMILION),
    "step from its own": ("s", ORANGE),
    "path": ("v", GREEN),
    "the block before": ("x", GREY),
}


def draw(result: dict) -> Figure:
    """One panel a metric: log ratio to the baseline, by change of weight decay."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    for axis, (metric, title) in zip(axes, PANELS.items(), strict=True):
        changes = result["summary"][metric]
        for shift, (name, (marker, color)) in enumerate(STYLES.items()):
            rows = [row[name] for row in changes.values()]
            places = [i + 0.13 * (shift - 2) for i in range(len(rows))]
            axis.errorbar(
                places,
                [row["mean"] for row in rows],
                [row["error"] for row in rows],
                fmt=marker,
                color=color,
                ms=6,
                label=name,
            )
        axis.axhline(0, color="0.6", lw=0.8)
        axis.set_xticks(range(len(changes)), [c.replace(" x", "\n×") for c in changes], fontsize=8)
        axis.set_title(title, fontsize=11)
        axis.set_yscale("symlog", linthresh=0.5)
        axis.set_yticks([-2, -1, -0.5, -0.25, 0, 0.25], ["-2", "-1", "-.5", "-.25", "0", ".25"])
        axis.set_ylim(-2.8, 0.35)
    axes[0].set_ylabel("log ratio to the baseline")
    axes[1].legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle("More weight decay: residual MLPs on digits, five seeds", fontsize=11)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
