"""The bundled model's denoiser goes on learning, what there can be beside words: pictures of who is in the clip and of
its style, a camera that moves as it is told, and frames one by one.

Data:     12,000 clips of 17 frames of the shapes world, 3,000 of 33, and 1,500 whose cameras do several things at once.
Hardware: two CPU cores or one GPU.
Command:  vidjax train configs/shapes_conditioning.py --workdir runs/conditioning task.model=runs/model/export
Result:   runs/conditioning/export, a model that takes `--references`, `--style-image`, `--camera` and `--causal`.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData
from vidjax.training.camera import CameraTraining
from vidjax.training.finetune import FinetuneTask


def get_config() -> TrainConfig:
    task = FinetuneTask(
        data=ClipData(num_long_clips=3000, num_camera_clips=1500),
        lora=None,
        given_share=0.35,
        reference_share=0.2,
        style_share=0.05,
        causal_share=0.25,
        window=5,
        later_share=1.0,
        time_shift=0.7,
        # Of a latent of 8 x 8 pixels four rays tell as much as sixty-four, and the adapter stays small.
        camera=CameraTraining(downscale_factor=2),
    )
    return TrainConfig(
        task=task,
        steps=1_600,
        batch_size=32,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=4e-4, warmup_steps=50, schedule="cosine", weight_decay=0.01, b2=0.98
        ),
        ema_decay=0.995,
        log_every=50,
        eval_every=800,
        save_every=200,
    )
