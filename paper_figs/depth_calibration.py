"""Draw NC1 of every layer, measured and on the calibrated path, from the depth calibrations."""

from matplotlib.figure import Figure
from style import BLACK, BLUE, ORANGE, RESULTS, SETS, read, write

RESULT = RESULTS / "depth_calibration" / "calibrations.json"
COLUMNS = 5
PATHS = {  # fitted → colour, style, label
    False: (ORANGE, "s--", r"central path, $\lambda_W = K\cdot$weight decay (nothing fitted)"),
    True: (BLUE, "v-", r"central path, $\lambda_W$ fitted to every second layer"),
}
KINDS = {"res": "residual MLP", "mlp": "plain MLP", "bn": "batch norm", "ce": "cross-entropy"}


def draw(result: dict) -> Figure:
    """One panel a network; layers placed by nc1_span with λ_W = K·wd and with λ_W fitted."""
    rows = [row for row in result["rows"] if row["metric"] == "nc1_span"]
    names = list(dict.fromkeys(row["network"] for row in rows))
    lines = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(2.7 * COLUMNS, 2.5 * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).flat
    for axis, name in zip(axes, names, strict=False):
        own = [row for row in rows if row["network"] == name]
        measured = own[0]["measured"]
        axis.plot([m["nc1"] for m in measured.values()], "o-", color=BLACK, ms=4, label="measured")
        place = {layer: i for i, layer in enumerate(measured)}
        for row in own:
            colour, style, label = PATHS[row["fitted"]]
            x = [place[layer] for layer in row["path"]]
            y = [m["nc1"] for m in row["path"].values()]
            axis.plot(x, y, style, color=colour, ms=4, lw=1.2, label=label)
        axis.set_yscale("log")
        axis.set_xticks(range(len(measured)))
        axis.set_title(_words(name), fontsize=8)
    for axis in list(figure.axes)[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel("layer", fontsize=10)
    figure.supylabel("NC1", fontsize=10)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        *handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9,
        title="one seed each; layers that the path does not place are left out", title_fontsize=8,
    )  # fmt: skip
    return figure


def _words(name: str) -> str:
    """The name of a network, as digits-res-bn-wd0.001, in words."""
    data, *parts = name.split("-")
    said = [KINDS[part] for part in parts if part in KINDS]
    decays = [part.replace("wd", "decay ").replace("head", "of head ") for part in parts]
    decays = [part for part in decays if part.startswith(("decay", "of head"))]
    return f"{SETS[data]}, {', '.join(said)}\n{', '.join(decays)}"


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
