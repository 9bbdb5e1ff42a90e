"""A proxy before a server on loopback that now and then refuses, waits, or loses an answer to what it passed on."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: refuse: 503, nothing done. lose: done, then 503. cut: done, then the connection breaks within the answer.
FAULTS = ("refuse", "lose", "cut", "slow")
_SLOW_S = 0.5


class Flaky:
    """Which requests go wrong: each fault with a probability, from a seed; what happened is counted.

    once: each fault happens one time at most.
    """

    def __init__(self, shares: Mapping[str, float], seed: int = 0, *, once: bool = False) -> None:
        self.shares, self.counts, self.once = dict(shares), Counter[str](), once
        self._random, self._lock = random.Random(seed), threading.Lock()

    def next(self) -> str:
        """The fate of a request."""
        with self._lock:
            place = self._random.random()
            for fault, share in self.shares.items():
                place -= share
                if place < 0 and not (self.once and self.counts[fault]):
                    self.counts[fault] += 1
                    return fault
            return "pass"


@contextmanager
def flaky_proxy(upstream: str, faults: Flaky) -> Iterator[str]:
    """The address of a proxy before `upstream`; it ends with the block."""
    there = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: object) -> None:
            """Nothing."""

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fate = faults.next()
            if fate == "refuse":
                self._answer(503, b"")
                return
            if fate == "slow":
                time.sleep(_SLOW_S)
            connection = http.client.HTTPConnection(there.hostname or "", there.port, timeout=60)
            connection.request(self.command, self.path, body=body, headers=dict(self.headers))
            found = connection.getresponse()
            data = found.read()
            connection.close()
            if fate == "lose":
                self._answer(503, b"")
            elif fate == "cut":
                whole = [*found.getheaders(), ("Content-Length", str(len(data)))]
                self._answer(found.status, data[: len(data) // 2], whole)
                self.close_connection = True
            else:
                self._answer(found.status, data, found.getheaders())

        def _answer(self, status: int, data: bytes, headers: list[tuple[str, str]] | None = None) -> None:
            self.send_response(status)
            lengths = [str(len(data))]
            for name, value in headers or []:
                if name.lower() == "content-length":
                    lengths.append(value)
                elif name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", lengths[-1])
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
