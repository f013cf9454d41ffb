import dataclasses
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import QUIET, assert_equal, digits, newest, tensors, tiny
from safetensors.torch import load_file

from prescore.checkpoints.native import load_model, read_description
from prescore.errors import PrescoreError
from prescore.training import loop
from prescore.training.data import TrainingData
from prescore.training.loop import RunOptions, train
from prescore.training.losses import denoising_loss, edm_weight


def interrupt_after(monkeypatch, steps, number=signal.SIGINT):
    """Presses Ctrl-C while step number `steps` is being made."""
    original = loop.train_step

    def step(state, *arguments):
        if state.step == steps - 1:
            os.kill(os.getpid(), number)
        return original(state, *arguments)

    monkeypatch.setattr(loop, "train_step", step)


@pytest.mark.parametrize(
    "changes",
    [{}, {"dropout": 0.3}, {"precision": "bfloat16"}, {"augment": 0.5}, {"loss": "ssm-vr"}],
    ids=lambda changes: next(iter(changes), "plain"),
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, changes, number):
    task, config = tiny(**changes)
    whole = train(task, config, tmp_path / "whole", QUIET)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3, number)
        half = train(task, config, tmp_path / "parts", QUIET)
    assert (half.steps, half.is_finished, half.signal) == (3, False, number)
    resumed = train(task, config, tmp_path / "parts", QUIET)
    assert (resumed.steps, resumed.is_finished, whole.is_finished) == (6, True, True)
    assert_equal(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    assert_equal(load_file(whole.model), load_file(resumed.model))
    losses = [(tmp_path / part / "loss.csv").read_text().splitlines() for part in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 1 + 6


KILLED = """
import sys
from runs import QUIET, tiny
from prescore.training.loop import train
import dataclasses
task, config = tiny("edm", steps=100_000, cooldown=0)
train(task, config, sys.argv[1], dataclasses.replace(QUIET, checkpoint_every=1))
"""


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    """SIGKILL at a random moment, while checkpoints are being written all the time."""
    torch.set_num_threads(1)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "parts")], env=environment)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("parts/checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(torch.rand(()).item())
    process.kill()
    assert process.wait() == -signal.SIGKILL
    reached = int(newest(tmp_path / "parts").stem.split("-")[1])
    task, config = tiny("edm", steps=reached + 3, cooldown=0)
    train(task, config, tmp_path / "parts", QUIET)
    train(task, config, tmp_path / "whole", QUIET)
    assert_equal(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    assert not list((tmp_path / "parts").glob(".*.part"))
    assert len((tmp_path / "parts" / "loss.csv").read_text().splitlines()) == 1 + reached + 3


def test_another_length_before_the_cooldown_is_as_if_given_from_the_start(tmp_path, monkeypatch):
    (task, config), (_, longer) = tiny(), tiny(steps=8)
    train(task, longer, tmp_path / "whole", QUIET)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        train(task, config, tmp_path / "parts", QUIET)
    train(task, longer, tmp_path / "parts", QUIET)
    assert_equal(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    with pytest.raises(PrescoreError, match=r"steps: the run in .* is at step 8 of 8; with 12 steps"):
        train(task, dataclasses.replace(config, steps=12), tmp_path / "parts", QUIET)


def test_a_folder_holds_the_last_checkpoints_the_model_the_losses_and_pictures(tmp_path):
    task, config = tiny()
    pictures = []

    def save_picture(path, samples, data_range):
        pictures.append((path.name, tuple(samples.shape), data_range))

    options = dataclasses.replace(QUIET, checkpoint_every=2, keep=2, sample_every=3)
    train(task, config, tmp_path / "with", options, save_picture=save_picture)
    names = ["checkpoint-0000004.safetensors", "checkpoint-0000006.safetensors", "loss.csv", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "with").iterdir()) == names
    shape = (loop.PICTURES, 1, 4, 4)
    assert pictures == [(f"samples-000000{step}.png", shape, (-1.0, 1.0)) for step in (3, 6)]
    train(task, config, tmp_path / "without", QUIET)  # pictures move no random number of the training
    assert_equal(tensors(tmp_path / "with"), tensors(tmp_path / "without"))


def test_a_run_killed_after_a_checkpoint_has_the_picture_of_its_step(tmp_path, monkeypatch):
    def killed(*_, **__):
        original(*_, **__)
        raise KeyboardInterrupt

    original = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", killed)
    options = dataclasses.replace(QUIET, checkpoint_every=2, sample_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(*tiny(), tmp_path, options, save_picture=lambda path, *_: path.touch())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-0000002.safetensors", "loss.csv", "samples-0000002.png"]


def test_a_folder_is_one_run_s_at_a_time(tmp_path):
    task, config = tiny()
    refusals = []

    def save_picture(*_):
        with pytest.raises(PrescoreError) as refusal:
            train(task, config, tmp_path, QUIET)
        refusals.append(str(refusal.value))

    train(task, config, tmp_path, dataclasses.replace(QUIET, sample_every=3), save_picture=save_picture)
    assert refusals == [f"{tmp_path}: another run is at work in this folder; take another one"] * 2
    assert train(task, config, tmp_path, QUIET).is_finished


def test_an_interrupted_start_leaves_no_new_folder(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "resume", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(*tiny(), tmp_path / "run", QUIET)
    assert not list(tmp_path.iterdir())


def test_tensorboard(tmp_path, monkeypatch, capsys):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    task, config = tiny()
    options = dataclasses.replace(QUIET, tensorboard=True, sample_every=6)
    train(task, config, tmp_path, options)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    rows = [row.split(",") for row in (tmp_path / "loss.csv").read_text().splitlines()[1:]]
    assert losses == [(int(step), pytest.approx(float(loss), abs=1e-6)) for step, loss in rows]
    rates = [event.value for event in events.Scalars("learning_rate")]
    assert rates == pytest.approx([config.learning_rate_at(step) for step in range(6)])
    assert len(events.Images("samples")) > 0
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(task, config, tmp_path / "off", options)
    assert "TensorBoard is not installed, so only loss.csv is written; pip install" in capsys.readouterr().err
    assert not list((tmp_path / "off").glob("events*"))


def test_model_file_says_how_it_was_trained(tmp_path):
    task, config = tiny("ve")
    result = train(task, config, tmp_path, dataclasses.replace(QUIET, name="dots"))
    description = read_description(result.model)
    assert (description.name, description.event_shape, description.preconditioning) == ("dots", (1, 4, 4), "ve")
    assert (description.sigma_min, description.sigma_max, description.data_range) == (0.01, 50.0, (0.0, 1.0))
    assert description.training["steps"] == 6
    assert description.training["config"]["batch_size"] == 4
    assert description.training["settings"]["network"] == "ncsnpp"
    weights = load_file(result.model)
    assert weights["map_layer0.weight"].dtype == torch.float16
    assert torch.equal(weights["map_layer0.weight"], tensors(tmp_path)["average/map_layer0.weight"].half())


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2", "ve", "vp", "flow", "edm"])
def test_models_of_every_recipe_are_loaded_as_they_were_trained(tmp_path, name):
    task, config = tiny(name, steps=2, cooldown=0, batch_size=2)
    loaded = load_model(train(task, config, tmp_path, QUIET).model)
    network = task.build(torch.Generator())
    average = {key.removeprefix("average/"): value for key, value in tensors(tmp_path).items() if "average/" in key}
    learned = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    network.load_state_dict({k: v.half().float() if k in learned else v for k, v in average.items()})
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([task.sigma_min, 0.5, task.sigma_max])
    with torch.no_grad():
        assert torch.equal(loaded(x, sigma), task._preconditioned(network).eval()(x, sigma))


def test_learns_a_gaussian_of_two_parameters(tmp_path):
    """Images a p + b q, (a, b) Gaussian: the loss comes down to that of the exact denoiser, measured on the same draws.

    Without the network (F = 0) the loss is 1; the exact denoiser uses that only two of 16 directions carry data.
    """
    generator = torch.Generator().manual_seed(0)
    p, q = torch.linalg.qr(torch.randn(16, 2, generator=generator)).Q.T.reshape(2, 1, 4, 4)
    a, b = 0.12 * torch.randn(2, 20_000, 1, 1, 1, generator=generator)
    images = (0.5 + a * p + b * q).clamp(0, 1)
    run = {"steps": 300, "batch_size": 32, "learning_rate": 5e-3, "warmup": 20, "cooldown": 200, "ema_decay": 0.98}
    levels = {"noise": "log-uniform", "sigma_min": 0.05, "sigma_max": 5.0, "data_range": (0.0, 1.0)}
    task, config = tiny("edm", TrainingData(images), **run, **levels, channel_mult=(1,))
    train(task, config, tmp_path, QUIET)
    learnt = load_model(tmp_path / "model.safetensors")

    def exact(x, sigma):
        kept = 0.12**2 / (0.12**2 + sigma.reshape(-1, 1, 1, 1) ** 2)
        inner = [((x - 0.5) * direction).sum((1, 2, 3), keepdim=True) * direction for direction in (p, q)]
        return 0.5 + kept * (inner[0] + inner[1])

    x0 = images[:4096]
    n = torch.randn(x0.shape, generator=generator)
    sigma = task.levels.quantile(torch.linspace(0.001, 0.999, len(x0)))
    losses = [
        denoising_loss(denoise, x0, sigma, n, edm_weight(sigma, task.sigma_data)).item() for denoise in (exact, learnt)
    ]
    assert losses[0] == pytest.approx(0.031, abs=0.001)
    assert losses[0] < losses[1] < losses[0] + 0.04


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "nowhere"}, "device: 'nowhere' cannot be used"),
        ({"accumulate": 3}, "batch_size: 4 examples cannot be shared equally by 1 processes in 3 parts"),
    ],
)
def test_runs_that_cannot_start(tmp_path, options, message):
    task, config = tiny()
    with pytest.raises(PrescoreError, match=message):
        train(task, config, tmp_path, dataclasses.replace(QUIET, **options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["accumulate", "checkpoint_every", "keep"])
def test_wrong_options(name):
    with pytest.raises(PrescoreError, match=f"{name}: 0 is less than 1"):
        RunOptions(**{name: 0})


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\udcff"])
def test_a_name_that_is_no_text(name):
    with pytest.raises(PrescoreError, match=r"name: .* given; letters"):
        RunOptions(name=name)


def test_half_precision_needs_a_gpu(tmp_path):
    task, config = tiny(precision="float16")
    with pytest.raises(PrescoreError, match="precision: float16 needs a GPU; on cpu take bfloat16"):
        train(task, config, tmp_path, QUIET)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PrescoreError, match=r"file/run: cannot be written \(Not a directory\)"):
        train(*tiny(), tmp_path / "file" / "run", QUIET)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    task, config = tiny(learning_rate=1e30, clip=0.0, steps=20)
    with pytest.raises(PrescoreError, match=r"learning_rate: the loss is (nan|inf) at step \d+; take a smaller one"):
        train(task, config, tmp_path / "run", QUIET)
    assert not list(tmp_path.iterdir())
    assert math.isfinite(digits().float().mean())


