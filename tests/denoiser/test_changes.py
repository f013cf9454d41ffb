import pytest
import torch
from predictions import SHAPE, close, conditional

from prescore.denoiser import Denoiser, Evaluator, clipped, from_edm, from_noise_prediction, guided
from prescore.errors import PrescoreError
from prescore.schedule import Tabulated


def test_guidance_of_a_converted_network_is_given_single_precision_too(x):
    model = Denoiser(from_edm(lambda y, t, **c: y), SHAPE, 0.002, 1e5, dtype=torch.bfloat16)
    sigma = torch.tensor(3.3).double()
    close(Evaluator(guided(model, 2.0))(x, sigma), Evaluator(model)(x, sigma), 1e-6)


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


def test_the_weight_of_guidance_is_known():
    model = Denoiser(conditional, SHAPE, 0.02, 80.0)
    assert (model.guidance, guided(model, 3).guidance, guided(guided(model, 3), 2).guidance) == (1, 3, 6)
    assert Denoiser(guided(conditional, 3), SHAPE, 0.02, 80.0).guidance == 3
    assert clipped(Denoiser(guided(conditional, 3), SHAPE, 0.02, 80.0, data_range=(0, 1))).guidance == 3
    with pytest.raises(PrescoreError, match="guidance: '3' given; a number is needed"):
        Denoiser(conditional, SHAPE, 0.02, 80.0, guidance="3")


def test_two_guidances_are_one_of_the_product_of_their_weights(x):
    sigma, mean = torch.tensor(0.8).double(), torch.arange(4).double()
    twice = guided(guided(conditional, 1.5), 2.0)
    close(twice(x, sigma, mean=mean), guided(conditional, 3.0)(x, sigma, mean=mean))


def test_guidance_keeps_the_noise_range_of_the_schedule():
    function = from_noise_prediction(lambda x, t, **c: x, Tabulated.linear())
    model = Denoiser(guided(function, 2.0), SHAPE)
    assert model.sigma_max == Tabulated.linear().sigma_max
    with pytest.raises(PrescoreError, match="weight: '2' given; a number is needed"):
        guided(function, "2")


def test_predictions_can_be_clipped():
    wild = Denoiser(lambda x, sigma: 3 * x, (1, 2, 2), 0.01, 10.0, data_range=(-1, 1))
    x = torch.tensor([[[[0.1, -0.2], [0.5, -2.0]]]])
    cut = clipped(wild, "range")(x, torch.tensor(1.0))
    assert torch.equal(cut, (3 * x).clamp(-1, 1))
    dynamic = clipped(wild, "dynamic")(x, torch.tensor(1.0))
    size = (3 * x).abs().flatten().quantile(0.995)
    assert torch.allclose(dynamic, (3 * x).clamp(-size, size) / size)
    assert torch.equal(clipped(wild, "dynamic")(x / 100, torch.tensor(1.0)), 3 * (x / 100))
    with pytest.raises(PrescoreError, match="clip: the model does not say the range"):
        clipped(Denoiser(lambda x, sigma: x, (2,), 0.1, 1.0, data_range=None))
