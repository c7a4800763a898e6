"""Threads of a command: one, unless more are asked for."""

import os
import subprocess
import sys

import pytest
import torch

from perturb_nc.cli import threads
from perturb_nc.cli.threads import choose_threads


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """As of a user who set nothing, and put back afterwards."""
    for name in threads._VARIABLES:
        monkeypatch.setenv(name, "7")  # so that monkeypatch puts it back
        monkeypatch.delenv(name)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("count", "command", "found"),
    [(None, "report", "1"), (2, "report", "2"), (None, "measure", None), (3, "measure", "3")],
)
def test_one_thread_unless_more_are_asked_for(count, command, found):
    choose_threads(count, command)
    assert os.environ.get("OMP_NUM_THREADS") == found
    if found is not None:
        assert torch.get_num_threads() == int(found)


def test_what_the_environment_asks_for_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    choose_threads(None, "report")
    assert os.environ["OMP_NUM_THREADS"] == "5"
    choose_threads(2, "report")
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_the_command_takes_them_before_torch_is_loaded():
    code = (
        "import sys; from perturb_nc.cli import threads; threads.choose_threads(None, 'report');"
        "assert 'torch' not in sys.modules; import torch; print(torch.get_num_threads())"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


def test_absurd_numbers_are_refused(run):
    for count in (0, 10**9):
        code, _, err = run("--threads", count, "spectrum")
        assert code == 2
        assert f"threads must be 1..1024, got {count}" in err
