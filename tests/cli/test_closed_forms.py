import json

import pytest


def test_spectrum(run):
    options = ("--num-classes", 4, "--dim", 10, "--samples-per-class", 10)
    options += ("--lambda-w", 2**0.5, "--lambda-h", 0.1, "--beta", 100)
    code, out, _ = run("spectrum", *options, "--json")
    assert code == 0
    record = json.loads(out)
    assert sum(record["multiplicities"]) == 400
    assert min(record["block_values"]) == pytest.approx(100 / (100 + (0.1 / 2**0.5) ** 0.5))
    code, out, _ = run("spectrum", *options)
    assert f"{min(record['block_values']):.6f}" in out


def test_deep_ufm_prints_both_solutions(run):
    arguments = ("deep-ufm", "--num-layers", 4, "--num-classes", 10, "--decay", 0.004)
    code, out, _ = run(*arguments)
    assert code == 0
    assert "0.0991798746" in out
    assert "0.0809113322" in out
    assert "SRG / DNC = 0.8158; 0.8168 as all λ go to 0" in out
    assert "collapse is nonzero" in out
    record = json.loads(run(*arguments, "--json")[1])
    assert record["strongly_regular"]["rank"] == 5
    assert len(record["singular_values"]) == 4
    assert record["strength"] < record["threshold"]


def test_deep_ufm_says_what_there_is_not(run):
    code, out, _ = run("deep-ufm", "--num-layers", 2, "--num-classes", 3, "--decay", 0.5)
    assert code == 0
    assert "collapse is zero" in out
    assert "no SRG solution" in out
    two = (
        "deep-ufm",
        "--num-layers",
        3,
        "--num-classes",
        2,
        "--decay",
        5e-3,
        "--samples-per-class",
        10,
    )
    assert "0.0354060429" in run(*two)[1]
    code, _, error = run(*two, "--feature-decay", -1)
    assert (code, error) == (2, "perturb-nc: lambda_h must be > 0, got -1.0\n")