def change_weights_at(monkeypatch, last, value):
    """Step number `last` leaves this value in the weights and in their average."""
    original = loop.train_step

    def step(state, *arguments):
        loss = original(state, *arguments)
        if state.step == last:
            for weights in (next(iter(state.network.parameters())).data, next(iter(state.average.values()))):
                weights.view(-1)[0] = value
        return loss

    monkeypatch.setattr(loop, "train_step", step)


def test_weights_that_are_not_finite_leave_the_checkpoints_before_them(tmp_path, monkeypatch):
    change_weights_at(monkeypatch, 6, math.nan)
    options = dataclasses.replace(QUIET, checkpoint_every=2, keep=1)
    with pytest.raises(PrescoreError, match=r"learning_rate: the weights are not finite at step 6; take a smaller one"):
        train(*tiny(), tmp_path, options)
    assert newest(tmp_path).name == "checkpoint-0000004.safetensors"
    load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("recipe", ["edm", "vae"])
def test_weights_too_large_for_half_precision_are_stored_in_float32(tmp_path, monkeypatch, recipe):
    change_weights_at(monkeypatch, 6, 1e5)
    result = train(*tiny(recipe), tmp_path, QUIET)
    weights = load_file(result.model)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert max(value.max() for value in weights.values()) == 1e5


@pytest.mark.parametrize(("ema_decay", "kind"), [(0.0, "raw"), (0.9, "ema")])
def test_a_model_says_which_weights_it_holds(tmp_path, ema_decay, kind):
    task, config = tiny(ema_decay=ema_decay)
    assert read_description(train(task, config, tmp_path, QUIET).model).weights == kind


def test_only_half_written_files_of_the_run_itself_are_deleted(tmp_path):
    ours = ["checkpoint-0000003.safetensors", "model.safetensors", "loss.csv", "samples-0000003.png"]
    for name in (*ours, "film.mp4"):
        (tmp_path / f".{name}.a1b2c3.part").touch()
    train(*tiny(), tmp_path, QUIET)
    assert [path.name for path in tmp_path.glob(".*")] == [".film.mp4.a1b2c3.part"]
