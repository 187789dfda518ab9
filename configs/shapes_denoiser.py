"""The bundled model's denoiser and text encoder, from nothing, on the latents of `shapes_vae.py`.

Data:     12,000 clips of the shapes world with captions; their latents are computed at the first use.
Hardware: two CPU cores or one GPU.
Command:  vidjax train configs/shapes_denoiser.py --workdir runs/denoiser
Result:   runs/denoiser/export, a whole model: `vidjax generate "..." --model runs/denoiser/export`.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.models.t5 import T5Config
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.presets import SamplingDefaults
from vidjax.training.denoiser import DenoiserTask


def get_config() -> TrainConfig:
    model = DenoiserConfig(
        # Tokens of 16 x 16 pixels. In trials those of 32 x 32 learned the words sooner, and details later.
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=12,
        out_channels=12,
        text_dim=128,
        freq_dim=256,
        ffn_dim=768,
        num_layers=6,
        rope_max_seq_len=1024,
    )
    text = T5Config(d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4)
    sampling = SamplingDefaults(
        height=64,
        width=64,
        num_frames=17,
        fps=8.0,
        num_inference_steps=20,
        guidance_scale=3.5,
        flow_shift=3.0,
        max_text_length=32,
        # A clip is one scene with one shape: in the tiles of a larger one there would be one each.
        refine=0.0,
    )
    return TrainConfig(
        task=DenoiserTask(vae="runs/vae/export", model=model, text=text, sampling=sampling),
        steps=9_000,
        batch_size=32,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=1e-3, warmup_steps=100, schedule="cosine", weight_decay=0.01, b2=0.98
        ),
        ema_decay=0.998,
        log_every=50,
        eval_every=500,
        sample_every=500,
        save_every=500,
    )
