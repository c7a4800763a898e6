"""What reaches the terminal, whatever names hold and whatever it can show."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.cli import main as cli
from perturb_nc.show.labels import printable

EVIL = "\x1b[31mred\x07\x9b2J\u2028\u202ename"


@pytest.fixture(scope="module")
def statistics():
    return random_problem(seed=1, counts=(3, 9, 6), dim=7).reduced.statistics


def test_names_do_not_command_the_terminal(statistics, run, tmp_path):
    later = pnc.central_path_flow(statistics, lambda_w=0.1, lambda_h=0.0, times=[0.5])
    file = tmp_path / "net.safetensors"
    pnc.save_layers({EVIL: statistics, f"{EVIL}2": later.statistics(0)}, file)
    model = ("--lambda-w", 0.1, "--lambda-h", 0.1)
    out = ("-o", tmp_path / "out")
    for words in (
        ("metrics", file),
        ("predict", file, *model, "--beta", 1),
        ("flow", file, *model, *out),
        ("depth", file, "--lambda-w", 0.1, *out),
        ("flow", file, *model, "--reference", "none", *out),
        ("sweep", file, *model, "--beta", 1, *out),
        ("metrics", file, "--json"),
    ):
        code, written, err = run(*words)
        assert code == (2 if "none" in words or words[0] == "sweep" else 0)
        assert not set(written + err) & set("\x1b\x07\x9b\u2028\u202e"), words[0]
        assert "red" in written + err


def test_escapes_stand_for_what_is_not_printed():
    assert printable("a\x1b[0m\u2028\tλ\n") == "a\\x1b[0m\\u2028\tλ\n"


@pytest.mark.parametrize("words", [("predict", "--help"), ("predict", "FILE")])
def test_terminals_of_code_page_1252(statistics, words, tmp_path):
    file = tmp_path / "net.safetensors"
    pnc.save_layers({"特": statistics}, file)
    model = ("--lambda-w", "0.1", "--lambda-h", "0.1", "--beta", "1")
    words = [str(file) if word == "FILE" else word for word in words]
    if "--help" not in words:
        words += model
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "COLUMNS": "120"}
    command = [sys.executable, "-m", "perturb_nc", *words]
    root = Path(pnc.__file__).parent.parent
    result = subprocess.run(command, capture_output=True, env=environment, cwd=root, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert "lambda_" in result.stdout.decode("cp1252")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory"
        ),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory.\nmore"),
        MemoryError(),
    ],
)
def test_memory_that_is_not_there_is_one_line(error, run, monkeypatch):
    def fails(**_):
        raise error

    monkeypatch.setattr(cli, "app", fails)
    code, out, err = run("metrics")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "there is not enough memory; use fewer or smaller features" in err


def test_pairs_of_too_many_classes_are_refused(statistics, monkeypatch):
    free = type("Memory", (), {"available": 200})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(
        MemoryError, match=r"metrics of num_classes = 3 needs .*; leave out or merge classes"
    ):
        pnc.collapse_metrics(statistics)


def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch):
    """As a checkpoint meets it; torch's own writer raises a RuntimeError of twenty lines."""
    from perturb_nc.networks.checkpoints import Run

    model = torch.nn.Linear(2, 2)
    run = Run(model, torch.optim.SGD(model.parameters(), 0.1), torch.Generator(), [])

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        run.save(tmp_path / "x.pt", {})
    assert list(tmp_path.iterdir()) == []
