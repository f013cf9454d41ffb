import dataclasses
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prescore.checkpoints.autoencoder import load_autoencoder
from prescore.checkpoints.native import read_description
from prescore.data import load_images
from prescore.models.latent import encode
from prescore.training import loop
from prescore.training.data import TrainingData
from prescore.training.loop import RunOptions, TrainingResult, train
from prescore.training.recipes import RECIPES, configured, find_recipe, with_options

RUN = ["--steps", "3", "--batch-size", "2", "--cooldown", "1", "--no-progress", "--no-tensorboard"]
TINY = [*RUN, *["--model-channels", "8", "--channel-mult", "1,2", "--attn-resolutions", "4"]]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "digits.npz"
    images = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 1), dtype=np.uint8)
    np.savez(path, train=images, labels=np.arange(7) % 3, fields=images[..., 0] / 25.5 - 5.0)
    return path


@pytest.fixture
def seen(monkeypatch):
    """What the command would have run: (task, config, folder, options)."""
    calls = []

    def remember(task, config, out, options, **_):
        calls.append((task, config, out, options))
        return TrainingResult(out, config.steps, 0.0, 0.0, True)

    monkeypatch.setattr("prescore.training.loop.train", remember)
    return calls


def test_trains_and_resumes(cli, data, tmp_path):
    words = ["train", data, "--key", "train", "--out", tmp_path / "run", "--pad", 8, *TINY]
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    assert "step 3 of 3" in out
    assert "stopped" not in out
    description = read_description(tmp_path / "run" / "model.safetensors")
    assert (description.name, description.event_shape) == ("run", (1, 8, 8))
    code, out, _ = cli(*words)
    assert code == 0
    assert "step 3 of 3" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_does_not_pass_for_a_finished_one(cli, data, tmp_path, monkeypatch, number):
    original = loop.train_step

    def interrupted(state, *arguments):
        if state.step == 1:
            signal.raise_signal(number)
        return original(state, *arguments)

    words = ["train", data, "--key", "train", "--out", tmp_path / "run", "--pad", 8, *TINY]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted)
        code, out, err = cli(*words)
    assert (code, err) == (128 + number, "")
    assert "step 2 of 3" in out
    assert out.endswith("stopped; the same command goes on from here\n")
    assert cli(*words).code == 0


def test_names_of_models_are_text(cli, refused, data, tmp_path):
    words = ["train", data, "--key", "train", "--pad", 8, *TINY, "--out"]
    assert "--name: 'a\\x1b' given" in refused(*words, tmp_path / "run", "--name", "a\x1b")
    assert not (tmp_path / "run").exists()
    assert cli(*words, tmp_path / "na\x1bme").code == 0
    assert read_description(tmp_path / "na\x1bme" / "model.safetensors").name == "na_me"


def test_a_folder_whose_name_is_no_text(cli, data, tmp_path):
    folder = tmp_path / os.fsdecode(b"na\xff")
    words = ["train", data, "--key", "train", "--pad", 8, *TINY, "--out", folder]
    assert cli(*words).code == 0
    assert cli(*words).code == 0  # from its checkpoint
    code, out, _ = cli("info", folder / "model.safetensors")
    assert code == 0
    assert "na_" in out


