"""The nodes of ComfyUI, with stand-ins for the parts of it that they touch, made from its documented contract."""

import asyncio
import importlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from prescore.adapters.k_diffusion import sampler
from prescore.errors import PrescoreError
from prescore.statistics import Statistics, load_statistics, measure_moments, save_statistics

SHAPE, C = (4, 8, 8), 0.5
WORKFLOW = Path(__file__).parents[2] / "examples" / "comfyui_workflow.json"


class Const:
    """The sampling of flow models: sigma is t, and x = (1 - t) x0 + t n."""

    sigma_min, sigma_max = torch.tensor(0.001), torch.tensor(1.0)

    def noise_scaling(self, sigma, noise, latent):
        return sigma * noise + (1 - sigma) * latent

    def inverse_noise_scaling(self, sigma, latent):
        return latent / (1 - sigma)

    def denoised(self, x, sigma):
        t = sigma.reshape(-1, 1, 1, 1)
        return (1 - t) * C / ((1 - t) ** 2 * C + t**2) * x


class Eps:
    """That of models of the noise: x = x0 + sigma n."""

    sigma_min, sigma_max = torch.tensor(0.03), torch.tensor(14.6)

    def noise_scaling(self, sigma, noise, latent):
        return sigma * noise + latent

    def inverse_noise_scaling(self, sigma, latent):
        return latent

    def denoised(self, x, sigma):
        return C / (C + sigma.reshape(-1, 1, 1, 1) ** 2) * x


class Field:
    """An input or an output of a schema: what it was given, by name."""

    def __init__(self, id=None, **given):
        self.id, self.given = id, given


class KSampler:
    """As ComfyUI runs the function of a sampler."""

    def __init__(self, sampler_function, extra_options=None):
        self.function, self.options = sampler_function, extra_options or {}

    def sample(self, guider, sigmas, extra_args, callback, noise, latent, disable_pbar=True):
        sampling = guider.inner_model.model_sampling

        def model_k(x, sigma, model_options=None, seed=None):
            assert model_options == {"transformer_options": {}}
            assert sigma.shape == (len(x),)
            guider.seen.append((tuple(x.shape), sigma[0].item()))
            return sampling.denoised(x, sigma)

        model_k.inner_model = guider
        x = sampling.noise_scaling(sigmas[0], noise, latent)

        def told(d):
            callback(d["i"], d["denoised"], d["x"])

        end = self.function(
            model_k, x, sigmas, extra_args=extra_args, callback=told, disable=disable_pbar, **self.options
        )
        return sampling.inverse_noise_scaling(sigmas[-1], end)


class Guider:
    def __init__(self, model):
        self.inner_model, self.seen = SimpleNamespace(model_sampling=model.get_model_object("model_sampling")), []

    def set_conds(self, positive, negative):
        assert (positive, negative) == ("yes", "no")

    def set_cfg(self, cfg):
        self.cfg = cfg

    def sample(self, noise, latent, sampler, sigmas, seed=0, callback=lambda *_: None):
        extra = {"model_options": {"transformer_options": {}}, "seed": seed}
        return sampler.sample(self, sigmas, extra, callback, noise, latent)


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """The nodes by their ids, with ComfyUI's models in a folder of the test."""
    kinds = ("Combo", "Int", "Float", "String", "Model", "Conditioning", "Latent", "Sampler", "Sigmas")
    io = SimpleNamespace(
        ComfyNode=object,
        Schema=lambda **given: SimpleNamespace(**given),
        NodeOutput=lambda *values: values,
        **{kind: SimpleNamespace(Input=Field, Output=Field) for kind in kinds},
    )
    folders = {}
    stubs = {
        "comfy_api": {},
        "comfy_api.latest": {"io": io, "ComfyExtension": object},
        "comfy": {},
        "comfy.model_sampling": {"CONST": Const},
        "comfy.sample": {"fix_empty_latent_channels": lambda model, latent: latent},
        "comfy.samplers": {"KSAMPLER": KSampler, "CFGGuider": Guider},
        "folder_paths": {
            "models_dir": str(tmp_path),
            "add_model_folder_path": lambda name, folder: folders.update({name: Path(folder)}),
            "get_filename_list": lambda name: sorted(p.name for p in folders[name].glob("*")),
            "get_full_path_or_raise": lambda name, file: str(folders[name] / file),
        },
    }
    for name, content in stubs.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("model_sampling", "sample", "samplers"):
        setattr(sys.modules["comfy"], name, sys.modules[f"comfy.{name}"])
    monkeypatch.delitem(sys.modules, "prescore.adapters.comfyui.nodes", raising=False)
    entry = importlib.import_module("prescore.adapters.comfyui").comfy_entrypoint
    found = asyncio.run(asyncio.run(entry()).get_node_list())
    yield {node.define_schema().node_id: node for node in found}
    sys.modules.pop("prescore.adapters.comfyui.nodes", None)


