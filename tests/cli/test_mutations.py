"""Mutated files work or are refused, and files that lie about their size take no memory.

Some of each kind; tests/endurance has thousands.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bad_files
import numpy as np
import pytest
from bad_files import filled, outputs, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb_nc.show.maps import plot_maps
from perturb_nc.study.sweep_store import open_sweep

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
MODEL = ("--lambda-w", "0.1", "--lambda-h", "0.05", "--beta", "1")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return bad_files.write_good(tmp_path_factory.mktemp("good"))


SUFFIXES = {
    ".npz": ("stats", "BAD", "-o", "OUT"),
    ".pt": ("stats", "BAD", "-o", "OUT"),
    ".npy": ("metrics", "LAYERS", "--weight", "BAD"),
    ".safetensors": ("predict", "BAD", *MODEL),
}


@st.composite
def mutations(draw, content):
    """The bytes with a few flipped, cut out, repeated or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(["flip", "delete", "insert", "number"])):
            case "flip":
                content[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "delete":
                del content[at : at + draw(st.integers(1, 9))]
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=9))
            case "number":
                digit = next((i for i in range(at, len(content)) if 48 <= content[i] < 58), at)
                content[digit : digit + 1] = draw(st.sampled_from([b"9" * 12, b"-1", b"0", b"1e9"]))
    return bytes(content)


def clean(result, folder):
    """What is wrong with a command that may succeed, None if nothing."""
    code, _, err = result
    if code == 0:
        return None if not err else f"stderr {err}"
    return refused(result, folder)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_mutated_files_work_or_are_refused(suffix, good, run, tmp_path, unchecked):
    source = good["LAYERS"]
    if suffix != ".safetensors":
        source = bad_files.write_features(tmp_path / f"good{suffix}")
    content = source.read_bytes()
    if suffix == ".npy":
        stored = io.BytesIO()
        np.save(stored, np.eye(3, 4))
        content = stored.getvalue()
    path, out = tmp_path / f"bad{suffix}", tmp_path / "new"

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(mutations(content))
    def check(mutated):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        path.write_bytes(mutated)
        words = {**good, "BAD": path, **outputs(out)}
        found = clean(run(*filled(SUFFIXES[suffix], words)), out)
        assert found is None, found

    check()


def test_mutated_stores_work_or_are_refused(good, run, tmp_path, unchecked):
    store = Path(shutil.copytree(good["STORE"], tmp_path / "bad.zarr"))
    parts = [p for p in sorted(store.rglob("*")) if p.is_file()]
    wanted = (".zmetadata", "nc1/", "status/", "lambda_w/", "nc1_derivative/", "is_global/")
    parts = [p for p in parts if p.relative_to(store).as_posix().startswith(wanted)]
    out = tmp_path / "new"

    @settings(max_examples=EXAMPLES // 3, deadline=None, database=None)
    @given(
        st.sampled_from(parts).flatmap(lambda p: st.tuples(st.just(p), mutations(p.read_bytes())))
    )
    def check(change):
        part, mutated = change
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        before = part.read_bytes()
        part.write_bytes(mutated)
        try:
            dataset = open_sweep(store)
        except (ValueError, MemoryError):
            found = refused(run("plot", store, "-o", out / "x.png"), out)
            assert found is None, found
        else:  # whatever the numbers are now, they can be drawn
            with contextlib.suppress(ValueError):
                plot_maps(dataset, title="x")
        finally:
            part.write_bytes(before)

    check()


MEASURED = """
import json, resource, sys
import perturb_nc.cli.main as cli, perturb_nc.study.sweep, perturb_nc.show.maps
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, codes = peak(), []
for call in json.loads(sys.argv[1]):
    sys.argv = ["perturb-nc", *call]
    try:
        cli.main()
        codes.append(0)
    except SystemExit as error:
        codes.append(error.code)
print(json.dumps([codes, peak() - before]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
def test_files_that_lie_about_their_size_take_no_memory(good, tmp_path_factory, tmp_path):
    """In a process of its own: at most a few MiB more, and no gigabyte of addresses either."""
    folder = tmp_path_factory.mktemp("lying")
    features = bad_files.bad_features(folder / "features", folder / "code ran")
    lying = ("huge.safetensors", "rows.npy", "rows.npz", "bomb.npz", "bomb.pt", "expanded.pt")
    paths = [path for path in features if path.name in lying]
    assert len(paths) == len(lying)
    out = str(tmp_path / "out")
    calls = [["stats", str(path), "-o", out] for path in paths]
    stores = bad_files.bad_stores(folder / "stores", good["STORE"])
    stores = [p for p in stores if p.name in ("huge.zarr", "all huge.zarr")]
    calls += [["plot", str(path), "-o", f"{out}.png"] for path in stores]
    axes = [word for o in ("--lambda-w", "--lambda-h", "--beta") for word in (o, "1:2:10000")]
    calls.append(["sweep", str(good["LAYERS"]), "--reference", "a", *axes, "-o", out])
    calls.append(
        [
            "stats",
            str(bad_files.write_features(folder / "x.npz")),
            "-o",
            out,
            "--num-classes",
            "1" * 12,
        ]
    )
    calls.append(["deep-ufm", "--num-layers", "3", "--num-classes", str(10**9), "--decay", "0.1"])
    command = [sys.executable, "-c", MEASURED, json.dumps(calls)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    codes, mebibytes = json.loads(result.stdout)
    assert codes == [2] * len(calls)
    assert len(result.stderr.splitlines()) == len(calls), result.stderr
    assert all(line.startswith("perturb-nc: ") for line in result.stderr.splitlines())
    assert mebibytes < 50
    assert list(tmp_path.iterdir()) == []
