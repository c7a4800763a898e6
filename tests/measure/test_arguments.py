import pytest
import torch
from measured_models import Calls, N, X, Y, means, model, wanted
from torch.utils.data import DataLoader, TensorDataset

from perturb_nc.measure.extraction import collect_features, collect_statistics
from perturb_nc.measure.nearest_mean import nearest_mean_scores
from perturb_nc.statistics import ClassStatistics


def test_other_batches_are_unpacked_by_a_function():
    index = torch.arange(N)
    loader = DataLoader(TensorDataset(X, Y, index), batch_size=7)
    with pytest.raises(ValueError, match=r"got list of 3; .* unpack=lambda batch: batch\[:2\]"):
        means(loader)
    unpack = lambda batch: batch[:2]  # noqa: E731
    torch.testing.assert_close(means(loader, unpack=unpack), wanted(), rtol=1e-6, atol=1e-7)
    statistics = collect_statistics(model(), loader, unpack=unpack)
    features, labels = collect_features(model(), loader, unpack=unpack)
    assert torch.equal(labels, Y)
    torch.testing.assert_close(features["2"], model()(X).detach())
    scores = nearest_mean_scores(model(), loader, statistics, unpack=unpack)
    assert 0 <= scores["2"].accuracy <= 1
    with pytest.raises(ValueError, match=r"unpack must turn a batch into \(inputs, labels\)"):
        means(loader, unpack=lambda batch: batch[0])
    with pytest.raises(ValueError, match=r"dictionary of \['x', 'y'\] without \"labels\".*unpack="):
        means([{"x": X, "y": Y}])


def test_several_inputs_go_by_position_or_by_keyword():
    two = Calls(lambda body, a, b=None: body(a + b))
    by_position = collect_statistics(two, [((X, 2 * X), Y)])["body"].means
    with torch.no_grad():
        direct = ClassStatistics.from_features(two.body(3 * X), Y).means
    torch.testing.assert_close(by_position, direct, rtol=1e-6, atol=1e-7)

    class Keywords(Calls):
        def forward(self, *, a, b=None):
            return self.body(a if b is None else a + b)

    two = Keywords(None, two.body)
    by_keyword = collect_statistics(two, [{"a": X, "b": 2 * X, "labels": Y}])["body"].means
    assert torch.equal(by_keyword, by_position)
    one = collect_statistics(two, [(3 * X, Y)])["body"].means  # the only one it needs
    torch.testing.assert_close(one, direct, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match=r"takes \(\*, a, b=None\) and the batch gives a, text"):
        collect_statistics(two, [{"a": X, "text": X, "labels": Y}])

    class Both(Calls):
        def forward(self, *, a, b):
            return self.body(a + b)

    with pytest.raises(ValueError, match=r"takes keywords only \(a, b\).*unpack="):
        collect_statistics(Both(None), [(X, Y)])
