"""Chunked cross-entropy against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from evoray.models.cross_entropy import cross_entropy


@pytest.mark.parametrize("entries", [1, 40, 10_000])
def test_values_and_gradients_are_those_of_torch(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    monkeypatch.setattr("evoray.models.cross_entropy._CHUNK_ENTRIES", entries)
    generator = torch.Generator().manual_seed(0)
    logits = (8 * torch.randn(11, 17, dtype=torch.float64, generator=generator)).requires_grad_()
    labels = torch.randint(0, 17, (11,), generator=generator)
    upstream = torch.randn(11, dtype=torch.float64, generator=generator)
    expected = functional.cross_entropy(logits, labels, reduction="none")
    (expected_gradient,) = torch.autograd.grad(expected, logits, upstream)
    found = cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(found, logits, upstream)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_narrow_logits_give_losses_as_exact_as_widened_ones() -> None:
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    labels = torch.arange(5)
    found = cross_entropy(logits, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, functional.cross_entropy(logits.float(), labels, reduction="none"))
    found.sum().backward()
    assert logits.grad is not None and logits.grad.dtype == torch.bfloat16
