import pytest
import torch
from measured_models import C, Calls, Gives, K, N, T, labelled
from torch import nn

from perturb_nc.measure.extraction import collect_features, collect_statistics
from perturb_nc.measure.nearest_mean import nearest_mean_scores

X, Y = labelled(T, C)


def features(layer, x=X, y=Y, **options):
    """What is measured at one layer."""
    return collect_features(nn.Sequential(layer), [(x, y)], **options)[0]["0"]


def identity():
    return Gives(lambda x: x + 0)


@pytest.mark.parametrize(
    ("reduce", "wanted"),
    [
        ("flatten", X.flatten(1)),
        ("channels", X.mean(2)),
        ("tokens", X.mean(1)),
        ("class_token", X[:, 0]),
        ("last_token", X[:, -1]),
        ("all_tokens", X.reshape(-1, C)),
        (lambda x: x[:, 2], X[:, 2]),
    ],
)
def test_sequences_are_reduced_by_name(reduce, wanted):
    torch.testing.assert_close(features(identity(), reduce=reduce), wanted)


def test_three_axes_are_not_guessed():
    names = "'tokens'.*'class_token'.*'last_token'.*'all_tokens'.*'channels'.*'flatten'"
    with pytest.raises(ValueError, match=rf"'0': activations of shape \(24, 5, 4\).*{names}"):
        features(identity())
    # Four axes with squares before another number are those of Swin, (N, H, W, C).
    image = torch.randn(N, 3, 3, 6)
    with pytest.raises(ValueError, match=r"activations of shape \(24, 3, 3, 6\)"):
        features(identity(), image)
    torch.testing.assert_close(features(identity(), image, reduce="tokens"), image.mean((1, 2)))
    torch.testing.assert_close(
        features(identity(), image.permute(0, 3, 1, 2)), image.mean((1, 2)), rtol=1e-5, atol=1e-6
    )


def test_modules_that_define_their_axes_are_read():
    convolution = nn.Conv1d(T, 6, 3)
    wanted = convolution(X).mean(2).detach()
    torch.testing.assert_close(features(convolution), wanted)
    torch.testing.assert_close(features(convolution, reduce="tokens"), wanted)
    assert features(nn.BatchNorm1d(T)).shape == (N, T)
    assert features(nn.Linear(C, 6)).shape == (N, 6)
    assert features(nn.LayerNorm(C)).shape == (N, C)

    class LayerNorm2d(nn.LayerNorm):  # of ConvNeXt
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    image = torch.randn(N, 6, 3, 3)
    assert features(LayerNorm2d(6), image).shape == (N, 6)
    with pytest.raises(ValueError, match=r"look like \(N, C, H, W\), and reduce='tokens' is for"):
        features(identity(), image, reduce="tokens")
    with pytest.raises(ValueError, match=r"of a Conv1d are no tokens; choose layers"):
        features(convolution, reduce="class_token")


@pytest.mark.parametrize("build", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_outputs_are_read_by_batch_first(build):
    torch.manual_seed(3)
    batch_first = build(C, 6, batch_first=True)
    time_first = build(C, 6)
    time_first.load_state_dict(batch_first.state_dict())
    with torch.no_grad():
        wanted = batch_first(X)[0]
    for reduce, w in (("pool", wanted.mean(1)), ("last_token", wanted[:, -1])):
        torch.testing.assert_close(features(batch_first, reduce=reduce), w)
        turned = Calls(lambda body, x: body(x.transpose(0, 1)), time_first)
        found = collect_features(turned, [(X, Y)], reduce=reduce)[0]["body"]
        torch.testing.assert_close(found, w)
    # As many steps as samples: the module says, whatever the shape.
    x = X[:T]
    found = collect_features(turned, [(x, Y[:T])], reduce="tokens")[0]["body"]
    torch.testing.assert_close(found, wanted[:T].mean(1))


def test_attention_is_read_by_batch_first_and_what_lies_between_by_the_batch():
    torch.manual_seed(4)
    layer = nn.TransformerEncoderLayer(C, 2, 8, 0.0)
    # In eval mode the encoder takes a fast path for batch_first only; both are the same function.
    model = Calls(lambda body, x: body(x.transpose(0, 1)), nn.Sequential(layer, identity()))
    with torch.no_grad():
        wanted = layer.eval()(X.transpose(0, 1)).mean(0)
    found, _ = collect_features(model, [(X, Y)], reduce="tokens")
    torch.testing.assert_close(found["body.0"], wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["body.1"], wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"'body.1' gives \(5, 5, 4\), time or samples first"):
        collect_features(model, [(X[:T], Y[:T])], reduce="tokens")
    # A last batch as long as the sequences is read as the batches before it.
    batches = [(X[:10], Y[:10]), (X[10:15], Y[10:15])]
    found, _ = collect_features(model, batches, reduce="tokens")
    torch.testing.assert_close(found["body.1"], wanted[:15], rtol=1e-5, atol=1e-6)
    attention = nn.MultiheadAttention(C, 2, batch_first=True)
    model = Calls(lambda body, x: body(x, x, x), attention)
    assert collect_features(model, [(X, Y)])[0]["body"].shape == (N, C)


def test_padding_counts_for_nothing():
    lengths = 1 + torch.arange(N) % T
    mask = (torch.arange(T) < lengths[:, None]).long()
    padded = X.where(mask[..., None] > 0, 1e6)
    model = Calls(lambda body, x, attention_mask: body(x), identity())
    batch = {"x": padded, "attention_mask": mask, "labels": Y}

    def found(reduce, **other):
        return collect_features(model, [batch | other], reduce=reduce)

    rows = range(N)
    means = torch.stack([X[i, : lengths[i]].mean(0) for i in rows])
    torch.testing.assert_close(found("tokens")[0]["body"], means)
    last = torch.stack([X[i, lengths[i] - 1] for i in rows])
    torch.testing.assert_close(found("last_token")[0]["body"], last)
    left = {"x": padded.flip(1), "attention_mask": mask.flip(1)}
    torch.testing.assert_close(found("class_token", **left)[0]["body"], last)
    tokens, labels = found("all_tokens")
    torch.testing.assert_close(tokens["body"], torch.cat([X[i, : lengths[i]] for i in rows]))
    assert torch.equal(labels, Y.repeat_interleave(lengths))
    with pytest.raises(ValueError, match=r"do not fit the attention mask \(24, 4\)"):
        found("tokens", attention_mask=mask[:, 1:])
    with pytest.raises(ValueError, match="hides every token of a sample"):
        found("tokens", attention_mask=torch.zeros_like(mask))


def test_every_token_is_a_sample_of_the_statistics_but_not_of_the_scores():
    model = Calls(lambda body, x: body(x).mean(1)[:, :K], identity())
    statistics = collect_statistics(model, [(X, Y)], reduce="all_tokens")
    assert statistics["body"].num_samples == N * T
    both = nn.Sequential(identity(), Gives(lambda x: x.mean(1)))
    with pytest.raises(ValueError, match=r"'0' and '1' have 120 and 24 samples"):
        collect_features(both, [(X, Y)], reduce="all_tokens")
    with pytest.raises(ValueError, match="reduce must give one feature a sample here"):
        nearest_mean_scores(model, [(X, Y)], statistics, reduce="all_tokens")


def test_low_precision_is_averaged_in_single_precision():
    x = X.bfloat16()
    found = features(identity(), x, reduce="tokens")
    torch.testing.assert_close(found, x.float().mean(1))
