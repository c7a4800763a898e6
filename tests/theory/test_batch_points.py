import torch
from batches import GRID, WIDE, statistics

import perturb_nc as pnc
from perturb_nc.theory import batch_points
from perturb_nc.theory.isolated import weight_response


def test_chunks_change_nothing(monkeypatch):
    reference = statistics(**WIDE)
    whole = pnc.minimize_batch(reference, **GRID)
    monkeypatch.setattr(batch_points, "_BYTES", 1)
    parts = pnc.minimize_batch(reference, **GRID)
    torch.testing.assert_close(whole.objective, parts.objective, rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.metrics["nc1"], parts.metrics["nc1"], rtol=1e-8, atol=1e-10)


def test_derivatives_do_not_depend_on_what_is_solved_together(monkeypatch):
    found = pnc.minimize_batch(statistics(**WIDE), **GRID, bias=True)
    whole = found.derivatives()
    monkeypatch.setattr(batch_points, "_CACHED", 1)
    for name, slopes in found.derivatives().items():
        for parameter, slope in slopes.items():
            torch.testing.assert_close(
                slope, whole[name][parameter], rtol=1e-8, atol=1e-10, equal_nan=True
            )


def test_several_right_hand_sides_are_those_of_one():
    found = pnc.minimize_batch(statistics(**WIDE), **GRID)
    for _, _, point in found._points():
        change = torch.diag_embed(point.hyperparameters).movedim(-2, 0)
        together, isolated = weight_response(point, change)
        for i, own in enumerate(change):
            single, alone = weight_response(point, own)
            assert alone.equal(isolated[i])
            torch.testing.assert_close(together[i][alone], single[alone], rtol=1e-8, atol=1e-9)
