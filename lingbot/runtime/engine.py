"""The engine: the weights, and the step from a chunk's actions to its frames."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.camera.motion import check_action
from lingbot.camera.rays import control_map, default_intrinsics, pose_key
from lingbot.config import LATENT_CHANNELS, Size, WorldConfig
from lingbot.dit.attention import AttentionBackend, use_backend
from lingbot.dit.camera_cache import CameraCache, ChunkMaps
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import ChunkInputs, TextKV, WorldModel
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps
from lingbot.errors import LingbotError
from lingbot.memory_plan import MemoryPlan
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.runtime.fingerprint import fingerprint_of
from lingbot.runtime.history import History
from lingbot.runtime.latents import pack
from lingbot.runtime.noise import draw_noise
from lingbot.runtime.restoring import Contexts, Restoration, check_restore, recache_window
from lingbot.runtime.session import Session, SessionSpec
from lingbot.runtime.session_check import (
    check_context,
    check_num_steps,
    size_of,
    window_and_sink,
)
from lingbot.runtime.snapshot import RESUMED_CHUNKS, Origin, Snapshot
from lingbot.runtime.suspension import Suspension
from lingbot.vae.memory import MASK_CHANNELS
from lingbot.vae.protocol import VAE, ImageCondition

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
        fingerprint: str | None = None,
    ) -> None:
        """One rank's engine. All ranks of `group` make the same calls in the same order.

        Stored camera maps take at most `camera_cache_bytes`; 0 stores none. `memory` is the plan
        by which the engine was loaded, for others to read. `fingerprint` is that of the weights as
        they were read; None: as they are now. Raises LingbotError for a model that cannot be split
        over the ranks.
        """
        for size in config.sizes:
            group.check(model.config, tokens=size.num_tokens)
        self.group = group
        self.memory = memory
        self.fingerprint = fingerprint or fingerprint_of(model, config)
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

    def check_open(self, spec: SessionSpec) -> None:
        """Raise what `open` raises for a wrong field, before anything is allocated."""
        size_of(spec.first_frame, self.config)
        check_num_steps(spec.num_steps, self.config)
        window_and_sink(spec, self.config)
        if spec.context is not None:
            check_context(spec.context, self.model.config)

    @torch.inference_mode()
    def open(self, spec: SessionSpec) -> Session:
        """A session before its first chunk.

        Raises LingbotError with the wrong field. The image must have one of the config's sizes. The
        window must hold sink and chunk, and must not exceed the config's. `num_steps` has a range,
        and a context has a shape and a type.
        """
        self.check_open(spec)
        size = size_of(spec.first_frame, self.config)
        window, sink = window_and_sink(spec, self.config)
        condition = self.vae.encode_image(spec.first_frame, chunk=self.config.chunk)
        latents = torch.cat([chunk[:, MASK_CHANNELS:] for chunk in condition.chunks], dim=2)
        origin = Origin(
            preset=self.config.name,
            fingerprint=self.fingerprint,
            width=size.width,
            height=size.height,
            seed=spec.seed,
            num_steps=spec.num_steps,
            window=window,
            sink=sink,
            chunk=self.config.chunk,
            condition=pack(latents, self.dtype),
        )
        session = self.new_session(origin, condition, prompt=spec.prompt or "")
        session.has_untold_prompt = spec.context is not None and spec.prompt is None
        session.text = self.embed_context(spec.context)
        return session

    def check_restore(self, snapshot: Snapshot, contexts: Contexts, exact: bool = False) -> None:
        """Raise what `begin_restore` raises, before anything is allocated."""
        check_restore(self, snapshot, contexts, exact=exact)

    @torch.inference_mode()
    def begin_restore(
        self, snapshot: Snapshot, contexts: Contexts, exact: bool = False
    ) -> Restoration:
        """A session that goes on from a snapshot, before the first part of its work.

        `contexts` are those of `needed_prompts`; without one, the prompt "" is no text. `exact`
        generates all chunks again from the journal: on like hardware, with as many ranks and in
        the same type, the session then equals the original bit for bit, unless that was restored
        itself. Raises LingbotError with the wrong field.
        """
        self.check_restore(snapshot, contexts, exact=exact)
        return Restoration(self, snapshot, contexts, exact=exact)

    def restore(self, snapshot: Snapshot, contexts: Contexts, exact: bool = False) -> Session:
        """`begin_restore` and all its parts at once."""
        restoration = self.begin_restore(snapshot, contexts, exact=exact)
        while not (part := restoration.advance()).is_last:
            for latents in part.latents:
                self.decode(restoration.session, latents)
        return restoration.session

    def step(
        self,
        session: Session,
        actions: Sequence[str],
        *,
        context: NDArray[np.float32] | None = None,
        prompt: str | None = None,
        recache: bool = False,
    ) -> NDArray[np.uint8]:
        """The frames of the session's next chunk: `denoise`, then `decode`."""
        latents = self.denoise(session, actions, context=context, prompt=prompt, recache=recache)
        return self.decode(session, latents)

    @torch.inference_mode()
    def denoise(
        self,
        session: Session,
        actions: Sequence[str],
        *,
        context: NDArray[np.float32] | None = None,
        prompt: str | None = None,
        recache: bool = False,
    ) -> Tensor:
        """The clean latents of the session's next chunk, [1, 16, F, h, w].

        `actions` are the keys held during each latent frame. `context` [L, text_dim] replaces the
        prompt from this chunk on, and `prompt` is its text. `recache` then rebuilds the window's
        keys and values under it first, which takes about as long as a chunk.

        Raises LingbotError for a wrong number of actions, for an action that is not made of keys,
        and for a context of the wrong shape or type; the session stays as it was. Any other error
        leaves the session unusable. A suspended session is resumed.
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
            check_context(context, self.model.config)
        self.resume(session)
        try:
            if context is not None:
                session.text = self.embed_context(context)
                session.has_untold_prompt |= prompt is None
                if recache:
                    recache_window(self, session)
            latents = self._denoise(session, actions)
            kept = pack(latents, self.dtype)  # returns only when they are there
            told = None if context is None else prompt or ""
            session.history.append(kept, actions, told, recache=recache)
        except BaseException:
            session.broken = True
            raise
        session.next_chunk += 1
        return latents

    def newest_latents(self, session: Session) -> NDArray[Any]:
        """The latents of the session's last chunk, as `KeptChunk` has them."""
        return session.history.newest

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
        chunks of the session must have been decoded. Unless `suspend_frees_memory`, nothing moves,
        and the result is True.
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

    def new_session(self, origin: Origin, condition: ImageCondition, *, prompt: str) -> Session:
        """A session without a past, and without its prompt's keys and values."""
        size, config = Size(origin.width, origin.height), self.config
        steps = build_steps(config.schedule, num_steps=origin.num_steps)
        return Session(
            size=size,
            window=KVWindow.empty(
                self.model.config,
                window=origin.window,
                sink=origin.sink,
                chunk=config.chunk,
                tokens=size.num_tokens,
                device=self.device,
                dtype=self.dtype,
                num_ranks=self.group.num_ranks,
                max_positions=config.max_positions,
            ),
            text=(),
            condition=condition,
            steps=steps,
            decoder=self.vae.new_decoder_state(),
            history=History(origin, prompt=prompt, budget_bytes=0, num_more=RESUMED_CHUNKS),
            has_default_speed=(len(steps), origin.window) == (config.num_steps, config.window),
        )

    def embed_context(self, context: NDArray[np.float32] | None) -> tuple[TextKV, ...]:
        """The keys and values of a prompt's context [L, text_dim]; None: no text."""
        if context is None:
            context = np.zeros((0, self.model.config.text_dim), np.float32)
        return self.model.embed_text(
            torch.tensor(context)[None].to(device=self.device, dtype=self.dtype)
        )

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

    def _denoise(self, session: Session, actions: Sequence[str]) -> Tensor:
        """The clean latents of the next chunk, [1, 16, F, h, w]."""
        config = self.config
        shape = (1, LATENT_CHANNELS, config.chunk, *session.size.latent)
        # All at once, because an upload in mid-chunk would wait for the GPU's queue to end.
        drawn = draw_noise(
            session.origin.seed,
            chunk=session.next_chunk,
            num_steps=len(session.steps),
            shape=shape,
        )
        noise, *renoise = upload(drawn, self.device)
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
