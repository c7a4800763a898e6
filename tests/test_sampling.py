import math
import warnings

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.sampling import (
    SampleMoments,
    debiased_distances,
    debiased_metrics,
    sampling_note,
    split_half_nc1,
    unbiased_square,
)
from perturb_nc.span_statistics import span_statistics

K, D, N = 10, 512, 50  # a class


def population(level, shape=0.0, seed=0, dim=D, num_classes=K):
    """Class means with tr Σ_B = 1, and the eigenvalues of Σ_W, 1/k^shape, of trace level."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    means -= means.mean(0)
    means /= (means.square().sum() / num_classes).sqrt()
    spectrum = torch.arange(1, dim + 1, dtype=torch.float64) ** -shape
    return means, spectrum * (level / spectrum.sum())


def draw(means, spectrum, n, generator):
    labels = torch.arange(len(means)).repeat(n)
    noise = torch.randn(len(labels), len(spectrum), generator=generator, dtype=torch.float64)
    return means[labels] + noise * spectrum.sqrt(), labels


def true_metrics(means, spectrum):
    counts = torch.ones(len(means), dtype=torch.int64)
    variance = spectrum.sum().repeat(len(means))
    return pnc.collapse_metrics(
        pnc.ClassStatistics(counts, means, torch.diag(spectrum), variance)
    ).as_dict()


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


def test_expectations_are_exact_class_by_class():
    # Imbalanced classes: every estimate that is a square is unbiased to the error of the mean.
    means, spectrum = population(20.0, dim=30, num_classes=4)
    counts = torch.tensor([3, 5, 9, 20])
    labels = torch.repeat_interleave(torch.arange(4), counts)
    generator = torch.Generator().manual_seed(0)
    between, distances, squares = [], [], []
    for _ in range(300):
        noise = torch.randn(37, 30, generator=generator, dtype=torch.float64) * spectrum.sqrt()
        moments = SampleMoments.of(pnc.ClassStatistics.from_features(means[labels] + noise, labels))
        between.append(moments.true_gram().trace() / 4)
        distances.append(moments.distances())
        squares.append(moments.square)
    for drawn, truth in (
        (between, torch.ones(())),
        (distances, torch.cdist(means, means) ** 2),
        (squares, spectrum.square().sum()),
    ):
        values = torch.stack(drawn)
        error = values.std(0) / len(values) ** 0.5
        assert ((values.mean(0) - truth).abs() <= 4 * error + 1e-12).all()


def test_the_square_is_unbiased_for_a_gaussian():
    # E tr S² = (1 + 1/f) tr Σ² + (tr Σ)²/f and E (tr S)² = (tr Σ)² + 2 tr Σ²/f, put in.
    true, size, free = torch.tensor([3.0, 11.0, 7.0], dtype=torch.float64)
    one, other = (1 + 1 / free) * true + size**2 / free, size**2 + 2 * true / free
    assert unbiased_square(one, other.sqrt(), free).item() == pytest.approx(3.0, rel=1e-14)


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
    span = debiased_metrics(span_statistics(x, y)).as_dict()
    for name, value in span.items():
        if name in ("nc1_debiased", "nc1_span_debiased"):
            assert math.isnan(value)
        else:
            assert value == pytest.approx(whole[name], rel=1e-9), name
    assert "n >= 30 a class, d = 40" in sampling_note(span_statistics(x, y))


def test_noise_that_hides_the_means_is_nan_and_noted():
    means, spectrum = population(1e4, dim=20, num_classes=4)
    x, y = draw(0 * means, spectrum, 10, torch.Generator().manual_seed(3))
    statistics = pnc.ClassStatistics.from_features(x, y)
    assert (debiased_distances(statistics) < 0).any()
    found = debiased_metrics(statistics)
    assert math.isnan(found.cdnv_debiased)
    assert math.isnan(found.nc1_debiased)
    assert "sampling changes" in sampling_note(statistics)
    assert "by more than can be told; read the debiased metrics" in sampling_note(statistics)


def test_one_sample_a_class_has_no_variance_to_take_off():
    statistics = pnc.ClassStatistics.from_features(torch.eye(3), [0, 1, 2])
    assert all(math.isnan(value) for value in debiased_metrics(statistics).as_dict().values())


def test_fewer_dimensions_than_contrasts_have_no_nc1():
    x, y = draw(*population(1.0, dim=3, num_classes=6), 50, torch.Generator().manual_seed(0))
    found = debiased_metrics(pnc.ClassStatistics.from_features(x, y))
    assert math.isnan(found.nc1_debiased)
    assert found.nc1_trace_debiased > 0
