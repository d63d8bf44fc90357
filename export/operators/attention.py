"""The kernel of graph convolution with edges of ``attention``, in Triton. Importing this needs ``triton``.

y = x + relu(softmax(q kᵀ / t) v): neither the N×N products nor the edges ever lie in memory. A program computes some
rows of some channels of one photo. It goes over the positions in their order and keeps the largest product so far, the
sum of the weights and their sum with the values, all in fp32: what it computes depends on nothing but the input.

The arguments stand in the order in which TensorRT passes them: tensors, whole numbers, results.
"""

import triton
import triton.language as tl


@triton.jit
def graph_attention(
    x,
    queries,
    keys,
    values,
    temperature,
    positions,
    y,
    channels: tl.constexpr,
    dim: tl.constexpr,
    padded_dim: tl.constexpr,
    shrink: tl.constexpr,
    row_tile: tl.constexpr,
    column_tile: tl.constexpr,
    channel_tile: tl.constexpr,
):
    """Compute ``row_tile`` × ``channel_tile`` numbers of y; the grid is rows, channels, photos, each in tiles.

    Args:
        x: B×N×C, fp32.
        queries: B×N×D, fp16, bf16 or fp32.
        keys: B×N×D, of the same type.
        values: B×N×C, of the same type, times ``shrink``.
        temperature: one number, fp32.
        positions: N.
        y: B×N×C, fp32.
        channels: C.
        dim: D.
        padded_dim: a power of two, 16 or more, that holds D.
        shrink: a power of two.
        row_tile: rows of a program.
        column_tile: positions that it looks at together.
        channel_tile: channels of a program.
    """
    rows = tl.program_id(0) * row_tile + tl.arange(0, row_tile)
    part = tl.program_id(1) * channel_tile + tl.arange(0, channel_tile)
    first = tl.program_id(2).to(tl.int64) * positions
    dims = tl.arange(0, padded_dim)
    is_row, is_channel, is_dim = rows < positions, part < channels, dims < dim
    query_places = (first + rows)[:, None] * dim + dims[None, :]
    query = tl.load(queries + query_places, mask=is_row[:, None] & is_dim[None, :], other=0.0)
    # 2^z is one instruction, e^z is two.
    sharpness = 1.4426950408889634 / tl.load(temperature)
    largest = tl.full((row_tile,), float("-inf"), tl.float32)
    total = tl.zeros((row_tile,), tl.float32)
    mean = tl.zeros((row_tile, channel_tile), tl.float32)
    for start in range(0, positions, column_tile):
        columns = start + tl.arange(0, column_tile)
        is_column = columns < positions
        key_places = (first + columns)[None, :] * dim + dims[:, None]
        key = tl.load(keys + key_places, mask=is_column[None, :] & is_dim[:, None], other=0.0)
        product = tl.dot(query, key, input_precision="ieee") * sharpness
        product = tl.where(is_column[None, :], product, float("-inf"))
        larger = tl.maximum(largest, tl.max(product, 1))
        weight = tl.exp2(product - larger[:, None])
        kept = tl.exp2(largest - larger)
        total = total * kept + tl.sum(weight, 1)
        value_places = (first + columns)[:, None] * channels + part[None, :]
        value = tl.load(values + value_places, mask=is_column[:, None] & is_channel[None, :], other=0.0)
        mean = tl.dot(weight.to(value.dtype), value, mean * kept[:, None], input_precision="ieee")
        largest = larger
    places = (first + rows)[:, None] * channels + part[None, :]
    mask = is_row[:, None] & is_channel[None, :]
    before = tl.load(x + places, mask=mask, other=0.0)
    change = mean / (total * shrink)[:, None]
    tl.store(y + places, before + tl.maximum(change, 0.0), mask=mask)
