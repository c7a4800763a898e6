"""Draw what descent finds, relative to collapse, by number of classes: low_rank_bias.json."""

from matplotlib.figure import Figure
from style import BLUE, GREEN, ORANGE, RESULTS, VERMILION, read, write

RESULT = RESULTS / "low_rank_bias.json"


def draw(result: dict) -> Figure:
    """Left: f/f_DNC of every seed with the SRG values; right: rank of the hidden layers."""
    found = result["parts"]
    parts = [p for p in found.values() if p["width"] == 30 and "polished" in p]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, part in enumerate(parts):
        k, collapse = part["num_classes"], part["collapse"]
        x = [k + 0.3 * (j / len(part["polished"]) - 0.5) for j in range(len(part["polished"]))]
        y = [f / collapse for f in part["polished"]]
        label = "gradient descent, then L-BFGS" if i == 0 else None
        left.plot(x, y, "o", ms=3.5, color=BLUE, alpha=0.6, label=label)
        for run, ranks in enumerate(part["ranks"]):
            right.plot(x[run], ranks[2], "o", ms=3.5, color=BLUE, alpha=0.6)
    strongly = [p for p in parts if "strongly_regular" in p]
    k = [p["num_classes"] for p in strongly]
    values = [p["strongly_regular"] / p["collapse"] for p in strongly]
    left.plot(k, values, "D", color=VERMILION, ms=7, label="SRG, closed form")
    values = [p["refined"] / p["collapse"] for p in strongly]
    left.plot(k, values, "v", color=ORANGE, ms=7, label="L-BFGS from SRG")
    narrow = [p for name, p in found.items() if name.startswith("search") if p["num_classes"] > 2]
    k_narrow = [p["num_classes"] for p in narrow]
    values = [p["best"] / p["collapse"] for p in narrow]
    label = f"best of {result['manifest']['config']['search_seeds']}, width K + 2"
    left.plot(k_narrow, values, "_", color=GREEN, ms=12, mew=2, label=label)
    right.plot(k_narrow, [p["ranks"][2] for p in narrow], "_", color=GREEN, ms=12, mew=2)
    left.axhline(1, color="k", lw=0.8, ls=":")
    left.set_ylabel(r"$f / f_{\mathrm{DNC}}$")
    left.legend(frameon=False, fontsize=9)
    classes = [p["num_classes"] for p in parts]
    right.plot(classes, classes, color="k", lw=0.8, ls=":", label="K (collapse)")
    right.plot(k, [p["refined_ranks"][2] for p in strongly], "v", color=ORANGE, ms=7)
    right.set_ylabel(r"rank of the class means of $\sigma(H_3)$")
    right.legend(frameon=False, fontsize=9)
    config = result["manifest"]["config"]
    figure.suptitle(
        rf"L = {config['depth']}, n = 1, $\lambda$ = {config['decay']:g}, width 30, "
        f"{config['seeds']} seeds (a point each)",
        fontsize=11,
    )
    for axis in (left, right):
        axis.set_xlabel("K")
        axis.set_xticks(classes)
        axis.grid(axis="y", alpha=0.2)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
