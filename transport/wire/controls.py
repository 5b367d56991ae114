"""What a client holds and wants, turned into one set of keys for each latent frame.

Two modes, and the newer one wins: a script is played frame by frame; a held state follows the
keyboard. A chunk covers several latent frames, so a tap may begin and end inside one: every
transition still shows in at least one latent frame of the next chunk.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Raw

from transport.wire.errors import BadMessage, quote
from transport.wire.messages import HeldKeys, decode_field

KEYS = "wasdijkl"
MAX_SCRIPT_LATENT_FRAMES = 512
MAX_TRANSITIONS = 512

EventId = int | None
Part = Literal["script", "held", "prompt"]  # what an event changes


@dataclass(slots=True, frozen=True, kw_only=True)
class ChunkControls:
    """The controls of one chunk, and the events that take effect in it first, as they came."""

    actions: list[str]
    event_ids: list[int]
    prompt: str | None
    has_new_keys: bool = False  # whether keys or a script came in for it


@dataclass(slots=True)
class Controls:
    """The controls of one session: put by its events, taken chunk by chunk."""

    _script: deque[str] = field(default_factory=deque)
    _held: str = ""
    _changes: deque[str] = field(default_factory=deque)  # the keys held from some moment on, each
    _prompt: str | None = None
    _arrived: list[tuple[Part, int]] = field(default_factory=list)  # events since the last chunk
    _steered: bool = False  # by one of them

    def play_script(self, actions: Iterable[str], *, event_id: EventId = None) -> None:
        """Replaces what was left of an older script, and lets go of every key."""
        self._note("script", event_id, replaces=("script", "held"))
        self._steered = True
        self._script = deque(actions)
        self._held = ""
        self._changes.clear()

    def hold(self, states: Sequence[str], *, event_id: EventId = None) -> None:
        """Follows the keyboard through `states`; the last one stays held. Ends a script."""
        self._note("held", event_id, replaces=("script",))
        self._steered = True
        self._script.clear()
        self._changes.extend(states)
        while len(self._changes) > MAX_TRANSITIONS:
            oldest = self._changes.popleft()
            self._changes[0] = _merge([oldest, self._changes[0]])

    def set_prompt(self, prompt: str, *, event_id: EventId = None) -> None:
        """The newest prompt wins; it is taken with the next chunk."""
        self._note("prompt", event_id, replaces=("prompt",))
        self._prompt = prompt

    def take_chunk(self, num_latent_frames: int) -> ChunkControls:
        """The controls of the next chunk."""
        take = self._take_script if self._script else self._take_held
        actions = take(num_latent_frames)
        prompt, self._prompt = self._prompt, None
        # A composite may change keys and prompt under one id.
        event_ids = list(dict.fromkeys(event_id for _, event_id in self._arrived))
        self._arrived.clear()
        has_new_keys, self._steered = self._steered, False
        return ChunkControls(
            actions=actions, event_ids=event_ids, prompt=prompt, has_new_keys=has_new_keys
        )

    def _note(self, what: Part, event_id: EventId, *, replaces: tuple[Part, ...]) -> None:
        """Remembers an event, and forgets those that will not take effect because of it."""
        self._arrived = [one for one in self._arrived if one[0] not in replaces]
        if event_id is not None:
            self._arrived.append((what, event_id))
            del self._arrived[:-MAX_TRANSITIONS]  # of a flood only the newest are kept

    def _take_script(self, num: int) -> list[str]:
        actions = [self._script.popleft() for _ in range(min(num, len(self._script)))]
        return actions + [""] * (num - len(actions))

    def _take_held(self, num: int) -> list[str]:
        changes, self._changes = list(self._changes), deque()
        if not changes:
            return [self._held] * num
        self._held = changes[-1]
        steps = _squeeze(changes, num)
        return steps + [self._held] * (num - len(steps))


def _squeeze(changes: list[str], num: int) -> list[str]:
    """At most `num` latent frames: the last is the final state, the others share the rest."""
    if len(changes) <= num:
        return changes
    if num == 1:
        return [_merge(changes)]
    earlier, room = changes[:-1], num - 1
    edges = [len(earlier) * i // room for i in range(room + 1)]
    groups = [earlier[start:end] for start, end in zip(edges[:-1], edges[1:], strict=True)]
    return [_merge(group) for group in groups] + [changes[-1]]


def _merge(changes: list[str]) -> str:
    """Union of the keys, so that no tap is lost."""
    return canonical("".join(changes))


def canonical(keys: Iterable[str]) -> str:
    held = set(keys)
    return "".join(key for key in KEYS if key in held)


def parse_camera_actions(raw: Raw, *, field: str) -> list[str] | HeldKeys:
    """The payload of `camera_actions`: a script as actions, or states checked as HeldKeys.

    Raises BadMessage with the path of the first key that is none, and queue_full for more latent
    frames or transitions than are kept.
    """
    if _is_map(raw):
        held = decode_field(raw, HeldKeys, field=field)
        if held.mode != "state":
            raise BadMessage(
                f"`{field}.mode`: expected 'state', got {quote(held.mode)}", field=f"{field}.mode"
            )
        _check_room(
            len(held.transitions),
            MAX_TRANSITIONS,
            what="transitions",
            field=f"{field}.transitions",
        )
        for position, transition in enumerate(held.transitions):
            parse_keys(transition.actions, field=f"{field}.transitions[{position}].actions")
        return held
    script = decode_field(raw, list[list[str]], field=field)
    _check_room(len(script), MAX_SCRIPT_LATENT_FRAMES, what="latent frames", field=field)
    return [parse_keys(keys, field=f"{field}[{frame}]") for frame, keys in enumerate(script)]


def _check_room(num: int, room: int, *, what: str, field: str) -> None:
    if num > room:
        raise BadMessage(
            f"`{field}`: {num} {what} are more than the queue of {room} holds",
            code="queue_full",
            field=field,
        )


def parse_keys(keys: Sequence[str], *, field: str) -> str:
    """One latent frame's keys as an action. Raises BadMessage with the path of the wrong one."""
    for position, key in enumerate(keys):
        if len(key) != 1 or key not in KEYS:
            place = f"{field}[{position}]"
            raise BadMessage(
                f"`{place}`: {quote(key)} is no key, expected one of {', '.join(KEYS)}",
                field=place,
            )
    return canonical(keys)


def parse_actions(text: str, *, max_latent_frames: int = MAX_SCRIPT_LATENT_FRAMES) -> list[str]:
    """The grammar of the command line and of clips: "w-6,wl-4,none-2", counts in latent frames.

    Raises BadMessage that names the segment.
    """
    actions: list[str] = []
    for position, segment in enumerate(text.split(",")):
        keys, dash, count = segment.strip().partition("-")
        field = f"actions[{position}]"
        known = keys == "none" or (keys != "" and all(key in KEYS for key in keys))
        if not (known and dash and count.isascii() and count.isdigit()):
            raise BadMessage(
                f"{quote(segment)}: expected KEYS-COUNT, such as 'w-6', 'wl-4' or 'none-2', with "
                f"keys of {KEYS}",
                field=field,
            )
        action = "" if keys == "none" else canonical(keys)
        num = int(count[:9])  # more digits are over any limit
        if num < 1 or len(actions) + num > max_latent_frames:
            raise BadMessage(
                f"{quote(segment)}: expected 1 to {max_latent_frames} latent frames in all",
                field=field,
            )
        actions += [action] * num
    return actions


def _is_map(raw: Raw) -> bool:
    """MessagePack tells its maps by the first byte."""
    first = memoryview(raw)[:1].tobytes()
    return first != b"" and (0x80 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF))
