"""What is asked for is completed and checked before anything is compiled."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import vidjax
from vidjax.diffusion.guidance import Guidance
from vidjax.errors import InputError, MediaError
from vidjax.models.clip import CLIPConfig
from vidjax.request import make_request

PROMPT = "a small red circle moves right on grass"


def test_defaults_are_the_models_own(tiny):
    """A model would otherwise be sampled with another model's settings."""
    request = make_request(tiny, PROMPT)
    assert (request.height, request.width, request.num_frames, request.fps) == (16, 32, 9, 8.0)
    assert (request.schedule.num_steps, request.guidance_scales, request.seeds) == (3, (3.0,), (0,))
    assert request.negative_prompts == ("",)
    assert request.guidance == Guidance("cfg", 0.0, 1.0)


def test_what_is_asked_for_is_kept(tiny):
    """A value that is silently replaced by a default is the worst kind of error."""
    request = make_request(
        tiny, [PROMPT, ""], negative_prompt=["blue", "green"], height=64, width=16, num_frames=13, fps=24,
        num_inference_steps=7, guidance_scale=1, flow_shift=1.0, solver="heun", seed=5,
    )  # fmt: skip
    assert (request.height, request.width, request.num_frames, request.fps) == (64, 16, 13, 24.0)
    assert (request.schedule.num_steps, request.guidance_scales, request.solver) == (7, (1.0,), "heun")
    assert (request.prompts, request.negative_prompts, request.seeds) == ((PROMPT, ""), ("blue", "green"), (5, 6))
    np.testing.assert_allclose(request.schedule.sigmas[1], 6 / 7, atol=2e-3)
    assert make_request(tiny, [PROMPT] * 2, seed=[3, 3]).seeds == (3, 3)


@pytest.mark.parametrize(("duration", "fps", "frames"), [(0, None, 1), (0.9, None, 9), (1.0, None, 9), (2.0, 16.0, 33)])
def test_duration_becomes_the_nearest_frame_count(tiny, duration, fps, frames):
    """Seconds hardly ever make 1 + 4 n frames exactly: refusing them would make --duration useless."""
    assert make_request(tiny, PROMPT, duration=duration, fps=fps).num_frames == frames


BAD = [
    ({"height": 33}, r"height=33: must be a multiple of 16; nearest: 32"),
    ({"width": 1}, r"width=1: must lie between 16 and 8192; nearest: 16"),
    ({"width": 0}, r"width=0: must lie between 16 and 8192; nearest: 16"),
    ({"height": -64}, r"height=-64: .* nearest: 16"),
    ({"height": 10**6}, r"height=1000000: .* nearest: 8192"),
    ({"num_frames": 6}, r"num_frames=6: must be 1 \+ a multiple of 4; nearest: 5"),
    ({"num_frames": 8}, r"num_frames=8: .* nearest: 9"),
    ({"num_frames": 0}, r"num_frames=0: must lie between 1 and 1048577; nearest: 1"),
    ({"num_frames": 10**9}, r"num_frames=1000000000: .* nearest: 1048577"),
    ({"duration": 3600.0, "fps": 500.0}, r"duration=3600.0: .* longest clip is 2097\.2 s"),
    ({"duration": -1.0}, r"duration=-1.0: must lie between 0 and"),
    ({"duration": float("nan")}, r"duration=nan: must be a finite number"),
    ({"duration": 1.0, "num_frames": 9}, r"num_frames=9 and duration=1.0 both say how long"),
    ({"fps": 0.0}, r"fps=0.0: .* nearest: 0.01"),
    ({"fps": float("inf")}, r"fps=inf: must be a finite number"),
    ({"num_inference_steps": 0}, r"num_inference_steps=0: .* nearest: 1"),
    ({"num_inference_steps": -3}, r"num_inference_steps=-3: .* nearest: 1"),
    ({"num_inference_steps": 10**6}, r"num_inference_steps=1000000: .* nearest: 1000"),
    ({"guidance_scale": float("nan")}, r"guidance_scale=nan: must be a finite number"),
    ({"guidance_scale": float("-inf")}, r"guidance_scale=-inf: must be a finite number"),
    ({"guidance_scale": -1.0}, r"guidance_scale=-1.0: .* nearest: 0"),
    ({"guidance_scale": 10**400}, r"guidance_scale=10*: must be a finite number"),
    ({"flow_shift": 0.0}, r"flow_shift=0.0: .* nearest: 0.01"),
    ({"solver": "dpm"}, r"solver='dpm': choose one of unipc, euler, heun"),
    ({"guidance": "CFG"}, r"guidance='CFG': choose one of cfg, cfg-zero, apg"),
    ({"guidance_interval": (0.5, 1.5)}, r"guidance_interval=1\.5: must lie between 0 and 1; nearest: 1"),
    ({"guidance_interval": (float("nan"), 1.0)}, r"guidance_interval=nan: must be a finite number"),
    ({"guidance_interval": (0.8, 0.2)}, r"\(0\.8, 0\.2\): the lower time comes first; nearest: \(0\.2, 0\.8\)"),
    ({"guidance_interval": (0.5,)}, r"guidance_interval=\(0\.5,\): must be two diffusion times"),
    ({"output_type": "gif"}, r"output_type='gif': choose video or latent"),
    ({"seed": -1}, r"seed=-1: .* nearest: 0"),
    ({"seed": 2**64}, r"seed=\d+: must lie between"),
    ({"seed": [1, 2]}, r"seed has 2 numbers for 1 prompts"),
    ({"negative_prompt": ["a", "b"]}, r"negative_prompt has 2 texts for 1 prompts"),
    ({"prompt": []}, r"at least one prompt"),
    ({"latents": np.zeros((1, 3, 2, 1, 4))}, r"latents of shape \(1, 3, 2, 1, 4\): .* shape \(1, 3, 1, 2, 4\)"),
    ({"latents": np.full((1, 3, 1, 2, 4), np.nan)}, r"latents: .* not finite"),
]


