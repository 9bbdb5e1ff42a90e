"""Is this machine, this run directory and this cluster fit, and closed to strangers? Each check is a function.

Ray runs whatever code reaches it: a dashboard, Jobs API or cluster that answers without a token hands its machine to
everybody who can connect. So these fail; what only costs speed or comfort is a warning.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx2
import psutil
from rich.console import Console

from evoray.engine.session import computes_bfloat16, token_file

Status = Literal["ok", "warning", "FAIL"]

_PACKAGES = ("torch", "ray", "transformers", "peft", "deepspeed", "pyarrow")
_LOOPBACK = ("127.", "::1", "localhost")
_ANSWER_S = 5.0
_ROOM_GB, _MEMORY_GB = 10.0, 8.0  # of disk and memory, below which even a small model's run is tight


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    status: Status
    found: str
    remedy: str = ""


def examine(run_dir: str | None, dashboard: str) -> list[Finding]:
    """All checks, in the order in which they are shown. `run_dir` in a bucket has no permissions to look at."""
    folder = None if run_dir is None or "://" in run_dir else Path(run_dir)
    return [
        *_installed(),
        _compiler(),
        _processor(),
        _memory(),
        _room(folder or Path.cwd()),
        *([] if folder is None else _folder(folder)),
        _token(),
        *_dashboard(dashboard),
    ]


def show(findings: Sequence[Finding], console: Console) -> None:
    """For a person: a line a check, and what to do where something is wrong."""
    styles = {"ok": "green", "warning": "yellow", "FAIL": "red"}
    for one in findings:
        console.print(f"{one.status:<8} {one.check}: {one.found}", style=styles[one.status], markup=False)
        if one.remedy:
            console.print(f"{'':<8} to do: {one.remedy}", markup=False)


def _installed() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding(check=name, status="ok", found=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(check=name, status="FAIL", found="not installed", remedy="run `make install`")


def _compiler() -> Finding:
    path = shutil.which("g++")
    if path:
        return Finding(check="compiler", status="ok", found=path)
    remedy = "install g++: DeepSpeed compiles a small operator on its first run"
    return Finding(check="compiler", status="FAIL", found="no g++", remedy=remedy)


def _processor() -> Finding:
    import torch

    gpus = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    precision = "bfloat16" if computes_bfloat16() else "float32"
    found = f"{os.cpu_count()} CPUs, {', '.join(gpus) or 'no GPU'}, precision: auto is {precision}"
    if gpus:
        found += " (on GPUs, which workers take where cluster.gpus_per_worker is set: bfloat16)"
    return Finding(check="processor", status="ok", found=found)


def _memory() -> Finding:
    free = psutil.virtual_memory().available / 1e9
    if free < _MEMORY_GB:
        remedy = "fewer cluster.workers, or a smaller model"
        return Finding(check="memory", status="warning", found=f"{free:.1f} GB available", remedy=remedy)
    return Finding(check="memory", status="ok", found=f"{free:.1f} GB available")


def _room(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    if free < _ROOM_GB:
        remedy = "make room: a full disk ends a run, which then goes on where it was"
        return Finding(check="disk", status="warning", found=f"{free:.1f} GB free at {there}", remedy=remedy)
    return Finding(check="disk", status="ok", found=f"{free:.1f} GB free at {there}")


def _folder(folder: Path) -> Iterator[Finding]:
    """Whoever may write into a run directory, or replace it, chooses what the next run reads from it."""
    for path in (folder, folder.absolute().parent):
        if not path.exists():
            continue
        mode = path.stat().st_mode
        sticky = mode & stat.S_ISVTX and path != folder  # of a sticky parent such as /tmp only the owner renames
        if mode & stat.S_IWOTH and not sticky:
            remedy = f"chmod o-w {path}"
            yield Finding(check="run directory", status="FAIL", found=f"{path} is world-writable", remedy=remedy)
            return
    yield Finding(check="run directory", status="ok", found=f"{folder} is not open to everybody")


def _token() -> Finding:
    """The token with which this process would meet a cluster, and who else can read it."""
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode and mode != "token":
        remedy = "unset RAY_AUTH_MODE, or set it to token"
        return Finding(check="token", status="FAIL", found=f"RAY_AUTH_MODE={mode}", remedy=remedy)
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Finding(check="token", status="ok", found="from RAY_AUTH_TOKEN")
    path = token_file()
    if not path.is_file():
        remedy = "`ray get-auth-token --generate`, and give the same token to all machines of the cluster"
        status: Status = "FAIL" if mode else "warning"  # an embedded Ray makes one by itself
        return Finding(check="token", status=status, found=f"none at {path}", remedy=remedy)
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        remedy = f"chmod 600 {path}"
        return Finding(check="token", status="FAIL", found=f"other users can read {path}", remedy=remedy)
    return Finding(check="token", status="ok", found=str(path))


def _dashboard(address: str) -> Iterator[Finding]:
    place = urlsplit(address)
    port = place.port or {"https": 443}.get(place.scheme, 80)  # the one that is asked
    reachable = _listens_beyond_loopback(port) or not (place.hostname or "").startswith(_LOOPBACK)
    try:
        # As a stranger would: no token, no proxy of this machine.
        answer = httpx2.get(f"{address.rstrip('/')}/api/jobs/", timeout=_ANSWER_S, trust_env=False)
    except httpx2.HTTPError as error:
        yield Finding(check="Jobs API", status="ok", found=f"nothing answers at {address} ({type(error).__name__})")
        return
    status: Status
    if answer.status_code in (401, 403):
        status = "warning"  # of being reachable
        yield Finding(check="Jobs API", status="ok", found=f"{address} wants a token")
    else:
        status = "FAIL"
        remedy = "start the cluster with RAY_AUTH_MODE=token: everybody who reaches it can run programs there"
        found = f"{address} answers without a token (HTTP {answer.status_code})"
        yield Finding(check="Jobs API", status="FAIL", found=found, remedy=remedy)
    if reachable:
        remedy = "start Ray with --dashboard-host=127.0.0.1 and reach it through an SSH tunnel"
        yield Finding(check="dashboard", status=status, found=f"{address} is not on loopback alone", remedy=remedy)
    else:
        yield Finding(check="dashboard", status="ok", found="on loopback alone")


def _listens_beyond_loopback(port: int) -> bool:
    """Whether a process of this machine takes connections to the port from other machines."""
    try:
        sockets = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return False  # macOS shows them to root alone
    listening = [one.laddr for one in sockets if one.laddr and one.status == psutil.CONN_LISTEN]
    return any(place.port == port and not place.ip.startswith(_LOOPBACK) for place in listening)
