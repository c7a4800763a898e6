"""The time of a move on the page of `perturb-nc explore`, beside computing everything again.

A move is all that the server does for it: optimum, central path, metrics, spectra, figures. A drag
goes on for some stops of one slider, as a hand does, each drag from a setting of its own (the move
to which does not count); jumps go anywhere on one slider. No setting comes twice. A move is
answered at once, near collapse in closed form, and then exactly; both are timed.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import perturb_nc as pnc
from benchmarks.features import make_features
from benchmarks.machine import command_line, machine
from perturb_nc.show.explore.page import predicted, shown
from perturb_nc.show.explore.scales import SCALES
from perturb_nc.study.explorer import Explorer, LayerView

MEASURED = Path(__file__).parent.parent / "experiments" / "results" / "every_layer"
REACH = 30  # stops from where the sliders start: a decade and a half
BASE = 20  # around which drags start: a decade
Stops = dict[str, int]


@dataclass(frozen=True)
class Config:
    """What is moved, and how often."""

    dim: int = 512
    samples: int = 5000
    files: tuple[str, ...] = ("residual_mlp-cifar10-seed0", "mlp-cifar10-seed0")
    layer: int = 1
    drags: int = 2  # of every slider, in as many moves as there are jumps
    stops: int = 6  # in a drag
    fresh: int = 5
    seed: int = 0


QUICK = Config(dim=40, samples=200, files=(), drags=1, stops=2, fresh=1)


def run(config: Config) -> dict[str, Any]:
    """All cases."""
    torch.set_num_threads(1)  # as the command has it
    features, labels = make_features(
        config.samples, config.dim, 10, spread=3.0, noise=0.3, seed=config.seed
    )
    cases = {
        f"synthetic, d = {config.dim}": {
            "H0": pnc.ClassStatistics.from_features(features, labels, 10)
        }
    }
    for name in config.files:
        cases[name] = pnc.load_layers(MEASURED / f"{name}.safetensors")
    return {
        "config": asdict(config),
        "machine": machine(),
        "cases": [measure(name, layers, config) for name, layers in cases.items()],
    }


def measure(name: str, layers: Mapping[str, pnc.ClassStatistics], config: Config) -> dict[str, Any]:
    """Median and worst move of both kinds, by slider, and from scratch."""
    layer = list(layers)[min(config.layer, len(layers) - 1)]
    found: dict[str, Any] = {"case": name, "layer": layer, "dim": layers[layer].dim}
    for kind, (moves, exact) in KINDS.items():
        explorer = Explorer(layers)
        move(explorer, layer, start(), exact=True)
        rows = []
        for slider, stops in moves(config):
            begin, worked = time.perf_counter(), time.process_time()
            move(explorer, layer, stops, exact=exact or not slider)
            if slider:
                took = 1e3 * (time.perf_counter() - begin), 1e3 * (time.process_time() - worked)
                rows.append((slider, *took))
        found[kind] = {
            "moves": len(rows),
            "median": statistics.median(ms for _, ms, _ in rows),
            "worst": max(ms for _, ms, _ in rows),
            "median_of_processor": statistics.median(ms for *_, ms in rows),
            "by_slider": {s: statistics.median(ms for t, ms, _ in rows if t == s) for s in SCALES},
        }
    found["scratch"] = statistics.median(scratch(layers[layer]) for _ in range(config.fresh))
    found["ratio"] = found["scratch"] / found["drag"]["median"]
    return found


def move(explorer: Explorer, layer: str, stops: Stops, *, exact: bool) -> None:
    """All that the server computes for a move."""
    shown(explorer, layer, predicted(explorer, layer, stops, exact=exact))


def start() -> Stops:
    """Where the sliders are when the page opens."""
    return {name: scale.start for name, scale in SCALES.items()}


def dragged(config: Config) -> Iterator[tuple[str, Stops]]:
    """Some stops of one slider, then of the next; "" is the move to where a drag starts."""
    choose = random.Random(config.seed)
    for _ in range(config.drags):
        for slider in SCALES:
            base = {n: stop + choose.randint(-BASE, BASE) for n, stop in start().items()}
            yield "", base
            step = choose.choice((-1, 1))
            for far in range(1, config.stops + 1):
                yield slider, base | {slider: base[slider] + step * far}


def jumping(config: Config) -> Iterator[tuple[str, Stops]]:
    """Anywhere within reach on one slider after the other."""
    choose, stops = random.Random(config.seed), start()
    for _ in range(config.drags * config.stops):
        for slider in SCALES:
            middle = SCALES[slider].start
            stops = stops | {slider: middle + choose.randint(-REACH, REACH)}
            yield slider, stops


Moves = Callable[[Config], Iterator[tuple[str, Stops]]]
KINDS: dict[str, tuple[Moves, bool]] = {
    "drag, at once": (dragged, False),
    "jump, at once": (jumping, False),
    "drag": (dragged, True),
    "jump": (jumping, True),
}


def scratch(reference: pnc.ClassStatistics) -> float:
    """Milliseconds of the same predictions from the library, at its own tolerances."""
    at = {name: scale.values[scale.start] for name, scale in SCALES.items()}
    begin, flow_time = time.perf_counter(), at.pop("time")
    solution = pnc.minimize(pnc.NearCollapseProblem(reference, **at))
    LayerView.of(solution.statistics, solution.weight)
    at.pop("beta")
    LayerView.of(pnc.central_path_flow(reference, **at, times=[flow_time]).statistics(0))
    return 1e3 * (time.perf_counter() - begin)


def as_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    c, ran_on = result["config"], result["machine"]
    lines = [
        "# The time of a move on the page of `perturb-nc explore`",
        "",
        f"`python -m benchmarks.explore`: {ran_on['cpu']}, {ran_on['threads']} thread, torch "
        f"{ran_on['torch']}. Milliseconds on the server, figures included; "
        f"{c['drags'] * c['stops'] * len(SCALES)} moves of each kind, by slider the median. "
        "Processor: the same in time of processors, to which other work adds little. "
        "From scratch: minimize and central_path_flow at their own tolerances, metrics and "
        "spectra, in one setting.",
        "",
        "| case | d | moves | median | processor | worst | λ_W | λ_H | β | t | from scratch | "
        "× median drag |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        for kind in KINDS:
            row = case[kind]
            numbers = [row["median"], row["median_of_processor"], row["worst"]]
            numbers += [*row["by_slider"].values()]
            cells = [f"{ms:.0f}" for ms in numbers]
            last = (
                [f"{case['scratch']:.0f}", f"{case['ratio']:.1f}"] if kind == "drag" else ["", ""]
            )
            lines.append(
                f"| {case['case']}, {case['layer']} | {case['dim']} | {kind} | "
                f"{' | '.join([*cells, *last])} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write explore.json and explore.md."""
    command_line(
        "explore", str(__doc__), lambda quick: run(QUICK if quick else Config()), as_markdown
    )


if __name__ == "__main__":
    main()