@pytest.mark.parametrize(("asked", "said"), BAD, ids=lambda value: "-".join(value) if isinstance(value, dict) else None)
def test_what_does_not_fit_is_refused(tiny, compilations, asked, said):
    """Found late, each would cost minutes of compiling and end in a message about shapes nobody wrote."""
    with pytest.raises(InputError, match=said) as error:
        make_request(tiny, **{"prompt": PROMPT, **asked})
    assert "\n" not in str(error.value)
    assert not compilations


WRONG_KIND = [
    ({"prompt": None}, "prompt=None: must be text"),
    ({"prompt": 3}, "prompt=3: must be text"),
    ({"prompt": b"red"}, "prompt=b'red': must be text"),
    ({"prompt": ["red", 3]}, r"prompt=\['red', 3\]: must be text"),
    ({"negative_prompt": None}, "must be text"),
    ({"height": "64"}, "height='64': must be a whole number"),
    ({"height": 64.0}, "height=64.0: must be a whole number"),
    ({"num_frames": True}, "num_frames=True: must be a whole number"),
    ({"num_inference_steps": 2.5}, "num_inference_steps=2.5: must be a whole number"),
    ({"guidance_scale_2": 3.0}, "guidance_scale_2=3.0: this model has one denoiser"),
    ({"grid": "linear"}, "grid='linear': choose one of folder, original"),
    ({"guidance": None}, "guidance=None: choose one of"),
    ({"guidance_interval": 0.5}, r"guidance_interval=0\.5: must be two diffusion times"),
    ({"guidance_interval": ("a", 1.0)}, "guidance_interval='a': must be a finite number"),
    ({"guidance_scale": "3"}, "guidance_scale='3': must be a finite number"),
    ({"guidance_scale": 1 + 2j}, "must be a finite number"),
    ({"fps": [8]}, r"fps=\[8\]: must be a finite number"),
    ({"seed": 1.5}, "seed=1.5: must be a whole number"),
    ({"seed": None}, "seed=None: must be a whole number"),
    ({"solver": 3}, "solver=3: choose one of"),
    ({"solver": []}, r"solver=\[\]: choose one of"),
    ({"output_type": None}, "output_type=None: choose"),
    ({"latents": "noise"}, "latents: must be an array of shape .* not str"),
    ({"image": 3}, "not int"),
]


@pytest.mark.parametrize(("asked", "said"), WRONG_KIND, ids=str)
def test_what_is_of_the_wrong_kind_is_refused(tiny, unchecked, compilations, asked, said):
    """Python callers pass anything: they too are told what would be right."""
    with pytest.raises(InputError, match=said):
        make_request(tiny, **{"prompt": PROMPT, **asked})
    assert not compilations


def test_what_is_no_model_is_refused(unchecked):
    """The name of a folder in place of what was loaded from it is a likely slip."""
    for use in (vidjax.generate, make_request):
        with pytest.raises(InputError, match=r"model='folder': a loaded model is expected, as vidjax.load\(\) gives"):
            use("folder", PROMPT)
    with pytest.raises(InputError, match="model=None"):
        vidjax.make_sampler(None)


def test_numpy_numbers_are_numbers(tiny, unchecked):
    """Settings often come out of an array."""
    request = make_request(tiny, PROMPT, height=np.int64(16), guidance_scale=np.float32(2.5), seed=np.uint32(7))
    assert (request.height, request.guidance_scales, request.seeds) == (16, (2.5,), (7,))


