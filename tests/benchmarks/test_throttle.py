"""The slow line of tests and benchmarks."""

import socket
import threading
import time

import pytest

from benchmarks.throttle import Bucket, slow_line


def test_a_bucket_sends_at_its_rate_and_saves_nothing_up():
    bucket = Bucket(bytes_per_s=1000)
    assert [bucket.take(10.0, 500), bucket.take(10.0, 500)] == pytest.approx([0.5, 1.0])
    assert bucket.take(20.0, 500) == pytest.approx(0.5)


def test_bytes_arrive_whole_after_the_delay_and_no_faster_than_the_rate():
    """30 kB up and down at 0.8 Mbit/s: 0.3 s each, and 50 ms of delay each."""
    data = bytes(range(250)) * 120
    with socket.create_server(("127.0.0.1", 0)) as listener:
        echo = threading.Thread(target=answer, args=[listener, len(data)])
        echo.start()
        port = listener.getsockname()[1]
        with slow_line(port, megabits_per_s=0.8, delay_s=0.05) as (address, _):
            started_s = time.monotonic()
            with socket.create_connection(("127.0.0.1", int(address.split(":")[2]))) as client:
                client.sendall(data)
                with client.makefile("rb") as file:
                    assert file.read(len(data)) == data
                    assert time.monotonic() - started_s >= 0.6
                    assert file.read() == b"", "the end arrives, too"
        echo.join()


def answer(listener, num_bytes):
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as file:
        connection.sendall(file.read(num_bytes))
