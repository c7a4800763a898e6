import pytest
import torch
from measured_models import K, N, X, Y, batched, means, model
from torch import nn

import perturb_nc as pnc
from perturb_nc.measure.extraction import collect_statistics
from perturb_nc.statistics import ClassStatistics


def test_a_model_may_overwrite_its_inputs_but_not_the_data_of_the_loader():
    overwriting = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, K))
    before = X.clone()
    collect_statistics(overwriting, batched(X, Y), covariance="span")
    assert torch.equal(X, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_take_the_dtype_of_the_model_and_integers_stay(dtype):
    network = model(dtype=dtype)
    found = means(batched(X, Y), network)
    torch.testing.assert_close(
        found, ClassStatistics.from_features(network(X.to(dtype)).detach(), Y).means,
        rtol=1e-2, atol=1e-2,
    )  # fmt: skip
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, K)).to(dtype)
    tokens = torch.arange(3 * N).view(N, 3) % 9
    assert collect_statistics(words, [(tokens, Y)], reduce="flatten")["0"].dim == 12


def test_parameters_held_elsewhere_do_not_draw_the_inputs_there():
    class Offloaded(nn.Module):  # as accelerate leaves it: weights come when they are needed
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 4, device="meta")
            self.second = nn.Linear(4, K)

        def forward(self, x):
            return self.second(self.kept(x))

        def kept(self, x):
            return nn.functional.linear(x, torch.ones(4, 6))

    with pytest.warns(UserWarning, match="'first'"):
        found = collect_statistics(Offloaded(), batched(X, Y))
    assert list(found) == ["second"]


def test_a_model_without_numbers_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 3, device="meta"))
    with pytest.raises(ValueError, match="on device meta; load its weights"):
        pnc.collect_statistics(model, [(torch.ones(6, 4), torch.arange(6) % 3)])
