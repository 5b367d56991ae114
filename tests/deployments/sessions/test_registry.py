from deployments.sessions.registry import SessionRecord, SessionRegistry


def test_a_session_is_reserved_opened_and_ended():
    registry = SessionRegistry(ttl_s=30)
    registry.reserve("a", 0, size=(8, 16))
    assert registry.get("a") == SessionRecord("a", touched=0, since=0, size=(8, 16))
    assert registry.mark_opened("a", 2)
    record = SessionRecord("a", touched=2, since=0, size=(8, 16), opened=True)
    assert registry.get("a") == record and list(registry) == [record]
    assert registry.end("a") == record
    assert registry.get("a") is None and len(registry) == 0


def test_every_end_is_counted_with_its_reason():
    registry = SessionRegistry(ttl_s=30)
    for session_id in ("closed", "refused", "failed", "left", "expired"):
        registry.reserve(session_id, 0)
    registry.mark_opened("closed", 1)
    registry.mark_opened("failed", 1)
    registry.get("refused").fault, registry.get("failed").fault = "refused", "failed"
    for session_id in ("closed", "refused", "failed", "left", "unknown"):
        registry.end(session_id)
    registry.expire_idle(31)
    reasons = ("closed", "client_left", "refused", "failed", "expired")
    assert registry.ends == dict.fromkeys(reasons, 1)


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
        SessionRecord("idle", 0, 0, opened=True),
        SessionRecord("reserved", 0, 0),
    ]
    assert registry.expire_idle(30.5) == [] and len(registry) == 1
    assert [record.session_id for record in registry.expire_idle(31.5)] == ["touched"]
