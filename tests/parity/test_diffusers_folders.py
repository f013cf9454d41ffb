"""Models opened from diffusers folders against what diffusers' own schedulers and pipelines make of them."""

import json
import math

import pytest
import torch
from support import relative

from prescore.checkpoints.diffusers import read
from prescore.checkpoints.diffusers_schedulers import TABULATED, scheduler_meaning
from prescore.checkpoints.stored import build
from prescore.grid import append_zero
from prescore.samplers import DDIM, sample

diffusers = pytest.importorskip("diffusers")
rescale_zero_terminal_snr = diffusers.schedulers.scheduling_ddim.rescale_zero_terminal_snr

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, inside diffusers
TIMES = (0, 1, 17, 500, 990)


def unet(seed=0, **arguments):
    """A tiny network with random weights, biases and norms, so that no part of it is idle."""
    usual = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    generator = torch.Generator().manual_seed(seed)
    network = diffusers.UNet2DModel(**usual | arguments).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


def ncsnpp(**arguments):
    """The blocks and embedding of the google/ncsnpp models; their attention has groups of 32 channels."""
    return unet(
        **{
            "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
            "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
            "block_out_channels": (32, 32, 32),
            "norm_num_groups": 8,
            "norm_eps": 1e-6,
            "mid_block_scale_factor": math.sqrt(2),
            "time_embedding_type": "fourier",
            "center_input_sample": True,
        }
        | arguments
    )


def opened(folder, network, scheduler, dtype=torch.float32):
    """The denoiser of a folder with this network and this scheduler."""
    network.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    return build(read(folder), dtype=dtype)


def noise(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def alpha_bar(scheduler):
    """Its table in float64, which its own is not: at the first times that costs 3e-4 of sigma."""
    betas = scheduler.betas.double()
    if scheduler.config.get("rescale_betas_zero_snr"):
        betas = rescale_zero_terminal_snr(type(scheduler)().betas.double())
    return (1 - betas).cumprod(0)


def levels(scheduler):
    """sigma_j, float64."""
    return ((1 - alpha_bar(scheduler)) / alpha_bar(scheduler)).sqrt()


def assert_same_x0(denoise, network, scheduler, tolerance, dtype, times=TIMES):
    """D(x, sigma_j) against `pred_original_sample` of the scheduler's step at the time index j, same x_t."""
    scheduler.set_timesteps(len(scheduler.betas))
    for time in times:
        x, sigma = noise(2, 3, 8, 8, dtype=dtype), levels(scheduler)[time].to(dtype)
        x_t = x * alpha_bar(scheduler)[time].sqrt().to(dtype)
        x0 = scheduler.step(network(x_t, time).sample, time, x_t).pred_original_sample
        assert relative(denoise(x, sigma), x0) < tolerance, time


SCHEDULES = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": torch.linspace(1e-3, 0.03, 600).tolist()},
    {"rescale_betas_zero_snr": True},
]
DDPM_SCHEDULES = [{"beta_schedule": "sigmoid"}, {"beta_schedule": "laplace"}]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: "-".join(map(str, s))[:30] + str(s.get("beta_schedule")))
def test_prediction_of_x0(tmp_path, prediction, schedule):
    network = unet()
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=False, **schedule)
    times = [t for t in TIMES if t < len(scheduler.betas)]
    assert_same_x0(opened(tmp_path, network, scheduler), network, scheduler, 1e-5, torch.float32, times)
    scheduler.alphas_cumprod = alpha_bar(scheduler)
    double = build(read(tmp_path), dtype=torch.float64)
    # The network keeps the sines of its time in float32, and these betas are float32 roundings of the true ones.
    assert_same_x0(double, network.double(), scheduler, 1e-6, torch.float64, times)


@pytest.mark.parametrize("schedule", DDPM_SCHEDULES, ids=lambda s: s["beta_schedule"])
def test_schedules_that_only_ddpm_has(tmp_path, schedule):
    network, scheduler = unet(), diffusers.DDPMScheduler(clip_sample=False, **schedule)
    assert_same_x0(opened(tmp_path, network, scheduler), network, scheduler, 1e-5, torch.float32)


