"""The messages that only a client with extensions receives, but for answers to its events.

Tested in `tests/transport/wire/test_protocol.py`.
"""

from transport.wire.idle import Change
from transport.wire.messages import (
    Forked,
    LastFrame,
    Moved,
    Paced,
    Queued,
    Rewound,
    SnapshotMessage,
    Starting,
    WarningMessage,
)

WorldAnswer = SnapshotMessage | Forked | Rewound  # to a command
Notice = Queued | Starting | WarningMessage | Paced | Change | WorldAnswer | Moved | LastFrame
