"""Draw NC1 of every layer, measured and on the calibrated path, from the depth calibrations."""

from matplotlib.figure import Figure
from style import BLUE, ORANGE, RESULTS, VERMILION, read, write

RESULT = RESULTS / "depth_calibration" / "calibrations.json"


def draw(result: dict) -> Figure:
    """One panel a network; layers placed by nc1_span with λ_W = K·wd and with λ_W fitted."""
    rows = [row for row in result["rows"] if row["metric"] == "nc1_span"]
    names = list(dict.fromkeys(row["network"] for row in rows))
    columns = 5
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(2.7 * columns, 2.3 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis, name in zip(axes, names, strict=False):
        for row in (r for r in rows if r["network"] == name):
            measured = row["measured"]
            place = {layer: i for i, layer in enumerate(measured)}
            if not row["fitted"]:
                values = [m["nc1"] for m in measured.values()]
                axis.plot(values, "o-", color=BLUE, ms=4, label="measured")
            colour, style = (VERMILION, "D-") if row["fitted"] else (ORANGE, "s--")
            label = r"path, $\lambda_W$ fitted" if row["fitted"] else r"path, $\lambda_W = K$ wd"
            x = [place[layer] for layer in row["path"]]
            y = [m["nc1"] for m in row["path"].values()]
            axis.plot(x, y, style, color=colour, ms=4, lw=1.2, label=label)
        axis.set_yscale("log")
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=7, which="both")
    for axis in list(figure.axes)[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel("layer, by depth", fontsize=9)
    figure.supylabel("NC1", fontsize=9)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__, dpi=130)