@pytest.mark.parametrize("name", sorted(TABULATED))
def test_levels_of_each_scheduler(name):
    """With all its defaults, and with betas of another kind; a configuration may leave the defaults out."""
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    cls = getattr(diffusers, name)
    for arguments in ({}, {"beta_schedule": "scaled_linear", "beta_end": 0.03, "num_train_timesteps": 50}):
        expected = levels(cls(**arguments))
        meaning = scheduler_meaning({"_class_name": name} | arguments, {"time_embedding_type": "positional"})
        assert relative(meaning.levels, expected) < 1e-6
        assert (meaning.sigma_min, meaning.sigma_max) == (meaning.levels[0], meaning.levels[-1])


def test_exponential_schedule():
    scheduler = diffusers.HeunDiscreteScheduler(beta_schedule="exp")
    config = {"_class_name": "HeunDiscreteScheduler", "beta_schedule": "exp"}
    assert relative(scheduler_meaning(config, {"time_embedding_type": None}).levels, levels(scheduler)) < 1e-6


def test_zero_terminal_snr_ends_one_level_earlier(tmp_path):
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    assert scheduler.alphas_cumprod[-1] == 0
    denoise = opened(tmp_path, unet(), scheduler)
    assert denoise.sigma_max == pytest.approx(levels(scheduler)[-2].item(), rel=1e-3)
    assert denoise(noise(1, 3, 8, 8), torch.tensor(denoise.sigma_max)).isfinite().all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_schedulers_in_unscaled_coordinates(tmp_path, name, prediction):
    if (name, prediction) == ("EulerAncestralDiscreteScheduler", "sample"):
        pytest.skip("diffusers has not implemented it")
    network, scheduler = unet(), getattr(diffusers, name)(prediction_type=prediction)
    denoise = opened(tmp_path, network, scheduler)
    scheduler.set_timesteps(1000)
    for index in (0, 500, 999):
        scheduler._step_index = index
        x, time = noise(2, 3, 8, 8), scheduler.timesteps[index]
        output = network(scheduler.scale_model_input(x, time), time).sample
        x0 = scheduler.step(output, time, x).pred_original_sample
        assert relative(denoise(x, scheduler.sigmas[index]), x0) < 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "name", ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"]
)
def test_data_prediction_solvers(tmp_path, name, prediction):
    network, scheduler = unet(), getattr(diffusers, name)(prediction_type=prediction)
    denoise = opened(tmp_path, network, scheduler)
    scheduler.set_timesteps(20)
    for index in (0, 10, 18):
        scheduler._step_index = index
        x, sigma = noise(2, 3, 8, 8), scheduler.sigmas[index]
        x_t = x * (1 + sigma**2).rsqrt()
        x0 = scheduler.convert_model_output(network(x_t, scheduler.timesteps[index]).sample, sample=x_t)
        assert relative(denoise(x, sigma), x0) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("make", [unet, lambda: ncsnpp(time_embedding_type="positional")])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm(tmp_path, name, make, prediction, dtype):
    network, scheduler = make(), getattr(diffusers, name)(sigma_data=0.7, sigma_max=50, prediction_type=prediction)
    denoise = opened(tmp_path, network, scheduler, dtype)
    assert (denoise.sigma_min, denoise.sigma_max, denoise.data_range) == (0.002, 50, (-1, 1))
    network.to(dtype)
    for sigma in torch.tensor([0.002, 0.5, 50], dtype=dtype):
        x = noise(2, 3, 8, 8, dtype=dtype)
        output = network(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma)).sample
        expected = scheduler.precondition_outputs(x, output, sigma)
        assert relative(denoise(x, sigma), expected) < (1e-6 if dtype == torch.float32 else 1e-9)


