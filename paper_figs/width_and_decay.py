"""Draw how often collapse is reached, by width, and the rank by λ and K: width_and_decay.json."""

from statistics import mean, median

import numpy as np
from matplotlib.figure import Figure
from style import BLUE, GREEN, RESULTS, VERMILION, read, write

RESULT = RESULTS / "width_and_decay.json"


def draw(result: dict) -> Figure:
    """Left: share of runs at collapse by width; right: rank of σ(H_3) and f/f_DNC, K by λ."""
    config = result["manifest"]["config"]
    rows = result["parts"]
    figure = Figure(figsize=(11.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = (BLUE, GREEN, VERMILION)
    for k, colour in zip(config["width_classes"], colours, strict=False):
        own = [r[0] for name, r in rows.items() if name.startswith(f"width:K={k},")]
        widths = [r["width"] for r in own]
        share = [r["at_collapse"] / len(r["objective"]) for r in own]
        left.semilogx(widths, share, "o-", color=colour, label=f"K = {k}: at DNC")
        below = [r["below"] / len(r["objective"]) for r in own]
        if any(below):
            left.semilogx(widths, below, "v--", color=colour, label=f"K = {k}: below DNC")
    left.set_xticks(config["widths"], [str(w) for w in config["widths"]])
    left.minorticks_off()
    left.set_xlabel("width")
    left.set_ylabel("share of runs")
    left.set_ylim(-0.04, 1.04)
    left.grid(axis="y", alpha=0.2)
    table = [rows[f"decay:K={k}"] for k in config["decay_classes"]]
    share = np.array([[median(c["objective"]) / c["collapse"] for c in row] for row in table])
    image = right.imshow(share, cmap="viridis", aspect="auto")
    middle = (share.min() + share.max()) / 2
    for (i, j), value in np.ndenumerate(share):
        ranks = [r[2] for r in table[i][j]["ranks"]]
        colour = "white" if value < middle else "black"
        text = f"{mean(ranks):.1f} ({min(ranks)})"
        right.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
    right.set_xticks(range(len(config["decays"])), [f"{d:g}" for d in config["decays"]])
    right.set_yticks(range(len(config["decay_classes"])), config["decay_classes"])
    right.set_xlabel("λ")
    right.set_ylabel("K")
    rank = rf"rank of $\sigma(H_3)$: mean (least) of seeds, width {config['width']}"
    right.set_title(rank, fontsize=10)
    left.set_title(rf"$\lambda$ = {config['decay']:g}", fontsize=10)
    figure.colorbar(image, ax=right, label=r"median $f / f_{\mathrm{DNC}}$")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=5, frameon=False, fontsize=9)
    figure.suptitle(f"L = {config['depth']}, n = 1, {config['seeds']} seeds", fontsize=11)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
