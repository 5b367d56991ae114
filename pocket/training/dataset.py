"""The dataset of rendered clips, on disk in shards."""

import logging
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pocket.renderer.render import FrameSize
from pocket.training.checkpoint import save_complete
from pocket.training.clips import make_clip
from pocket.training.run import DeadlineReached, RunContext

DATASET = "dataset"  # folder in a run's folder
CLIPS_PER_SHARD = 10

logger = logging.getLogger(__name__)


def render_dataset(run: RunContext, *, num_clips: int, seed: int) -> None:
    """Render the clips of seeds `seed`, `seed` + 1, ...; resume where an earlier run stopped.

    Clips are rendered on the CPU: the small operations of a frame would keep a GPU waiting.

    Raises ValueError for a seed that is not a multiple of CLIPS_PER_SHARD, and DeadlineReached.
    """
    folder = run.folder / DATASET
    folder.mkdir(parents=True, exist_ok=True)
    if seed % CLIPS_PER_SHARD:
        raise ValueError(
            f"seed {seed} must be a multiple of {CLIPS_PER_SHARD}: shards would overlap"
        )
    end, size = seed + num_clips, run.config.size
    shards = [range(at, min(at + CLIPS_PER_SHARD, end)) for at in range(seed, end, CLIPS_PER_SHARD)]
    missing = [seeds for seeds in shards if not _shard_path(folder, seeds).exists()]
    with ProcessPoolExecutor(
        max(run.num_processes, 1),  # no process starts before its first job
        get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as processes:
        jobs = [
            processes.submit(_render_shard, folder, seeds, size).result
            if run.num_processes
            else partial(_render_shard, folder, seeds, size)
            for seeds in missing
        ]
        for job, seeds in zip(jobs, missing, strict=True):
            if run.deadline_passed:
                processes.shutdown(cancel_futures=True)
                raise DeadlineReached
            job()
            logger.info("rendered clips %d to %d", seeds[0], seeds[-1])


def shard_paths(folder: Path) -> list[Path]:
    """List the finished shards of a folder in the order of their seeds."""
    return sorted(folder.glob("*.pt"))


class ClipDataset:
    """The frames of a dataset, mapped from disk or in a GPU's memory.

    The dataset may still grow. Raises FileNotFoundError if it is empty.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._loaded = set[Path]()
        self.shards: list[Tensor] = []  # uint8 [N, F, H, W, 3]
        self.refresh()
        if not self.shards:
            raise FileNotFoundError(f"{folder} holds no clips yet")

    def refresh(self) -> None:
        """Load shards that were rendered since the last call."""
        for path in shard_paths(self._folder):
            if path not in self._loaded:
                self._loaded.add(path)
                self.shards.append(torch.load(path, mmap=True)["frames"].to(self._device))


def _shard_path(folder: Path, seeds: range) -> Path:
    return folder / f"{seeds[0]:07}.pt"


def _render_shard(folder: Path, seeds: range, size: FrameSize) -> None:
    clips = [make_clip(seed, size=size) for seed in seeds]
    shard = {
        "seeds": list(seeds),
        "prompts": [clip.prompts for clip in clips],
        "relatives": torch.from_numpy(np.stack([clip.relatives for clip in clips])),
        "frames": torch.stack([clip.frames for clip in clips]),
    }
    save_complete(_shard_path(folder, seeds), shard)
