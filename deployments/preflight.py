"""Checks of this machine before Ray starts, for causes of a failure that would show later."""

import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from ray._private.utils import get_num_cpus  # as Ray counts them, in containers, too

from deployments.config import ServiceConfig
from deployments.config_file import ConfigFile
from deployments.observability.tracing import check_tracing
from deployments.schema_keys import ConfigError, suggest
from lingbot.checkpoint.expected import check_shape
from lingbot.checkpoint.layout import EXPECTED, find_checkpoint
from lingbot.checkpoint.scan import identify
from lingbot.config import PRESETS, ModelConfig, Preset
from lingbot.errors import LingbotError, WeightsError
from lingbot.extra import check_extra
from lingbot.files import check_tensors, read_json, refuse_other_kinds
from lingbot.memory_plan import plan_memory
from lingbot.runtime.free_memory import free_beside, free_host_memory
from transport.tokens import TokenFileError, Tokens, read_operator_token

ARGS = "applications[0].args"
MEMORY = ("memory", "object_store_memory")  # Ray measures these itself
ROUNDING = 1e-6  # a tolerance for shares like 1/3


class Heads(Struct):
    """The key of a checkpoint's config.json that limits the ranks."""

    num_heads: int


def check_machine(file: ConfigFile) -> None:
    """Raise ConfigError for weights, a device or resources that this machine does not have."""
    check_libraries(file.args)
    check_tokens(file.args)
    check_operations(file.args)
    model = check_weights(file.args, num_ranks=len(file.bundles))
    available = find_resources(file)
    check_device(file, num_gpus=available["GPU"])
    check_switches(file.args)
    check_strategies(file)
    check_resources(file, available)
    check_memory(file, model, free=free_per_rank(file))


def check_libraries(config: ServiceConfig) -> None:
    """Raise ConfigError for a published preset without the libraries that read its weights."""
    if not config.has_text_encoder:
        return
    try:
        check_extra()
    except LingbotError as exc:
        raise ConfigError(f"{ARGS}.preset: {exc}") from exc


def check_tokens(config: ServiceConfig) -> None:
    """Raise ConfigError for a file of tokens, or of their key, that cannot be used."""
    try:
        if config.access is not None:
            Tokens(config.access)
    except TokenFileError as exc:
        raise ConfigError(f"{ARGS}.access: {exc}") from exc


def check_operations(config: ServiceConfig) -> None:
    """Raise ConfigError for tracing without its packages, or an operator's token without a file."""
    if config.otlp_endpoint is not None:
        check_tracing(f"{ARGS}.otlp_endpoint")
    if config.operator_token_file is not None:
        try:
            read_operator_token(config.operator_token_file)
        except TokenFileError as exc:
            raise ConfigError(f"{ARGS}.operator_token_file: {exc}") from exc


def check_weights(config: ServiceConfig, *, num_ranks: int) -> ModelConfig:
    """The model in the weights' folder. Reads headers only.

    Raises ConfigError for a file that is missing or damaged, or too many ranks.
    """
    preset = PRESETS[config.preset]
    folder = preset.folder if config.weights is None else Path(config.weights)
    if folder is None:
        raise ConfigError(f"{ARGS}.weights: preset {config.preset!r} needs a folder of weights")
    try:
        # A published DiT may be one of several files.
        if not (folder.is_dir() or (folder.exists() and not preset.dit_file)):
            raise ConfigError(f"{ARGS}.weights: no folder {folder}")
        if config.assets is not None and not Path(config.assets).is_dir():
            raise ConfigError(f"{ARGS}.assets: no folder {config.assets}")
        model = check_files(config, preset, folder)
        if config.tiny_vae is not None:
            check_tiny_vae(Path(config.tiny_vae))
    except WeightsError as exc:
        raise ConfigError(f"{ARGS}.weights: {exc}") from exc
    except OSError as exc:  # the path is too long, or a folder on it is closed to us
        raise ConfigError(f"{ARGS}.weights: {exc.filename}: {exc.strerror}") from exc
    if model.num_heads % num_ranks:
        raise ConfigError(
            f"placement_group_bundles of WorldGroup: num_heads {model.num_heads} must be divisible "
            f"by the {num_ranks} ranks"
        )
    return model


