"""Networks made by the theory itself: its predictions are exact there, and the rivals' are not."""

import numpy as np
import pytest
import torch
import xarray as xr
from own_networks import SETTING, anchored_chain, first_layer
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.show.report.tables import provenance
from perturb_nc.study.compare import compare_layers
from perturb_nc.study.comparison import MODELS, error_table, errors
from perturb_nc.study.misfit import residual
from perturb_nc.study.predict import predict_layers
from perturb_nc.study.rivals import RIVALS

LAMBDA_W = 0.1


def rotated(statistics, seed):
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    within = q @ statistics.within @ q.mT
    return statistics.moved(statistics.means @ q.mT, (within + within.mT) / 2)


@pytest.fixture(scope="module")
def on_the_path():
    """Layers on a central path, compared with its λ_W given and with it fitted."""
    times = [0.4, 1.0, 2.5, 4.0]
    path = pnc.central_path_flow(
        first_layer(), lambda_w=LAMBDA_W, lambda_h=0.0, times=times, rtol=1e-9
    )
    layers = {"start": first_layer()} | {f"t={t}": path.statistics(i) for i, t in enumerate(times)}
    return layers, times, compare_layers(layers, name="path", pairs=False)


@pytest.fixture(scope="module")
def chained():
    return compare_layers(anchored_chain(3), name="chain", lambda_w=LAMBDA_W)


def test_layers_on_a_path_are_predicted_by_it_and_not_by_the_rivals(on_the_path):
    _, times, table = on_the_path
    assert table["flow_time"].values[1:] == pytest.approx(times, rel=0.05)
    assert table["path_lambda_w"].values[1:] == pytest.approx(LAMBDA_W, rel=0.1)
    held_out = table["held_out"].sel(model="path")
    assert held_out.values.tolist() == [False, True, False, True, False]
    found = error_table([table]).isel(network=0)
    assert (found["judged"], found["layers"]) == (2, 2)
    judged = ["nc1", "nc1_trace", "cdnv", "nc2_etf", "top_eigenvalues"]
    of_path = found.sel(model="path", quantity=judged)
    assert of_path.max() < 5e-3
    for rival in RIVALS:
        beaten = found.sel(model=rival, quantity=judged) > 2 * of_path
        assert beaten.sum() >= 4, rival
    assert found.sel(model="pair").isnull().all()
    assert table["reason"].sel(model="pair").values[1] == "pairs were not asked for"


def test_measurements_and_simple_rivals_are_what_they_say(on_the_path):
    layers, _, table = on_the_path
    for name, statistics in layers.items():
        metrics = pnc.collapse_metrics(statistics)
        for quantity in table["quantity"].values:
            value = table["measured"].sel(layer=name, quantity=quantity).item()
            assert value == getattr(metrics, quantity)
        spectrum = table["spectrum"].sel(layer=name).values
        assert np.isnan(spectrum[8:]).all()
        assert spectrum[:8].sum() == pytest.approx(metrics.nc1_trace, rel=1e-12)
    before = table["measured"].isel(layer=slice(None, -1)).values
    unchanged = table["predicted"].sel(model="unchanged").isel(layer=slice(1, None)).values
    assert (unchanged == before).all()
    # Halfway in depth: the geometric mean of first and last.
    middle = table["predicted"].sel(model="interpolation").isel(layer=2)
    ends = table["measured"].isel(layer=[0, -1]).prod("layer") ** 0.5
    xr.testing.assert_allclose(middle.drop_vars(middle.coords), ends.drop_vars(ends.coords))
    shrunk = table["predicted_spectrum"].sel(model="shrinkage").isel(layer=1, index=slice(8))
    ratio = shrunk.values / table["spectrum"].isel(layer=0, index=slice(8)).values
    assert ratio == pytest.approx(ratio[0], rel=1e-10)


