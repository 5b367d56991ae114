"""How a session's frames travel, as its client last asked."""

from dataclasses import dataclass
from typing import get_args

from transport.wire.errors import BadMessage, quote
from transport.wire.messages import DEFAULT_QUALITY, Encoding, Format, OutputChange

FORMAT_FIELD = "realtime_output_format"
EXTENSION_FORMATS = ("delta-zstd",)  # not a part of the plain wire


@dataclass(slots=True)
class OutputSettings:
    """What the next chunk is encoded as; changed by events, read by whoever sends."""

    encoding: Encoding = Encoding()
    key_frame_wanted: bool = False


def read_format(name: str | None, *, extensions: bool, field: str = FORMAT_FIELD) -> Format:
    """Absent: raw. Raises BadMessage that names `field`."""
    served: tuple[Format, ...] = get_args(Format)
    for candidate in served:
        if name in (None, candidate):
            if candidate in EXTENSION_FORMATS and not extensions:
                raise BadMessage(f"`{field}`: {quote(name)} needs `extensions`", field=field)
            return candidate
    expected = ", ".join(repr(candidate) for candidate in served)
    raise BadMessage(
        f"`{field}`: {quote(name)} is unknown, expected one of {expected}", field=field
    )


def read_quality(quality: int | None) -> int:
    """Absent or 0: the default one."""
    return quality or DEFAULT_QUALITY


def change_output(change: OutputChange, old: Encoding, *, extensions: bool, field: str) -> Encoding:
    """The old one, but for what the change names. Raises BadMessage, with the path below `field`,
    for a format that is not served.
    """
    name, quality = change.realtime_output_format, change.output_compression
    place = f"{field}.{FORMAT_FIELD}"
    served = old.format if name is None else read_format(name, extensions=extensions, field=place)
    max_width, chroma = change.realtime_preview_max_width, change.realtime_chroma_subsampling
    return Encoding(
        format=served,
        quality=old.quality if quality is None else read_quality(quality),
        preview_max_width=old.preview_max_width if max_width is None else max_width or None,
        chroma=chroma or old.chroma,
    )
