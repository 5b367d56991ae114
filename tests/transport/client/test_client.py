import asyncio
import io
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import av
import numpy as np
import pytest
from msgspec import msgpack
from websockets.sync.server import serve as serve_sockets

from tests.waiting import until
from transport.access import Access
from transport.access_config import AccessConfig
from transport.client import connect
from transport.client.__main__ import main
from transport.codecs.decoder import Decoder
from transport.paths import SOCKET_PATH
from transport.tokens import Tokens
from transport.wire.errors import Busy, TransportError
from transport.wire.messages import Ending, Paused, Queued, Resumed, Starting


def walk(url, out, *options):
    return main(["--url", url, "--out", str(out), *options])


@pytest.mark.parametrize("encoding", ["raw", "jpeg", "webp", "h264", "delta-zstd"])
def test_a_walk_is_recorded(url, world, tmp_path, capsys, encoding):
    out = tmp_path / "walk.mp4"
    assert walk(url, out, "--actions", "w-4,none-1", "--format", encoding, "--seed", "7") == 0
    assert capsys.readouterr().out == f"{out}: 17 frames, 0.28 s at 60 frames/s\n"
    with av.open(io.BytesIO(out.read_bytes())) as file:
        assert sum(1 for _ in file.decode(video=0)) == 17
    assert [actions for actions, _ in world.steps][:2] == [["w"] * 3, ["w", "", ""]]
    assert world.specs[0].seed == 7


def test_a_walk_may_start_from_an_image(url, world, tmp_path, make_png):
    image = tmp_path / "start.png"
    image.write_bytes(make_png(color=(7, 7, 7)))
    assert walk(url, tmp_path / "a.mp4", "--actions", "w-1", "--image", str(image)) == 0
    assert (world.images[0] == 7).all()


def test_a_token_opens_a_server_that_asks_for_one(world, listen, tmp_path, capsys):
    file, out = tmp_path / "tokens.yaml", tmp_path / "a.mp4"
    file.write_text("[{name: alice, token: alice-0123456789abcdef}]")
    access = Access(tokens=Tokens(AccessConfig(tokens_file=str(file))))
    with listen(world, access=access) as port:
        url = f"ws://127.0.0.1:{port}{SOCKET_PATH}"
        for token, reason in (
            ([], "a token is required: "),
            (["--token", "x"], "the token is unknown"),
            (["--token", "a\nb: c"], "--token is not a token, expected letters"),
            (["--token", "ä"], "--token is not a token"),
            (["--token", ""], "--token is not a token"),
        ):
            assert walk(url, out, "--actions", "w-1", *token) != 0
            error = capsys.readouterr().err
            assert reason in error and error.count("\n") == 1
        assert walk(url, out, "--actions", "w-1", "--token", "alice-0123456789abcdef") == 0


def test_a_wait_for_the_world_prints_its_reason(url, world, tmp_path, capsys):
    world.news = [Starting(), Queued(2), Queued(1, all_taken=True, estimate_s=40)]
    assert walk(url, tmp_path / "a.mp4", "--actions", "w-1") == 0
    assert capsys.readouterr().err.splitlines() == [
        "a world is starting",
        "waiting for a world, number 2 in line",
        "waiting for a world, number 1 in line, about 40 s",
    ]


def test_a_full_server_says_when_to_come_back(url, world, tmp_path, capsys):
    world.on_open = Busy("the line is full", retry_after_s=40)
    assert walk(url, tmp_path / "a.mp4", "--actions", "w-1") == 1
    assert capsys.readouterr().err == "error: the line is full; try again in 40 s\n"


def test_a_client_follows_a_pause(url):
    async def scenario():
        news = []
        async with connect(url, on_news=news.append) as client:

            async def hide_for_a_while():
                await client.show(visible=False)
                await until(lambda: news)
                await client.show(visible=True)

            chunks = client.chunks()
            await anext(chunks)
            hiding = asyncio.create_task(hide_for_a_while())
            while len(news) < 2:
                await anext(chunks)
            await hiding
        return news, client.status.paused

    assert asyncio.run(scenario()) == ([Paused("hidden"), Resumed()], None)


