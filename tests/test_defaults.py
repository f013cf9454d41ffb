"""Settings that come with a checkpoint: which samplers take them, and what is said of them."""

import json
from dataclasses import replace

import pytest
import torch
from support import REFERENCE

from prescore import plan
from prescore.checkpoints import load_model, save_model
from prescore.checkpoints.ncsn import PUBLISHED as NCSN
from prescore.checkpoints.score_sde import PUBLISHED
from prescore.defaults import SamplingDefaults
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.operators import Identity
from prescore.precondition import Preconditioner

LSUN = PUBLISHED["church256-ncsnpp-continuous-ve"].sampling
VP = PUBLISHED["cifar10-ddpmpp-continuous-vp"].sampling
M = Preconditioner(Identity())


def model(sampling):
    return Denoiser(Gaussian.power_law((1, 8, 8)), (1, 8, 8), 0.01, 50.0, dtype=torch.float64, sampling=sampling)


def test_samplers_take_what_the_model_was_published_with():
    decided = plan(model(replace(LSUN, configuration="church")), sampler="pc", steps=3)
    assert (decided.sampler.snr, decided.sampler.predictor) == (0.075, "reverse-diffusion")
    assert decided.settings["defaults"] == "predictor, corrector, corrector_steps, snr of church"
    assert "defaults predictor, corrector, corrector_steps, snr of church" in repr(decided)
    assert plan(model(LSUN), sampler="pc", steps=3, snr=0.2).sampler.snr == 0.2
    assert plan(model(LSUN), sampler="pds", steps=3, preconditioner=M).sampler.snr == 0.075
    assert "defaults" not in plan(model(None), sampler="pc", steps=3).settings
    assert "defaults" not in plan(model(LSUN), sampler="ddim", steps=3).settings
    assert plan(model(LSUN), sampler="pc", steps=3, corrector="none").sampler.snr == 0.16  # which is then not used


def test_vp_models_are_sampled_without_corrector_but_for_a_preconditioner_which_needs_one():
    sampler = plan(model(VP), sampler="pc", steps=3).sampler
    assert (sampler.predictor, sampler.corrector) == ("euler-maruyama", "none")
    assert plan(model(VP), sampler="pc", steps=3, corrector="langevin").sampler.corrector == "langevin"
    assert plan(model(VP), sampler="pds", steps=3, preconditioner=M).sampler.corrector == "langevin"


def test_a_step_size_belongs_to_its_number_of_steps():
    published = NCSN["cifar10-ncsn"].sampling
    assert published.iterations == 1000
    decided = plan(model(published), sampler="ald", steps=10)
    assert (decided.sampler.level_steps, decided.sampler.step_size, decided.sampler.denoise) == (100, 2e-5, False)
    assert plan(model(published), sampler="ald", steps=5).sampler.step_size is None
    assert plan(model(published), sampler="ald", calls=20).calls <= 20


@pytest.mark.parametrize("name", ["cifar10-ddpmpp-continuous-vp", "church256-ncsnpp-continuous-ve"])
def test_defaults_are_those_of_the_published_configuration(name):
    path = REFERENCE / "score_sde" / f"shapes-{name}.json"
    if not path.exists():
        pytest.skip(f"no recorded configuration score_sde/{path.name} beside the repository")
    config, own = json.loads(path.read_text())["config"], PUBLISHED[name].sampling
    assert own.iterations == config["model"]["num_scales"]
    assert own.predictor == config["sampling"]["predictor"].replace("_", "-")
    assert own.corrector == config["sampling"]["corrector"]
    if own.corrector != "none":
        assert (own.snr, own.corrector_steps) == (config["sampling"]["snr"], config["sampling"]["n_steps_each"])


def test_a_converted_model_keeps_them(tmp_path):
    from checkpoints.test_native import DESCRIPTION, network

    description = replace(DESCRIPTION, sampling=LSUN)
    save_model(tmp_path / "own.safetensors", description, network().state_dict())
    assert load_model(tmp_path / "own.safetensors").sampling == LSUN
    for wrong, message in ({"snr": -1}, "snr: -1 among the sampling defaults is not positive"), ({"size": 3}, "size"):
        with pytest.raises(PrescoreError, match=message):
            replace(DESCRIPTION, sampling=wrong)


def test_names():
    assert SamplingDefaults(configuration="a, b or c").configurations == ("a", "b", "c")
    assert SamplingDefaults().configurations == ()
