"""What a bench says of a network: known from one with errors made up."""

import math

import pytest
from comparisons import THEORIES, bench

from perturb_nc.study.bench import bench_table
from perturb_nc.study.verdict import block_errors, verdicts


def test_a_network_follows_the_nearest_theories():
    (verdict,) = verdicts([bench()])
    assert verdict.network == "net"
    assert verdict.metric == "nc1_span"
    assert verdict.follows == ("central_path", "equi_separation")  # within 10 %
    assert verdict.features == ("central_path",)
    assert verdict.nearer == ("local",)
    assert (verdict.judged, verdict.layers) == (3, 3)
    for name, off in THEORIES.items():
        row = verdict.theories[name]
        if off is None:
            assert math.isnan(row.in_span)
            assert (row.predicted, row.worst) == (0, None)
            continue
        assert row.in_span == pytest.approx(off)
        assert row.out_of_span == pytest.approx(off)
        assert row.predicted == 3
        assert (row.worst.layer, row.worst.quantity) == ("blocks.2", "nc2_etf")
        assert row.worst.error == pytest.approx(3 * off)
    path = verdict.theories["central_path"]
    assert path.sees.startswith("first layer")
    assert path.told == "its placing metric"
    assert verdict.to_dataframe().loc["chain", "in_span"] == pytest.approx(0.2)
    assert "follows=central_path, equi_separation" in repr(verdict)


def test_what_places_the_layers_is_no_failure():
    wrong = bench()
    wrong["predicted"].loc[{"quantity": "nc1_span"}] *= 10
    found, wanted = (repr(verdicts([b])[0].as_dict()) for b in (wrong, bench()))
    assert found == wanted


def test_a_network_may_follow_none():
    nothing = {name: None if name != "unchanged" else 0.1 for name in THEORIES}
    (verdict,) = verdicts([bench(off=nothing)])
    assert verdict.follows == verdict.features == ()
    assert verdict.nearer == ("unchanged",)


def test_a_block_needs_half_of_its_quantities():
    few = bench()
    at = few["predicted"].sel(model="chain").drop_sel(quantity="discrimination")["quantity"]
    few["predicted"].loc[{"model": "chain", "quantity": at}] = math.nan
    few["predicted_spectrum"].loc[{"model": "chain"}] = math.nan
    few["predicted_span_spectrum"].loc[{"model": "chain"}] = math.nan
    blocks = block_errors(bench_table([few])).sel(network="net")
    assert blocks.sel(model="chain").isnull().all()
    assert blocks.sel(model="central_path").notnull().all()


def test_every_network_has_its_verdict():
    other = {**THEORIES, "chain": 0.001}
    found = verdicts([bench("a"), bench("b", off=other)])
    assert [v.network for v in found] == ["a", "b"]
    assert found[1].follows == ("chain",)
    assert found[1].nearer == ()
