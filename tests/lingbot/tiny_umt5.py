"""A tiny umT5 as the published one lies on disk: tensors under original names, a tokenizer.json."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lingbot.text.umt5_weights import to_transformers

SIZES = {"dim": 32, "ffn": 48, "heads": 4, "layers": 2, "buckets": 8, "vocab": 128}
WORDS = ["forest", "lake", "snow", "road", "at", "dusk", "the", "a", "café", "&"]
LETTERS = "abcdefghijklmnopqrstuvwxyzé&;<>.,"


def original_tensors(*, dtype=torch.float32, seed=0, **changes):
    """Random weights under the names of `models_t5_umt5-xxl-enc-bf16.pth`."""
    size = SIZES | changes
    dim, ffn = size["dim"], size["ffn"]
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape):
        return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).to(dtype)

    tensors = {"token_embedding.weight": weight(size["vocab"], dim) * dim**0.5}
    for i in range(size["layers"]):
        block = {f"attn.{name}": (dim, dim) for name in "qkvo"}
        block |= {"ffn.gate.0": (ffn, dim), "ffn.fc1": (ffn, dim), "ffn.fc2": (dim, ffn)}
        block["pos_embedding.embedding"] = (size["buckets"], size["heads"])
        tensors |= {f"blocks.{i}.{name}.weight": weight(*shape) for name, shape in block.items()}
        for norm in ("norm1", "norm2"):
            tensors[f"blocks.{i}.{norm}.weight"] = 1 + weight(dim) / 8
    tensors["norm.weight"] = 1 + weight(dim) / 8
    return tensors


def write_original(folder, **options):
    """`models_t5_tiny.pth` with its tokenizer where the published checkpoints have it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(original_tensors(**options), folder / "models_t5_tiny.pth")
    write_tokenizer(folder / "google/umt5-xxl/tokenizer.json")
    return folder / "models_t5_tiny.pth"


def write_diffusers(folder, *, shards=1, **options):
    """The same weights as a diffusers folder: `text_encoder/` and `tokenizer/`."""
    size = SIZES | options
    config = {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "vocab_size": size["vocab"],
        "d_model": size["dim"],
        "d_ff": size["ffn"],
        "d_kv": size["dim"] // size["heads"],
        "num_heads": size["heads"],
        "num_layers": size["layers"],
        "relative_attention_num_buckets": size["buckets"],
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-06,
        "feed_forward_proj": "gated-gelu",
    }
    encoder = folder / "text_encoder"
    encoder.mkdir(parents=True)
    (encoder / "config.json").write_text(json.dumps(config))
    tensors = {to_transformers(name): t for name, t in original_tensors(**options).items()}
    if shards == 1:
        save_file(tensors, encoder / "model.safetensors")
    else:
        files = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            names = sorted(tensors)[number::shards]
            save_file({name: tensors[name] for name in names}, encoder / file)
            files |= dict.fromkeys(names, file)
        index = {"metadata": {}, "weight_map": files}
        (encoder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_tokenizer(folder / "tokenizer/tokenizer.json")
    return encoder


def write_tokenizer(path, *, end="</s>"):
    """A SentencePiece-like tokenizer.json with umT5's special tokens: pad 0, end 1, unknown 2."""
    special = ["<pad>", end, "<unk>"]
    vocabulary = [(token, 0.0) for token in special]
    vocabulary += [("▁" + word, -1.0) for word in WORDS]
    vocabulary += [(letter, -8.0) for letter in ["▁", *LETTERS]]
    vocabulary = list(dict(vocabulary).items())
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, 1)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path
