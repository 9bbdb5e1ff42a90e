"""No package that evoray needs has a published weakness, as far as the package index tells."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.source_tree import ROOT

#: evoray itself and builds of one's own (torch for CPUs) are on no index; more than these means it was not audited.
UNKNOWN = 5


@pytest.mark.soak
def test_no_dependency_has_a_known_weakness(tmp_path: Path) -> None:
    """pip-audit lives in an environment of its own: it is not to be audited with the rest."""
    python = tmp_path / "audit" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "audit")], check=True)
    installed = subprocess.run([str(python), "-m", "pip", "install", "-q", "pip-audit"], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"NOT AUDITED: pip-audit cannot be installed here: {installed.stderr.strip()[-200:]}")
    done = subprocess.run(
        [str(python), "-m", "pip_audit", "-f", "json", "--progress-spinner", "off", "--path", site_packages()],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        pytest.skip(f"NOT AUDITED: pip-audit reached no index: {done.stderr.strip()[-200:]}")
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    weak = {
        f"{package['name']} {package['version']}": [one["id"] for one in package["vulns"]]
        for package in packages
        if package.get("vulns")
    }
    assert weak == {}
    if len(unknown) > UNKNOWN:
        pytest.skip(f"NOT AUDITED: the index here knows nothing of {len(unknown)} of {len(packages)} packages")


def site_packages() -> str:
    return sysconfig.get_path("purelib")
