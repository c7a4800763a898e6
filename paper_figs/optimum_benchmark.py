"""Time to the optimum against peers, from benchmarks/results/optimum.json."""

from matplotlib.figure import Figure
from style import GREEN, PURPLE, ROOT, SKY, VERMILION, read, write

RESULT = ROOT / "benchmarks" / "results" / "optimum.json"
COLOURS = (GREEN, SKY, VERMILION, PURPLE)


def draw(result: dict) -> Figure:
    """Relative gradient norm over seconds, a panel for each case; a star for this library."""
    cases = result["cases"]
    figure = Figure(figsize=(10.0, 3.3 * ((len(cases) + 1) // 2)), layout="constrained")
    axes = figure.subplots((len(cases) + 1) // 2, 2, sharex=True, sharey=True, squeeze=False)
    for axis, case in zip(axes.flat, cases, strict=False):
        first, *peers = case["methods"]
        for row, colour in zip(peers, COLOURS, strict=True):
            seconds, norms = zip(*row["trace"], strict=True)
            axis.loglog(seconds, norms, color=colour, lw=1.5, label=row["method"])
        axis.plot(
            first["seconds"], first["gradient_norm"], "*", color="black", ms=12,
            label=f"{first['method']}, whole solve",
        )  # fmt: skip
        axis.axhline(result["config"]["tolerance"], color="0.6", lw=0.8, ls=":")
        axis.set_title(f"{case['case']}, N = {case['num_samples']:,}", fontsize=9.5)
        axis.tick_params(labelsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("relative gradient norm", fontsize=9)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
