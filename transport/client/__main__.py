"""Records a walk: `python -m transport.client --actions "w-6,l-4,none-2" --out walk.mp4`."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from websockets.exceptions import WebSocketException

from transport.client import DEFAULT_URL, connect
from transport.codecs.mp4 import Mp4Writer
from transport.wire.controls import parse_actions
from transport.wire.errors import TransportError
from transport.wire.messages import Format, Warming


async def record(
    url: str, *, actions: Sequence[str], out: Path, init: dict[str, Any]
) -> tuple[int, int]:
    """Plays `actions`, one for each latent frame, and writes an MP4. Returns (frames, fps)."""
    script = [list(action) for action in actions]
    async with connect(
        url, realtime_output_pacing=False, condition_inputs={"camera_actions": script}, **init
    ) as client:
        async for news in client.wait():
            state = (
                "warming up"
                if isinstance(news, Warming)
                else f"busy, queue position {news.position}"
            )
            print(f"the world is {state}", file=sys.stderr)
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
            if writer.num_frames == num_frames:
                break
    if writer is None or writer.num_frames < num_frames:
        raise TransportError("the server ended the walk early")
    await asyncio.to_thread(writer.close)
    out.write_bytes(writer.take())
    return num_frames, session.fps


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 after one line on stderr."""
    options = _parser().parse_args(argv)
    if not options.out.parent.is_dir():
        return _fail(f"{options.out.parent} is not a directory")
    try:
        init = {
            "prompt": options.prompt,
            "seed": options.seed,
            "size": options.size,
            "realtime_output_format": options.format,
            "first_frame": options.image.read_bytes() if options.image else None,
        }
        actions = parse_actions(options.actions)
        walk = record(options.url, actions=actions, out=options.out, init=init)
        num_frames, fps = asyncio.run(walk)
    except TransportError as exc:
        return _fail(str(exc))
    except WebSocketException as exc:
        return _fail(f"{options.url} does not serve a world: {exc}")
    except TimeoutError:
        return _fail(f"{options.url} does not answer")
    except OSError as exc:
        place = exc.filename or f"cannot reach {options.url}"
        return _fail(f"{place}: {exc.strerror or exc}")
    print(f"{options.out}: {num_frames} frames, {num_frames / fps:.2f} s at {fps} frames/s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transport.client", description="Records a walk."
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--actions", default="w-6,l-4,none-2", help="KEYS-COUNT in latent frames")
    parser.add_argument("--out", type=Path, default=Path("walk.mp4"))
    parser.add_argument("--prompt")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--image", type=Path, help="an image to start from")
    parser.add_argument("--size", help="WIDTHxHEIGHT; the nearest size that is served is used")
    parser.add_argument("--format", choices=get_args(Format), default="raw")
    return parser


def _fail(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
