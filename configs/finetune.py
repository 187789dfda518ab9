"""A whole denoiser goes on learning on your clips: any Wan that makes clips from words, or the bundled model.

Data:     a folder that `vidjax data CLIPS data/mine` made of clips and captions.
Hardware: Wan 1.3B at 81 frames of 480p: 8 chips with 32 GB each, as by
          `vidjax plan --preset wan2.1-t2v-1.3b --task train --topology v6e:2x4 --mesh fsdp=-1`.
Command:  vidjax train configs/finetune.py task.data.folder=data/mine task.model=MODEL mesh.fsdp=-1 --workdir runs/tuned
Result:   runs/tuned/export, a whole model: `vidjax generate "..." --model runs/tuned/export`.
"""

from vidjax.config import MeshConfig, OptimizerConfig, TrainConfig
from vidjax.data.source import FolderData
from vidjax.training.finetune import FinetuneTask


def get_config() -> TrainConfig:
    task = FinetuneTask(data=FolderData("data/mine"), model=None, lora=None, dtype="bfloat16", remat="full")
    return TrainConfig(
        task=task,
        steps=2000,
        batch_size=8,
        optimizer=OptimizerConfig(learning_rate=1e-5, warmup_steps=100, schedule="constant"),
        ema_decay=0.999,
        mesh=MeshConfig(fsdp=-1),
        log_every=10,
        eval_every=500,
        sample_every=500,
        save_every=500,
    )
