"""Reading compiled programs: loops, products, what is sent. Every count here is done by hand."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from vidjax.plan.work import work_of

TRIPS = 5


@pytest.fixture(scope="module")
def looped():
    """Text of a compiled loop over 4 x 2 devices: a product, and one collective of each kind, in every run."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("a", "b")), out_specs=P("a", "b"), check_vma=False)
    def program(w, x):
        def body(x, _):
            x = x @ w
            x = lax.psum(jnp.sin(x), "b")
            x = lax.all_gather(x, "a", tiled=True)
            x = lax.psum_scatter(jnp.cos(x), "a", tiled=True)
            x = lax.all_to_all(jnp.sin(x), "a", split_axis=1, concat_axis=0, tiled=True)
            x = lax.all_to_all(x, "a", split_axis=0, concat_axis=1, tiled=True)
            x = lax.ppermute(jnp.cos(x), "b", [(0, 1), (1, 0)])
            return x, None

        return lax.scan(body, x, length=TRIPS)[0]

    shapes = jax.ShapeDtypeStruct((64, 64), jnp.float32), jax.ShapeDtypeStruct((4 * 32, 2 * 64), jnp.float32)
    return program.lower(*shapes).compile().as_text()


def test_collectives_count_as_often_as_their_loop_runs(looped):
    """Forty layers share one loop: counted once, a plan would promise a fortieth of the traffic."""
    x = 32 * 64 * 4  # bytes of a device's part
    assert work_of(looped, 8).collectives == {
        "all-reduce": TRIPS * x,  # 2 (n - 1) / n with n = 2
        "all-gather": TRIPS * 3 * x,
        "reduce-scatter": TRIPS * 3 * x,  # (n - 1) / n of the gathered, which is 4 x
        "all-to-all": TRIPS * 2 * 0.75 * x,
        "collective-permute": TRIPS * x,
    }


def test_products_count_as_often_as_their_loop_runs(looped):
    """The FLOPs ratio rests on it."""
    assert work_of(looped, 8).flops == TRIPS * 2 * 32 * 64 * 64


def test_trips_are_read_from_the_loop_itself(looped):
    """The TPU compiler does not write a loop's trip count down, as the CPU's does."""
    bare = re.sub(r'"known_trip_count":\{"n":"\d+"\},?', "", looped)
    assert bare != looped
    assert work_of(bare, 8) == work_of(looped, 8)
    assert not work_of(bare, 8).unknown


def test_what_crosses_slices(looped):
    """Over two slices axis ``a`` spans both: sums of pairs on ``b`` stay inside, gathers do not."""
    x = 32 * 64 * 4
    # Of a gather of four over two slices a device sends its part across once; a scatter is a gather turned around;
    # of an exchange, half of its part, twice.
    assert work_of(looped, 8, slices=2).across == TRIPS * (x + x + x)


def test_a_gather_beside_other_work_counts_once():
    """The TPU compiler writes a gather into every fusion that runs while it is under way; here two are begun."""
    text = """
%begin (p: f32[8]) -> f32[16] {
  %p = f32[8]{0} parameter(0)
  %gather.1 = f32[16]{0} all-gather(%p), channel_id=3, replica_groups={{0,1}}, dimensions={0}
  ROOT %start = f32[16]{0} custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%beside (p.1: f32[8]) -> f32[16] {
  %p.1 = f32[8]{0} parameter(0)
  ROOT %gather.2 = f32[16]{0} all-gather(%p.1), channel_id=3, replica_groups={{0,1}}, dimensions={0}
}

ENTRY %main (x: f32[8]) -> f32[16] {
  %x = f32[8]{0} parameter(0)
  %one = f32[16]{0} fusion(%x), kind=kCustom, calls=%begin
  %two = f32[16]{0} fusion(%x), kind=kCustom, calls=%begin
  ROOT %three = f32[16]{0} fusion(%x), kind=kCustom, calls=%beside
}
"""
    assert work_of(text, 2).collectives == {"all-gather": 2 * 8 * 4}


@pytest.mark.parametrize(
    ("labels", "left", "right", "out", "window", "flops"),
    [
        # A batched product as the TPU compiler writes it: each place of the dilated input meets one tap.
        ("0bf_0oi->0bf", (12, 7, 5), (12, 3, 5), (12, 7, 3), "size=12 stride=11 lhs_dilate=12", 2 * 12 * 7 * 5 * 3),
        ("bf_io->bf", (7, 5), (5, 3), (7, 3), "", 2 * 7 * 5 * 3),
        # Three taps on six places without padding, and with: then the two at the ends miss one.
        ("b0f_0io->b0f", (1, 6, 5), (3, 5, 4), (1, 4, 4), "size=3", 2 * 4 * 3 * 5 * 4),
        ("b0f_0io->b0f", (1, 6, 5), (3, 5, 4), (1, 6, 4), "size=3 pad=1_1", 2 * (6 * 3 - 2) * 5 * 4),
    ],
)
def test_convolutions(labels, left, right, out, window, flops):
    """On TPU every product is a convolution; taps that meet padding are no work."""
    shape = lambda sizes: f"f32[{','.join(map(str, sizes))}]{{0}}"  # noqa: E731
    text = f"""
ENTRY %main (a: f32[1], b: f32[1]) -> f32[1] {{
  %a = {shape(left)} parameter(0)
  %b = {shape(right)} parameter(1)
  ROOT %c = {shape(out)} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""
    assert work_of(text, 1).flops == flops


def test_attention_kernels_count_by_their_shapes():
    """The compiler sees nothing in a kernel; forward it is two products, of all queries with all keys."""
    text = """
ENTRY %main (q: bf16[1], k: bf16[1]) -> bf16[1] {
  %m = s32[2]{0} parameter(0)
  %q = bf16[2,4,96,64]{3,2,1,0} parameter(1)
  %k = bf16[2,4,128,64]{3,2,1,0} parameter(2)
  %splash.1 = bf16[2,4,96,64]{3,2,1,0} custom-call(%m, %q, %k, %k), custom_call_target="tpu_custom_call", op_name="fwd"
  ROOT %other = bf16[2]{0} custom-call(%q), custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/mystery"}
}
"""
    work = work_of(text, 1)
    assert work.flops == work.kernel_flops == 2 * 2 * (2 * 4 * 96 * 64) * 128
    assert work.unknown == {"kernel jit(f)/mystery"}


def test_memory_traffic_leaves_out_what_is_near():
    """Slices of stacked layers are read one at a time, and what lies in vector memory, S(1), is not read from HBM."""
    text = """
%slice (p: f32[40,256], i: s32[]) -> f32[256] {
  %p = f32[40,256]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  %cut = f32[1,256]{1,0} dynamic-slice(%p, %i, %z), dynamic_slice_sizes={1,256}
  ROOT %flat = f32[256]{0:S(1)} bitcast(%cut)
}

ENTRY %main (x: f32[40,256], i: s32[]) -> f32[256] {
  %x = f32[40,256]{1,0} parameter(0)
  %i.1 = s32[]{:S(2)} parameter(1)
  %near = f32[256]{0:S(1)} fusion(%x, %i.1), kind=kLoop, calls=%slice
  ROOT %far = f32[256]{0} negate(%near)
}
"""
    assert work_of(text, 1).memory_bytes == 256 * 4 + 256 * 4
