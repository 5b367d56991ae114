"""The `init` message: checked against the world that is served, and completed with defaults."""

import re
from random import SystemRandom

from msgspec import Raw, Struct
from msgspec.structs import replace

from transport.wire.controls import MAX_SCRIPT_LATENT_FRAMES
from transport.wire.decoding import decode_field, is_absent
from transport.wire.errors import BadMessage, quote
from transport.wire.event import PlayScript, read_camera_actions
from transport.wire.limits import ClientLimits
from transport.wire.messages import (
    MAX_PROMPT_CHARS,
    Encoding,
    Init,
    SessionLimits,
    SessionOpened,
    WarningMessage,
)
from transport.wire.output_settings import read_format
from transport.wire.pacing import MAX_UNACKNOWLEDGED_CHUNKS
from transport.wire.world import SavedWorld, Size, WorldInfo, WorldSpec

DEFAULT_SEED = 42
MAX_RANDOM_SEED = 2**31  # short enough to be read out, and exact in every client's language
MAX_SIDE = 8192

_SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")


class FromSnapshot(Struct, frozen=True):
    """A world goes on that a client has kept."""

    data: bytes


class FromFork(Struct, frozen=True):
    """A world goes on that this server has kept for a token."""

    token: str


class FromSession(Struct, frozen=True):
    """A session goes on whose socket was lost."""

    token: str


Source = FromSnapshot | FromFork | FromSession
_SOURCES: dict[str, type[Source]] = {
    "snapshot": FromSnapshot,
    "fork": FromFork,
    "resume": FromSession,
}
# What a world that goes on has already.
_FIXED_FIELDS = (
    "seed",
    "num_inference_steps",
    "realtime_causal_kv_cache_num_frames",
    "realtime_causal_sink_size",
)


class SessionRequest(Struct, frozen=True, kw_only=True):
    """A valid init: the world to open, and how its chunks are generated and sent."""

    world: WorldSpec  # of a new world the first of `sizes`, until the first frame is read
    sizes: tuple[Size, ...]  # the first frame chooses; one, where the client named a size
    first_frame: bytes | str | None  # an encoded image; None: the first opening's
    source: Source | None = None  # of a world that goes on; None: a new world
    size: str | None = None  # as the client named it
    encoding: Encoding
    fps: int
    paced: bool  # by the media clock
    latest: bool  # drop stale chunks, and generate without waiting for acks
    on_demand: bool = False  # generate only while a script has actions left, or a key is held
    flushes_older: bool  # the client shows a chunk with new keys before older frames
    max_chunks: int | None
    extensions: bool
    script: list[str]  # actions
    warnings: tuple[WarningMessage, ...] = ()  # differences from the init


def read_init(init: Init, info: WorldInfo, *, max_script_bytes: int) -> SessionRequest:
    """Checks an init against the served world. Raises BadMessage.

    `max_script_bytes` bounds the script, which travels in a message that may be larger.
    """
    extensions = bool(init.extensions)
    source = _read_source(init, extensions=extensions)
    window, sink = _read_window(init, info)
    first_frame = _read_first_frame(init.first_frame, info) if source is None else None
    sizes = read_sizes(init.size, info)
    width, height = sizes[0]
    warnings = [] if source else warn_of_size(init.size, served=f"{width}x{height}")
    warnings += _read_unsupported(init, extensions=extensions)
    latest = extensions and init.realtime_delivery == "latest"
    on_demand = extensions and init.realtime_delivery == "on_demand"
    return SessionRequest(
        world=WorldSpec(
            prompt=read_prompt(init.prompt, info, has_image=bool(first_frame or source)),
            seed=read_seed(init.seed),
            width=width,
            height=height,
            num_steps=read_steps(init.num_inference_steps, info),
            window=window,
            sink=sink,
            realtime=not on_demand,
            resumable=extensions and info.resume_grace_s > 0,
        ),
        sizes=sizes,
        first_frame=first_frame,
        source=source,
        size=init.size,
        encoding=_read_encoding(init, extensions=extensions),
        fps=init.fps or info.fps,
        # In `latest` mode frames that nobody will see are not generated ahead of time.
        paced=(init.realtime_output_pacing is not False or latest) and not on_demand,
        latest=latest,
        on_demand=on_demand,
        flushes_older=extensions and bool(init.realtime_cut_over),
        max_chunks=init.max_chunks,
        extensions=extensions,
        script=_read_script(init, max_bytes=max_script_bytes, warnings=warnings),
        warnings=tuple(warnings),
    )


