"""The bundled model's video autoencoder, from nothing.

Data:     12,000 clips of the shapes world, 17 frames of 64 x 64, rendered at the first use (about 0.3 GB).
Hardware: two CPU cores or one GPU.
Command:  vidjax train configs/shapes_vae.py --workdir runs/first
          vidjax train configs/shapes_vae.py --workdir runs/vae task.start=runs/first/export task.kl_weight=8e-3 \
              steps=4200 optimizer.learning_rate=1.6e-3
Result:   runs/vae/export/vae, a published-format autoencoder: 17 x 64 x 64 -> 5 x 8 x 8 x 12.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.models.wan.vae import VAEConfig
from vidjax.training.autoencoder import AutoencoderTask


def get_config() -> TrainConfig:
    # Wide and shallow, and every clip whole: shorter pieces of more clips learned less in the same time.
    model = VAEConfig(
        base_dim=48,
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
        # First what there is to see; what of it is worth its bits is asked by the second command.
        task=AutoencoderTask(model, crop_frames=17, kl_weight=3e-3),
        steps=4500,
        batch_size=2,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=2e-3, warmup_steps=30, schedule="cosine", weight_decay=0.0, b2=0.99
        ),
        ema_decay=0.99,
        log_every=50,
        eval_every=600,
        sample_every=600,
        save_every=600,
    )
