"""Pipelines of diffusers with prescore's samplers: parity with diffusers' own schedulers, and the contract."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)

from prescore.adapters.diffusers import PrescoreScheduler, scheduler
from prescore.errors import PrescoreError
from prescore.plan import reference_of
from prescore.statistics import Statistics, load_statistics, measure_moments, save_statistics

SHAPE = (2, 4, 8, 8)


@pytest.fixture
def statistics(tmp_path):
    data = torch.randn(40, 4, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-4, 4) * 0.5
    measured = Statistics(moments=measure_moments(data, data_range=(-4, 4)))
    save_statistics(measured, tmp_path / "statistics.safetensors")
    return tmp_path / "statistics.safetensors"


def network(x, t):
    """What a network might predict, smooth in both."""
    return torch.tanh(x * (0.4 + t / 2000)) + 0.1 * x.flip(-1)


def loop(schedule, n=None, guidance=False, given=None, start=0, **times):
    """The loop that pipelines run."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    schedule.set_timesteps(n, **times)
    if start:
        schedule.set_begin_index(start)
    x = x * getattr(schedule, "init_noise_sigma", 1.0) if given is None else given
    for t in schedule.timesteps[start:]:
        wide = torch.cat([x, x]) if guidance else x
        if hasattr(schedule, "scale_model_input"):
            wide = schedule.scale_model_input(wide, t)
        out = network(wide, t.double())
        x = schedule.step(out[: len(x)], t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_is_that_of_diffusers(prediction):
    own = DDIMScheduler(prediction_type=prediction, clip_sample=False, set_alpha_to_one=True)
    ours = scheduler(own, "ddim")
    expected = loop(own, 8)
    alpha_bar = own.alphas_cumprod[own.timesteps].double()  # its own levels are rounded to float32
    ours_end = loop(ours, sigmas=((1 - alpha_bar) / alpha_bar).sqrt())
    torch.testing.assert_close(ours_end, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_dpmpp_is_that_of_diffusers():
    own = DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, final_sigmas_type="zero"
    )
    expected = loop(own, 10)
    end = loop(scheduler(own, "dpmpp-2m"), sigmas=own.sigmas[:-1])
    torch.testing.assert_close(end, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_of_flow_matching_is_that_of_diffusers_from_pure_noise_on(shift):
    own = FlowMatchEulerDiscreteScheduler(shift=shift)
    expected = loop(own, 6)
    ours = scheduler(own, "ddim")
    end = loop(ours, timesteps=own.timesteps.tolist())
    torch.testing.assert_close(end, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert ours.timesteps[0] == 1000
    sigmas = [1.0, 0.6, 0.2]
    own.set_timesteps(sigmas=sigmas)
    ours.set_timesteps(sigmas=sigmas)
    torch.testing.assert_close(ours.timesteps, own.timesteps)
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    dynamic.set_timesteps(sigmas=sigmas, mu=0.7)
    shifted = scheduler(dynamic, "ddim")
    shifted.set_timesteps(sigmas=sigmas, mu=0.7)
    torch.testing.assert_close(shifted.timesteps, dynamic.timesteps)
    ours.set_timesteps(sigmas=sigmas, mu=0.7)  # a pipeline may give it where nothing is dynamic
    torch.testing.assert_close(ours.timesteps, own.timesteps)


def test_contract_of_a_scheduler(tmp_path, statistics):
    made = scheduler(DDIMScheduler(), "p-ode-3m", statistics, calls=6)
    made.save_pretrained(tmp_path / "saved")
    again = PrescoreScheduler.from_pretrained(tmp_path / "saved")
    one, other = loop(made, 50, guidance=True), loop(again, 50, guidance=True)
    assert len(made.timesteps) == 6
    assert one.isfinite().all()
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(loop(made, 50), one, rtol=0, atol=0)  # the start is applied row by row, and once
    x0, n, t = torch.ones(SHAPE), torch.randn(SHAPE), torch.tensor([10, 900])
    own = DDIMScheduler()
    torch.testing.assert_close(made.add_noise(x0, n, t), own.add_noise(x0, n, t), rtol=1e-4, atol=1e-4)
    made.set_timesteps(6)
    assert made.step(x0.half(), 0, x0.half()).prev_sample.dtype == torch.float16


def test_a_start_in_the_middle_and_a_state_that_the_pipeline_changes(statistics):
    made = scheduler(DDIMScheduler(), "p-ode-3m", statistics, calls=6)
    made.set_timesteps(6)
    x0 = torch.full(SHAPE, 0.3, dtype=torch.float64)
    noisy = made.add_noise(x0, torch.zeros(SHAPE, dtype=torch.float64), made.timesteps[3].expand(2))
    assert loop(made, 6, given=noisy, start=3).isfinite().all()


@pytest.mark.parametrize("name", ["p-ode-3m", "dpmpp-2m"])
def test_a_start_that_is_named(statistics, name):
    """From noise alone nothing is done to it; noisy data are what p-ode starts from by itself."""
    made = {start: scheduler(DDIMScheduler(), name, statistics, start=start) for start in (None, "noise", "gaussian")}
    x, starts = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64), {}
    for start, one in made.items():
        one.set_timesteps(5)
        starts[start] = one.scale_model_input(x, one.timesteps[0])
    assert torch.equal(starts["noise"], x)
    assert not torch.equal(starts["gaussian"], x)
    assert torch.equal(starts[None], starts["gaussian" if name == "p-ode-3m" else "noise"])
    sigma = made["gaussian"].sigmas[0].double()
    expected = reference_of(load_statistics(statistics)).noisy(x, sigma)
    expected = expected * made["gaussian"].schedule_scale(sigma)
    torch.testing.assert_close(starts["gaussian"], expected, rtol=1e-5, atol=1e-6)


def tiny_unet():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    ).eval()


@pytest.mark.parametrize("name", ["p-ode-3m", "dpmpp-2m"])
def test_a_pipeline_draws_what_its_loop_draws(statistics, name):
    unet = tiny_unet()
    pipe = DDPMPipeline(unet, DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler(pipe.scheduler, name, statistics if name == "p-ode-3m" else None, calls=5)
    shape = (2, 4, 8, 8)
    images = pipe(2, torch.Generator().manual_seed(3), num_inference_steps=50, output_type="np").images
    made = scheduler(DDIMScheduler(), name, statistics if name == "p-ode-3m" else None)
    made.set_timesteps(5)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for t in made.timesteps:
            x = made.step(unet(x, t).sample, t, x).prev_sample  # this pipeline does not scale its input
    expected = (x / 2 + 0.5).clamp(0, 1).movedim(1, -1).numpy()
    assert np.array_equal(images, expected)


def test_a_latent_pipeline_with_guidance_draws_each_row_as_alone(statistics):
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=4,
        attention_head_dim=4,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    ).eval()
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4).eval()
    pipe = DiTPipeline(network, vae, DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler(pipe.scheduler, "p-ode-3m", statistics, calls=5)

    def draw(classes):
        seeds = [torch.Generator().manual_seed(k) for k in classes]
        return pipe(classes, guidance_scale=3.0, generator=seeds, num_inference_steps=5, output_type="np").images

    both = draw([1, 2])
    assert both.shape == (2, 8, 8, 3)
    assert np.isfinite(both).all()
    np.testing.assert_allclose(draw([2])[0], both[1], rtol=0, atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_what_is_refused():
    with pytest.raises(PrescoreError, match="sampler: unknown name 'dpm'"):
        scheduler(DDIMScheduler(), "dpm")
    made = scheduler(DDIMScheduler(), "edm-heun")
    with pytest.raises(PrescoreError, match="calls the network more than once a step"):
        made.set_timesteps(5)
    with pytest.raises(PrescoreError, match="comes without statistics"):
        scheduler(DDIMScheduler(), "p-ode-2m").set_timesteps(5)
