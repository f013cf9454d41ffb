import math
from contextlib import suppress
from dataclasses import replace
from functools import cache

import pytest
import torch
from support import filter_weights

from prescore import calibrate
from prescore.denoiser import Denoiser, expand, guided
from prescore.errors import PrescoreError, SamplingError
from prescore.grid import check_apart, check_grid
from prescore.operators import Frequency
from prescore.precondition import Preconditioner
from prescore.samplers import SAMPLERS, make_sampler, sample, steps_for_calls
from prescore.statistics import ModelStatistics
from prescore.statistics.score import score_statistics

SHAPE = (1, 8, 8)
WEIGHTS = filter_weights(*SHAPE)
NAMES = sorted(SAMPLERS)


def shrink(x, sigma):
    """Elementwise, so its arithmetic cannot depend on the batch."""
    return 0.5 + (x - 0.5) / (1 + expand(sigma, x) ** 2)


def preconditioner():
    return Preconditioner(Frequency(WEIGHTS, axes=2, length=8))


@cache
def statistics():
    data = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = score_statistics(model(), data)
    return replace(calibrate(data), model=ModelStatistics(score=score))


NEEDED = {"preconditioner": preconditioner, "reference": statistics, "statistics": statistics}
# Adaptive samplers are as quick as the others with these tolerances.
COARSE = {"ggf": {"eps_abs": 0.3, "eps_rel": 0.3, "first_step": 0.1}, "ode-rk45": {"rtol": 0.01, "atol": 0.01}}


def sampler(name, **options):
    needs = {need: NEEDED[need]() for need in SAMPLERS[name].needs}
    return make_sampler(name, **{"steps": 6} | COARSE.get(name, {}) | needs | options)


def model(function=shrink):
    return Denoiser(function, SHAPE, 0.01, 50.0)


def draw(name, seeds, **arguments):
    return sample(model(), sampler(name), seeds=seeds, progress=False, **arguments)


@pytest.mark.parametrize("name", NAMES)
def test_usual_levels_are_told_apart_by_every_precision_or_refused(name):
    for low, high in ((1e-300, 1.0), (1.0, 1e300), (1.0, math.nextafter(1.0, 2.0)), (1.0, 1 + 1e-9)):
        with suppress(PrescoreError):
            levels = sampler(name, steps=30).levels(low, high)
            assert low == 1
            check_apart(check_grid(levels))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_sample_depends_on_its_seed_alone(name, size):
    """Bit for bit, for any batch size and order of the seeds."""
    seeds = [4, 1, 2**40, 0, 9, 3, 12]
    together = draw(name, seeds)
    order = [3, 6, 0, 2, 5, 1, 4]
    shuffled = draw(name, [seeds[k] for k in order], batch_size=size)
    assert torch.equal(shuffled, together[order])
    assert torch.equal(draw(name, seeds), together)


# Where steps depend on the data a rounding may accept or reject one, and so change the sample by its tolerance.
FIXED = [name for name in NAMES if sampler(name).total_calls(6) is not None]


KERNEL = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0)) / 9


def network(x, sigma):
    """A float32 convolution may sum in another order for another batch."""
    return torch.tanh(torch.nn.functional.conv2d(x / (1 + expand(sigma, x)), KERNEL, padding=1))


@pytest.mark.parametrize("name", FIXED)
def test_with_a_network_the_batch_matters_only_by_its_rounding(name):
    """The state around it is float64."""
    runs = [sample(model(network), sampler(name), seeds=range(5), batch_size=b, progress=False) for b in (1, 3, 5)]
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_with_a_network_of_convolutions_the_batch_size_alone_matters(name):
    """Bit for bit: each call has as many rows as any other, whichever the samples are and however few."""
    seeds, rows = [4, 1, 2**40, 0, 9, 3, 12], set()

    def recorded(x, sigma):
        rows.add(len(x))
        return network(x, sigma)

    def run(order, size=7):
        chosen = [seeds[k] for k in order]
        return sample(model(recorded), sampler(name), seeds=chosen, batch_size=size, progress=False)

    together = run(range(7))
    for order in ([6, 5, 4, 3, 2, 1, 0], [3], [5, 2], [0, 1, 2, 3, 4, 5, 6, 6, 0]):
        assert torch.equal(run(order), together[order])
    assert rows == {7}
    pairs = run(range(7), size=2)
    assert torch.equal(run([6], size=2), pairs[6:])
    assert torch.equal(run([6, 1, 5, 0, 3], size=2), pairs[[6, 1, 5, 0, 3]])
    assert rows == {7, 2}


