"""Selectors over sharded features: EvoSelect, random, everything."""

from evoray.selection.everything import everything
from evoray.selection.evoselect import EvoSelectParams, EvoSelectResult, evoselect
from evoray.selection.picks import Pick
from evoray.selection.protocol import LocalShards, Shards, split_tiles
from evoray.selection.random import random_order, random_pick, random_to_tokens
from evoray.selection.shard import Shard, Tile

__all__ = [
    "EvoSelectParams",
    "EvoSelectResult",
    "LocalShards",
    "Pick",
    "Shard",
    "Shards",
    "Tile",
    "everything",
    "evoselect",
    "random_order",
    "random_pick",
    "random_to_tokens",
    "split_tiles",
]
