from dataclasses import replace

import torch
from problems import batch_point, random_problem

from perturb_nc.theory.line_search import line_search, realigned

NEVER, ALWAYS, ROW = torch.tensor([False]), torch.tensor([True]), torch.tensor([0])


def begun(scale=1.0, **case):
    problem = random_problem(seed=1, **case).reduced
    point = batch_point(problem, scale * torch.randn(4, 12, dtype=torch.float64))
    return point, lambda rows: lambda w: replace(point, weight=w)


def test_a_step_that_is_much_too_long_is_shortened_until_it_gains():
    point, points = begun()
    direction = -1e4 * point.gradient
    trial, gained = line_search(points, point, direction, NEVER)
    assert gained.all()
    step = ((trial.weight - point.weight) / direction).mean().item()
    assert trial.excess < point.excess + 1e-4 * step * (point.gradient * direction).sum()
    assert step < 1


def test_where_no_length_is_natural_the_step_grows_while_it_gains():
    point, points = begun()
    direction = -1e-3 * point.gradient
    short, _ = line_search(points, point, direction, NEVER)
    long, _ = line_search(points, point, direction, ALWAYS)
    torch.testing.assert_close(short.weight, point.weight + direction)
    assert long.excess < short.excess
    further = points(ROW)(point.weight + 2 * (long.weight - point.weight))
    assert further.excess >= long.excess


def test_uphill_nothing_is_gained():
    point, points = begun()
    _, gained = line_search(points, point, 1e-3 * point.gradient, NEVER)
    assert not gained.any()


def test_a_turned_optimum_is_turned_back():
    point, points = begun(beta=1e-3)
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    turned = points(ROW)(point.weight @ turn)
    assert realigned(points, turned, ALWAYS).excess < turned.excess
    assert realigned(points, turned, NEVER) is turned
