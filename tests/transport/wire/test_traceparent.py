import pytest

from transport.wire.traceparent import TraceParent, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "flags, sampled", [("01", True), ("00", False), ("03", True), ("ff", True)]
)
def test_a_valid_header(flags, sampled):
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}") == TraceParent(TRACE, SPAN, sampled)


def test_a_later_version_may_have_more_fields():
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-01") is not None
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-01-what-comes-next") is not None


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-0g",
        "٠٠" + f"-{TRACE}-{SPAN}-01",
    ],
)
def test_an_invalid_header_is_no_header(text):
    assert parse_traceparent(text) is None
