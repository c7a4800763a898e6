import pytest
import torch
from torch import nn

from perturb_nc.networks.pickles import module_tensors

CLASSES = tuple(
    f"torch.nn.modules.{name}"
    for name in ("container.Sequential", "linear.Linear", "batchnorm.BatchNorm1d")
)


def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)))


def test_the_state_dict_of_a_module_that_was_pickled_whole(tmp_path):
    path, wanted = tmp_path / "model.pth", model()
    torch.save(wanted, path)
    found = module_tensors(path, CLASSES)
    assert list(found) == list(wanted.state_dict())
    for name, value in wanted.state_dict().items():
        assert torch.equal(found[name], value)
        assert type(found[name]) is torch.Tensor
        assert not found[name].requires_grad


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


def inside(hostile):
    module = model()
    module[1].more = hostile
    return module


@pytest.mark.parametrize("content", [lambda h: h, lambda h: {"weight": h}, inside])
def test_a_file_that_asks_for_anything_else_is_refused_by_name(tmp_path, content):
    target = tmp_path / "was-run"
    torch.save(content(Hostile(target)), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model.pth asks for builtins.exec, which its tensors"):
        module_tensors(tmp_path / "model.pth", CLASSES)
    # Naming the function among the classes gives it a shell, which cannot be called.
    with pytest.raises(ValueError):  # noqa: PT011 - by torch or by us
        module_tensors(tmp_path / "model.pth", (*CLASSES, "builtins.exec"))
    assert not target.exists()


def test_a_class_that_is_not_named_is_refused(tmp_path):
    torch.save(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"asks for torch.nn.modules.activation.ReLU"):
        module_tensors(tmp_path / "model.pth", CLASSES)


def test_what_is_no_module_is_said(tmp_path):
    path = tmp_path / "model.pth"
    with pytest.raises(FileNotFoundError, match="no file at"):
        module_tensors(path, CLASSES)
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"model.pth is no file of torch.save"):
        module_tensors(path, CLASSES)
    torch.save(model().state_dict(), path)
    with pytest.raises(ValueError, match=r"model.pth holds no module of these classes"):
        module_tensors(path, CLASSES)
    torch.save(model(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"model.pth"):
        module_tensors(path, CLASSES)
