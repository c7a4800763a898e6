"""What a bench says of a network: which theory it follows, and where each theory fails."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import xarray as xr

from perturb_nc.study.bench import BLOCKS, TIE, bench_table
from perturb_nc.study.comparison import errors
from perturb_nc.study.theories import THEORIES
from perturb_nc.summary import Tabular

TOLD = {"": "nothing", "metric": "its placing metric", "means": "how far its class means are"}
"""What a theory may be told of the layer left out, by its `places`."""


@dataclass(frozen=True)
class Failure:
    """The prediction of a theory that is furthest off: |log(predicted/measured)| is `error`."""

    layer: str
    quantity: str
    error: float


@dataclass(frozen=True)
class Standing:
    """How one theory stands on a network.

    Attributes:
        sees: what it is shown.
        told: what it is told of the layer that is left out.
        in_span, out_of_span: median over the quantities of a block (`BLOCKS`) of the median error
            of the judged layers. NaN where it predicts fewer than half of the network's layers, or
            of the block's quantities.
        predicted: number of layers of which it predicts something.
        worst: where it is furthest off, of all that it predicts; None where that is nothing.
    """

    sees: str
    told: str
    in_span: float
    out_of_span: float
    predicted: int
    worst: Failure | None


@dataclass(frozen=True, eq=False, repr=False)
class Verdict(Tabular):
    """How the theories of depth stand on one network.

    Attributes:
        network: its name.
        metric: that placed its layers, and is not judged.
        follows: the theory with the least error in the span of the class means, with those within
            10 % of it; () where none predicts half of the layers.
        features: the same of the theories that say what becomes of the features, which no curve
            through a metric's own values does.
        nearer: the naive rivals that are nearer than what it follows.
        theories: theory or rival → how it stands.
        judged, layers: numbers of layers judged (those that all predict), and left out in turn.
    """

    network: str
    metric: str
    follows: tuple[str, ...]
    features: tuple[str, ...]
    nearer: tuple[str, ...]
    theories: dict[str, Standing]
    judged: int
    layers: int

    _index = ("theory",)
    _main = ("in_span", "out_of_span", "predicted")

    def _columns(self) -> dict[str, list[Any]]:
        rows = [asdict(standing) for standing in self.theories.values()]
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != "worst"}
        return {"theory": [*self.theories]} | columns

    def _summary(self) -> dict[str, object]:
        return {
            "network": self.network,
            "follows": ", ".join(self.follows) or "none",
            "nearer": ", ".join(self.nearer) or "none",
            "judged": f"{self.judged} of {self.layers} layers",
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def verdicts(benches: Sequence[xr.Dataset]) -> list[Verdict]:
    """What each network of some benches follows, in their order.

    Args:
        benches: of `theories_of_depth`, all with one placing metric.

    Raises:
        ValueError: as `bench_table`.
    """
    table = bench_table(benches)
    blocks = block_errors(table)
    found = []
    for bench in benches:
        wrong = errors(bench)
        wrong = wrong.where(wrong["quantity"] != bench.attrs["metric"])
        for network in dict.fromkeys(bench["network"].values.tolist()):
            own = wrong.isel(layer=bench["network"].values == network)
            at, by_block = table.sel(network=network), blocks.sel(network=network)
            standings = {
                name: Standing(
                    sees=THEORIES[name].sees,
                    told=TOLD[THEORIES[name].places],
                    in_span=float(by_block.sel(model=name, block="in_span")),
                    out_of_span=float(by_block.sel(model=name, block="out_of_span")),
                    predicted=int(at["predicted"].sel(model=name)),
                    worst=_worst(own.sel(model=name)),
                )
                for name in bench["model"].values.tolist()
            }
            numbers = int(at["judged"]), int(at["layers"])
            metric = str(bench.attrs["metric"])
            found.append(Verdict(network, metric, *_best(standings), standings, *numbers))
    return found


def block_errors(table: xr.Dataset) -> xr.DataArray:
    """Median errors by block (of `BLOCKS`), network and theory of a `bench_table`.

    NaN where a theory predicts fewer than half of a block's quantities.
    """
    found = []
    for names in BLOCKS.values():
        error = table["error"].sel(quantity=list(names))
        most = 2 * error.notnull().sum("quantity") >= len(names)
        found.append(error.median("quantity", skipna=True).where(most))
    return xr.concat(found, dim="block").assign_coords(block=list(BLOCKS))


Names = tuple[str, ...]


def _best(standings: dict[str, Standing]) -> tuple[Names, Names, Names]:
    """`follows`, `features` and `nearer` of a verdict."""
    known = {n: s.in_span for n, s in standings.items() if not math.isnan(s.in_span)}
    theories = {name: error for name, error in known.items() if not THEORIES[name].is_naive}
    own = {name: error for name, error in theories.items() if not THEORIES[name].is_curve}
    least = min(theories.values(), default=math.inf)
    nearer = tuple(n for n, error in known.items() if THEORIES[n].is_naive and error < least)
    return _leading(theories), _leading(own), nearer


def _leading(errors: dict[str, float]) -> Names:
    least = min(errors.values(), default=math.inf)
    return tuple(name for name, error in errors.items() if error <= (1 + TIE) * least)


def _worst(error: xr.DataArray) -> Failure | None:
    if not bool(error.notnull().any()):
        return None
    worst = error.isel(error.argmax(("layer", "quantity")))
    return Failure(str(worst["layer"].values), str(worst["quantity"].values), float(worst))
