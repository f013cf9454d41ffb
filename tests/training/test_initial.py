import dataclasses

import pytest
import torch
from runs import QUIET, assert_equal, digits, newest, rewrite, tensors, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prescore.checkpoints.native import read_description, save_model
from prescore.errors import PrescoreError
from prescore.processes import Processes
from prescore.training.data import TrainingData
from prescore.training.initial import check_same, check_same_arguments, model_weights
from prescore.training.loop import train
from prescore.training.state import new_state

ALONE = Processes(torch.device("cpu"))
OFTEN = dataclasses.replace(QUIET, checkpoint_every=2, keep=9)


def stored(folder, recipe="edm", seed=1, **changes):
    """A model file with random weights, written as a run of the recipe would."""
    folder.mkdir(exist_ok=True)
    task, _ = tiny(recipe, **changes)
    weights = task.build(torch.Generator().manual_seed(seed)).state_dict()
    task.save(folder / "first.safetensors", weights, "first", {})
    return folder / "first.safetensors"


@pytest.mark.parametrize("recipe", ["ncsn", "ncsnv2", "ve", "vp", "flow", "edm", "vae"])
def test_a_run_begins_with_the_weights_and_a_new_optimizer(tmp_path, recipe):
    path = stored(tmp_path, recipe)
    task, config = tiny(recipe)
    state = new_state(task, config, ALONE, task.load(path))
    begin = {name: value.float() for name, value in load_file(path).items() if not name.startswith("precond.")}
    assert_equal(begin, dict(state.network.state_dict()))
    assert_equal(begin, state.average)
    assert all(not value.any() for name, value in state.tensors().items() if name.startswith("adam/"))
    assert state.step == 0


def test_what_is_trained_is_trained_from_there(tmp_path):
    """The first step moves the stored weights by at most the learning rate."""
    path, (task, config) = stored(tmp_path), tiny(steps=1, cooldown=0)
    result = train(task, config, tmp_path / "run", QUIET, init=path)
    begin, end = load_file(path), tensors(tmp_path / "run")
    for name, value in begin.items():
        assert (end[f"weights/{name}"] - value).abs().max() <= 1.01 * config.learning_rate_at(0)
    assert not torch.equal(end["weights/map_layer0.weight"], begin["map_layer0.weight"].float())
    facts = read_description(result.model).training
    assert len(facts["init"]) == 8
    assert str(path) not in str(facts)
    assert "init" not in read_description(train(task, config, tmp_path / "random", QUIET).model).training


def test_a_run_goes_on_without_the_model(tmp_path):
    path, (task, config) = stored(tmp_path), tiny()
    whole = train(task, config, tmp_path / "whole", OFTEN, init=path)
    train(task, config, tmp_path / "parts", OFTEN, init=path)
    for last in ("checkpoint-0000006.safetensors", "checkpoint-0000004.safetensors"):
        (tmp_path / "parts" / last).unlink()
    resumed = train(task, config, tmp_path / "parts", QUIET)
    assert_equal(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    assert read_description(resumed.model).training["init"] == read_description(whole.model).training["init"]
    assert train(task, config, tmp_path / "parts", QUIET, init=path).is_finished


@pytest.mark.parametrize("first", [True, False])
def test_a_run_with_another_start_is_left_alone(tmp_path, first):
    task, config = tiny()
    train(task, config, tmp_path / "run", QUIET, init=stored(tmp_path / "a") if first else None)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    other = stored(tmp_path / "b", seed=2)
    began = r"other weights \(\w{8}, not \w{8}\)" if first else "random weights"
    with pytest.raises(PrescoreError, match=f"init: the run in .*/run began with {began}; leave it out, or take"):
        train(task, config, tmp_path / "run", QUIET, init=other)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_a_checkpoint_of_before_began_with_random_weights(tmp_path):
    task, config = tiny()
    whole = train(task, config, tmp_path, OFTEN)
    for path in tmp_path.glob("checkpoint-*"):
        rewrite(path, lambda facts, _: facts.pop("init"))
    weights = load_file(whole.model)
    newest(tmp_path).unlink()
    assert_equal(load_file(train(task, config, tmp_path, QUIET).model), weights)
    with pytest.raises(PrescoreError, match="began with random weights"):
        train(task, config, tmp_path, QUIET, init=whole.model)


def test_a_start_of_another_type_is_no_start(tmp_path):
    train(*tiny(), tmp_path, QUIET)
    rewrite(newest(tmp_path), lambda facts, _: facts.update(init=["x"]))
    with pytest.raises(PrescoreError, match=r"another version of prescore \(it lacks 'init'\)"):
        train(*tiny(), tmp_path, QUIET)


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("edm", {"model_channels": 16}, "model_channels is 8 in this model and 16 in the run"),
        ("edm", {"channel_mult": (1, 1)}, r"channel_mult is \[1, 2\] in this model and \(1, 1\) in the run"),
        ("edm", {"augment": 0.1}, "augment_dim is 0 in this model and 9 in the run"),
        ("edm", {"sigma_data": 0.5}, "sigma_data is 0.55.* in this model and 0.5 in the run"),
        ("edm", {"preconditioning": "ve"}, "preconditioning is 'edm' in this model and 've' in the run"),
        ("ncsn", {}, "network is 'SongUNet' in this model and 'NCSN' in the run"),
        ("vae", {}, "not an autoencoder"),
    ],
)
def test_another_network_is_refused(tmp_path, recipe, changes, message):
    path = stored(tmp_path)
    with pytest.raises(PrescoreError, match=f"^init: .*first.safetensors: {message}"):
        train(*tiny(recipe, **changes), tmp_path / "run", QUIET, init=path)
    assert not (tmp_path / "run").exists()