def test_continuous_velocity_of_euler(tmp_path):
    arguments = {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True}
    scheduler = diffusers.EulerDiscreteScheduler(sigma_min=0.002, sigma_max=700.0, **arguments)
    network = unet()
    denoise = opened(tmp_path, network, scheduler)
    assert (denoise.sigma_min, denoise.sigma_max) == (0.002, 700.0)
    scheduler.set_timesteps(10)
    for index in (0, 5, 9):
        scheduler._step_index = index
        x, time = noise(2, 3, 8, 8), scheduler.timesteps[index]
        output = network(scheduler.scale_model_input(x, time), time).sample
        x0 = scheduler.step(output, time, x).pred_original_sample
        assert relative(denoise(x, scheduler.sigmas[index]), x0) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ncsnpp_layout(tmp_path, dtype):
    """Both files at the root, as in google/ncsnpp-*: D = x + sigma^2 score, and its mean as the solver's last step."""
    network, scheduler = ncsnpp(), diffusers.ScoreSdeVeScheduler(sigma_max=1348.0)
    network.save_pretrained(tmp_path)
    scheduler.save_pretrained(tmp_path)
    parts = {"model": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "ScoreSdeVeScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "ScoreSdeVePipeline"} | parts))
    denoise = build(read(tmp_path), dtype=dtype)
    assert (denoise.sigma_min, denoise.sigma_max, denoise.data_range) == (0.01, 1348.0, (0, 1))
    network.to(dtype)
    for sigma in torch.tensor([0.01, 0.9, 1348.0], dtype=dtype):
        x = noise(2, 3, 8, 8, dtype=dtype) * sigma
        score = network(x, sigma.expand(2)).sample
        assert relative(denoise(x, sigma), x + sigma**2 * score) < 1e-6
    scheduler.set_timesteps(10)
    scheduler.set_sigmas(10)
    x, sigma = noise(2, 3, 8, 8, dtype=dtype), scheduler.discrete_sigmas[0].to(dtype)
    last = scheduler.step_pred(network(x, sigma.expand(2)).sample, scheduler.timesteps[-1], x)
    assert relative(denoise(x, sigma), last.prev_sample_mean) < 1e-6


def test_groups_left_to_each_layer(tmp_path):
    """`norm_num_groups` null, as in google/ncsnpp-*."""
    network, scheduler = ncsnpp(norm_num_groups=None, block_out_channels=(32, 32, 64)), diffusers.ScoreSdeVeScheduler()
    denoise = opened(tmp_path, network, scheduler)
    x, sigma = noise(2, 3, 8, 8), torch.tensor(3.0)
    assert relative(denoise(x, sigma), x + sigma**2 * network(x, sigma.expand(2)).sample) < 1e-6


def test_karras_ve_is_a_score_in_units_of_0_to_1(tmp_path):
    """Eq. 213 of Karras et al. as diffusers' pipeline has it: x in [-1, 1], the network in [0, 1] at half the noise."""
    from diffusers.schedulers.deprecated.scheduling_karras_ve import KarrasVeScheduler

    network, scheduler = ncsnpp(), KarrasVeScheduler(sigma_max=80.0)
    denoise = opened(tmp_path, network, scheduler)
    assert (denoise.sigma_min, denoise.sigma_max, denoise.data_range) == (0.01, 40.0, (0, 1))
    x, sigma = noise(2, 3, 8, 8), torch.tensor(3.0)
    output = sigma / 2 * network((x + 1) / 2, (sigma / 2).expand(2)).sample
    x0 = scheduler.step(output, sigma, torch.tensor(1.0), x).pred_original_sample
    assert relative(denoise((x + 1) / 2, sigma / 2), (x0 + 1) / 2) < 1e-6


@pytest.mark.parametrize("time", [1e-3, 0.3, 1.0])
def test_score_sde_vp(tmp_path, time):
    """One step of the solver, which turns the output into a score, against the same step with the score of D."""
    from diffusers.schedulers.deprecated.scheduling_sde_vp import ScoreSdeVpScheduler

    network, scheduler = unet(), ScoreSdeVpScheduler(beta_max=18)
    denoise = opened(tmp_path, network, scheduler, torch.float64)
    network.double()
    t = torch.full((2,), time, dtype=torch.float64)
    B = 0.1 * time + 17.9 * time**2 / 2
    s, sigma = math.exp(-B / 2), math.sqrt(math.expm1(B))
    x_t = noise(2, 3, 8, 8, dtype=torch.float64)
    scheduler.set_timesteps(1000)
    _, mean = scheduler.step_pred(network(x_t, 999 * t).sample, x_t, t, torch.Generator())
    score = (denoise(x_t / s, torch.tensor(sigma)) - x_t / s) / sigma**2 / s
    beta = 0.1 + 17.9 * time
    assert relative(x_t + (beta / 2 * x_t + beta * score) / 1000 - x_t, mean - x_t) < 1e-6
    if time in (1e-3, 1.0):
        assert pytest.approx(sigma, rel=1e-12) in (denoise.sigma_min, denoise.sigma_max)


@pytest.mark.parametrize(
    ("prediction", "schedule"),
    [("epsilon", "linear"), ("v_prediction", "scaled_linear"), ("sample", "squaredcos_cap_v2")],
)
def test_whole_ddim_run(tmp_path, monkeypatch, prediction, schedule):
    network = unet()
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction, beta_schedule=schedule, clip_sample=False, timestep_spacing="trailing"
    )
    pipeline = diffusers.DDIMPipeline(network, scheduler)
    pipeline.save_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    states, step = [], pipeline.scheduler.step

    def record(output, time, x, **named):
        states.extend([x, step(output, time, x, **named).prev_sample])
        return step(output, time, x, **named)

    monkeypatch.setattr(pipeline.scheduler, "step", record)
    pipeline(batch_size=2, num_inference_steps=10, generator=torch.Generator().manual_seed(0), output_type="np")
    table = levels(scheduler)[pipeline.scheduler.timesteps]
    denoise = build(read(tmp_path))
    initial = states[0].double() * (1 + table[0] ** 2).sqrt()
    x = sample(denoise, DDIM(grid=append_zero(table)), seeds=[0, 1], initial=initial, progress=False)
    assert relative(x, states[-1].double()) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        ({"num_class_embeds": 5}, torch.tensor([1, 4])),
        ({"class_embed_type": "timestep"}, torch.tensor([0.5, 20.0])),
        ({"class_embed_type": "identity"}, torch.randn(2, 32, generator=torch.Generator().manual_seed(3))),
    ],
)
def test_conditions(tmp_path, arguments, labels):
    network, scheduler = unet(**arguments), diffusers.DDPMScheduler(clip_sample=False)
    denoise = opened(tmp_path, network, scheduler)
    x, sigma = noise(2, 3, 8, 8), levels(scheduler)[300].float()
    x_t = x * (1 + sigma**2).rsqrt()
    x0 = scheduler.step(network(x_t, 300, class_labels=labels).sample, 300, x_t).pred_original_sample
    assert relative(denoise(x, sigma, class_labels=labels), x0) < 1e-5
    assert relative(denoise(x, sigma, class_labels=labels.flip(0)), x0) > 1e-3


