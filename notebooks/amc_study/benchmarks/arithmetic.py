"""What the machine can do and what a step asks of it: the measured peak of matrix products, counted operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from amc_study.benchmarks.plan import Plan
from amc_study.benchmarks.rows import Row, row
from amc_study.benchmarks.timing import Spread, device, side_by_side, spread

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
GIGA = 1e9


def _forward(query_shape, key_shape, value_shape, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query_shape, key_shape, value_shape)


def _backward(grad_shape, query_shape, key_shape, value_shape, *_, out_shape=None, **__) -> int:
    return sdpa_backward_flop_count(grad_shape, query_shape, key_shape, value_shape)


ON_CPU = {  # fused attention on CPU, which torch's own counter leaves out
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}


def count_flops(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions in `call`, backward included."""
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        call()
    return counter.get_total_flops()


def matmul_peaks(plan: Plan) -> dict[str, Spread]:
    """GFLOP/s of square matrix products by precision: those of the size with the highest median."""
    return {name: max(_rates(plan, name), key=lambda rate: rate.value) for name in DTYPES}


def peak_rows(peaks: dict[str, Spread]) -> list[Row]:
    return [row(f"matmul_peak_{precision}", peak, "GFLOP/s") for precision, peak in peaks.items()]


def _rates(plan: Plan, precision: str) -> list[Spread]:
    """GFLOP/s of each size of `plan`."""
    generator = torch.Generator().manual_seed(0)
    products = {}
    for size in plan.matmul_sizes:
        left, right = (torch.randn(size, size, generator=generator).to(device(), DTYPES[precision]) for _ in range(2))
        products[str(size)] = partial(torch.mm, left, right, out=torch.empty_like(left))
    seconds = side_by_side(products, plan.repetitions, plan.warm_up)
    return [spread([2 * size**3 / s / GIGA for s in seconds[str(size)]]) for size in plan.matmul_sizes]
