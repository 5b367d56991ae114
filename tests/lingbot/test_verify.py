import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lingbot.config import ScheduleConfig
from lingbot.dit.schedule import build_steps
from lingbot.errors import LingbotError
from lingbot.verify.__main__ import main
from lingbot.verify.dit import find_schedule
from lingbot.verify.folder import verify

GOLDEN = Path(__file__).parents[1] / "golden"


FOLDERS = ["dit_cam_global", "dit_cam_window", "dit_act_window", "dit_cam_chunk4", "camera"]


@pytest.mark.parametrize("name", FOLDERS)
def test_golden_folders_are_reproduced(name):
    errors = dict(verify(GOLDEN / name))
    assert len(errors) >= 5
    assert max(errors.values()) < 1e-5, errors


def test_the_schedule_of_v2s_command_line_is_found():
    timesteps = torch.tensor([999.0, 967.0, 908.0, 768.0])
    assert find_schedule({"timesteps": timesteps}).shift == 10.0


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0, 9.5, 10.0])
def test_a_schedule_of_another_shift_is_found_by_its_sigmas(shift):
    steps = build_steps(ScheduleConfig(indices=(0, 111, 480, 702, 930), shift=shift))
    recorded = {
        "timesteps": torch.tensor([float(step.timestep) for step in steps]),
        "x0_sigmas": torch.tensor([step.sigma for step in steps]),
    }
    assert build_steps(find_schedule(recorded)) == steps


def test_a_schedule_of_no_known_shift_is_refused():
    recorded = {"timesteps": torch.tensor([999.0, 500.0]), "x0_sigmas": torch.tensor([0.9, 0.1])}
    with pytest.raises(LingbotError, match="no known schedule"):
        find_schedule(recorded)


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
        (lambda folder: (folder / "config.json").write_text('{"dim": 64}'), "num_heads"),
        (lambda folder: (folder / "rollout.safetensors").write_bytes(b"junk"), "rollout"),
        (damage_weights, "blocks.0.ffn.0.bias"),
        (shorten_rollout, "'x0' is float32 [16, 1, 4, 6], expected floats [16 15 4 6]"),
    ],
)
def test_an_unreadable_folder_gives_a_reason(copy, damage, reason, capsys):
    damage(copy)
    assert main([str(copy)]) == 2
    out, err = capsys.readouterr()
    assert "worst" not in out and reason in err


def change_tensors(file, **changes):
    """A damage: replace tensors of a file by the results of functions; None removes one."""

    def damage(folder):
        path = folder / f"{file}.safetensors"
        tensors = load_file(path)
        for name, change in changes.items():
            tensor = tensors.pop(name)
            if change is not None:
                tensors[name] = change(tensor).contiguous()
        save_file(tensors, path)

    return damage


def change_json(file, **changes):
    """A damage: replace fields of a JSON file."""

    def damage(folder):
        path = folder / f"{file}.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))

    return damage


def write(name, content):
    """A damage: replace a file."""
    return lambda folder: (folder / name).write_bytes(content)


