"""The wire format: one MessagePack map for each message, tagged by `type`.

A payload of 64 KiB or more travels bare, in a binary frame of its own. Unknown fields are ignored,
so either side may be upgraded first. A client may also write an integer as a whole float or as
digits in a string. The tags, the fields and their order are those of SGLang-Diffusion's realtime
endpoint. Extensions are sent only to clients that asked for them in `init`.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct, msgpack, to_builtins

from transport.wire.errors import ErrorCode

Format = Literal["raw", "jpeg", "webp", "h264", "delta-zstd"]
Chroma = Literal["420", "444"]  # JPEG samples colour at a quarter of the pixels, or at all
DeliveryMode = Literal["all", "latest", "on_demand"]
WarningCode = Literal[
    "codec_failed",
    "size_changed",
    "prompt_truncated",
    "unknown_words",
    "unknown_keys",
    "script_truncated",
    "not_supported",
]
PauseReason = Literal["idle", "hidden"]
EndingReason = Literal["idle", "longest_session"]

MAX_PROMPT_CHARS = 8000
SPLIT_BYTES = 65_536  # a payload of this size or more travels in a frame of its own

Prompt = Annotated[str, Meta(max_length=MAX_PROMPT_CHARS)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # a negative one: a random one
EventId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Token = Annotated[str, Meta(min_length=1, max_length=256)]
Fps = Annotated[int, Meta(ge=1, le=60)]
Quality = Annotated[int, Meta(ge=0, le=100)]
MaxWidth = Annotated[int, Meta(ge=0)]


# ---- from the client


class ConditionInputs(Struct, frozen=True):
    camera_actions: Raw = Raw()  # a script, as in an event


class Init(Struct, tag="init", frozen=True, kw_only=True):
    """The first message. Null and absent mean the world's own default."""

    prompt: Prompt | None = None  # without one: the opening's, or none for an own `first_frame`
    first_frame: Raw = Raw()  # an image as bytes, or str: base64, a data URL, an https URL
    size: str | None = None  # "WxH"; the nearest served size is used
    seed: Seed | None = None  # negative: drawn by the server
    fps: Fps | None = None
    max_chunks: Positive | None = None
    num_inference_steps: Positive | None = None
    realtime_output_format: str | None = None
    output_compression: Quality | None = None  # quality; 0: the default
    realtime_preview_max_width: MaxWidth | None = None  # 0: as generated
    realtime_output_pacing: bool | None = None
    realtime_causal_sink_size: Annotated[int, Meta(ge=0)] | None = None
    realtime_causal_kv_cache_num_frames: Positive | None = None
    condition_inputs: ConditionInputs | None = None
    enable_upscaling: bool | None = None  # not supported, nor is the next
    enable_frame_interpolation: bool | None = None
    extensions: bool | None = None
    realtime_chroma_subsampling: Chroma | None = None  # of JPEG
    # With extensions: "all" chunks, or the "latest". With "all", generation waits for missing acks.
    # With "latest" it goes on, and stale chunks are dropped whole. With "on_demand" a chunk is
    # generated only while a script has actions left, or a key is held, as fast as the world can.
    realtime_delivery: DeliveryMode | None = None
    # With extensions: the client shows a chunk marked `cut_over` before older frames.
    realtime_cut_over: bool | None = None
    # With extensions, each in place of `first_frame`; at most one of the three is given.
    snapshot: bytes | None = None  # of a saved world, which goes on where it was
    fork: Token | None = None  # of `forked`: its world goes on where it was, any number of times
    resume: Token | None = None  # the `resume_token` of a session whose socket was lost


class Event(Struct, tag="event", frozen=True):
    """A control. The type of `payload` depends on `kind`."""

    kind: str
    payload: Raw = Raw()
    event_id: EventId | None = None


class Ack(Struct, tag="ack", frozen=True):
    """Extension: this chunk and all earlier ones have arrived."""

    chunk_index: Annotated[int, Meta(ge=0)]


class Transition(Struct, frozen=True):
    """The keys held from now on."""

    actions: list[str]
    client_ts_ms: float | None = None


