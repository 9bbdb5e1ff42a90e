"""The configured selector, built; one of the user's own is found in the current directory."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from evoray.budget import Budget
from evoray.config import FeatureConfig, RunConfig, SelectionConfig
from evoray.engine.site import fingerprint
from evoray.errors import ConfigError
from evoray.selection.selector import Needs, Selector
from evoray.selection.selectors import build_selector, selector_class


def open_selector(config: SelectionConfig) -> Selector:
    """Build it. Raises ConfigError for an unknown name or option."""
    own = ":" in config.selector
    if own and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last: shadows nothing
    if config.selector != "evoselect":
        selector = build_selector(config.selector, config.options)
        if own:
            _send_by_value(selector)
        return selector
    if config.options:
        raise ConfigError(
            f"selection.options: {config.options} with selector evoselect",
            "its options in the section selection itself",
            f"write selection.{next(iter(config.options))}",
        )
    return build_selector(
        "evoselect", {name: getattr(config, name) for name in selector_class("evoselect").model_fields}
    )


def needs_of(config: SelectionConfig) -> Needs:
    """What the configured selector works on. Raises ConfigError."""
    needs = open_selector(config).needs
    if not config.has_shares:
        return needs
    return Needs(**{**vars(needs), "columns": (*needs.columns, "source")})


def is_featured(config: SelectionConfig) -> bool:
    """Whether a selection takes features: the selector does, or the budget counts tokens, which come with them."""
    return needs_of(config).features or Budget.of(config.k).tokens is not None


def with_representation(features: FeatureConfig, config: SelectionConfig) -> FeatureConfig:
    """The features that the configured selector works on. Raises ConfigError where they do not serve it."""
    needs = needs_of(config)
    return features.taken_for(needs.representation, only=needs.only)


def check_proxy(config: RunConfig) -> None:
    """Raise ConfigError where features should follow a model that is trained whole: they follow adapters."""
    follows = config.features.refresh == "each_round" and config.rounds > 1 and config.proxy_model == config.model
    if config.training.weights == "full" and follows and is_featured(config.selection):
        raise ConfigError(
            "training.weights: full with features.refresh: each_round",
            "features that stay with the first proxy: they follow adapters, and no model that was trained whole",
            "set features.refresh: never, or training.weights: lora",
        )


def source_identity(config: SelectionConfig) -> str | None:
    """The fingerprint of the source of a selector of the user's own; None for one of evoray's."""
    if ":" not in config.selector:
        return None
    module = inspect.getmodule(type(open_selector(config)))
    return fingerprint(source="" if module is None else inspect.getsource(module))


def _send_by_value(selector: Selector) -> None:
    """Have functions of the user's module travel whole: no worker need find its file."""
    from ray import cloudpickle

    module = inspect.getmodule(type(selector))
    if module is not None:
        cloudpickle.register_pickle_by_value(module)
