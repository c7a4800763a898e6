"""The names of losses, with what training had beside: label smoothing and class weights."""

from collections.abc import Mapping
from typing import Any

from perturb_nc.validation import nonnegative, positive

Options = Mapping[str, Any]
LOSSES = ("squared", "cross-entropy")
OPTIONS = ("label_smoothing", "class_weights")


def loss_options(loss: str) -> tuple[str, Options]:
    """Which of LOSSES it is, and label smoothing and class weights; ValueError for any other."""
    kind, *given = loss.split(":", 1)
    if kind not in LOSSES or (given and kind == "squared"):
        raise ValueError(
            f"loss must be one of {', '.join(LOSSES)}, got {loss!r}; cross-entropy may be followed "
            "by :label_smoothing=0.1 and ,class_weights=1/2/0.5"
        )
    options: dict[str, Any] = {}
    for part in given[0].split(",") if given else []:
        name, _, value = part.partition("=")
        if name not in OPTIONS or name in options:
            raise ValueError(f"options of the loss must be {', '.join(OPTIONS)}, got {part!r}")
        try:
            numbers = tuple(float(number) for number in value.split("/"))
        except ValueError:
            raise ValueError(f"{name} of the loss must be numbers, got {value!r}") from None
        for number in numbers:
            (positive if name == "class_weights" else nonnegative)(number, name)
        if name == "label_smoothing" and len(numbers) > 1:
            raise ValueError(f"{name} of the loss must be one number, got {value!r}")
        options[name] = numbers if name == "class_weights" else numbers[0]
    if options.get("label_smoothing", 0.0) >= 1:
        raise ValueError(f"label_smoothing must be < 1, got {options['label_smoothing']}")
    return kind, options


def only_squared(loss: str, what: str) -> None:
    """ValueError where something is of the squared loss alone."""
    if loss_options(loss)[0] != "squared":
        raise ValueError(f"{what} is of the squared loss alone, got loss {loss!r}; leave it out")
