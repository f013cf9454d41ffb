import dataclasses
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prescore.checkpoints.native import load_model, read_description
from prescore.errors import PrescoreError
from prescore.training import loop
from prescore.training.loop import TrainingConfig, new_state, root_mean_square, train, train_step
from prescore.training.losses import edm_weight

TINY = TrainingConfig(
    steps=6,
    batch_size=4,
    warmup=2,
    cooldown=2,
    model_channels=8,
    channel_mult=(1, 2),
    channel_mult_emb=1,
    attn_resolutions=(),
)


def digits(count=12, side=4, seed=0):
    return torch.randint(
        0, 256, (count, 1, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def tensors(folder):
    return load_file(Path(folder) / "checkpoint.safetensors")


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def interrupt_after(monkeypatch, steps):
    """Presses Ctrl-C while step number `steps` is being made."""
    original = loop.train_step

    def step(state, config, images):
        if state.step == steps - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(state, config, images)

    monkeypatch.setattr(loop, "train_step", step)


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3}, {"precision": "bfloat16"}, {"noise": "log-normal"}])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, changes):
    config = dataclasses.replace(TINY, **changes)
    whole = train(digits(), config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        half = train(digits(), config, tmp_path / "parts", progress=False)
    assert (half.steps, half.is_finished) == (3, False)
    resumed = train(digits(), config, tmp_path / "parts", progress=False)
    assert (resumed.steps, resumed.is_finished, whole.is_finished) == (6, True, True)
    assert_equal(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    assert_equal(load_file(whole.model), load_file(resumed.model))
    losses = [(tmp_path / part / "loss.csv").read_text().splitlines() for part in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 1 + 6


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    whole = train(digits(), TINY, tmp_path / "whole", progress=False)
    original = loop.train_step

    def step(state, config, images):
        if state.step == 5:
            raise SystemExit
        return original(state, config, images)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        with pytest.raises(SystemExit):
            train(digits(), TINY, tmp_path / "parts", progress=False, checkpoint_every=2)
    assert read_description(tmp_path / "parts" / "model.safetensors").training["steps"] == 4
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == sorted(
        ["checkpoint.safetensors", "model.safetensors", "loss.csv"]
    )
    train(digits(), TINY, tmp_path / "parts", progress=False)
    assert_equal(load_file(whole.model), load_file(tmp_path / "parts" / "model.safetensors"))


def test_another_length_before_the_cooldown_is_as_if_given_from_the_start(tmp_path, monkeypatch):
    longer = dataclasses.replace(TINY, steps=8)
    train(digits(), longer, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        train(digits(), TINY, tmp_path / "parts", progress=False)
    train(digits(), longer, tmp_path / "parts", progress=False)
    assert_equal(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    with pytest.raises(PrescoreError, match=r"steps: the run in .* is at step 8 of 8; with 12 steps"):
        train(digits(), dataclasses.replace(TINY, steps=12), tmp_path / "parts", progress=False)


def test_the_global_random_state_is_neither_read_nor_moved():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        state = new_state(dataclasses.replace(TINY, dropout=0.5), (1, 4, 4), 0.5)
        train_step(state, dataclasses.replace(TINY, dropout=0.5), digits())
        assert torch.equal(before, torch.get_rng_state())
        results.append(state.tensors())
    assert_equal(*results)


def test_learning_rate_warms_up_stays_and_falls():
    config = dataclasses.replace(TINY, steps=10, warmup=4, cooldown=3, learning_rate=1.0)
    rates = [config.learning_rate_at(step) for step in range(10)]
    assert rates == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])


def test_model_file_says_how_it_was_trained(tmp_path):
    result = train(digits(), TINY, tmp_path, name="dots", progress=False)
    description = read_description(result.model)
    assert description.name == "dots"
    assert description.event_shape == (1, 4, 4)
    assert (description.sigma_min, description.sigma_max) == (0.01, 50.0)
    assert description.preconditioning_arguments == {"sigma_data": root_mean_square(digits())}
    assert description.training["steps"] == 6
    assert description.training["config"]["batch_size"] == 4
    assert load_file(result.model)["map_layer0.weight"].dtype == torch.float16
    average = tensors(tmp_path)["average/map_layer0.weight"]
    assert torch.equal(load_file(result.model)["map_layer0.weight"], average.half())


def test_root_mean_square_in_parts():
    images = digits(2500)
    assert root_mean_square(images) == pytest.approx((images.double() / 255).square().mean().sqrt().item(), rel=1e-6)


def test_learns_a_gaussian_of_two_parameters(tmp_path):
    """Images a p + b q, (a, b) Gaussian: the loss comes down to that of the exact denoiser, measured on the same draws.

    Without the network (F = 0) the loss is 1; the exact denoiser uses that only two of 16 directions carry data.
    """
    generator = torch.Generator().manual_seed(0)
    p, q = torch.linalg.qr(torch.randn(16, 2, generator=generator)).Q.T.reshape(2, 1, 4, 4)
    a, b = 0.12 * torch.randn(2, 20_000, 1, 1, 1, generator=generator)
    images = (0.5 + a * p + b * q).clamp(0, 1)
    config = dataclasses.replace(
        TINY,
        steps=300,
        batch_size=32,
        learning_rate=5e-3,
        warmup=20,
        cooldown=200,
        ema_decay=0.98,
        sigma_min=0.05,
        sigma_max=5.0,
        channel_mult=(1,),
    )
    train(images, config, tmp_path, progress=False)
    learnt = load_model(tmp_path / "model.safetensors")

    def exact(x, sigma):
        kept = 0.12**2 / (0.12**2 + sigma.reshape(-1, 1, 1, 1) ** 2)
        inner = [((x - 0.5) * direction).sum((1, 2, 3), keepdim=True) * direction for direction in (p, q)]
        return 0.5 + kept * (inner[0] + inner[1])

    x0 = images[:4096]
    n = torch.randn(x0.shape, generator=generator)
    sigma = config.levels.quantile(torch.linspace(0.001, 0.999, len(x0)))
    losses = [
        loop.denoising_loss(denoise, x0, sigma, n, edm_weight(sigma, root_mean_square(images))).item()
        for denoise in (exact, learnt)
    ]
    assert losses[0] == pytest.approx(0.031, abs=0.001)
    assert losses[0] < losses[1] < losses[0] + 0.04


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: 0 is less than 1"),
        ({"learning_rate": math.nan}, "learning_rate: nan is not a positive number"),
        ({"warmup": -1}, "warmup: -1 is negative"),
        ({"ema_decay": 1.0}, "ema_decay: 1.0 is not in"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min 2.0, sigma_max 1.0"),
        ({"sigma_data": -1.0}, "sigma_data: -1.0 is not a positive number"),
        ({"noise": "log-unifrom"}, "noise: unknown 'log-unifrom', did you mean log-uniform"),
        ({"precision": "int8"}, "precision: unknown 'int8'"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(PrescoreError, match=message):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4, 4), r"images: shape \(3, 4, 4\)"),
        (torch.zeros(3, 1, 4, 5), r"images: shape \(3, 1, 4, 5\)"),
        (torch.zeros(0, 1, 4, 4), "N at least 1"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.int64), "images: dtype torch.int64"),
        (torch.full((3, 1, 4, 4), 1.5), "images: values from 1.5 to 1.5"),
        (torch.full((3, 1, 4, 4), math.nan), "images: values from nan"),
    ],
)
def test_wrong_images(tmp_path, images, message):
    with pytest.raises(PrescoreError, match=message):
        train(images, TINY, tmp_path, progress=False)


