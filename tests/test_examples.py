"""The examples in the docstrings of the main verbs run, and print what they say."""

import doctest

import pytest
import torch

import perturb_nc as pnc

VERBS = [
    "collect_statistics", "collapse_metrics", "minimize", "certify", "linear_response",
    "hyperparameter_response", "central_path_flow", "sweep", "fit_regularization",
    "compare_layers", "small_vicinity", "calibrate_depth", "sampling_intervals", "cascade",
    "minimize_batch", "exact_collapse", "near_collapse_spectrum", "align", "error_table",
    "write_report", "save_layers", "load_layers", "plot_layers", "plot_path", "plot_comparison",
    "plot_map", "plot_spectrum", "plot_vicinity",
]  # fmt: skip


@pytest.mark.parametrize("name", VERBS)
def test_the_example_of_a_verb_runs(name, unchecked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for what it writes
    verb = getattr(pnc, name)
    given = {"pnc": pnc, "torch": torch}
    (example,) = doctest.DocTestFinder(recurse=False).find(verb, name, globs=given)
    assert len(example.examples) >= 2
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_names_its_neighbours(name):
    text = getattr(pnc, name).__doc__
    section = text.partition("See Also:\n")[2].partition("\n\n")[0]
    names = [line for word in section.split(". ") for line in word.partition(":")[0].split(", ")]
    assert names
    for neighbour in names:
        assert hasattr(pnc, neighbour.strip().removesuffix(".")), neighbour
