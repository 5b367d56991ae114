"""A client's keys and prompts, as one action for each latent frame.

The newest event decides between two modes. A script is played latent frame by latent frame; held
keys follow the keyboard. A chunk covers several latent frames, so a tap may begin and end inside
one. Every transition still shows in at least one latent frame of the next chunk.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from transport.wire.errors import BadMessage, quote

KEYS = "wasdijkl"
_KEY_SET = frozenset(KEYS)
MAX_SCRIPT_LATENT_FRAMES = 512
MAX_TRANSITIONS = 512

EventId = int | None
Part = Literal["script", "held", "prompt"]  # the part of the controls that an event changes


@dataclass(slots=True, frozen=True, kw_only=True)
class ChunkControls:
    """The controls of one chunk, and the events that take effect in it first."""

    actions: list[str]  # one for each latent frame
    event_ids: list[int]  # in the order of their arrival
    prompt: str | None
    event_id: int | None = None  # the newest event that is still in effect
    has_new_keys: bool = False  # keys or a script arrived for this chunk
    event_s: float | None = None  # when the oldest of them arrived; None: unknown
    is_new_course: bool = False  # the world was turned back or reset before this chunk


@dataclass(slots=True, kw_only=True)
class Controls:
    """The controls of one session. Events change them, and every chunk takes its share.

    A world that is turned back or reset takes another course. Scripts and prompts that came before
    the event that asked for it belong to the old one.
    """

    _script: deque[str] = field(default_factory=deque)
    _held: str = ""
    _transitions: deque[str] = field(default_factory=deque)  # the keys held after each
    _prompt: str | None = None
    _arrived: list[tuple[Part, int]] = field(default_factory=list)  # events since the last chunk
    _in_effect: tuple[Part, int] | None = None  # the newest event that is still in effect
    _has_new_keys: bool = False
    _event_s: float | None = None  # when the oldest of the new keys arrived
    _course: int = 0  # that of events from now on
    _first_course: int = 0  # earlier ones are over
    _courses: dict[Part, int] = field(default_factory=dict)  # of the newest event of each part
    _is_new_course: bool = False  # since the last chunk

    def play_script(self, actions: Iterable[str], *, event_id: EventId = None) -> None:
        """Replaces the rest of an older script, and releases every key."""
        self._note("script", event_id, replaces=("script", "held"))
        self._courses["script"] = self._course
        self._has_new_keys = True
        self._script = deque(actions)
        self._held = ""
        self._transitions.clear()

    def hold(self, states: Sequence[str], *, event_id: EventId = None) -> None:
        """Follows the keyboard through `states`; the last one stays held. Ends a script."""
        self._note("held", event_id, replaces=("script",))
        self._has_new_keys |= bool(states or self._script)
        self._script.clear()
        self._transitions.extend(states)
        while len(self._transitions) > MAX_TRANSITIONS:
            oldest = self._transitions.popleft()
            self._transitions[0] = _merge([oldest, self._transitions[0]])

    def set_prompt(
        self, prompt: str, *, event_id: EventId = None, course: int | None = None
    ) -> None:
        """Sets the prompt of the next chunk; the newest one wins.

        `course` is that of a prompt that arrived earlier. One whose course is over has no effect.
        """
        course = self._course if course is None else course
        if course < self._first_course:
            return
        self._note("prompt", event_id, replaces=("prompt",))
        self._courses["prompt"] = course
        self._prompt = prompt

    @property
    def course(self) -> int:
        """The number of the course to which events from now on belong."""
        return self._course

    def ask_course(self) -> int:
        """Events from now on belong to a new course of the world. Returns its number."""
        self._course += 1
        return self._course

    def begin_course(self, course: int) -> None:
        """Forgets scripts and prompts of earlier courses. Keys that are held stay held."""
        self._first_course, self._is_new_course = course, True
        parts: tuple[Part, ...] = ("script", "prompt")
        old = [part for part in parts if self._courses.get(part, 0) < course]
        if "script" in old:
            self._script.clear()
        if "prompt" in old:
            self._prompt = None
        self._arrived = [event for event in self._arrived if event[0] not in old]
        if self._in_effect and self._in_effect[0] in old:
            self._in_effect = None

    @property
    def is_busy(self) -> bool:
        """True while a key is held or a script is not over."""
        return bool(self._script or self._transitions or self._held)

    def note_arrival(self, now_s: float) -> None:
        """Notes when the newest event arrived. An older one whose keys are still new counts."""
        if self._has_new_keys and self._event_s is None:
            self._event_s = now_s

    def take_chunk(self, num_latent_frames: int) -> ChunkControls:
        """The controls of the next chunk."""
        self._update_effect()
        take = self._take_script if self._script else self._take_held
        actions = take(num_latent_frames)
        prompt, self._prompt = self._prompt, None
        # A composite event may change keys and prompt under one id.
        event_ids = list(dict.fromkeys(event_id for _, event_id in self._arrived))
        self._arrived.clear()
        has_new_keys, self._has_new_keys = self._has_new_keys, False
        event_s, self._event_s = self._event_s, None
        is_new_course, self._is_new_course = self._is_new_course, False
        return ChunkControls(
            actions=actions,
            event_ids=event_ids,
            prompt=prompt,
            event_id=self._in_effect[1] if self._in_effect else None,
            has_new_keys=has_new_keys,
            event_s=event_s,
            is_new_course=is_new_course,
        )

    def _note(self, part: Part, event_id: EventId, *, replaces: tuple[Part, ...]) -> None:
        """Records an event, and forgets older ones that will not take effect because of it."""
        self._arrived = [event for event in self._arrived if event[0] not in replaces]
        if self._in_effect and (self._in_effect[0] == "prompt") == (part == "prompt"):
            self._in_effect = None
        if event_id is not None:
            self._arrived.append((part, event_id))
            del self._arrived[:-MAX_TRANSITIONS]  # the newest of a flood

    def _update_effect(self) -> None:
        """Notes which event the next chunk follows. A script is in effect until it has run out."""
        if self._arrived:
            _, newest = self._arrived[-1]
            parts = [part for part, event_id in self._arrived if event_id == newest]
            # A composite event counts as its keys, as with SGLang-Diffusion.
            self._in_effect = (min(parts, key=lambda part: part == "prompt"), newest)
        elif self._in_effect and self._in_effect[0] == "script" and not self._script:
            self._in_effect = None

    def _take_script(self, num_latent_frames: int) -> list[str]:
        num_left = min(num_latent_frames, len(self._script))
        actions = [self._script.popleft() for _ in range(num_left)]
        return actions + [""] * (num_latent_frames - num_left)

    def _take_held(self, num_latent_frames: int) -> list[str]:
        states, self._transitions = list(self._transitions), deque()
        if not states:
            return [self._held] * num_latent_frames
        self._held = states[-1]
        actions = _squeeze(states, num_latent_frames)
        return actions + [self._held] * (num_latent_frames - len(actions))


def _squeeze(states: list[str], num_latent_frames: int) -> list[str]:
    """At most `num_latent_frames` actions. The final state has the last one to itself."""
    if len(states) <= num_latent_frames:
        return states
    if num_latent_frames == 1:
        return [_merge(states)]
    earlier, num_groups = states[:-1], num_latent_frames - 1
    edges = [len(earlier) * i // num_groups for i in range(num_groups + 1)]
    groups = [earlier[start:end] for start, end in zip(edges[:-1], edges[1:], strict=True)]
    return [_merge(group) for group in groups] + [states[-1]]


def _merge(states: list[str]) -> str:
    """The union of the keys, so that no tap is lost."""
    return canonical("".join(states))


def canonical(keys: Iterable[str]) -> str:
    """The keys as an action: each key once, in the order of KEYS."""
    held = set(keys)
    return "".join(key for key in KEYS if key in held)


def read_keys(names: Iterable[str], *, unknown: dict[str, None]) -> str:
    """The keys of these names as an action. Upper case counts as lower case.

    `unknown` receives the names that are not a key, in order. They are left out.
    """
    keys = [name.lower() for name in names]
    unknown.update((key, None) for key in keys if key not in _KEY_SET)
    return canonical(keys)


def parse_actions(text: str, *, max_latent_frames: int = MAX_SCRIPT_LATENT_FRAMES) -> list[str]:
    """Actions as text, "w-6,wl-4,none-2": keys and a number of latent frames.

    The grammar of the command line and of clips. Raises BadMessage that quotes the segment.
    """
    actions: list[str] = []
    for position, segment in enumerate(text.split(",")):
        keys, dash, count = segment.strip().lower().partition("-")
        field = f"actions[{position}]"
        known = keys == "none" or (keys != "" and _KEY_SET.issuperset(keys))
        if not (known and dash and count.isascii() and count.isdigit()):
            raise BadMessage(
                f"{quote(segment)}: expected KEYS-COUNT, such as 'w-6', 'wl-4' or 'none-2', with "
                f"keys of '{KEYS}'",
                field=field,
            )
        num = int(count[:9])  # more digits are over any limit
        if num < 1 or len(actions) + num > max_latent_frames:
            raise BadMessage(
                f"{quote(segment)}: expected 1 to {max_latent_frames} latent frames in all",
                field=field,
            )
        actions += ["" if keys == "none" else canonical(keys)] * num
    return actions
