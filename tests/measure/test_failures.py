import pytest
import torch
from torch import nn

import perturb_nc as pnc
from perturb_nc.measure.failures import explained

Y = torch.arange(12) % 3
FLAT = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
IMAGE = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
WORDS = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 3))
NORMED = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(5))


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (FLAT, torch.zeros(12, 5), r"layer '0', Linear, reads 8 features .* got \(12, 5\)"),
        (FLAT, torch.zeros(12, 8).byte(), r"layer '0', Linear, .* got \(12, 8\) torch.uint8"),
        (IMAGE, torch.zeros(12, 1, 8, 8), r"'0', Conv2d, reads 3 channels, \(N, 3, \.\.\.\), and"),
        (IMAGE, torch.zeros(12, 3, 9, 9), r"layer '3', Linear, reads 144 .* got \(12, 196\)"),
        (IMAGE, torch.zeros(12, 192), r"layer '0', Conv2d, .* got \(12, 192\) torch.float32"),
        (WORDS, torch.zeros(12, 3), r"layer '0', Embedding, reads integers from 0 to below 10"),
        (WORDS, torch.full((12, 3), 10), r"Embedding, .* got \(12, 3\) torch.int64 \(index out"),
        (NORMED, torch.zeros(12, 8), r"layer '1', BatchNorm1d, reads 5 channels, .* \(12, 4\)"),
        (nn.LSTM(6, 3, batch_first=True), torch.zeros(12, 2, 5), r"the model, LSTM, reads 6 "),
    ],
)
def test_the_layer_what_it_reads_and_what_it_got_are_named(model, inputs, message):
    with pytest.raises(ValueError, match=message + r"[\s\S]*; give a loader with the inputs that"):
        pnc.collect_features(model, [(inputs, Y)])


def test_every_pass_over_a_model_explains():
    narrow = [(torch.zeros(12, 5), Y)]
    with pytest.raises(ValueError, match=r"layer '0', Linear, reads 8"):
        pnc.collect_statistics(FLAT, narrow)
    with pytest.raises(ValueError, match=r"layer '0', Linear, reads 8"):
        pnc.CollapseMonitor(FLAT, narrow)(1)
    statistics = pnc.collect_statistics(FLAT, [(torch.randn(12, 8), Y)])
    with pytest.raises(ValueError, match=r"layer '0', Linear, reads 8"):
        pnc.nearest_mean_scores(FLAT, narrow, statistics)


@pytest.mark.parametrize("part", [nn.Linear(4, 3, device="meta"), nn.BatchNorm1d(4, device="meta")])
def test_a_part_on_meta_is_named(part):
    model = nn.Sequential(nn.Linear(8, 4), part)
    with pytest.raises(ValueError, match=r"layer '1', .* is on device meta; load its weights"):
        pnc.collect_statistics(model, [(torch.randn(12, 8), Y)])


def test_other_errors_stay_as_they_are():
    class Faulty(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.inner, self.error = nn.Linear(8, 3), error

        def forward(self, x):
            raise self.error

    for error in (torch.OutOfMemoryError("full"), KeyError("a"), TypeError("b")):
        with pytest.raises(type(error)) as caught, explained(FLAT):
            Faulty(error)(torch.zeros(2, 8))
        assert caught.value is error
    with pytest.raises(RuntimeError, match="by other code"), explained(FLAT):
        raise RuntimeError("by other code")
    own = nn.ModuleDict({"a": Faulty(RuntimeError("mine"))})
    message = r"^layer 'a', Faulty, got \(2, 8\).* \(mine\)"
    with pytest.raises(ValueError, match=message), explained(own):
        own["a"](torch.zeros(2, 8))


def test_errors_of_what_reads_the_layers_keep_their_words():
    model = nn.Sequential(nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"must be finite") as caught:
        pnc.collect_statistics(model, [(torch.randn(12, 8), Y)])
    assert "reads" not in str(caught.value)
