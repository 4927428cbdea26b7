"""One step of interpolation as vector instructions, for which no plain loop could be found.

Where the weights change every few pixels, the inner loops are too short for LLVM to vectorise: what it must check
before each of them (do the arrays overlap?) costs more than the loop, and without vectors it takes eight times longer.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from komad.kernels.plan import TAPS

BLOCK = (4, 8)
"""(rows, columns) of output pixels that share one sub-pixel position. Measured: the speed of a whole row with the
same position, where 1 x 16 takes twice as long."""


def _signature(
    typing_context: Any,  # noqa: ARG001 - numba calls it by position
    source: Any,
    start: Any,  # noqa: ARG001
    row_step: Any,  # noqa: ARG001
    tap_step: Any,  # noqa: ARG001
    weights: Any,
    first: Any,  # noqa: ARG001
    target: Any,
    into: Any,  # noqa: ARG001
    into_step: Any,  # noqa: ARG001
) -> Any:
    index = types.intp
    return types.void(source, index, index, index, weights, index, target, index, index), _emit


def _emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    rows, columns = BLOCK
    _, start, row_step, tap_step, _, first, _, into, into_step = args
    source, weights, target = (
        context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 4, 6)
    )
    vector = ir.VectorType(ir.FloatType(), columns)

    def at(base: Any, *steps: tuple[int, Any]) -> Any:
        for count, step in steps:
            base = builder.add(base, builder.mul(step, ir.Constant(step.type, count)))
        return base

    def pointer(array: Any, position: Any) -> Any:
        return builder.bitcast(builder.gep(array, [position]), vector.as_pointer())

    taps = [
        _repeated(
            builder, builder.load(builder.gep(weights, [at(first, (j, ir.Constant(first.type, 1)))])), vector
        )
        for j in range(TAPS)
    ]
    filtered = []
    for i in range(rows):
        total = None
        for j, weight in enumerate(taps):
            # Rows that neighbouring sums share are loaded once: LLVM sees that the positions are the same.
            pixels = builder.load(pointer(source, at(start, (i, row_step), (j, tap_step))), align=4)
            term = builder.fmul(weight, pixels, flags=("contract",))
            total = term if total is None else builder.fadd(total, term, flags=("contract",))
        filtered.append(total)
    # Stored last: LLVM cannot know that `target` is not `source`, and would load everything again in between.
    for i, total in enumerate(filtered):
        builder.store(total, pointer(target, at(into, (i, into_step))), align=4)
    return context.get_dummy_value()


def _repeated(builder: Any, value: Any, vector: Any) -> Any:
    """The scalar `value` in every lane."""
    undefined, index = ir.Constant(vector, ir.Undefined), ir.IntType(32)
    one = builder.insert_element(undefined, value, ir.Constant(index, 0))
    lanes = ir.Constant(ir.VectorType(index, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, undefined, lanes)


filter_block: Any = intrinsic(_signature)
"""filter_block(source, start, row_step, tap_step, weights, first, target, into, into_step): BLOCK of filtered values.

target[into + i into_step + k] = sum over j of weights[first + j] source[start + i row_step + j tap_step + k], where
positions are flat indices into C-contiguous float32 arrays of any shape. They are not checked.
"""
