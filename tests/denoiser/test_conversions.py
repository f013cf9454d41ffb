import math
import re

import pytest
import torch
from predictions import LEVELS, SHAPE, B, close, gaussian
from support import reference
from torch import Tensor

from prescore.denoiser import (
    Denoiser,
    Evaluator,
    expand,
    from_edm,
    from_flow,
    from_noise_prediction,
    from_score,
    from_table,
    from_ve,
    from_velocity,
    from_x0,
)
from prescore.errors import PrescoreError
from prescore.schedule import EDM, VP, Cosine, RectifiedFlow, Tabulated
from prescore.schedule.flow import FAR


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


def test_a_scale_of_time_is_a_number():
    with pytest.raises(PrescoreError, match="time_scale: '1' given; a number is needed"):
        from_noise_prediction(lambda x, t: x, Tabulated.linear(), time_scale="1")