def continue_saved(request: SessionRequest, saved: SavedWorld) -> SessionRequest:
    """The request for a world that goes on. Its size is that of the world, with a warning."""
    world = WorldSpec(
        prompt=saved.prompt,
        seed=saved.seed,
        width=saved.width,
        height=saved.height,
        num_steps=saved.num_steps,
        window=saved.window,
        sink=saved.sink,
        realtime=request.world.realtime,
        resumable=request.world.resumable,
    )
    warnings = warn_of_size(request.size, served=f"{saved.width}x{saved.height}")
    return replace(request, world=world, warnings=(*request.warnings, *warnings))


def describe_session(
    request: SessionRequest,
    info: WorldInfo,
    limits: ClientLimits,
    *,
    session_id: str,
    chunk_index: int = 0,
    earliest_chunk: int = 0,
    resume_token: str | None = None,
) -> SessionOpened:
    """The answer to an init whose world is open, with the indices of its `WorldSession`."""
    return SessionOpened(
        session_id=session_id,
        width=request.world.width,
        height=request.world.height,
        fps=request.fps,
        chunk_latent_frames=info.chunk_latent_frames,
        first_chunk_frames=info.first_chunk_frames,
        chunk_frames=info.chunk_frames,
        encoding=request.encoding.format,
        limits=SessionLimits(
            max_event_bytes=limits.max_event_bytes,
            max_script_latent_frames=MAX_SCRIPT_LATENT_FRAMES,
            max_prompt_chars=MAX_PROMPT_CHARS,
            max_unacknowledged_chunks=MAX_UNACKNOWLEDGED_CHUNKS,
        ),
        seed=request.world.seed,
        world_chunk_index=chunk_index,
        earliest_chunk_index=earliest_chunk,
        resume_token=resume_token,
        resume_grace_s=None if resume_token is None else info.resume_grace_s,
    )


def read_sizes(size: str | None, info: WorldInfo) -> tuple[Size, ...]:
    """The served (width, height) nearest to the requested "WxH", or without one all to choose from.

    Raises BadMessage.
    """
    if size is None:
        return info.sizes or (info.nearest_size(832, 480),)
    match = _SIZE.fullmatch(size)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise BadMessage(
            f"`size`: {quote(size)}, expected 'WIDTHxHEIGHT', each 1 to {MAX_SIDE}", field="size"
        )
    return (info.nearest_size(width, height),)


def warn_of_size(size: str | None, *, served: str) -> list[WarningMessage]:
    """A warning if the served "WxH" is not the requested one."""
    if size in (None, served):
        return []
    text = f"`size`: {size} is not served, the frames are {served}"
    return [WarningMessage(text, "size_changed", "size")]


def read_prompt(prompt: str | None, info: WorldInfo, *, has_image: bool) -> str:
    """The prompt. The default is that of the first opening, and empty for a client's own image.

    An opening's prompt describes the image of that opening, so the two are used together.
    """
    return prompt or ("" if has_image else info.openings[0].prompt)


def read_seed(seed: int | None) -> int:
    """The seed; a random one for a negative one."""
    if seed is None:
        return DEFAULT_SEED
    return seed if seed >= 0 else SystemRandom().randrange(MAX_RANDOM_SEED)


