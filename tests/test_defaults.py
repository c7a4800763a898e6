"""Results do not depend on torch's default dtype and device."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import perturb_nc as pnc
from perturb_nc.measure.reductions import random_projection
from perturb_nc.metrics import samples
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem
from perturb_nc.theory.deep.anchored import AnchoredDeepProblem
from perturb_nc.theory.deep.collapse import deep_collapse_optimum
from perturb_nc.theory.deep.gradient_descent import gradient_descent
from perturb_nc.theory.deep.minimize_anchored import minimize_anchored
from perturb_nc.theory.deep.strongly_regular import strongly_regular_solution
from perturb_nc.theory.deep.ufm import DeepUFM

PACKAGE = Path(pnc.__file__).parent
KEYS = {"lambda_w": 0.05, "lambda_h": 0.02}
LABELS = [0, 1, 2] * 12
GENERATOR = np.random.default_rng(0)
FEATURES = np.eye(3, 6)[LABELS] + 0.2 * GENERATOR.standard_normal((36, 6)) + 1e4
NEAR = FEATURES - 1e4


def statistics():
    return pnc.ClassStatistics.from_features(NEAR.copy(), np.array(LABELS))


def problem(**changed):
    return pnc.NearCollapseProblem(statistics(), **{**KEYS, "beta": 0.7, **changed})


def optimum():
    return pnc.minimize(problem())


def linear_response():
    response = pnc.linear_response(optimum(), NEAR.copy(), np.array(LABELS))
    return response.apply(NEAR[::-1].copy()), response.apply(NEAR.copy(), order="large_beta")


def batch():
    settings = {"lambda_w": [0.05, 0.1], "lambda_h": [0.02, 0.01], "beta": [0.7, 0.1]}
    wide = pnc.ClassStatistics.from_features(
        np.pad(NEAR, ((0, 0), (0, 64))) + 0.1 * np.cos(np.arange(36 * 70.0)).reshape(36, 70),
        np.array(LABELS),
    )
    found = pnc.minimize_batch(wide, **settings)
    return found.metrics, found.objective, found.gap, found.derivatives()


def network():
    own = {"device": "cpu", "dtype": torch.float32}
    layers = [torch.nn.Linear(6, 5, **own), torch.nn.ReLU(), torch.nn.Linear(5, 3, **own)]
    model = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            steps = torch.arange(parameter.numel(), dtype=torch.float32, device="cpu")
            parameter.copy_((steps + i).cos().view_as(parameter))
    return model


def loader():
    inputs = torch.tensor(NEAR, dtype=torch.float32, device="cpu")
    labels = torch.tensor(LABELS, device="cpu")
    return [(inputs[i::2], labels[i::2]) for i in range(2)]


def frames():
    return pnc.exact_collapse(num_classes=3, dim=6, **KEYS, bias=True), pnc.exact_collapse(
        num_classes=3, dim=6, **KEYS
    ).statistics(4)


def deep_training():
    model = DeepUFM(LABELS, (4, 4), lambdas=5e-3, lambda_h=5e-3, seeds=[0, 1])
    return gradient_descent(model, learning_rate=0.1, max_steps=20), model.collapse()


def anchored():
    deep = AnchoredDeepProblem(statistics(), num_layers=2, **KEYS, beta=0.7)
    return minimize_anchored(deep)


def cross_entropy():
    options = {"label_smoothing": 0.1, "class_weights": (1.0, 2.0, 0.5)}
    own = pnc.CrossEntropyProblem(NEAR.tolist(), LABELS, **KEYS, beta=0.7, **options)
    solution = pnc.minimize(own)
    return solution, pnc.certify(own, NEAR[:3].tolist()), solution.features(NEAR.copy(), LABELS)


VERBS = {
    "cross-entropy": cross_entropy,
    "nested lists": lambda: pnc.collapse_metrics(
        pnc.ClassStatistics.from_features(FEATURES.tolist(), LABELS), NEAR[:3].tolist()
    ),
    "stable_rank": lambda: samples.stable_rank(NEAR.tolist(), LABELS),
    "nc4": lambda: samples.nc4_accuracy(statistics(), NEAR.tolist(), LABELS),
    "minimize": optimum,
    "minimize with bias": lambda: pnc.minimize(problem(), initial_weight=NEAR[:3].tolist()),
    "certify": lambda: pnc.certify(problem(), NEAR[:3].tolist()),
    "hyperparameter_response": lambda: pnc.hyperparameter_response(optimum()),
    "linear_response": linear_response,
    "minimize_batch": batch,
    "small_vicinity": lambda: pnc.small_vicinity(statistics(), **KEYS, beta=5.0),
    "small_vicinity with bias": lambda: pnc.small_vicinity(
        statistics(), **KEYS, beta=5.0, bias=True
    ),
    "exact_collapse": frames,
    "near_collapse_spectrum": lambda: pnc.near_collapse_spectrum(
        num_classes=3, dim=6, samples_per_class=4, **KEYS, beta=0.7
    ),
    "central_path_flow": lambda: pnc.central_path_flow(statistics(), **KEYS, times=[0.0, 0.5, 3.0]),
    "anchored flow": lambda: pnc.central_path_flow(
        statistics(), **KEYS, times=[0.0, 2.0], beta=0.3
    ),
    "cascade": lambda: pnc.cascade(statistics(), **KEYS, betas=[3.0, 2.0]),
    "fit_regularization": lambda: pnc.fit_regularization(
        statistics(), optimum().statistics, lambda_w=0.05, lambda_h=0.02
    ),
    "calibrate_depth": lambda: pnc.calibrate_depth(
        {"a": statistics(), "b": optimum().statistics}, lambda_h=0.02
    ),
    "sweep": lambda: pnc.sweep(
        statistics(), lambda_w=[0.05], lambda_h=[0.02], beta=[0.5, 1.0], flow_times=[1.0]
    ),
    "compare_layers": lambda: pnc.compare_layers(
        {
            "a": statistics(),
            "b": optimum().statistics,
            "c": pnc.minimize(problem(beta=0.1)).statistics,
        },
        name="net",
        lambda_w=0.05,
        lambda_h=0.02,
    ),
    "cross entropy": lambda: pnc.minimize(
        CrossEntropyProblem(NEAR.copy(), np.array(LABELS), **KEYS, beta=0.7)
    ),
    "cross-entropy response": lambda: pnc.linear_response(
        pnc.minimize(CrossEntropyProblem(NEAR.copy(), np.array(LABELS), **KEYS, beta=0.7)),
        NEAR.copy(),
        np.array(LABELS),
    ).apply(NEAR[::-1].copy()),
    "align": lambda: pnc.align(optimum().statistics, statistics()),
    "sampling_intervals": lambda: pnc.sampling_intervals({"a": NEAR.copy()}, np.array(LABELS)),
    "collect_statistics": lambda: pnc.collect_statistics(network(), loader()),
    "random_projection": lambda: pnc.collect_statistics(
        network(), loader(), reduce=random_projection(2)
    ),
    "span": lambda: pnc.collect_statistics(network(), loader(), covariance="span"),
    "nearest_mean_scores": lambda: pnc.nearest_mean_scores(
        network(), loader(), pnc.collect_statistics(network(), loader())
    ),
    "deep_collapse_optimum": lambda: deep_collapse_optimum(
        num_layers=3, num_classes=3, samples_per_class=[4, 5, 6], lambdas=5e-3, lambda_h=5e-4
    ).parameters((4, 5, 6)),
    "strongly_regular_solution": lambda: strongly_regular_solution(
        num_layers=3, num_classes=6, samples_per_class=2, lambdas=5e-3, lambda_h=5e-4
    ).parameters((7, 7, 7)),
    "deep training": deep_training,
    "minimize_anchored": anchored,
}


SLOW = ("compare_layers", "fit_regularization", "calibrate_depth", "minimize_anchored")
names = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in VERBS]
)
pytestmark = pytest.mark.usefixtures("unchecked")  # many verbs; types are checked by their tests


def numbers(value):
    """All numbers of a result, bit for bit."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), value.cpu().numpy().tobytes())
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.tobytes())
    if isinstance(value, xr.Dataset):
        return [numbers(value[name].values) for name in value if value[name].dtype != object]
    if dataclasses.is_dataclass(value):
        return [numbers(getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(item) for item in value]
    return repr(value)


@pytest.fixture(scope="module")
def usual():
    """What every verb gives under the usual defaults, computed once."""
    return {}


@names
@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str
)
def test_the_default_dtype_changes_nothing(name, dtype, usual):
    verb = VERBS[name]
    if name not in usual:
        usual[name] = numbers(verb())
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        found = numbers(verb())
    finally:
        torch.set_default_dtype(before)
    assert found == usual[name]


@names
def test_the_default_device_changes_nothing(name, usual):
    """Nothing that is made on the "meta" device has numbers, so that no result could be."""
    verb = VERBS[name]
    if name not in usual:
        usual[name] = numbers(verb())
    with torch.device("meta"):
        found = numbers(verb())
    assert found == usual[name]


def test_what_is_made_of_numbers_says_its_dtype_and_what_is_drawn_its_device():
    floats = {"empty", "eye", "linspace", "logspace", "ones", "rand", "randn", "zeros"}
    drawn = {"rand", "randn", "randint", "randperm"}
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if not isinstance(node, ast.Call):
                continue
            maker = ast.unparse(node.func).removeprefix("torch.")
            said = {keyword.arg for keyword in node.keywords}
            if (maker in floats and "dtype" not in said) or (
                maker in drawn and "device" not in said
            ):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}")
    assert found == []
