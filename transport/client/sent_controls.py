"""The controls that a client has sent, so that it can send the rest again on another socket.

Pure: no socket.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Event = tuple[str, Any, int]  # kind, payload, id


@dataclass(slots=True)
class SentControls:
    """The newest script, keys and prompt, less what the received chunks have followed."""

    script: list[list[str]] = field(default_factory=list)  # one list of keys a latent frame
    _states: list[str] = field(default_factory=list)  # keys held; the last one stays
    _keys_id: int | None = None  # the event of the script or the states; None: the init's
    _begun: bool = True  # a chunk has followed that event
    _in_init: bool = False  # the rest of the script was in the newest init
    _prompt: tuple[str, int] | None = None  # that no chunk has followed yet
    _outputs: dict[int, dict[str, Any]] = field(default_factory=dict)  # unanswered, by their ids

    def note_script(self, script: Sequence[Sequence[str]], *, event_id: int) -> None:
        self.script, self._states = [list(keys) for keys in script], []
        self._keys_id, self._begun, self._in_init = event_id, False, False

    def note_keys(self, states: Sequence[str], *, event_id: int) -> None:
        self.script, self._states = [], list(states)
        self._keys_id, self._begun, self._in_init = event_id, False, False

    def note_prompt(self, text: str, *, event_id: int) -> None:
        self._prompt = (text, event_id)

    def note_output(self, fields: dict[str, Any], *, event_id: int) -> None:
        self._outputs[event_id] = fields

    def accept(self, event_id: int) -> dict[str, Any]:
        """The server has accepted an event. Returns the fields that it changes in an init."""
        return self._outputs.pop(event_id, {})

    def refuse(self, event_id: int | None) -> None:
        """The server has refused an event, which is not sent again."""
        if event_id is None:
            return
        self._outputs.pop(event_id, None)
        if self._keys_id == event_id:
            self.script, self._states = [], []
        if self._prompt is not None and self._prompt[1] == event_id:
            self._prompt = None

    def note_chunk(self, event_ids: Sequence[int], *, num_latent_frames: int) -> None:
        """A chunk has arrived. `event_ids`: the events that take effect in it first."""
        self._begun = self._begun or self._keys_id in event_ids
        if self._begun:
            del self.script[:num_latent_frames]
            self._states = self._states[-1:]
        if self._prompt is not None and self._prompt[1] in event_ids:
            self._prompt = None

    def note_turn(self, *, event_id: int) -> None:
        """The world was turned back or reset: scripts and prompts before this event are over."""
        if self.script and (self._keys_id or 0) < event_id:
            self.script = []
        if self._prompt is not None and self._prompt[1] < event_id:
            self._prompt = None

    def script_for_init(self) -> list[list[str]]:
        """The rest of the script, for the init of another socket."""
        self._in_init = bool(self.script)
        return list(self.script)

    @property
    def has_events(self) -> bool:
        """Something is to be sent again that no init carries."""
        holds_keys = not self.script and any(self._states[-1:] if self._begun else self._states)
        return holds_keys or self._prompt is not None

    def begin_init(self) -> None:
        """A world goes on with the script of that init, unless keys have come since."""
        if self._in_init:
            self._keys_id, self._begun = None, True

    def rest(self, event_id: int, *, with_script: bool = True) -> list[Event]:
        """The events to send again, under the ids they had; `event_id`: for an init's script.

        Without `with_script` the world has the script of `script_for_init`.
        """
        events: list[Event] = []
        if with_script or not self._in_init:
            self._keys_id = event_id if self._keys_id is None else self._keys_id
            if self.script:
                events.append(("camera_actions", list(self.script), self._keys_id))
            elif self._states and not (self._begun and self._states == [""]):
                events.append(("camera_actions", hold_payload(self._states), self._keys_id))
            self._begun = False
        if self._prompt is not None:
            text, prompt_id = self._prompt
            events.append(("prompt", text, prompt_id))
        events += [("output", fields, output_id) for output_id, fields in self._outputs.items()]
        return events


def hold_payload(states: Sequence[str]) -> dict[str, Any]:
    """The payload of `camera_actions` for a history of held keys, such as ["w", "wl"]."""
    return {"mode": "state", "transitions": [{"actions": list(keys)} for keys in states]}
