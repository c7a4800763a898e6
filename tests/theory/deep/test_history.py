import torch

from perturb_nc.theory.deep.history import History


def quadratics():
    """Two runs of a convex quadratic: step → change of the gradient."""
    root = torch.randn(2, 4, 4, dtype=torch.float64)
    hessian = root @ root.mT + torch.eye(4, dtype=torch.float64)
    return hessian, lambda moves: (hessian @ moves[..., None])[..., 0]


def test_the_direction_satisfies_the_secant_equation_of_the_newest_pair():
    _, change = quadratics()
    history = History(3)
    for _ in range(4):  # one more than is remembered
        moves = torch.randn(2, 4, dtype=torch.float64)
        history.add(moves, change(moves))
    torch.testing.assert_close(history.direction(change(moves)), -moves)


def test_as_many_conjugate_pairs_as_dimensions_give_newtons_direction():
    hessian, change = quadratics()
    history = History(4)
    for i in range(4):
        moves = torch.linalg.eigh(hessian).eigenvectors[..., i]
        history.add(moves, change(moves))
    gradient = torch.randn(2, 4, dtype=torch.float64)
    expected = -torch.linalg.solve(hessian, gradient)
    torch.testing.assert_close(history.direction(gradient), expected)


def test_what_is_forgotten_or_bent_the_wrong_way_does_not_count():
    _, change = quadratics()
    history, gradient = History(4), torch.randn(2, 4, dtype=torch.float64)
    moves = torch.randn(2, 4, dtype=torch.float64)
    history.add(moves, -change(moves))
    assert history.direction(gradient).equal(-gradient)
    history.add(moves, change(moves))
    before = history.direction(gradient)
    history.forget(torch.tensor([True, False]))
    after = history.direction(gradient)
    assert after[0].equal(-gradient[0])
    assert after[1].equal(before[1])
    history.take(torch.tensor([1]))
    torch.testing.assert_close(history.direction(gradient[1:]), before[1:])
