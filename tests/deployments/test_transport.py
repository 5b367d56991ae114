from msgspec.structs import replace

from deployments.transport import world_info
from lingbot.config import PRESETS


def test_only_a_presets_own_openings_are_served(monkeypatch):
    assert "pines" in {opening.name for opening in world_info("pocket").openings}
    monkeypatch.setitem(PRESETS, "bare", replace(PRESETS["pocket"], openings=None))
    assert world_info("bare").openings == ()
