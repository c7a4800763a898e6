import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from problems import near_collapse

import perturb_nc as pnc

CASES = {
    "plain": {},
    "bias": {"bias": True},
    "imbalanced": {"uneven": 1.0},
    "imbalanced, bias": {"uneven": 1.0, "bias": True},
    "two classes": {"num_classes": 2, "dim": 5},
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
LAMBDA_W, LAMBDA_H, BETA = np.array([0.05, 0.3, 1.0]), np.array([0.2, 0.4]), 0.7


def batch(statistics, bias, **change):
    setting = {"lambda_w": LAMBDA_W[:, None], "lambda_h": LAMBDA_H, "beta": BETA, **change}
    return pnc.small_vicinity_batch(statistics, **setting, bias=bias)


@cases
def test_a_batch_is_the_single_predictions(case):
    statistics, _, bias = near_collapse(0.05, **case)
    found = batch(statistics, bias)
    assert found.distance.shape == (3, 2)
    for i, w in enumerate(LAMBDA_W):
        for j, h in enumerate(LAMBDA_H):
            setting = {"lambda_w": w, "lambda_h": h, "beta": BETA}
            single = pnc.small_vicinity(statistics, **setting, bias=bias)
            assert found.distance[i, j].item() == pytest.approx(single.distance, rel=1e-10)
            for name in ("nc1_trace", "nc2_etf"):
                value = getattr(single.metrics, name)
                assert found.metrics[name][i, j].item() == pytest.approx(value, rel=1e-9, abs=1e-12)
                for parameter, size in setting.items():
                    slope = found.derivatives[name][parameter][i, j].item() / size
                    expected = single.derivatives.metrics[parameter][name]
                    assert slope == pytest.approx(expected, rel=1e-7, abs=1e-11, nan_ok=True)


@cases
def test_nc1_leaves_out_the_third_order(case):
    steps, gaps = np.array([4e-3, 2e-3]), []
    for step in steps:
        statistics, setting, bias = near_collapse(step, **case)
        single = pnc.small_vicinity(statistics, **setting, bias=bias)
        found = pnc.small_vicinity_batch(statistics, **setting, bias=bias)
        row = [found.metrics["nc1"].item() - single.metrics.nc1]
        row += [
            found.derivatives["nc1"][p].item() / size - single.derivatives.metrics[p]["nc1"]
            for p, size in setting.items()
        ]
        gaps.append(np.abs(row))
    orders = np.diff(np.log2(gaps), axis=0)[0] * -1
    assert orders[[0, 3]].min() > 2.9  # in β, too; λ_W and λ_H move the point of expansion
    assert orders[1:3].min() > 1.9


def test_settings_without_an_optimum_near_a_frame_are_undefined():
    statistics, _, bias = near_collapse(0.05)
    found = batch(statistics, bias, lambda_w=np.array([0.3, 2.5, 4.0]), lambda_h=0.4)
    for values in (*found.metrics.values(), found.derivatives["nc1"]["beta"]):
        assert values.isfinite().tolist() == [True, False, False]
    exact = pnc.exact_collapse(num_classes=3, dim=5, lambda_w=0.1, lambda_h=0.2).statistics(4)
    found = pnc.small_vicinity_batch(exact, lambda_w=0.1, lambda_h=0.2, beta=1.0)
    assert found.metrics["nc1"].item() == 0
    assert found.metrics["nc2_etf"].item() < 1e-14


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_refused_by_name():
    statistics, _, bias = near_collapse(0.05)
    for value, shown in ((-0.1, "-0.1"), (0.0, "0.0"), (math.nan, "nan")):
        with pytest.raises(ValueError, match=f"beta must be > 0 and finite, got {shown}"):
            batch(statistics, bias, beta=[1.0, value])
    with pytest.raises(ValueError, match=r"settings must broadcast .* 'beta': \(4,\)"):
        batch(statistics, bias, beta=np.ones(4))


@pytest.mark.usefixtures("unchecked")
def test_unequal_classes_are_refused_by_name():
    statistics, setting, bias = near_collapse(0.05)
    counts = torch.tensor([10, 10, 10, 30])
    uneven = dataclasses.replace(statistics, counts=counts)
    with pytest.raises(ValueError, match=r"nearly balanced classes, got \[10, 10, 10, 30\]"):
        batch(uneven, bias)
    with pytest.raises(ValueError, match="take small_vicinity, which goes class by class"):
        pnc.sweep(uneven, method="vicinity", **setting)


@pytest.mark.slow
def test_a_million_settings_in_seconds():
    statistics, _, _ = near_collapse(0.01, num_classes=10, dim=512)
    generator = torch.Generator().manual_seed(0)
    settings = 0.01 + 0.5 * torch.rand(3, 10**6, generator=generator, dtype=torch.float64)
    start = time.process_time()
    w, h, b = settings
    found = pnc.small_vicinity_batch(statistics, lambda_w=w, lambda_h=h, beta=b)
    assert found.metrics["nc1"].isfinite().all()
    assert time.process_time() - start < 4  # 0.7 s on one quiet core; 2 s are promised on two