def check_files(config: ServiceConfig, preset: Preset, folder: Path) -> ModelConfig:
    """The shape of the model in a folder. Raises WeightsError for a missing or damaged file."""
    if preset.dit_file:
        for name in (preset.dit_file, preset.vae_file):
            check_tensors(folder / name)
        read_json((folder / preset.dit_file).with_name("config.json"), Heads)
        return find_checkpoint(folder / preset.dit_file).config
    checkpoint = find_checkpoint(
        folder, assets=None if config.assets is None else Path(config.assets)
    )
    check_shape(checkpoint.config, preset, folder=folder)
    if config.vae_kind == "full":
        checkpoint.require("vae")
    elif config.tiny_vae is None:
        checkpoint.require("tiny_vae")
    checkpoint.require("text_encoder")
    checkpoint.require("tokenizer")
    return checkpoint.config


def check_tiny_vae(path: Path) -> None:
    """Raise ConfigError for a file that holds no tiny VAE, by the names of its tensors."""
    try:
        refuse_other_kinds(path)
        kind, _ = identify(path)
    except WeightsError as exc:
        raise ConfigError(f"{ARGS}.tiny_vae: {exc}") from exc
    if kind != "tiny_vae":
        found = "no part of a checkpoint" if kind is None else f"a {kind}"
        raise ConfigError(f"{ARGS}.tiny_vae: {path}: is {found}, not a {EXPECTED['tiny_vae']}")


def check_memory(file: ConfigFile, model: ModelConfig, *, free: int | None) -> None:
    """Raise ConfigError if no world of the largest size fits into a rank's `free` bytes.

    None is unknown: each rank looks again when it starts. A group admits no world beyond them.
    """
    config = file.args
    plan = plan_memory(
        replace(PRESETS[config.preset], model=model),
        config.world,
        vae=config.vae_kind,
        itemsize=item_bytes(config),
        camera_cache_bytes=config.camera_cache_bytes,
        num_ranks=len(file.bundles),
        is_gpu=config.device == "cuda",
        free=free,
        other_bytes=config.other_gpu_bytes or 0,
    )
    try:
        plan.check()
    except LingbotError as exc:
        raise ConfigError(f"{ARGS}.{exc.field}: {exc}") from exc


def item_bytes(config: ServiceConfig) -> int:
    """Bytes of a weight. On a CPU `auto` may turn out as float32, the larger type."""
    if config.dtype == "auto":
        return 2 if config.device == "cuda" else 4
    return {"float32": 4, "bfloat16": 2}[config.dtype]


def free_per_rank(file: ConfigFile) -> int | None:
    """Bytes for each rank: a GPU's of its own, or a share of this machine's. None: unknown."""
    if file.args.device == "cuda":
        return free_gpu_memory(other_bytes=file.args.other_gpu_bytes or 0)
    free = free_host_memory()
    num_ranks = len(file.bundles) * num_replicas(file.deployments["WorldGroup"])
    return None if free is None else free // max(1, num_ranks)


def free_gpu_memory(*, other_bytes: int = 0) -> int | None:
    """Free bytes of the GPU that has most, by nvidia-smi: torch would take some of them.

    Other processes will take `other_bytes` of it.
    """
    query = "--query-gpu=memory.free,memory.total"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        rows = [[int(mib) * 2**20 for mib in row.split(",")] for row in output.stdout.splitlines()]
        return max(free_beside(other_bytes, free=free, total=total) for free, total in rows)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None  # no such command, or a GPU in parts, whose line has no number


def check_device(file: ConfigFile, *, num_gpus: float) -> None:
    """Raise ConfigError for `device: cuda` without a GPU, on this machine or in a bundle."""
    if file.args.device != "cuda":
        return
    if not num_gpus:
        raise ConfigError(f"{ARGS}.device: this machine has no CUDA device, expected 'cpu'")
    for index, bundle in enumerate(file.bundles):
        if not bundle.get("GPU"):
            raise ConfigError(
                f"placement_group_bundles[{index}] of WorldGroup: no GPU, expected one with "
                "device: cuda"
            )


def check_switches(config: ServiceConfig) -> None:
    """Raise ConfigError for `attention`, `compile` or `fp8` where this machine cannot do it."""
    if config.attention in ("auto", "sdpa") and not config.compile and not config.fp8:
        return
    import torch  # imported late, as in `find_resources`

    from lingbot.runtime import presets

    try:
        presets.check_switches(
            torch.device(config.device),
            None if config.dtype == "auto" else getattr(torch, config.dtype),
            attention=config.attention,
            compile=config.compile,
            fp8=config.fp8,
        )
    except LingbotError as exc:
        raise ConfigError(f"{ARGS}.{exc.field}: {exc}") from exc