@pytest.mark.parametrize("reason", ["hidden", "idle"])
def test_a_client_follows_the_end_of_a_pause(world, listen, monkeypatch, reason):
    monkeypatch.setattr("transport.wire.idle.NOTICE_SHARE", 2.0)  # announced with the pause

    async def scenario(url):
        news = []
        with pytest.raises(TransportError, match="paused for 0.1 s") as ended:
            async with connect(url, on_news=news.append) as client:
                async for _ in client.chunks():
                    if reason == "hidden":
                        await client.show(visible=False)
        return client.status, news, ended.value

    with listen(world, idle_after_s=0.1 if reason == "idle" else None, max_paused_s=0.1) as port:
        status, news, error = asyncio.run(scenario(f"ws://127.0.0.1:{port}{SOCKET_PATH}"))
    assert news == [Paused(reason), Ending("idle", 1)]
    assert (status.paused, status.ending) == (reason, Ending("idle", 1))
    assert error.code == "session_ended"


def test_a_client_receives_frames_applied_controls_and_acks(url):
    async def scenario():
        async with connect(url, realtime_output_pacing=False) as client:
            chunks = client.chunks()
            first = await anext(chunks)
            event_id = await client.hold("w", "wl")
            await client.prompt("rain")
            async for chunk in chunks:
                if event_id in chunk.applied.event_ids:
                    break
            await client.send_actions([["s"]])
            return client, first, chunk

    client, first, chunk = asyncio.run(scenario())
    assert np.array_equal(first.frames, np.full((9, 16, 32, 3), 1, np.uint8))
    assert first.stats.num_frames == 9
    assert chunk.applied.actions[-1] == ["w", "l"]
    assert client.session.session_id == "s1"
    assert client.acked_events[0] == 1


