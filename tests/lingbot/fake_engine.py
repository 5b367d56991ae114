"""An engine of ten lines, whose sessions are letters."""

from types import SimpleNamespace

from lingbot.parallel.ulysses import SINGLE


class Letter(str):
    """A session of the fake engine."""

    origin = "origin"


class FakeEngine:
    """A session is a letter, its seed. Latents and frames add the chunk's first action."""

    group = SINGLE
    config = SimpleNamespace(chunk_frames=12, fps=16)

    def __init__(self):
        self.done = []

    def check_open(self, spec):
        pass

    def open(self, spec):
        return Letter(chr(spec.seed))

    def denoise(self, session, actions, **options):
        self.done.append(f"{session}{actions[0]}")
        return self.done[-1]

    def newest_latents(self, session):
        return "latents"

    def decode(self, session, latents):
        return latents

    def close(self, session):
        self.done.append(f"close {session}")
