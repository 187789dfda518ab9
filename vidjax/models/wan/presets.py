"""The published models: configuration of every part, and the defaults their authors sample with.

Sources: the configurations in the published folders; flow shift, steps, size and guidance from the official
repositories (Wan2.1, Wan2.2), whose shift differs from the folders' and gives the better pictures.
"""

import dataclasses

from vidjax.errors import InputError
from vidjax.models.clip import CLIPConfig
from vidjax.models.t5 import T5Config
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.vae import VAEConfig


@dataclasses.dataclass(frozen=True)
class SamplingDefaults:
    """What is used where the user names no value. Sizes in pixels, ``fps`` in frames per second.

    ``max_text_length`` is in tokens. ``guidance_scale`` 1 turns guidance off; models with two denoisers have a scale
    of its own for the second, ``guidance_scale_2``. ``given`` says of weights with one time per frame which latent
    frames they were trained to be given: the ``first`` ones, or ``any``. ``refine`` is the share of the steps that
    larger clips are made anew with, ``past_noise`` the diffusion time of the frames that a window goes on from. What
    the weights were trained for besides: ``causal``, to make clips frame by frame too; ``references``, with up to how
    many pictures of their subject; ``style_image``, with one of their style.
    """

    height: int = 480
    width: int = 832
    num_frames: int = 81
    fps: float = 16.0
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    flow_shift: float = 5.0
    max_text_length: int = 512
    guidance_scale_2: float | None = None
    given: str = "first"
    refine: float = 0.35
    past_noise: float = 0.0
    causal: bool = False
    references: int = 0
    style_image: bool = False


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published model. ``expand_timesteps`` marks weights trained with one time per frame (2.2 TI2V).

    Those with a ``boundary_ratio`` have a second denoiser of the same form for the times below it.
    """

    transformer: DenoiserConfig
    vae: VAEConfig
    text_encoder: T5Config = T5Config()
    image_encoder: CLIPConfig | None = None
    sampling: SamplingDefaults = SamplingDefaults()
    expand_timesteps: bool = False
    boundary_ratio: float | None = None

    def part(self, name: str) -> DenoiserConfig | VAEConfig | T5Config | CLIPConfig:
        """Configuration of a part, which is named as its folder is.

        Raises:
          InputError: this model has no such part.
        """
        parts = {
            "transformer": self.transformer,
            "transformer_2": None if self.boundary_ratio is None else self.transformer,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "image_encoder": self.image_encoder,
        }
        if parts.get(name) is None:
            there = ", ".join(part for part, config in parts.items() if config is not None)
            raise InputError(f"this model has no part {name!r}; it has {there}")
        return parts[name]


VAE_2_1 = VAEConfig(
    latents_mean=(
        -0.7571,
        -0.7089,
        -0.9113,
        0.1075,
        -0.1745,
        0.9653,
        -0.1517,
        1.5508,
        0.4134,
        -0.0715,
        0.5517,
        -0.3632,
        -0.1922,
        -0.9497,
        0.2503,
        -0.2921,
    ),
    latents_std=(
        2.8184,
        1.4541,
        2.3275,
        2.6558,
        1.2196,
        1.7708,
        2.6052,
        2.0743,
        3.2687,
        2.1526,
        2.8652,
        1.5579,
        1.6382,
        1.1253,
        2.8251,
        1.916,
    ),
)

VAE_2_2 = VAEConfig(
    base_dim=160,
    decoder_base_dim=256,
    z_dim=48,
    is_residual=True,
    in_channels=12,
    out_channels=12,
    patch_size=2,
    scale_factor_spatial=16,
    latents_mean=(
        -0.2289,
        -0.0052,
        -0.1323,
        -0.2339,
        -0.2799,
        0.0174,
        0.1838,
        0.1557,
        -0.1382,
        0.0542,
        0.2813,
        0.0891,
        0.157,
        -0.0098,
        0.0375,
        -0.1825,
        -0.2246,
        -0.1207,
        -0.0698,
        0.5109,
        0.2665,
        -0.2108,
        -0.2158,
        0.2502,
        -0.2055,
        -0.0322,
        0.1109,
        0.1567,
        -0.0729,
        0.0899,
        -0.2799,
        -0.123,
        -0.0313,
        -0.1649,
        0.0117,
        0.0723,
        -0.2839,
        -0.2083,
        -0.052,
        0.3748,
        0.0152,
        0.1957,
        0.1433,
        -0.2944,
        0.3573,
        -0.0548,
        -0.1681,
        -0.0667,
    ),
    latents_std=(
        0.4765,
        1.0364,
        0.4514,
        1.1677,
        0.5313,
        0.499,
        0.4818,
        0.5013,
        0.8158,
        1.0344,
        0.5894,
        1.0901,
        0.6885,
        0.6165,
        0.8454,
        0.4978,
        0.5759,
        0.3523,
        0.7135,
        0.6804,
        0.5833,
        1.4146,
        0.8986,
        0.5659,
        0.7069,
        0.5338,
        0.4889,
        0.4917,
        0.4069,
        0.4999,
        0.6866,
        0.4093,
        0.5709,
        0.6065,
        0.6415,
        0.4944,
        0.5726,
        1.2042,
        0.5458,
        1.6887,
        0.3971,
        1.06,
        0.3943,
        0.5537,
        0.5444,
        0.4089,
        0.7468,
        0.7744,
    ),
)

WIDE = DenoiserConfig()
WIDE_IMAGE = dataclasses.replace(WIDE, in_channels=36, image_dim=1280, added_kv_proj_dim=5120)

PRESETS = {
    "wan2.1-t2v-1.3b": Preset(
        transformer=DenoiserConfig(num_attention_heads=12, num_layers=30, ffn_dim=8960),
        vae=VAE_2_1,
        sampling=SamplingDefaults(flow_shift=8.0, guidance_scale=6.0),
    ),
    "wan2.1-t2v-14b": Preset(transformer=WIDE, vae=VAE_2_1, sampling=SamplingDefaults(height=720, width=1280)),
    "wan2.1-i2v-14b": Preset(
        transformer=WIDE_IMAGE,
        vae=VAE_2_1,
        image_encoder=CLIPConfig(),
        sampling=SamplingDefaults(flow_shift=3.0, num_inference_steps=40),
    ),
    "wan2.1-flf2v-14b": Preset(
        transformer=dataclasses.replace(WIDE_IMAGE, pos_embed_seq_len=514),
        vae=VAE_2_1,
        image_encoder=CLIPConfig(),
        sampling=SamplingDefaults(height=720, width=1280, flow_shift=16.0),
    ),
    "wan2.2-t2v-a14b": Preset(
        transformer=WIDE,
        vae=VAE_2_1,
        sampling=SamplingDefaults(
            height=720,
            width=1280,
            flow_shift=12.0,
            guidance_scale=4.0,
            guidance_scale_2=3.0,
            num_inference_steps=40,
        ),
        boundary_ratio=0.875,
    ),
    "wan2.2-i2v-a14b": Preset(
        transformer=dataclasses.replace(WIDE, in_channels=36),
        vae=VAE_2_1,
        sampling=SamplingDefaults(height=720, width=1280, flow_shift=5.0, guidance_scale=3.5, num_inference_steps=40),
        boundary_ratio=0.9,
    ),
    "wan2.2-ti2v-5b": Preset(
        transformer=DenoiserConfig(
            num_attention_heads=24, num_layers=30, ffn_dim=14336, in_channels=48, out_channels=48
        ),
        vae=VAE_2_2,
        sampling=SamplingDefaults(height=704, width=1280, num_frames=121, fps=24.0),
        expand_timesteps=True,
    ),
}