def test_is_the_function_with_the_same_settings(cli, data, tmp_path):
    cli("train", data, "--key", "train", "--out", tmp_path / "a", "--pad", 8, *TINY)
    given = {"steps": 3, "batch_size": 2, "cooldown": 1}
    given |= {"model_channels": 8, "channel_mult": (1, 2), "attn_resolutions": (4,)}
    settings, config = with_options(find_recipe("edm"), given)
    task = settings.task(TrainingData(load_images(data, key="train", pad=8)))
    loop.train(task, config, tmp_path / "b", RunOptions(name="a", progress=False))
    a, b = (load_file(tmp_path / folder / "model.safetensors") for folder in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2", "ve", "vp", "flow", "edm"])
def test_defaults_are_those_of_the_recipe(cli, data, tmp_path, seen, name):
    words = ["train", data, "--key", "train", "--pad", 8, "--out", tmp_path / "run"]
    assert cli(*words, "--recipe", name).code == 0
    assert cli(*words, f"--recipe={name}").code == 0
    task, config, out, options = seen[0]
    assert (task.settings, config) == (RECIPES[name].settings, RECIPES[name].training)
    assert (out, options) == (tmp_path / "run", RunOptions(name="run", tensorboard=True))
    assert seen[1][0].settings == task.settings


def test_options_of_the_recipe_and_of_the_run(cli, data, tmp_path, seen):
    words = "--recipe ve --configuration E --p-mean -2 --flip --attn-resolutions= --seed 3 --name m --keep 5"
    more = "--accumulate 2 --sample-every 10 --device cpu --no-tensorboard --data-range=-1,1 --sigma-max none"
    code, *_ = cli("train", data, "--key", "train", "--out", tmp_path, *words.split(), *more.split(), "--no-progress")
    assert code == 0
    ((task, config, _, options),) = seen
    base = configured("ve", "E")
    given = {"P_mean": -2.0, "flip": True, "attn_resolutions": (), "data_range": (-1.0, 1.0), "sigma_max": None}
    assert task.settings == dataclasses.replace(base.settings, **given)
    assert config == dataclasses.replace(base.training, seed=3)
    assert options == RunOptions(name="m", keep=5, accumulate=2, sample_every=10, progress=False)


def test_fields_keep_their_units(cli, data, tmp_path, seen):
    words = ["train", data, "--key", "fields", "--out", tmp_path, "--range", -5, 5]
    assert cli(*words).code == 0
    assert cli(*words, "--data-range", "-1,1").code == 0
    kept, scaled = (call[0] for call in seen)
    assert (kept.data_range, scaled.data_range) == ((-5, 5), (-1, 1))
    batches = [task.batch({"index": torch.arange(7)})["x0"] for task in (kept, scaled)]
    assert torch.allclose(batches[0], 5 * batches[1], atol=1e-6)
    assert batches[0].min() < -4


def test_fields_in_recipes_whose_networks_see_no_fields(cli, data, tmp_path, seen):
    words = ["train", data, "--key", "fields", "--range", -5, 5, "--pad", 8, "--out"]
    assert cli(*words, tmp_path / "a", "--recipe", "vae").code == 0
    autoencoder = train(
        seen[0][0], dataclasses.replace(seen[0][1], steps=1), tmp_path / "a", RunOptions(progress=False)
    )
    assert cli(*words, tmp_path / "b", "--recipe", "latent", "--autoencoder", autoencoder.model).code == 0
    x, z = seen[0][0].batch({"index": torch.arange(7), "n": torch.zeros(7)})["x"], seen[1][0].data.examples
    assert (x.min(), x.max()) == (0, pytest.approx(1, abs=0.01))
    assert torch.equal(z, encode(load_autoencoder(autoencoder.model)[0], x))


def test_pictures_of_a_model_with_classes(cli, data, tmp_path):
    words = ["--labels", "labels", "--label-dropout", 0.1, "--augment", 0.1, "--sample-every", 3]
    code, *_ = cli("train", data, "--key", "train", "--pad", 8, "--out", tmp_path / "run", *TINY, *words)
    assert code == 0
    description = read_description(tmp_path / "run" / "model.safetensors")
    assert (description.arguments["label_dim"], description.arguments["augment_dim"]) == (3, 9)
    assert (tmp_path / "run" / "samples-0000003.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--recipe ncsm", "recipe: unknown value 'ncsm'; did you mean ncsn"),
        ("--recipe ve --p-mean -1", "--p-mean: belongs to noise log-normal"),
        ("--recipe ncsn --dropuot 1", "--dropuot: recipe 'ncsn' has no such option; did you mean --dropout"),
        ("--recipe ncsn --dropout 0.1", "dropout: belongs to the networks ddpmpp and ncsnpp"),
        ("--recipe edm --configuration B", "configuration: recipe 'edm' has none; ve and vp have"),
        ("--channel-mult 1,x", "--channel-mult: '1,x' given; numbers with commas is needed"),
        ("--steps many", "--steps: 'many' given; a whole number is needed"),
        ("--noise uniform", "noise: unknown value 'uniform'"),
        ("--device nowhere", "device: 'nowhere'"),
        ("--precision float16", "precision: float16 needs a GPU"),
        ("--checkpoint-every 0", "--checkpoint-every: 0"),
        ("--labels nothing", "has no array 'nothing'; it has train, labels, fields"),
        ("--labels labels --recipe ncsn", "labels: the network ncsn takes no classes"),
        ("--channel-mult 1,1,1,1", "img_resolution: 6 cannot be halved"),
        ("--range 5 -5", "range: (5.0, -5.0) is not an interval"),
        ("--batch-size 3 --accumulate 2", "--batch-size: 3 examples cannot be shared equally"),
    ],
)
def test_wrong_options(refused, data, tmp_path, options, message):
    assert message in refused("train", data, "--key", "train", "--out", tmp_path / "run", *options.split())


def test_fine_tuning(cli, refused, data, tmp_path):
    words = ["train", data, "--key", "train", "--pad", 8, *TINY]
    assert cli(*words, "--out", tmp_path / "first").code == 0
    first = tmp_path / "first" / "model.safetensors"
    assert cli(*words, "--out", tmp_path / "second", "--init", first, "--seed", 1).code == 0
    assert read_description(tmp_path / "second" / "model.safetensors").training["init"]
    assert cli(*words, "--out", tmp_path / "second", "--seed", 1).code == 0
    assert "init: the run in" in refused(*words, "--out", tmp_path / "first", "--init", first)
    assert "init: missing: no such file" in refused(*words, "--out", tmp_path / "third", "--init", "missing")
    wide = ["--model-channels", 12, "--out", tmp_path / "third", "--init", first]
    assert "model_channels is 8 in this model and 12 in the run" in refused(*words, *wide)
    assert not (tmp_path / "third").exists()


def test_a_folder_with_another_run(cli, refused, data, tmp_path):
    words = ["train", data, "--key", "train", "--pad", 8, "--out", tmp_path / "run", *TINY]
    assert cli(*words).code == 0
    assert "seed: the run in" in refused(*words, "--seed", 1)
    assert "dropout: the run in" in refused(*words, "--dropout", 0.1)
