import math

import pytest
import torch
from support import relative
from torch import nn

from prescore.denoiser import (
    edm_from_denoised,
    expand,
    noise_from_denoised,
    velocity_from_denoised,
)
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.models.precond import (
    PRECONDITIONINGS,
    EDMPrecond,
    IDDPMPrecond,
    NoisePrecond,
    SamplePrecond,
    ScoreLabelsPrecond,
    ScorePrecond,
    VelocityPrecond,
    VEPrecond,
    VPPrecond,
)
from prescore.schedule import IDDPM, VP, Cosine, SubVP, Tabulated

SIGMA = torch.tensor([0.03, 0.5, 7.0, 60.0], dtype=torch.float64)
SHAPE = (2, 4, 4)
ORACLE = Gaussian.power_law(SHAPE, mean=0.3)
X = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * SIGMA.reshape(-1, 1, 1, 1)
EDMS = [EDMPrecond, VEPrecond, VPPrecond, IDDPMPrecond]
DISCRETE = Tabulated.linear()
LEVELS = DISCRETE.levels
SCHEDULES = {
    "vp": ({"kind": "vp", "beta_d": 19.9, "beta_min": 0.1}, VP()),
    "vp of other betas": ({"kind": "vp", "beta_d": 12.0, "beta_min": 0.4}, VP(12.0, 0.4)),
    "subvp": ({"kind": "subvp"}, SubVP()),
    "cosine": ({"kind": "cosine"}, Cosine()),
    "tabulated": ({"kind": "tabulated", "levels": LEVELS.tolist()}, DISCRETE),
}
# The native prediction of a network that knows the exact denoiser.
PREDICTIONS = {
    NoisePrecond: noise_from_denoised,
    VelocityPrecond: velocity_from_denoised,
    SamplePrecond: lambda denoised, x, sigma: denoised,
}


