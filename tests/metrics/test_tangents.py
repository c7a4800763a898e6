import dataclasses
from dataclasses import fields

import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.metrics import tangents
from perturb_nc.metrics.table import CollapseMetrics, metric_tensors
from perturb_nc.theory.batch_points import StatisticsBatch

SHAPES = {
    "more dimensions than classes": {"num_classes": 4, "dim": 7},
    "two classes": {"num_classes": 2, "dim": 3},
    "as many dimensions": {"num_classes": 3, "dim": 3},
    "fewer dimensions": {"num_classes": 5, "dim": 3},
    "imbalanced": {"counts": (3, 9, 5), "dim": 6},
}


def draw(seed=0, **shape):
    """Statistics, a weight and a change of both."""
    torch.manual_seed(seed)
    s = random_problem(seed=seed, **shape).reduced.statistics
    half = torch.randn_like(s.within)
    change = tangents.Change(
        torch.randn_like(s.means),
        half + half.mT,
        torch.randn_like(s.class_variance),
        torch.randn_like(s.means),
    )
    return s, torch.randn_like(s.means), change


def values_along(s, weight, change, step):
    """All metrics after a step, without the checks of ClassStatistics (variances may be < 0)."""
    moved = object.__new__(pnc.ClassStatistics)
    for name in ("means", "within", "class_variance"):
        object.__setattr__(moved, name, getattr(s, name) + step * getattr(change, name))
    object.__setattr__(moved, "counts", s.counts)
    return metric_tensors(moved, weight + step * change.weight)


def test_every_metric_has_a_tangent_or_a_reason():
    names = {field.name for field in fields(CollapseMetrics)}
    assert names == tangents.TANGENTS.keys() | tangents.WITHOUT_TANGENT.keys()
    assert not tangents.TANGENTS.keys() & tangents.WITHOUT_TANGENT.keys()
    assert all(tangents.WITHOUT_TANGENT.values())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_against_central_differences(shape, seed):
    s, weight, change = draw(seed, **shape)
    values = metric_tensors(s, weight)
    found = tangents.metric_tangents(values, s, weight, change)
    for name, tangent in found.items():
        if not values[name].isfinite() or values[name] < 1e-12:
            assert tangent.isnan(), name
            continue
        # Richardson: the differences of two steps without their h² term.
        rates = []
        for h in (1e-4, 5e-5):
            up, down = (values_along(s, weight, change, sign * h)[name] for sign in (1, -1))
            rates.append((up - down) / (2 * h))
        rate = (4 * rates[1] - rates[0]) / 3
        scale = values[name].abs().item() + abs(rate.item())
        torch.testing.assert_close(tangent, rate, rtol=1e-7, atol=1e-8 * scale, msg=name)
        if abs(rate) > 1e-6 * scale:
            assert abs(1.01 * tangent - rate) > 1e-3 * abs(rate), name


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_against_forward_mode(shape):
    s, weight, change = draw(3, **shape)

    values, slopes = torch.func.jvp(
        lambda step: values_along(s, weight, change, step),
        (torch.zeros((), dtype=torch.float64),),
        (torch.ones((), dtype=torch.float64),),
    )
    found = tangents.metric_tangents(values, s, weight, change)
    for name, tangent in found.items():
        if not tangent.isnan():
            torch.testing.assert_close(tangent, slopes[name], rtol=1e-11, atol=1e-13, msg=name)


def test_batches_and_several_directions_at_once():
    drawn = [draw(seed, num_classes=4, dim=7) for seed in range(3)]
    names = ("means", "within", "class_variance")
    many = StatisticsBatch(*(torch.stack([getattr(s, n) for s, _, _ in drawn]) for n in names))
    weight = torch.stack([w for _, w, _ in drawn])
    changes = [
        [getattr(change, name) for _, _, change in drawn] for name in (*names, "weight")
    ]  # fmt: skip
    stacked = [torch.stack([torch.stack(c), 2 * torch.stack(c)]) for c in changes]
    values = metric_tensors(many, weight)
    found = tangents.metric_tangents(values, many, weight, tangents.Change(*stacked))
    for i, (s, w, change) in enumerate(drawn):
        single = tangents.metric_tangents(metric_tensors(s, w), s, w, change)
        for name, expected in single.items():
            wanted = torch.stack([expected, 2 * expected])
            torch.testing.assert_close(found[name][:, i], wanted, rtol=1e-12, atol=1e-13)


def test_means_in_a_plane_that_turns():
    """Five classes on a plane: rank 2 kept by the change, where the formula is exact."""
    s, weight, change = draw(5, num_classes=5, dim=8)
    plane, core, turn = torch.randn(8, 2), torch.randn(5, 2), torch.randn(8, 8)
    plane, core, turn = plane.double(), core.double(), (turn - turn.mT).double()
    flat = dataclasses.replace(s, means=core @ plane.mT)
    change = dataclasses.replace(change, means=core @ plane.mT @ turn)

    def value(step, name):
        means = core @ plane.mT @ torch.matrix_exp(step * turn)
        moved = values_along(dataclasses.replace(s, means=means), weight, still, step)
        return moved[name]

    still = dataclasses.replace(change, means=torch.zeros_like(s.means))
    found = tangents.metric_tangents(metric_tensors(flat, weight), flat, weight, change)
    for name in ("nc1", "nc1_span", "nc1_trace", "cdnv"):
        h = 1e-5
        rate = (value(h, name) - value(-h, name)) / (2 * h)
        torch.testing.assert_close(found[name], rate, rtol=1e-6, atol=0)


def test_no_derivative_where_there_is_none():
    s, weight, change = draw(num_classes=4, dim=7)
    frame = dataclasses.replace(s, means=torch.eye(4, 7, dtype=torch.float64))
    values = metric_tensors(frame, frame.means)
    found = tangents.metric_tangents(values, frame, frame.means, change)
    undefined = {name for name, tangent in found.items() if tangent.isnan()}
    distances = {"nc2_etf", "nc2_of", "nc2_equinorm", "nc2_equiangular", "nc2_angle_std", "dnc3"}
    variances = {"nc2_uniformity", "nc3_uniformity"}
    several = {"dnc2", "discrimination"}  # singular values coincide, all pairs are the nearest
    assert undefined == distances | variances | several
    torch.testing.assert_close(found["nc3_alignment"], torch.zeros_like(values["nc1"]))  # its most
    agree = dataclasses.replace(s, means=torch.ones(4, 7, dtype=torch.float64))
    found = tangents.metric_tangents(metric_tensors(agree, weight), agree, weight, change)
    defined = {name for name, tangent in found.items() if not tangent.isnan()}
    assert defined == {"nc2_of", "within_share", "dnc3"}
