"""The bundled model's upsampler, from nothing.

Data:     3,000 clips of the shapes world, 17 frames of 128 x 128, rendered at the first use (about 0.4 GB).
Hardware: two CPU cores, half an hour, or one GPU.
Command:  vidjax train configs/shapes_upsampler.py --workdir runs/upsampler task.vae=runs/vae/export
Result:   runs/upsampler/export/upsampler, a part to put into the folder of a model with that autoencoder.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData
from vidjax.models.upsampler import UpsamplerConfig
from vidjax.training.upsampler import UpsamplerTask


def get_config() -> TrainConfig:
    return TrainConfig(
        task=UpsamplerTask(
            vae="runs/vae/export",
            model=UpsamplerConfig(dim=32, num_res_blocks=4),
            data=ClipData(num_clips=3000, num_test_clips=64, height=128, width=128),
        ),
        steps=800,
        batch_size=4,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-3, warmup_steps=30, schedule="cosine", weight_decay=0.0, b2=0.99
        ),
        ema_decay=0.99,
        log_every=50,
        eval_every=200,
        save_every=200,
    )
