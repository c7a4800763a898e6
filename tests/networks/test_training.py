import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_runs import CONFIG, ONE_CYCLE, clusters, fresh

from perturb_nc.measure.dataset import Dataset
from perturb_nc.networks.architectures import MLP, ResidualMLP
from perturb_nc.networks.data import load_dataset
from perturb_nc.networks.resnet import ResNet
from perturb_nc.networks.schedules import one_cycle
from perturb_nc.networks.training import TrainingConfig, squared_loss, train


def test_squared_loss_sums_over_the_outputs():
    outputs = torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.0, -1.0]])
    # Residuals (1, 1, 0) and (.5, 0, -2).
    assert squared_loss(outputs, torch.tensor([1, 2])).item() == pytest.approx((2 + 4.25) / 4)


def test_one_step_is_the_gradient_of_the_model_with_lambda_w_equal_to_k_times_weight_decay():
    data, rate, decay, feature_decay = clusters(), 0.1, 0.02, 0.005
    model = fresh()
    weight = model.head.weight.detach().double()
    inner = model.blocks[0].linear.weight
    before = inner.detach().clone()
    with torch.no_grad():
        h = model.blocks[1](model.blocks[0](data.inputs)).double().T
    (data_gradient,) = torch.autograd.grad(squared_loss(model(data.inputs), data.labels), inner)
    config = TrainingConfig(
        epochs=1,
        batch_size=len(data),
        learning_rate=rate,
        momentum=0.0,
        weight_decay=feature_decay,
        last_layer_weight_decay=decay,
    )
    (record,) = train(model, data, config)
    y = nn.functional.one_hot(data.labels).double().T
    n, k = len(data), data.num_classes
    lambda_w = k * decay
    gradient = (weight @ h - y) @ h.T / n + lambda_w / k * weight  # of (1) in W
    torch.testing.assert_close(
        model.head.weight.detach().double(), weight - rate * gradient, rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        inner.detach(), before - rate * (data_gradient + feature_decay * before)
    )
    assert record.loss == pytest.approx(((weight @ h - y) ** 2).sum().item() / (2 * n), rel=1e-6)
    hits = (weight @ h).argmax(0) == data.labels
    assert record.accuracy == pytest.approx(hits.double().mean().item())


def test_a_long_trained_last_layer_is_the_central_path_weight():
    data, decay = clusters(), 0.01
    model = fresh()
    for parameter in model.blocks.parameters():
        parameter.requires_grad = False
    config = TrainingConfig(
        epochs=3000, batch_size=len(data), learning_rate=0.5, last_layer_weight_decay=decay
    )
    train(model, data, config)
    with torch.no_grad():
        h = model.blocks[1](model.blocks[0](data.inputs)).double().T
    y = nn.functional.one_hot(data.labels).double().T
    n, k = len(data), data.num_classes
    lambda_w = k * decay
    second_moment = h @ h.T / n + lambda_w / k * torch.eye(len(h), dtype=torch.float64)
    optimum = torch.linalg.solve(second_moment, h @ y.T / n).T
    torch.testing.assert_close(model.head.weight.detach().double(), optimum, rtol=0, atol=1e-5)


def test_cross_entropy_is_the_mean_over_the_samples():
    data, model = clusters(), fresh()
    expected = nn.functional.cross_entropy(model(data.inputs), data.labels).item()
    config = TrainingConfig(epochs=1, batch_size=len(data), loss="cross_entropy")
    assert train(model, data, config)[0].loss == pytest.approx(expected, rel=1e-6)


def test_records_weigh_a_smaller_last_batch_by_its_samples():
    data, model = clusters(n=50), fresh()
    expected = squared_loss(model(data.inputs), data.labels).item()
    config = TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-12)
    assert train(model, data, config)[0].loss == pytest.approx(expected, rel=1e-6)


def test_the_learning_rate_falls_after_its_milestones():
    rates = [record.learning_rate for record in train(fresh(), clusters(), CONFIG)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005])


def test_one_cycle_sets_the_rate_of_every_step():
    data = clusters()
    history = train(fresh(), data, ONE_CYCLE)
    steps = [one_cycle(step, 24, peak=0.2) for step in range(24)]
    assert [record.learning_rate for record in history] == steps[3::4]
    # Without momentum and decay the first step is rate · gradient: its size shows the rate.
    plain = replace(ONE_CYCLE, momentum=0.0, weight_decay=0.0, batch_size=60)
    one, two = fresh(), fresh()
    loss = squared_loss(two(data.inputs), data.labels)
    (gradient,) = torch.autograd.grad(loss, two.head.weight)
    start = two.head.weight.detach().clone()

    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(one, data, plain, on_epoch=stop)
    torch.testing.assert_close(one.head.weight.detach(), start - 0.2 / 25 * gradient)


