"""How a session's frames travel: the format, its quality, and requested key frames."""

from dataclasses import dataclass
from typing import get_args

from msgspec import Raw

from transport.wire.decoding import decode_known
from transport.wire.errors import BadMessage, quote
from transport.wire.messages import Encoding, Format, OutputChange

FORMAT_FIELD = "realtime_output_format"
EXTENSION_FORMATS = ("delta-zstd",)  # not a part of the plain wire


@dataclass(slots=True)
class OutputSettings:
    """The settings of the next chunk. Events change them, and the chunk sender reads them."""

    encoding: Encoding = Encoding()
    key_frame_wanted: bool = False


def read_format(name: str | None, *, extensions: bool, field: str = FORMAT_FIELD) -> Format:
    """The format of this name; absent means raw. Raises BadMessage that names `field`."""
    served: tuple[Format, ...] = get_args(Format)
    for candidate in served:
        if name in (None, candidate):
            if candidate in EXTENSION_FORMATS and not extensions:
                raise BadMessage(f"`{field}`: {quote(name)} needs `extensions`", field=field)
            return candidate
    expected = ", ".join(repr(candidate) for candidate in served)
    raise BadMessage(f"`{field}`: {quote(name)} is not one of {expected}", field=field)


def read_output_change(raw: Raw, *, field: str) -> OutputChange:
    """The payload of `output`. Raises BadMessage with the path below `field`.

    Unlike elsewhere, an unknown field is an error, because it would have no effect.
    """
    return decode_known(raw, OutputChange, field=field)


def merge_encoding(
    encoding: Encoding, change: OutputChange, *, extensions: bool, field: str
) -> Encoding:
    """The encoding with the fields of `change`; absent ones keep their value.

    Raises BadMessage with the path below `field` for a format that is not served.
    """
    name, quality = change.realtime_output_format, change.output_compression
    path = f"{field}.{FORMAT_FIELD}"
    kept = encoding.format
    format = kept if name is None else read_format(name, extensions=extensions, field=path)
    max_width, chroma = change.realtime_preview_max_width, change.realtime_chroma_subsampling
    return Encoding(
        format=format,
        quality=encoding.quality if quality is None else quality or None,
        preview_max_width=encoding.preview_max_width if max_width is None else max_width or None,
        chroma=chroma or encoding.chroma,
    )
