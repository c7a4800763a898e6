"""The commands that need no features: `perturb-nc spectrum` and `perturb-nc deep-ufm`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from perturb_nc.cli.arguments import Beta, Json, LambdaH, LambdaW

if TYPE_CHECKING:
    from perturb_nc.theory.deep.collapse import DeepCollapse
    from perturb_nc.theory.deep.strongly_regular import StronglyRegular

_MOST = 1_000_000  # singular values to work out, a minute


def spectrum(
    num_classes: Annotated[int, typer.Option(help="K")],
    dim: Annotated[int, typer.Option(help="d >= K")],
    samples_per_class: Annotated[int, typer.Option(help="n")],
    lambda_w: LambdaW,
    lambda_h: LambdaH,
    beta: Beta,
    as_json: Json = False,
) -> None:
    """Exact spectrum of the response at collapse (Theorem 4.2), beside the large-β form."""
    from perturb_nc.show import layer_tables, terminal
    from perturb_nc.storage import json_text
    from perturb_nc.theory.spectrum import near_collapse_spectrum

    result = near_collapse_spectrum(
        num_classes=num_classes,
        dim=dim,
        samples_per_class=samples_per_class,
        lambda_w=lambda_w,
        lambda_h=lambda_h,
        beta=beta,
    )
    if as_json:
        print(json_text(asdict(result)))
        return
    terminal.show(*layer_tables.spectrum_tables(result))


def deep_ufm(
    num_layers: Annotated[int, typer.Option(help="L, the number of weights")],
    num_classes: Annotated[int, typer.Option(help="K")],
    decay: Annotated[float, typer.Option(help="λ_l of every weight, λ_l/2 |W_l|²")],
    feature_decay: Annotated[
        float | None, typer.Option(help="λ_H, λ_H/2 |H_1|² (not over N); default: as --decay")
    ] = None,
    samples_per_class: Annotated[int, typer.Option(help="n")] = 1,
    as_json: Json = False,
) -> None:
    """Deep neural collapse in closed form: optimum, threshold, and the low-rank rival."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from perturb_nc.show import terminal
    from perturb_nc.storage import json_text
    from perturb_nc.theory.deep.collapse import deep_collapse_optimum
    from perturb_nc.theory.deep.strongly_regular import strongly_regular_solution
    from perturb_nc.validation import at_most

    at_most(num_layers * num_classes, _MOST, "num_layers * num_classes")
    lambda_h = decay if feature_decay is None else feature_decay
    shape = {
        "num_layers": num_layers,
        "num_classes": num_classes,
        "samples_per_class": samples_per_class,
    }
    collapse = deep_collapse_optimum(**shape, lambdas=decay, lambda_h=lambda_h)
    rival = None
    if num_layers >= 3 and _is_strongly_regular(num_classes):
        rival = strongly_regular_solution(**shape, lambdas=decay, lambda_h=lambda_h)
    if as_json:
        print(json_text(_record(collapse, rival)))
        return
    table = Table(
        title=f"L = {num_layers}, K = {num_classes}, n = {samples_per_class}", box=SIMPLE_HEAD
    )
    for name in ("solution", "objective", "output", "rank"):
        table.add_column(name, justify="left" if name == "solution" else "right")
    rank = num_classes if collapse.objective < 0.5 else 0
    output = f"{collapse.outputs[0].item():.6f}"
    table.add_row("collapse (DNC)", f"{collapse.objective:.10f}", output, str(rank))
    if rival is not None:
        low, high = rival.outputs.min().item(), rival.outputs.max().item()
        outputs = f"{low:.4f}..{high:.4f}"
        cells = (f"{rival.objective:.10f}", outputs, str(rival.rank))
        table.add_row("strongly regular graph (SRG)", *cells)
    terminal.show(table, *_lines(collapse, rival, num_layers, num_classes))


def _lines(
    collapse: "DeepCollapse", rival: "StronglyRegular | None", num_layers: int, num_classes: int
) -> list[str]:
    strength, threshold = collapse.strengths[0].item(), collapse.thresholds[0].item()
    state = "nonzero" if strength < threshold else "zero"
    lines = [f"n λ_H Π λ_l = {strength:.4g}, threshold {threshold:.4g}: collapse is {state}"]
    if num_classes == 2:
        lines.append("K = 2: no ReLU network of this model has a lower objective (Súkeník 2023)")
    if rival is not None:
        lines.append(f"SRG / DNC = {rival.ratio:.4f}; {rival.limit_ratio:.4f} as all λ go to 0")
    elif num_classes > 2:
        lines.append(
            "no SRG solution: it needs L >= 3 and K = r(r-1)/2 with r >= 4 (6, 10, 15, …), "
            f"got L = {num_layers} and K = {num_classes}"
        )
    return lines


def _record(collapse: "DeepCollapse", rival: "StronglyRegular | None") -> dict[str, object]:
    record: dict[str, object] = {
        "objective": collapse.objective,
        "output": collapse.outputs[0].item(),
        "singular_values": collapse.singular_values[:, 0].tolist(),
        "feature_norm": collapse.feature_norms[0].item(),
        "strength": collapse.strengths[0].item(),
        "threshold": collapse.thresholds[0].item(),
    }
    if rival is not None:
        record["strongly_regular"] = {
            "objective": rival.objective,
            "rank": rival.rank,
            "ratio": rival.ratio,
            "limit_ratio": rival.limit_ratio,
        }
    return record


def _is_strongly_regular(num_classes: int) -> bool:
    from perturb_nc.theory.deep.strongly_regular import graph_order

    try:
        graph_order(num_classes)
    except ValueError:
        return False
    return True
