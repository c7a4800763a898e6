"""Draw how often collapse is reached, by width, and the rank by λ and K: width_and_decay.json."""

import json
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULT = HERE.parent / "experiments" / "results" / "width_and_decay.json"
OUTPUT = HERE / "width_and_decay.png"


def draw(result: dict) -> Figure:
    """Left: share of runs at collapse by width; right: mean rank of σ(H_3), K by λ."""
    config = result["manifest"]["config"]
    rows = result["parts"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = ("#1b3a5c", "#2a9d8f", "#d1495b")
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
    left.legend(frameon=False, fontsize=9)
    left.spines[["top", "right"]].set_visible(False)
    left.grid(axis="y", alpha=0.2)
    table = [rows[f"decay:K={k}"] for k in config["decay_classes"]]
    ranks = np.array([[mean(r[2] for r in cell["ranks"]) for cell in row] for row in table])
    share = ranks / np.array(config["decay_classes"])[:, None]
    image = right.imshow(share, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(ranks):
        colour = "white" if share[i, j] < 0.6 else "black"
        right.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
    right.set_xticks(range(len(config["decays"])), [f"{d:g}" for d in config["decays"]])
    right.set_yticks(range(len(config["decay_classes"])), config["decay_classes"])
    right.set_xlabel("λ")
    right.set_ylabel("K")
    right.set_title(rf"mean rank of $\sigma(H_3)$, width {config['width']}", fontsize=10)
    figure.colorbar(image, ax=right, label="rank / K")
    title = rf"L = {config['depth']}, n = 1, {config['seeds']} seeds; left: $\lambda$ = "
    figure.suptitle(f"{title}{config['decay']:g}", fontsize=11)
    return figure


if __name__ == "__main__":
    draw(json.loads(RESULT.read_text(encoding="utf8"))).savefig(OUTPUT, dpi=150)
    print(f"wrote {OUTPUT}")
