import pytest

from perturb_nc.study.losses import loss_options, only_squared


def test_a_loss_is_a_name_with_options():
    assert loss_options("squared") == ("squared", {})
    assert loss_options("cross-entropy") == ("cross-entropy", {})
    given = "cross-entropy:label_smoothing=0.1,class_weights=1/2/0.5"
    options = {"label_smoothing": 0.1, "class_weights": (1.0, 2.0, 0.5)}
    assert loss_options(given) == ("cross-entropy", options)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("hinge", "loss must be one of squared, cross-entropy, got 'hinge'"),
        ("squared:label_smoothing=0.1", "must be one of squared, cross-entropy, got 'squared:"),
        ("cross-entropy:gamma=2", "options of the loss must be label_smoothing, class_weights"),
        ("cross-entropy:label_smoothing=x", "label_smoothing of the loss must be numbers, got 'x'"),
        ("cross-entropy:label_smoothing=1", r"label_smoothing must be < 1, got 1\.0"),
        ("cross-entropy:label_smoothing=0.1/0.2", "label_smoothing of the loss must be one number"),
        ("cross-entropy:class_weights=1/0/1", r"class_weights must be > 0, got 0\.0"),
    ],
)
def test_a_loss_that_is_misspelt_is_refused_by_name(loss, message):
    with pytest.raises(ValueError, match=message):
        loss_options(loss)


def test_what_is_of_the_squared_loss_alone_says_so():
    only_squared("squared", "the central path")
    with pytest.raises(ValueError, match="the central path is of the squared loss alone"):
        only_squared("cross-entropy:label_smoothing=0.1", "the central path")
