"""What waits for an accelerator, rehearsed on the CPU; marked `cuda`, the same on a device."""

import json
import runpy
import sys
import time
from pathlib import Path

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.storage import read_tensors

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from experiments.accelerator import __main__ as accelerator  # noqa: E402
from experiments.accelerator import check, pack, training  # noqa: E402
from experiments.accelerator.setting import OutOfTimeError, Piece, Setting  # noqa: E402

CPU = torch.device("cpu")
FAST = ("statistics", "optimum", "vicinity", "extraction_bfloat16")


def setting(tmp_path, seconds=60.0):
    return Setting(CPU, True, tmp_path, tmp_path / "state", time.monotonic() + seconds)


@pytest.mark.parametrize("name", FAST)
def test_a_check_compares_a_device_with_the_cpu(name):
    found = check.one(name, CPU, tiny=True)
    assert found["difference"] == 0
    assert found["holds"]
    assert found["on_another_device"] == {}


def test_a_difference_is_relative_and_the_largest():
    wanted = {"a": torch.ones(4), "b": torch.full((1,), 10.0)}
    assert check.difference({"a": torch.ones(4), "b": torch.full((1,), 11.0)}, wanted) == (
        pytest.approx(0.1)
    )


def test_one_process_reduces_statistics_to_themselves():
    found = check.reduced(CPU, tiny=True)
    assert found["backend"] == "gloo"
    assert found["holds"]


def test_pieces_run_once_and_a_failure_or_the_end_of_time_costs_no_other(tmp_path, capsys):
    done = []

    def make(setting, name):
        done.append(name)
        return {"value": len(done)}

    def fails(setting, name):
        raise RuntimeError("no")

    def slow(setting, name):
        raise OutOfTimeError

    good, bad, late = Piece("good", make), Piece("bad", fails), Piece("late", slow)
    assert accelerator.run(setting(tmp_path), [bad, good]) == 1
    record = json.loads((tmp_path / "good.json").read_text(encoding="utf8"))
    assert record["device"].startswith("cpu")
    assert record["value"] == 1
    assert accelerator.run(setting(tmp_path), [good, late, Piece("next", make)]) == 3
    assert done == ["good"]
    assert "time is up at late; run the same command again" in capsys.readouterr().out
    assert accelerator.run(setting(tmp_path, seconds=-1.0), [good, Piece("next", make)]) == 3
    assert done == ["good"]
    with pytest.raises(ValueError, match=r"good.json was made with other tiny; delete it"):
        accelerator.run(Setting(CPU, False, tmp_path, tmp_path, 0.0), [good])


def test_the_pieces_are_named_once_and_the_most_valuable_come_first(capsys):
    assert accelerator.main(["--list"]) == 0
    names = capsys.readouterr().out.split()
    assert len(set(names)) == len(names)
    assert names[:3] == ["check", "timings", "resnet18-mse-seed0"]
    for kind, count in (("resnet18", 6), ("equal-width", 6), ("vgg16", 6), ("layerwise", 3)):
        assert sum(name.startswith(kind) for name in names) == count
    assert sum(name.startswith("decay-") for name in names) == 30
    assert sum(map(accelerator.rehearsed, accelerator.all_pieces())) == 7
    with pytest.raises(SystemExit):
        accelerator.main(["--device", "cpu", "nonsense"])
    assert "no piece 'nonsense'; --list names them" in capsys.readouterr().err


def test_without_a_device_the_rehearsal_is_named(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        accelerator.main([])
    assert "no CUDA device; rehearse with --device cpu --tiny" in capsys.readouterr().err


def test_data_are_packed_in_parts_and_joined_when_all_are_there(tmp_path, monkeypatch, capsys):
    content = bytes(range(256)) * 10
    cache, other, parts = (tmp_path / n for n in ("cache", "other", "parts"))
    cache.mkdir()
    (cache / "cifar10.npz").write_bytes(content)
    monkeypatch.setenv("PERTURB_NC_DATA", str(cache))
    command = ["--folder", str(parts)]
    assert pack.main([*command, "--bytes", "1000"]) == 0
    assert sorted(path.stat().st_size for path in parts.glob("*.npz.?")) == [560, 1000, 1000]
    monkeypatch.setenv("PERTURB_NC_DATA", str(other))
    away = (parts / "cifar10.npz.1").rename(tmp_path / "away")
    assert pack.main([*command, "--unpack"]) == 1
    assert "still missing: cifar10.npz.1" in capsys.readouterr().out
    assert not other.exists()
    away.rename(parts / "cifar10.npz.1")
    assert pack.main([*command, "--unpack"]) == 0
    assert (other / "cifar10.npz").read_bytes() == content
    (parts / "cifar10.npz.2").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"cifar10.npz.2 is not as it was packed; send it again"):
        pack.unpack("cifar10.npz", parts, other)
    assert pack.BYTES < 60e6


