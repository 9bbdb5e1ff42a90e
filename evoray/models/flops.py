"""Operations of a model's passes over tokens, and how many a GPU does at most: what utilisation is made of.

A pass forward multiplies and adds once with every parameter, a pass back twice: 2 and 6 operations for each parameter
and token, attention's own left out (the convention of arXiv 2204.02311). A frozen weight needs no gradient of its own
and is counted all the same: with LoRA the true share of the peak is up to a third lower.
"""

from __future__ import annotations

from typing import Any

FORWARD = 2
FORWARD_AND_BACKWARD = 6

#: Words of a device's name, and its published peak: dense bfloat16 on tensor cores, operations a second. The first
#: line whose words all occur counts.
_PEAKS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("H200", "NVL"), 835e12),
    (("H200",), 989e12),
    (("H100", "NVL"), 835e12),
    (("H100", "PCIE"), 756e12),
    (("H100",), 989e12),
    (("H800",), 989e12),
    (("H20",), 148e12),
    (("B200",), 2250e12),
    (("A100",), 312e12),
    (("A800",), 312e12),
    (("A40",), 149.7e12),
    (("A30",), 165e12),
    (("A10",), 125e12),
    (("L40S",), 362e12),
    (("L40",), 181e12),
    (("L4",), 121e12),
    (("MI300X",), 1307e12),
)


def flops_per_token(model: Any, passes: int) -> int:
    """Operations of one token of `FORWARD` or `FORWARD_AND_BACKWARD` through a model that is whole in this process."""
    return passes * sum(int(weight.numel()) for weight in model.parameters())


def peak_of(device: str) -> float | None:
    """The peak of a GPU by the name that its driver gives; None where it is not known.

    A slice of a GPU (MIG) has the name of the whole and less of its peak: unknown too.
    """
    words = set(device.upper().replace("-", " ").split())
    if "MIG" in words:
        return None
    return next((peak for wanted, peak in _PEAKS if words.issuperset(wanted)), None)
