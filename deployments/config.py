"""The `args` section of serve_config.yaml, typed. `build` parses it once.

`python -m deployments.config serve_config.yaml` checks a file without starting anything.

Tested in `tests/deployments/test_app.py`.
"""

import sys
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from deployments.schema_keys import ConfigError, check_keys
from deployments.sessions.admission import GroupLimits
from lingbot.config import PRESETS, VaeKind, Variant, WorldConfig
from lingbot.errors import LingbotError
from transport.access_config import AccessConfig, SecretFile
from transport.wire.limits import ClientLimits

T = TypeVar("T")
PositiveInt = Annotated[int, Meta(ge=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
# As browsers send it: no path, no slash at the end. "null" is the origin of local files.
Origin = Annotated[str, Meta(pattern="^([*]|null|https?://[^/\\s]+)\\Z")]
HttpUrl = Annotated[str, Meta(pattern="^https?://[^/\\s]+(/\\S*)?\\Z")]
FileName = Annotated[str, Meta(min_length=1)]
HostName = Annotated[str, Meta(pattern="^([a-z0-9-]+[.])+[a-z][a-z0-9-]*\\Z")]
# `max_ongoing_requests`. An actor of Ray's answers 1,000 calls at once, and Serve's health checks
# are calls, too: with 1,000 leases, Serve ended the group.
MAX_ONGOING = 900
MAX_RANK_CALLS = 4 * MAX_ONGOING  # rank 0 answers these at once: each lease and each step is one


class ServiceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model and the limits of time and of clients. Ray's own section has replicas and GPUs."""

    preset: Literal["pocket", "v1-14b", "v1-14b-act", "v2-14b", "v2-1.3b"] = "pocket"
    variant: Variant | None = None  # the figures to use, where published implementations differ
    weights: FileName | None = None  # a folder of the preset's weights; None: the packaged ones
    assets: FileName | None = None  # a folder of the other parts, if they are not in `weights`
    vae: VaeKind | None = None  # None: the preset's first
    tiny_vae: FileName | None = None  # for `vae: tiny`; None: found in `weights` or `assets`
    sizes: tuple[str, ...] | None = None  # "WIDTHxHEIGHT"; a session has the nearest one
    window: PositiveInt | None = None  # latent frames of the KV window, sink and chunk included
    sink: NonNegativeInt | None = None  # the world's first latent frames, which stay in the window
    device: Literal["cpu", "cuda"] = "cpu"
    # auto: bfloat16 on a GPU; on a CPU the type that rank 0 measures as the faster at load
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    # The kernel of attention. auto: the fastest of these, left to right, that runs on this GPU
    attention: Literal["auto", "flash4", "flash3", "cudnn", "sdpa"] = "auto"
    compile: bool = False  # torch.compile of the blocks: faster, and warm-up takes minutes
    fp8: bool = False  # 8-bit products in the blocks: faster on a Hopper GPU, and less exact
    # CPU threads of a rank for denoising, and of rank 0 as many for decoding. auto: an equal share
    # of the physical cores that the node grants for each
    threads: PositiveInt | Literal["auto"] = "auto"
    camera_cache_bytes: NonNegativeInt = 256 * 2**20  # the camera cache of a rank; 0: no cache
    # Bytes that other processes take of each rank's GPU, such as a TextEncoder that shares it
    other_gpu_bytes: NonNegativeInt | None = None  # None: none are known
    text_encoder_device: Literal["cpu", "cuda"] = "cpu"  # for umT5, if weights are published
    text_cache_bytes: NonNegativeInt = 256 * 2**20  # encoded prompts of a TextEncoder replica
    queue_timeout_s: PositiveFloat = 60.0  # how long a client waits for a free world
    warm_up_timeout_s: PositiveFloat = 900.0  # how long a client or a start waits for warm-up
    step_timeout_s: PositiveFloat = 60.0  # a longer step has hung, and its group ends
    lease_ttl_s: PositiveFloat = 30.0  # an idle time after which a session ends
    resume_grace_s: NonNegativeFloat = 60.0  # how long a world waits for another socket; 0: not
    history_s: NonNegativeFloat = 120.0  # seconds of media that a session keeps, for rewinding
    history_bytes: NonNegativeInt = 104 * 2**20  # of their latents, at most
    fork_store_bytes: NonNegativeInt = 256 * 2**20  # of all forked worlds together; 0: no forks
    fork_ttl_s: PositiveFloat = 600.0  # how long a forked world is kept
    prompt_recache: bool = False  # a new prompt rebuilds the KV window; slower in the pocket world
    limits: ClientLimits = ClientLimits()  # limits of one client, at the start
    group: GroupLimits = GroupLimits()  # limits of one replica group, at the start
    # Other origins whose pages may open sockets and read the HTTP endpoints; "*": every origin
    allowed_origins: tuple[Origin, ...] = ()
    access: AccessConfig | None = None  # tokens and their limits; None: everybody may enter
    log_format: Literal["text", "json"] = "text"  # replicas and ranks write their lines so
    # An OpenTelemetry collector that receives spans over HTTP; None: nothing is traced
    otlp_endpoint: HttpUrl | None = None
    operator_token_file: SecretFile | None = None  # for GET /v1/sessions; None: nobody reads it
    # Ray resources that ForkStore and TokenUsage ask for, of which there is one replica each: they
    # run on nodes that offer these. Ray's section cannot name a deployment that may be absent
    singleton_resources: dict[str, PositiveFloat] = {}
    # Hosts from which clients' first frames may be fetched by https URL; (): no URL is fetched
    image_hosts: tuple[HostName, ...] = ()

    @property
    def world(self) -> WorldConfig:
        """The world that is served. Raises LingbotError with the wrong field."""
        return PRESETS[self.preset].configure(
            variant=self.variant, sizes=self.sizes, window=self.window, sink=self.sink
        )

    @property
    def has_text_encoder(self) -> bool:
        """True if a deployment of its own encodes the prompts; else the ranks do."""
        return PRESETS[self.preset].text_encoder == "umt5"

    @property
    def deployments(self) -> tuple[str, ...]:
        """The deployments that Ray's section may configure."""
        apart = ("TextEncoder",) if self.has_text_encoder else ()
        return ("Transport", "WorldGroup", *apart)

    @property
    def singletons(self) -> tuple[str, ...]:
        """The deployments of one replica, which Ray's section does not configure."""
        store = ("ForkStore",) if self.fork_store_bytes else ()
        return (*store, "TokenUsage") if self.access is not None else store

    @property
    def vae_kind(self) -> VaeKind:
        """The VAE that is loaded. Raises LingbotError for one that the preset does not have."""
        return PRESETS[self.preset].choose_vae(self.vae)


class LiveConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`user_config` of Transport: a redeploy that changes no more than this replaces nothing."""

    limits: ClientLimits | None = None  # None: those of `args`
    # All worlds end with this reason, and no other one is opened. For a shutdown; None: they go on
    closing: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


def parse_user_config(user_config: dict[str, Any]) -> LiveConfig:
    """Raises ConfigError with the path of the wrong key."""
    return parse(user_config, LiveConfig, path="user_config")


class LiveGroupConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`user_config` of WorldGroup, which replaces `args.group` in running groups."""

    group: GroupLimits


def parse_group_config(user_config: dict[str, Any]) -> LiveGroupConfig:
    """Raises ConfigError with the path of the wrong key."""
    return parse(user_config, LiveGroupConfig, path="user_config")


def parse_args(args: dict[str, Any]) -> ServiceConfig:
    """Raises ConfigError with the path of the wrong key."""
    config = parse(args, ServiceConfig, path="args")
    try:
        _ = config.world, config.vae_kind
    except LingbotError as exc:
        raise ConfigError(f"args.{exc.field}: {exc}") from exc
    check_effects(config)
    return config


def check_effects(config: ServiceConfig) -> None:
    """Raise ConfigError for a key that the preset, the VAE, the device or Ray would not use."""
    if not config.has_text_encoder:  # the preset has all of its parts in one folder
        for name, default in (("assets", None), ("tiny_vae", None), ("text_encoder_device", "cpu")):
            if getattr(config, name) != default:
                raise ConfigError(f"args.{name}: has no effect with preset {config.preset!r}")
    if config.tiny_vae is not None and config.vae_kind != "tiny":
        raise ConfigError("args.tiny_vae: has no effect, expected it with vae: tiny")
    if config.access is not None and config.access.is_empty:
        raise ConfigError("args.access: nobody could enter, expected `tokens_file` or `jwt`")
    if built_in := sorted({"CPU", "GPU", "memory"} & config.singleton_resources.keys()):
        raise ConfigError(f"args.singleton_resources.{built_in[0]}: expected custom resources")
    if config.device == "cpu":
        check_cpu(config)


def check_cpu(config: ServiceConfig) -> None:
    """Raise ConfigError for a key that needs a GPU."""
    if config.fp8:
        raise ConfigError("args.fp8: needs a GPU, expected false with device: cpu")
    if config.other_gpu_bytes is not None:
        raise ConfigError("args.other_gpu_bytes: has no effect with device: cpu")
    if config.attention not in ("auto", "sdpa"):
        text = f"{config.attention!r} needs a GPU, expected 'auto' or 'sdpa' with device: cpu"
        raise ConfigError(f"args.attention: {text}")


def parse(section: dict[str, Any], schema: type[T], *, path: str) -> T:
    """A section of the file as `schema`. Raises ConfigError with the path of the wrong key."""
    check_keys(section, schema, path=path)
    try:
        return msgspec.convert(section, schema)
    except msgspec.ValidationError as exc:
        reason, _, below = str(exc).partition(" - at `$")
        raise ConfigError(f"{path}{below.rstrip('`')}: {reason}") from exc


if __name__ == "__main__":
    # Imported here: importing this module must not import Ray.
    from deployments.config_file import main

    sys.exit(main(sys.argv[1:]))
