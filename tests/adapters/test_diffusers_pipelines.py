"""The scheduler in pipelines of every kind: parity with diffusers' own schedulers, and what pipelines ask of one."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UniPCMultistepScheduler,
)

pytest.importorskip("transformers")

from pipelines import SIDE, autoencoder, dit, stable_diffusion, stable_diffusion_3, stable_diffusion_xl

from prescore.adapters.diffusers import PrescoreScheduler, scheduler
from prescore.errors import PrescoreError
from prescore.statistics import Statistics, load_statistics, measure_moments, save_statistics

EVENT = (4, SIDE, SIDE)
BUILDERS = {
    "sd": stable_diffusion,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "dit": dit,
}
VP_PEERS = {
    "ddim": (DDIMScheduler, {"set_alpha_to_one": True, "clip_sample": False, "steps_offset": 1}),
    "dpmpp-2m": (DPMSolverMultistepScheduler, {"final_sigmas_type": "zero"}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 3, "final_sigmas_type": "zero"}),
    "euler": (EulerDiscreteScheduler, {"timestep_spacing": "leading", "steps_offset": 1}),
}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0, "final_sigmas_type": "zero"}
FLOW_PEERS = {
    "euler": (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
    "dpmpp-2m": (DPMSolverMultistepScheduler, FLOW),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 3} | FLOW),
}
OURS = {"euler": "ddim"}  # Euler's method in unscaled coordinates


@pytest.fixture(scope="module")
def pipes():
    made = {name: build() for name, build in BUILDERS.items()}
    for pipe in made.values():
        pipe.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def statistics():
    data = torch.randn(40, *EVENT, generator=torch.Generator().manual_seed(0)).clamp(-4, 4) * 0.5 + 0.3
    return Statistics(moments=measure_moments(data, data_range=(-4, 4)))


def draw(pipe, seeds=(5, 6), **how):
    """Latents, or the pictures of DiT, which returns nothing else; one for each seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    how = {"generator": generators, "guidance_scale": 3.0} | how
    if type(pipe).__name__ == "DiTPipeline":
        return torch.from_numpy(pipe([3, 5][: len(seeds)], output_type="np", **how).images)
    return pipe(["a cat", "dog"][: len(seeds)], output_type="latent", **how).images


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize(
    ("kind", "peer"),
    # The pipeline of DiT does not scale its start, as Euler's scheduler would need.
    [(kind, peer) for kind in ("sd", "sdxl", "dit") for peer in VP_PEERS if (kind, peer) != ("dit", "euler")],
)
def test_parity_of_diffusion(pipes, kind, peer):
    pipe = pipes[kind]
    cls, options = VP_PEERS[peer]
    betas = {name: pipe.scheduler.config[name] for name in ("beta_schedule", "beta_start", "beta_end")}
    own = pipe.scheduler = cls(**betas, **options)
    expected = draw(pipe, num_inference_steps=7)
    levels = 1 / own.alphas_cumprod.double()[own.timesteps.long()] - 1
    ours = scheduler(own, OURS.get(peer, peer))
    set_timesteps = ours.set_timesteps  # DiT's pipeline knows no sigmas
    ours.set_timesteps = lambda n, device=None: set_timesteps(sigmas=levels.sqrt(), device=device)
    pipe.scheduler = ours
    close(draw(pipe, num_inference_steps=7), expected)


@pytest.mark.parametrize("peer", FLOW_PEERS)
def test_parity_of_flow_matching(pipes, peer):
    pipe = pipes["sd3"]
    cls, options = FLOW_PEERS[peer]
    own = pipe.scheduler = cls(**options)
    expected = draw(pipe, num_inference_steps=7)
    t = own.sigmas.double()[:-1]
    ours = pipe.scheduler = scheduler(own, OURS.get(peer, peer))
    set_timesteps = ours.set_timesteps

    def with_their_times(n=None, **given):
        set_timesteps(n, **given)
        torch.testing.assert_close(ours.timesteps, own.timesteps.float(), rtol=0, atol=1.0)
        ours.timesteps = own.timesteps  # some round them down

    ours.set_timesteps = with_their_times
    with_their_times.__signature__ = inspect.signature(set_timesteps)  # which pipelines look at
    close(draw(pipe, sigmas=(t / (3 - 2 * t)).tolist()), expected)


def test_dynamic_shifting_is_that_of_diffusers():
    pipe = stable_diffusion_3(use_dynamic_shifting=True)
    pipe.set_progress_bar_config(disable=True)
    for how in ({}, {"mu": 0.3}):
        own = pipe.scheduler
        expected = draw(pipe, sigmas=np.linspace(1, 1 / 5, 5).tolist(), **how)
        pipe.scheduler = scheduler(own, "ddim")
        ours = draw(pipe, num_inference_steps=5, **how)
        pipe.scheduler = own
        close(ours, expected)