def test_a_chain_of_optima_gives_back_its_parameters(chained):
    layers = anchored_chain(3)
    for i, layer in enumerate(("layer.1", "layer.2")):
        assert chained["residual"].sel(layer=layer) < 1e-5
        assert chained["unchanged_residual"].sel(layer=layer) > 1e-2
        found = chained["regularization"].sel(layer=layer).values
        assert found == pytest.approx(list(SETTING.values()), rel=1e-2)
        before = layers[f"layer.{i}"]
        certificate = pnc.minimize(pnc.NearCollapseProblem(before, **SETTING)).certificate
        ratio, gap = (chained[name].sel(layer=layer).item() for name in ("spectral_ratio", "gap"))
        assert ratio == pytest.approx(certificate.spectral_ratio, rel=1e-2)
        assert gap == pytest.approx(certificate.gap, rel=5e-2)
        assert errors(chained).sel(model="pair", layer=layer).max() < 1e-4
    assert chained["fit_status"].values.tolist() == ["", "converged", "converged"]
    assert not chained["held_out"].sel(model="pair").any()
    reasons = chained["reason"].sel(layer="layer.0").values.tolist()
    assert reasons == ["the first layer of its width"] * len(MODELS)


def test_parameters_of_one_network_predict_another(chained):
    layers = anchored_chain(3, seed=4)
    table = compare_layers(layers, name="other", parameters=chained)
    assert table.attrs["parameters_from"] == "chain"
    assert table["held_out"].sel(model="pair").values.tolist() == [False, True, True]
    assert table["held_out"].sel(model="path").values.tolist() == [False, True, True]
    assert (table["path_lambda_w"].values[1:] == LAMBDA_W).all()
    assert errors(table).sel(model="pair").max() < 1e-3
    assert (table["residual"].values[1:] < 1e-3).all()
    assert error_table([table]).sel(model="pair").notnull().all()
    # Parameters 1 % off are seen.
    bent = chained.copy(deep=True)
    bent["regularization"] *= 1.01
    worse = compare_layers(layers, name="other", parameters=bent)
    assert (worse["residual"].values[1:] > 10 * table["residual"].values[1:]).all()


