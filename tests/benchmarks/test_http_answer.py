import gc
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from benchmarks.http_answer import answer_to


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/" else 503)
        self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("path, status", [("/", 200), ("/none", 503)])
def test_a_refusal_is_an_answer_and_leaves_no_socket(path, status):
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        answer = answer_to(f"http://127.0.0.1:{server.server_port}{path}")
        thread.join()
    gc.collect()  # a warning of an open socket is an error here
    assert (answer.status, answer.headers["retry-after"]) == (status, "7")
    assert answer.body == path.encode()


def test_nobody_answers_is_an_os_error():
    with pytest.raises(OSError, match="refused"):
        answer_to("http://127.0.0.1:9/")