def images(n=40):
    x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return Dataset("images", x, torch.arange(n) % 4, 4)


@pytest.mark.parametrize(
    ("options", "rtol"), [({"channels_last": True}, 1e-4), ({"precision": "bfloat16"}, 0.05)]
)
def test_fast_paths_train_the_same_network_up_to_rounding(options, rtol):
    config = TrainingConfig(epochs=3, batch_size=10, learning_rate=0.05)
    histories, models = [], []
    for changes in ({}, options):
        torch.manual_seed(4)
        # With fewer than 8 channels torch 2.13's channels-last kernels corrupt memory on AVX2.
        models.append(ResNet(3, 4, stages=(1, 1), width=8))
        histories.append(train(models[-1], images(), replace(config, **changes)))
    losses = [[record.loss for record in history] for history in histories]
    assert losses[1] == pytest.approx(losses[0], rel=rtol)
    assert losses[1] != losses[0]  # the other path was taken
    assert all(p.dtype == torch.float32 for p in models[1].parameters())
    last = models[1].stem.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert last == ("channels_last" in options)


def test_channels_last_needs_images():
    with pytest.raises(ValueError, match=r"needs inputs \(N, C, H, W\), got \(60, 6\)"):
        train(fresh(), clusters(), replace(CONFIG, channels_last=True))


def test_a_diverging_run_says_what_to_do_and_keeps_the_sound_checkpoint(tmp_path):
    path, data = tmp_path / "run.pt", clusters()
    config = replace(CONFIG, milestones=(2,), gamma=1e14)  # sound for two epochs
    with pytest.raises(FloatingPointError, match=r"in epoch [3-6]; lower learning_rate"):
        train(fresh(), data, config, checkpoint=path, checkpoint_every=1)
    saved = torch.load(path, weights_only=True)
    assert len(saved["history"]) >= 2
    assert all(math.isfinite(record["loss"]) for record in saved["history"])


def test_an_unknown_last_layer_lists_the_modules():
    with pytest.raises(ValueError, match=r"blocks.1.linear, .*head\), got 'fc'"):
        train(fresh(), clusters(), CONFIG, last_layer="fc")


def test_outputs_must_match_the_classes():
    with pytest.raises(ValueError, match=r"shape \(16, 3\), got \(16, 4\)"):
        train(MLP(6, (8,), 4), clusters(), CONFIG)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be >= 1, got 0"),
        ("batch_size", 0, "batch_size must be >= 1, got 0"),
        ("learning_rate", 0.0, "learning_rate must be > 0, got 0.0"),
        ("momentum", 1.0, r"momentum must be in \[0, 1\), got 1.0"),
        ("gamma", -0.1, "gamma must be > 0, got -0.1"),
        ("weight_decay", -1.0, "weight_decay must be >= 0, got -1.0"),
        ("last_layer_weight_decay", -1.0, "last_layer_weight_decay must be >= 0, got -1.0"),
        ("milestones", (5, 3), r"milestones must increase, got \(5, 3\)"),
        ("milestones", (3, 3), r"milestones must increase, got \(3, 3\)"),
        ("loss", "hinge", "loss must be one of mse, cross_entropy, got 'hinge'"),
        ("seed", -1, "seed must be >= 0, got -1"),
        ("schedule", "cosine", "schedule must be one of milestones, one_cycle, got 'cosine'"),
        ("schedule", "one_cycle", r"milestones must be empty with one_cycle, got \(2, 4\)"),
        ("precision", "half", "precision must be one of float32, bfloat16, got 'half'"),
    ],
)
def test_a_config_is_checked_when_it_is_made(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **{field: value})


def test_a_residual_mlp_learns_the_digits():
    data, test = load_dataset("digits"), load_dataset("digits", split="test")
    model = ResidualMLP(64, 64, 3, 10)
    initial = copy.deepcopy(model)
    history = train(model, data, TrainingConfig(epochs=20, weight_decay=1e-3))
    assert history[-1].accuracy > 0.98
    with torch.no_grad():
        accuracy = [
            (m.eval()(test.inputs).argmax(1) == test.labels).double().mean().item()
            for m in (initial, model)
        ]
    assert accuracy[0] < 0.3
    assert accuracy[1] > 0.94