@pytest.mark.slow
def test_a_training_piece_goes_on_from_its_last_epoch(tmp_path, small_cifar10):
    (piece,) = training.pieces(("equal-width",), (0,))[:1]
    state, whole = tmp_path / "state", tmp_path / "whole"
    for folder in (state, whole, whole / "state"):
        folder.mkdir()
    late = setting(tmp_path, seconds=0.0)
    for _ in range(2):  # an epoch that is cut off is made again
        with pytest.raises(OutOfTimeError):
            piece.make(late, piece.name)
        assert (state / f"{piece.name}-samples.safetensors").is_file()
    record = piece.make(setting(tmp_path), piece.name)
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    samples = read_tensors(tmp_path / f"{piece.name}-samples.safetensors")[0]
    assert {key.split("@")[1] for key in samples if "@" in key} == {"1", "2"}
    assert not list(state.iterdir())
    piece.make(setting(whole), piece.name)
    one, other = (
        pnc.load_layers(folder / f"{piece.name}.safetensors") for folder in (tmp_path, whole)
    )
    assert all(torch.equal(one[name].within, other[name].within) for name in one)


@pytest.mark.slow
def test_everything_is_rehearsed_on_the_cpu(tmp_path, small_cifar10):
    output = tmp_path / "results"
    command = ["--device", "cpu", "--tiny", "--output", str(output), "--state", str(tmp_path / "s")]
    assert accelerator.main(command) == 0
    names = {piece.name for piece in accelerator.all_pieces() if accelerator.rehearsed(piece)}
    assert {path.stem for path in output.glob("*.json")} == names
    checks = json.loads((output / "check.json").read_text(encoding="utf8"))
    assert all(row["holds"] for row in checks["checks"].values())
    timed = json.loads((output / "timings.json").read_text(encoding="utf8"))["timings"]
    assert not any("error" in row for row in timed.values())
    for name in names:
        files = list(output.glob(f"{name}*"))
        assert len(files) <= 8
        assert sum(path.stat().st_size for path in files) < 12e6
    assert not list((tmp_path / "s" / "tiny").iterdir())  # checkpoints go with their piece


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", check.CHECKS)
def test_the_device_agrees_with_the_cpu(name):
    found = check.one(name, torch.device("cuda"), tiny=False)
    assert found["holds"], found
    assert found["on_another_device"] == {}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_nccl_reduces_statistics_of_one_rank():
    assert check.reduced(torch.device("cuda"), tiny=False)["holds"]


def test_the_docs_say_that_no_gpu_ran_it_until_a_result_says_otherwise(tmp_path):
    say = runpy.run_path(str(ROOT / "docs" / "conf.py"))["accelerator"]
    assert say(tmp_path) == "**Not run on a GPU yet.**"
    (tmp_path / "check.json").write_text('{"device": "cpu: x86_64"}', encoding="utf8")
    assert say(tmp_path) == "**Not run on a GPU yet.**"
    (tmp_path / "timings.json").write_text('{"device": "cuda: H100"}', encoding="utf8")
    assert say(tmp_path) == "**Pieces that have run on a GPU: 1, on H100.**"
    page = (ROOT / "docs" / "accelerator.md").read_text(encoding="utf8")
    assert page.count("{{ accelerator }}") == 1
    pages = (path.read_text(encoding="utf8") for path in (ROOT / "docs").rglob("*.md"))
    assert not any("ot run on a GPU" in text for text in pages)
