"""What an init means for the world that is served: checked, and completed with its defaults."""

import re

from msgspec import Raw, Struct

from transport.wire.controls import parse_camera_actions
from transport.wire.errors import BadMessage, quote
from transport.wire.messages import Encoding, HeldKeys, Init, decode_field, is_absent
from transport.wire.output_settings import read_format, read_quality
from transport.wire.world import WorldInfo, WorldSpec

DEFAULT_SEED = 42
MAX_SIDE = 8192

_SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")


class SessionRequest(Struct, frozen=True, kw_only=True):
    """An init that holds: what to open, and how to play it."""

    world: WorldSpec
    first_frame: bytes | str | None  # an encoded image; None: the first opening's
    encoding: Encoding
    fps: int
    paced: bool
    latest: bool  # drop what grew stale, rather than have the world wait for acks
    flushes_older: bool  # the client shows a chunk that follows a new event before older frames
    max_chunks: int | None
    extensions: bool
    script: list[str]


def read_init(init: Init, info: WorldInfo, *, max_script_bytes: int) -> SessionRequest:
    """Checks an init against what is served. Raises BadMessage."""
    window, sink = _read_window(init, info)
    width, height = read_size(init.size, info)
    extensions = bool(init.extensions)
    latest = extensions and init.realtime_delivery == "latest"
    return SessionRequest(
        world=WorldSpec(
            prompt=init.prompt or opening_prompt(info),
            seed=DEFAULT_SEED if init.seed is None else init.seed,
            width=width,
            height=height,
            num_steps=read_steps(init.num_inference_steps, info),
            window=window,
            sink=sink,
        ),
        first_frame=_read_first_frame(init.first_frame, info),
        encoding=Encoding(
            format=read_format(init.realtime_output_format, extensions=extensions),
            quality=read_quality(init.output_compression),
            preview_max_width=init.realtime_preview_max_width or None,
            chroma=init.realtime_chroma_subsampling or "420",
        ),
        fps=init.fps or info.fps,
        # Without acks the media clock alone bounds what piles up; the latest are made for it.
        paced=init.realtime_output_pacing is not False or not extensions or latest,
        latest=latest,
        flushes_older=extensions and bool(init.realtime_cut_over),
        max_chunks=init.max_chunks,
        extensions=extensions,
        script=_read_script(init, max_bytes=max_script_bytes),
    )


def read_size(size: str | None, info: WorldInfo) -> tuple[int, int]:
    """The served (width, height) nearest to a wish of "WxH". Raises BadMessage."""
    if size is None:
        return info.sizes[0] if info.sizes else info.nearest_size(832, 480)
    match = _SIZE.fullmatch(size)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise BadMessage(
            f"`size`: {quote(size)}, expected 'WIDTHxHEIGHT', each 1 to {MAX_SIDE}", field="size"
        )
    return info.nearest_size(width, height)


def read_steps(num_steps: int | None, info: WorldInfo) -> int | None:
    if num_steps is not None and num_steps > info.max_steps:
        field = "num_inference_steps"
        raise BadMessage(f"`{field}`: {num_steps}, expected 1 to {info.max_steps}", field=field)
    return num_steps


def _read_window(init: Init, info: WorldInfo) -> tuple[int | None, int | None]:
    """(window, sink) in latent frames, wishes both: the nearest that is served.

    The window counts the sink and the current chunk.
    """
    window, sink = init.realtime_causal_kv_cache_num_frames, init.realtime_causal_sink_size
    chunk = info.chunk_latent_frames
    if window is not None:
        if window < chunk:
            field = "realtime_causal_kv_cache_num_frames"
            raise BadMessage(f"`{field}`: {window}, expected at least {chunk}", field=field)
        window = min(window, info.max_window)
        sink = info.sink if sink is None else sink  # the default one may not fit this window
    if sink is not None:
        sink = min(sink, (window or info.max_window) - chunk)
    return window, sink


def _read_first_frame(raw: Raw, info: WorldInfo) -> bytes | str | None:
    if is_absent(raw):
        if not info.openings:
            raise BadMessage(
                "missing required field `first_frame`: this world has no picture of its own",
                code="missing_field",
                field="first_frame",
            )
        return None
    if memoryview(raw)[0] in (0xC4, 0xC5, 0xC6):  # MessagePack's bin
        return decode_field(raw, bytes, field="first_frame")
    return decode_field(raw, str, field="first_frame")


def _read_script(init: Init, *, max_bytes: int) -> list[str]:
    raw = init.condition_inputs.camera_actions if init.condition_inputs else Raw()
    if is_absent(raw):
        return []
    field = "condition_inputs.camera_actions"
    # An init may be large for its picture; its script may not be larger than one in an event.
    num_bytes = memoryview(raw).nbytes
    if num_bytes > max_bytes:
        raise BadMessage(
            f"`{field}`: {num_bytes} bytes, expected at most {max_bytes}",
            code="too_large",
            field=field,
        )
    script = parse_camera_actions(raw, field=field)
    if isinstance(script, HeldKeys):
        raise BadMessage(f"`{field}`: expected a list of lists of keys", field=field)
    return script


def opening_prompt(info: WorldInfo) -> str:
    """What a client that gives no prompt means. Raises BadMessage where there is no opening."""
    if not info.openings:
        raise BadMessage("missing required field `prompt`", code="missing_field", field="prompt")
    return info.openings[0].prompt
