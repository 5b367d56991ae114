"""The lines of `python -m lingbot.checkpoint`, and the check that a checkpoint can be served."""

from lingbot.checkpoint.expected import check_width
from lingbot.checkpoint.layout import EXPECTED, Checkpoint
from lingbot.checkpoint.official_config import is_causal
from lingbot.checkpoint.scan import TENSORS
from lingbot.config import PRESETS, Preset
from lingbot.memory_plan import plan_memory

GB = 1e9

# The names of the published shards; two models have the same shapes at 14B.
STEMS = {"diffusion_pytorch_model": "v1-14b", "model": "v2-14b"}
POCKET = PRESETS["pocket"]


def describe(checkpoint: Checkpoint, *, num_parameters: int) -> list[tuple[str, str]]:
    """Pairs of a name and a value, in the order in which they are read."""
    config = checkpoint.config
    sizes = (
        f"dim {config.dim}, ffn_dim {config.ffn_dim}, {config.num_layers} blocks, "
        f"{config.num_heads} heads, {num_parameters:,} parameters"
    )
    num_files = len(checkpoint.dit_files)
    files = f"{num_files} file{'s' if num_files > 1 else ''}, {checkpoint.num_bytes / GB:.3g} GB"
    rows = [
        ("model", name_models(find_models(checkpoint))),
        (
            "variant",
            config.control + (", in diffusers' layout" if is_diffusers(checkpoint) else ""),
        ),
        ("sizes", sizes),
        ("text", f"{config.text_len} tokens of width {config.text_dim}"),
        (
            "weights",
            f"{' and '.join(checkpoint.dtypes)}, {files}, {checkpoint.dit_files[0].parent}",
        ),
        ("config", str(checkpoint.config_file or "none: the shapes give it")),
        *((part, str(getattr(checkpoint, part) or "none")) for part in EXPECTED),
    ]
    rows += [(f"memory of {name}", memory_of(PRESETS[name])) for name in find_models(checkpoint)]
    if is_causal(checkpoint.dit.parent) is False:
        rows.append(("note", "the config is that of a base model, which needs more steps"))
    return rows


def memory_of(preset: Preset) -> str:
    """The memory plan of a preset in bfloat16 on one GPU, without a camera cache."""
    plan = plan_memory(preset, preset.world, vae=preset.vaes[0], itemsize=2, is_gpu=True)
    return str(plan)


def name_models(models: list[str]) -> str:
    """The models that a checkpoint may be, in words."""
    if len(models) > 1:
        return f"{' or '.join(models)}: the file's name does not say which"
    return models[0] if models else "of no published size"


def find_models(checkpoint: Checkpoint) -> list[str]:
    """The published models that this may be, by its shape and the name of its shards.

    A file that is whole may have been renamed, and both models have diffusers' names there.
    """
    if is_pocket(checkpoint):
        return ["pocket"]
    models = [name for name, preset in PRESETS.items() if preset.model == checkpoint.config]
    is_sharded = checkpoint.dit not in checkpoint.dit_files
    stem = STEMS.get(checkpoint.dit.name.removesuffix(TENSORS)) if is_sharded else None
    return [stem] if stem in models and not is_diffusers(checkpoint) else models


def is_diffusers(checkpoint: Checkpoint) -> bool:
    return (checkpoint.dit.parent.parent / "model_index.json").exists()


def is_pocket(checkpoint: Checkpoint) -> bool:
    """True for weights that read prompts as hashed words, and so need no text encoder."""
    text_shape = (checkpoint.config.text_dim, checkpoint.config.text_len)
    return text_shape == (POCKET.model.text_dim, POCKET.model.text_len)


def check_parts(checkpoint: Checkpoint) -> None:
    """Raise WeightsError for a wrong shape, or a part that the model cannot be served without."""
    if is_pocket(checkpoint):
        checkpoint.require("tiny_vae")
        return
    check_width(checkpoint.config, folder=checkpoint.folder)
    if checkpoint.tiny_vae is None:  # either VAE decodes a published model
        checkpoint.require("vae")
    checkpoint.require("text_encoder")
    checkpoint.require("tokenizer")