def check_strategies(file: ConfigFile) -> None:
    """Raise ConfigError for bundles that need several machines: the cluster is this one."""
    for name, deployment in file.deployments.items():
        num_bundles = len(deployment.get("placement_group_bundles") or ())
        if deployment.get("placement_group_strategy") == "STRICT_SPREAD" and num_bundles > 1:
            raise ConfigError(
                f"placement_group_strategy of {name}: STRICT_SPREAD needs a machine for each of "
                f"{num_bundles} bundles, expected 'STRICT_PACK' on one machine"
            )


def check_resources(file: ConfigFile, available: dict[str, float]) -> None:
    """Raise ConfigError if the deployments need more than `available`, by Ray's names."""
    if isinstance(threads := file.args.threads, int) and threads > available["CPU"]:
        raise ConfigError(f"{ARGS}.threads: {threads}, but there are {available['CPU']:g} CPUs")
    for resource, shares in needed_resources(file).items():
        amount = sum(shares.values())
        if resource in MEMORY or amount <= available.get(resource, 0) + ROUNDING:
            continue
        has = f"this machine has {available.get(resource, 0):g}"
        if resource not in available:
            has = f"no such resource, {suggest(resource, list(available))}"
        elif resource == "CPU":
            has += "; the bundles of WorldGroup may have less, such as {CPU: 1}"
        asked = " and ".join(f"{key} {share:g}" for key, share in shares.items())
        raise ConfigError(f"deployments: they need {amount:g} {resource}, {has}: {asked}")


def needed_resources(file: ConfigFile) -> dict[str, dict[str, float]]:
    """By resource, what each deployment needs, by the key of the file that asks for it.

    A deployment without a section in the file has Ray's default. One that scales from zero counts
    with one replica: a world needs one of each.
    """
    needed: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for name in file.args.deployments:
        deployment = file.deployments.get(name, {})
        for resource, amount in replica_resources(deployment).items():
            if amount:
                key = f"{resource_key(deployment, resource)} of {name}"
                needed[resource][key] = amount * max(1, num_replicas(deployment))
    for resource, amount in file.args.singleton_resources.items():
        needed[resource][f"{ARGS}.singleton_resources"] = amount * len(file.args.singletons)
    return needed


def resource_key(deployment: dict[str, Any], resource: str) -> str:
    """The key of a deployment's section that asks for a resource."""
    if deployment.get("placement_group_bundles"):
        return "placement_group_bundles"
    key = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(resource, "resources")
    options = deployment.get("ray_actor_options") or {}
    return f"ray_actor_options.{key}" + ("" if key in options else " (not set)")


def replica_resources(deployment: dict[str, Any]) -> dict[str, float]:
    """The resources of one replica, with the ranks that run in its placement group."""
    if bundles := deployment.get("placement_group_bundles"):
        total: Counter[str] = Counter()
        for bundle in bundles:
            total.update(bundle)
        return dict(total)
    options = deployment.get("ray_actor_options") or {}
    return {
        "CPU": 1 if (num_cpus := options.get("num_cpus")) is None else num_cpus,
        "GPU": options.get("num_gpus") or 0,
        **(options.get("resources") or {}),
    }


def num_replicas(deployment: dict[str, Any]) -> int:
    """The replicas that the deployment starts with."""
    autoscaling = deployment.get("autoscaling_config") or {}
    if autoscaling or deployment.get("num_replicas") == "auto":
        minimum = autoscaling.get("min_replicas", 1)
        return int(autoscaling.get("initial_replicas") or minimum)
    return int(deployment.get("num_replicas") or 1)


def find_resources(file: ConfigFile) -> dict[str, float]:
    """The CPUs and GPUs that Ray will find on this machine."""
    num_gpus = 0
    if file.args.device == "cuda" or any(bundle.get("GPU") for bundle in file.bundles):
        import torch  # imported late: it takes seconds, and nothing else here needs it

        num_gpus = torch.cuda.device_count()
    return {"CPU": get_num_cpus(), "GPU": num_gpus}
