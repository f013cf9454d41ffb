import math
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from support import reference
from torch import Tensor

from prescore.denoiser import (
    Denoiser,
    Evaluator,
    denoised_from_edm,
    denoised_from_noise,
    denoised_from_score,
    denoised_from_velocity,
    edm_coefficients,
    edm_from_denoised,
    expand,
    failure_of,
    from_edm,
    from_flow,
    from_noise_prediction,
    from_score,
    from_table,
    from_ve,
    from_velocity,
    from_x0,
    guided,
    noise_from_denoised,
    score_from_denoised,
    velocity_from_denoised,
)
from prescore.errors import PrescoreError, SamplingError
from prescore.plan import draw
from prescore.schedule import EDM, VP, Cosine, RectifiedFlow, Tabulated
from prescore.schedule.flow import FAR

SHAPE, B = (2, 3, 5), 4
CONVERSIONS = {
    "score": (denoised_from_score, score_from_denoised),
    "noise": (denoised_from_noise, noise_from_denoised),
    "velocity": (denoised_from_velocity, velocity_from_denoised),
    "edm": (denoised_from_edm, edm_from_denoised),
}
LEVELS = [torch.tensor(0.7).double(), torch.tensor([0.01, 0.5, 3.0, 90.0]).double()]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Gaussian:
    """Data N(mu, c), elementwise, and everything that a network could predict of it, from first principles."""

    mu, c = 0.4, 0.3

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.mu + self.c / (self.c + expand(sigma, x) ** 2) * (x - self.mu)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        return -(x - self.mu) / (self.c + expand(sigma, x) ** 2)

    def noise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[n | x] of the joint Gaussian (n, x): cov(n, x) / var(x) (x - mu)."""
        sigma = expand(sigma, x)
        return sigma / (self.c + sigma**2) * (x - self.mu)

    def velocity(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[cos(phi) n - sin(phi) x0 | x], tan(phi) = sigma."""
        phi = torch.atan(expand(sigma, x))
        return torch.cos(phi) * self.noise(x, sigma) - torch.sin(phi) * self.denoised(x, sigma)

    def edm(self, x: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
        c_skip, c_out, _, _ = edm_coefficients(expand(sigma, x), sigma_data)
        return (self.denoised(x, sigma) - c_skip * x) / c_out


gaussian = Gaussian()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sigma", LEVELS, ids=["scalar", "batch"])
@pytest.mark.parametrize(("to", "back"), CONVERSIONS.values(), ids=CONVERSIONS.keys())
def test_conversions_undo_each_other(x, sigma, to, back):
    prediction = torch.cos(3 * x)
    close(back(to(prediction, x, sigma), x, sigma), prediction, 1e-10)  # (x - D) / sigma^2 loses digits at 0.01


@pytest.mark.parametrize("sigma", LEVELS, ids=["scalar", "batch"])
@pytest.mark.parametrize("kind", CONVERSIONS)
def test_every_parameterisation_of_one_gaussian_has_the_same_denoised(x, sigma, kind):
    to, back = CONVERSIONS[kind]
    x = x * (1 + expand(sigma, x) ** 2).sqrt()
    prediction, denoised = getattr(gaussian, kind)(x, sigma), gaussian.denoised(x, sigma)
    close(to(prediction, x, sigma), denoised)
    close(back(denoised, x, sigma), prediction, 1e-10)


def test_velocity_is_the_derivative_of_the_rotation_from_data_to_noise(x):
    x0, n, phi = x, x.flip(0).sin(), torch.full_like(x, 0.6).requires_grad_()
    rotated = torch.cos(phi) * x0 + torch.sin(phi) * n
    (velocity,) = torch.autograd.grad(rotated.sum(), phi)
    sigma = torch.tan(torch.tensor(0.6, dtype=torch.float64))
    unscaled = rotated.detach() / math.cos(0.6)
    close(unscaled, x0 + sigma * n)
    close(velocity_from_denoised(x0, unscaled, sigma), velocity)
    close((n - sigma * x0) / (1 + sigma**2).sqrt(), velocity)  # the unscaled form of the docstring


def test_edm_coefficients_keep_unit_variance(x):
    """c_in normalises the input, c_out the target, for data of standard deviation sigma_data (EDM, appendix B.6)."""
    sigma, sd = torch.tensor([0.002, 0.5, 80.0]).double(), 0.5
    c = edm_coefficients(sigma, sd)
    close(c.c_in**2 * (sd**2 + sigma**2), torch.ones(3).double())
    close(((1 - c.c_skip) ** 2 * sd**2 + c.c_skip**2 * sigma**2) / c.c_out**2, torch.ones(3).double())
    close(c.c_noise, sigma.log() / 4)


def test_expand_takes_the_dtype_of_x_and_checks_the_shape(x):
    assert expand(torch.tensor(1.0), x).shape == ()
    assert expand(torch.ones(B), x.float()).shape == (B, 1, 1, 1)
    assert expand(torch.ones(B, dtype=torch.float64), x.float()).dtype == torch.float32
    for shape in [(B - 1,), (B, 1), (1,)]:
        with pytest.raises(PrescoreError, match=r"\(4,\), one for each sample"):
            expand(torch.ones(shape), x)


class Spy:
    """A network that records what it is called with and knows what it should predict."""

    def __init__(self, predict) -> None:
        self.predict = predict

    def __call__(self, x: Tensor, time: Tensor, **condition: Tensor) -> Tensor:
        self.x, self.time, self.condition = x, time, condition
        return self.predict(x)


def wrapped(kind: str, x: Tensor, sigma: Tensor, wrap) -> tuple[Tensor, Spy]:
    spy = Spy(lambda _: getattr(gaussian, kind)(x, sigma))
    return wrap(spy)(x, sigma, label=torch.arange(B)), spy


@pytest.mark.parametrize("sigma", LEVELS, ids=["scalar", "batch"])
@pytest.mark.parametrize(
    ("kind", "wrap", "label", "scale"),
    [
        ("score", from_score, lambda s: s, lambda s: 1 + 0 * s),
        (
            "noise",
            lambda model: from_noise_prediction(model, VP(), time_scale=999),
            lambda s: 999 * VP().t(s),
            lambda s: (1 + s**2).rsqrt(),
        ),
        ("noise", lambda model: from_noise_prediction(model, EDM()), lambda s: s, lambda s: 1 + 0 * s),
        (
            "velocity",
            lambda model: from_velocity(model, Cosine(), time_scale=1000),
            lambda s: 1000 * Cosine().t(s),
            lambda s: (1 + s**2).rsqrt(),
        ),
        ("edm", from_edm, lambda s: s.log() / 4, lambda s: (0.25 + s**2).rsqrt()),
    ],
    ids=["score", "vp-noise", "ve-noise", "velocity", "edm"],
)
def test_wrapped_models_are_denoisers_and_see_their_native_input(x, sigma, kind, wrap, label, scale):
    denoised, spy = wrapped(kind, x, sigma, wrap)
    close(denoised, gaussian.denoised(x, sigma))
    close(spy.x, x * expand(scale(sigma), x))
    close(spy.time, label(sigma).expand(B))
    assert torch.equal(spy.condition["label"], torch.arange(B))


def test_raw_ve_network(x):
    sigma = torch.tensor(3.0, dtype=torch.float64)
    denoised, spy = wrapped("noise", x, sigma, lambda model: from_ve(lambda y, t, **c: -model(y, t, **c)))
    close(denoised, gaussian.denoised(x, sigma))
    close(spy.time, torch.full((B,), math.log(1.5)).double(), 1e-7)
    assert torch.equal(spy.x, x)


def test_discrete_models_receive_whole_indices(x):
    schedule = Tabulated.linear()
    sigma = schedule.sigma(torch.tensor([0.0, 3.4, 500.6, 999.0]))
    wrap = lambda model: from_noise_prediction(model, schedule, integer_time=True)  # noqa: E731
    denoised, spy = wrapped("noise", x, sigma, wrap)
    assert spy.time.dtype == torch.int64
    assert spy.time.tolist() == [0, 3, 501, 999]
    close(denoised, gaussian.denoised(x, sigma))
    wrapped("noise", x, 3 * sigma, wrap)
    assert spy.time.max() <= 999
    close(spy.x, x * (1 + expand(sigma, x) ** 2).rsqrt())  # the scale follows sigma itself, not the rounded index


def test_float32_models_receive_float32(x):
    sigma = torch.tensor(0.5)
    denoised, spy = wrapped("noise", x.float(), sigma, lambda m: from_noise_prediction(m, VP(), time_scale=999))
    assert (spy.x.dtype, spy.time.dtype, denoised.dtype) == (torch.float32,) * 3


WRAPS = {
    "score": (from_score, lambda s: s),
    "noise": (lambda model: from_noise_prediction(model, VP(), time_scale=999), lambda s: 999 * VP().t(s)),
    "velocity": (lambda model: from_velocity(model, Cosine(), time_scale=999), lambda s: 999 * Cosine().t(s)),
    "edm": (from_edm, lambda s: s.log() / 4),
    "ve": (from_ve, lambda s: (s / 2).log()),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", WRAPS)
def test_networks_of_half_precision_are_converted_in_single(x, kind, dtype):
    """They alone are called in it: their time, x at high noise, and what is made of their answer are as exact as ever,
    whether the precision is said of the model, is that of the network's weights, or is that of x."""
    wrap, label = WRAPS[kind]
    seen = []

    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = torch.nn.Parameter(torch.zeros(1, 1, dtype=dtype))

        def forward(self, x_in: Tensor, time: Tensor) -> Tensor:
            seen.append((x_in.dtype, time))
            return torch.zeros_like(x_in)

    for level in (0.02, 1.1, VP().sigma(torch.tensor(937 / 999)).item(), 2e4):
        if kind == "score" and level == 2e4 and dtype == torch.float16:
            continue  # its input is x as it is, which no float16 holds
        sigma = torch.tensor(level).double()
        noisy = x * sigma
        for function, said in ((Half(), torch.float32), (lambda x_in, time: Half()(x_in, time), dtype)):
            made = wrap(function)
            model = Denoiser(made, SHAPE, *(() if made.sigma_max else (0.002, 1e5)), dtype=said)
            D = Evaluator(model)(noisy, sigma)
            torch.testing.assert_close(D, wrap(lambda y, t: 0 * y)(noisy, sigma), rtol=1e-5, atol=1e-5 * level)
        narrow = wrap(lambda x_in, time: Half()(x_in, time))(x.to(dtype), sigma)
        assert narrow.dtype == dtype
        assert [d for d, _ in seen[-3:]] == [dtype] * 3
        for _, time in seen[-3:]:
            torch.testing.assert_close(time, label(sigma).float().expand(B), rtol=1e-6, atol=1e-6)


def test_guidance_of_a_converted_network_is_given_single_precision_too(x):
    model = Denoiser(from_edm(lambda y, t, **c: y), SHAPE, 0.002, 1e5, dtype=torch.bfloat16)
    sigma = torch.tensor(3.3).double()
    close(Evaluator(guided(model, 2.0))(x, sigma), Evaluator(model)(x, sigma), 1e-6)


def a_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + expand(sigma, x) ** 2)


def writes(x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
    """Into all that it is given."""
    x0 = a_denoiser(x, sigma)
    for tensor in (x, sigma, *condition.values()):
        tensor.zero_()
    return x0


class Buffer:
    """Returns the same tensor each time."""

    def __init__(self) -> None:
        self.kept = torch.empty(0)

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        self.kept = torch.empty_like(x) if self.kept.shape != x.shape else self.kept
        return self.kept.copy_(a_denoiser(x, sigma))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [lambda: writes, Buffer, lambda: lambda x, sigma, **_: x])
def test_what_a_model_writes_into_or_returns_again_is_its_own(x, make, dtype):
    sigma, rows = torch.tensor(0.5).double(), torch.ones(B)
    model = Denoiser(make(), SHAPE, 0.01, 50.0, dtype=dtype)
    evaluate, before = Evaluator(model, {"label": rows}, dtype), x.to(dtype).clone()
    given = before.clone()
    first = evaluate(given, sigma)
    kept = first.clone()
    evaluate(2 * given, sigma)
    assert torch.equal(first, kept)
    first.zero_()
    assert torch.equal(given, before)
    assert sigma == 0.5
    assert rows.all()


@pytest.mark.parametrize("make", [lambda: writes, Buffer])
def test_what_calls_a_model_twice_or_needs_x_afterwards_keeps_its_own(x, make):
    sigma = torch.tensor(0.5).double()
    close(guided(make(), 3.0)(x.clone(), sigma.clone()), a_denoiser(x, sigma))
    score = lambda x, sigma: score_from_denoised(make()(x, sigma.clone()), x, sigma)  # noqa: E731
    if make is Buffer:
        close(from_score(score)(x.clone(), sigma), a_denoiser(x, sigma))
    assert torch.equal(from_score(lambda y, s: y.zero_())(x.clone(), sigma), x)


WRONG = {
    "int64 instead of floating-point numbers": lambda x: x.long(),
    "uint8 instead of floating-point numbers": lambda x: x.byte(),
    "bool instead of floating-point numbers": lambda x: x > 0,
    "complex64 instead of floating-point numbers": lambda x: x.to(torch.complex64),
    "a meta tensor instead of shape": lambda x: x.to("meta"),
    "a sparse tensor instead of shape": lambda x: x.to_sparse(),
    "a nested tensor instead of shape": lambda x: torch.nested.nested_tensor(list(x)),
    "a quantised tensor instead of shape": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    "tuple instead of shape": lambda x: (x,),
    "dict instead of shape": lambda x: {"sample": x},
    "NoneType instead of shape": lambda x: None,
    "float instead of shape": lambda x: 1.0,
    "ndarray instead of shape": lambda x: x.numpy(),
    r"\(\) instead of shape": lambda x: x.sum(),
    r"\(4, 4, 3, 5\) instead of shape": lambda x: torch.cat([x, x], 1),
    r"\(4, 1, 3, 5\) instead of shape": lambda x: x[:, :1],
}


@pytest.mark.filterwarnings("ignore:.*(nested|quantiz):UserWarning")
@pytest.mark.parametrize("expected", WRONG)
def test_answers_that_are_no_samples(x, expected):
    """Of a denoiser, and of a network that is made one."""
    sigma = torch.tensor(0.5).double()
    for wrap in (lambda model: model, from_score, from_edm):
        evaluate = Evaluator(wrap(lambda x, sigma: WRONG[expected](x)))
        evaluate.where = "at step 1 of 1"
        with pytest.raises(SamplingError, match=f"returned .*{expected}.* at step 1 of 1"):
            evaluate(x, sigma)


def test_what_a_model_raises_passes_with_a_note(x):
    def fails(x: Tensor, sigma: Tensor) -> Tensor:
        raise KeyError("mine")

    evaluate = Evaluator(fails)
    evaluate.where = "at step 3 of 5 (sigma = 0.5)"
    with pytest.raises(KeyError, match="mine") as caught:
        evaluate(x, torch.tensor(0.5))
    assert caught.value.__notes__ == ["raised by the model at step 3 of 5 (sigma = 0.5)"]
    assert failure_of(caught.value) == "the model failed at step 3 of 5 (sigma = 0.5): KeyError: 'mine'"
    assert failure_of(KeyError("other")) is None


def conditional(x: Tensor, sigma: Tensor, mean: Tensor | None = None) -> Tensor:
    """Exact denoiser of N(mean, 0.3); without a condition N(0.1, 0.3)."""
    assert mean is None or mean.shape == x.shape[:1]
    mu = 0.1 if mean is None else mean.reshape(-1, 1, 1, 1)
    return mu + 0.3 / (0.3 + expand(sigma, x) ** 2) * (x - mu)


def test_guidance_of_two_gaussians_is_the_gaussian_with_the_extrapolated_mean(x):
    sigma, mean = torch.tensor(0.8).double(), torch.tensor([1.0, -2.0, 0.5, 0.0]).double()
    for weight in (-1.0, 0.3, 1.5, 7.5):
        expected = conditional(x, sigma, 0.1 + weight * (mean - 0.1))
        close(guided(conditional, weight)(x, sigma, mean=mean), expected)
        none = {"mean": torch.tensor([0.1], dtype=torch.float64)}
        close(guided(conditional, weight, none)(x, sigma, mean=mean), expected)


def test_guidance_of_weight_0_and_1_is_exact(x):
    sigma, mean = torch.tensor(0.8).double(), torch.arange(4).double()
    assert torch.equal(guided(conditional, 1.0)(x, sigma, mean=mean), conditional(x, sigma, mean))
    assert torch.equal(guided(conditional, 0.0)(x, sigma, mean=mean), conditional(x, sigma))


def test_guided_denoiser_keeps_what_is_known_of_the_model(x):
    model = Denoiser(conditional, SHAPE, 0.02, 80.0, data_range=(-1.0, 1.0), name="two")
    strong = guided(model, 3.0)
    assert isinstance(strong, Denoiser)
    assert (strong.name, strong.sigma_max, strong.data_range) == ("two", 80.0, (-1.0, 1.0))
    sigma, mean = torch.tensor(0.8).double(), torch.arange(4).double()
    close(strong(x, sigma, mean=mean), conditional(x, sigma, 0.1 + 3 * (mean - 0.1)))
    with pytest.raises(PrescoreError, match="weight"):
        guided(model, float("nan"))


def test_denoiser_calls_its_function_with_the_condition(x):
    model = Denoiser(conditional, SHAPE, 0.02, 80.0)
    sigma = torch.tensor(0.8).double()
    assert torch.equal(model(x, sigma, mean=torch.ones(4)), conditional(x, sigma, torch.ones(4)))
    assert (model.dtype, model.device, model.data_range) == (torch.float32, torch.device("cpu"), None)
    with pytest.raises(FrozenInstanceError):
        model.name = "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"function": 3}, "function: int"),
        ({"event_shape": ()}, "event_shape"),
        ({"event_shape": (3, 0, 32)}, "event_shape"),
        ({"sigma_min": -0.1}, "sigma_min"),
        ({"sigma_min": 80.0}, "sigma_min"),
        ({"sigma_max": float("inf")}, "sigma_max"),
        ({"sigma_max": float("nan")}, "sigma_max"),
        ({"data_range": (1.0, 0.0)}, "data_range"),
        ({"data_range": (0.0, 1.0, 2.0)}, "data_range"),
    ],
)
def test_denoisers_that_are_none(changes, message):
    right = {"function": conditional, "event_shape": SHAPE, "sigma_min": 0.02, "sigma_max": 80.0}
    with pytest.raises(PrescoreError, match=message):
        Denoiser(**right | changes)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("vp", lambda model: from_noise_prediction(model, VP(), time_scale=999)),
        ("ve", from_ve),
        ("edm", from_edm),
    ],
)
def test_recorded_preconditioned_networks(name, wrap):
    """With the recorded raw output in place of the network, the wrappers give the recorded denoised images."""
    recorded = reference(f"edm/precond-{name}.safetensors")
    x, sigma = recorded["in/x"], recorded["in/sigma"]
    spy = Spy(lambda _: recorded["mid/F_x"])
    denoised = wrap(spy)(x, sigma)
    # Rounding of a float32 difference of numbers as large as x.
    torch.testing.assert_close(denoised, recorded["out"], rtol=1e-6, atol=1e-7 * x.abs().max().item())
    torch.testing.assert_close(spy.x, recorded["mid/model_in"], rtol=1e-6, atol=1e-7)
    # The original takes log(1 + sigma^2) in float32: half a unit in the last place of 1 is 5 % of t at sigma = 0.001.
    rounding = 999 * 2**-24 / (19.9 * VP().t(sigma) + 0.1) if name == "vp" else 0
    assert ((spy.time - recorded["mid/noise_labels"]).abs() <= rounding + 1e-6 * (1 + spy.time.abs())).all()


