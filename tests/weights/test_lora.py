"""Low-rank changes: each way of naming, several at once, and files that do not fit."""

import functools
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import vidjax
from vidjax.errors import InputError, WeightsError
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.weights import abstract_params, published_tree
from vidjax.parallel import make_mesh
from vidjax.weights import folder, lora

TINY = DenoiserConfig(
    num_attention_heads=1, attention_head_dim=12, in_channels=3, out_channels=2, text_dim=8, freq_dim=6, ffn_dim=10,
    num_layers=3, image_dim=7, added_kv_proj_dim=12,
)  # fmt: skip

RANK = 4

SPELLINGS = {
    "published": ("transformer.blocks.1.attn1.to_q", "lora_A.weight", "lora_B.weight"),
    "original": ("diffusion_model.blocks.1.self_attn.q", "lora_A.weight", "lora_B.weight"),
    "underscores": ("lora_unet_blocks_1_self_attn_q", "lora_down.weight", "lora_up.weight"),
}
"""Of one module: its name, and what its two matrices are called."""

QUERY = "blocks.1.attn1.to_q.weight"


@functools.cache
def params(dtype="float32"):
    rng = np.random.default_rng(0)
    abstract = abstract_params("transformer", TINY)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape, np.float32), dtype), abstract)


def tensors(tree) -> dict[str, np.ndarray]:
    """Published tensors by name."""
    found = {}
    for path, group in published_tree(tree).items():
        value = np.asarray(functools.reduce(lambda t, k: t[k], path, tree), np.float32)
        found |= {tensor.name: tensor.to_published(value) for tensor in group}
    return found


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def check(found, expected: dict[str, np.ndarray]) -> None:
    """The named tensors are as expected, all others as they were."""
    before, after = tensors(params()), tensors(found)
    for name, value in after.items():
        if name in expected:
            np.testing.assert_allclose(value, expected[name], rtol=0, atol=2e-6 * np.abs(expected[name]).max())
        else:
            np.testing.assert_array_equal(value, before[name], err_msg=name)