def replace_by_folder(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def set_first(value):
    def change(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return change


def assert_one_line(folder, reason, capsys):
    assert main([str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("verify: ") and reason in line and len(line) < 400


CAMERA_DAMAGE = {
    "no intrinsics": (change_tensors("camera", intrinsics=lambda t: t[:0]), "intrinsics"),
    "3x3": (
        change_tensors("camera", intrinsics=lambda t: torch.eye(3).repeat(len(t), 1, 1)),
        "'intrinsics' is float32 [49, 3, 3], expected floats [I 4]",
    ),
    "flat": (
        change_tensors("camera", intrinsics=lambda t: t[0]),
        "'intrinsics' is float32 [4], expected floats [I 4]",
    ),
    "integers": (change_tensors("camera", intrinsics=lambda t: t.long()), "is int64 [49, 4]"),
    "no focal length": (change_tensors("camera", intrinsics=set_first(0)), "fx and fy above 0"),
    "NaN": (change_tensors("camera", intrinsics=set_first(float("nan"))), "not finite"),
    "infinite pose": (change_tensors("camera", c2w=set_first(float("inf"))), "'c2w' has values"),
    "no pose": (change_tensors("camera", c2w=None), "no tensor 'c2w'"),
    "one pose": (change_tensors("camera", c2w=lambda t: t[0]), "'c2w' is float32 [4, 4]"),
    "singular": (change_tensors("camera", c2w=lambda t: t * 0), "Singular"),
    "no map": (change_tensors("camera", plucker=None), "no tensor 'plucker'"),
    "fewer maps": (change_tensors("camera", relative=lambda t: t[1:]), "expected floats [12 4 4]"),
    "width 0": (change_json("camera", source_width=0), "`$.source_width`"),
    "height -1": (change_json("camera", source_height=-1), "`$.source_height`"),
    "text": (change_json("camera", width="48"), "`$.width`"),
    "null": (change_json("camera", latent_frames=None), "`$.latent_frames`"),
    "huge": (change_json("camera", width=10**9, height=10**9), "latent_frames, height and width"),
    "far too wide": (change_json("camera", source_width=10**400), "fx and fy above 0"),
    "overflow": (change_tensors("camera", c2w=lambda t: t.double() * 1e300), "camera: "),
    "keys": (change_json("camera", keys="wasd"), "`$.keys`"),
    "numbers": (change_json("camera", keys=[[1]]), "`$.keys[0][0]`"),
    "list": (write("camera.json", b"[]"), "Expected `object`, got `array`"),
    "no field": (write("camera.json", b"{}"), "missing required field `width`"),
    "no JSON": (write("camera.json", b"\xff\x00"), "camera.json: JSON is malformed"),
    "deep": (write("camera.json", b'{"a":' + b"[" * 10**5), "camera.json: maximum recursion"),
    "empty": (write("camera.safetensors", b""), "camera.safetensors: is empty"),
    "folder": (replace_by_folder("camera.json"), "holds none of"),
    "folder of tensors": (replace_by_folder("camera.safetensors"), "holds none of"),
}


@pytest.mark.parametrize("damage, reason", CAMERA_DAMAGE.values(), ids=CAMERA_DAMAGE)
def test_a_damaged_camera_folder_gives_one_line(tmp_path, capsys, damage, reason):
    folder = Path(shutil.copytree(GOLDEN / "camera", tmp_path / "camera"))
    damage(folder)
    assert_one_line(folder, reason, capsys)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
WEIGHTS = "diffusion_pytorch_model"
DIT_DAMAGE = {
    "no noise": (change_tensors("rollout", noise=None), "no tensor 'noise'"),
    "flat": (change_tensors("rollout", flow_pred=lambda t: t.flatten()), "'flow_pred' is float32"),
    "NaN": (change_tensors("rollout", noise=set_first(float("nan"))), "'noise' has values"),
    "integers": (change_tensors("rollout", context=lambda t: t.long()), "'context' is int64"),
    "no schedule": (change_tensors("rollout", timesteps=lambda t: t + 1), "no known schedule"),
    "steps": (change_tensors("rollout", step_noise=lambda t: t[:1]), "'flow_pred' is float32"),
    "odd slots": (change_tensors("rollout", kv0_k=lambda t: t[:, 1:]), "rollout.safetensors"),
    "pointer": (write(f"{WEIGHTS}.safetensors", LFS_POINTER), "is a git-lfs pointer"),
    "pointer config": (write("config.json", LFS_POINTER), "config.json: is a git-lfs pointer"),
    "null config": (write("config.json", b"null"), "Expected `object`, got `null`"),
    "config folder": (replace_by_folder("config.json"), "config.json: is a folder"),
    "heads": (change_json("config", num_heads=7), "must be divisible by num_heads"),
    "layers": (change_json("config", num_layers=10**9), "num_layers is 1000000000, but it is 2"),
    "more layers": (change_json("config", num_layers=3), "num_layers is 3, but it is 2"),
    "width": (change_json("config", ffn_dim=10), "ffn_dim is 10, but it is 96 by"),
    "window": (change_json("config", local_attn_size=2), "must hold the sink"),
    "control": (change_json("config", control_type="act"), "patch_embedding_wancamctrl.weight"),
    "weight dtype": (
        change_tensors(WEIGHTS, **{"head.head.bias": lambda t: t.long()}),
        "'head.head.bias' is I64",
    ),
    "text": (
        change_tensors(WEIGHTS, **{"text_embedding.0.weight": lambda t: t[0]}),
        "'text_embedding.0.weight' is F32 [32], expected 2 dimensions",
    ),
}


@pytest.mark.parametrize("damage, reason", DIT_DAMAGE.values(), ids=DIT_DAMAGE)
def test_a_damaged_rollout_gives_one_line(copy, capsys, damage, reason):
    damage(copy)
    assert_one_line(copy, reason, capsys)


@pytest.mark.parametrize("name", ["none", "file", "x" * 300, "x/" * 3000])
def test_a_path_that_is_no_folder_gives_one_line(tmp_path, capsys, name):
    (tmp_path / "file").write_bytes(b"")
    assert main([str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)


def test_an_empty_folder_gives_one_line(tmp_path, capsys):
    assert_one_line(tmp_path, "holds none of", capsys)


def split(folder, stem):
    """Split a file in three and write the index, as the official checkpoints are."""
    path = folder / f"{stem}.safetensors"
    tensors = load_file(path)
    path.unlink()
    names = [f"{stem}-0000{part}-of-00003.safetensors" for part in (1, 2, 3)]
    weight_map = {name: names[i % 3] for i, name in enumerate(sorted(tensors))}
    for file in names:
        save_file({n: t for n, t in tensors.items() if weight_map[n] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{path.name}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("stems", [(WEIGHTS,), ("rollout",), (WEIGHTS, "rollout")])
def test_a_golden_folder_in_shards_is_reproduced(copy, stems):
    for stem in stems:
        split(copy, stem)
    assert main([str(copy), "--tolerance", "1e-5"]) == 0


def test_a_camera_folder_in_shards_is_reproduced(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "camera", tmp_path / "camera"))
    split(folder, "camera")
    assert main([str(folder), "--tolerance", "1e-5"]) == 0


INDEX = f"{WEIGHTS}.safetensors.index.json"
SHARD = f"{WEIGHTS}-00002-of-00003.safetensors"
SHARD_DAMAGE = {
    "missing": (lambda folder: (folder / SHARD).unlink(), f"{SHARD}: No such file"),
    "empty": (write(SHARD, b""), f"{SHARD}: is empty"),
    "pointer": (write(SHARD, LFS_POINTER), f"{SHARD}: is a git-lfs pointer"),
    "folder": (replace_by_folder(SHARD), f"{SHARD}: is a folder"),
    "list": (write(INDEX, b"[]"), f"{INDEX}: Expected `object`, got `array`"),
    "null": (write(INDEX, b"null"), f"{INDEX}: Expected `object`, got `null`"),
    "no map": (write(INDEX, b"{}"), f"{INDEX}: Object missing required field `weight_map`"),
    "list of files": (write(INDEX, b'{"weight_map": ["a"]}'), f"{INDEX}: Expected `object`"),
    "number": (write(INDEX, b'{"weight_map": {"a": 1}}'), f"{INDEX}: Expected `str`, got `int`"),
    "null byte": (write(INDEX, b'{"weight_map": {"a": "\\u0000"}}'), "null byte"),
    "own folder": (write(INDEX, b'{"weight_map": {"a": ""}}'), "is a folder"),
    "empty map": (write(INDEX, b'{"weight_map": {}}'), "no tensor"),
    "index pointer": (write(INDEX, LFS_POINTER), f"{INDEX}: is a git-lfs pointer"),
}


@pytest.mark.parametrize("damage, reason", SHARD_DAMAGE.values(), ids=SHARD_DAMAGE)
def test_damaged_shards_give_one_line(copy, capsys, damage, reason):
    split(copy, WEIGHTS)
    damage(copy)
    assert_one_line(copy, reason, capsys)


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