def test_the_noise_range_is_that_of_the_schedule_unless_it_is_narrowed():
    function = from_noise_prediction(lambda x, t: x, Tabulated.linear())
    low, high = Tabulated.linear().sigma_min, Tabulated.linear().sigma_max
    assert (Denoiser(function, SHAPE).sigma_min, Denoiser(function, SHAPE).sigma_max) == (low, high)
    assert Denoiser(function, SHAPE, sigma_max=50).sigma_max == 50
    for given in ({"sigma_max": 200.0}, {"sigma_min": low / 2}, {"sigma_min": 0, "sigma_max": 1}):
        with pytest.raises(PrescoreError, match="the schedule of the function has noise from 0"):
            Denoiser(function, SHAPE, **given)
    for wrap in (from_score, from_edm, from_ve):
        with pytest.raises(PrescoreError, match="the function does not know its noise levels; give both"):
            Denoiser(wrap(lambda x, t: x), SHAPE, sigma_max=50)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"event_shape": 14}, "event_shape: 14 is not a shape such as"),
        ({"event_shape": "14"}, "event_shape: '14' is not a shape such as"),
        ({"event_shape": (3, True)}, "is not a shape such as"),
        ({"data_range": 2}, "data_range: 2 is not an interval"),
        ({"data_range": (0, "1")}, "is not an interval"),
        ({"sigma_max": "80"}, "sigma_max: '80' given; a number is needed"),
    ],
)
def test_attributes_of_the_wrong_kind_are_named(given, message):
    with pytest.raises(PrescoreError, match=re.escape(message)):
        Denoiser(**({"function": torch.relu, "event_shape": SHAPE, "sigma_min": 0.1, "sigma_max": 9.0} | given))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (torch.linspace(1e-4, 0.02, 1000), "schedule: Tensor given; one of prescore.schedule, such as VP(), or Tab"),
        ("linear", "schedule: str given"),
        (VP, "schedule: a class given; make one of it, as in VP()"),
    ],
)
@pytest.mark.parametrize("wrap", [from_noise_prediction, from_velocity])
def test_what_is_no_schedule_is_refused_at_once(wrap, schedule, message):
    with pytest.raises(PrescoreError, match=re.escape(message)):
        wrap(lambda x, t: x, schedule)


