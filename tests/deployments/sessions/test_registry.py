from deployments.sessions.registry import SessionRecord, SessionRegistry


def test_a_session_is_reserved_opened_and_ended():
    registry = SessionRegistry(ttl_s=30)
    registry.reserve("a", 0)
    assert registry.get("a") == SessionRecord("a", 0, opened=False)
    assert registry.mark_opened("a", 2)
    assert registry.get("a") == SessionRecord("a", 2, opened=True)
    assert registry.end("a") == SessionRecord("a", 2, opened=True)
    assert registry.get("a") is None and len(registry) == 0


def test_an_unknown_session_is_no_error():
    registry = SessionRegistry(ttl_s=30)
    registry.touch("a", 1)
    assert registry.get("a") is None
    assert registry.end("a") is None


def test_a_session_that_ended_while_its_world_was_opened_stays_ended():
    registry = SessionRegistry(ttl_s=30)
    registry.reserve("a", 0)
    registry.end("a")
    assert not registry.mark_opened("a", 1)
    assert len(registry) == 0


def test_a_session_expires_when_it_is_idle_for_longer_than_its_ttl():
    registry = SessionRegistry(ttl_s=30)
    for session_id in ("idle", "touched", "reserved"):
        registry.reserve(session_id, 0)
    registry.mark_opened("idle", 0)
    registry.touch("touched", 1)
    assert registry.expire_idle(30) == []
    assert registry.expire_idle(30.5) == [
        SessionRecord("idle", 0, opened=True),
        SessionRecord("reserved", 0, opened=False),
    ]
    assert registry.expire_idle(30.5) == [] and len(registry) == 1
    assert [record.session_id for record in registry.expire_idle(31.5)] == ["touched"]
