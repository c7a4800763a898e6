"""Theories of depth: exact on networks of their own making, and blind to what is hidden."""

from functools import partial

import numpy as np
import pytest
from own_networks import FITTING, LAMBDA_W, NAMES, chain_of, path_of
from problems import random_problem

from perturb_nc.study.rivals import Stage
from perturb_nc.study.theories import THEORIES

pytestmark = pytest.mark.usefixtures("few_members")


@pytest.mark.parametrize(
    ("theory", "made", "exact"),
    [
        ("central_path", path_of, 1e-3),
        ("chain", chain_of, 2e-3),
        ("chain_placed", partial(chain_of, betas=(2.0, 5.0, 3.0)), 2e-3),
    ],
)
def test_a_theory_is_exact_on_a_network_of_its_own_making(start, theory, made, exact):
    stage = Stage(made(start), "nc1_span")
    view = stage.hide(["c"])
    found = THEORIES[theory].predict(view)
    assert found.parameters["lambda_w"] == LAMBDA_W
    assert found.given == {"b", "d"}
    for metric in ("nc1", "nc1_trace", "cdnv", "nc2_etf"):
        assert found.errors(stage, metric)["c"] < exact
    # Layers of another λ_W, 5 % off, are not met.
    bent = Stage(made(start, 1.05 * LAMBDA_W), "nc1_span")
    assert max(found.errors(bent, "nc1")["c"], found.errors(bent, "nc1_span")["c"]) > exact
    if theory != "central_path":
        wanted = 1.0 if theory == "chain" else 30 / 31
        assert found.parameters["beta"] == pytest.approx(wanted, rel=1e-2)
        assert found.parameters["spectral_ratio"] > 0


DEAR = "chain_decay"  # which searches in two parameters


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == DEAR else n for n in THEORIES]
)
def test_no_theory_sees_more_of_a_hidden_layer_than_it_says(start, name):
    """Another layer in its place changes nothing, once what a theory is told is the same."""
    layers = path_of(start)
    other = random_problem(seed=7, dim=6, num_classes=3).reduced.statistics
    changed = {**layers, "c": other}
    views = [Stage(of, "nc1_span").hide(["c"]) for of in (layers, changed)]
    assert "c" not in views[1].layers
    assert views[0].value("c") != views[1].value("c")
    theory = THEORIES[name]
    if theory.places:  # then it is told one number, and no more
        views[1] = Stage(
            views[1].layers,
            "nc1_span",
            values=views[0].values,
            displacements=views[0].displacements,
        )
    first, second = (theory.predict(view) for view in views)
    assert first.metrics.keys() == second.metrics.keys()
    if "c" in first.metrics:
        ours, theirs = (np.array(list(p.metrics["c"].as_dict().values())) for p in (first, second))
        np.testing.assert_array_equal(ours, theirs)


def test_layers_that_no_member_comes_by_are_not_predicted(start):
    rising = {n: start.moved(start.means, (1 + i) * start.within) for i, n in enumerate(NAMES)}
    view = Stage(rising, "nc1_span").hide(["c"])
    for name in FITTING:
        assert THEORIES[name].predict(view).metrics == {}
    # With two layers, the later one hidden, there is nothing to be fitted to.
    two = Stage({n: path_of(start)[n] for n in "ab"}, "nc1_span").hide(["b"])
    for name in FITTING:
        assert THEORIES[name].predict(two).metrics == {}
