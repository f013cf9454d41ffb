"""A pipeline as a denoiser: it draws what the pipeline draws with the same sampler, start and levels."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, EDMEulerScheduler, ScoreSdeVeScheduler, UNet2DModel

pytest.importorskip("transformers")

from pipelines import SIDE, dit, stable_diffusion, stable_diffusion_3, stable_diffusion_xl, unet

import prescore
from prescore.adapters.diffusers import denoiser_of, scheduler
from prescore.cli import main
from prescore.errors import PrescoreError
from prescore.noise import NoiseSource
from prescore.statistics import Statistics, measure_moments

EVENT = (4, SIDE, SIDE)
BUILDERS = {"sd": stable_diffusion, "sdxl": stable_diffusion_xl, "sd3": stable_diffusion_3, "dit": dit}


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


def asked(kind, guidance):
    """The same for the denoiser and for the pipeline."""
    if kind == "dit":
        return {"class_label": 3}, {"class_labels": [3, 3], "guidance_scale": guidance, "output_type": "np"}
    text = {"prompt": "a cat", "negative_prompt": "dog"}
    return text, {name: [value] * 2 for name, value in text.items()} | {"guidance_scale": guidance, "output_type": "pt"}


def noise(seeds):
    return NoiseSource(seeds, EVENT, dtype=torch.float32)()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("kind", BUILDERS)
def test_it_draws_what_the_pipeline_draws(pipes, statistics, kind, guidance, monkeypatch):
    pipe = pipes[kind]
    own = pipe.scheduler
    ours, theirs = asked(kind, guidance)
    model = denoiser_of(pipe, guidance=guidance, statistics=statistics, **ours)
    assert model.event_shape == EVENT
    assert model.picture_shape == (3, 16, 16)
    assert model.network_calls == (1 if guidance == 1 else 2)
    drawn = prescore.draw(model, n=2, sampler="p-ode-3m", calls=5 * model.network_calls, progress=False)
    pipe.scheduler = scheduler(own, "p-ode-3m", statistics, calls=5)
    if kind == "dit":  # which takes no latents
        monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda **how: noise([0, 1]))
        expected = torch.from_numpy(pipe(**theirs).images).movedim(-1, 1)
    else:
        expected = pipe(latents=noise([0, 1]), **theirs).images
    pipe.scheduler = own
    # The start, but for Stable Diffusion 3, whose pipeline shows the first call the noise itself.
    torch.testing.assert_close(drawn.float(), expected, rtol=0, atol=2e-3 if kind == "sd3" else 2e-5)
    assert (drawn[0] - drawn[1]).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["sd", "sd3"])
def test_from_the_same_state_on_the_same_levels(pipes, kind):
    pipe = pipes[kind]
    own = pipe.scheduler
    ours, theirs = asked(kind, 3.0)
    model = denoiser_of(pipe, guidance=3.0, **ours)
    made = pipe.scheduler = scheduler(own, "dpmpp-2m")
    levels = [0.97, 0.8, 0.4, 0.1] if kind == "sd3" else [14.0, 5.0, 1.5, 0.4]
    expected = pipe(latents=noise([0, 1]), sigmas=levels, **theirs).images
    pipe.scheduler = own
    plan = prescore.plan(model, sampler="dpmpp-2m", grid=made._levels)
    x = noise([0, 1]).double() / made.schedule_scale(made._levels[0])
    drawn = model.decode(plan.sample([0, 1], initial=x, progress=False))
    torch.testing.assert_close(drawn.float(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", BUILDERS)
def test_one_condition_a_sample(pipes, statistics, kind):
    model = denoiser_of(pipes[kind], statistics=statistics)
    two = torch.tensor([3, 7])
    condition = {"class_labels": two} if kind == "dit" else model.condition(["a cat", "dog"])
    how = {"sampler": "p-ode-2m", "calls": 6, "progress": False}
    both = prescore.draw(model, n=2, condition=condition, **how)
    alone = denoiser_of(
        pipes[kind], statistics=statistics, **({"class_label": 7} if kind == "dit" else {"prompt": "dog"})
    )
    torch.testing.assert_close(prescore.draw(alone, n=1, seed=1, **how), both[1:], rtol=0, atol=1e-5)
    with pytest.raises(Exception, match=r"(prompt|class_label): is missing") as error:
        prescore.draw(model, n=1, **how)
    assert "condition of the call" in str(error.value)


@pytest.mark.parametrize("kind", ["sd", "sd3", "dit"])
def test_it_is_calibrated_without_data(pipes, kind):
    given = asked(kind, 2.0)[0]
    model = denoiser_of(pipes[kind], guidance=2.0, **given)
    measured = prescore.calibrate_model(model, n=6, sample_calls=16, levels=3, trajectories=0)
    assert measured.event_shape == EVENT
    pictures = prescore.draw(model, n=1, calls=10, statistics=measured, progress=False)
    assert pictures.shape == (1, 3, 16, 16)
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_pictures_and_latents(pipes):
    model = denoiser_of(pipes["sd3"], "a cat")
    z = torch.randn(5, *EVENT, generator=torch.Generator().manual_seed(0)).double()
    vae = pipes["sd3"].vae
    assert vae.config.shift_factor
    expected = vae.decode((z / vae.config.scaling_factor + vae.config.shift_factor).float()).sample / 2 + 0.5
    torch.testing.assert_close(model.decode(z).float(), expected.clamp(0, 1))
    pictures = torch.rand(5, 3, 16, 16)
    own = vae.encode(pictures * 2 - 1).latent_dist.mode()
    expected = (own - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(model.encode(pictures), expected, rtol=1e-4, atol=1e-5)


def test_the_scheduler_of_the_pipeline_brings_its_statistics(statistics):
    pipe = dit()
    pipe.scheduler = scheduler(pipe.scheduler, "p-ode-3m", statistics)
    model = denoiser_of(pipe, class_label=1)
    assert model.statistics is statistics
    assert model.data_range == (-4, 4)
    assert prescore.plan(model, sampler="p-ode-2m", calls=6).steps == 3


def test_a_network_in_half_precision():
    pipe = stable_diffusion_3()
    full = denoiser_of(pipe, "a cat", guidance=3.0)
    x, sigma = noise([0, 1]) * 20, torch.tensor(20.0)
    with torch.no_grad():
        expected = full(x, sigma)
        pipe.to(torch.bfloat16)
        found = denoiser_of(pipe, "a cat", guidance=3.0)(x, sigma)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.05  # x itself, in bfloat16, is rounded by 0.3


def unconditional(**config):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        **config,
    ).eval()


@pytest.mark.parametrize(
    "own",
    [
        DDPMScheduler(clip_sample=False),
        DDPMScheduler(prediction_type="v_prediction"),
        DDPMScheduler(prediction_type="sample"),
        EDMEulerScheduler(),
        ScoreSdeVeScheduler(),
    ],
)
def test_unconditional_pipelines_are_read_as_their_folders_are(tmp_path, own):
    is_score = isinstance(own, ScoreSdeVeScheduler)
    pipe = DDPMPipeline(unconditional(**({"time_embedding_type": "fourier"} if is_score else {})), own)
    model = denoiser_of(pipe)
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = prescore.load(tmp_path / "pipe")
    assert (model.sigma_min, model.sigma_max) == (loaded.sigma_min, loaded.sigma_max)
    assert model.data_range == loaded.data_range == model.picture_range
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for level in (0.05, 1.0, 20.0):
        sigma = torch.tensor(level)
        with torch.no_grad():
            torch.testing.assert_close(model(x * level, sigma), loaded(x * level, sigma), rtol=1e-4, atol=1e-4)
    assert model.decode(x) is x


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3"])
def test_a_folder_of_a_pipeline_names_the_lines_that_open_it(pipes, tmp_path, kind, capsys):
    folder = tmp_path / "it's a pipe"
    pipes[kind].save_pretrained(folder)
    with pytest.raises(PrescoreError, match="this opens it in Python: ") as error:
        prescore.load(folder)
    capsys.readouterr()
    assert main(["info", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.strip().count("\n") == 0
    names: dict = {}
    exec(said.partition("in Python: ")[2], names)
    assert str(error.value) in said
    assert prescore.draw(names["model"], n=1, calls=6, progress=False).shape == (1, 3, 16, 16)


@pytest.fixture(scope="module")
def dit_folder(pipes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "dit"
    pipes["dit"].save_pretrained(folder)
    return folder


@pytest.mark.parametrize("guidance", [None, 3.0])
def test_the_folder_of_a_dit_is_opened(pipes, dit_folder, guidance, tmp_path):
    loaded, own = prescore.load(dit_folder, guidance=guidance), denoiser_of(pipes["dit"], guidance=guidance or 1.0)
    assert (loaded.sigma_min, loaded.sigma_max) == (own.sigma_min, own.sigma_max)
    assert (loaded.event_shape, loaded.picture_shape) == (own.event_shape, own.picture_shape)
    assert (loaded.data_range, loaded.picture_range) == (own.data_range, own.picture_range)
    assert loaded.network_calls == own.network_calls
    x, sigma = noise([0, 1]) * 3, torch.tensor(3.0)
    with torch.no_grad():
        for labels in ([3, 3], [0, 999]):
            condition = {"class_labels": torch.tensor(labels)}
            torch.testing.assert_close(loaded(x, sigma, **condition), own(x, sigma, **condition), rtol=1e-4, atol=1e-5)
        none = {"class_labels": torch.tensor([1000])}
        torch.testing.assert_close(loaded(x, sigma), own(x, sigma, **none), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loaded.decode(x), own.decode(x))
    pictures = own.decode(x)
    torch.testing.assert_close(loaded.encode(pictures), own.encode(pictures), rtol=1e-4, atol=1e-5)


def test_the_command_line_draws_from_the_folder_of_a_dit(dit_folder, tmp_path, capsys):
    out = tmp_path / "out.npz"
    words = ["--class", "3,7", "--guidance", "2", "--n", "2", "--calls", "8", "--out", str(out), "--float"]
    assert main(["sample", str(dit_folder), *words]) == 0
    images = np.load(out)["images"]
    assert images.shape[0] == 2
    assert main(["convert", str(dit_folder), "--out", str(tmp_path / "dit.safetensors"), "--dtype", "float32"]) == 0
    again = tmp_path / "again.npz"
    words[words.index(str(out))] = str(again)
    assert main(["sample", str(tmp_path / "dit.safetensors"), *words]) == 0
    np.testing.assert_array_equal(np.load(again)["images"], images)
    capsys.readouterr()
    assert main(["info", str(dit_folder)]) == 0
    assert "1000, or none" in capsys.readouterr().out
    assert main(["sample", str(dit_folder), "--class", "1000", "--out", str(tmp_path / "no.png")]) == 2
    assert "the model has the classes 0 to 999" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("vae/config.json", {"_class_name": "VQModel"}, "an AutoencoderKL is needed"),
        ("vae/config.json", {"block_out_channels": [4, 8, 8]}, "cannot be built|is missing|has shape"),
        ("vae/config.json", {"scaling_factor": "1"}, "scaling_factor: '1' is not a number"),
        ("vae/config.json", {"latent_channels": 3}, "has shape"),
        ("transformer/config.json", {"sample_size": 6}, "sample_size|cannot run|makes"),
        ("transformer/config.json", {"num_layers": 10**9}, "num_layers|much larger|is missing"),
        ("transformer/config.json", {"_class_name": "PixArtTransformer2DModel"}, "the network is a 'PixArt"),
    ],
)
def test_a_damaged_folder_of_a_dit_is_refused(dit_folder, tmp_path, file, change, message):
    folder = tmp_path / "dit"
    shutil.copytree(dit_folder, folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PrescoreError, match=message):
        prescore.load(folder)


def test_a_folder_of_another_pipeline_names_the_scheduler(tmp_path):
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]})
    )
    with pytest.raises(PrescoreError, match=r"FluxTransformer2DModel.* is not read; .* = scheduler\(pipe.scheduler"):
        prescore.load(tmp_path)


def test_what_is_refused(pipes):
    with pytest.raises(PrescoreError, match="prompt: DiTPipeline takes no text"):
        denoiser_of(pipes["dit"], "a cat")
    with pytest.raises(PrescoreError, match="class_label: 1000 given; DiTPipeline has the classes 0 to 999"):
        denoiser_of(pipes["dit"], class_label=1000)
    with pytest.raises(PrescoreError, match="class_label: StableDiffusionPipeline has no classes"):
        denoiser_of(pipes["sd"], class_label=1)
    with pytest.raises(PrescoreError, match="height: 17 is not a multiple of 2"):
        denoiser_of(pipes["sd"], "a cat", height=17)
    with pytest.raises(PrescoreError, match="prompt: one text is needed"):
        denoiser_of(pipes["sd"], ["a", "b"])
    with pytest.raises(PrescoreError, match="guidance: DDPMPipeline has no answer without a condition"):
        denoiser_of(DDPMPipeline(unconditional(), DDPMScheduler()), guidance=2.0)
    with pytest.raises(PrescoreError, match="takes no text"):
        denoiser_of(pipes["dit"]).condition(["a cat"])
    masked = stable_diffusion()
    masked.unet = unet(cross_attention_dim=16, in_channels=9)
    with pytest.raises(PrescoreError, match="takes more than a noisy sample"):
        denoiser_of(masked, "a cat")
