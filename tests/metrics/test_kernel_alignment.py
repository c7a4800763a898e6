import math

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.metrics.kernel_alignment import linear_cka, unbiased_total


def joint(x, z, labels):
    both = pnc.ClassStatistics.from_features(torch.cat([x, z], 1), labels)
    first, last = (pnc.ClassStatistics.from_features(part, labels) for part in (x, z))
    return JointStatistics(first, last, both.within[: x.shape[1], x.shape[1] :])


def draw(n=60, d=5, e=7, seed=0):
    torch.manual_seed(seed)
    labels = torch.cat([torch.zeros(n // 2), torch.arange(n - n // 2) % 3]).long()
    x = torch.randn(n, d).double() + torch.randn(3, d).double()[labels]
    z = x @ torch.randn(d, e).double() + torch.randn(n, e).double()
    return x, z, labels


def dense(x, z):
    x, z = x - x.mean(0), z - z.mean(0)
    return ((x.mT @ z).norm() ** 2 / ((x.mT @ x).norm() * (z.mT @ z).norm())).item()


def test_plain_cka_against_all_samples():
    x, z, labels = draw()
    found = linear_cka(joint(x, z, labels), debiased=False)
    assert found == pytest.approx(dense(x, z), rel=1e-12)
    assert abs(1.01 * dense(x, z) - found) > 1e-3


@pytest.mark.parametrize("debiased", [True, False])
def test_one_for_layers_that_differ_by_rotation_gain_and_shift(debiased):
    x, z, labels = draw()
    turn = torch.linalg.qr(torch.randn(5, 5).double()).Q
    same = joint(x, 3 * x @ turn + 7, labels)
    assert linear_cka(same, debiased=debiased) == pytest.approx(1.0, rel=1e-10)
    before = linear_cka(joint(x, z, labels), debiased=debiased)
    moved = joint(2 * x @ turn - 1, z, torch.tensor([2, 0, 1])[labels])
    assert linear_cka(moved, debiased=debiased) == pytest.approx(before, rel=1e-10)
    assert linear_cka(joint(z, x, labels), debiased=debiased) == pytest.approx(before, rel=1e-12)


def test_the_square_is_unbiased_term_by_term():
    # Few samples of classes with correlated Gaussian layers, very many times at once.
    generator = torch.Generator().manual_seed(0)
    n, k, d, repeats = 9, 3, 2, 200_000
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])
    own = torch.nn.functional.one_hot(labels).double()
    means = torch.randn(k, 2 * d, generator=generator).double()
    mixing = torch.randn(2 * d, 2 * d, generator=generator).double()
    prior = own.mean(0)
    noise = torch.randn(repeats, n, 2 * d, generator=generator, dtype=torch.float64) @ mixing
    x = noise + means[labels]
    seen = (own / own.sum(0)).mT @ x
    scatter = x - seen[:, labels]
    s = scatter.mT @ scatter / (n - k)
    rows = prior.sqrt()[:, None] * (seen - (prior[:, None] * seen).sum(1, keepdim=True))
    between = rows.mT @ rows
    a, b = slice(0, d), slice(d, 2 * d)

    def size(of, part):
        return of[:, part, part].diagonal(dim1=1, dim2=2).sum(1)

    products = (
        s[:, a, b].square().sum((1, 2)),
        (s[:, a, b] * between[:, a, b]).sum((1, 2)),
        between[:, a, b].square().sum((1, 2)),
    )
    crossed = (
        size(s, a) * size(s, b),
        size(between, a) * size(s, b) + size(between, b) * size(s, a),
    )
    found = unbiased_total(products, crossed, n, k)
    centred = prior.sqrt()[:, None] * (means - prior @ means)
    truth = (mixing.mT @ mixing + centred.mT @ centred)[a, b].square().sum()
    error = found.std() / repeats**0.5
    assert error < 0.005 * truth
    assert (found.mean() - truth).abs() < 3 * error


def test_the_square_from_its_expectations_and_not_from_bent_ones():
    # ‖C‖², tr C_a tr C_b, ⟨C, B⟩, ‖B‖² and the mixed traces, put in.
    c, w, m, b, t = torch.tensor([3.0, 11.0, 2.0, 7.0, 19.0], dtype=torch.float64)
    n, k = 13, 4
    f, e = n - k, (k - 1) / n
    squares = [(1 + 1 / f) * c + w / f, m + e * c]
    squares += [b + 2 * e * m + e**2 * c + (t + 2 * m) / n + e * (w + c) / n]
    traces = w + 2 * c / f, t + 2 * e * (w + 2 * c / f) - 2 * e * (2 * c / f)
    truth = (c + 2 * m + b).item()
    assert unbiased_total(tuple(squares), traces, n, k).item() == pytest.approx(truth, rel=1e-13)
    for bent in range(3):
        other = [1.01 * x if i == bent else x for i, x in enumerate(squares)]
        assert abs(unbiased_total(tuple(other), traces, n, k) - truth) > 1e-3 * truth


def test_independent_layers_are_not_alike_where_samples_are_few():
    torch.manual_seed(1)
    labels = torch.arange(40) % 2
    pair = joint(torch.randn(40, 100).double(), torch.randn(40, 120).double(), labels)
    assert linear_cka(pair, debiased=False) > 0.5
    assert abs(linear_cka(pair)) < 0.1


def test_undefined_without_variation_or_degrees_of_freedom():
    x, _, labels = draw()
    still = joint(x, torch.ones(60, 2).double(), labels)
    assert math.isnan(linear_cka(still))
    assert math.isnan(linear_cka(still, debiased=False))
    single = torch.arange(4)
    assert math.isnan(linear_cka(joint(torch.eye(4).double(), torch.eye(4).double(), single)))
