import pytest
import torch
from small_images import K, images, loader

from perturb_nc.measure.extraction import collect_statistics
from perturb_nc.measure.nearest_mean import nearest_mean_scores
from perturb_nc.networks.architectures import MLP
from perturb_nc.networks.convolutional import ConvNet


def test_nearest_means_classify_every_layer_of_other_samples_in_one_pass():
    model = ConvNet(2, K, width=4, num_blocks=1)
    statistics = collect_statistics(model, loader(), reduce="pool")
    x, y = images(n=45, seed=5)
    other = list(zip(x.split(20), y.split(20), strict=True))
    scores = nearest_mean_scores(model, other, statistics, reduce="pool")
    assert list(scores) == ["blocks.0", "blocks.1", "blocks.2", "head"]
    model.eval()
    with torch.no_grad():
        h, predicted = x, model(x).argmax(1)
        for name, block in zip(scores, model.blocks, strict=False):
            h = block(h)
            distances = torch.cdist(h.mean((2, 3)).double(), statistics[name].means)
            nearest = distances.argmin(1)
            assert scores[name].accuracy == pytest.approx((nearest == y).double().mean().item())
            against = (nearest != predicted).double().mean().item()
            assert scores[name].against_network == pytest.approx(against)
    assert len({score.accuracy for score in scores.values()}) > 1


def test_layers_without_statistics_are_named():
    model = MLP(32, (6, 5), K)
    statistics = collect_statistics(model, loader(), layers=["head"])
    with pytest.raises(
        ValueError, match=r"'blocks.0': statistics hold no such layer, only \['head"
    ):
        nearest_mean_scores(model, loader(), statistics)
    assert list(nearest_mean_scores(model, loader(), statistics, layers=["head"])) == ["head"]
