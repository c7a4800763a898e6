import math

import numpy as np
import pytest
from own_networks import FITTING, LAMBDA_W, path_of
from problems import random_problem

from perturb_nc.metrics.covariance import span_spectrum
from perturb_nc.study.bench import IN_SPAN, OUT_OF_SPAN, bench_table, standings, theories_of_depth
from perturb_nc.study.compare import compare_layers
from perturb_nc.study.comparison import TOP, errors
from perturb_nc.study.rivals import RIVALS
from perturb_nc.study.straight_line import straightness_of_means
from perturb_nc.study.theories import THEORIES

pytestmark = pytest.mark.usefixtures("few_members")


@pytest.fixture(scope="module")
def bench(start):
    wide = random_problem(seed=3, dim=7, num_classes=3).reduced.statistics
    return theories_of_depth({**path_of(start), "wide": wide}, name="path")


def test_the_bench_leaves_every_layer_out_in_its_turn(bench):
    assert bench["layer"].values.tolist() == ["b", "c", "d"]
    assert bench["model"].values.tolist() == list(THEORIES)
    known = bench["predicted"].sel(quantity="nc1").notnull()
    assert known.sel(model="central_path").all()
    assert known.sel(model="interpolation").values.tolist() == [True, True, False]
    assert not known.sel(model="straight_line").any()
    assert (bench["parameters"].sel(model="central_path", parameter="lambda_w") == LAMBDA_W).all()
    assert bench.attrs["status"] == "FINISHED"


def test_the_span_is_judged_by_itself(bench, start):
    error = errors(bench).sel(quantity="span_eigenvalues", layer="c")
    layers = path_of(start)
    found = [span_spectrum(layers[name])[:TOP].log() for name in "bc"]
    wanted = (found[1] - found[0]).abs().median().item()
    assert error.sel(model="unchanged").item() == pytest.approx(wanted, rel=0.2)
    assert error.sel(model="central_path") < 1e-3
    assert set(IN_SPAN) | set(OUT_OF_SPAN) == set(errors(bench)["quantity"].values)


def test_the_bench_says_how_straight_the_way_is(bench, start):
    way = straightness_of_means(path_of(start))
    assert bench.attrs["way_of"] == "class means"
    assert bench["line_shape"].values == pytest.approx(way.line_shape)
    assert bench["off_line"].values == pytest.approx(way.off_line[1:])


def test_the_bench_has_the_rivals_of_a_comparison(bench, start):
    wide = random_problem(seed=3, dim=7, num_classes=3).reduced.statistics
    layers = {**path_of(start), "wide": wide}
    table = compare_layers(layers, name="path", lambda_w=LAMBDA_W, pairs=False)
    shared = {"layer": bench["layer"].values, "quantity": table["quantity"].values}
    for rival in RIVALS:
        ours = bench["predicted"].sel(model=rival, **shared).values
        theirs = table["predicted"].sel(model=rival, **shared).values
        if rival == "interpolation":  # a comparison gives it the last layer
            ours, theirs = ours[:-1], theirs[:-1]
        np.testing.assert_array_equal(ours, theirs)
    # And the errors of a comparison are those of its bench, layer by layer.
    ours, theirs = errors(bench), errors(table)
    at = {"model": "unchanged", "layer": ["b", "c"], "quantity": ["nc1", "top_eigenvalues"]}
    np.testing.assert_array_equal(ours.sel(at).values, theirs.sel(at).values)


def test_a_bench_has_its_time(start):
    said = []
    table = theories_of_depth(
        path_of(start), name="x", time_limit=1e-9, progress=lambda *n: said.append(n)
    )
    assert table.attrs["status"] == "TIME_LIMIT"
    assert said == [(1, 3), (2, 3), (3, 3)]
    known = table["predicted"].sel(quantity="nc1").notnull().any("layer")
    assert not known.sel(model=list(FITTING)).any()
    assert known.sel(model=["equi_separation", "local", "unchanged"]).all()
    with pytest.raises(ValueError, match="time_limit must be > 0"):
        theories_of_depth(path_of(start), name="x", time_limit=0)


def test_the_table_judges_all_on_the_same_layers(bench):
    alone = bench.isel(layer=[0]).assign_coords(network=("layer", ["alone"]))
    assert bench_table([bench, alone])["layers"].values.tolist() == [3, 1]
    table = bench_table([bench])
    assert (table["judged"].item(), table["layers"].item()) == (2, 3)  # not the last
    error = table["error"].sel(network="path")
    expected = [
        abs(
            math.log(
                bench["predicted"].sel(model="unchanged", layer=n, quantity="nc1")
                / bench["measured"].sel(layer=n, quantity="nc1")
            )
        )
        for n in "bc"
    ]
    assert error.sel(model="unchanged", quantity="nc1").item() == pytest.approx(np.mean(expected))
    assert error.sel(model="central_path", quantity="nc1") < 1e-3
    assert error.sel(quantity="nc1_span").isnull().all()  # it places the layers
    assert error.sel(model="straight_line").isnull().all()  # it predicts too few
    found = standings(table)
    at = {"model": "central_path", "quantity": "nc1"}
    assert [found[v].sel(at).item() for v in ("best", "shared", "of")] == [1, 0, 1]


def test_a_tie_is_counted_as_one(bench):
    table = bench_table([bench])
    level = table.assign(error=table["error"].where(table["error"].isnull(), 0.5))
    found = standings(level).sel(quantity="nc1", model="central_path")
    assert [found[v].item() for v in ("best", "shared", "of")] == [0, 1, 1]


def test_bad_benches_are_refused(start, bench):
    with pytest.raises(ValueError, match="layers must hold two of one width"):
        theories_of_depth({"a": start}, name="x")
    with pytest.raises(ValueError, match="metric must be one of"):
        theories_of_depth(path_of(start), name="x", metric="nc2_etf")
    with pytest.raises(ValueError, match="benches must hold one or more of one metric"):
        bench_table([])
