"""The `evoray` command in this process, and what a refusal looks like."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from evoray import cli


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


class Command:
    """`evoray` in this process, as its entry point runs it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: object) -> Answer:
        self._monkeypatch.setattr(sys, "argv", ["evoray", *map(str, arguments)])
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = self._capfd.readouterr()
        return Answer(code=int(ended.value.code or 0), out=shown.out, err=shown.err)

    def refused(self, *arguments: object) -> str:
        """The message of a command that ends with exit code 2."""
        answer = self(*arguments)
        assert_refusal(answer)
        return answer.err

    def shown(self, *arguments: object) -> dict[str, Any]:
        """The facts that a command prints when it succeeds."""
        answer = self(*arguments)
        assert answer.code == 0, answer.err
        facts: dict[str, Any] = json.loads(answer.out)
        return facts


def assert_refusal(answer: Answer) -> None:
    assert answer.code == 2, answer.err
    for part in ("error: received: ", "\nexpected: ", "\nto do: "):
        assert part in answer.err
    assert "Traceback" not in answer.err
