import numpy as np
import pytest
import xarray as xr
from own_networks import anchored_chain

from perturb_nc.study.compare import compare_layers
from perturb_nc.study.comparison import error_table, errors, load_comparison, save_comparison


@pytest.fixture(scope="module")
def chained():
    return compare_layers(anchored_chain(3), name="chain", lambda_w=0.1)


def test_errors_and_their_table_by_hand(chained):
    table = chained.copy(deep=True)
    table["held_out"][:] = True
    table["predicted"].loc["path", "layer.1", "nc1"] = 2 * table["measured"].loc["layer.1", "nc1"]
    table["predicted"].loc["path", "layer.2", "nc1"] = table["measured"].loc["layer.2", "nc1"] / 4
    table["measured"].loc["layer.1", "nc2_etf"] = 0.0
    found = errors(table).sel(model="path")
    expected = [np.nan, np.log(2), np.log(4)]
    assert found.sel(quantity="nc1").values == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found.sel(layer="layer.1", quantity="nc2_etf"))
    both = error_table([table, table])
    assert both["network"].values.tolist() == ["chain", "chain"]
    assert both.sel(model="path", quantity="nc1").values == pytest.approx(1.5 * np.log(2))
    # A layer that one model does not predict counts for none.
    table["predicted"].loc["path", "layer.2"] = np.nan
    fewer = error_table([table])
    assert fewer["judged"].item() == 1
    alone = errors(table).sel(model="shrinkage", layer="layer.1", quantity="cdnv")
    assert fewer.sel(model="shrinkage", quantity="cdnv").item() == pytest.approx(alone.item())
    with pytest.raises(ValueError, match="comparisons must hold at least one"):
        error_table([])


def test_a_file_gives_back_the_comparison(chained, tmp_path):
    path = tmp_path / "chain.json"
    save_comparison(chained, path)
    found = load_comparison(path)
    xr.testing.assert_identical(found, chained)
    path.write_text(path.read_text()[:-100])
    with pytest.raises(ValueError, match="holds no comparison"):
        load_comparison(path)
    path.write_text('{"format": "something"}')
    with pytest.raises(ValueError, match="another format"):
        load_comparison(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="holds no comparison"):
        load_comparison(path)
    with pytest.raises(FileNotFoundError, match="no file at"):
        load_comparison(tmp_path / "none.json")
