"""A new decoder for the bundled model's latents, wider than its encoder: better pictures, and the denoiser stays.

Data:     12,000 clips of 17 frames of the shapes world, rendered at the first use (about 0.3 GB).
Hardware: two CPU cores or one GPU.
Command:  vidjax train configs/shapes_decoder.py --workdir runs/pictures task.vae=runs/vae/export \
              task.decoder_base_dim=64 task.crop_frames=1 batch_size=24 steps=2400
          vidjax train configs/shapes_decoder.py --workdir runs/decoder task.vae=runs/pictures/export
Result:   runs/decoder/export/vae, to be put in place of a model's `vae`.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.training.decoder import DecoderTask


def get_config() -> TrainConfig:
    # Single frames first, as the commands say: in the same time they are of many more scenes.
    return TrainConfig(
        task=DecoderTask("runs/pictures/export", crop_frames=17),
        steps=6000,
        batch_size=2,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=2e-3, warmup_steps=30, schedule="cosine", weight_decay=0.0, b2=0.99
        ),
        ema_decay=0.99,
        log_every=50,
        eval_every=500,
        sample_every=1000,
        save_every=500,
    )
