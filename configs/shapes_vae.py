"""The bundled model's video autoencoder, from nothing.

Data:     12,000 clips of the shapes world, 17 frames of 64 x 64, rendered at the first use (about 0.3 GB).
Hardware: two CPU cores or one GPU.
Command:  vidjax train configs/shapes_vae.py --workdir runs/vae
Result:   runs/vae/export/vae, a published-format autoencoder: 17 x 64 x 64 -> 5 x 4 x 4 x 32.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.models.wan.vae import VAEConfig
from vidjax.training.autoencoder import AutoencoderTask


def get_config() -> TrainConfig:
    # Wide and shallow: the last stage paints 4 x 4 pixels at a time and needs the width.
    model = VAEConfig(
        base_dim=64,
        z_dim=32,
        dim_mult=(1, 1, 1),
        num_res_blocks=0,
        temperal_downsample=(True, True),
        is_residual=True,
        in_channels=48,
        out_channels=48,
        patch_size=4,
        scale_factor_spatial=16,
    )
    return TrainConfig(
        task=AutoencoderTask(model, crop_frames=17, kl_weight=4e-3),
        steps=3400,
        batch_size=4,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=2e-3, warmup_steps=30, schedule="cosine", weight_decay=0.0, b2=0.99
        ),
        ema_decay=0.99,
        log_every=25,
        eval_every=200,
        sample_every=200,
        save_every=250,
    )
