"""An S3-compatible server on loopback, in a process of its own, with one bucket."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import free_ports

_SECONDS = 120.0


@contextmanager
def object_store(bucket: str = "bucket") -> Iterator[dict[str, str]]:
    """Environment variables with which obstore and pyarrow find it; the server ends with the block."""
    (port,) = free_ports(1)
    program = str(Path(sys.executable).with_name("moto_server"))
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _SECONDS
        while not _answers(urllib.request.Request(f"{address}/{bucket}", method="PUT")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "a-secret-for-tests",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        process.terminate()
        process.wait(30)


def _answers(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return bool(response.status == 200)
    except urllib.error.URLError:
        return False