def test_optima_at_chosen_parameters_are_taken_as_they_are(chained):
    layers = anchored_chain(3)
    made = predict_layers(layers, **SETTING)
    table = compare_layers(layers, name="chosen", lambda_w=LAMBDA_W, predictions=made)
    assert table["fit_status"].values.tolist() == ["", "given", "given"]
    assert table["held_out"].sel(model="pair").values.tolist() == [False, True, True]
    assert table["regularization"].values[1:].tolist() == [[*SETTING.values()]] * 2
    predicted = table["predicted"].sel(model="pair", layer="layer.2", quantity="nc1")
    assert predicted == made["layer.1"].predicted.nc1
    assert table["residual"].values[1:].max() < 1e-8
    certificate = made["layer.0"].solution.certificate
    assert table["gap"].sel(layer="layer.1") == certificate.gap
    for other, message in (
        ({"parameters": chained}, "predictions have parameters of their own"),
        ({"predictions": {}}, "'layer.0' is missing"),
        ({"predictions": predict_layers(anchored_chain(3), **SETTING)}, "made from these layers"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_layers(layers, name="n", **{"predictions": made, **other})


def test_layers_in_bases_of_their_own_are_aligned_before_a_pair_is_fitted(chained):
    layers = {name: rotated(s, i) for i, (name, s) in enumerate(anchored_chain(2).items())}
    aligned = compare_layers(layers, name="turned", lambda_w=LAMBDA_W, align_layers=True)
    raw = compare_layers(layers, name="turned", lambda_w=LAMBDA_W)
    # The means leave the basis open outside their span, so that Σ_W does not come back entirely.
    assert (aligned["residual"].values[1:] < 0.7 * raw["residual"].values[1:]).all()
    straight = chained.isel(layer=slice(2))
    xr.testing.assert_allclose(aligned["measured"], straight["measured"], rtol=1e-8)
    path = {"model": "path"}
    xr.testing.assert_allclose(
        aligned["predicted"].sel(path), straight["predicted"].sel(path), rtol=1e-4
    )
    assert aligned.attrs["align"] == "true"


def test_widths_are_compared_apart_and_every_hole_has_a_reason():
    wide = random_problem(seed=2, dim=9, num_classes=3, counts=(9, 5, 7)).reduced.statistics
    collapsing = first_layer()
    backwards = collapsing.moved(collapsing.means, 1.5 * collapsing.within)
    layers = {"conv": wide, "a": collapsing, "b": backwards}
    done = []
    table = compare_layers(
        layers, name="n", lambda_w=LAMBDA_W, pairs=False, progress=lambda *at: done.append(at)
    )
    assert table["stage"].values.tolist() == [0, 1, 1]
    assert done == [(1, 1)]
    reason = table["reason"]
    assert (reason.sel(layer="conv") == "no other layer of its width").all()
    assert (reason.sel(layer="a") == "the first layer of its width").all()
    assert reason.sel(layer="b", model="path") == "the path does not come by its nc1_span"
    missing = table["predicted"].sel(quantity="nc1").isnull()
    assert (missing == (reason != "")).all()
    assert np.isnan(table["flow_time"].sel(layer="b"))
    assert error_table([table])["judged"].item() == 0


def test_misfit_is_the_residual_of_the_fit():
    before, after = anchored_chain(2).values()
    found = pnc.fit_regularization(before, rotated(after, 3), lambda_h=0.02, beta=2.0)
    again = residual(found.solution.statistics, rotated(after, 3))
    assert again == pytest.approx(found.residual, rel=1e-12)


def test_intervals_stand_beside_the_measurements():
    layers = anchored_chain(2)
    quantities = ["nc1", "cdnv"]
    given = xr.DataArray(
        [[[1.0, 2.0]], [[3.0, 4.0]]],
        dims=("bound", "layer", "quantity"),
        coords={"bound": ["low", "high"], "layer": ["layer.1"], "quantity": quantities},
    )
    table = compare_layers(layers, name="n", lambda_w=LAMBDA_W, pairs=False, intervals=given)
    kept = table["interval"]
    assert kept.sel(layer="layer.1", quantity="cdnv").values.tolist() == [2.0, 4.0]
    assert kept.sel(layer="layer.0").isnull().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "nc2_etf"}, "metric must be one of"),
        ({"lambda_w": -1.0}, "lambda_w must be > 0"),
        ({"lambda_h": float("nan")}, "lambda_h must be"),
        ({"fit": ["head"]}, r"fit must name layers, got \['head'\]"),
        ({"lambda_w": 0.1, "parameters": True}, "parameters gives λ_W already"),
    ],
)
def test_bad_arguments_are_named_before_any_work(chained, changes, message):
    if "parameters" in changes:
        changes["parameters"] = chained
    with pytest.raises(ValueError, match=message):
        compare_layers(
            anchored_chain(2), name="n", **changes, progress=lambda *_: pytest.fail("worked")
        )


def test_layers_that_do_not_belong_together_are_refused(chained):
    with pytest.raises(ValueError, match="layers must hold at least one"):
        compare_layers({}, name="n")
    other = random_problem(seed=0, dim=8).reduced.statistics
    with pytest.raises(ValueError, match="must share one set of classes"):
        compare_layers({"a": first_layer(), "b": other}, name="n")
    with pytest.raises(ValueError, match=r"\['b'\] are not in"):
        compare_layers({"layer.0": first_layer(), "b": first_layer()}, name="n", parameters=chained)
    wide = random_problem(seed=2, dim=9, num_classes=3, counts=(9, 5, 7)).reduced.statistics
    apart = compare_layers({"layer.0": wide, "layer.1": first_layer()}, name="apart")
    with pytest.raises(ValueError, match="no λ_W of a path"):
        compare_layers(anchored_chain(2), name="n", parameters=apart)


def test_a_comparison_says_where_samples_are_few():
    torch.manual_seed(0)
    labels = torch.arange(400) % 2
    means = 9 * torch.eye(2, 4, dtype=torch.float64)
    few, many = (torch.randn(n, 4, dtype=torch.float64) + means[labels[:n]] for n in (6, 400))
    layers = {"a": pnc.ClassStatistics.from_features(few, labels[:6])}
    found = pnc.compare_layers(layers, name="few", pairs=False)
    said = provenance(found)["finite sample"]
    assert said.startswith("1 of 1 layers, as a: few samples for their spread (n >= 3 a class")
    layers = {"a": pnc.ClassStatistics.from_features(many, labels)}
    assert pnc.compare_layers(layers, name="many", pairs=False).attrs["sampling"] == ""
