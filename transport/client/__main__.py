"""Records a walk: `python -m transport.client --actions "w-6,l-4,none-2" --out walk.mp4`."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

from msgspec import Struct, msgpack
from websockets.exceptions import WebSocketException
from websockets.uri import parse_uri

from transport.client import DEFAULT_URL, Client, connect
from transport.client.news import describe
from transport.client.output_file import open_output, replace_content
from transport.codecs.mp4 import Mp4Writer
from transport.wire.controls import parse_actions
from transport.wire.errors import TransportError
from transport.wire.limits import MAX_MESSAGE_BYTES
from transport.wire.messages import Format

BAR_CELLS = 40
CLEAR_LINE = "\r\x1b[K"
INTERRUPTED = 130  # a shell's status of a command that Ctrl-C ended


class Walk(Struct, frozen=True):
    """What a walk has left behind."""

    writer: Mp4Writer  # closed
    fps: int
    saved: bytes | None  # the world after it


async def record(
    url: str,
    *,
    actions: Sequence[str],
    init: dict[str, Any],
    token: str | None = None,
    saves: bool = False,
) -> Walk:
    """Plays `actions`, one for each latent frame. `saves`: the world after them is saved."""
    script = [list(action) for action in actions]
    async with connect(
        url,
        token=token,
        on_news=lambda news: print_note(describe(news)),
        realtime_delivery="on_demand",  # no chunk follows the script, so the saved world ends there
        condition_inputs={"camera_actions": script},
        **init,
    ) as client:
        async for status in client.wait():
            print_note(describe(status))
        session = client.session
        assert session is not None
        num_frames = session.chunk_frames // session.chunk_latent_frames * len(actions)
        if session.world_chunk_index == 0:  # the first latent frame of a world is one frame
            num_frames -= session.chunk_frames - session.first_chunk_frames
        writer = await _write_frames(client, num_frames=num_frames, fps=session.fps)
        saved = await client.save() if saves else None
    for warning in client.warnings:
        print(f"warning: {warning.content}", file=sys.stderr)
    return Walk(writer, session.fps, saved)


async def _write_frames(client: Client, *, num_frames: int, fps: int) -> Mp4Writer:
    """A closed writer with so many frames. The last chunk may have more."""
    writer = None
    async for chunk in client.chunks():
        if writer is None:  # a preview is smaller than the session's size
            _, height, width, _ = chunk.frames.shape
            writer = Mp4Writer(width=width, height=height, fps=fps)
        frames = chunk.frames[: num_frames - writer.num_frames]
        await asyncio.to_thread(writer.add, frames)
        show_progress(writer.num_frames, num_frames)
        if writer.num_frames == num_frames:
            return await asyncio.to_thread(writer.close)
    raise TransportError("the server ended the walk early")


def print_note(text: str) -> None:
    """Prints a line on stderr, in place of a bar that a terminal shows there."""
    print((CLEAR_LINE if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)


def show_progress(num_done: int, num_frames: int) -> None:
    """Draws a bar on a terminal, over the bar before; its last call ends the line."""
    if sys.stderr.isatty():
        bar = "#" * (BAR_CELLS * num_done // num_frames)
        end = "\n" if num_done == num_frames else ""
        text = f"\r[{bar:{BAR_CELLS}}] {num_done} of {num_frames} frames"
        print(text, end=end, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, or another after one line on stderr."""
    options = _parser().parse_args(argv)
    url = options.url
    try:
        walk = _run(options)
    except KeyboardInterrupt:
        return _fail("interrupted", status=INTERRUPTED)
    except TransportError as exc:  # also those of files
        later = "" if exc.retry_after_s is None else f"; try again in {exc.retry_after_s} s"
        return _fail(f"{exc}{later}")
    except WebSocketException as exc:
        return _fail(f"{url} does not serve a world: {exc}")
    except TimeoutError:
        return _fail(f"{url} does not answer")
    # ImportError: a SOCKS proxy in the environment needs a package that is not installed.
    except (OSError, ImportError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        return _fail(f"cannot reach {url}: {reason}")
    num_frames, fps = walk.writer.num_frames, walk.fps
    print(
        f"{_printable(str(options.out))}: {num_frames} frames, {num_frames / fps:.2f} s at {fps} "
        "frames/s"
    )
    if walk.saved is not None:
        print(f"{_printable(str(options.save))}: the world after it, {len(walk.saved)} bytes")
    return 0


def _run(options: argparse.Namespace) -> Walk:
    """Records the walk and writes its files. Raises TransportError for a mistake of the user."""
    init = _read_init(options)
    actions = parse_actions(options.actions)
    _check_url(options.url)
    _check_token(options.token)
    paths = [path for path in (options.out, options.save) if path is not None]
    for path in paths:
        if not path.parent.is_dir():
            raise TransportError(f"{path.parent} is not a directory")
    if options.save == options.out:
        raise TransportError(f"--save and --out are both {options.out}, expected two files")
    with ExitStack() as stack:
        files = [stack.enter_context(open_output(path)) for path in paths]
        saves = options.save is not None
        recording = record(
            options.url, actions=actions, init=init, token=options.token, saves=saves
        )
        walk = asyncio.run(recording)
        for file, data in zip(files, (walk.writer.take(), walk.saved), strict=False):
            assert data is not None
            replace_content(file, data)
    return walk


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transport.client", description="Records a walk."
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--token", help="the bearer token of a server that asks for one")
    parser.add_argument("--actions", default="w-6,l-4,none-2", help="KEYS-COUNT in latent frames")
    parser.add_argument("--out", type=Path, default=Path("walk.mp4"))
    parser.add_argument("--prompt")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--image", type=Path, help="an image to start from")
    parser.add_argument("--save", type=Path, metavar="FILE", help="save the world after the walk")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="saved", help="a saved world to go on from"
    )
    parser.add_argument("--size", help="WIDTHxHEIGHT; the nearest size that is served is used")
    parser.add_argument("--format", choices=get_args(Format), default="raw")
    return parser