def test_velocity_needs_coordinates_that_preserve_variance():
    with pytest.raises(PrescoreError, match=r"schedule: EDM given; one of prescore.schedule, such as VP\(\) is needed"):
        from_velocity(lambda x, t: x, EDM())


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("dtype", "float16"), ("dtype", torch.int64), ("device", "cpu"), ("name", 3), ("network_calls", 0)],
)
def test_wrong_attributes_are_refused_by_name(attribute, value):
    with pytest.raises(PrescoreError, match=f"^{attribute}: "):
        Denoiser(lambda x, sigma: x, (1, 4, 4), 0.01, 80.0, **{attribute: value})


def test_a_network_that_cannot_be_called_is_refused():
    with pytest.raises(PrescoreError, match=r"^model: NoneType cannot be called"):
        from_score(None)


@pytest.mark.parametrize("data_first", [False, True])
def test_flow_of_a_gaussian_is_denoised_exactly_from_pure_noise_to_the_clean_end(data_first):
    mean, C = 0.7, 0.3
    times = []

    def velocity(x_t, time):
        times.append(time)
        t = (1 - time if data_first else time)[:, None].double()
        x = x_t.double()
        x0 = mean + (1 - t) * C / ((1 - t) ** 2 * C + t**2) * (x - (1 - t) * mean)
        n = t / ((1 - t) ** 2 * C + t**2) * (x - (1 - t) * mean)
        return (x0 - n if data_first else n - x0).to(x_t)

    denoise = from_flow(velocity, time_scale=1.0, data_first=data_first)
    for sigma in (1e-3, 0.5, 20.0, FAR):
        n = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = mean + (C + sigma**2) ** 0.5 * n
        exact = mean + C / (C + sigma**2) * (x - mean)
        torch.testing.assert_close(denoise(x, torch.tensor(sigma)), exact, rtol=0, atol=1e-6)
    assert times[-1].float().eq(1).all() or (data_first and times[-1].max() < 1e-8)
    assert (denoise.sigma_min, denoise.sigma_max) == (RectifiedFlow().sigma_min, FAR)


