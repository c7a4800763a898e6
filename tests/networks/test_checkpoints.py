from dataclasses import replace

import pytest
import torch
from training_runs import CONFIG, ONE_CYCLE, assert_same_parameters, clusters, fresh

from perturb_nc.networks.architectures import MLP
from perturb_nc.networks.training import train


def test_a_one_cycle_run_resumes_to_the_same_bits_but_not_with_more_epochs(tmp_path):
    data, straight, again, path = clusters(), fresh(), fresh(seed=8), tmp_path / "run.pt"
    wanted = train(straight, data, ONE_CYCLE)

    def stop(record):
        if record.epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), data, ONE_CYCLE, checkpoint=path, on_epoch=stop)
    assert len(torch.load(path, weights_only=True)["history"]) == 3
    assert train(again, data, ONE_CYCLE, checkpoint=path) == wanted
    assert_same_parameters(straight, again)
    with pytest.raises(ValueError, match=r"differs in epochs \(file 6, now 7\)"):
        train(fresh(), data, replace(ONE_CYCLE, epochs=7), checkpoint=path)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_resuming_after_three_epochs_gives_the_same_bits(tmp_path, dropout):
    data, last = clusters(), "1.head" if dropout else "head"
    straight, resumed = fresh(dropout=dropout), fresh(dropout=dropout)
    torch.manual_seed(9)
    wanted = train(straight, data, CONFIG, last_layer=last)
    path = tmp_path / "run.pt"
    torch.manual_seed(9)
    train(resumed, data, replace(CONFIG, epochs=3), last_layer=last, checkpoint=path)
    torch.manual_seed(1)  # what happens between the two must not matter
    again = fresh(seed=7, dropout=dropout)
    got = train(again, data, CONFIG, last_layer=last, checkpoint=path)
    assert got == wanted
    assert_same_parameters(straight, again)


def test_an_interruption_leaves_the_last_checkpoint_usable(tmp_path):
    data, straight = clusters(), fresh()
    wanted = train(straight, data, CONFIG)

    def interrupt(record):
        if record.epoch == 3:
            raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), data, CONFIG, checkpoint=path, checkpoint_every=2, on_epoch=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    seen, resumed = [], fresh(seed=3)
    assert train(resumed, data, CONFIG, checkpoint=path, on_epoch=seen.append) == wanted
    assert [record.epoch for record in seen] == [3, 4, 5, 6]
    assert_same_parameters(straight, resumed)


def test_a_finished_run_is_only_read(tmp_path):
    path, data = tmp_path / "run.pt", clusters()
    model = fresh()
    wanted = train(model, data, CONFIG, checkpoint=path)
    again = fresh(seed=4)
    assert train(again, data, CONFIG, checkpoint=path) == wanted
    assert_same_parameters(model, again)


def test_a_checkpoint_of_another_run_names_the_fields_and_the_remedy(tmp_path):
    path, data = tmp_path / "run.pt", clusters()
    train(fresh(), data, CONFIG, checkpoint=path)
    other = replace(CONFIG, learning_rate=0.01, seed=6)
    message = r"differs in learning_rate \(file 0.05, now 0.01\), seed \(file 5, now 6\); delete"
    with pytest.raises(ValueError, match=message):
        train(fresh(), data, other, checkpoint=path)
    with pytest.raises(ValueError, match=r"epochs \(file has done 6, now 4\)"):
        train(fresh(), data, replace(CONFIG, epochs=4), checkpoint=path)
    with pytest.raises(ValueError, match=r"last_layer \(file 'head', now 'blocks.0'\)"):
        train(fresh(), data, CONFIG, checkpoint=path, last_layer="blocks.0")
    with pytest.raises(ValueError, match=r"dataset \(file 'clusters', now 'other'\)"):
        train(fresh(), replace(data, name="other"), CONFIG, checkpoint=path)
    with pytest.raises(ValueError, match="of another model; delete"):
        train(MLP(6, (9, 8), 3), data, CONFIG, checkpoint=path)


@pytest.mark.parametrize("content", [b"garbage", b""])
def test_a_file_that_is_no_checkpoint_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a checkpoint of train\(\); delete"):
        train(fresh(), clusters(), CONFIG, checkpoint=path)
    assert path.read_bytes() == content
