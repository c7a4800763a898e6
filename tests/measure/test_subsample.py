"""So many samples of each class."""

import numpy as np
import pytest
import torch

from perturb_nc.measure.dataset import Dataset
from perturb_nc.measure.subsample import stratified

LABELS = torch.tensor([0, 1, 1, 2, 0, 1, 2, 2, 0, 2, 1, 0])
INPUTS = torch.arange(12.0)[:, None]


def rows(loader):
    return torch.cat([x for x, _ in loader]).flatten().tolist()


def test_the_first_samples_of_each_class_are_taken():
    data = stratified(Dataset("x", INPUTS, LABELS, 3), 2)
    assert isinstance(data, Dataset)
    assert data.inputs.flatten().tolist() == [0, 1, 2, 3, 4, 6]
    assert data.labels.tolist() == [0, 1, 1, 2, 0, 2]
    batched = [(INPUTS[:5], LABELS[:5]), (INPUTS[5:], LABELS[5:])]
    loader = stratified(batched, 2)
    assert rows(loader) == rows(loader) == [0, 1, 2, 3, 4, 6]  # read again and again
    assert rows(stratified(batched, 100)) == list(range(12))


def test_batches_of_any_kind_are_cut():
    batch = {
        "ids": INPUTS,
        "scale": 2.0,
        "pair": (INPUTS.numpy(), INPUTS),
        "labels": LABELS,
    }
    ((inputs, labels),) = stratified([batch], 2)
    assert labels.tolist() == [0, 1, 1, 2, 0, 2]
    assert inputs["ids"].flatten().tolist() == [0, 1, 2, 3, 4, 6]
    assert inputs["scale"] == 2.0
    assert isinstance(inputs["pair"][0], np.ndarray)
    assert len(inputs["pair"][0]) == 6
    loader = stratified([(INPUTS, LABELS, "index")], 2, unpack=lambda batch: batch[:2])
    assert rows(loader) == [0, 1, 2, 3, 4, 6]


def test_one_sample_a_class_is_refused():
    with pytest.raises(ValueError, match="per_class must be >= 2, got 1"):
        stratified([], 1)