def test_flow_in_half_precision_is_converted_in_single():
    layer = torch.nn.Linear(4, 4).to(torch.bfloat16)
    seen = []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, time):
            seen.append((x.dtype, time.dtype, time[0].item()))
            return torch.full_like(x, 1.0)

    x = torch.linspace(-3, 3, 8).reshape(2, 4)
    out = from_flow(Network())(x, torch.tensor(3.0))
    torch.testing.assert_close(out, x / 4 - 0.75)  # exact in float32: x_t - t v
    assert seen == [(torch.bfloat16, torch.float32, 750.0)]


def test_x0_prediction_is_the_answer_itself():
    vp = VP()
    out = from_x0(lambda x, t: x + t[:, None], vp, time_scale=999)(torch.ones(2, 3).double(), torch.tensor(2.0))
    torch.testing.assert_close(out, (vp.scale(2.0) + 999 * vp.t(2.0)).expand(2, 3))


@pytest.mark.parametrize("is_falling", [False, True])
@pytest.mark.parametrize("predicts", ["score", "noise", "x0"])
def test_a_table_of_levels_is_called_by_its_index_in_unscaled_x(predicts, is_falling):
    rising, C = torch.tensor([0.1, 0.5, 2.0, 10.0], dtype=torch.float64), 0.3
    table = rising.flip(0) if is_falling else rising

    def network(x, j):
        """Exact for N(0, C) at the levels of the table, and between them in log sigma."""
        level = table[j] if j.dtype == torch.int64 else (table[0].log() + (table[1] / table[0]).log() * j).exp()
        D = C / (C + level[:, None] ** 2) * x
        return {"score": (D - x) / level[:, None] ** 2, "noise": (x - D) / level[:, None], "x0": D}[predicts]

    denoise = from_table(network, table, predicts=predicts)
    assert (denoise.sigma_min, denoise.sigma_max) == pytest.approx((0.1, 10.0))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(denoise(x, rising), C / (C + rising[:, None] ** 2) * x)
    nearest = denoise(x, torch.full((4,), 0.53, dtype=torch.float64))  # takes the index of 0.5
    at = torch.full((4,), 0.5, dtype=torch.float64)
    expected = x - 0.53 * (x - denoise(x, at)) / 0.5 if predicts != "x0" else denoise(x, at)
    torch.testing.assert_close(nearest, expected)
    table = torch.logspace(-1, 1, 3, dtype=torch.float64).flip(0 if is_falling else ())
    between = from_table(network, table, predicts=predicts, integer_time=False)
    sigma = torch.tensor([0.1, 0.3, 4.0, 10.0], dtype=torch.float64)
    torch.testing.assert_close(between(x, sigma), C / (C + sigma[:, None] ** 2) * x)