def test_image_is_fitted(tiny, tmp_path):
    """A picture of another size must fill the frame, not fail or be squeezed."""
    wide = np.zeros((40, 240, 3), np.uint8)
    wide[:, 80:160] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    for source in (tmp_path / "wide.png", str(tmp_path / "wide.png"), wide, Image.fromarray(wide)):
        ((place, image, _),) = make_request(tiny, PROMPT, image=source).given.pictures
        assert place == 0
        assert image.shape == (16, 32, 3)
        assert image[:, 2:-2].min() >= 190, "the middle of the picture fills the frame"


def _bad_image(kind, folder):
    path = folder / f"{kind}.png"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "wide":
        Image.new("RGB", (50_000, 4)).save(path)
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "no file .*missing.png"),
        ("empty", r"is empty \(0 bytes\)"),
        ("truncated", "damaged or cut short"),
        ("text", "is not a picture"),
        ("wide", "50000x4"),
        ("folder", "is a folder"),
    ],
)
def test_unreadable_image_is_refused(tiny, tmp_path, compilations, kind, said):
    """Otherwise half an hour of sampling would start from grey, or end in a traceback of Pillow's."""
    with pytest.raises(MediaError, match=said) as error:
        make_request(tiny, PROMPT, image=_bad_image(kind, tmp_path))
    assert "\n" not in str(error.value)
    assert not compilations


def _with(model, **changes):
    transformer = dataclasses.replace(model.config.transformer, **changes.pop("transformer", {}))
    return dataclasses.replace(model, config=dataclasses.replace(model.config, transformer=transformer, **changes))


PICTURE = np.zeros((32, 32, 3), np.uint8)
BOTH = {"image": PICTURE, "last_image": PICTURE}
ENCODER = CLIPConfig(image_size=28)


@pytest.mark.parametrize(
    ("changes", "pictures", "said"),
    [
        ({"expand_timesteps": False}, {"image": PICTURE}, "takes no picture; the bundled model"),
        ({}, BOTH, "last_image: .* takes image; Wan's first-and-last-frame models"),
        ({}, {"last_image": PICTURE}, "give the first frame too"),
        ({"transformer": {"in_channels": 12}}, {}, "needs image$"),
        ({"transformer": {"in_channels": 12}, "image_encoder": ENCODER}, BOTH, "takes image; "),
        (
            {"transformer": {"in_channels": 12, "pos_embed_seq_len": 10}, "image_encoder": ENCODER},
            {"image": PICTURE},
            "needs image and last_image",
        ),
        ({"transformer": {"in_channels": 12}}, {**BOTH, "num_frames": 1}, "num_frames=1: .* at least 5 frames"),
    ],
)
def test_pictures_that_a_model_does_not_take(tiny, changes, pictures, said):
    """A picture that a model cannot be given would be left out in silence, and one that is missing would be grey."""
    with pytest.raises(InputError, match=said):
        make_request(_with(tiny, **changes), PROMPT, **pictures)


def test_pictures_are_cut_to_size_and_kept_whole(tiny):
    """The autoencoder needs the clip's size; the image encoder sees the whole picture."""
    model = _with(tiny, transformer={"in_channels": 12})
    request = make_request(model, PROMPT, **BOTH)
    assert [p.place for p in request.given.pictures] == [0, 2]
    assert [p.fitted.shape for p in request.given.pictures] == [(16, 32, 3)] * 2
    assert [p.original.shape for p in request.given.pictures] == [(32, 32, 3)] * 2


@pytest.mark.parametrize(
    ("asked", "scales"),
    [
        ({}, (3.0, 1.5)),
        ({"guidance_scale": 6.0}, (6.0, 6.0)),
        ({"guidance_scale_2": 2.0}, (3.0, 2.0)),
        ({"guidance_scale": 6.0, "guidance_scale_2": 2.0}, (6.0, 2.0)),
    ],
)
def test_each_denoiser_has_its_scale(tiny, asked, scales):
    """Two denoisers were tuned for two scales; one that is named holds for both, as elsewhere."""
    sampling = dataclasses.replace(tiny.config.sampling, guidance_scale_2=1.5)
    request = make_request(_with(tiny, boundary_ratio=0.9, sampling=sampling), PROMPT, **asked)
    assert request.guidance_scales == scales


def test_one_clips_latents_need_no_batch_axis(tiny):
    """What ``output_type="latent"`` of one prompt gives and what its frame-wise slices look like both fit."""
    noise = np.ones((3, 1, 2, 4), np.float32)
    assert make_request(tiny, PROMPT, latents=noise).latents.shape == (1, 3, 1, 2, 4)
    assert make_request(tiny, PROMPT, latents=noise[None].tolist()).latents.dtype == np.float32
