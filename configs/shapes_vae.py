"""The bundled model's video autoencoder, from nothing: single frames first, then clips, with single frames between.

Data:     40,000 clips of the shapes world, 17 frames of 64 x 64, rendered at the first use (about 1.4 GB).
Hardware: two CPU cores or one GPU.
Command:  vidjax train configs/shapes_vae.py --workdir runs/frames task.crop_frames=1 batch_size=24 steps=2600
          vidjax train configs/shapes_vae.py --workdir runs/vae task.start=runs/frames/export
Result:   runs/vae/export/vae, a published-format autoencoder: 17 x 64 x 64 -> 5 x 8 x 8 x 12.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData
from vidjax.models.wan.vae import VAEConfig
from vidjax.training.autoencoder import AutoencoderTask


def get_config() -> TrainConfig:
    # Wide and shallow, and every clip whole: shorter pieces of more clips learned less in the same time.
    model = VAEConfig(
        base_dim=48,
        decoder_base_dim=64,
        z_dim=12,
        dim_mult=(1, 1, 1),
        num_res_blocks=0,
        temperal_downsample=(True, True),
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
    )
    return TrainConfig(
        # Squared errors count for most: hard outlines, which blur first, are few.
        task=AutoencoderTask(
            model,
            data=ClipData(num_clips=40_000),
            crop_frames=17,
            picture_share=0.35,
            mse_weight=30.0,
            kl_weight=2e-2,
        ),
        steps=6400,
        batch_size=2,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=2e-3, warmup_steps=30, schedule="cosine", weight_decay=0.0, b2=0.99
        ),
        ema_decay=0.99,
        log_every=50,
        eval_every=800,
        sample_every=1600,
        save_every=800,
    )
