"""Weights, and the step that turns three actions into twelve frames."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.camera.motion import check_action
from lingbot.camera.rays import control_map, default_intrinsics, pose_key
from lingbot.config import LATENT_CHANNELS, WorldConfig, check_window
from lingbot.dit.camera_cache import CameraCache, ChunkMaps
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import ChunkInputs, TextKV, WorldModel
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps
from lingbot.errors import LingbotError
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.runtime.session import Session, SessionSpec
from lingbot.text.pocket import PocketTextEncoder
from lingbot.vae.codec import LatentCodec
from lingbot.vae.tiny import DecoderState

BROKEN = "an earlier step of this session failed: open another"


class Engine:
    """Holds weights and nothing about any user. One call at a time, but for ``decode``."""

    def __init__(
        self,
        config: WorldConfig,
        *,
        model: WorldModel,
        codec: LatentCodec,
        text_encoder: PocketTextEncoder,
        camera_cache_bytes: int = 0,
        group: SequenceParallelGroup = SINGLE,
    ) -> None:
        """One of ``ranks``, which all make the same calls in the same order.

        ``camera_cache_bytes`` is the most that the camera maps of earlier poses may take; 0: none
        are kept. Raises LingbotError where the model cannot be split over the ranks.
        """
        rows, columns = config.grid
        group.check(model.config, tokens=rows * columns)
        self.group = group
        self.camera_cache = CameraCache(model, budget_bytes=camera_cache_bytes, group=group)
        self.config = config
        self.model = model
        self.codec = codec
        self.text_encoder = text_encoder
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self._decode_stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @torch.inference_mode()
    def open(self, spec: SessionSpec) -> Session:
        """A world that has not moved yet.

        Raises LingbotError, with the field, for a picture of another size than the config's, for
        too many steps, or for a window that is larger than the config's or holds no chunk.
        """
        config = self.config
        expected = (config.height, config.width, 3)
        if spec.first_frame.shape != expected or spec.first_frame.dtype != np.uint8:
            got = f"{spec.first_frame.dtype} {spec.first_frame.shape}"
            raise LingbotError(f"first_frame must be uint8 {expected}, not {got}", field="size")
        if spec.num_steps is not None and not 1 <= spec.num_steps <= config.max_steps:
            raise LingbotError(
                f"num_inference_steps must be 1..{config.max_steps}, not {spec.num_steps}",
                field="num_inference_steps",
            )
        window, sink = self._memory_of(spec)
        rows, columns = config.grid
        return Session(
            window=KVWindow.empty(
                self.model.config,
                window=window,
                sink=sink,
                chunk=config.chunk,
                tokens=rows * columns,
                device=self.device,
                dtype=self.dtype,
                num_ranks=self.group.num_ranks,
            ),
            text=self._embed_prompt(spec.prompt),
            condition=self.codec.encode_image(spec.first_frame, chunk=config.chunk),
            steps=build_steps(config.schedule, num_steps=spec.num_steps),
            noise=torch.Generator().manual_seed(spec.seed),
        )

    def step(
        self, session: Session, actions: Sequence[str], *, prompt: str | None = None
    ) -> NDArray[np.uint8]:
        """The session's next chunk: ``denoise``, then ``decode``."""
        return self.decode(session, self.denoise(session, actions, prompt=prompt))

    @torch.inference_mode()
    def denoise(
        self, session: Session, actions: Sequence[str], *, prompt: str | None = None
    ) -> Tensor:
        """The clean latents of the session's next chunk, [1, 16, F, h, w].

        ``actions`` holds the keys of each latent frame; ``prompt`` replaces the prompt from here
        on. Raises LingbotError for actions that are no keys or not ``chunk`` of them, and leaves
        the session as it was; any other error leaves the session unusable.
        """
        config = self.config
        if session.broken:
            raise LingbotError(BROKEN)
        if len(actions) != config.chunk:
            raise LingbotError(
                f"a step takes {config.chunk} actions, not {len(actions)}", field="actions"
            )
        for action in actions:
            check_action(action)
        try:
            if prompt is not None:
                session.text = self._embed_prompt(prompt)
            latents = self._denoise(session, actions)
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()  # done is done
        except BaseException:
            session.broken = True
            raise
        session.next_chunk += 1
        return latents

    @torch.inference_mode()
    def decode(self, session: Session, latents: Tensor) -> NDArray[np.uint8]:
        """A chunk's frames: uint8 [T, H, W, 3], 9 in the first and 12 in each later.

        In the order of the chunks. It touches nothing that ``denoise`` does, so that another thread
        may decode a chunk while the next is denoised; on a GPU it has a stream of its own.
        """
        if session.decoder_broken:
            raise LingbotError(BROKEN)
        try:
            with torch.cuda.stream(self._decode_stream):
                return self.codec.decode(latents, session.decoder)
        except BaseException:
            session.decoder_broken = True
            raise

    def close(self, session: Session) -> None:
        """Free the window, the prompt's K/V and the decoder's state now, whoever holds them.

        A chunk that is being decoded is finished first, with a state that it keeps that long.
        """
        session.broken = session.decoder_broken = True
        session.window = session.window.emptied()
        session.text = ()
        session.decoder = DecoderState()

    def _memory_of(self, spec: SessionSpec) -> tuple[int, int]:
        """Window and sink of a session, checked against the config's."""
        config = self.config
        window = config.window if spec.window is None else spec.window
        sink = config.sink if spec.sink is None else spec.sink
        if window > config.window:
            raise LingbotError(
                f"realtime_causal_kv_cache_num_frames must be at most {config.window}, "
                f"not {window}",
                field="realtime_causal_kv_cache_num_frames",
            )
        try:
            check_window(window, sink=sink, chunk=config.chunk)
        except ValueError as exc:
            raise LingbotError(str(exc), field="realtime_causal_sink_size") from exc
        return window, sink

    def _embed_prompt(self, prompt: str) -> tuple[TextKV, ...]:
        context = self.text_encoder.encode(prompt)[None].to(device=self.device, dtype=self.dtype)
        return self.model.embed_text(context)

    def _denoise(self, session: Session, actions: Sequence[str]) -> Tensor:
        """The clean latents of the next chunk, [1, 16, F, h, w]."""
        config = self.config
        shape = (1, LATENT_CHANNELS, config.chunk, *config.latent_size)

        def draw(_: int = 0) -> Tensor:
            return torch.randn(shape, generator=session.noise).to(self.device)

        with self.chunk_inputs(session, actions) as chunk:
            latents = sample_chunk(
                self.model, chunk, noise=draw(), renoise=draw, steps=session.steps
            )
        session.window.advance(config.chunk)
        return latents

    @contextmanager
    def chunk_inputs(self, session: Session, actions: Sequence[str]) -> Iterator[ChunkInputs]:
        """The model's inputs for the session's next chunk, valid inside the `with`.

        Moves the session's trajectory on by these actions; its window does not advance.
        """
        with self._maps(session, actions) as maps:
            yield prepare_next_chunk(
                self.model,
                session.window,
                condition=session.condition.of_chunk(session.next_chunk),
                maps=maps,
                text=session.text,
                group=self.group,
                rope_scale=self.config.rope_scale,
            )

    def _maps(self, session: Session, actions: Sequence[str]) -> AbstractContextManager[ChunkMaps]:
        """The conditioner's maps for the next chunk, whose latent frames have these actions."""
        kind = self.model.config.control
        poses = session.trajectory.extend(actions)
        size = {"width": self.config.width, "height": self.config.height}
        intrinsics = default_intrinsics(**size)

        def make_control(i: int) -> Tensor:
            here = slice(i, i + 1)
            control = control_map(kind, poses[here], actions[here], intrinsics, **size)
            return control[None].to(self.device)

        keys = [
            pose_key(kind, pose, action, intrinsics, **size)
            for pose, action in zip(poses, actions, strict=True)
        ]
        return self.camera_cache.chunk(keys, make_control)
