"""What several of these modules draw, solve and sweep: once a session."""

import shutil
from pathlib import Path

import pytest
from problems import random_problem
from sweeps import GRID, SMALL

import perturb_nc as pnc
from perturb_nc.study import theories


@pytest.fixture(scope="session")
def statistics():
    return random_problem(seed=1, counts=(3, 9, 6), dim=7).reduced.statistics


@pytest.fixture(scope="session")
def grid(statistics):
    return pnc.sweep(statistics, **GRID)


@pytest.fixture(scope="session")
def kept(statistics, tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "sweep.zarr"
    pnc.sweep(statistics, **SMALL, store=path)
    return path


@pytest.fixture
def store(kept, tmp_path):
    return Path(shutil.copytree(kept, tmp_path / "sweep.zarr"))


@pytest.fixture(scope="module")
def few_members():
    """Three values of λ_W, that of the networks between them: the search is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_STARTS", (-2.0,)), ("_STEPS", (1.0,)), ("_LIMITS", (-3.0, -1.0))):
            patch.setattr(theories, name, value)
        yield


@pytest.fixture(scope="session")
def start():
    return random_problem(seed=1, dim=6, num_classes=3).reduced.statistics