class Constant(nn.Module):
    """A network whose output is 1 everywhere, in twice the channels; it remembers its last arguments."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1, 1, dtype=dtype))

    def forward(self, x, noise_labels, **condition):
        self.seen = x, noise_labels, condition
        return self.one * torch.ones_like(x.repeat(1, 2, 1, 1))


class Exact(nn.Module):
    """A network made of a function (native x, native label) -> prediction."""

    def __init__(self, predict):
        super().__init__()
        self.predict, self.weight = predict, nn.Parameter(torch.ones(1, 1, dtype=torch.float64))

    def forward(self, x, label):
        return self.predict(x, label.expand(len(x)))  # one label may stand for all


@pytest.mark.parametrize("precond", EDMS)
def test_output_combines_skip_and_network(precond):
    network = Constant()
    denoise = precond(network)
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c_skip, c_out, c_in, c_noise = denoise.coefficients(SIGMA)
    out = denoise(x, SIGMA, class_labels="class", augment_labels="augment")

    def wide(c):
        return torch.as_tensor(c).reshape(-1, 1, 1, 1)

    assert torch.allclose(out, wide(c_skip) * x + wide(c_out), atol=1e-12)
    assert torch.allclose(network.seen[0], wide(c_in) * x, atol=1e-12)
    assert torch.allclose(network.seen[1], c_noise.double(), atol=1e-12)
    assert network.seen[2] == {"class_labels": "class", "augment_labels": "augment"}


def test_edm_gives_network_and_target_unit_variance():
    """EDM, appendix B.6: with data of variance sd^2, Var[c_in x] = 1 and Var[(x0 - c_skip x)/c_out] = 1."""
    sd = 0.3
    c_skip, c_out, c_in, c_noise = EDMPrecond(Constant(), sd).coefficients(SIGMA)
    assert torch.allclose(c_in**2 * (SIGMA**2 + sd**2), torch.ones(4, dtype=torch.float64))
    target = ((1 - c_skip) ** 2 * sd**2 + c_skip**2 * SIGMA**2) / c_out**2
    assert torch.allclose(target, torch.ones(4, dtype=torch.float64))
    assert torch.allclose(c_noise, SIGMA.log() / 4)


def test_noise_conditions():
    assert torch.allclose(VEPrecond(Constant()).coefficients(SIGMA)[3], (SIGMA / 2).log())
    t = torch.tensor([0.01, 0.4, 1.0], dtype=torch.float64)
    assert torch.allclose(VPPrecond(Constant()).coefficients(VP().sigma(t))[3], 999 * t)
    assert torch.allclose(VPPrecond(Constant(), 5.0, 0.3, M=11).coefficients(VP(5.0, 0.3).sigma(t))[3], 10 * t)
    u = IDDPM().u
    levels = u[torch.tensor([0, 17, 998, 1000])]
    assert IDDPMPrecond(Constant()).coefficients(levels)[3].tolist() == [999, 982, 1, -1]
    short = torch.cat([u[:100], torch.zeros(1)])
    assert IDDPMPrecond(Constant(), short).coefficients(u[:100:33])[3].tolist() == [99, 66, 33, 0]


def test_edm_of_an_exact_network():
    def predict(x, c_noise):
        sigma = torch.exp(4 * c_noise)
        x = x * (expand(sigma, x) ** 2 + 0.09).sqrt()
        return edm_from_denoised(ORACLE(x, sigma), x, sigma, 0.3)

    assert relative(EDMPrecond(Exact(predict), 0.3)(X, SIGMA), ORACLE(X, SIGMA)) < 1e-10


def test_ve_of_an_exact_network():
    def predict(x, label):
        sigma = 2 * label.exp()
        return -noise_from_denoised(ORACLE(x, sigma), x, sigma)

    assert relative(VEPrecond(Exact(predict))(X, SIGMA), ORACLE(X, SIGMA)) < 1e-10


def test_score_of_an_exact_network():
    assert relative(ScorePrecond(Exact(ORACLE.score))(X, SIGMA), ORACLE(X, SIGMA)) < 1e-10
    assert relative(ScorePrecond(Exact(ORACLE.score))(X, SIGMA[2]), ORACLE(X, SIGMA[2])) < 1e-10


@pytest.mark.parametrize("order", [1, -1])
def test_score_at_labels_of_an_exact_network(order):
    """Levels count up or down as the table does; at a level of the table the denoiser is exact."""
    sigmas = SIGMA if order == 1 else SIGMA.flip(0)
    labels = []

    def predict(x, label):
        labels.append(label)
        return ORACLE.score(x, sigmas[label])

    denoise = ScoreLabelsPrecond(Exact(predict), sigmas.tolist())
    assert relative(denoise(X, SIGMA), ORACLE(X, SIGMA)) < 1e-10
    assert labels[0].dtype == torch.int64
    assert labels[0].tolist() == ([0, 1, 2, 3] if order == 1 else [3, 2, 1, 0])


def test_score_between_labels_keeps_the_noise_prediction_of_the_nearest_one():
    sigmas = torch.tensor([4.0, 1.0], dtype=torch.float64)
    denoise = ScoreLabelsPrecond(Exact(lambda x, label: ORACLE.score(x, sigmas[label])), sigmas.tolist())
    for sigma, nearest in ((1.9, 1.0), (2.1, 4.0), (9.0, 4.0), (0.2, 1.0)):  # in ln sigma they meet at 2
        level = torch.tensor(sigma, dtype=torch.float64)
        noise = -nearest * ORACLE.score(X, torch.tensor(nearest))
        assert relative(denoise(X, level), X - sigma * noise) < 1e-12


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("precond", PREDICTIONS)
def test_predictions_of_an_exact_network_with_a_time(precond, kind):
    description, schedule = SCHEDULES[kind]
    scale = 1.0 if kind == "tabulated" else 999.0

    def predict(x, time):
        sigma = schedule.sigma(time / scale)
        x = x / expand(schedule.scale(sigma), x)
        return PREDICTIONS[precond](ORACLE(x, sigma), x, sigma)

    if kind == "subvp" and precond is VelocityPrecond:
        with pytest.raises(PrescoreError, match="defined for VariancePreserving ones only"):
            precond(Exact(predict), description, scale)
        return
    denoise = precond(Exact(predict), description, scale)
    assert relative(denoise(X, SIGMA), ORACLE(X, SIGMA)) < 1e-10
    assert relative(denoise(X, SIGMA[1]), ORACLE(X, SIGMA[1])) < 1e-10


def test_integer_times():
    seen = []

    def predict(x, time):
        seen.append(time)
        return torch.zeros_like(x)

    levels = DISCRETE.sigma(torch.tensor([3.0, 700.4, 998.6, 12.0]))
    denoise = NoisePrecond(Exact(predict), {"kind": "tabulated"}, integer_time=True, levels=LEVELS)
    denoise(X, levels)
    assert seen[0].dtype == torch.int64
    assert seen[0].tolist() == [3, 700, 999, 12]


def test_vp_is_noise_prediction_of_its_schedule():
    network = Constant()
    a = VPPrecond(network)(X, SIGMA)
    b = NoisePrecond(network, {"kind": "vp", "beta_d": 19.9, "beta_min": 0.1}, time_scale=999.0)(X, SIGMA)
    assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_label_has_single_precision_at_least(dtype):
    """Label 998 of 999 is 1000 in bfloat16 and exact to 0.25 in half precision."""
    network = Constant(dtype)
    t = torch.tensor([0.9991, 0.5, 0.25, 0.125], dtype=torch.float64)
    out = VPPrecond(network)(X.float(), VP().sigma(t))
    image, label, _ = network.seen
    assert out.dtype == torch.float32
    assert image.dtype == dtype
    assert label.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.allclose(label.double(), 999 * t, rtol=1e-6)


def test_a_scalar_sigma_and_the_dtype_of_the_weights():
    network = Constant(torch.float32)
    denoise = EDMPrecond(network, 0.5)
    x = torch.ones(3, 2, 4, 4, dtype=torch.float64)
    out = denoise(x, torch.tensor(2.0))
    assert out.dtype == torch.float64
    assert network.seen[0].dtype == network.seen[1].dtype == torch.float32
    assert torch.equal(out, denoise(x, torch.full((3,), 2.0)))


def test_parameters_carry_the_prefix_of_published_checkpoints():
    assert list(EDMPrecond(Constant()).state_dict()) == ["model.one"]
    assert list(IDDPMPrecond(Constant()).state_dict()) == ["u", "model.one"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("edm", {"sigma_data": 0.0}, "sigma_data = 0.0"),
        ("edm", {"sigma_data": math.nan}, "sigma_data = nan"),
        ("iddpm", {"u": [1.0]}, "u: at least two finite"),
        ("iddpm", {"u": [1.0, 2.0]}, "u: the noise levels must decrease and end in 0"),
        ("iddpm", {"u": [2.0, 2.0, 0.0]}, "u: the noise levels must decrease and end in 0"),
        ("iddpm", {"u": [2.0, 1.0]}, "u: the noise levels must decrease and end in 0"),
        ("noise", {"schedule": {"kind": "vp"}, "time_scale": -5}, "time_scale = -5; a positive number is needed"),
        ("noise", {"schedule": {"kind": "vp"}, "time_scale": math.nan}, "time_scale = nan"),
        ("vp", {"M": 1}, "time_scale = 0"),
        ("score-labels", {"sigmas": [1.0, math.nan]}, "sigmas: at least two finite"),
        ("score-labels", {"sigmas": [1.0, 0.0]}, "must be positive"),
        ("noise", {"schedule": {}}, "schedule kind: unknown value None"),
        ("noise", {"schedule": {"kind": "vq"}}, "schedule kind: unknown value 'vq'; did you mean vp"),
        ("noise", {"schedule": {"kind": "vp", "gamma": 1}}, "the kind 'vp' cannot be made"),
        ("noise", {"schedule": {"kind": "vp", "beta_d": -1}}, "its noise must rise"),
        ("noise", {"schedule": {"kind": "tabulated"}}, "the kind 'tabulated' cannot be made"),
        ("noise", {"schedule": {"kind": "tabulated", "levels": [2.0, 1.0]}}, "must increase"),
        *(
            ("noise", {"schedule": {"kind": "tabulated", "levels": levels}}, "levels: at least two finite noise levels")
            for levels in ("abc", [[1], [1, 2]], [[1, 2], [3, 4]], {"a": 1}, ["a", "b"], 3, None, [1, 10**400])
        ),
        ("noise", {"schedule": {"kind": "vp"}, "levels": [1.0, 2.0]}, "the kind 'vp' cannot be made"),
    ],
)
def test_arguments_that_are_wrong(name, arguments, message):
    with pytest.raises(PrescoreError, match=message):
        PRECONDITIONINGS[name](Constant(), **arguments)
