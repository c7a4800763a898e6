"""Metrics and predictions of layers as tables for the terminal."""

import math
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from perturb_nc.show.labels import number, symbol
from perturb_nc.show.terminal import NAME, cells_of, layer_table, spread, title_of
from perturb_nc.study.predict import LayerPrediction
from perturb_nc.theory.spectrum import NearCollapseSpectrum
from perturb_nc.theory.status import Status
from perturb_nc.theory.vicinity.prediction import SmallVicinity

OF_A_LAYER = ("nc1_trace", "nc1", "nc2_etf", "nc3_duality", "cdnv")
_ACROSS = 5  # layers side by side
_LAYERS = 12  # layers below each other where not all are asked for


def metrics_tables(
    records: Mapping[str, Mapping[str, float]], *, title: str, everything: bool = False
) -> list[Table]:
    """Metrics down, layers across, as many tables as it takes to keep numbers on one line.

    More layers than fit side by side are summed up first, unless everything is asked for: layers
    down, the main metrics across.
    """
    tables, names = [], list(records)
    if len(names) > _ACROSS and not everything:
        return [_metrics_summary(records, title)]
    for start in range(0, len(names), _ACROSS):
        layers = names[start : start + _ACROSS]
        table = Table(Column("metric", no_wrap=True), title=title, box=SIMPLE_HEAD)
        for name in layers:
            table.add_column(name, justify="right", overflow="fold")
        for metric in records[layers[0]]:
            table.add_row(metric, *(number(records[name][metric]) for name in layers))
        tables.append(table)
    return tables


def _metrics_summary(records: Mapping[str, Mapping[str, float]], title: str) -> Table:
    names = list(records)
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold", max_width=2 * NAME)
    for metric in OF_A_LAYER:
        table.add_column(symbol(metric), justify="right", no_wrap=True)
    shown = spread(len(names), _LAYERS)
    for i in shown:
        table.add_row(names[i], *(number(records[names[i]][m]) for m in OF_A_LAYER))
    said = f"{len(names)} layers" + (f", {len(shown)} shown" if len(shown) < len(names) else "")
    table.caption = f"{said}; every layer and all {len(records[names[0]])} metrics: --all"
    return table


def prediction_table(
    predictions: Mapping[str, LayerPrediction],
    hyperparameters: Mapping[str, float],
    *,
    everything: bool = False,
) -> Table:
    """Two rows a layer: its metrics as measured, and the model's for the features that follow.

    Of many layers a dozen, first and last among them, unless everything is asked for.
    """
    table = layer_table(title_of(hyperparameters), [symbol(m) for m in OF_A_LAYER])
    for label in ("r", "gap"):
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("optimum")
    names = list(predictions)
    shown = [*range(len(names))] if everything else spread(len(names), _LAYERS)
    if len(shown) < len(names):
        table.caption = f"{len(names)} layers, {len(shown)} shown; all of them: --all"
    for name, p in ((names[i], predictions[names[i]]) for i in shown):
        table.add_row(name, *cells_of(p.measured, OF_A_LAYER))
        c = p.solution.certificate
        proof = "global" if c.is_global else f"< {c.gap / (c.lower_bound + c.gap):.1%} off"
        if math.isnan(c.gap):
            proof = "–"
        if p.solution.status is not Status.CONVERGED:
            proof += f"; {p.solution.status.value}"
        gap = "–" if math.isnan(c.gap) else f"{max(c.gap, 0.0):.0e}"  # rounding may be below 0
        numbers = (number(c.spectral_ratio), gap)
        table.add_row(" predicted", *cells_of(p.predicted, OF_A_LAYER), *numbers, proof)
    return table


def near_collapse_table(
    predictions: Mapping[str, LayerPrediction], hyperparameters: Mapping[str, float]
) -> Table:
    """As `prediction_table`, with what says whether the closed form is to be relied on."""
    table = layer_table(title_of(hyperparameters), [symbol(m) for m in OF_A_LAYER])
    for label in ("r", "distance", "remainder"):
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("small?")
    near = {n: p.solution for n, p in predictions.items() if isinstance(p.solution, SmallVicinity)}
    for name, found in near.items():
        table.add_row(name, *cells_of(predictions[name].measured, OF_A_LAYER))
        largest = max(found.remainder.values())
        numbers = map(number, (found.certificate.spectral_ratio, found.distance, largest))
        verdict = "yes" if found.is_small else f"no: {found.status.name}"
        cells = (*cells_of(found.metrics, OF_A_LAYER), *numbers, verdict)
        table.add_row(" predicted", *cells)
    reasons = {found.status for found in near.values() if not found.is_small}
    table.caption = "\n".join(f"{reason.name}: {reason.value}" for reason in reasons)
    return table


def spectrum_tables(result: NearCollapseSpectrum) -> tuple[Table, Table, str]:
    """Eigenvalues of the whole response, of one diagonal block, and of one off the diagonal."""
    whole = Table("F, dN × dN", "eigenvalue", "multiplicity", box=SIMPLE_HEAD)
    for row in zip(result.names, result.eigenvalues, result.multiplicities, strict=True):
        whole.add_row(row[0], f"{row[1]:.6f}", str(row[2]))
    block = Table("F_kk, dn × dn", "exact", "O(1/β)", "multiplicity", box=SIMPLE_HEAD)
    columns = (result.block_values, result.large_beta_block_values, result.block_multiplicities)
    for name, exact, linear, count in zip(result.block_names, *columns, strict=True):
        block.add_row(name, f"{exact:.6f}", f"{linear:.6f}", str(count))
    off = (
        f"σ_max(F_kj): exact {result.off_block_value:.6f}, "
        f"O(1/β) {result.large_beta_off_block_value:.6f}"
    )
    return whole, block, off
