"""What is printed beside tables."""

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.show import terminal


def test_notes_beyond_three_are_counted():
    notes = [f"layer{i}: few samples" for i in range(5)]
    assert terminal.first(notes) == [*notes[:3], "2 more such notes: --all"]
    assert terminal.first(notes[:3]) == notes[:3]


def test_places_are_spread_evenly_with_both_ends():
    assert terminal.spread(60, 4) == [0, 20, 39, 59]
    assert terminal.spread(3, 12) == [0, 1, 2]


def test_layers_of_another_shape_are_left_out_by_name():
    shapes = {"in": (2, 4), "a": (2, 3), "b": (2, 3), "out": (2, 2)}
    layers = {
        name: pnc.ClassStatistics.from_features(torch.eye(*shape).double(), [0, 1])
        for name, shape in shapes.items()
    }
    kept, others = terminal.of_one_width(layers, "a")
    assert (list(kept), others) == (["a", "b"], ["out"])
    with pytest.raises(ValueError, match="there is no layer 'c'; the layers are"):
        terminal.of_one_width(layers, "c")
