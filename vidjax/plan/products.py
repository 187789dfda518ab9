"""Matrix FLOPs of an instruction of a compiled program: products, convolutions, attention kernels."""

import math
import re

import numpy as np

from vidjax.plan.hlo import Instruction, Shape

KERNELS = {"dkv": (4, 1), "dq": (1, 2), r"splash|flash|mha|attention": (2, 0)}
"""Attention kernels by name: the matrix products that attention needs of them, and those that they repeat.

Forward are two, backward four; backward makes the weights anew instead of keeping them (Dao et al., 2205.14135), and
where the gradient of the queries is a kernel of its own, their gradient, too (see `_kernel_flops`)."""


def product_flops(ins: Instruction, operands: list[Shape]) -> float:
    """Two for each multiplication that a matrix product or convolution needs; padding and dilation need none."""
    left, right = operands[:2]
    result = ins.shapes[0].sizes
    if ins.opcode == "dot":
        contracted = [int(n) for n in re.findall(r"\d+", ins.attribute("lhs_contracting_dims") or "")]
        return 2.0 * math.prod(result) * math.prod(left.sizes[i] for i in contracted)
    lhs, rhs, out = re.match(r"(\w+)_(\w+)->(\w+)", ins.attribute("dim_labels")).groups()
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", ins.attribute("window") or ""))
    count = sum(label.isdigit() for label in out)
    defaults = {"stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    options = [window[name].split("x") if name in window else [value] * count for name, value in defaults.items()]
    spatial = 1
    for i, (stride, pad, spread, reach) in enumerate(zip(*options, strict=True)):
        size, taps, steps = (t.sizes[x.index(str(i))] for t, x in ((left, lhs), (right, rhs), (ins.shapes[0], out)))
        at = np.arange(steps)[:, None] * int(stride) + np.arange(taps) * int(reach) - int(pad.split("_")[0])
        spatial *= int(((at >= 0) & (at <= (size - 1) * int(spread)) & (at % int(spread) == 0)).sum())
    batch = result[out.index("b")] / int(ins.attribute("batch_group_count") or 1)
    if (ins.attribute("batch_group_count") or "1") != "1":
        batch = left.sizes[lhs.index("b")] / int(ins.attribute("batch_group_count"))
    return 2.0 * spatial * batch * result[out.index("f")] * right.sizes[rhs.index("i")]


def kernel_name(ins: Instruction) -> str:
    """What a kernel was called where it was written."""
    named = re.search(r'kernel_name\W+([\w.\-]+)|op_name="([^"]*)"', ins.rest)
    return next(filter(None, named.groups()), ins.name) if named else ins.name


def kernel_flops(ins: Instruction, operands: list[Shape]) -> tuple[float, float] | None:
    """FLOPs of an attention kernel, needed and repeated, by its queries [..., N, D] and keys [..., M, D]."""
    name = f"{ins.name} {kernel_name(ins)}".lower()
    products = next((count for pattern, count in KERNELS.items() if re.search(pattern, name)), None)
    arrays = [shape for shape in operands if len(shape.sizes) >= 3 and shape.dtype in ("bf16", "f32", "f16")]
    if products is None or len(arrays) < 3:
        return None
    queries, keys = arrays[:2]
    if products == KERNELS["dkv"] and sum(len(s.sizes) >= 3 for s in ins.shapes) < 3:
        products = 3, 1  # the gradient of the queries is another kernel's
    each = 2.0 * math.prod(queries.sizes) * keys.sizes[-2]
    return products[0] * each, products[1] * each
