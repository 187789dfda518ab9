"""A LoRA for the bundled model, or another: new words, subjects or a style from a few clips of your own.

Data:     a folder that `vidjax data CLIPS data/mine` made of clips and captions; forty are enough for one word.
Hardware: two CPU cores and a few minutes for the bundled model; for Wan 1.3B one GPU.
Command:  vidjax train configs/lora.py task.data.folder=data/mine --workdir runs/lora
Result:   runs/lora/export/pytorch_lora_weights.safetensors, for `vidjax generate "..." --loras FILE` and diffusers.
"""

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import FolderData
from vidjax.training.finetune import FinetuneTask
from vidjax.training.lora import LoRAConfig


def get_config() -> TrainConfig:
    # For another model: task.model=FOLDER_OR_HUB_ID, and task.dtype=bfloat16 task.remat=full where it is large.
    task = FinetuneTask(data=FolderData("data/mine"), model=None, lora=LoRAConfig(rank=16))
    return TrainConfig(
        task=task,
        steps=400,
        batch_size=8,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20, schedule="cosine", weight_decay=0.0),
        ema_decay=0.98,
        log_every=50,
        eval_every=200,
        sample_every=200,
        save_every=200,
    )
