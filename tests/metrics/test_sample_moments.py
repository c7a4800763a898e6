import math

import pytest
import torch
from populations import draw, population

import perturb_nc as pnc
from perturb_nc.metrics.sample_moments import SampleMoments, unbiased_square
from perturb_nc.metrics.sampling import debiased_distances, debiased_metrics, sampling_note


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
