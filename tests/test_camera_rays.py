"""A model with a camera adapter: rays in place of words, in every way that clips are made."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.campaign import name_jobs, plan
from vidjax.conditioning.camera import parse
from vidjax.conditioning.condition import cut_condition
from vidjax.conditioning.movements import movement_poses
from vidjax.conditioning.pose_file import write_poses
from vidjax.conditioning.rays import frames_of_latents, make_rays, pack
from vidjax.encoding import make_condition
from vidjax.errors import InputError, WeightsError
from vidjax.forecast import memory
from vidjax.generation import generate_each
from vidjax.models.wan.camera_adapter import CameraAdapterConfig
from vidjax.parallel import make_mesh
from vidjax.request import make_request
from vidjax.storyboard import read_storyboard
from vidjax.unfinished import describe
from vidjax.weights import folder

PROMPT = "a small red circle moves right on grass"
CONFIG = CameraAdapterConfig(24, 24, (1, 1), 4)
BOTH = "pan left + zoom in"


@pytest.fixture(scope="module")
def place(tiny_folder, tmp_path_factory):
    """The tiny model with a random adapter: 4 rays along each side of a latent."""
    place = tmp_path_factory.mktemp("camera") / "tiny"
    shutil.copytree(tiny_folder, place)
    rng = np.random.default_rng(5)
    abstract = folder.abstract_params("camera_adapter", CONFIG)
    params = jax.tree.map(lambda x: np.float32(0.1 * rng.standard_normal(x.shape)), abstract)
    folder.write_part(place, "camera_adapter", CONFIG, params, "bfloat16")
    return place


@pytest.fixture(scope="module")
def model(place):
    return vidjax.load(place)


def latents(model, prompt=PROMPT, **asked):
    return np.asarray(vidjax.generate(model, prompt, output_type="latent", progress=False, **asked))


def test_adapter_is_a_part_of_the_folder(model, tiny, place, tmp_path):
    """It is loaded where there is one, and one that was made for another denoiser is named."""
    assert model.config == dataclasses.replace(tiny.config, camera_adapter=CONFIG)
    assert model.params.keys() - tiny.params.keys() == {"camera_adapter"}
    shutil.copytree(place, tmp_path / "other")
    wrong = dataclasses.replace(CONFIG, dim=32)
    folder.write_config(tmp_path / "other", "camera_adapter", wrong)
    with pytest.raises(WeightsError, match="made for a width of 32 and patches of 1x1; the denoiser's are 24 and 1x1"):
        vidjax.load(tmp_path / "other")


@pytest.mark.filterwarnings("error")
def test_rays_take_the_place_of_words(model, tiny):
    """No words and no warning; what depends on the subject is still said, and without a camera all is as before."""
    request = make_request(model, PROMPT, camera=BOTH)
    assert request.prompts == (PROMPT,)
    assert make_request(model, PROMPT, camera="aerial + pan left").prompts == (f"{PROMPT}, aerial view",)
    track = make_request(model, PROMPT, camera="track")
    assert track.prompts == (f"{PROMPT}, tracking shot",)
    assert track.poses is None
    np.testing.assert_array_equal(latents(model), latents(tiny))
    seen = {camera: latents(model, camera=camera) for camera in ("pan left", "pan right", BOTH)}
    assert np.abs(seen["pan left"] - latents(model)).max() > 0.1
    assert np.abs(seen["pan left"] - seen["pan right"]).max() > 0.1
    assert np.abs(seen["pan left"] - seen[BOTH]).max() > 0.1


def test_guidance_is_of_the_rays_too(model):
    """What guidance leads away from has no rays; in both of its branches nothing would make up for weak ones."""
    same = {"negative_prompt": PROMPT, "num_inference_steps": 1, "solver": "euler"}
    plain, seen = latents(model, **same, guidance_scale=1.0), latents(model, **same, camera=BOTH, guidance_scale=1.0)
    found = latents(model, **same, camera=BOTH, guidance_scale=4.0)
    assert np.abs(seen - plain).max() > 1e-3
    np.testing.assert_allclose(found, plain + 4.0 * (seen - plain), rtol=0, atol=1e-3)


def test_condition_has_the_rays_of_the_movement(model):
    """The rays are those of the poses, four frames a latent frame, the first four times."""
    condition = make_condition(model, make_request(model, [PROMPT, ""], camera=BOTH).window(0))
    poses = movement_poses(parse(BOTH), 9, 8.0, 16, 32)
    rays = make_rays(*(jnp.asarray(x, jnp.float32) for x in (poses.camera_to_world, poses.intrinsics)), 4, 8)
    assert condition.rays.shape == (2, 3, 4, 8, 24)
    for clip in condition.rays:
        np.testing.assert_allclose(clip, pack(rays[frames_of_latents(0, 3, 4)], 4), atol=1e-6)


def test_model_without_an_adapter(tiny, tmp_path, compilations):
    """Words can tell of a movement, not of a path: it must not be left out in silence."""
    poses = movement_poses(parse(BOTH), 5, 8.0, 64, 64)
    write_poses(poses, tmp_path / "a.txt")
    for camera in (poses, str(tmp_path / "a.txt"), tmp_path / "a.txt"):
        with pytest.raises(InputError, match="has no camera adapter to be given poses by; a model trained with one"):
            make_request(tiny, PROMPT, camera=camera)
    with pytest.warns(UserWarning, match="no input for the camera"):
        assert make_request(tiny, PROMPT, camera=BOTH).poses is None
    assert not compilations


def test_poses_of_a_movement_are_that_movement(model, tmp_path):
    """A file is another way to say the same, however many frames it has."""
    poses = movement_poses(parse("pan left"), 17, 16.0, 16, 32)
    write_poses(poses, tmp_path / "a.txt")
    expected = latents(model, camera="pan left")
    np.testing.assert_allclose(latents(model, camera=poses), expected, atol=1e-4)
    np.testing.assert_allclose(latents(model, camera=tmp_path / "a.txt"), expected, atol=1e-4)


def test_program_and_host_loop_agree(model):
    """A program that jits the sampler must get the clip that people get."""
    request = make_request(model, PROMPT, camera=BOTH)
    sample = jax.jit(vidjax.make_sampler(model))
    found = sample(model.params, jax.random.key(7), make_condition(model, request.window(0)))
    np.testing.assert_allclose(found, latents(model, camera=BOTH, seed=7), rtol=0, atol=1e-4)


def test_windows_have_their_own_part(model):
    """Each begins where the camera then is, as the camera of its first frame sees it; the focal length too."""
    request = make_request(model, PROMPT, camera=BOTH, num_frames=21)
    whole = movement_poses(parse(BOTH), 21, 8.0, 16, 32)
    assert request.rollout.count == 4
    np.testing.assert_allclose(request.poses.world_to_camera, whole.world_to_camera)
    for i in range(4):
        own, frames = request.window(i).poses, frames_of_latents(i, 3, 4)
        first = np.concatenate([whole.world_to_camera[frames[0]], [[0, 0, 0, 1]]])
        expected = first @ np.concatenate(
            [whole.camera_to_world[frames], np.tile([[[0, 0, 0, 1.0]]], (12, 1, 1))], axis=1
        )
        np.testing.assert_allclose(own.camera_to_world, expected[:, :3], atol=1e-9)
        focal = whole.intrinsics[frames, 1] / whole.intrinsics[frames[0], 1]
        np.testing.assert_allclose(own.intrinsics[:, 1], focal)
    # A longer clip begins as a shorter one, also where the last window reaches beyond its end.
    np.testing.assert_array_equal(
        latents(model, camera=BOTH, num_frames=13)[:, :3], latents(model, camera=BOTH, num_frames=21)[:, :3]
    )


def test_clip_that_is_gone_on_with(model):
    """The camera sets out where the clip ends: how it moved before that is not known."""
    clip = np.zeros((9, 16, 32, 3), np.uint8)
    request = make_request(model, PROMPT, camera="pan left", video=clip, extend="after", num_frames=4)
    turned = request.poses.camera_to_world[:, 0, 2]
    np.testing.assert_allclose(turned[:9], 0, atol=1e-12)
    assert (np.diff(turned[8:]) < 0).all()
    assert np.isfinite(vidjax.generate(model, PROMPT, camera="pan left", video=clip, extend="after",
                                       num_frames=4, progress=False).frames).all()  # fmt: skip


def test_tiles_have_their_own_rays(model):
    """A tile of a larger clip that saw the rays of all of it would zoom into its own middle."""
    rays = jnp.arange(2 * 3 * 16 * 16 * 24.0).reshape(2, 3, 16, 16, 24)
    condition = make_condition(model, make_request(model, [PROMPT] * 2, height=64, width=64))._replace(rays=rays)
    own = cut_condition(condition, (jnp.int32(1), jnp.int32(2)), (2, 1))
    np.testing.assert_array_equal(own.rays, rays[:, :, 4:12, 8:12])
    plain = latents(model, resolution=32, refine=0.7)
    assert np.abs(latents(model, resolution=32, refine=0.7, camera="zoom in") - plain).max() > 0.1


def test_one_program_for_clips_with_rays(model):
    """In a batch each clip has its own camera; a clip without one is another program."""
    asked = [{"camera": "pan left"}, {"camera": "zoom in"}, {}]
    requests = [make_request(model, PROMPT, seed=i, **each) for i, each in enumerate(asked)]
    assert requests[0].program == requests[1].program != requests[2].program
    found = generate_each(model, requests[:2], 2)
    for i in range(2):
        alone = vidjax.generate(model, PROMPT, seed=i, progress=False, **asked[i])
        assert np.abs(found[i].frames.astype(int) - alone.frames).max() <= 1


def test_campaigns_and_storyboards(model, tmp_path, monkeypatch):
    """A file is named from where other files are: the current folder, or that of the storyboard."""
    write_poses(movement_poses(parse(BOTH), 5, 8.0, 16, 32), tmp_path / "walk.txt")
    (tmp_path / "film.toml").write_text(
        f'camera = "walk.txt"\n[[shot]]\nprompt = "{PROMPT}"\n[[shot]]\nprompt = "a"\ncamera = "pan left"\n'
    )
    shots = read_storyboard(tmp_path / "film.toml")
    assert [shot.asked["camera"] for shot in shots] == [str(tmp_path / "walk.txt"), "pan left"]
    assert all(make_request(model, **shot.asked).poses for shot in shots)
    monkeypatch.chdir(tmp_path)
    batches, errors = plan(model, name_jobs([{"prompt": PROMPT, "camera": c} for c in ("walk.txt", "no.txt")]), 1)
    assert batches[0].settings[0]["camera"] == "walk.txt"
    assert "no.txt cannot be read" in next(iter(errors.values()))


def test_another_camera_is_another_clip(model):
    """Windows of a clip that was stopped must not be gone on with along another path."""
    told = [describe(model, make_request(model, PROMPT, camera=camera)) for camera in (None, "pan left", "pan right")]
    assert len({each["camera"] for each in told}) == 3
    assert told[1] == describe(model, make_request(model, PROMPT, camera="pan left"))


def test_memory_counts_the_adapter(model):
    """What is foreseen is what is run."""
    with_rays, without = (memory(model, make_request(model, PROMPT, **a)) for a in ({"camera": BOTH}, {}))
    assert with_rays.parameters == without.parameters
    assert with_rays.sampling > without.sampling


@pytest.mark.parametrize("sizes", [(2, 2, 1, 2), (1, 1, 8, 1)])
def test_on_a_mesh(place, model, sizes):
    """A clip must not depend on the machine: rays of another clip, or of a part of the frame, would show here."""
    tall = {"height": 48, "width": 80} if sizes == (1, 1, 8, 1) else {}  # 15 tokens over 8 devices
    spread = vidjax.load(place, mesh=make_mesh(*sizes))
    prompts = [PROMPT, "a blue star"] * 2
    found = latents(spread, prompts, camera=BOTH, **tall)
    np.testing.assert_allclose(found, latents(model, prompts, camera=BOTH, **tall), rtol=0, atol=1e-4)
