"""A layer to sweep, and its file."""

import pytest
from problems import random_problem

import perturb_nc as pnc


@pytest.fixture(scope="session")
def statistics():
    return random_problem(seed=1, counts=(3, 9, 6), dim=7).reduced.statistics


@pytest.fixture
def small_layer(statistics, tmp_path):
    pnc.save_layers({"": statistics}, tmp_path / "layer.safetensors")
    return tmp_path / "layer.safetensors"
