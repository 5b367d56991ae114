"""Records a walk: `python -m transport.client --actions "w-6,l-4,none-2" --out walk.mp4`."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from msgspec import msgpack
from websockets.exceptions import WebSocketException
from websockets.uri import parse_uri

from transport.client import DEFAULT_URL, connect
from transport.client.client import News
from transport.client.output_file import open_output, replace_content
from transport.codecs.mp4 import Mp4Writer
from transport.wire.controls import parse_actions
from transport.wire.errors import TransportError
from transport.wire.limits import MAX_MESSAGE_BYTES
from transport.wire.messages import Ending, Format, Paced, Paused, Queued, Resumed, Starting

BAR_CELLS = 40
CLEAR_LINE = "\r\x1b[K"
INTERRUPTED = 130  # a shell's status of a command that Ctrl-C ended


async def record(
    url: str, *, actions: Sequence[str], init: dict[str, Any], token: str | None = None
) -> tuple[Mp4Writer, int]:
    """Plays `actions`, one for each latent frame. Returns a closed writer and the frames/s."""
    script = [list(action) for action in actions]
    async with connect(
        url,
        token=token,
        on_news=lambda news: print_note(describe(news)),
        realtime_output_pacing=False,
        condition_inputs={"camera_actions": script},
        **init,
    ) as client:
        async for status in client.wait():
            print_note(describe(status))
        session = client.session
        assert session is not None
        frames_per_latent = session.chunk_frames // session.chunk_latent_frames
        num_frames = 1 + frames_per_latent * (len(actions) - 1)
        writer = None
        async for chunk in client.chunks():
            if writer is None:  # a preview is smaller than the session's size
                _, height, width, _ = chunk.frames.shape
                writer = Mp4Writer(width=width, height=height, fps=session.fps)
            frames = chunk.frames[: num_frames - writer.num_frames]
            await asyncio.to_thread(writer.add, frames)
            show_progress(writer.num_frames, num_frames)
            if writer.num_frames == num_frames:
                break
    for warning in client.warnings:
        print(f"warning: {warning.content}", file=sys.stderr)
    if writer is None or writer.num_frames < num_frames:
        raise TransportError("the server ended the walk early")
    return await asyncio.to_thread(writer.close), session.fps


def describe(news: News | Queued | Starting) -> str:
    """One line about the wait for a world, or about its session."""
    match news:
        case Starting():
            return "a world is starting"
        case Queued(position, estimate_s=None):
            return f"waiting for a world, number {position} in line"
        case Queued(position, estimate_s=estimate_s):
            return f"waiting for a world, number {position} in line, about {estimate_s} s"
        case Paused(reason):
            return f"the session is paused: {reason}"
        case Resumed():
            return "the session goes on"
        case Paced(speed_percent):
            return f"the world runs at {speed_percent} % of real time"
        case Ending(reason, in_s):
            limit = "its pause" if reason == "idle" else "it"
            return f"the session ends in {in_s} s, because {limit} has lasted so long"


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
        init = _read_init(options)
        actions = parse_actions(options.actions)
        _check_url(url)
        _check_token(options.token)
        if not options.out.parent.is_dir():
            return _fail(f"{options.out.parent} is not a directory")
        with open_output(options.out) as file:
            writer, fps = asyncio.run(record(url, actions=actions, init=init, token=options.token))
            replace_content(file, writer.take())
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
    duration_s = writer.num_frames / fps
    print(
        f"{_printable(str(options.out))}: {writer.num_frames} frames, {duration_s:.2f} s at {fps} "
        "frames/s"
    )
    return 0


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
    parser.add_argument("--size", help="WIDTHxHEIGHT; the nearest size that is served is used")
    parser.add_argument("--format", choices=get_args(Format), default="raw")
    return parser


def _read_image(path: Path) -> bytes:
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
    first_frame = None if options.image is None else _read_image(options.image)
    return {
        "prompt": options.prompt,
        "seed": options.seed,
        "size": options.size,
        "realtime_output_format": options.format,
        "first_frame": first_frame,
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
