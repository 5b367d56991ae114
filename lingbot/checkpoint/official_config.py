"""The config.json beside a DiT. It may be absent: shapes of tensors give nearly all of it."""

from pathlib import Path

from msgspec import Struct

from lingbot.config import Positive
from lingbot.errors import WeightsError
from lingbot.files import read_json

CONFIG_FILE = "config.json"
CAUSAL_KEYS = {"local_attn_size", "sink_size"}
CAUSAL_WORDS = ("fast", "causal")  # in the class name of a model that generates chunk by chunk


class OfficialConfig(Struct, frozen=True, kw_only=True):
    """The keys of a config.json that the code knows; None where one is absent."""

    dim: Positive | None = None
    ffn_dim: Positive | None = None
    freq_dim: Positive | None = None
    num_heads: Positive | None = None
    num_attention_heads: Positive | None = None  # the same in diffusers' words
    num_layers: Positive | None = None
    text_dim: Positive | None = None
    text_len: Positive | None = None
    in_dim: Positive | None = None
    out_dim: Positive | None = None
    control_type: str | None = None
    eps: float | None = None

    @property
    def heads(self) -> int | None:
        return self.num_heads or self.num_attention_heads


MODEL_KEYS = {"dim", "ffn_dim", "num_layers", "num_heads", "num_attention_heads"}


def read_official_config(folder: Path) -> OfficialConfig | None:
    """The config of the DiT in `folder`. None without a file, or if the file describes no model.

    Raises WeightsError with the file and the wrong field.
    """
    path = folder / CONFIG_FILE
    if not MODEL_KEYS & read_keys(path).keys():
        return None
    return read_json(path, OfficialConfig)


def is_causal(folder: Path) -> bool | None:
    """True for a model that generates chunk by chunk, False for one that does not.

    None for a config without a sign. Raises WeightsError for a config that cannot be read.
    """
    keys = read_keys(folder / CONFIG_FILE)
    if CAUSAL_KEYS & keys.keys():
        return True
    name = keys.get("_class_name")
    if not isinstance(name, str):
        return None
    return any(word in name.lower() for word in CAUSAL_WORDS)


def read_keys(path: Path) -> dict[str, object]:
    """A JSON object, or nothing without a file."""
    try:
        path.lstat()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise WeightsError(f"{path}: {exc.strerror}") from exc
    return read_json(path, dict[str, object])
