"""A new text encoder for the bundled model's denoiser, one that tells the order of words; the words keep their places.

Data:     captions of the shapes world, made up as it goes.
Hardware: two CPU cores: five minutes.
Command:  vidjax train configs/shapes_text.py --workdir runs/text
          vidjax train configs/shapes_adapted.py --workdir runs/pairs task.model=runs/text/export \\
              task.time_shift=2.0 steps=2400
          vidjax train configs/shapes_adapted.py --workdir runs/model task.model=runs/pairs/export
Result:   runs/text/export, a whole model, whose denoiser is to go on learning.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData
from vidjax.training.text_encoder import TextEncoderTask


def get_config() -> TrainConfig:
    return TrainConfig(
        task=TextEncoderTask(data=ClipData(num_clips=40_000)),
        steps=2000,
        batch_size=128,
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50, schedule="cosine", weight_decay=0.0),
        ema_decay=0.99,
        log_every=50,
        eval_every=250,
        save_every=500,
    )
