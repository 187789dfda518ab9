"""An autoencoder's decoder goes on learning on your clips: the same latents, better pictures of them.

Data:     a folder that `vidjax data CLIPS data/mine` made of clips and captions.
Hardware: two CPU cores for the bundled model's; the published ones want an accelerator.
Command:  vidjax train configs/decoder.py task.data.folder=data/mine task.vae=MODEL --workdir runs/decoder
Result:   runs/decoder/export/vae, to be put in place of the folder's `vae`; what knows its latents needs no training.
"""

from vidjax.config import MeshConfig, OptimizerConfig, TrainConfig
from vidjax.data.source import FolderData
from vidjax.training.decoder import DecoderTask


def get_config() -> TrainConfig:
    return TrainConfig(
        task=DecoderTask("MODEL", data=FolderData("data/mine"), crop_frames=9),
        steps=2000,
        batch_size=4,
        optimizer=OptimizerConfig(learning_rate=5e-5, warmup_steps=100, schedule="cosine"),
        ema_decay=0.999,
        mesh=MeshConfig(data=-1),
        log_every=10,
        eval_every=250,
        sample_every=500,
        save_every=250,
    )
