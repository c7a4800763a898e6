"""Draw NC1, ÑC1 and NC2 after each added layer (Tirer et al. 2023, Figure 2)."""

from matplotlib.figure import Figure
from style import OF_SET, RESULTS, SETS, read, seeds, write

RESULT = RESULTS / "depthwise_layerwise" / "result.json"
PANELS = {
    "nc1": r"NC1 = tr$(\Sigma_W\Sigma_B^\dagger)/K$",
    "nc1_trace": r"$\widetilde{\mathrm{NC1}}$ = tr$\,\Sigma_W/$tr$\,\Sigma_B$",
    "nc2_etf": "NC2: distance to a simplex ETF",
}
MARKS = {"cifar10": "o-", "fashion_mnist": "D-"}


def draw(result: dict) -> Figure:
    """A panel for each metric, a line for each run; layer 0 are the inputs."""
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    for axis, (metric, title) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
        for run in result["runs"]:
            style = {"color": OF_SET[run["data"]], "ms": 3.5, "lw": 1.2, "alpha": 0.75}
            values = [run["inputs"][metric], *(layer[metric] for layer in run["layers"])]
            label = SETS[run["data"]] if run["seed"] == 0 else None
            axis.plot(values, MARKS[run["data"]], **style, label=label)
        axis.set_ylabel(title, fontsize=10)
        axis.set_xlabel("layers added (0: inputs)")
        axis.set_xticks(range(0, len(values), 2))
        if metric != "nc2_etf":
            axis.set_yscale("log")
    count = seeds(len({run["seed"] for run in result["runs"]}))
    figure.axes[0].legend(frameon=False, fontsize=9, title=f"a line each of {count}")
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
