import pytest

from perturb_nc.cli import demo_run as demo


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--beta", "-1"), "beta must be >= 0, got -1.0"),
        (("--lambda-h", "nan"), "lambda_h must be finite, got nan"),
        (("--lambda-h", "0", "--beta", "0"), "lambda_h + beta must be > 0, got 0.0"),
    ],
)
def test_demo_refuses_hyperparameters_before_it_trains(
    options, message, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(demo, "train", lambda *_, **__: pytest.fail("trained"))
    code, out, err = run("demo", "-o", tmp_path / "demo", *options)
    assert (code, out, err) == (2, "", f"perturb-nc: {message}\n")
    assert not (tmp_path / "demo").exists()
