"""Draw Figure 1 (Tirer et al. 2023) from experiments/results/near_collapse_spectrum.json."""

from matplotlib.figure import Figure
from style import RESULTS, ordered, read, write

RESULT = RESULTS / "near_collapse_spectrum.json"


def draw(result: dict) -> Figure:
    """Sorted singular values of F_kk, a colour per λ_H; below, what the O(1/β) form leaves out."""
    config = result["manifest"]["config"]
    figure = Figure(figsize=(9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
    colours = ordered(len(result["curves"]))
    for colour, curve in zip(colours, result["curves"], strict=True):
        index = range(1, len(curve["exact"]) + 1)
        label = rf"$\lambda_H = {curve['lambda_h']:g}$"
        top.step(index, curve["exact"], where="mid", color=colour, lw=1.6, label=label)
        top.step(index, curve["large_beta"], where="mid", color=colour, lw=1.2, ls=":")
        top.plot(index[::4], curve["numerical"][::4], "o", color=colour, ms=3.5, mfc="none")
        beyond = [e - p for e, p in zip(curve["exact"], curve["large_beta"], strict=True)]
        bottom.step(index, beyond, where="mid", color=colour, lw=1.4)
    top.plot([], [], color="k", lw=1.6, label="exact, this β")
    top.plot([], [], color="k", lw=1.2, ls=":", label=r"paper, $O(1/\beta)$")
    top.plot([], [], "o", color="k", ms=3.5, mfc="none", label="numerical response")
    top.set_ylabel(r"singular values of $F_{kk}$")
    top.set_title(
        rf"$\beta = {config['beta']:g}$, $K = {config['num_classes']}$, $d = {config['dim']}$, "
        rf"$n = {config['samples_per_class']}$, $\lambda_W = {config['lambda_w']:.4g}$",
        fontsize=10,
    )
    bottom.set_ylabel("exact − paper")
    bottom.set_xlabel("index of the singular value")
    figure.legend(*top.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
