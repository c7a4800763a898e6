import pytest
import torch

import perturb_nc as pnc
from perturb_nc.cli import arguments


def test_a_layer_without_a_name_is_called_as_its_file(generic, tmp_path):
    _, _, s = generic
    file, folder = tmp_path / "net.safetensors", tmp_path / "run7"
    folder.mkdir()
    pnc.save_layers({"": s, "head": s}, file)
    pnc.save_layers({"": s}, folder / "statistics.safetensors")
    assert list(arguments.layers_in(file)) == ["net", "head"]
    assert list(arguments.layers_in(folder)) == ["run7"]
    assert arguments.name_of(folder / "statistics.safetensors") == "run7"


def test_an_array_is_taken_by_name_or_where_it_is_the_only_one(tmp_path):
    x, y = torch.zeros(2), torch.ones(2)
    path = tmp_path / "x.npz"
    assert arguments.pick({"features": x, "labels": y}, "labels", path) is y
    assert arguments.pick({"": x}, "features", path) is x
    with pytest.raises(ValueError, match=r"holds arrays \['a', 'b'\], none named 'features'"):
        arguments.pick({"b": x, "a": y}, "features", path)


def test_outputs_are_no_inputs_and_folders_no_files(tmp_path):
    file = tmp_path / "in.safetensors"
    file.write_text("x")
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(ValueError, match="is the input"):
        arguments.refuse_overwriting(tmp_path / "link", file)
    arguments.refuse_overwriting(tmp_path / "out.safetensors", file, None)
    arguments.refuse_overwriting(None, file)
    with pytest.raises(ValueError, match="--output must be a folder, got the file"):
        arguments.refuse_file(file)


def test_a_bar_appears_with_the_first_step(capsys):
    with arguments.progress_bar("layers [of] a"):
        pass
    assert capsys.readouterr().err == ""
    with arguments.progress_bar("layers [of] a", 3) as update:
        update(1)
        update(2, 4)
    assert "layers [of] a" in capsys.readouterr().err
