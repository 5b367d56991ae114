"""The effects of a client's events on its session.

Tested in `tests/transport/wire/test_event.py`.
"""

from transport.wire.controls import Controls
from transport.wire.event import (
    ChangeOutput,
    EventPart,
    HoldKeys,
    PlayScript,
    RequestKeyFrame,
    SetPrompt,
    SetVisibility,
)
from transport.wire.idle import IdleClock
from transport.wire.output_settings import OutputSettings
from transport.wire.world_command import (
    CommandQueue,
    ForkWorld,
    ResetWorld,
    RewindWorld,
    SaveWorld,
    WorldCommand,
)


def note_presence(event: EventPart, now_s: float, *, idle: IdleClock) -> None:
    """Notes whether the event shows that a person is there. To save or to fork is no sign of it."""
    match event:
        case SetVisibility(hidden):
            idle.note_visibility(now_s, hidden=hidden)
        case SetPrompt() | PlayScript() | RewindWorld() | ResetWorld():
            idle.note_event(now_s)
        case HoldKeys(states):
            idle.note_event(now_s, wakes=states[-1:] not in ([], [""]))


def apply_event(
    event: EventPart,
    *,
    event_id: int | None,
    controls: Controls,
    output: OutputSettings,
    commands: CommandQueue,
) -> None:
    """Changes what the next chunks follow. Raises OutOfOrder for one command too many."""
    match event:
        case SetPrompt(prompt):
            controls.set_prompt(prompt, event_id=event_id)
        case PlayScript(actions):
            controls.play_script(actions, event_id=event_id)
        case HoldKeys(states):
            controls.hold(states, event_id=event_id)
        case ChangeOutput(encoding):
            output.encoding = encoding
        case RequestKeyFrame():
            output.key_frame_wanted = True
        case SaveWorld() | ForkWorld():
            commands.add(WorldCommand(event, event_id, controls.course))
        case RewindWorld() | ResetWorld():
            # Events of the new course may arrive before the world has taken it.
            commands.add(WorldCommand(event, event_id, controls.course + 1))
            controls.ask_course()