def test_flux_whose_pipeline_gives_its_own_levels(statistics):
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
    ).eval()
    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = FluxPipeline(own, autoencoder(), None, None, None, None, network)
    pipe.set_progress_bar_config(disable=True)
    texts = {"prompt_embeds": torch.randn(1, 4, 32), "pooled_prompt_embeds": torch.randn(1, 16)}
    how = {**texts, "height": 16, "width": 16, "num_inference_steps": 5, "output_type": "latent"}

    def run():
        return pipe(generator=torch.Generator().manual_seed(0), **how).images

    expected = run()
    pipe.scheduler = scheduler(own, "ddim")
    close(run(), expected)
    pipe.scheduler = scheduler(own, "ddim", calls=3)
    assert run().isfinite().all()
    assert len(pipe.scheduler.timesteps) == 3


def test_times_of_the_network_are_taken_as_they_are(pipes):
    pipe, times = pipes["sd"], [999, 800, 500, 200, 20]
    pipe.scheduler = scheduler(pipe.scheduler, "dpmpp-2m")
    draw(pipe, timesteps=times)
    torch.testing.assert_close(pipe.scheduler.timesteps, torch.tensor(times).float(), rtol=0, atol=1e-3)
    levels = pipe.scheduler.sigmas.tolist()
    again = draw(pipe, sigmas=levels)  # with the 0 at the end, as lists of diffusers have it
    close(again, draw(pipe, timesteps=times))


@pytest.mark.parametrize("kind", BUILDERS)
def test_each_row_is_drawn_as_alone(pipes, statistics, kind):
    pipe = pipes[kind]
    pipe.scheduler = scheduler(pipe.scheduler, "p-ode-3m", statistics, calls=5)
    both = draw(pipe, num_inference_steps=50)
    assert len(pipe.scheduler.timesteps) == 5
    close(draw(pipe, seeds=(5,)), both[:1])
    assert (both[0] - both[1]).abs().max() > 1e-3


@pytest.mark.parametrize("cls", [StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline])
@pytest.mark.parametrize("name", ["p-ode-3m", "ddim"])
def test_a_start_from_a_picture(statistics, cls, name):
    pipe = (stable_diffusion_xl if "XL" in cls.__name__ else stable_diffusion)(cls)
    pipe.set_progress_bar_config(disable=True)
    own = pipe.scheduler
    given = {"image": torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)), "num_inference_steps": 8}
    pipe.scheduler = scheduler(own, name, statistics if name == "p-ode-3m" else None)
    near, far = (draw(pipe, strength=strength, **given) for strength in (0.25, 1.0))
    pipe.scheduler = own
    kept = draw(pipe, strength=0.25, **given)
    assert near.isfinite().all()
    assert far.isfinite().all()
    assert (near - kept).abs().mean() < 0.5 * (far - kept).abs().mean()


def test_a_start_from_a_picture_is_that_of_diffusers():
    pipe = stable_diffusion(StableDiffusionImg2ImgPipeline)
    pipe.set_progress_bar_config(disable=True)
    own = pipe.scheduler
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = draw(pipe, image=picture, strength=0.6, num_inference_steps=7)
    levels = (1 / own.alphas_cumprod.double()[own.timesteps.long()] - 1).sqrt()
    pipe.scheduler = scheduler(own, "ddim")
    close(draw(pipe, image=picture, strength=0.6, sigmas=levels.tolist()), expected)
    flow = stable_diffusion_3(StableDiffusion3Img2ImgPipeline)
    flow.set_progress_bar_config(disable=True)
    own = flow.scheduler
    expected = draw(flow, image=picture, strength=0.6, num_inference_steps=7)
    levels = (own.sigmas / (3 - 2 * own.sigmas))[:-1]
    flow.scheduler = scheduler(own, "ddim")
    close(draw(flow, image=picture, strength=0.6, sigmas=levels.tolist()), expected)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_inpainting_is_that_of_diffusers_and_keeps_what_is_known(name, strength):
    pipe = stable_diffusion(StableDiffusionInpaintPipeline)
    pipe.set_progress_bar_config(disable=True)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    how = {"image": torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1, "mask_image": mask}
    how |= {"strength": strength, "height": 16, "width": 16}
    cls, options = VP_PEERS[name]
    betas = {key: pipe.scheduler.config[key] for key in ("beta_schedule", "beta_start", "beta_end")}
    own = pipe.scheduler = cls(**betas, **options)
    expected = draw(pipe, num_inference_steps=7, **how)
    levels = (1 / own.alphas_cumprod.double()[own.timesteps.long()] - 1).sqrt()
    pipe.scheduler = scheduler(own, name)
    close(draw(pipe, sigmas=levels.tolist(), **how), expected)


def test_noise_comes_from_the_generators(pipes, statistics):
    pipe = pipes["sd"]
    pipe.scheduler = scheduler(pipe.scheduler, "dpmpp-sde-2m", calls=4)
    both = draw(pipe)
    close(draw(pipe, seeds=(5,)), both[:1])
    close(
        draw(pipe, generator=torch.Generator().manual_seed(1)), draw(pipe, generator=torch.Generator().manual_seed(1))
    )
    assert (draw(pipe) - draw(pipe, seeds=(5, 7)))[1].abs().max() > 1e-3


