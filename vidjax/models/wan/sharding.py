"""How the parameters of the Wan family are split over a mesh: (path regex, PartitionSpec), first match wins.

Matrices are split over ``fsdp`` along their input and over ``tensor`` along their output, or the other way round
where a layer brings the width back; what is small stays whole. Stacked layers have a leading axis.
"""

from jax.sharding import PartitionSpec as P

DENOISER_RULES = (
    (r"^blocks/.*(to_out\.0|net\.2)/kernel$", P(None, "tensor", "fsdp")),
    (r"^blocks/.*kernel$", P(None, "fsdp", "tensor")),
    (r"^blocks/.*(to_q|to_k|to_v|add_k_proj|add_v_proj|net\.0\.proj)/bias$", P(None, "tensor")),
    (r"^(condition_embedder/.*|proj_out)/kernel$", P("fsdp", None)),
    (r"^patch_embedding/kernel$", P(None, None, None, None, "fsdp")),
    (r".*", P()),
)

TEXT_ENCODER_RULES = (
    (r"^shared/embedding$", P("tensor", "fsdp")),
    (r"^encoder\.block/.*/(o|wo)/kernel$", P(None, "tensor", "fsdp")),
    (r"^encoder\.block/.*/(q|k|v|wi_0|wi_1)/kernel$", P(None, "fsdp", "tensor")),
    (r".*", P()),
)

IMAGE_ENCODER_RULES = (
    (r"^vision_model\.encoder\.layers/.*(out_proj|fc2)/kernel$", P(None, "tensor", "fsdp")),
    (r"^vision_model\.encoder\.layers/.*kernel$", P(None, "fsdp", "tensor")),
    (r"^vision_model\.encoder\.layers/.*(q_proj|k_proj|v_proj|fc1)/bias$", P(None, "tensor")),
    (r".*", P()),
)

CAMERA_ADAPTER_RULES = (
    (r"/kernel$", P(None, None, None, "fsdp")),
    (r".*", P()),
)

VAE_RULES = UPSAMPLER_RULES = ((r".*", P()),)
"""Small beside their activations: every device holds them whole."""