def pair(spelling: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The two matrices of a module as a file holds them, and their product."""
    module, down, up = SPELLINGS[spelling]
    a, b = numbers(RANK, 12), numbers(12, RANK)
    return {f"{module}.{down}": a, f"{module}.{up}": b}, b @ a


@pytest.mark.parametrize("alpha", [None, 1.0])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_merged(tmp_path, spelling, alpha):
    """W + s alpha / r B A: a scale or a transposition that is off gives another style, or noise."""
    file, product = pair(spelling)
    if alpha is not None:
        file[f"{SPELLINGS[spelling][0]}.alpha"] = np.array(alpha, np.float32)
    save_file(file, tmp_path / "a.safetensors")
    found = lora.merge(params(), [(tmp_path / "a.safetensors", 0.7)])
    scale = 0.7 * (1 if alpha is None else alpha / RANK)
    check(found, {QUERY: tensors(params())[QUERY] + scale * product})


def test_alpha_of_all(tmp_path):
    """Files in the published naming say alpha once, in their metadata."""
    file, product = pair("published")
    alpha = {"transformer.lora_alpha": 2 * RANK, "transformer.alpha_pattern": {}}
    save_file(file, tmp_path / "a.safetensors", metadata={lora.METADATA: json.dumps(alpha)})
    found = lora.merge(params(), [(tmp_path / "a.safetensors", 1.0)])
    check(found, {QUERY: tensors(params())[QUERY] + 2 * product})


def test_several_add_up(tmp_path):
    """Styles are mixed: each counts with its own strength, whatever the order."""
    first, product = pair("published")
    save_file(first, tmp_path / "a.safetensors")
    a, b = numbers(2, 12), numbers(12, 2)
    module = SPELLINGS["underscores"][0]
    save_file({f"{module}.lora_down.weight": a, f"{module}.lora_up.weight": b}, tmp_path / "b.safetensors")
    loras = [(tmp_path / "a.safetensors", 0.5), (tmp_path / "b.safetensors", -1.5)]
    expected = {QUERY: tensors(params())[QUERY] + 0.5 * product - 1.5 * b @ a}
    check(lora.merge(params(), loras), expected)
    check(lora.merge(params(), loras[::-1]), expected)


def test_differences(tmp_path):
    """Distilled models come with whole differences of norms, biases and the head."""
    file = {
        "diffusion_model.blocks.2.ffn.0.diff_b": numbers(10),
        "diffusion_model.blocks.0.norm3.diff": numbers(12),
        "diffusion_model.blocks.0.norm3.diff_b": numbers(12) + 1,
        "diffusion_model.blocks.0.modulation.diff": numbers(1, 6, 12),
        "diffusion_model.head.head.diff": numbers(8, 12),
        "diffusion_model.patch_embedding.lora_down.weight": numbers(RANK, 3, 1, 2, 2),
        "diffusion_model.patch_embedding.lora_up.weight": numbers(12, RANK, 1, 1, 1),
    }
    save_file(file, tmp_path / "a.safetensors")
    w = tensors(params())
    down, up = numbers(RANK, 3, 1, 2, 2), numbers(12, RANK, 1, 1, 1)
    check(
        lora.merge(params(), [(tmp_path / "a.safetensors", 0.5)]),
        {
            "blocks.2.ffn.net.0.proj.bias": w["blocks.2.ffn.net.0.proj.bias"] + 0.5 * numbers(10),
            "blocks.0.norm2.weight": w["blocks.0.norm2.weight"] + 0.5 * numbers(12),
            "blocks.0.norm2.bias": w["blocks.0.norm2.bias"] + 0.5 * (numbers(12) + 1),
            "blocks.0.scale_shift_table": w["blocks.0.scale_shift_table"] + 0.5 * numbers(1, 6, 12),
            "proj_out.weight": w["proj_out.weight"] + 0.5 * numbers(8, 12),
            "patch_embedding.weight": w["patch_embedding.weight"]
            + 0.5 * np.einsum("or,rc->oc", up.reshape(12, RANK), down.reshape(RANK, 12)).reshape(12, 3, 1, 2, 2),
        },
    )


def test_half_precision_is_rounded_once(tmp_path):
    """Added in bfloat16, small changes would be lost twice over."""
    file, _ = pair("original")
    save_file({name: x.astype(ml_dtypes.bfloat16) for name, x in file.items()}, tmp_path / "a.safetensors")
    found = lora.merge(params("bfloat16"), [(tmp_path / "a.safetensors", 1.0)])
    a, b = (x.astype(ml_dtypes.bfloat16).astype(np.float32) for x in file.values())
    expected = (tensors(params("bfloat16"))[QUERY] + b @ a).astype(ml_dtypes.bfloat16).astype(np.float32)
    assert found["blocks"]["attn1"]["to_q"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_allclose(tensors(found)[QUERY], expected, rtol=2**-8)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("lora_te_text_model_layers_0.alpha", "not in this model: lora_te_text_model_layers_0.alpha"),
        ("transformer.blocks.3.attn1.to_q.diff", "not in this model: transformer.blocks.3.attn1.to_q.diff"),
        ("diffusion_model.blocks.0.norm2.diff", "not in this model: diffusion_model.blocks.0.norm2.diff"),
        ("transformer.blocks.0.attn1.to_k.lora_A.weight", "not a pair of up and down: transformer.blocks.0.attn1.to_k"),
        ("transformer.blocks.0.norm2.diff", r"blocks.0.norm2.diff \(5,\) instead of \(12,\)"),
        ("transformer.blocks.1.attn1.to_q.alpha", r"to_q.alpha \(5,\) instead of \(\)"),
    ],
)
def test_does_not_fit(tmp_path, tensor, message):
    """What is not applied must not pass unseen: the result would be half a style."""
    file, _ = pair("published")
    save_file(file | {tensor: np.zeros(5, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=message):
        lora.merge(params(), [(tmp_path / "a.safetensors", 1.0)])


def test_other_width(tmp_path):
    """A file for the 14B model on the 1.3B one."""
    file = {"transformer.proj_out.lora_A.weight": numbers(2, 16), "transformer.proj_out.lora_B.weight": numbers(8, 2)}
    save_file(file, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"lora_A.weight \(2, 16\) instead of \(2, 12\)"):
        lora.merge(params(), [(tmp_path / "a.safetensors", 1.0)])


def test_refused(tmp_path):
    file, _ = pair("published")
    path = tmp_path / "a.safetensors"
    with pytest.raises(WeightsError, match="is missing"):
        lora.merge(params(), [(path, 1.0)])
    save_file(file, path)
    with pytest.raises(InputError, match="strength nan: a finite number is expected"):
        lora.merge(params(), [(path, float("nan"))])
    save_file(file, path, metadata={lora.METADATA: json.dumps({"transformer.use_rslora": True})})
    with pytest.raises(WeightsError, match="use_rslora"):
        lora.merge(params(), [(path, 1.0)])
    next(iter(file.values()))[0, 0] = np.inf
    save_file(file, path)
    with pytest.raises(WeightsError, match=r"not finite: transformer.blocks.1.attn1.to_q.lora_A"):
        lora.merge(params(), [(path, 1.0)])


def test_split_over_devices(tmp_path):
    """A merged parameter stays where it was: gathered, the large models would not fit."""
    file, product = pair("published")
    save_file(file, tmp_path / "a.safetensors")
    mesh = make_mesh(fsdp=4, tensor=2)
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp", "tensor"))
    split = jax.tree.map(lambda x: jax.device_put(x, spec) if x.shape == (3, 12, 12) else x, params())
    found = lora.merge(split, [(tmp_path / "a.safetensors", 1.0)])
    check(found, {QUERY: tensors(params())[QUERY] + product})
    assert found["blocks"]["attn1"]["to_q"]["kernel"].sharding == spec


def test_load(tmp_path, tiny_folder):
    """The wiring: the denoiser that is loaded is the merged one."""
    shape = abstract_params("transformer", folder.read_config(tiny_folder, "transformer"))["proj_out"]["kernel"].shape
    difference = numbers(*shape[::-1])
    save_file({"transformer.proj_out.diff": difference}, tmp_path / "a.safetensors")
    plain = vidjax.load(tiny_folder).params["transformer"]["proj_out"]["kernel"]
    model = vidjax.load(tiny_folder, loras={str(tmp_path / "a.safetensors"): 0.5})
    found = model.params["transformer"]["proj_out"]["kernel"]
    np.testing.assert_allclose(found, plain + 0.5 * difference.T, rtol=0, atol=1e-6)
