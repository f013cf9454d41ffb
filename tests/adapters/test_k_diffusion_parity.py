"""The solvers of k-diffusion itself, on any list of sigmas, beside those of the same name here.

Only its file of solvers is read: the rest of the package needs what these do not.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from prescore.adapters.k_diffusion import as_flow, sampler

C = torch.tensor([0.04, 0.3, 1.0, 2.5], dtype=torch.float64).reshape(1, 1, 2, 2)
# Of ours the name and options: published weights are k-diffusion's.
PAIRS = {
    "euler": ("edm-euler", {}, {}),
    "euler as DPM-Solver-1": ("dpm-solver-1", {}, {}),
    "heun": ("edm-heun", {}, {}),
    "dpm_2": ("dpm-solver-2", {"weights": "published"}, {}),
    "dpmpp_2s_ancestral": ("dpmpp-2s", {"weights": "published"}, {"eta": 0.0}),
    "dpmpp_2m": ("dpmpp-2m", {"weights": "published"}, {}),
    "dpmpp_2m_sde": ("dpmpp-2m", {"weights": "published"}, {"eta": 0.0}),
}
LISTS = {
    "whole": [14.6, 6.0, 2.5, 1.0, 0.4, 0.1, 0.0],
    "no final 0": [14.6, 6.0, 2.5, 1.0],
    "one step": [14.6, 2.0],
    "one step to 0": [3.0, 0.0],
    "two steps": [14.6, 3.0, 0.0],
    "from the middle": [1.3, 0.6, 0.2, 0.05, 0.0],
}


@pytest.fixture(scope="module")
def theirs():
    """The module `k_diffusion.sampling` by itself."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None or found.origin is None:
        pytest.skip("k-diffusion is not installed (pip install --no-deps k-diffusion)")
    missing = {name for name in ("torchsde", "k_diffusion", "k_diffusion.utils") if name not in sys.modules}
    sys.modules.update({name: ModuleType(name) for name in missing})
    try:
        spec = importlib.util.spec_from_file_location(
            "k_diffusion.sampling", Path(found.origin).with_name("sampling.py")
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name in missing:
            del sys.modules[name]
    module.utils.append_dims = lambda x, n: x.reshape(*x.shape, *(1,) * (n - x.ndim))
    return module


def model(x, sigma, gain=0.0):
    """Exact for a Gaussian, and something nonlinear beside."""
    level = sigma.reshape(-1, 1, 1, 1) ** 2
    return C / (C + level) * x + (0.1 + gain) * torch.tanh(x) / (1 + level)


def start(sigma):
    return sigma * torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def solved(theirs, name, sigmas, callback=None, **options):
    solve = getattr(theirs, f"sample_{name.partition(' ')[0]}")
    if "eta" in options:
        options["noise_sampler"] = lambda sigma, sigma_next: 0.0
    sigmas = torch.tensor(sigmas, dtype=torch.float64)
    return solve(model, start(sigmas[0]), sigmas, {"gain": 0.05}, callback, True, **options)


@pytest.mark.parametrize(
    ("name", "listed"),
    # Where its own fails is left out.
    [(name, listed) for name in PAIRS for listed in LISTS if (name, listed) != ("dpmpp_2m_sde", "one step to 0")],
)
def test_the_same_solver_on_any_list(theirs, name, listed):
    ours, options, their_options = PAIRS[name]
    sigmas = LISTS[listed]
    expected = solved(theirs, name, sigmas, **their_options)
    found = sampler(ours, **options)(model, start(sigmas[0]), torch.tensor(sigmas), {"gain": 0.05}, disable=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_repeats(theirs, name):
    sigmas = [14.6, 14.6, 3.0, 3.0, 1.0, 0.0]
    expected = solved(theirs, name, sigmas)
    found = sampler(PAIRS[name][0])(model, start(14.6), torch.tensor(sigmas), {"gain": 0.05}, disable=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_the_callback_is_told_the_same(theirs, name):
    sigmas, ours, expected = LISTS["whole"], [], []
    solved(theirs, name, sigmas, expected.append)
    f = sampler(PAIRS[name][0], **PAIRS[name][1])
    f(model, start(sigmas[0]), torch.tensor(sigmas), {"gain": 0.05}, ours.append, True)
    assert len(ours) == len(expected) == len(sigmas) - 1
    for one, other in zip(ours, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            torch.testing.assert_close(torch.as_tensor(one[key]).double(), torch.as_tensor(value).double())


def test_a_linear_multistep_method(theirs):
    """LMS is the Adams-Bashforth form of DEIS in sigma."""
    sigmas = LISTS["whole"]
    expected = solved(theirs, "lms", sigmas, order=3)
    f = sampler("deis-rhoab", degree=2, warmup="lower")
    found = f(model, start(sigmas[0]), torch.tensor(sigmas), {"gain": 0.05}, disable=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("times", [[1.0, 0.8, 0.5, 0.2, 0.0], [0.9, 0.6, 0.3], [1.0, 0.0]])
def test_euler_in_the_time_of_a_flow(theirs, times):
    """k-diffusion's own, called in x_t at sigmas t, as ComfyUI calls it."""

    def flow(x, t, gain=0.0):
        level = t.reshape(-1, 1, 1, 1)
        return (1 - level) * C / ((1 - level) ** 2 * C + level**2) * x + gain * torch.tanh(x)

    t, x, told, expected = torch.tensor(times, dtype=torch.float64), start(1.0), [], []
    end = theirs.sample_euler(flow, x, t, {"gain": 0.05}, expected.append, True)
    found = as_flow(sampler("edm-euler"))(flow, x, t, {"gain": 0.05}, told.append, True)
    torch.testing.assert_close(found, end, rtol=1e-6, atol=1e-6)
    for one, other in zip(told, expected, strict=True):
        for key in ("x", "i", "sigma", "denoised"):
            torch.testing.assert_close(torch.as_tensor(one[key]).double(), torch.as_tensor(other[key]).double())