class HeldKeys(Struct, frozen=True):
    """The payload of `camera_actions` that follows the keyboard. The alternative is a script."""

    mode: str
    transitions: list[Transition]


class OutputChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payload of `output`: how the next chunks travel. Absent fields keep their value."""

    realtime_output_format: str | None = None
    output_compression: Quality | None = None
    realtime_preview_max_width: MaxWidth | None = None
    realtime_chroma_subsampling: Chroma | None = None


ClientMessage = Init | Event | Ack


# ---- from the server


class FrameBatchHeader(
    Struct, tag="frame_batch_header", frozen=True, kw_only=True, omit_defaults=True
):
    """Consecutive frames of a chunk. On the wire a layout follows in the same map."""

    request_id: str
    chunk_index: int
    content_type: str
    num_frames: int
    total_size: int  # payload bytes
    frame_batch_index: int
    num_frame_batches: int
    is_final_frame_batch: bool
    event_id: int | None = None  # the newest event that is still in effect


class RawLayout(Struct, frozen=True, kw_only=True):
    """Frames back to back, uint8 [num_frames, height, width, channels]."""

    format: str
    width: int
    height: int
    channels: int
    bytes_per_frame: int
    raw_size: int
    encoding: str


class EncodedLayout(Struct, frozen=True, kw_only=True):
    """One compressed image for each frame, back to back. `width` and `height` are the image's."""

    format: str
    width: int
    height: int
    channels: int
    bytes_per_frame: int  # before encoding
    encoding: str
    source_width: int
    source_height: int
    preview_width: int
    preview_height: int
    payload_lengths: list[int]


class VideoLayout(EncodedLayout, frozen=True, kw_only=True):
    """One access unit of H.264 in Annex B, as WebCodecs accepts it."""

    codec: str  # RFC 6381, such as "avc1.42c01f"
    timestamp_us: int  # on the media clock, from the first frame of the world
    key_frame: bool


