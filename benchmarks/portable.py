"""How closely a restored world goes on as one that never stopped: `python -m benchmarks.portable`.

Walks through the pocket world's six openings, with a new prompt on the way, and takes a snapshot
with the last 1, 2, 3 … chunks. Each is restored from its file. PSNR compares the frames of the next
chunks with those of the session that never stopped. For scale, one row restores with the noise of
another seed. Seconds are medians of rank 0's thread, without other load. A chunk is denoised and
decoded in turn, as the restoration is. --ranks 1 2 repeats all of it with so many processes of one
thread each. The shipped number of chunks is marked. Prints a table for each number of ranks, then
one JSON line.
"""

import argparse
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import describe_machine
from benchmarks.printing import Row, print_json, print_table
from lingbot.config import PRESETS
from lingbot.parallel.process_group import spawn_ranks
from lingbot.parallel.ulysses import SequenceParallelGroup
from lingbot.runtime.engine import Engine
from lingbot.runtime.history import History
from lingbot.runtime.presets import load_engine, load_text_encoder
from lingbot.runtime.session import Session, SessionSpec
from lingbot.runtime.snapshot import Snapshot, decode_snapshot, encode_snapshot, needed_prompts

NUM_AFTER = 6  # chunks that are compared
CHANGED_AT = 9  # the chunk of the new prompt, which the window still has with a world of 12 chunks
NEW_PROMPT = "a lake, snow, at night, overcast"
MOVES = ["w", "w", "wl", "l", "j", "a", "d", "wi", "k", ""]
MAX_BYTES = 2**24
SAME = 99.0  # dB, of equal frames

Frames = NDArray[np.uint8]
Contexts = Mapping[str, NDArray[np.float32]]


@dataclass(slots=True)
class Figures:
    """One way to restore, over all openings."""

    psnr: list[list[float]] = field(default_factory=list)  # by opening and chunk
    num_bytes: list[int] = field(default_factory=list)
    restore_s: list[float] = field(default_factory=list)


def psnr(a: Frames, b: Frames) -> float:
    """dB, and SAME for equal frames."""
    error = float(np.mean((a.astype(float) - b.astype(float)) ** 2))
    return SAME if error == 0 else 10 * math.log10(255**2 / error)


def draw_walk(seed: int, num_chunks: int) -> list[list[str]]:
    """A key held over each chunk; some chunks change it half-way."""
    draw = np.random.default_rng(seed)
    pairs = [(str(draw.choice(MOVES)), str(draw.choice(MOVES))) for _ in range(num_chunks)]
    return [[a, a, b if draw.random() < 0.3 else a] for a, b in pairs]


def keep_last(snapshot: Snapshot, count: int) -> Snapshot:
    """The same world with the sink's and so many last chunks."""
    num_sink, first = snapshot.origin.sink_chunks, snapshot.next_chunk - count
    kept = [chunk for chunk in snapshot.chunks if chunk.index < num_sink or chunk.index >= first]
    return replace(snapshot, chunks=tuple(kept))


def walk(
    engine: Engine, spec: SessionSpec, actions: Sequence[list[str]], context: NDArray[np.float32]
) -> tuple[Session, Snapshot]:
    """A session after a walk, and a snapshot that has all of its chunks."""
    session = engine.open(spec)
    history = History(session.origin, prompt=spec.prompt or "", budget_bytes=2**30)
    for index, chunk in enumerate(actions):
        changes = {"context": context, "prompt": NEW_PROMPT} if index == CHANGED_AT else {}
        engine.step(session, chunk, **changes)  # type: ignore[arg-type]
        prompt = NEW_PROMPT if changes else None
        history.append(engine.newest_latents(session), chunk, prompt)
    snapshot = history.snapshot()
    return session, replace(snapshot, chunks=(*history._sink, *history._recent))


def restore(engine: Engine, snapshot: Snapshot, contexts: Contexts, figures: Figures) -> Session:
    """A session from a file."""
    data = encode_snapshot(snapshot)
    began = time.thread_time()
    read = decode_snapshot(data, max_bytes=MAX_BYTES)
    session = engine.restore(read, {text: contexts[text] for text in needed_prompts(read)})
    figures.restore_s.append(time.thread_time() - began)
    figures.num_bytes.append(len(data))
    return session


def measure(group: SequenceParallelGroup, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one group. All ranks decode, so that each of them can restore."""
    torch.set_num_threads(1)
    engine = load_engine("pocket", dtype=getattr(torch, options.dtype), group=group)
    folder, encode = PRESETS["pocket"].folder, load_text_encoder("pocket").encode
    assert folder is not None
    found = {str(count): Figures() for count in options.kept} | {"another seed": Figures()}
    chunk_s: list[float] = []
    openings = msgspec.json.decode((folder / "openings.json").read_bytes())
    for number, opening in enumerate(openings[: options.openings]):
        spec = read_spec(folder, opening, encode(opening["prompt"]))
        contexts = {text: encode(text) for text in (opening["prompt"], NEW_PROMPT)}
        actions = draw_walk(number, options.before + NUM_AFTER)
        session, all_chunks = walk(engine, spec, actions[: options.before], contexts[NEW_PROMPT])
        truth = []
        for chunk in actions[options.before :]:
            began = time.thread_time()
            truth.append(engine.step(session, chunk))
            chunk_s.append(time.thread_time() - began)
        for name, figures in found.items():
            past = keep_last(all_chunks, int(name) if name.isdigit() else options.kept[-1])
            if not name.isdigit():
                past = replace(past, origin=replace(past.origin, seed=-1))
            other = restore(engine, past, contexts, figures)
            shown = [engine.step(other, chunk) for chunk in actions[options.before :]]
            figures.psnr.append([psnr(a, b) for a, b in zip(truth, shown, strict=True)])
    shipped = session.origin.kept_chunks
    return {"shipped": shipped, "chunk_s": statistics.median(chunk_s),
            "rows": {name: summarise(one, chunk_s) for name, one in found.items()}}  # fmt: skip


def read_spec(folder: Path, opening: dict[str, str], context: NDArray[np.float32]) -> SessionSpec:
    with Image.open(folder / opening["file"]) as file:
        image = np.asarray(file.convert("RGB"))
    return SessionSpec(first_frame=image, context=context, prompt=opening["prompt"], seed=1)


def summarise(figures: Figures, chunk_s: list[float]) -> Row:
    by_chunk = np.mean(figures.psnr, axis=0)
    return {
        **{f"chunk {index + 1}": round(float(value), 1) for index, value in enumerate(by_chunk)},
        "mean dB": round(float(by_chunk.mean()), 1),
        "least dB": round(float(np.min(figures.psnr)), 1),
        "kB": round(statistics.mean(figures.num_bytes) / 1000),
        "restore / chunk": round(
            statistics.median(figures.restore_s) / statistics.median(chunk_s), 2
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kept", type=int, nargs="+", default=[2, 3, 4, 6, 11])
    parser.add_argument("--before", type=int, default=12, help="chunks before the snapshot")
    parser.add_argument("--openings", type=int, default=6)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    machine, runs = describe_machine(), {}
    for num_ranks in options.ranks:
        run = runs[num_ranks] = spawn_ranks(num_ranks, measure, options)
        marked = {
            name + (" (shipped)" if name == str(run["shipped"]) else ""): row
            for name, row in run["rows"].items()
        }
        title = f"{num_ranks} ranks, {options.dtype}, a chunk takes {run['chunk_s']:.2f} s"
        print_table(f"{title}; last chunks kept beside the sink", marked)
    print_json("portable", {**machine, "dtype": options.dtype, "runs": runs})


if __name__ == "__main__":
    main()