def model(sampling):
    return SimpleNamespace(get_model_object={"model_sampling": sampling}.__getitem__)


@pytest.fixture
def statistics(tmp_path):
    data = torch.randn(300, *SHAPE, generator=torch.Generator().manual_seed(0)) * C**0.5
    (tmp_path / "prescore").mkdir()
    measured = Statistics(moments=measure_moments(data.clamp(-4, 4), data_range=(-4, 4)))
    save_statistics(measured, tmp_path / "prescore" / "own.statistics.safetensors")
    return "own.statistics.safetensors"


def drawn(nodes, sampling, name, chosen, sigmas, seed=3, **how):
    """What SamplerCustom would do."""
    (made,) = nodes["PrescoreSampler"].execute(sampler_name=name, statistics=chosen)
    guider = Guider(model(sampling))
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return guider.sample(noise, how.pop("latent", torch.zeros(2, *SHAPE)), made, sigmas, seed, **how), noise, guider


@pytest.mark.parametrize("sampling", [Eps(), Const()], ids=["eps", "flow"])
@pytest.mark.parametrize("name", ["dpmpp-2m", "p-ode-3m"])
def test_latents_are_drawn_on_the_levels_of_the_other_node(nodes, statistics, sampling, name):
    chosen = statistics if name.startswith("p-") else "none"
    given = {"sampler_name": name, "statistics": chosen, "calls": 8, "denoise": 1.0}
    (sigmas,) = nodes["PrescoreSigmas"].execute(model(sampling), **given)
    assert len(sigmas) == 9
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    told = []
    end, noise, guider = drawn(
        nodes, sampling, name, chosen, sigmas, callback=lambda i, denoised, x: told.append((i, denoised, x))
    )
    assert [i for i, *_ in told] == list(range(8))
    assert len(guider.seen) == 8
    torch.testing.assert_close(told[0][2], sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise)))
    torch.testing.assert_close(told[0][1], sampling.denoised(told[0][2], sigmas[0].expand(2)), rtol=1e-4, atol=1e-5)
    # The exact flow of N(0, C) keeps each number of the noise, scaled.
    torch.testing.assert_close(end, noise * C**0.5, rtol=0.02 if name == "p-ode-3m" else 0.2, atol=0.02)


def test_a_flow_is_euler_in_t(nodes):
    sigmas = torch.tensor([1.0, 0.7, 0.3, 0.0])
    end, x, _ = drawn(nodes, Const(), "ddim", "none", sigmas)
    for t, t_next in pairwise(sigmas):
        x = x + (t_next - t) * (x - Const().denoised(x, t.expand(2))) / t
    torch.testing.assert_close(end, x, rtol=1e-4, atol=1e-5)


def test_parts_of_a_range_and_pictures_with_noise(nodes, statistics):
    sampling, latent = Const(), torch.full((2, *SHAPE), 0.7)
    whole = torch.tensor([0.9, 0.6, 0.3, 0.1, 0.0])
    at_once = drawn(nodes, sampling, "ddim", "none", whole, latent=latent)[0]
    half = drawn(nodes, sampling, "ddim", "none", whole[:3], latent=latent)[0]
    x = half * (1 - whole[2])  # as the next sampler has it, which is given no noise
    guider = Guider(model(sampling))
    (made,) = nodes["PrescoreSampler"].execute(sampler_name="ddim", statistics="none")
    rest = guider.sample(torch.zeros_like(x), x / (1 - whole[2]), made, whole[2:])
    torch.testing.assert_close(rest, at_once, rtol=1e-4, atol=1e-5)
    (sigmas,) = nodes["PrescoreSigmas"].execute(model(Eps()), "p-ode-3m", statistics, 5, 0.5)
    assert len(sigmas) == 6
    assert sigmas[0] < 14
    assert not len(nodes["PrescoreSigmas"].execute(model(Eps()), "ddim", "none", 5, 0.0)[0])
    assert drawn(nodes, Eps(), "ddim", "none", torch.tensor([3.0]), latent=latent)[0].isfinite().all()


