"""What the tensors of Wan's denoiser are called in its original repository, where some modules have other names."""

MODULES = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.image_embedder.pos_embed": "img_emb.emb_pos",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}

# The published norms of a block are numbered in the order in which they are applied, the original ones are not:
# 2 and 3 change places. The original norm2 has no tensors.
BLOCK_MODULES = {
    "scale_shift_table": "modulation",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}

ATTENTION = {"attn1": "self_attn", "attn2": "cross_attn"}

ATTENTION_MODULES = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "norm_added_k": "norm_k_img",
}


def original_name(name: str) -> str:
    """The original name of a published tensor: ``blocks.3.attn1.to_q.bias`` is ``blocks.3.self_attn.q.bias``."""
    match name.split("."):
        case "blocks", layer, attention, *rest if attention in ATTENTION:
            return f"blocks.{layer}.{ATTENTION[attention]}.{_renamed('.'.join(rest), ATTENTION_MODULES)}"
        case "blocks", layer, *rest:
            return f"blocks.{layer}.{_renamed('.'.join(rest), BLOCK_MODULES)}"
    return _renamed(name, MODULES)


def _renamed(name: str, table: dict[str, str]) -> str:
    for published, original in table.items():
        if name == published or name.startswith(published + "."):
            return original + name[len(published) :]
    return name
