"""One forward and backward pass of a batch, with a look at the two sides of chosen linear layers.

For y = W x, a layer's input x_t and delta_t = dL/dy_t are all that any gradient of its weights is made of. The losses
of the samples are summed and samples do not mix, so that both stay apart for each sample: one backward pass serves the
whole batch. No weight is asked for a gradient; backward only carries delta down, to the lowest tapped layer and no
further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from evoray.errors import ModelError
from evoray.models.loss import Batch, sample_losses

#: Receives a layer's input [B, T, I] and dL/dy [B, T, O], both detached, in the type that the pass computed in.
Consumer = Callable[[Tensor, Tensor], None]


def tapped_losses(
    model: nn.Module, batch: Batch, taps: Mapping[str, tuple[nn.Module, Consumer]], precision: torch.dtype | None
) -> Tensor:
    """Run one pass; every tapped layer's consumer is called once. Returns the losses [B].

    taps: by the layer's name. Raises ModelError for a layer that does not see the batch as [B, T, I] once: what a
    mixture of experts routes, or a layer that is used twice, has gradients that these two sides do not give.
    """
    handles = [_tap(name, layer, consume, batch.rows) for name, (layer, consume) in taps.items()]
    amp = torch.autocast(batch.ids_BT.device.type, precision) if precision else nullcontext()
    try:
        with torch.enable_grad(), amp:
            loss_B = sample_losses(model, batch)
        if loss_B.requires_grad:
            torch.autograd.backward(loss_B.sum())
    finally:
        for handle in handles:
            handle.remove()
    return loss_B.detach()


def _tap(name: str, layer: nn.Module, consume: Consumer, rows: int) -> Any:
    calls = 0

    def forward(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        x = inputs[0].detach()
        if calls > 1 or x.ndim != 3 or len(x) != rows:
            seen = f"an input of shape {tuple(x.shape)} for {rows} samples" if calls == 1 else "a second input"
            raise ModelError(
                f"layer {name} with {seen} in one pass",
                "layers that see every token of every sample once",
                "leave it out of the adapter's target_modules: experts that tokens are routed to, and shared layers,"
                " have no per-sample gradients here",
            )

        def backward(delta: Tensor) -> None:
            consume(x, delta.detach())

        # Nothing below the lowest tapped layers needs a gradient: there the graph begins at the output.
        traced = output if output.requires_grad else output.detach().requires_grad_(True)
        traced.register_hook(backward)  # type: ignore[no-untyped-call]
        return traced

    return layer.register_forward_hook(forward)