@pytest.mark.parametrize("as_path", [True, False])
def test_a_saved_pipeline_comes_back_with_its_statistics(tmp_path, statistics, as_path):
    pipe = dit()
    pipe.set_progress_bar_config(disable=True)
    if as_path:
        save_statistics(statistics, tmp_path / "elsewhere.safetensors")
    given = tmp_path / "elsewhere.safetensors" if as_path else statistics
    pipe.scheduler = scheduler(pipe.scheduler, "p-ode-3m", given, calls=4, corrector=True)
    expected = draw(pipe)
    pipe.save_pretrained(tmp_path / "pipe")
    (tmp_path / "elsewhere.safetensors").unlink(missing_ok=True)
    again = DiffusionPipeline.from_pretrained(tmp_path / "pipe")
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, PrescoreScheduler)
    assert again.scheduler.config["options"] == {"corrector": True}
    assert torch.equal(draw(again), expected)
    alone = PrescoreScheduler.from_pretrained(tmp_path / "pipe", subfolder="scheduler")
    torch.testing.assert_close(alone.statistics.moments.mean, statistics.moments.mean, rtol=0, atol=0)
    in_memory = PrescoreScheduler.from_config(pipe.scheduler.config)
    assert in_memory.statistics is pipe.scheduler.statistics
    (tmp_path / "pipe" / "scheduler" / "statistics.safetensors").unlink()
    with pytest.raises(PrescoreError, match=r"statistics\.safetensors"):
        PrescoreScheduler.from_pretrained(tmp_path / "pipe" / "scheduler")


def test_the_configuration_is_that_of_the_source_too(pipes, statistics):
    own = DPMSolverMultistepScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    made = scheduler(own, "p-ode-3m", statistics)
    back = UniPCMultistepScheduler.from_config(made.config)
    assert torch.equal(back.alphas_cumprod, own.alphas_cumprod)
    assert scheduler(made, "ddim").config["beta_end"] == 0.012
    assert len(made) == made.config.num_train_timesteps == 1000
    trained = DDIMScheduler(trained_betas=np.linspace(1e-4, 0.02, 50))
    assert len(scheduler(trained, "ddim").config["trained_betas"]) == 50


def test_contract(statistics):
    """What diffusers asks of its own schedulers."""
    made = scheduler(DDIMScheduler(), "p-ode-3m", statistics)
    for n in (3, 7, 40):
        made.set_timesteps(n, device="cpu")
        assert len(made.timesteps) == made.num_inference_steps == len(made.sigmas) - 1 == n
        assert (made.timesteps.diff() < 0).all()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        made.set_timesteps(4)
        x = torch.ones(2, *EVENT, dtype=dtype)
        assert made.scale_model_input(x, made.timesteps[0]).dtype == dtype
        as_object = made.step(x, made.timesteps[0], x)
        assert as_object.prev_sample.dtype == dtype
        assert as_object.prev_sample.shape == x.shape
        assert made.add_noise(x, x, made.timesteps[:2]).dtype == dtype
        made.set_timesteps(4)
        made.scale_model_input(x, made.timesteps[0])
        assert torch.equal(made.step(x, made.timesteps[0], x, return_dict=False)[0], as_object.prev_sample)
    for time in made.timesteps[1:]:
        made.step(x, time, x)
    with pytest.raises(PrescoreError, match="all 4 steps are done"):
        made.step(x, time, x)
    made.set_timesteps(4)
    with pytest.raises(PrescoreError, match=r"events of shape \(4, 8, 8\), the pipeline's have \(4, 6, 6\)"):
        made.step(torch.ones(1, 4, 6, 6), made.timesteps[0], torch.ones(1, 4, 6, 6))
    for lists in ({"sigmas": [1.0, 2.0]}, {"sigmas": []}, {"timesteps": [500, 500]}):
        with pytest.raises(PrescoreError, match="noise levels that decrease"):
            made.set_timesteps(**lists)


def test_a_loop_that_begins_in_the_middle(statistics):
    """Without set_begin_index the first time says where."""
    made = scheduler(DDIMScheduler(), "ddim")
    made.set_timesteps(6)
    x = torch.ones(1, *EVENT)
    made.step(x, made.timesteps[3], x)
    assert made.step_index == 4


def test_statistics_of_the_library_version_are_kept_whole(tmp_path, statistics):
    made = scheduler(DDIMScheduler(), "p-ode-3m", statistics)
    made.save_pretrained(tmp_path)
    again = load_statistics(tmp_path / "statistics.safetensors")
    assert again.moments.count == statistics.moments.count
    assert torch.equal(again.moments.cosine_variance, statistics.moments.cosine_variance)
