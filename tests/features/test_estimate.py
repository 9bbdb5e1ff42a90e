"""Estimated moments against one-at-a-time autograd."""

from __future__ import annotations

import torch

from evoray.features.estimate import estimate_moments
from tests.features.test_gradient import _autograd, _build, _samples


def test_moments_are_the_means_over_batches_of_the_gradient_and_its_square() -> None:
    model, samples = _build("llama"), _samples(5)
    groups = [samples[0:2], samples[2:4], samples[4:5]]
    means = []
    for group in groups:
        found = [_autograd(model, sample) for sample in group]
        means.append({name: torch.stack([one[name] for one in found]).mean(0) for name in found[0]})
    moments = estimate_moments(
        model, samples, pad_id=0, batch_size=2, batch_tokens=20, precision=None, progress=lambda _done, _total: None
    )
    assert (moments.steps, moments.origin) == (0, "estimated")
    for name in means[0]:
        gradients = torch.stack([mean[name] for mean in means])
        torch.testing.assert_close(moments.first[name], gradients.mean(0))
        torch.testing.assert_close(moments.second[name], gradients.square().mean(0))
        torch.testing.assert_close(moments.corrected_second(name), moments.second[name])
