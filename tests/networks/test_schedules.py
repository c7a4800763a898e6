import pytest
import torch

from perturb_nc.networks.schedules import milestones, one_cycle


@pytest.mark.parametrize("total", [4, 7, 20, 1000])
def test_one_cycle_is_that_of_torch(total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.3, total_steps=total, cycle_momentum=False
    )
    for step in range(total):
        wanted = scheduler.get_last_lr()[0]
        assert one_cycle(step, total, peak=0.3) == pytest.approx(wanted, rel=1e-12), step
        if step + 1 < total:
            optimizer.step()
            scheduler.step()


def test_a_cycle_rises_falls_and_needs_steps():
    rates = [one_cycle(step, 100, peak=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == rates[29] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.1 / 250_000)
    with pytest.raises(ValueError, match="at least 4 steps, got 3"):
        one_cycle(0, 3, peak=0.1)


def test_milestones_multiply_after_their_epoch():
    rates = [milestones(epoch, start=1.0, at=(2, 3), gamma=0.5) for epoch in (1, 2, 3, 4)]
    assert rates == [1.0, 1.0, 0.5, 0.25]
