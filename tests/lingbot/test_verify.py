import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lingbot.verify import main, verify

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["dit_cam_global", "dit_cam_window", "dit_act_window", "camera"])
def test_golden_folders_are_reproduced(name):
    errors = dict(verify(GOLDEN / name))
    assert len(errors) >= 5
    assert max(errors.values()) < 1e-5, errors


def test_the_report_ends_with_the_worst_error(capsys):
    assert main([str(GOLDEN / "camera"), "--tolerance", "1e-5"]) == 0
    *quantities, last = capsys.readouterr().out.splitlines()
    worst = max(quantities, key=lambda line: float(line.split(": ")[1]))
    assert last == f"worst: {worst.split(': ')[1]}"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(GOLDEN / "dit_cam_window", tmp_path / "copy"))


@pytest.mark.parametrize(
    "file, name", [("rollout", "x0"), ("rollout", "kv0_k"), ("diffusion_pytorch_model", None)]
)
def test_a_wrong_number_is_found(copy, file, name):
    path = copy / f"{file}.safetensors"
    tensors = load_file(path)
    changed = tensors[name or "blocks.1.cam_shift_layer.bias"]
    changed[0] += 0.5
    save_file(tensors, path)
    assert main([str(copy)]) == 1


@pytest.mark.parametrize("name", ["x0", "kv0_k"])
def test_nan_is_not_below_the_tolerance(copy, name):
    tensors = load_file(copy / "rollout.safetensors")
    tensors[name][0, 0] = float("nan")
    save_file(tensors, copy / "rollout.safetensors")
    assert main([str(copy)]) == 1


def damage_weights(folder):
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["blocks.0.ffn.0.bias"]
    save_file(tensors, path)


def shorten_rollout(folder):
    path = folder / "rollout.safetensors"
    tensors = load_file(path)
    tensors["x0"] = tensors["x0"][:, :1].contiguous()
    save_file(tensors, path)


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda folder: shutil.rmtree(folder), "is not a folder"),
        (lambda folder: (folder / "rollout.safetensors").unlink(), "holds none of"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text('{"dim": 64}'), "ffn_dim"),
        (lambda folder: (folder / "rollout.safetensors").write_bytes(b"junk"), "rollout"),
        (damage_weights, "blocks.0.ffn.0.bias"),
        (shorten_rollout, "expected the shape"),
    ],
)
def test_an_unreadable_folder_gives_a_reason(copy, damage, reason, capsys):
    damage(copy)
    assert main([str(copy)]) == 2
    out, err = capsys.readouterr()
    assert "worst" not in out and reason in err


def test_a_camera_folder_without_intrinsics_gives_a_reason(tmp_path, capsys):
    folder = Path(shutil.copytree(GOLDEN / "camera", tmp_path / "camera"))
    tensors = load_file(folder / "camera.safetensors")
    save_file({**tensors, "intrinsics": tensors["intrinsics"][:0]}, folder / "camera.safetensors")
    assert main([str(folder)]) == 2
    assert "camera" in capsys.readouterr().err


def test_two_processes_reproduce_a_golden_folder(capfd):
    """The command; `parallel/test_ulysses.py` reruns all folders."""
    assert main([str(GOLDEN / "dit_act_window"), "--ranks", "2", "--tolerance", "1e-5"]) == 0
    names = [line.split(": ")[0] for line in capfd.readouterr().out.splitlines()]
    one_rank = [name for name, _ in verify(GOLDEN / "dit_act_window")]
    assert names == [*one_rank, "worst"]


def share_one_head(folder):
    """The weights still fit: 4 heads of 16 have the shapes of 1 head of 64."""
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"num_heads": 4', '"num_heads": 1'))


@pytest.mark.parametrize(
    "damage, reason",
    [
        (share_one_head, "num_heads 1 must be divisible by the 2 ranks"),
        (damage_weights, "blocks.0.ffn.0.bias"),
    ],
)
def test_a_folder_that_two_processes_cannot_run_gives_a_reason(copy, damage, reason, capfd):
    damage(copy)
    assert main([str(copy), "--ranks", "2"]) == 2
    out, err = capfd.readouterr()
    assert "worst" not in out
    assert reason in err and "Traceback" not in err