def test_rows_that_fill_up_a_batch_are_seen_by_the_network_alone():
    seen = []
    s = make_sampler("reverse-diffusion", grid=torch.tensor([1.0, 0.5, 0.0]))

    def labelled(x, sigma, *, label):
        assert label.tolist() == ([5, 6, 7] if label[0] == 5 else [8, 9, 9])
        return label.reshape(-1, 1, 1, 1).to(x) + 0 * x

    initial = torch.zeros(5, *SHAPE, dtype=torch.float64)
    condition = {"label": torch.arange(5, 10)}
    arguments = {"seeds": range(5), "batch_size": 3, "condition": condition, "initial": initial}
    x = sample(model(labelled), s, progress=False, callback=seen.append, **arguments)
    assert x[:, 0, 0, 0].tolist() == [5, 6, 7, 8, 9]
    assert [(len(p.x), len(p.denoised), list(p.seeds)) for p in seen[::2]] == [(3, 3, [0, 1, 2]), (2, 2, [3, 4])]


def test_a_batch_whose_samples_depend_on_each_other_is_not_filled_up():
    """Its mean norms would be others."""
    s = sampler("pc", norm="batch")
    alone = sample(model(), s, seeds=range(3), progress=False)
    assert torch.equal(sample(model(), s, seeds=range(3), batch_size=7, progress=False), alone)
    assert not torch.equal(sample(model(), s, seeds=[0, 1, 2, 2], progress=False)[:3], alone)


@pytest.mark.parametrize("name", FIXED)
def test_the_number_of_calls_is_what_the_sampler_says(name):
    for options in ({}, {"grid": torch.tensor([3.0, 2.0, 1.5, 1.0, 0.5, 0.2]), "steps": None}):
        calls = []

        def counted(x, sigma, calls=calls):
            calls.append(sigma.item())
            return shrink(x, sigma)

        s = sampler(name, **options)
        sample(model(counted), s, seeds=[0], progress=False)
        steps = 5 if options else 6
        assert len(calls) == s.total_calls(steps, final_zero=not options)


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("final_zero", [True, False])
def test_steps_for_calls_are_the_most_that_fit(name, final_zero):
    s = sampler(name)
    for calls in (11, 20, 41):
        steps = steps_for_calls(s, calls, final_zero)
        assert s.total_calls(steps, final_zero) <= calls
        assert s.total_calls(steps + 1, final_zero) > calls


def test_calls_that_no_number_of_steps_takes():
    for calls in (0, -1, 2.5):
        with pytest.raises(PrescoreError, match=r"calls: .* is not a positive whole number"):
            steps_for_calls(sampler("dpmpp-2m"), calls)
    with pytest.raises(PrescoreError, match="calls: 9 given, but one step of this sampler takes 10"):
        steps_for_calls(sampler("pndm"), 9)
    with pytest.raises(PrescoreError, match="as many as its tolerance needs"):
        steps_for_calls(sampler("ggf"), 10)


def test_guidance_counts_both_of_its_calls():
    seen = []
    sample(guided(model(), 2.0), sampler("pc"), seeds=[0], progress=False, callback=seen.append)
    assert seen[-1].calls == 2 * sampler("pc").total_calls(6)


def test_the_global_generator_is_neither_read_nor_moved():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = torch.get_rng_state()
        first = draw("pc", range(2))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(1)
        assert torch.equal(draw("pc", range(2)), first)


def test_two_trajectories_interleave():
    """State lives in `state`: one sampler object, two runs alternating step by step."""
    s = sampler("ald")
    inner = []

    def nested(progress):
        if progress.step == 2:
            inner.append(sample(model(), s, seeds=[5], progress=False))

    outer = sample(model(), s, seeds=[4], progress=False, callback=nested)
    assert torch.equal(inner[0], sample(model(), s, seeds=[5], progress=False))
    assert torch.equal(outer, sample(model(), s, seeds=[4], progress=False))


