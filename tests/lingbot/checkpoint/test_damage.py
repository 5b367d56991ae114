"""Kinds of damage to a checkpoint, and the line that the operator reads for each.

A line comes from the command, and so from `find_checkpoint` or from the check of names and shapes.
`load_dit` gives the same line for damage to a DiT.
"""

import json
import shutil
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file

from lingbot.checkpoint.__main__ import main
from lingbot.dit.weights import load_dit
from lingbot.errors import WeightsError
from tests.lingbot.checkpoint.folders import (
    PAGE,
    POINTER,
    shard_name,
    tiny_tensors,
    write_config,
    write_diffusers,
    write_parts,
    write_shards,
)

STEM = "diffusion_pytorch_model"
INDEX = f"{STEM}.safetensors.index.json"
SHARDS = [shard_name(STEM, number, 4) for number in range(5)]  # by number; the first is none
VAE = "Wan2.1_VAE.pth"
T5 = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = "google/umt5-xxl/tokenizer.json"
CUT = "not a whole safetensors file"
NORM = "blocks.1.norm3.bias"  # in the third shard
TYPES = "F64, F32, F16, BF16"


def write(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name, num_bytes=1):
    return lambda folder: write(name, (folder / name).read_bytes()[:-num_bytes])(folder)


def to_folder(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def dangle(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).symlink_to("../../blobs/4d7a")

    return damage


def change(shard, **changes):
    """Replace tensors of a shard by the results of functions; None removes one."""

    def damage(folder):
        tensors = load_file(folder / SHARDS[shard])
        for name, function in changes.items():
            tensor = tensors.pop(name, None)
            if function is not None:
                tensors[name] = function(tensor).contiguous()
        save_file(tensors, folder / SHARDS[shard])

    return damage


def edit_index(edit):
    """Change the index's map of tensors to shards in place."""

    def damage(folder):
        index = json.loads((folder / INDEX).read_text())
        edit(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def both(*damages):
    return lambda folder: [damage(folder) for damage in damages]


def mix(folder):
    """A shard of a wider model, with its own index left behind."""
    write_shards(folder / "other", tiny_tensors(dim=256, num_heads=2))
    shutil.move(folder / "other" / SHARDS[3], folder / SHARDS[3])
    shutil.rmtree(folder / "other")


def copy_dit(folder):
    write_shards(folder / "copy", tiny_tensors())


NO_INDEX = remove(INDEX, "config.json")
NO_DIT = both(remove(INDEX, *SHARDS[1:]))

# The damage, and the line after the folder and a slash. "..." stands for some text.
DIT_DAMAGE = {
    "shard: lfs pointer": (write(SHARDS[2], POINTER), f"{SHARDS[2]}: is a git-lfs pointer, ..."),
    "shard: all lfs pointers": (
        both(*(write(name, POINTER) for name in SHARDS[1:])),
        f"{SHARDS[1]}: is a git-lfs pointer, not the file; `git lfs pull` fetches it",
    ),
    "shard: cut": (cut(SHARDS[4]), f"{SHARDS[4]}: {CUT}: ..."),
    "shard: cut to its header": (cut(SHARDS[1], 100_000), f"{SHARDS[1]}: {CUT}: ..."),
    "shard: empty": (write(SHARDS[2], b""), f"{SHARDS[2]}: is empty"),
    "shard: web page": (write(SHARDS[3], PAGE), f"{SHARDS[3]}: {CUT}: ..."),
    "shard: folder": (to_folder(SHARDS[1]), f"{SHARDS[1]}: is a folder, expected a file"),
    "shard: missing": (remove(SHARDS[3]), f"{SHARDS[3]}: No such file or directory"),
    "shard: dangling link": (
        dangle(SHARDS[2]),
        f"{SHARDS[2]}: is a link to ../../blobs/4d7a: No such file or directory",
    ),
    "shard: number missing": (
        both(NO_INDEX, remove(SHARDS[3])),
        f"{SHARDS[3]}: is missing, and other shards of its model are there",
    ),
    "shard: of two totals": (
        both(
            NO_INDEX,
            lambda folder: (folder / SHARDS[2]).rename(
                folder / f"{STEM}-00002-of-00007.safetensors"
            ),
        ),
        f"{STEM}-00002-of-00007.safetensors: is of another model than {SHARDS[4]}",
    ),
    "shard: of another model": (
        both(mix, remove("config.json")),
        f"{SHARDS[3]}: tensor '...' is F32 [...256...], expected [...] of {TYPES}",
    ),
    "index: lfs pointer": (write(INDEX, POINTER), f"{INDEX}: is a git-lfs pointer, ..."),
    "index: web page": (write(INDEX, PAGE), f"{INDEX}: JSON is malformed: ..."),
    "index: empty": (write(INDEX, b""), f"{INDEX}: is empty"),
    "index: list": (write(INDEX, b"[]"), f"{INDEX}: Expected `object`, got `array`"),
    "index: null": (write(INDEX, b"null"), f"{INDEX}: Expected `object`, got `null`"),
    "index: no map": (write(INDEX, b"{}"), f"{INDEX}: Object missing required field `weight_map`"),
    "index: folder": (to_folder(INDEX), f"{INDEX}: is a folder, expected a file"),
    "index: missing shard": (
        edit_index(lambda shards: shards.update({NORM: "lost.safetensors"})),
        "lost.safetensors: No such file or directory",
    ),
    "index: tensor in the wrong shard": (
        edit_index(lambda shards: shards.update({NORM: SHARDS[1]})),
        f"{SHARDS[1]}: no tensor '{NORM}', which {INDEX} names",
    ),
    "index: unknown tensor": (
        edit_index(lambda shards: shards.update({"blocks.1.extra": SHARDS[1]})),
        f"{SHARDS[1]}: no tensor 'blocks.1.extra', which {INDEX} names",
    ),
    "index: path above": (
        edit_index(lambda shards: shards.update({NORM: "../x.safetensors"})),
        f"{INDEX}: shard '../x.safetensors' lies outside of the index's folder",
    ),
    "index: absolute path": (
        edit_index(lambda shards: shards.update({NORM: "/etc/passwd"})),
        f"{INDEX}: shard '/etc/passwd' lies outside of the index's folder",
    ),
    "tensor: in two shards": (
        change(1, **{NORM: lambda _: torch.zeros(128)}),
        f"{SHARDS[3]}: tensor '{NORM}' is in {SHARDS[1]}, too",
    ),
    "tensor: missing": (change(3, **{NORM: None}), f"{SHARDS[3]}: no tensor '{NORM}', which ..."),
    "tensor: missing without index": (
        both(NO_INDEX, change(3, **{NORM: None})),
        f"...: no tensor '{NORM}'",
    ),
    "tensor: extra": (
        change(2, **{"blocks.0.extra": lambda _: torch.zeros(1)}),
        f"{SHARDS[2]}: unknown tensor 'blocks.0.extra'",
    ),
    "tensor: two extra": (
        change(2, a=lambda _: torch.zeros(1), b=lambda _: torch.zeros(1)),
        f"{SHARDS[2]}: unknown tensor 'a' (and 1 more)",
    ),
    "tensor: misshapen": (
        change(3, **{NORM: lambda tensor: tensor[:-1]}),
        f"{SHARDS[3]}: tensor '{NORM}' is F32 [127], expected [128] of {TYPES}",
    ),
    "tensor: integers": (
        change(3, **{NORM: lambda tensor: tensor.long()}),
        f"{SHARDS[3]}: tensor '{NORM}' is I64 [128], expected [128] of {TYPES}",
    ),
    "tensor: float8": (
        change(3, **{NORM: lambda tensor: tensor.to(torch.float8_e4m3fn)}),
        f"{SHARDS[3]}: tensor '{NORM}' is F8_E4M3 [128], expected [128] of {TYPES}",
    ),
    "tensor: control of another width": (
        change(1, **{"patch_embedding_wancamctrl.weight": lambda tensor: tensor[:, :-1]}),
        f"{SHARDS[1]}: tensor 'patch_embedding_wancamctrl.weight' is F32 [128, 1535], expected ...",
    ),
    "config: contradiction": (
        lambda folder: write_config(folder, dim=5120, num_heads=40),
        "config.json: dim is 5120, but it is 128 by tensor 'blocks.0.self_attn.q.bias' [128] ...",
    ),
    "config: other control": (
        lambda folder: write_config(folder, control_type="act"),
        "config.json: control_type is act, but it is cam by tensor ...",
    ),
    "config: not JSON": (write("config.json", b"{dim}"), "config.json: JSON is malformed: ..."),
    "config: list": (write("config.json", b"[]"), "config.json: Expected `object`, got `array`"),
    "config: text for a number": (
        lambda folder: write_config(folder, num_layers="3"),
        "config.json: Expected `int | null`, got `str` - at `$.num_layers`",
    ),
    "config: lfs pointer": (
        write("config.json", POINTER),
        "config.json: is a git-lfs pointer, ...",
    ),
    "config: heads": (
        lambda folder: write_config(folder, num_heads=3),
        "config.json: dim 128 must be divisible by num_heads 3",
    ),
}
FOLDER_DAMAGE = {
    "two DiTs": (
        both(copy_dit, remove("config.json")),
        "...: 2 DiTs, expected the path of one of them: ., copy",
    ),
    "no DiT": (NO_DIT, "...: no DiT: no .safetensors file holds LingBot-World's tensors"),
    "one file: cut in its header": (
        both(NO_DIT, write("model.safetensors", b"\x80" * 50)),
        f"model.safetensors: {CUT}: ...",
    ),
    "diffusers without transformer": (
        lambda folder: [
            shutil.rmtree(folder),
            folder.mkdir(),
            write_diffusers(folder),
            shutil.rmtree(folder / "transformer"),
        ],
        "...: no DiT: no .safetensors file holds LingBot-World's tensors, expected in the "
        "transformer folder beside model_index.json",
    ),
    "no folder": (shutil.rmtree, "...: No such file or directory"),
    "vae: missing": (
        remove(VAE),
        "...: no Wan VAE, expected Wan2.1_VAE.pth or a folder ...`assets`",
    ),
    "vae: lfs pointer": (write(VAE, POINTER), f"{VAE}: is a git-lfs pointer, ..."),
    "vae: cut": (cut(VAE), f"{VAE}: not a whole PyTorch file of tensors"),
    "vae: web page": (write(VAE, PAGE), f"{VAE}: not a whole PyTorch file of tensors"),
    "vae: empty": (write(VAE, b""), f"{VAE}: is empty"),
    "vae: dangling link": (dangle(VAE), f"{VAE}: is a link to ../../blobs/4d7a: No such file ..."),
    "umT5: missing": (remove(T5), "...: no umT5, expected models_t5_*.pth or .safetensors, ..."),
    "umT5: cut": (cut(T5, 1000), f"{T5}: not a whole PyTorch file of tensors"),
    "umT5: folder": (to_folder(T5), f"{T5}: is a folder, expected a file"),
    "tokenizer: missing": (remove(TOKENIZER), "...: no tokenizer.json, expected in a folder ..."),
    "tokenizer: lfs pointer": (
        write(TOKENIZER, POINTER),
        f"{TOKENIZER}: is a git-lfs pointer, ...",
    ),
    "tokenizer: null": (write(TOKENIZER, b"null"), f"{TOKENIZER}: Expected `object`, got `null`"),
    "tokenizer: another file": (
        write(TOKENIZER, b"{}"),
        f"{TOKENIZER}: Object missing required field `model`",
    ),
}


@pytest.fixture
def folder(tmp_path):
    """A whole checkpoint in four shards with index and config."""
    write_shards(tmp_path / "world", tiny_tensors())
    write_config(tmp_path / "world")
    write_parts(tmp_path / "world")
    return tmp_path / "world"


def assert_line(text, expected, *, folder):
    """`text` is one line: the folder, then `expected`, where "..." stands for some text."""
    assert "\n" not in text and len(text) <= 400 and text.startswith(str(folder))
    place = 0 if expected.startswith("...") else len(f"{folder}/")
    pieces = expected.split("...")
    assert text.startswith(pieces[0], place), text
    for piece in pieces:
        place = text.find(piece, place)
        assert place >= 0, text
        place += len(piece)
    assert expected.endswith("...") or place == len(text), text


def test_the_folder_without_damage_can_be_served(folder):
    assert main([str(folder)]) == 0


@pytest.mark.parametrize(
    "damage, line", (DIT_DAMAGE | FOLDER_DAMAGE).values(), ids=DIT_DAMAGE | FOLDER_DAMAGE
)
def test_the_command_names_the_damage(folder, capsys, damage, line):
    damage(folder)
    capsys.readouterr()  # writing umT5 shows its progress
    assert main([str(folder)]) == 1
    (text,) = capsys.readouterr().err.splitlines()
    assert_line(text.removeprefix("checkpoint: "), line, folder=folder)


@pytest.mark.parametrize("damage, line", DIT_DAMAGE.values(), ids=DIT_DAMAGE)
def test_loading_names_the_damage_to_a_dit(folder, damage, line):
    damage(folder)
    with pytest.raises(WeightsError) as raised:
        load_dit(folder, device=torch.device("cpu"), dtype=torch.float32)
    assert_line(str(raised.value), line, folder=folder)


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "world/config.json", "world/none.safetensors"])
def test_a_path_that_is_no_folder_gives_one_line(folder, capsys, path):
    assert main([str(folder.parent / path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert path.split("\0")[0] in line


@pytest.mark.parametrize("seed", range(20))
def test_any_change_to_a_header_or_a_map_is_read_or_refused_in_one_line(folder, capsys, seed):
    """Ten folders a seed: bytes are replaced, removed and inserted near the start of a file."""
    random = Random(seed)
    whole = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for _ in range(10):
        path = random.choice(sorted(whole))
        data = bytearray(whole[path])
        start = random.randrange(min(len(data), 4000))
        noise = random.randbytes(random.randrange(4))
        data[start : start + random.randrange(4)] = noise
        path.write_bytes(data)
        status = main([str(folder)])
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == status and all(str(folder) in line for line in errors)
        path.write_bytes(whole[path])
