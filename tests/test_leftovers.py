import os

from perturb_nc.leftovers import remove_leftovers, temporary_name
from perturb_nc.storage import replacing


def test_what_kills_leave_is_removed_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)  # beyond those that Linux gives
    gone = [tmp_path / temporary_name(".pt"), tmp_path / temporary_name()]
    gone[0].write_text("half")
    gone[1].mkdir()
    (gone[1] / "chunk").write_text("x")
    monkeypatch.undo()
    alive, other = (
        tmp_path / temporary_name(".pt"),
        tmp_path / ".perturb-nc-00000000-7-000000000000",
    )
    for path in (alive, other, tmp_path / ".perturb-nc-mine"):
        path.write_text("x")
    remove_leftovers.cache_clear()
    with replacing(tmp_path / "new") as temporary:
        temporary.write_text("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["new", alive.name, other.name, ".perturb-nc-mine"]
    )