def test_network_that_predicts_a_variance(tmp_path):
    network = unet(out_channels=6)
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    assert_same_x0(opened(tmp_path, network, scheduler), network, scheduler, 1e-5, torch.float32)


def test_learned_times_are_whole(tmp_path):
    network = unet(time_embedding_type="learned", num_train_timesteps=1000)
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    denoise = opened(tmp_path, network, scheduler)
    assert_same_x0(denoise, network, scheduler, 1e-5, torch.float32)
    x, sigma = noise(1, 3, 8, 8), (levels(scheduler)[7] * levels(scheduler)[8] ** 3).float() ** 0.25
    expected = x - sigma * network(x * (1 + sigma**2).rsqrt(), 8).sample
    assert relative(denoise(x, sigma), expected) < 1e-5


def test_times_between_the_levels_are_fractions(tmp_path):
    network, scheduler = unet(), diffusers.DDPMScheduler()
    denoise = opened(tmp_path, network, scheduler, torch.float64)
    x, table = noise(1, 3, 8, 8, dtype=torch.float64), levels(scheduler)
    sigma = (table[7] * table[8]).sqrt()
    expected = x - sigma * network.double()(x * (1 + sigma**2).rsqrt(), torch.tensor(7.5)).sample
    assert relative(denoise(x, sigma), expected) < 1e-6