def test_noise_is_that_of_the_seed(nodes):
    sigmas = torch.tensor([14.0, 5.0, 1.0, 0.0])
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    end = drawn(nodes, Eps(), "dpmpp-sde-2m", "none", sigmas)[0]
    expected = sampler("dpmpp-sde-2m")(Eps().denoised, noise * 14, sigmas, disable=True, seed=3)
    torch.testing.assert_close(end, expected)


def test_a_start_from_noisy_latents(nodes, statistics, tmp_path):
    sigmas, noise = torch.tensor([3.0, 1.0, 0.0]), torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    (made,) = nodes["PrescoreSampler"].execute("ddim", statistics, "gaussian")
    end = Guider(model(Eps())).sample(noise, torch.zeros(2, *SHAPE), made, sigmas, 3)
    known = load_statistics(tmp_path / "prescore" / statistics)
    expected = sampler("ddim", known, start="gaussian")(Eps().denoised, 3 * noise, sigmas, disable=True, seed=3)
    torch.testing.assert_close(end, expected)
    assert not torch.equal(end, drawn(nodes, Eps(), "ddim", statistics, sigmas)[0])
    with pytest.raises(PrescoreError, match="statistics: start gaussian needs those of the latents"):
        nodes["PrescoreSampler"].execute("ddim", "none", "gaussian")


@pytest.mark.parametrize("sampling", [Eps(), Const()], ids=["eps", "flow"])
def test_statistics_are_measured_and_listed(nodes, tmp_path, sampling):
    given = {"positive": "yes", "negative": "no", "latent": {"samples": torch.zeros(16, *SHAPE)}}
    (name,) = nodes["PrescoreCalibrate"].execute(
        model(sampling), **given, cfg=3.0, n=32, sample_calls=12, seed=0, name="mine"
    )
    measured = load_statistics(tmp_path / "prescore" / name)
    assert measured.moments.cosine_variance.mean().item() == pytest.approx(C, rel=0.1)
    assert measured.event_shape == SHAPE
    schema = nodes["PrescoreSampler"].define_schema()
    assert [field.given["options"] for field in schema.inputs if field.id == "statistics"] == [["none", name]]
    with pytest.raises(PrescoreError, match=r"name: '\.\./x' given"):
        nodes["PrescoreCalibrate"].execute(
            model(sampling), **given, cfg=3.0, n=32, sample_calls=12, seed=0, name="../x"
        )


def test_what_is_refused(nodes):
    for run in (
        lambda: nodes["PrescoreSampler"].execute("p-ode-3m", "none"),
        lambda: nodes["PrescoreSigmas"].execute(model(Eps()), "p-ode-3m", "none", 8, 1.0),
    ):
        with pytest.raises(PrescoreError, match="statistics: p-ode-3m needs those of the latents"):
            run()
    (made,) = nodes["PrescoreSampler"].execute("ddim", "none")
    with pytest.raises(PrescoreError, match="latent: it is nested"):
        made.function(None, SimpleNamespace(is_nested=True), torch.tensor([1.0, 0.0]))


def test_the_workflow_is_made_of_these_nodes(nodes):
    graph = json.loads(WORKFLOW.read_text())
    own = [node for node in graph.values() if node["class_type"] in nodes]
    assert {node["class_type"] for node in own} == {"PrescoreSampler", "PrescoreSigmas"}
    for node in own:
        fields = {field.id: field.given for field in nodes[node["class_type"]].define_schema().inputs}
        assert node["inputs"].keys() == fields.keys()
        assert all(node["inputs"][name] in given["options"] for name, given in fields.items() if "options" in given)
    assert all(value[0] in graph for node in graph.values() for value in node["inputs"].values() if type(value) is list)


def test_nothing_of_it_is_imported_with_the_library():
    code = "import sys, prescore; print([m for m in sys.modules if 'comfy' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
