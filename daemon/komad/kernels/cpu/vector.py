"""The two inner steps of the fused pass as vector instructions.

In plain loops LLVM does not vectorise them reliably. Where the weights change every few pixels the loops are too short:
what must be checked before each of them (do the arrays overlap?) costs more than the loop. And whether the loading of a
row is vectorised depends on the code around it. Without vectors both take about eight times longer.
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
RUN = 16
"""Pixels of a row that are loaded at once."""


def _filter_signature(
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
    return types.void(source, index, index, index, weights, index, target, index, index), _emit_filter


def _emit_filter(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    rows, columns = BLOCK
    _, start, row_step, tap_step, _, first, _, into, into_step = args
    source, weights, target = (_data(context, builder, signature, args, i) for i in (0, 4, 6))
    vector = ir.VectorType(ir.FloatType(), columns)
    taps = [
        _repeated(builder, builder.load(builder.gep(weights, [_at(builder, first, j)])), vector)
        for j in range(TAPS)
    ]
    filtered = []
    for i in range(rows):
        total = None
        for j, weight in enumerate(taps):
            # Rows that neighbouring sums share are loaded once: LLVM sees that the positions are the same.
            position = _at(builder, _at(builder, start, i, row_step), j, tap_step)
            pixels = _load(builder, source, position, vector)
            term = builder.fmul(weight, pixels, flags=("contract",))
            total = term if total is None else builder.fadd(total, term, flags=("contract",))
        filtered.append(total)
    # Stored last: LLVM cannot know that `target` is not `source`, and would load everything again in between.
    for i, total in enumerate(filtered):
        _store(builder, total, target, _at(builder, into, i, into_step))
    return context.get_dummy_value()


def _calibrate_signature(
    typing_context: Any,  # noqa: ARG001 - numba calls it by position
    frames: Any,
    start: Any,  # noqa: ARG001
    gain: Any,
    offset: Any,
    pixel: Any,  # noqa: ARG001
    target: Any,
    into: Any,  # noqa: ARG001
) -> Any:
    index = types.intp
    return types.void(frames, index, gain, offset, index, target, index), _emit_calibrate


def _emit_calibrate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    _, start, _, _, pixel, _, into = args
    frames, gain, offset, target = (_data(context, builder, signature, args, i) for i in (0, 2, 3, 5))
    vector = ir.VectorType(ir.FloatType(), RUN)
    raw_type = signature.args[0].dtype
    raw = _load(builder, frames, start, ir.VectorType(frames.type.pointee, RUN), align=1)
    if raw_type in types.signed_domain:
        raw = builder.sitofp(raw, vector)
    elif raw_type in types.unsigned_domain:
        raw = builder.uitofp(raw, vector)
    elif raw_type == types.float64:
        raw = builder.fptrunc(raw, vector)
    scaled = builder.fmul(raw, _load(builder, gain, pixel, vector), flags=("contract",))
    corrected = builder.fadd(scaled, _load(builder, offset, pixel, vector), flags=("contract",))
    _store(builder, corrected, target, into)
    return context.get_dummy_value()


def _data(context: Any, builder: Any, signature: Any, args: Any, i: int) -> Any:
    """Pointer to the first element of the array that is argument `i`."""
    return context.make_array(signature.args[i])(context, builder, args[i]).data


def _at(builder: Any, base: Any, count: int, step: Any = None) -> Any:
    """Base + count step; the step is one when left out."""
    factor = ir.Constant(base.type, count)
    return builder.add(base, factor if step is None else builder.mul(step, factor))


def _load(builder: Any, array: Any, position: Any, vector: Any, align: int = 4) -> Any:
    return builder.load(builder.bitcast(builder.gep(array, [position]), vector.as_pointer()), align=align)


def _store(builder: Any, value: Any, array: Any, position: Any) -> None:
    pointer = builder.bitcast(builder.gep(array, [position]), value.type.as_pointer())
    builder.store(value, pointer, align=4)


def _repeated(builder: Any, value: Any, vector: Any) -> Any:
    """The scalar `value` in every lane."""
    undefined, index = ir.Constant(vector, ir.Undefined), ir.IntType(32)
    one = builder.insert_element(undefined, value, ir.Constant(index, 0))
    lanes = ir.Constant(ir.VectorType(index, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, undefined, lanes)


# Positions below are flat indices into C-contiguous arrays of any shape. They are not checked.

filter_block: Any = intrinsic(_filter_signature)
"""filter_block(source, start, row_step, tap_step, weights, first, target, into, into_step): BLOCK of filtered values.

target[into + i into_step + k] = sum over j of weights[first + j] source[start + i row_step + j tap_step + k]; all
float32.
"""

calibrate_run: Any = intrinsic(_calibrate_signature)
"""calibrate_run(frames, start, gain, offset, pixel, target, into): RUN corrected pixels.

target[into + k] = frames[start + k] gain[pixel + k] + offset[pixel + k]; frames of any real type, the others float32.
"""
