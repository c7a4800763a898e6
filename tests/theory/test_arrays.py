import torch

from perturb_nc.theory.arrays import cholesky, relative, together, total


def test_only_the_matrices_that_are_not_definite_have_no_factor():
    good = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    found = cholesky(torch.stack([good, -good]))
    torch.testing.assert_close(found[0] @ found[0].mT, good)
    assert found[1].isnan().all()


def test_several_directions_go_through_a_matrix_as_one():
    matrix = torch.randn(3, 5, 5, dtype=torch.float64)
    rows = torch.randn(7, 3, 2, 5, dtype=torch.float64)  # seven directions at three points
    found = together(lambda r: r @ matrix, rows, matrix)
    torch.testing.assert_close(found, torch.stack([row @ matrix for row in rows]))
    torch.testing.assert_close(together(lambda r: r @ matrix, rows[0], matrix), found[0])


def test_sizes_relative_to_a_bound_are_zero_where_both_vanish():
    x = torch.stack([torch.full((2, 3), 2.0), torch.zeros(2, 3)]).double()
    assert total(x).tolist() == [12.0, 0.0]
    bound = torch.tensor([24.0, 0.0], dtype=torch.float64).sqrt()
    torch.testing.assert_close(relative(x, bound), torch.tensor([1.0, 0.0]).double())