def test_a_table_that_is_none_is_refused():
    for bad in ([1.0], [1.0, 3.0, 2.0], [0.0, 1.0]):
        with pytest.raises(PrescoreError, match="levels: "):
            from_table(lambda x, j: x, bad)
    with pytest.raises(PrescoreError, match="predicts: unknown value 'eps'"):
        from_table(lambda x, j: x, [1.0, 2.0], predicts="eps")


def test_guidance_keeps_the_noise_range_of_the_schedule():
    function = from_noise_prediction(lambda x, t, **c: x, Tabulated.linear())
    model = Denoiser(guided(function, 2.0), SHAPE)
    assert model.sigma_max == Tabulated.linear().sigma_max
    with pytest.raises(PrescoreError, match="weight: '2' given; a number is needed"):
        guided(function, "2")
    with pytest.raises(PrescoreError, match="time_scale: '1' given; a number is needed"):
        from_noise_prediction(lambda x, t: x, Tabulated.linear(), time_scale="1")


def test_a_wrong_shape_is_one_line():
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    model = Denoiser(lambda x, sigma: network(x), (1, 8, 8), 0.02, 80.0)
    with pytest.raises(SamplingError, match=r"event_shape: the model does not take samples of shape \(1, 8") as error:
        draw(model, n=2, sampler="ddim", calls=3, progress=False)
    assert "to have 3 channels" in str(error.value)


def test_statistics_are_statistics_or_a_path():
    with pytest.raises(PrescoreError, match=r"statistics: int given; prescore\.Statistics or the path"):
        Denoiser(lambda x, sigma: x, (1, 8, 8), 0.02, 80.0, statistics=5)


@pytest.mark.parametrize("rows", [[2.0], np.full(4, 2.0), torch.full((1,), 2.0), [2.0] * 4])
def test_conditions_may_be_lists_and_arrays_and_one_row_for_all(rows):
    model = Denoiser(lambda x, sigma, shift: 0 * x + shift.reshape(-1, 1), (3,), 0.02, 80.0)
    x = draw(model, n=4, sampler="ddim", calls=3, condition={"shift": rows}, progress=False)
    assert torch.equal(x, torch.full((4, 3), 2.0, dtype=torch.float64))
    with pytest.raises(PrescoreError, match="condition 'shift' has 3 rows for 4 samples"):
        draw(model, n=4, sampler="ddim", calls=3, condition={"shift": [1.0, 2.0, 3.0]}, progress=False)
    with pytest.raises(PrescoreError, match="condition 'shift': a tensor with a row for each sample, or one for all"):
        draw(model, n=4, sampler="ddim", calls=3, condition={"shift": ["a"]}, progress=False)
