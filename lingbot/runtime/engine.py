"""The engine: the weights, and the step from a chunk's actions to its frames."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.camera.motion import check_action
from lingbot.camera.rays import control_map, default_intrinsics, pose_key
from lingbot.config import LATENT_CHANNELS, Size, WorldConfig, check_window
from lingbot.dit.attention import AttentionBackend, use_backend
from lingbot.dit.camera_cache import CameraCache, ChunkMaps
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import ChunkInputs, TextKV, WorldModel
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps
from lingbot.errors import LingbotError
from lingbot.memory_plan import MemoryPlan
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.runtime.session import Session, SessionSpec
from lingbot.runtime.suspension import Suspension
from lingbot.vae.protocol import VAE

BROKEN = "an earlier step of this session failed: open another"


def upload(x: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`. A GPU copies it when its queue gets there; nothing waits for it."""
    if device.type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


class Engine:
    """Holds weights and no user's state. It takes one call at a time; `decode` may overlap."""

    def __init__(
        self,
        config: WorldConfig,
        *,
        model: WorldModel,
        vae: VAE,
        camera_cache_bytes: int = 0,
        group: SequenceParallelGroup = SINGLE,
        attention: AttentionBackend = "sdpa",
        memory: MemoryPlan | None = None,
    ) -> None:
        """One rank's engine. All ranks of `group` make the same calls in the same order.

        Stored camera maps take at most `camera_cache_bytes`; 0 stores none. `memory` is the plan
        by which the engine was loaded, for others to read. Raises LingbotError for a model that
        cannot be split over the ranks.
        """
        for size in config.sizes:
            group.check(model.config, tokens=size.num_tokens)
        self.group = group
        self.memory = memory
        self.camera_cache = CameraCache(model, budget_bytes=camera_cache_bytes, group=group)
        self.config = config
        self.model = model
        self.vae = vae
        self.attention = attention
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self._decode_stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        # A CPU's tensors are in host memory anyway. Tests set this to move them all the same.
        self.suspend_frees_memory = self.device.type != "cpu"

    @torch.inference_mode()
    def open(self, spec: SessionSpec) -> Session:
        """A session before its first chunk.

        Raises LingbotError with the wrong field. The image must have one of the config's sizes. The
        window must hold sink and chunk, and must not exceed the config's. `num_steps` has a range,
        and a context has a shape and a type.
        """
        config = self.config
        size = self._size_of(spec.first_frame)
        if spec.num_steps is not None and not 1 <= spec.num_steps <= config.max_steps:
            raise LingbotError(
                f"num_steps must be 1..{config.max_steps}, not {spec.num_steps}",
                field="num_steps",
            )
        window, sink = self._window_and_sink(spec)
        if spec.context is not None:
            self._check_context(spec.context)
        return Session(
            size=size,
            window=KVWindow.empty(
                self.model.config,
                window=window,
                sink=sink,
                chunk=config.chunk,
                tokens=size.num_tokens,
                device=self.device,
                dtype=self.dtype,
                num_ranks=self.group.num_ranks,
                max_positions=config.max_positions,
            ),
            text=self._embed_context(spec.context),
            condition=self.vae.encode_image(spec.first_frame, chunk=config.chunk),
            steps=build_steps(config.schedule, num_steps=spec.num_steps),
            noise=torch.Generator().manual_seed(spec.seed),
            decoder=self.vae.new_decoder_state(),
        )

    def step(
        self,
        session: Session,
        actions: Sequence[str],
        *,
        context: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint8]:
        """The frames of the session's next chunk: `denoise`, then `decode`."""
        return self.decode(session, self.denoise(session, actions, context=context))

    @torch.inference_mode()
    def denoise(
        self,
        session: Session,
        actions: Sequence[str],
        *,
        context: NDArray[np.float32] | None = None,
    ) -> Tensor:
        """The clean latents of the session's next chunk, [1, 16, F, h, w].

        `actions` are the keys held during each latent frame. `context` [L, text_dim] replaces the
        prompt from this chunk on. Raises LingbotError for a wrong number of actions, for an action
        that is not made of keys, and for a context of the wrong shape or type; the session stays
        as it was. Any other error leaves the session unusable. A suspended session is resumed.
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
        if context is not None:
            self._check_context(context)
        self.resume(session)
        try:
            if context is not None:
                session.text = self._embed_context(context)
            latents = self._denoise(session, actions)
            if self.device.type == "cuda":  # return only when the latents are there
                torch.cuda.current_stream(self.device).synchronize()
        except BaseException:
            session.broken = True
            raise
        session.next_chunk += 1
        return latents

    @torch.inference_mode()
    def decode(self, session: Session, latents: Tensor) -> NDArray[np.uint8]:
        """A chunk's frames, uint8 [T, H, W, 3]: 9 in the first chunk and 12 in each later one.

        Chunks must be decoded in their order. Another thread may decode a chunk while the next one
        is denoised: the two share no state, and on a GPU decoding has its own stream.
        """
        if session.decoder_broken:
            raise LingbotError(BROKEN)
        try:
            with torch.cuda.stream(self._decode_stream):
                return self.vae.decode(latents, session.decoder)
        except BaseException:
            session.decoder_broken = True
            raise

    @torch.inference_mode()
    def suspend(self, session: Session, *, max_bytes: int) -> bool:
        """Move about `max_bytes` of the session's tensors to host memory.

        Returns True if nothing of the session is left on the device. Until then, call again. All
        chunks of the session must have been decoded. Where `suspend_frees_memory` is False, nothing
        moves, and the result is True.
        """
        if not self.suspend_frees_memory:
            return True
        if session.suspension is None:
            session.suspension = Suspension.begin(
                session.tensors(),
                self.vae.state_tensors(session.decoder),
                decode_stream=self._decode_stream,
            )
        return session.suspension.move_out(max_bytes)

    @torch.inference_mode()
    def resume(self, session: Session) -> None:
        """Return the tensors of a suspended session to the device, bit for bit.

        A session that is not suspended is left as it is. If the device has too little memory, the
        error is torch's, and the session stays suspended.
        """
        if session.suspension is not None:
            session.suspension.move_back()
            session.suspension = None

    def close(self, session: Session) -> None:
        """Free the window, the prompt's K/V and the decoder's state at once.

        The session cannot be used afterwards, even by a caller that still holds it. A decode in
        progress finishes with the state it started with.
        """
        session.broken = session.decoder_broken = True
        session.suspension = None
        session.window = session.window.emptied()
        session.text = ()
        session.decoder = self.vae.new_decoder_state()

    @contextmanager
    def chunk_inputs(self, session: Session, actions: Sequence[str]) -> Iterator[ChunkInputs]:
        """The model's inputs for the session's next chunk, valid inside the `with`.

        Moves the session's trajectory on by `actions`, which must be valid.
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

    def _size_of(self, image: NDArray[np.uint8]) -> Size:
        """The size of a session that starts from `image`."""
        sizes = {(size.height, size.width, 3): size for size in self.config.sizes}
        if image.shape not in sizes or image.dtype != np.uint8:
            expected = " or ".join(map(str, sizes))
            raise LingbotError(
                f"first_frame must be uint8 {expected}, not {image.dtype} {image.shape}",
                field="first_frame",
            )
        return sizes[image.shape]

    def _check_context(self, context: NDArray[np.float32]) -> None:
        text_dim, text_len = self.model.config.text_dim, self.model.config.text_len
        fits = context.ndim == 2 and context.shape[1] == text_dim and len(context) <= text_len
        if not fits or context.dtype != np.float32:
            raise LingbotError(
                f"the prompt's context must be float32 (at most {text_len}, {text_dim}), "
                f"not {context.dtype} {context.shape}",
                field="prompt",
            )

    def _window_and_sink(self, spec: SessionSpec) -> tuple[int, int]:
        """Window and sink of a session in latent frames, checked against the config's."""
        config = self.config
        window = config.window if spec.window is None else spec.window
        sink = config.sink if spec.sink is None else spec.sink
        if window > config.window:
            raise LingbotError(
                f"window must be at most {config.window}, not {window}", field="window"
            )
        try:
            check_window(window, sink=sink, chunk=config.chunk)
        except ValueError as exc:
            raise LingbotError(str(exc), field="sink") from exc
        return window, sink

    def _embed_context(self, context: NDArray[np.float32] | None) -> tuple[TextKV, ...]:
        if context is None:
            context = np.zeros((0, self.model.config.text_dim), np.float32)
        return self.model.embed_text(
            torch.tensor(context)[None].to(device=self.device, dtype=self.dtype)
        )

    def _denoise(self, session: Session, actions: Sequence[str]) -> Tensor:
        """The clean latents of the next chunk, [1, 16, F, h, w]."""
        config = self.config
        shape = (1, LATENT_CHANNELS, config.chunk, *session.size.latent)
        # All at once, because an upload in mid-chunk would wait for the GPU's queue to end.
        draws = [torch.randn(shape, generator=session.noise) for _ in session.steps]
        noise, *renoise = upload(torch.stack(draws), self.device)
        with self.chunk_inputs(session, actions) as chunk, use_backend(self.attention):
            latents = sample_chunk(
                self.model, chunk, noise=noise, renoise=renoise.__getitem__, steps=session.steps
            )
        session.window.advance(config.chunk)
        return latents

    def _maps(self, session: Session, actions: Sequence[str]) -> AbstractContextManager[ChunkMaps]:
        """The conditioner's maps of the next chunk, whose latent frames have these actions."""
        kind = self.model.config.control
        poses = session.trajectory.extend(actions)
        size = {"width": session.size.width, "height": session.size.height}
        intrinsics = default_intrinsics(**size)

        def make_control(i: int) -> Tensor:
            here = slice(i, i + 1)
            control = control_map(kind, poses[here], actions[here], intrinsics, **size)
            return upload(control[None], self.device)

        keys = [
            pose_key(kind, pose, action, intrinsics, **size)
            for pose, action in zip(poses, actions, strict=True)
        ]
        return self.camera_cache.chunk(keys, make_control)