def test_another_autoencoder_is_refused(tmp_path):
    path = stored(tmp_path, "vae")
    with pytest.raises(PrescoreError, match=r"first.safetensors: latent_channels is 6 in this model and 2 in"):
        tiny("vae", latent_channels=2)[0].load(path)


def test_no_such_model(tmp_path):
    with pytest.raises(PrescoreError, match=r"^init: nothing: no such file, and no shipped model"):
        train(*tiny(), tmp_path / "run", QUIET, init="nothing")


def test_what_was_measured_may_differ_by_a_percent(tmp_path):
    path, (task, _) = stored(tmp_path), tiny()
    assert task.load(path).keys() == task.build(torch.Generator()).state_dict().keys()
    darker, _ = tiny(data=TrainingData((digits().float() / 255 * 0.999).clamp(0, 1)))
    assert darker.sigma_data != task.sigma_data
    state = new_state(darker, tiny()[1], ALONE, darker.load(path))
    assert state.objective.denoiser.sigma_data == darker.sigma_data


def test_only_measured_numbers_may_differ():
    for theirs, ours in [(1.0, 1.009), (1, 1.0), ([1.0, 2.0], (1.001, 2.001)), ("a", "a"), (None, None)]:
        check_same("x", theirs, ours)
    for theirs, ours in [(1.0, 1.02), (100, 101), ([1.0], [1.0, 1.0]), ("a", "b"), (None, 0.0), (True, 1.001)]:
        with pytest.raises(PrescoreError, match="x is"):
            check_same("x", theirs, ours)


def test_defaults_count_as_given():
    def constructor(a, b=(1, 2), *, generator=None):
        pass

    check_same_arguments(constructor, {"a": 1, "b": [1, 2]}, {"a": 1})
    with pytest.raises(PrescoreError, match=r"b is \(1, 2\) in this model and \(2, 2\)"):
        check_same_arguments(constructor, {"a": 1}, {"a": 1, "b": (2, 2)})


def test_tables_among_the_weights_are_those_of_the_run(tmp_path):
    """As a file of the NCSN reader has them: the noise levels are a tensor."""
    task, _ = tiny("ncsn")
    ours = task.describe("ours", {})
    weights = task.build(torch.Generator().manual_seed(1)).state_dict()
    sigmas = torch.tensor(ours.preconditioning_arguments["sigmas"], dtype=torch.float64)
    theirs = dataclasses.replace(ours, preconditioning_arguments={})
    save_model(tmp_path / "same.safetensors", theirs, {**weights, "precond.sigmas": sigmas})
    assert model_weights(tmp_path / "same.safetensors", ours).keys() == weights.keys()
    save_model(tmp_path / "other.safetensors", theirs, {**weights, "precond.sigmas": 1.5 * sigmas})
    with pytest.raises(PrescoreError, match=r"other.safetensors: sigmas is \[1.5"):
        model_weights(tmp_path / "other.safetensors", ours)


def test_a_description_that_does_not_fit_its_weights(tmp_path):
    """The file is untrusted: what it says is checked before it is compared."""
    path = stored(tmp_path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    weights.pop("map_layer0.bias")
    save_file(weights, path, metadata=metadata)
    with pytest.raises(PrescoreError, match=r"first.safetensors: the weight 'map_layer0.bias' is missing"):
        train(*tiny(), tmp_path / "run", QUIET, init=path)
