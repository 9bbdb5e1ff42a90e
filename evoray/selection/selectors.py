"""The selectors by name, and one built from its options."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from evoray.config import check_selector
from evoray.errors import ConfigError
from evoray.selection.selector import Selector

#: Where each name of `config.SELECTORS` lives. Imported when it is asked for: some need libraries that take time.
HOMES = {
    "all": "everything:Everything",
    "deita": "deita:Deita",
    "doubly_greedy": "doubly_greedy:DoublyGreedy",
    "entropy": "uncertainty:Entropy",
    "evoselect": "evoselect_selector:EvoSelect",
    "k_center": "k_center:KCenter",
    "kmeans_iterative": "kmeans_iterative:KMeansIterative",
    "kmeans_quality": "kmeans:KMeansQuality",
    "kmeans_random": "kmeans:KMeansRandom",
    "knn_kde": "knn_kde:KnnKde",
    "knn_uniform": "knn_uniform:KnnUniform",
    "least_confidence": "uncertainty:LeastConfidence",
    "less": "less:Less",
    "margin": "uncertainty:Margin",
    "qdit": "qdit:QDit",
    "random": "random:Random",
    "round_robin": "round_robin:RoundRobin",
    "uot": "uot:Uot",
}


def selector_class(name: str) -> type[Selector]:
    """The class of a name, or of `package.module:Class`. Raises ConfigError."""
    if name in HOMES:
        module, _, kind = f"evoray.selection.{HOMES[name]}".partition(":")
        found: type[Selector] = getattr(importlib.import_module(module), kind)
        return found
    check_selector(name)
    module, _, kind = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), kind)
    except Exception as error:
        raise ConfigError(
            f"selection.selector: {name!r}: {type(error).__name__}: {error}",
            "a module in the current directory or an installed one, and a class in it",
            "correct the name, or run evoray in the folder that holds the module",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Selector)):
        raise ConfigError(
            f"selection.selector: {name!r}, which is {found!r}", "a subclass of evoray.Selector", "derive it from that"
        )
    return found


def build_selector(name: str, options: Mapping[str, Any]) -> Selector:
    """A selector with its options. Raises ConfigError for an unknown one, naming the nearest, or a wrong value."""
    kind = selector_class(name)
    try:
        return kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = sorted(field.alias or field_name for field_name, field in kind.model_fields.items())
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            raise ConfigError(
                f"unknown option {key!r} of selector {name}",
                f"one of {', '.join(known)}" if known else "no option: it has none",
                f"did you mean {near[0]!r}?" if near else "remove it from selection.options",
            ) from error
        received = f"selection.options.{key} = {first.get('input')!r}" if key else f"selection.options of {name}"
        raise ConfigError(received, first["msg"], f"change the options of {name}") from error
