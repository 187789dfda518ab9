"""The bundled model's denoiser goes on learning, on the latents of an autoencoder it was adapted to.

It learns to be given any frames, pictures of who is in the clip and of its style, and a camera that moves as it is
told; to go on from a window that ended, and mend what went wrong in it; to make clips frame by frame, and to fill in
what a caption leaves out.

Data:     40,000 clips of 17 frames of the shapes world and 4,000 of 33, for windows from their middle (1.7 GB): of
          12,000 a denoiser of this size learned by heart what it should learn to make. 10,000 whose cameras do several
          things at once, 4,000 that are wider or higher, 60,000 single frames (1 GB more).
Hardware: two CPU cores or one GPU.
Command:  vidjax adapt runs/vae/export runs/adapted
          vidjax train configs/shapes_adapted.py --workdir runs/model task.model=runs/adapted
Result:   runs/model/export, a whole model.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData
from vidjax.training.camera import CameraTraining
from vidjax.training.finetune import FinetuneTask


def get_config() -> TrainConfig:
    # Long clips are for later windows alone: what takes a whole clip, such as growing, is slower in them.
    # Pictures are for what is where, which is decided at high diffusion times: more of these teach a model that does
    # not know it yet (task.time_shift=2.0 steps=2400).
    task = FinetuneTask(
        data=ClipData(
            num_clips=40_000,
            num_long_clips=4000,
            num_camera_clips=10_000,
            num_oblong_clips=4000,
            num_pictures=60_000,
        ),
        lora=None,
        untold_share=0.1,
        given_share=0.3,
        reference_share=0.45,
        style_share=0.03,
        causal_share=0.15,
        window=5,
        later_share=1.0,
        past_noise=0.3,
        time_shift=1.3,
        # Of a latent of 8 x 8 pixels four rays tell as much as sixty-four, and the adapter stays small.
        camera=CameraTraining(share=0.25, downscale_factor=2),
    )
    return TrainConfig(
        task=task,
        steps=8600,
        batch_size=16,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=1.2e-3, warmup_steps=100, schedule="cosine", weight_decay=0.01, b2=0.98
        ),
        ema_decay=0.998,
        log_every=50,
        eval_every=1000,
        save_every=500,
    )