def _read_file(path: Path) -> bytes:
    """Raises TransportError for a file that cannot be read, or is larger than any message."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MESSAGE_BYTES + 1)  # at most: a device file has no end
    except OSError as exc:
        raise TransportError(f"{path}: {exc.strerror or exc}") from exc
    if len(data) > MAX_MESSAGE_BYTES:
        raise TransportError(f"{path}: too large, expected at most {MAX_MESSAGE_BYTES} bytes")
    return data


def _read_init(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of the wire's init. Raises TransportError for one that it cannot carry."""
    for name in ("prompt", "seed", "size"):
        try:
            msgpack.encode(getattr(options, name))
        except UnicodeEncodeError as exc:
            raise TransportError(f"--{name} is not UTF-8, expected text in UTF-8") from exc
        except OverflowError as exc:
            raise TransportError(f"--{name} is too large, expected an integer of 64 bits") from exc
    for name in ("image", "seed", "size"):
        if options.saved is not None and getattr(options, name) is not None:
            raise TransportError(f"--{name} and --from: a saved world has its own")
    return {
        "prompt": options.prompt,
        "seed": options.seed,
        "size": options.size,
        "realtime_output_format": options.format,
        "first_frame": None if options.image is None else _read_file(options.image),
        "snapshot": None if options.saved is None else _read_file(options.saved),
    }


def _check_token(token: str | None) -> None:
    """Raises TransportError for a text that no header can carry. The error does not quote it."""
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise TransportError("--token is not a token, expected letters, digits and `._~-`")


def _check_url(url: str) -> None:
    try:
        parse_uri(url).host.encode("idna")
    except (ValueError, WebSocketException) as exc:
        raise TransportError(f"--url {url}: {exc}, expected ws://HOST:PORT/PATH") from exc


def _fail(reason: str, *, status: int = 1) -> int:
    start = CLEAR_LINE if sys.stderr.isatty() else ""  # erases an unfinished bar
    print(f"{start}error: {_printable(' '.join(reason.split()))}", file=sys.stderr)
    return status


def _printable(text: str) -> str:
    """The text with escapes for bytes that were no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


if __name__ == "__main__":
    sys.exit(main())
