"""A worker on a thread of its own, and calls that wait for its results."""

import math
import threading
from contextlib import contextmanager

from lingbot.runtime.commands import StepSession, Stop
from lingbot.runtime.worker import Worker
from tests.lingbot.toy import WALK
from tests.waiting import TIMEOUT_S


@contextmanager
def running(engine, **options):
    """The worker of an engine, which executes commands until the end of the `with`."""
    worker = Worker(engine, **options)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.submit(Stop(), deadline=math.inf).result(TIMEOUT_S)
        thread.join(TIMEOUT_S)


def execute(worker, command, *, deadline=0.0):
    return worker.submit(command, deadline=deadline).result(TIMEOUT_S)


def walk_ahead(worker, session_id, walk=WALK):
    """The frames of a walk that submits each step as soon as the last one is denoised."""
    decoding = [
        execute(worker, StepSession(session_id=session_id, actions=actions)) for actions in walk
    ]
    return [chunk.result(TIMEOUT_S)[0] for chunk in decoding]