def test_callback_sees_every_step():
    seen = []
    sample(model(), sampler("pc"), seeds=range(4), batch_size=2, progress=False, callback=seen.append)
    assert [p.step for p in seen] == list(range(6)) * 2
    assert [p.calls for p in seen[:6]] == [2, 4, 6, 8, 10, 12]
    assert seen[0].sigma == pytest.approx(50)
    assert seen[5].sigma_next == 0
    assert seen[0].x.shape == seen[0].denoised.shape == (2, *SHAPE)
    assert list(seen[6].seeds) == [2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_state_precision(name):
    """The state keeps the precision asked for, whatever the steps are computed in."""
    assert draw(name, [0]).dtype == torch.float64
    narrow = draw(name, [0], dtype=torch.float32)
    assert narrow.dtype == torch.float32
    if name in FIXED:
        torch.testing.assert_close(narrow.double(), draw(name, [0]), rtol=1e-3, atol=1e-3)


def test_the_model_is_called_in_its_own_precision():
    seen = set()

    def spy(x, sigma):
        seen.add((x.dtype, sigma.dtype, sigma.ndim))
        return x / (1 + sigma)

    sample(spy, make_sampler("pc", grid=torch.tensor([1.0, 0.0])), seeds=[0], event_shape=(3,), progress=False)
    assert seen == {(torch.float32, torch.float32, 0)}
    wide = torch.nn.Linear(3, 3).double()
    wide.forward = spy
    sample(wide, make_sampler("pc", grid=torch.tensor([1.0, 0.0])), seeds=[0], event_shape=(3,), progress=False)
    assert (torch.float64, torch.float64, 0) in seen


def test_conditions_follow_their_sample():
    def labelled(x, sigma, *, label):
        return label.reshape(-1, 1).to(x) + 0 * x

    s = make_sampler("reverse-diffusion", grid=torch.tensor([1.0, 0.0]))
    out = sample(
        labelled,
        s,
        seeds=range(3),
        event_shape=(1,),
        batch_size=2,
        condition={"label": torch.tensor([5, 6, 7])},
        progress=False,
    )
    torch.testing.assert_close(out.flatten(), torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_returns_nan_is_caught_where_it_happens(name):
    def fails(x, sigma):
        return shrink(x, sigma) if (sigma > 1).all() else x * float("nan")

    with pytest.raises(SamplingError, match=r"output of the model is not finite at step \d of 6") as caught:
        sample(model(fails), sampler(name), seeds=[0], progress=False)
    step = int(str(caught.value).split(" of 6")[0].split()[-1])
    levels = sampler(name).levels(0.01, 50.0)
    assert f"(sigma = {levels[step - 1]:.4g})" in str(caught.value)
    assert levels[step] <= 1 < levels[step - 2]  # the step that crosses 1 if it calls the model below, or the next


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_models_that_write_into_their_input_or_return_one_buffer(name, dtype):
    """Where the model's precision is the state's, so that no conversion makes a copy."""
    kept = torch.empty(3, *SHAPE, dtype=dtype)

    def wild(x, sigma):
        kept.copy_(shrink(x, sigma))
        x.fill_(7)
        sigma.zero_()
        return kept

    runs = [
        sample(replace(model(f), dtype=dtype), sampler(name), seeds=range(3), dtype=dtype, progress=False)
        for f in (shrink, wild)
    ]
    assert torch.equal(*runs)


def test_what_a_model_raises_says_where():
    def fails(x, sigma):
        if sigma < 1:
            raise ZeroDivisionError("mine")
        return shrink(x, sigma)

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        sample(model(fails), sampler("dpmpp-2m"), seeds=[0], progress=False)
    assert caught.value.__notes__[0].startswith("raised by the model at step ")


def test_a_model_that_returns_the_wrong_shape():
    with pytest.raises(SamplingError, match=r"returned \(1, 1, 8, 7\) instead of shape \(1, 1, 8, 8\) at step 1 of 6"):
        sample(model(lambda x, sigma: x[..., :7]), sampler("pc"), seeds=[0], progress=False)
    with pytest.raises(SamplingError, match="returned tuple instead of shape"):
        sample(model(lambda x, sigma: (x,)), sampler("pc"), seeds=[0], progress=False)


def test_divergence_names_the_preconditioner():
    """A gain of 100 over 60 steps overflows: the message says why and what to do."""
    wild = Preconditioner(Frequency(100 * WEIGHTS, axes=2, length=8))
    s = make_sampler("pds", steps=60, preconditioner=wild, corrector="none")
    with pytest.raises(SamplingError, match=r"not finite at step .* the predictor is unstable.* raise alpha"):
        sample(Denoiser(lambda x, sigma: 0 * x, SHAPE, 0.01, 50.0), s, seeds=[0], progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "seeds: none given"),
        ({"batch_size": 0}, "batch_size: 0 is not a positive"),
        ({"event_shape": (3, 8, 8)}, r"event_shape: \(3, 8, 8\) differs from the model's own \(1, 8, 8\)"),
        (
            {"condition": {"label": torch.zeros(3)}},
            "condition 'label' has 3 rows for 2 samples; one",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(PrescoreError, match=message):
        sample(model(), sampler("pc"), progress=False, **({"seeds": [0, 1]} | arguments))


def test_a_bare_function_must_be_given_a_shape_and_a_grid():
    with pytest.raises(PrescoreError, match="event_shape: the model does not say"):
        sample(shrink, make_sampler("pc", grid=torch.tensor([1.0, 0.0])), seeds=[0], progress=False)
    with pytest.raises(PrescoreError, match="noise range: give the sampler a grid"):
        sample(shrink, make_sampler("pc", steps=3), seeds=[0], event_shape=(2,), progress=False)


def test_a_preconditioner_of_another_shape():
    s = make_sampler("pds", steps=3, preconditioner=preconditioner())
    with pytest.raises(PrescoreError, match=r"8, 8.*16, 16|16, 16.*8, 8"):
        sample(Denoiser(shrink, (1, 16, 16), 0.01, 50.0), s, seeds=[0], progress=False)


def test_the_state_is_in_float32_or_float64():
    with pytest.raises(PrescoreError, match=r"dtype: torch.float16 given; the state is float32 or float64"):
        draw("pc", [0], dtype=torch.float16)
