"""The bundled model's denoiser goes on learning: to be given any frames, and to go on from a window that ended.

Data:     12,000 clips of 17 frames of the shapes world and 3,000 of 33, for windows from their middle.
Hardware: two CPU cores or one GPU.
Command:  vidjax train configs/shapes_given.py --workdir runs/given task.model=runs/denoiser/export
Result:   runs/given/export, a whole model that takes keyframes and last frames.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData
from vidjax.training.finetune import FinetuneTask


def get_config() -> TrainConfig:
    # Long clips are for later windows alone: what takes a whole clip, such as growing, is slower in them.
    task = FinetuneTask(
        data=ClipData(num_long_clips=3000),
        lora=None,
        given_share=0.45,
        window=5,
        later_share=1.0,
        time_shift=0.7,
    )
    return TrainConfig(
        task=task,
        steps=1_300,
        batch_size=32,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=3e-4, warmup_steps=50, schedule="cosine", weight_decay=0.01, b2=0.98
        ),
        ema_decay=0.995,
        log_every=50,
        eval_every=600,
        save_every=200,
    )
