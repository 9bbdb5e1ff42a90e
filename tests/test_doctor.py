"""`evoray doctor`: what is open to strangers fails, and says how to close it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from evoray.doctor import Finding, examine
from tests.commands import Command
from tests.processes import free_ports

SECRET = "a-token-that-must-not-be-shown"


@contextmanager
def jobs_api(host: str, status: int) -> Iterator[str]:
    """A server that answers every request alike; tests of a cluster look at Ray's own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Nothing."""

    server = HTTPServer((host, 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def closed() -> str:
    """The address of a dashboard that is not there."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "token"
    path.write_text(SECRET)
    path.chmod(0o600)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


def found(check: str, findings: list[Finding]) -> Finding:
    (one,) = [finding for finding in findings if finding.check == check]
    return one


def test_a_closed_place_passes(tmp_path: Path, closed: str, token: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o755)
    findings = examine(str(run_dir), closed)
    assert [one for one in findings if one.status == "FAIL"] == []
    assert found("run directory", findings).status == "ok"
    assert found("token", findings).found == str(token)
    assert {"torch", "ray", "compiler", "processor", "memory", "disk"} <= {one.check for one in findings}


@pytest.mark.parametrize("inner", [False, True])
def test_a_run_directory_that_everybody_may_write_fails(inner: bool, tmp_path: Path, closed: str) -> None:
    """Itself, or the folder in which it could be replaced."""
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    run_dir = open_folder / "run" if inner else open_folder
    run_dir.mkdir(exist_ok=True)
    one = found("run directory", examine(str(run_dir), closed))
    assert one.status == "FAIL" and one.remedy == f"chmod o-w {open_folder}"
    open_folder.chmod(0o1777)  # sticky, as /tmp is: nobody else can replace what is in it
    assert found("run directory", examine(str(run_dir), closed)).status == ("ok" if inner else "FAIL")


def test_a_token_that_others_can_read_fails(token: Path, closed: str) -> None:
    token.chmod(0o644)
    one = found("token", examine(None, closed))
    assert one.status == "FAIL" and one.remedy == f"chmod 600 {token}"
    assert SECRET not in repr(one)


@pytest.mark.parametrize(("mode", "status"), [(None, "warning"), ("token", "FAIL")])
def test_a_missing_token(
    mode: str | None, status: str, token: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token.unlink()
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert found("token", examine(None, closed)).status == status
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    assert found("token", examine(None, closed)) == Finding(check="token", status="ok", found="from RAY_AUTH_TOKEN")


def test_authentication_that_is_switched_off_fails(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert found("token", examine(None, closed)).status == "FAIL"


@pytest.mark.parametrize(
    ("host", "status", "jobs", "dashboard"),
    [
        ("127.0.0.1", 401, "ok", "ok"),
        ("0.0.0.0", 401, "ok", "warning"),
        ("127.0.0.1", 200, "FAIL", "ok"),
        ("0.0.0.0", 200, "FAIL", "FAIL"),
    ],
)
def test_an_open_jobs_api_fails(host: str, status: int, jobs: str, dashboard: str) -> None:
    with jobs_api(host, status) as address:
        findings = examine(None, address)
    assert (found("Jobs API", findings).status, found("dashboard", findings).status) == (jobs, dashboard)


@pytest.mark.ray
def test_the_command_ends_with_1_where_something_is_open(token: Path, closed: str, evoray: Command) -> None:
    answer = evoray("doctor", "--dashboard", closed)
    assert answer.code == 0 and "FAIL" not in answer.out
    token.chmod(0o604)
    answer = evoray("doctor", "--dashboard", closed)
    assert answer.code == 1 and "to do: chmod 600" in answer.out
    assert SECRET not in answer.out + answer.err