def test_the_reason_of_an_error_is_raised(url, world):
    world.on_open = Busy("every place is taken")

    async def scenario():
        async with connect(url) as client:
            await anext(client.chunks())

    with pytest.raises(TransportError, match="every place is taken") as caught:
        asyncio.run(scenario())
    assert caught.value.code == "busy"


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--actions", "q-1"], "'q-1': expected KEYS-COUNT"),
        (["--size", "0x0"], "`size`: '0x0'"),
        (["--image", "none.png"], "none.png: No such file"),
        (["--image", "/"], "/: Is a directory"),
        (["--image", "/dev/zero"], "/dev/zero: too large, expected at most 33554432 bytes"),
        (["--out", "none/walk.mp4"], "none is not a directory"),
        (["--out", "/"], "/: Is a directory"),
        (["--out", "/proc/walk.mp4"], "/proc/walk.mp4: "),
        (["--out", "x" * 300], "x" * 300 + ": File name too long"),
        (["--out", "/dev/full", "--actions", "w-1"], "/dev/full: No space left on device"),
        (["--prompt", "rain \udcff"], "--prompt is not UTF-8"),
        (["--size", "\udcff"], "--size is not UTF-8"),
        (["--actions", "\udcff-1"], "'\\udcff-1': expected KEYS-COUNT"),
        (["--image", "none\udcff.png"], "none\\udcff.png: No such file"),
        (["--seed", str(2**64)], "--seed is too large"),
        (["--url", "ws://127.0.0.1:99999/"], "--url ws://127.0.0.1:99999/: Port out of range"),
        (["--url", "ws://127.0.0.1:no/"], "--url ws://127.0.0.1:no/: Port could not be"),
        (["--url", "ws://127.0.0.1:-1/"], "--url ws://127.0.0.1:-1/: Port could not be"),
        (["--url", "ws://[::1"], "--url ws://[::1: Invalid IPv6 URL"),
        (["--url", "ws://"], "--url ws://: "),
        (["--url", "ws://a..b/"], "--url ws://a..b/: "),
        (["--url", f"ws://{'a' * 64}.b/"], "--url ws://aaaa"),
        (["--url", "ws://127.0.0.1/\udcff"], "--url ws://127.0.0.1/\\udcff: "),
        (["--url", "http://127.0.0.1/"], "--url http://127.0.0.1/: "),
        (["--url", "walk"], "--url walk: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_1(url, tmp_path, capsys, options, reason):
    out = tmp_path / "a.mp4"
    assert walk(url, out, *options) == 1
    printed, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(f"error: {reason}")
    assert printed == "" and not out.exists()


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_an_unusable_proxy_is_one_line_and_exit_1(tmp_path, capsys, monkeypatch, scheme):
    monkeypatch.setenv("all_proxy", f"{scheme}://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    assert walk("ws://none.invalid/", tmp_path / "a.mp4") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unreachable_server_is_one_line_and_exit_1(tmp_path, capsys):
    with socket.socket() as taken:  # which does not listen
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert walk(f"ws://127.0.0.1:{port}/", tmp_path / "a.mp4") == 1
    assert capsys.readouterr().err.startswith(f"error: cannot reach ws://127.0.0.1:{port}/")


def test_an_unknown_host_is_one_line_and_exit_1(tmp_path, capsys, monkeypatch):
    def find(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", find)  # a resolver may take long to answer
    assert walk("ws://none.invalid/", tmp_path / "a.mp4") == 1
    assert capsys.readouterr().err == (
        "error: cannot reach ws://none.invalid/: Name or service not known\n"
    )


def test_a_url_without_a_world_is_one_line_and_exit_1(url, tmp_path, capsys):
    assert walk(url + "/none", tmp_path / "a.mp4") == 1
    assert " does not serve a world: " in capsys.readouterr().err


@contextmanager
def answer(data):
    """A server that answers each request with these bytes and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        if data:
                            connection.recv(4096)
                            connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "HTTP 500"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP 404"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://none.invalid/\r\n\r\n", " does not serve"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "HTTP 200"),
        (b"SSH-2.0-OpenSSH\r\n", "does not serve a world"),
        (b"", "error: "),
    ],
)
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_server_of_another_kind_is_one_line_and_exit_1(tmp_path, capsys, scheme, data, reason):
    with answer(data) as port:
        assert walk(f"{scheme}://127.0.0.1:{port}/", tmp_path / "a.mp4") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert scheme == "wss" or reason in line


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["hello"],
        [b""],
        [b"\xc1"],
        [msgpack.encode(7)],
        [msgpack.encode({"kind": "session"})],
        [msgpack.encode({"type": "session"})],
        [msgpack.encode({"type": "queued", "position": "first"})],
    ],
)
def test_a_socket_of_another_protocol_is_one_line_and_exit_1(tmp_path, capsys, messages):
    def handle(connection):
        for message in messages:
            connection.send(message)

    with serve_sockets(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        assert walk(f"ws://127.0.0.1:{port}/", tmp_path / "a.mp4") == 1
        server.shutdown()
        thread.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the server ")


def test_a_payload_that_cannot_be_decoded_is_one_line(url, tmp_path, capsys, monkeypatch):
    def fail(*args):
        raise OSError("broken data stream")  # Pillow's error, which is not the network's

    monkeypatch.setattr(Decoder, "decode", fail)
    assert walk(url, tmp_path / "a.mp4", "--format", "webp") == 1
    assert capsys.readouterr().err == "error: a payload cannot be decoded: broken data stream\n"


def test_an_earlier_walk_stays_when_the_next_one_fails(url, world, tmp_path, capsys):
    out = tmp_path / "a.mp4"
    out.write_bytes(b"an earlier walk")
    world.on_open = Busy("every place is taken")
    assert walk(url, out) == 1
    assert out.read_bytes() == b"an earlier walk"
    world.on_open = None
    assert walk(url, out, "--actions", "w-1") == 0
    with av.open(io.BytesIO(out.read_bytes())) as file:
        assert sum(1 for _ in file.decode(video=0)) == 1


def test_a_file_that_cannot_be_written_is_found_before_the_walk(url, world, capsys):
    assert walk(url, "/proc/walk.mp4") == 1
    assert world.specs == []


def test_warnings_of_the_server_are_printed(url, tmp_path, capsys):
    assert walk(url, tmp_path / "a.mp4", "--actions", "w-1", "--size", "1000x1000") == 0
    assert "warning: " in capsys.readouterr().err


def run_on_a_terminal(url, out, *options):
    """The command on a terminal of its own. Returns its process and the terminal's other end."""
    near, far = pty.openpty()
    command = [sys.executable, "-m", "transport.client", "--url", url, "--out", str(out)]
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *command, *options],
        stdout=subprocess.DEVNULL,
        stderr=far,
    )
    os.close(far)
    return process, near


def read_all(terminal):
    data = b""
    with suppress(OSError):  # the other end has closed
        while block := os.read(terminal, 4096):
            data += block
    os.close(terminal)
    return data.decode()


def test_a_terminal_shows_the_progress(url, tmp_path):
    process, terminal = run_on_a_terminal(url, tmp_path / "a.mp4", "--actions", "w-12")
    text = read_all(terminal)
    assert process.wait() == 0
    assert re.findall(r"(\d+) of 45 frames", text) == ["9", "21", "33", "45"]
    assert f"[{'#' * 40}] 45 of 45 frames" in text


def test_ctrl_c_is_one_line_and_leaves_no_file(url, world, tmp_path):
    world.running.clear()  # the walk cannot go on
    process, terminal = run_on_a_terminal(url, tmp_path / "a.mp4")
    while not world.specs:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    text = read_all(terminal)
    world.running.set()
    assert process.wait() == 130
    assert text.count("\n") == 1 and text.endswith("error: interrupted\r\n")
    assert not (tmp_path / "a.mp4").exists()


def test_a_walk_is_saved_and_goes_on(url, world, tmp_path, capsys):
    first, second, saved = (tmp_path / name for name in ("a.mp4", "b.mp4", "world"))
    assert walk(url, first, "--actions", "w-4", "--save", str(saved), "--seed", "7") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{first}: 13 frames, 0.22 s at 60 frames/s",
        f"{saved}: the world after it, {saved.stat().st_size} bytes",
    ]
    assert walk(url, second, "--actions", "a-2", "--from", str(saved)) == 0
    assert capsys.readouterr().out == f"{second}: 8 frames, 0.13 s at 60 frames/s\n"
    # Chunks are whole, and none is generated after the walk.
    assert [actions for actions, _ in world.steps] == [["w"] * 3, ["w", "", ""], ["a", "a", ""]]
    assert [spec.seed for spec in world.specs] == [7, 7]


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--save", "none/world"], "none is not a directory"),
        (["--save", "/proc/world"], "/proc/world: "),
        (["--from", "none"], "none: No such file"),
        (["--from", "/dev/null", "--seed", "1"], "--seed and --from: a saved world has its own"),
        (["--from", "/dev/null", "--image", "a"], "--image and --from: a saved world has its own"),
        (["--from", __file__], "`snapshot`"),
    ],
)
def test_a_mistake_about_saved_worlds_is_one_line(url, tmp_path, capsys, options, reason):
    out = tmp_path / "a.mp4"
    assert walk(url, out, *options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {reason}") and not out.exists()


def test_a_video_and_a_world_are_two_files(url, world, tmp_path, capsys):
    out = tmp_path / "a"
    assert walk(url, out, "--save", str(out)) == 1
    assert "expected two files" in capsys.readouterr().err and world.specs == []
