import pytest
import torch

from perturb_nc.theory.regularization import HYPERPARAMETERS, Regularization, settings


def test_a_setting_is_floats_in_the_order_of_tensors():
    own = Regularization(1, 0, 0.5)
    assert [type(getattr(own, name)) for name in HYPERPARAMETERS] == [float] * 3
    like = torch.zeros(2, dtype=torch.float64)
    assert own.as_tensor(like).tolist() == [1.0, 0.0, 0.5]
    assert own.as_tensor(like).dtype == torch.float64
    assert own.bounded() is own


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0, 0.1, 1.0), "lambda_w must be > 0, got 0.0"),
        ((1.0, -0.1, 1.0), "lambda_h must be >= 0, got -0.1"),
        ((1.0, 0.1, float("nan")), "beta must be finite, got nan"),
        ((1.0, float("inf"), 1.0), "lambda_h must be finite, got inf"),
    ],
)
def test_what_is_out_of_range_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        Regularization(*values)
    with pytest.raises(ValueError, match=message):
        settings([1.0, values[0]], [0.1, values[1]], [1.0, values[2]])


def test_unbounded_features_and_lists_of_several_lengths_are_refused():
    free = Regularization(1.0, 0.0, 0.0)  # the central path may go without
    with pytest.raises(ValueError, match="lambda_h and beta must not both be 0"):
        free.bounded()
    with pytest.raises(ValueError, match=r"must have one length, got \(2, 1, 1\)"):
        settings([1.0, 2.0], [0.1], [1.0])
    with pytest.raises(ValueError, match=r"must have one length, got \(0, 0, 0\)"):
        settings([], [], [])