class HeaderExtras(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Extension: more fields of a header."""

    applied_controls: "AppliedControls"
    world_chunk_index: int  # of the chunk in its world, which a rewind turns back
    cut_over: bool = False  # on a chunk's first batch: older frames need not be shown any more
    dropped_frames: int = 0  # stale frames that this session has dropped so far


class AppliedControls(Struct, frozen=True):
    """Extension: the keys of each latent frame, and the events that first took effect here."""

    actions: list[list[str]]
    event_ids: list[int]


class ChunkStats(Struct, tag="chunk_stats", frozen=True, kw_only=True):
    """The times of a chunk. Clients derive their playback speed from `chunk_total_ms`."""

    session_id: str
    request_id: str
    chunk_index: int
    event_id: int | None
    request_prepare_ms: int
    scheduler_forward_ms: int  # denoising, and the wait for its decoded frames after that
    pace_wait_ms: int  # for the media clock or an ack
    header_write_ms: int
    raw_payload_build_ms: int
    raw_write_ms: int
    ws_write_ms: int
    chunk_total_ms: int  # from the start of the last chunk to that of this one, with all waits
    num_batches: int
    num_frames: int
    raw_bytes: int
    ws_payload_bytes: int
    content_type: str


class Error(Struct, tag="error", frozen=True, omit_defaults=True, kw_only=True):
    content: str
    code: ErrorCode
    field: str | None = None
    event_id: int | None = None  # the event that this error answers
    retry_after_s: int | None = None  # of `busy`: when to come back


class WarningMessage(Struct, tag="warning", frozen=True, omit_defaults=True):
    """Extension: something is not as requested, and the session continues."""

    content: str
    code: WarningCode
    field: str | None = None


class SessionLimits(Struct, frozen=True, kw_only=True):
    max_event_bytes: int
    max_script_latent_frames: int
    max_prompt_chars: int
    max_unacknowledged_chunks: int


class SessionOpened(Struct, tag="session", frozen=True, kw_only=True):
    """Extension: the world is open."""

    session_id: str
    width: int
    height: int
    fps: int
    chunk_latent_frames: int
    first_chunk_frames: int
    chunk_frames: int
    encoding: Format
    limits: SessionLimits
    seed: int | None = None  # of the world; the drawn one if the init has a negative one
    world_chunk_index: int = 0  # of the next chunk in its world
    earliest_chunk_index: int = 0  # the first one to which a rewind can lead
    resume_token: str | None = None  # for another socket, should this one be lost
    resume_grace_s: float | None = None  # for so long the world waits then


class Queued(Struct, tag="queued", frozen=True, omit_defaults=True):
    """Extension: the client waits for a world."""

    position: int
    all_taken: bool = False  # every world is taken; else it waits for its own to be opened
    estimate_s: int | None = None  # until its turn; None: unknown


class Starting(Struct, tag="starting", frozen=True):
    """Extension: the client waits for a world that is starting."""


class Paused(Struct, tag="paused", frozen=True):
    """Extension: nothing is generated until the next key or event."""

    reason: PauseReason


class Resumed(Struct, tag="resumed", frozen=True):
    """Extension: chunks are generated again."""


class Paced(Struct, tag="paced", frozen=True):
    """Extension: the world's speed has changed, because the group is shared."""

    speed_percent: int  # of real time; 100: the world keeps up


class Ending(Struct, tag="ending", frozen=True):
    """Extension: the session will be ended."""

    reason: EndingReason
    in_s: int


class SnapshotMessage(Struct, tag="snapshot", frozen=True, kw_only=True):
    """Extension: the answer to `save`, a world in one piece. It is opaque to clients."""

    event_id: int | None
    world_chunk_index: int  # of the first chunk that is not in it
    data: bytes


class Forked(Struct, tag="forked", frozen=True, kw_only=True):
    """Extension: the answer to `fork`. An init may open this world with the token."""

    event_id: int | None
    world_chunk_index: int
    token: str
    expires_in_s: int


class Rewound(Struct, tag="rewound", frozen=True, kw_only=True):
    """Extension: the answer to `rewind` and `reset`. The next chunk has this index in its world."""

    event_id: int | None
    world_chunk_index: int
    seed: int


class Moved(Struct, tag="moved", frozen=True):
    """Extension: the world has gone on in another replica group."""

    world_chunk_index: int  # of the next chunk
    resume_token: str | None = None  # in place of the one before, which opens nothing any more


class LastFrame(Struct, tag="last_frame", frozen=True, kw_only=True):
    """Extension: what a world that goes on showed last, as one image."""

    content_type: str
    data: bytes


class Reconnect(Struct, tag="reconnect", frozen=True):
    """Extension: this server process goes away. Resume on another socket; this one is closed."""

    content: str


class ControlAck(Struct, tag="control_ack", frozen=True):
    """Extension: the event is valid and queued."""

    event_id: int


class Encoding(Struct, frozen=True, kw_only=True):
    """How a session's frames travel."""

    format: Format = "raw"
    quality: int | None = None  # None, here and below: the default of the format and the client
    preview_max_width: int | None = None  # None: as generated
    chroma: Chroma | None = None


ServerMessage = (
    ChunkStats
    | Error
    | SessionOpened
    | Queued
    | Starting
    | Paused
    | Resumed
    | Paced
    | Ending
    | SnapshotMessage
    | Forked
    | Rewound
    | Moved
    | LastFrame
    | Reconnect
    | ControlAck
    | WarningMessage
)
Layout = RawLayout | EncodedLayout | VideoLayout

# Binary frames that are sent in this order, with no other frame between them. Empty: send nothing.
Unit = list[bytes | memoryview]

_encoder = msgpack.Encoder()


def encode_message(message: ServerMessage) -> bytes:
    return _encoder.encode(message)


def encode_batch(
    header: FrameBatchHeader,
    layout: Layout,
    payload: bytes | memoryview,
    *,
    extras: HeaderExtras | None = None,
) -> Unit:
    """One binary frame, or two for a payload of 64 KiB or more.

    Nothing may be sent between the two. A bare payload is not copied.
    """
    fields: dict[str, Any] = to_builtins(header) | to_builtins(layout)
    if extras is not None:
        fields |= to_builtins(extras)
    if len(payload) >= SPLIT_BYTES:
        return [_encoder.encode(fields), payload]
    return [_encoder.encode(fields | {"type": "frame_batch", "payload": payload})]
