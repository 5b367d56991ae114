import math

from deployments.sessions.registry import MAX_MOVED, SessionRecord, SessionRegistry


def resumable(*names, grace_s=10, opened=True):
    """Sessions whose secret is their name in upper case. All was at time 0."""
    registry = SessionRegistry(ttl_s=30, grace_s=grace_s)
    for name in names:
        registry.reserve(name, 0, resumable=True, secret=name.upper())
        if opened:
            registry.mark_opened(name, 0)
    return registry


def ids(records):
    return [record.session_id for record in records]


def test_a_session_is_reserved_opened_and_ended():
    registry = SessionRegistry(ttl_s=30)
    registry.reserve("a", 0, size=(8, 16))
    assert registry.get("a") == SessionRecord("a", touched=0, since=0, size=(8, 16))
    assert registry.mark_opened("a", 2)
    record = SessionRecord("a", touched=2, since=0, size=(8, 16), opened=True)
    assert registry.get("a") == record and list(registry) == [record]
    assert registry.end("a", "closed") == record
    assert registry.get("a") is None and len(registry) == 0


def test_every_end_is_counted_with_its_reason():
    registry = SessionRegistry(ttl_s=30)
    for session_id in ("closed", "refused", "failed", "left", "expired"):
        registry.reserve(session_id, 0)
    registry.mark_opened("closed", 1)
    registry.mark_opened("failed", 1)
    registry.get("refused").fault, registry.get("failed").fault = "refused", "failed"
    for session_id in ("closed", "refused", "failed", "left"):
        registry.end(session_id, registry.get(session_id).end_reason)
    registry.end("expired", "expired")
    registry.end("unknown", "closed")
    reasons = ("closed", "client_left", "refused", "failed", "expired")
    assert registry.ends == dict.fromkeys(reasons, 1)


def test_an_unknown_session_is_no_error():
    registry = SessionRegistry(ttl_s=30, grace_s=10)
    registry.touch("a", 1)
    assert registry.get("a") is None and registry.end("a", "closed") is None
    assert not registry.is_held("a", 1) and not registry.detach("a", 1)
    assert registry.attach("a", "", 1) is registry.withdraw("a", "") is None


def test_a_session_that_ended_while_its_world_was_opened_stays_ended():
    registry = SessionRegistry(ttl_s=30)
    registry.reserve("a", 0)
    registry.end("a", "client_left")
    assert not registry.mark_opened("a", 1)
    assert len(registry) == 0


def test_a_session_is_idle_when_it_was_not_touched_for_longer_than_its_ttl():
    registry = SessionRegistry(ttl_s=30)
    for session_id in ("idle", "touched", "reserved"):
        registry.reserve(session_id, 0)
    registry.mark_opened("idle", 0)
    registry.touch("touched", 1)
    assert registry.idle(30) == []
    assert ids(registry.idle(30.5)) == ["idle", "reserved"]
    assert ids(registry.idle(31.5)) == ["idle", "touched", "reserved"]


def test_a_detached_session_is_not_idle_and_is_forgotten_after_the_grace():
    registry = resumable("a", "held")
    assert registry.detach("a", 1)
    assert ids(registry.idle(100)) == ["held"]
    assert registry.forgotten(11) == []
    assert ids(registry.forgotten(11.5)) == ["a"]


def test_a_session_that_is_attached_again_is_not_forgotten():
    registry = resumable("a")
    registry.detach("a", 1)
    assert registry.attach("a", "A", 11.5) is not None  # a late one, before anyone has looked
    assert registry.forgotten(100) == [] and registry.idle(41.5) == []
    assert ids(registry.idle(42)) == ["a"]


def test_only_the_last_lease_holds_a_session():
    registry = resumable("a")
    assert registry.is_held("a", 1)
    assert registry.attach("a", "A", 1).epoch == 2  # no need to wait for the end of the first
    assert registry.is_held("a", 2) and not registry.is_held("a", 1)
    registry.detach("a", 2)
    assert not registry.is_held("a", 2)
    assert registry.attach("a", "A", 3).epoch == 3
    assert not registry.is_held("a", 4)


def test_a_wrong_secret_opens_nothing():
    registry = resumable("a", "b")
    for secret in ("", "a", "B", "A ", "Ä"):
        assert registry.find("a", secret) is None
        assert registry.attach("a", secret, 1) is registry.withdraw("a", secret) is None
    assert registry.is_held("a", 1)


def test_what_was_reserved_without_a_secret_has_none_that_is_empty():
    registry = SessionRegistry(ttl_s=30, grace_s=10)
    registry.reserve("a", 0, resumable=True)
    registry.mark_opened("a", 0)
    assert registry.find("a", "") is None


def test_a_session_without_a_world_cannot_be_detached_or_found():
    registry = resumable("a", opened=False)
    assert not registry.detach("a", 1) and registry.find("a", "A") is None


def test_a_session_that_is_not_resumable_is_never_attached_and_may_be_handed_over():
    registry = SessionRegistry(ttl_s=30, grace_s=10)
    registry.reserve("a", 0, secret="A")
    registry.mark_opened("a", 0)
    assert not registry.detach("a", 1) and registry.attach("a", "A", 1) is None
    assert registry.withdraw("a", "A") is registry.get("a")


def test_without_a_grace_no_session_is_resumable():
    registry = resumable("a", grace_s=0)
    assert not registry.detach("a", 1) and registry.attach("a", "A", 1) is None


def test_a_world_that_failed_is_not_attached_but_found_and_a_new_one_heals_it():
    registry = resumable("a")
    registry.get("a").fault = "failed"
    assert registry.attach("a", "A", 1) is None and registry.find("a", "A") is not None
    registry.mark_opened("a", 2)
    assert registry.attach("a", "A", 3).end_reason == "closed"


def test_a_session_that_is_handed_over_belongs_to_nobody_until_it_ends():
    registry = resumable("a", "detached")
    registry.detach("detached", 0)
    for name in ("a", "detached"):
        assert registry.withdraw(name, name.upper()) is not None
        assert registry.withdraw(name, name.upper()) is None
        assert registry.find(name, name.upper()) is registry.attach(name, name.upper(), 1) is None
        assert not registry.is_held(name, 1) and registry.get(name).epoch == 2
    assert registry.forgotten(math.inf) == registry.idle(math.inf) == []
    registry.end("a", "moved")
    assert registry.ends == {"moved": 1}


def test_an_older_lease_learns_that_another_socket_has_its_session():
    registry = resumable("attached", "handed over", "given back", "ended", "mine")
    registry.attach("attached", "ATTACHED", 1)
    registry.withdraw("handed over", "HANDED OVER")
    assert registry.is_taken_over("handed over", 1)  # while it is handed over
    registry.end("handed over", "moved")
    registry.end("ended", "closed")
    names = ("attached", "handed over", "ended", "mine", "unknown")
    taken = [name for name in names if registry.is_taken_over(name, 1)]
    assert taken == ["attached", "handed over"] and not registry.is_taken_over("attached", 2)


def test_only_the_last_sessions_that_were_handed_over_are_remembered():
    registry = resumable(*map(str, range(MAX_MOVED + 1)))
    for number in range(MAX_MOVED + 1):
        registry.end(f"{number}", "moved")
    assert [registry.is_taken_over(name, 1) for name in ("0", "1")] == [False, True]
