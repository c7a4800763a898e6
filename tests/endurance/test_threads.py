"""Every verb of the theory and of the studies, from several threads: the same bits as from one."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from enum import Enum

import numpy as np
import pytest
import torch
from problems import near_collapse, random_problem

import perturb_nc as pnc
from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.cross_entropy.minimize import minimize_cross_entropy

CALLS = 120
GRID = {"lambda_w": [0.05, 0.01], "lambda_h": [0.02, 0.1], "beta": [0.5, 3.0]}
AT = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 1.0}
SETS = [random_problem(seed=seed, counts=(5, 6, 4), dim=6).reduced.statistics for seed in range(3)]
NEAR = near_collapse(1e-3)[0]


def samples(i):
    generator = torch.Generator().manual_seed(i)
    labels = torch.arange(24) % 3
    noise = 0.3 * torch.randn(24, 4, generator=generator, dtype=torch.float64)
    return torch.eye(3, 4, dtype=torch.float64)[labels] + noise, labels


FEATURES = [samples(i) for i in range(3)]
PROBLEMS = [pnc.NearCollapseProblem(s, **AT) for s in SETS]
SOLVED = [pnc.minimize(p) for p in PROBLEMS]
BATCHES = [pnc.minimize_batch(s, **GRID) for s in SETS]
OF_FEATURES = [
    pnc.minimize(pnc.NearCollapseProblem(ClassStatistics.from_features(*FEATURES[i]), **AT))
    for i in range(3)
]
CHANGE = FEATURES[0][0].sin()
LAYERS = [
    {"a": s, "b": pnc.central_path_flow(s, lambda_w=0.05, lambda_h=0.0, times=[0.4]).statistics(0)}
    for s in SETS
]


def cross_entropy(i):
    return minimize_cross_entropy(pnc.CrossEntropyProblem(*FEATURES[i], **AT))


VERBS = {
    "class statistics": lambda i: ClassStatistics.from_features(*FEATURES[i]),
    "metrics": lambda i: pnc.collapse_metrics(SETS[i], SOLVED[i].weight),
    "minimize": lambda i: pnc.minimize(PROBLEMS[i]),
    "certify": lambda i: pnc.certify(PROBLEMS[i], SOLVED[i].weight),
    "minimize_batch": lambda i: pnc.minimize_batch(SETS[i], **GRID),
    "derivatives of a batch": lambda i: BATCHES[i].derivatives(),
    "hyperparameter_response": lambda i: pnc.hyperparameter_response(SOLVED[i]),
    "linear_response": lambda i: pnc.linear_response(OF_FEATURES[i], *FEATURES[i]).apply(CHANGE),
    "central_path_flow": lambda i: (
        pnc.central_path_flow(SETS[i], lambda_w=0.05, lambda_h=0.02, times=[0.5, 2.0]).means
    ),
    "cascade": lambda i: pnc.cascade(SETS[i], lambda_w=0.05, lambda_h=0.02, betas=[2.0, 3.0]),
    "exact_collapse": lambda i: pnc.exact_collapse(
        num_classes=3, dim=5, lambda_w=0.05, lambda_h=0.02, seed=i
    ),
    "near_collapse_spectrum": lambda i: pnc.near_collapse_spectrum(
        num_classes=3, dim=6, samples_per_class=5, **AT
    ),
    "small_vicinity": lambda i: pnc.small_vicinity(NEAR, **AT),
    "small_vicinity_batch": lambda i: pnc.small_vicinity_batch(NEAR, **GRID),
    "minimize, cross-entropy": cross_entropy,
    "fit_regularization": lambda i: pnc.fit_regularization(*LAYERS[i].values()),
    "calibrate_depth": lambda i: pnc.calibrate_depth(LAYERS[i], lambda_w=0.05, lambda_h=0.0),
    "compare_layers": lambda i: pnc.compare_layers(LAYERS[i], name="net", pairs=False).to_dict(),
    "sweep": lambda i: pnc.sweep(SETS[i], lambda_w=[0.05, 0.1], lambda_h=0.1, beta=1.0).to_dict(),
}
SLOWER = {"fit_regularization": 24, "compare_layers": 24, "calibrate_depth": 60, "sweep": 60}
SLOWER |= {"minimize, cross-entropy": 60}


def bits(value):
    """Every number of a result, as bytes."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype == object else value.tobytes()
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value):
        names = [
            f.name for f in fields(value) if f.name not in ("problem", "seconds", "method", "clock")
        ]
        return [(name, bits(getattr(value, name))) for name in names]
    if isinstance(value, dict):
        return [(str(key), bits(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    if isinstance(value, frozenset | set):
        return sorted(map(repr, value))
    if not isinstance(value, str | bytes | int | float | complex | np.generic | None):
        raise TypeError(f"no bits of {type(value)}")
    return repr(value)


@pytest.mark.parametrize("threads", [2, 4])
def test_calls_of_every_verb_from_threads(threads, ledger):
    for name, verb in VERBS.items():
        calls = SLOWER.get(name, CALLS)
        alone = [bits(verb(i)) for i in range(3)]
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(lambda i=i, verb=verb: bits(verb(i % 3))) for i in range(calls)]
        for i, future in enumerate(futures):
            if (error := future.exception()) is not None:
                ledger.falls_by("tracebacks", f"{name}: {error!r}")
            elif future.result() != alone[i % 3]:
                ledger.falls_by("silent changes", name)
            else:
                ledger.ends("the same bits")