def read_steps(num_steps: int | None, info: WorldInfo) -> int | None:
    """The number of denoising steps, None for the preset's. Raises BadMessage for too many."""
    if num_steps is not None and num_steps > info.max_steps:
        field = "num_inference_steps"
        raise BadMessage(f"`{field}`: {num_steps}, expected 1 to {info.max_steps}", field=field)
    return num_steps


def _read_source(init: Init, *, extensions: bool) -> Source | None:
    """Where a world that goes on comes from. Raises BadMessage for what it does not take."""
    given = [name for name in _SOURCES if getattr(init, name) is not None]
    if not given:
        return None
    source = given[0]
    if not extensions:
        raise BadMessage(f"`{source}` needs `extensions`", field=source)
    others = given[1:] + [name for name in _FIXED_FIELDS if getattr(init, name) is not None]
    if not is_absent(init.first_frame):
        others.append("first_frame")
    if others:
        text = f"`{others[0]}`: expected none beside `{source}`, whose world goes on as it is"
        raise BadMessage(text, field=others[0])
    return _SOURCES[source](getattr(init, source))


def _read_unsupported(init: Init, *, extensions: bool) -> list[WarningMessage]:
    """Warnings about what SGLang-Diffusion can do and this server cannot.

    Raises BadMessage for a client without extensions, which gets no warnings.
    """
    warnings = []
    for field in ("enable_upscaling", "enable_frame_interpolation"):
        if getattr(init, field):
            text = f"`{field}` is not supported, expected false"
            if not extensions:
                raise BadMessage(f"invalid generate request: {text}", field=field)
            warnings.append(WarningMessage(text, "not_supported", field))
    return warnings


def _read_window(init: Init, info: WorldInfo) -> tuple[int | None, int | None]:
    """The served (window, sink) nearest to the requested ones, in latent frames.

    The window counts the sink and the current chunk.
    """
    window, sink = init.realtime_causal_kv_cache_num_frames, init.realtime_causal_sink_size
    chunk = info.chunk_latent_frames
    if window is not None:
        if window < chunk:
            field = "realtime_causal_kv_cache_num_frames"
            raise BadMessage(f"`{field}`: {window}, expected at least {chunk}", field=field)
        window = min(window, info.max_window)
        sink = info.sink if sink is None else sink  # the default may not fit this window
    if sink is not None:
        sink = min(sink, (window or info.max_window) - chunk)
    return window, sink


def _read_encoding(init: Init, *, extensions: bool) -> Encoding:
    return Encoding(
        format=read_format(init.realtime_output_format, extensions=extensions),
        quality=init.output_compression or None,
        preview_max_width=init.realtime_preview_max_width or None,
        chroma=init.realtime_chroma_subsampling,
    )


def _read_first_frame(raw: Raw, info: WorldInfo) -> bytes | str | None:
    if is_absent(raw):
        if not info.openings:
            raise BadMessage(
                "missing required field `first_frame`: this world has no opening image",
                code="missing_field",
                field="first_frame",
            )
        return None
    if memoryview(raw)[0] in (0xC4, 0xC5, 0xC6):  # `bin` of MessagePack
        return decode_field(raw, bytes, field="first_frame")
    return decode_field(raw, str, field="first_frame")


def _read_script(init: Init, *, max_bytes: int, warnings: list[WarningMessage]) -> list[str]:
    raw = init.condition_inputs.camera_actions if init.condition_inputs else Raw()
    if is_absent(raw):
        return []
    field = "condition_inputs.camera_actions"
    # An init may be large because of its image. Its script may be as large as one in an event.
    num_bytes = memoryview(raw).nbytes
    if num_bytes > max_bytes:
        raise BadMessage(
            f"`{field}`: {num_bytes} bytes, expected at most {max_bytes}",
            code="too_large",
            field=field,
        )
    script = read_camera_actions(raw, field=field, warnings=warnings)
    if not isinstance(script, PlayScript):
        raise BadMessage(f"`{field}`: expected a list of lists of keys", field=field)
    return script.actions
