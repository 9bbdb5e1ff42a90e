"""A model hub on loopback: one repository, whose commits are folders. What `huggingface_hub` asks of the real one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Hub:
    """Its address, its commits by their 40 hex digits, and which of them `main` is now."""

    name: str
    url: str = ""
    commits: dict[str, Path] = field(default_factory=dict)
    main: str = ""
    requests: list[str] = field(default_factory=list)

    def push(self, folder: Path) -> str:
        """Make a folder the newest commit; its name."""
        self.main = hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()
        self.commits[self.main] = folder
        return self.main

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body)."""
        self.requests.append(path)
        api, files = f"/api/models/{self.name}", f"/{self.name}/resolve/"
        if not path.startswith((api, files)):
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if path.startswith(f"{api}/tree/"):  # further chat templates, in a folder that is not there
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        rest = path.removeprefix(api).removeprefix("/revision/") if path.startswith(api) else path.removeprefix(files)
        revision, _, name = rest.partition("/")
        commit = self.main if revision in ("", "main") else revision
        if commit not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        folder = self.commits[commit]
        if path.startswith(api):
            siblings = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            about = {"_id": "0", "id": self.name, "modelId": self.name, "sha": commit, "siblings": siblings}
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        if not (folder / name).is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        body = (folder / name).read_bytes()
        return 200, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": commit}, body


@contextmanager
def serving_hub(name: str) -> Iterator[Hub]:
    """A hub with a repository of this name, which has no commit yet."""
    hub = Hub(name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            status, headers, body = hub.answer(self.path.partition("?")[0])
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
