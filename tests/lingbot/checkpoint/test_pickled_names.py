import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from lingbot.checkpoint.pickled_names import state_dict_names
from lingbot.errors import WeightsError
from lingbot.files import read_state_dict
from tests.lingbot.checkpoint.folders import GOLDEN, PAGE, POINTER

VAE = GOLDEN / "vae_wan21" / "Wan2.1_VAE.pth"


@pytest.mark.parametrize("path", [VAE, GOLDEN / "t5" / "models_t5_tiny.pth"])
def test_the_names_that_torch_reads_are_among_the_strings(path):
    assert read_state_dict(path).keys() <= state_dict_names(path)


def test_the_format_before_zip_archives_is_read(tmp_path):
    """Both readers: the names alone, and the tensors."""
    path = tmp_path / "old.pth"
    tensors = OrderedDict({"decoder.conv1.weight": torch.arange(3.0)})
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    assert "decoder.conv1.weight" in state_dict_names(path)
    assert read_state_dict(path)["decoder.conv1.weight"].tolist() == [0, 1, 2]


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


def test_no_code_of_the_file_is_run(tmp_path):
    path = tmp_path / "trap.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"decoder.conv1.weight": Trap()}))
    assert "decoder.conv1.weight" in state_dict_names(path)


def zipped(folder, files, *, password=False):
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    data = bytearray((folder / "x.zip").read_bytes())
    if password:  # the flag of encryption, in the central directory
        data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


DAMAGE = {
    "pointer": (lambda _: POINTER, "is a git-lfs pointer"),
    "page": (lambda _: PAGE, "not a whole PyTorch file"),
    "empty": (lambda _: b"", "is empty"),
    "cut": (lambda _: VAE.read_bytes()[:-100], "not a whole PyTorch file"),
    "cut early": (lambda _: VAE.read_bytes()[:100], "not a whole PyTorch file"),
    "no pickle": (lambda folder: zipped(folder, {"a": b"b"}), "not a whole PyTorch file"),
    "cut pickle": (lambda folder: zipped(folder, {"data.pkl": b"\x80"}), "not a whole PyTorch"),
    "no opcode": (lambda folder: zipped(folder, {"data.pkl": b"\xff"}), "not a whole PyTorch"),
    "locked": (
        lambda folder: zipped(folder, {"data.pkl": b"N."}, password=True),
        "not a whole PyTorch file",
    ),
}


@pytest.mark.parametrize("data, reason", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_gives_one_line(tmp_path, data, reason):
    path = tmp_path / "vae.pth"
    path.write_bytes(data(tmp_path))
    with pytest.raises(WeightsError) as raised:
        state_dict_names(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: ") and reason in text and "\n" not in text