def test_a_folder_with_another_run_is_left_alone(tmp_path):
    train(digits(), TINY, tmp_path, progress=False)
    before = tensors(tmp_path)
    with pytest.raises(PrescoreError, match=r"seed: the run in .* has 0, not 1"):
        train(digits(), dataclasses.replace(TINY, seed=1), tmp_path, progress=False)
    with pytest.raises(PrescoreError, match="other data"):
        train(digits(seed=1), TINY, tmp_path, progress=False)
    assert_equal(before, tensors(tmp_path))


def test_broken_checkpoints_and_folders(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"\x10" + bytes(20))
    with pytest.raises(PrescoreError, match=r"checkpoint.safetensors: not a safetensors file, or truncated"):
        train(digits(), TINY, tmp_path / "run", progress=False)
    model = train(digits(), TINY, tmp_path / "other", progress=False).model
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(model.read_bytes())
    with pytest.raises(PrescoreError, match="not a checkpoint of prescore's training"):
        train(digits(), TINY, tmp_path / "run", progress=False)
    (tmp_path / "file").touch()
    with pytest.raises(PrescoreError, match=r"file/run: the folder cannot be made"):
        train(digits(), TINY, tmp_path / "file" / "run", progress=False)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    state = new_state(TINY, (1, 4, 4), 0.5)
    next(state.denoiser.parameters()).data.fill_(math.nan)
    with pytest.raises(PrescoreError, match="learning_rate: the loss is nan at step 0"):
        train_step(state, TINY, digits())
