"""Studies with cross-entropy: the same answers as the theory gives for the same samples."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from dense_cross_entropy import dense_cross_entropy

import perturb_nc as pnc
from perturb_nc.layer_samples import LayerSamples
from perturb_nc.show.explore.page import predicted
from perturb_nc.show.explore.scales import SCALES
from perturb_nc.study.explorer import Explorer, FirstAnswer
from perturb_nc.study.losses import LOSSES
from perturb_nc.study.misfit import Misfit
from perturb_nc.study.models import model_of, read_layers
from perturb_nc.study.predict import predict_layers
from perturb_nc.theory.clock import Clock
from perturb_nc.theory.cross_entropy.vicinity import cross_entropy_vicinity

STRENGTHS = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 0.5}
fast = pytest.mark.usefixtures("unchecked")  # many solves, types checked by the other tests


def samples(seed=0):
    dense = dense_cross_entropy(seed=seed, num_classes=3, dim=5, counts=(9, 6, 7))
    return LayerSamples(dense.reference, dense.labels)


def after(layer, **changed):
    """What cross-entropy makes of a layer, sample by sample."""
    problem = pnc.CrossEntropyProblem(
        layer.features, layer.labels, **{**STRENGTHS, **changed}, bias=False
    )
    return LayerSamples(pnc.minimize(problem, tol=1e-12).features(layer.features, layer.labels),
                        layer.labels)  # fmt: skip


def test_a_loss_that_needs_samples_says_so():
    statistics = samples().statistics
    with pytest.raises(ValueError, match="reference holds no samples, which the loss cross-entro"):
        pnc.fit_regularization(statistics, statistics, loss="cross-entropy")
    with pytest.raises(ValueError, match="layer 'a' holds no samples"):
        pnc.compare_layers({"a": statistics}, name="x", loss="cross-entropy")
    with pytest.raises(ValueError, match="loss must be one of squared, cross-entropy, got 'hinge'"):
        model_of(statistics, "hinge")


TRAINED = "cross-entropy:label_smoothing=0.1,class_weights=1/2/0.5"


@fast
def test_label_smoothing_and_class_weights_are_those_of_the_problem(tmp_path):
    layer = samples()
    model = model_of(layer, TRAINED, bias=True)
    expected = pnc.CrossEntropyProblem(
        layer.features,
        layer.labels,
        **STRENGTHS,
        label_smoothing=0.1,
        class_weights=(1.0, 2.0, 0.5),
    )
    problem = model.problem(**STRENGTHS)
    optimum = pnc.minimize(expected)
    assert pnc.minimize(problem).objective == pytest.approx(optimum.objective, rel=1e-12)
    assert model.made(problem)
    assert not model_of(layer, "cross-entropy", bias=True).made(problem)
    # In every study that takes a loss.
    options = {"loss": TRAINED, "bias": True}
    table = pnc.sweep(layer, **STRENGTHS, **options, store=tmp_path / "s")
    assert float(table["objective"].squeeze()) == pytest.approx(optimum.objective, rel=1e-12)
    again = pnc.sweep(layer, **STRENGTHS, **options, store=tmp_path / "s")
    assert float(again["objective"].squeeze()) == float(table["objective"].squeeze())
    found = predict_layers({"a": layer}, **STRENGTHS, **options)["a"].solution
    assert found.objective == pytest.approx(optimum.objective, rel=1e-12)
    assert Explorer({"a": layer}, **options).optimum("a", **STRENGTHS).solution.objective == (
        pytest.approx(optimum.objective, rel=1e-9)
    )
    observed = LayerSamples(optimum.features(layer.features, layer.labels), layer.labels)
    fit = pnc.fit_regularization(layer, observed, lambda_h=STRENGTHS["lambda_h"], **options)
    assert fit.beta == pytest.approx(STRENGTHS["beta"], rel=1e-3)
    with pytest.raises(ValueError, match="class_weights have no collapsed optimum"):
        model.near(**STRENGTHS)
    with pytest.raises(ValueError, match="class_weights of the loss must be 3, one a class of the"):
        model_of(layer, "cross-entropy:class_weights=1/2")


@fast
@pytest.mark.parametrize("loss", LOSSES)
def test_the_jacobian_of_a_misfit_is_central_differences(loss):
    layer = samples()
    misfit = Misfit(model_of(layer, loss, bias=True), after(layer).statistics, {})
    x, h = np.log([0.03, 0.05, 0.8]), 1e-4
    jacobian = misfit.jacobian(x)
    for i, unit in enumerate(np.eye(3)):
        expected = (misfit.residuals(x + h * unit) - misfit.residuals(x - h * unit)) / (2 * h)
        error, size = np.linalg.norm(jacobian[:, i] - expected), np.linalg.norm(expected)
        assert error < 1e-5 * size
        assert np.linalg.norm(1.01 * jacobian[:, i] - expected) > 1e-5 * size


@pytest.mark.slow
@fast
def test_a_fit_with_cross_entropy_finds_what_made_the_features():
    layer = samples()
    fit = pnc.fit_regularization(
        layer, after(layer), loss="cross-entropy", lambda_h=STRENGTHS["lambda_h"]
    )
    for name, value in STRENGTHS.items():
        assert getattr(fit, name) == pytest.approx(value, rel=1e-6)
    assert fit.status is pnc.Status.CONVERGED
    assert fit.residual < 1e-8
    squared = pnc.fit_regularization(layer, after(layer), lambda_h=STRENGTHS["lambda_h"])
    assert squared.residual > 0.02  # the other loss does not explain them
    low, high = fit.interval("beta")
    assert low <= fit.beta <= high


@fast
def test_a_comparison_with_cross_entropy_holds_its_optima():
    first = samples()
    layers = {"a": first, "b": after(first), "c": after(after(first))}
    made = predict_layers(layers, loss="cross-entropy", **STRENGTHS)
    table = pnc.compare_layers(
        layers, name="made", loss="cross-entropy", lambda_w=0.1, predictions=made
    )
    assert table.attrs["loss"] == "cross-entropy"
    assert table["residual"].values[1:].max() < 1e-8
    assert table["unchanged_residual"].values[1:].min() > 0.05
    measured = pnc.collapse_metrics(layers["c"].statistics).nc1
    assert table["measured"].sel(layer="c", quantity="nc1") == measured
    with pytest.raises(ValueError, match="predictions must be made from these layers"):
        pnc.compare_layers(layers, name="made", predictions=made)
    moved = pnc.compare_layers(layers, name="fit", loss="cross-entropy", parameters=table)
    assert moved["residual"].values[1:].max() < 1e-8


def test_optima_of_many_settings_are_those_of_one():
    layer, setting = samples(), dict(STRENGTHS)
    model = model_of(layer, "cross-entropy", bias=True)
    found = model.optima([setting, {**setting, "beta": 0.0}], tol=1e-11, clock=Clock())
    problem = pnc.CrossEntropyProblem(layer.features, layer.labels, **setting)
    alone = pnc.minimize(problem, tol=1e-11)
    response = pnc.hyperparameter_response(alone)
    assert found.numbers["objective"][0] == alone.objective
    assert found.metrics["nc1"][0] == pnc.collapse_metrics(alone.statistics, alone.weight).nc1
    for i, name in enumerate(STRENGTHS):
        slope = setting[name] * response.metrics[name]["nc1"]
        assert found.derivatives["nc1"][0, i].item() == pytest.approx(slope, rel=1e-9)
    assert found.derivatives["objective"][1].isnan().all()  # β = 0 has a continuum of optima
    assert found.singular_values.shape == (2, 3)


def test_layers_are_read_for_their_loss(tmp_path):
    layer, path = samples(), tmp_path / "f.npz"
    np.savez(path, a=layer.features.numpy(), y=layer.labels.numpy())
    found = read_layers(path, "cross-entropy", labels_key="y")["a"]
    assert torch.equal(found.features, layer.features)
    with pytest.raises(ValueError, match="as 'labels', for the loss cross-entropy; got arrays"):
        read_layers(path, "cross-entropy")
    kept = tmp_path / "s.safetensors"
    pnc.save_layers({"a": layer.statistics}, kept, samples={"a": layer})
    assert torch.equal(read_layers(kept, "cross-entropy")["a"].labels, layer.labels)
    torch.testing.assert_close(read_layers(kept, "squared")["a"].means, layer.statistics.means)


@fast
def test_a_sweep_with_cross_entropy_is_its_optima_and_resumes(tmp_path):
    layer, axes = samples(), {"lambda_w": [0.02, 0.1], "lambda_h": 0.02, "beta": 0.5}
    store = tmp_path / "store"
    with ThreadPoolExecutor(1) as pool:
        table = pnc.sweep(
            layer, **axes, loss="cross-entropy", bias=True, executor=pool, store=store, chunk=1
        )
    for i, w in enumerate(axes["lambda_w"]):
        problem = pnc.CrossEntropyProblem(
            layer.features, layer.labels, **{**STRENGTHS, "lambda_w": w}
        )
        at = table.isel(lambda_w=i).squeeze()
        solution = pnc.minimize(problem)
        assert float(at["objective"]) == pytest.approx(solution.objective, rel=1e-14)
        assert float(at["nc1"]) == pytest.approx(solution.metrics.nc1, rel=1e-8)
    seen = []
    again = {**axes, "loss": "cross-entropy", "bias": True, "store": store, "chunk": 1}
    pnc.sweep(layer, **again, progress=lambda *done: seen.append(done))
    assert seen == [(2, 2)]
    with pytest.raises(ValueError, match="a sweep with other statistics_sha256"):
        pnc.sweep(samples(1), **again)
    with pytest.raises(ValueError, match="a sweep with other statistics_sha256, loss"):
        pnc.sweep(layer, **{**again, "loss": "squared"})
    for wrong, message in (
        ({"method": "vicinity"}, "method vicinity is of the squared loss alone"),
        ({"flow_times": [1.0]}, "flow_times is of the squared loss alone"),
    ):
        with pytest.raises(ValueError, match=message):
            pnc.sweep(layer, **axes, loss="cross-entropy", **wrong)


def test_the_explorer_shows_the_optimum_of_its_loss():
    layer = samples()
    explorer = Explorer({"a": layer, "b": after(layer)}, loss="cross-entropy", bias=True, tol=1e-10)
    found = explorer.optimum("a", **STRENGTHS)
    problem = pnc.CrossEntropyProblem(layer.features, layer.labels, **STRENGTHS)
    assert found.solution.objective == pytest.approx(pnc.minimize(problem).objective, rel=1e-12)
    near = explorer.optimum("a", **{**STRENGTHS, "beta": 0.55})  # from the one before
    assert near.solution.status is pnc.Status.CONVERGED
    first = explorer.first_answer("a", **STRENGTHS)
    assert first.near.remainder == cross_entropy_vicinity(problem).remainder
    start = {name: scale.start for name, scale in SCALES.items()}
    answer = predicted(explorer, "a", start, exact=False)
    assert isinstance(answer.optimum, FirstAnswer)
    answer = predicted(explorer, "a", start, exact=True)
    assert answer.is_final
    assert answer.optimum.solution.certificate.is_global
    with pytest.raises(ValueError, match="layer 'a' holds no samples"):
        Explorer({"a": layer.statistics}, loss="cross-entropy")
