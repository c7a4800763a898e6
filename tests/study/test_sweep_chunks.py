import numpy as np
import pytest
import xarray as xr
from sweeps import SMALL

import perturb_nc as pnc
from perturb_nc.study.sweep_plan import METRICS
from perturb_nc.study.sweep_store import open_sweep


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
@pytest.mark.parametrize("chunk", ["nc1/1.0.0", "status/1.0.0", "flow_nc1/1.0.0"])
def test_damaged_and_missing_chunks_are_pending_again(store, chunk, damage, caplog):
    whole, path = open_sweep(store), store / chunk
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    match damage:
        case "flip":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "remove":
            path.unlink()
    found = open_sweep(store)
    np.testing.assert_array_equal(found["status"], [[[1, 1, 1]], [[0, 0, 1]]])
    if (damage, chunk) != ("remove", "status/1.0.0"):  # as if it had never been computed
        assert "2 damaged or missing settings are pending again" in caplog.text
    left = found["status"] != 0
    for name in (*METRICS, "objective", "nc1_derivative"):
        np.testing.assert_array_equal(found[name].where(left), whole[name].where(left))


def test_damaged_chunks_are_computed_again(statistics, store):
    whole, calls = open_sweep(store), []
    (store / "nc1" / "0.0.0").write_bytes(b"")
    (store / "flow_status" / "1.0").unlink()
    again = pnc.sweep(statistics, **SMALL, store=store, progress=lambda *call: calls.append(call))
    assert calls == [(2, 6), (4, 6), (6, 6)]
    xr.testing.assert_identical(again, whole)
    xr.testing.assert_identical(open_sweep(store), whole)


def test_damaged_layouts_are_refused(store):
    for name in (".zmetadata", "nc1/.zarray", "nc1/.zattrs", ".zattrs", "beta/0"):
        content = (store / name).read_bytes()
        at = content.index(b"1") if b"1" in content else len(content) // 2
        (store / name).write_bytes(content[:at] + bytes([content[at] ^ 3]) + content[at + 1 :])
        with pytest.raises(ValueError, match="is not the store of a sweep, or damaged"):
            open_sweep(store)
        (store / name).write_bytes(content)
    open_sweep(store)


def test_stores_without_checksums_are_read_with_a_note(store, tmp_path, caplog):
    caplog.set_level("INFO")
    whole = open_sweep(store)
    assert not caplog.text
    whole.to_zarr(tmp_path / "old.zarr", zarr_format=2, consolidated=True)
    found = open_sweep(tmp_path / "old.zarr")
    xr.testing.assert_identical(found, whole)
    assert "old.zarr was written without a checksum" in caplog.text
