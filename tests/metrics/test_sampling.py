import math
import warnings

import pytest
import torch
from populations import N, draw, population, true_metrics

import perturb_nc as pnc
from perturb_nc.metrics.sampling import debiased_metrics, sampling_note, split_half_nc1
from perturb_nc.span_statistics import SpanStatistics


@pytest.mark.parametrize(("level", "plain"), [(49.0, 0.53), (10.0, 0.83)])
def test_the_bias_of_plain_metrics_is_gone(level, plain):
    means, spectrum = population(level)
    truth, generator = true_metrics(means, spectrum), torch.Generator().manual_seed(1)
    ratios = {}
    for _ in range(12):
        statistics = pnc.ClassStatistics.from_features(*draw(means, spectrum, N, generator))
        naive, better = pnc.collapse_metrics(statistics).as_dict(), debiased_metrics(statistics)
        for name in ("nc1_trace", "nc1", "nc1_span", "cdnv", "within_share"):
            found = better.as_dict()[f"{name}_debiased"]
            ratios.setdefault(name, []).append((naive[name] / truth[name], found / truth[name]))
    for name, values in ratios.items():
        before, after = torch.tensor(values).mean(0).tolist()
        assert after == pytest.approx(1.0, abs=0.1), name
        if name in ("nc1_trace", "nc1", "cdnv"):
            assert before == pytest.approx(plain, abs=0.03), name


def test_two_halves_agree_with_the_truth_and_warn_where_n_is_small():
    means, spectrum = population(49.0)
    truth, generator = true_metrics(means, spectrum)["nc1"], torch.Generator().manual_seed(2)
    found = []
    for _ in range(8):
        halves = [
            pnc.ClassStatistics.from_features(*draw(means, spectrum, N, generator))
            for _ in range(2)
        ]
        with pytest.warns(UserWarning, match="split-half NC1 is noisy here: few samples"):
            found.append(split_half_nc1(*halves))
    assert torch.tensor(found).mean().item() == pytest.approx(truth, rel=0.08)
    tight, thin = population(0.1, dim=8, num_classes=3), torch.Generator().manual_seed(0)
    halves = [pnc.ClassStatistics.from_features(*draw(*tight, 500, thin)) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert split_half_nc1(*halves) == pytest.approx(true_metrics(*tight)["nc1"], rel=0.1)


def test_collapse_and_many_samples_leave_the_plain_metrics():
    means, spectrum = population(1e-8, dim=20, num_classes=4)
    x, y = draw(means, spectrum, 30, torch.Generator().manual_seed(0))
    statistics = pnc.ClassStatistics.from_features(x, y)
    plain, better = pnc.collapse_metrics(statistics), debiased_metrics(statistics)
    shrunk = 120 / 116  # N/(N - K), all that is left
    assert better.nc1_trace_debiased == pytest.approx(shrunk * plain.nc1_trace, rel=1e-7)
    assert better.nc1_debiased == pytest.approx(shrunk * plain.nc1, rel=1e-6)
    assert better.between_trace_debiased == pytest.approx(1.0, abs=1e-4)
    assert sampling_note(statistics) is None


def test_invariance_under_rotation_gain_and_relabelling():
    x, y = draw(*population(5.0, 1.0, dim=12, num_classes=4), 40, torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    renamed = torch.tensor([2, 0, 3, 1])[y]
    one = debiased_metrics(pnc.ClassStatistics.from_features(x, y)).as_dict()
    other = debiased_metrics(pnc.ClassStatistics.from_features(3 * x @ turn + 7, renamed)).as_dict()
    other["between_trace_debiased"] /= 9
    assert other == pytest.approx(one, rel=1e-8)


def test_statistics_in_the_span_serve_all_but_nc1():
    x, y = draw(*population(20.0, dim=40, num_classes=4), 30, torch.Generator().manual_seed(0))
    whole = debiased_metrics(pnc.ClassStatistics.from_features(x, y)).as_dict()
    span = debiased_metrics(SpanStatistics.from_features(x, y)).as_dict()
    for name, value in span.items():
        if name in ("nc1_debiased", "nc1_span_debiased"):
            assert math.isnan(value)
        else:
            assert value == pytest.approx(whole[name], rel=1e-9), name
    assert "n >= 30 a class, d = 40" in sampling_note(SpanStatistics.from_features(x, y))
