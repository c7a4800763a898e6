import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch

import perturb_nc as pnc
from perturb_nc import validation
from perturb_nc.validation import as_features, as_labels, as_tensor

X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.arange(40) % 4


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "features",
    [
        pandas.DataFrame(X, columns=["a", "b", "c"]),
        X.astype(">f8"),
        X.astype(np.longdouble),
        np.ma.masked_array(X, mask=False),
        read_only(X),
        X[::-1][::-1],
        X[:, ::-1][:, ::-1].copy()[::-1][::-1],
        X.tolist(),
        tuple(torch.from_numpy(X)),
    ],
)
@pytest.mark.parametrize(
    "labels",
    [
        pandas.Series(Y),
        pandas.Categorical(Y),
        Y.astype(">i4"),
        Y.astype(np.uint16),
        read_only(Y),
        Y[:, None],
        np.eye(4)[Y],
        np.eye(4, dtype=bool)[Y],
        torch.nn.functional.one_hot(torch.from_numpy(Y)),
        pandas.get_dummies(pandas.Series(Y)),
        Y.tolist(),
    ],
)
def test_whatever_holds_numbers_is_read_alike(features, labels):
    found = pnc.ClassStatistics.from_features(features, labels)
    wanted = pnc.ClassStatistics.from_features(torch.from_numpy(X), torch.from_numpy(Y))
    assert found.counts.equal(wanted.counts)
    torch.testing.assert_close(found.within, wanted.within, rtol=1e-14, atol=1e-15)


def test_a_read_only_file_is_neither_copied_nor_written_to(tmp_path):
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = as_features(mapped)
    assert tensor.data_ptr() == mapped.__array_interface__["data"][0]
    del mapped  # the tensor keeps the file open
    assert tensor.sum() == torch.from_numpy(X).float().sum()


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_lists_are_float64_whatever_the_default(default, monkeypatch):
    torch.set_default_dtype(default)
    try:
        assert as_tensor([[0.1, 1e4 + 1e-9]], "x").tolist() == [[0.1, 1e4 + 1e-9]]
        assert as_tensor([[1, 2]], "x").dtype == torch.int64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (
            [np.ma.masked_array(row, mask=row > 2) for row in X],
            ValueError,
            "must not be masked, got .* numpy.ma.filled",
        ),
        (
            np.ma.masked_array(X, mask=X > 2),
            ValueError,
            "must not be masked, got .* numpy.ma.filled",
        ),
        (
            X.astype(str),
            TypeError,
            "features must be an array of numbers, got ndarray: it holds text",
        ),
        (pandas.DataFrame({"a": ["x"]}), TypeError, "got DataFrame: it holds text or objects"),
        (X.astype(object), TypeError, r"it holds text or objects; .* numbers by .astype\(float\)"),
        ([[1.0], [2.0, 3.0]], TypeError, "got list"),
        (torch.eye(3).to_sparse(), TypeError, r"it is sparse; pass value.to_dense\(\)"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_remedy(features, error, message):
    with pytest.raises(error, match=message):
        as_features(features)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (
            ["cat", "dog"],
            TypeError,
            r"names of classes .* numpy.unique\(labels, return_inverse=True",
        ),
        (pandas.Series(["cat", "dog"]), TypeError, "numpy.unique"),
        (np.ma.masked_array([0, 1], mask=[0, 1]), ValueError, "labels must not be masked, got 1"),
        ([[0.2, 0.8], [0.9, 0.1]], ValueError, r"scores: pass rows.argmax\(1\)"),
        ([[0, 0], [0, 1]], ValueError, "one class, got 0 in row 0"),
        ([-100, 1], ValueError, "drop unlabelled samples, keep = labels >= 0"),
        ([1, 2], ValueError, r"< num_classes = 2, got 2 \(0 is not used: subtract 1"),
        (np.array([0, 2**63], np.uint64), TypeError, "does not fit into 64 bits"),
        ([False, True], ValueError, "labels must be integers 0..K-1, got torch.bool"),
    ],
)
def test_labels_that_can_be_read_in_two_ways_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        as_labels(labels, 2, num_classes=2)


def test_the_first_bad_entry_of_a_later_chunk_is_named():
    x = torch.zeros(2**20, 4)
    x[10**6, 2] = torch.nan
    with pytest.raises(ValueError, match=r"finite, got nan at \[1000000, 2\]"):
        as_features(x)
    assert as_features(torch.full((3, 2), 1.7e308, dtype=torch.float64)).shape == (3, 2)


MEMORY = """
import resource
import numpy as np, torch
import perturb_nc as pnc
from perturb_nc import validation
from perturb_nc.span_statistics import SpanStatistics
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
small = np.zeros((9000, 512), np.float32); small[::2] = 1
pnc.ClassStatistics.from_features(small, np.arange(9000) % 10)  # what a first call loads
x, y = np.ones((80_000, 512), np.float32), np.arange(80_000) % 10
before = peak()
pnc.ClassStatistics.from_features(x, y)
SpanStatistics.from_features(x, y)
print(peak() - before)
"""


def test_memory_beyond_the_features_does_not_grow_with_them():
    command = [sys.executable, "-c", MEMORY]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 200  # MiB; a copy in float64 would be 312


def test_frames_of_nullable_numbers_are_read():
    whole = pandas.DataFrame(X).astype("Float64")
    torch.testing.assert_close(as_features(whole), torch.from_numpy(X))
    mixed = pandas.DataFrame({"a": pandas.Series([1, 2], dtype="Int64"), "b": [0.5, 1.5]})
    assert as_features(mixed).tolist() == [[1.0, 0.5], [2.0, 1.5]]
    whole.iloc[3, 1] = pandas.NA
    with pytest.raises(ValueError, match=r"must be finite, got nan at \[3, 1\]"):
        as_features(whole)
    with pytest.raises(TypeError, match="it holds text or objects"):
        as_features(pandas.DataFrame({"a": ["u", "v"], "b": [1.0, 2.0]}))


WIDE = pnc.ClassStatistics.from_features(torch.eye(80, dtype=torch.float64), torch.arange(80) % 40)
SETTING = {"lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0}
SIZES = {"num_classes": 40, "dim": 60, "lambda_w": 0.1, "lambda_h": 0.1}


@pytest.mark.parametrize(
    "work",
    [
        lambda: pnc.collapse_metrics(WIDE),
        lambda: pnc.metrics.debiased_metrics(WIDE),
        lambda: pnc.NearCollapseProblem(WIDE, **SETTING),
        lambda: pnc.minimize_batch(WIDE, **{name: [value] for name, value in SETTING.items()}),
        lambda: pnc.sweep(WIDE, **{name: [value] for name, value in SETTING.items()}),
        lambda: pnc.central_path_flow(WIDE, lambda_w=0.1, lambda_h=0.1, times=[0.0, 1.0]),
        lambda: pnc.small_vicinity_batch(WIDE, **SETTING),
        lambda: pnc.CrossEntropyProblem(
            torch.eye(80, dtype=torch.float64), torch.arange(80) % 40, **SETTING
        ),
        lambda: pnc.exact_collapse(**SIZES),
        lambda: pnc.exact_collapse(**SIZES, bias=True),
    ],
)
def test_tables_of_pairs_of_classes_are_refused_before_they_are_made(monkeypatch, work):
    free = SimpleNamespace(available=8 * 40**2)  # of one table
    monkeypatch.setattr(validation.psutil, "virtual_memory", lambda: free)
    message = r"of num_classes = 40 needs .* GiB are free on cpu; leave out or merge classes$"
    with pytest.raises(MemoryError, match=message):
        work()
