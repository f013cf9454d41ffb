"""Features of images: equal whatever the batches, and clear about what they cannot take."""

from dataclasses import asdict

import pytest
import torch
from torch import nn

from prescore.errors import PrescoreError
from prescore.metrics import Features, Preprocessing, frechet_distance, make_features, module_features


def pictures(n=23, shape=(1, 28, 28), seed=0):
    """Blobs, uint8."""
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.avg_pool2d(x, 5, 1, 2) ** 2 * 255).to(torch.uint8)


@pytest.mark.parametrize("name", ["mnist-classifier", "pixels", "means-2x2"])
def test_the_batch_size_does_not_matter(name):
    """Nor do batches given one by one: rounding in single precision is all the difference there may be."""
    features, x = make_features(name, (1, 28, 28)), pictures()
    whole = features.moments(x, batch_size=23)
    assert whole.count == 23
    assert whole.mean.shape == (features.dimension,)
    for images, size in ((x, 1), (x, 7), (x.split(5), 2), (iter(x.split([20, 3])), 256)):
        other = features.moments(images, batch_size=size)
        assert other.count == 23
        torch.testing.assert_close(other.mean, whole.mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(other.covariance, whole.covariance, rtol=1e-5, atol=1e-6)


def test_pixels_and_means_are_what_they_say():
    x = pictures(4, (3, 6, 8))
    unit = x.float() / 255
    assert torch.equal(make_features("pixels", (3, 6, 8))(x), unit.flatten(1))
    means = unit.reshape(4, 3, 3, 2, 4, 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(make_features("means-2x2", (3, 6, 8))(x), means)


def test_a_distance_in_pixels_is_that_of_the_pixels():
    x, y = pictures(30, (1, 4, 4)), pictures(30, (1, 4, 4), seed=1)
    features = make_features("pixels", (1, 4, 4))
    expected = frechet_distance(x.double() / 255, y.double() / 255)
    assert frechet_distance(features.moments(x), features.batches(y)) == pytest.approx(expected, rel=1e-5)


def test_the_classifier_pads_what_is_smaller():
    x = pictures()
    features = make_features("mnist-classifier", (1, 28, 28))
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    assert torch.equal(features(x), features(padded))
    assert torch.equal(features(padded), make_features("mnist-classifier", (1, 32, 32))(padded))


def test_ranges_and_types_lead_to_the_same_features():
    x = pictures(5)
    features, unit = make_features("mnist-classifier", (1, 28, 28)), x.double() / 255
    torch.testing.assert_close(features(unit), features(x))
    torch.testing.assert_close(features(2 * unit - 1, (-1.0, 1.0)), features(x))
    other = Preprocessing((1, 28, 28), data_range=(-3.0, 5.0))
    torch.testing.assert_close(other(x), (8 * unit - 3).float())


def test_any_module():
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 5, bias=False)).eval()
    features = module_features(module, Preprocessing((3, 4, 4), data_range=(-1.0, 1.0)))
    assert (features.name, features.dimension) == ("Sequential", 5)
    x = pictures(6, (3, 4, 4))
    expected = (2 * x.float() / 255 - 1).flatten(1) @ module[1].weight.T
    torch.testing.assert_close(features(x), expected)
    assert not features(x).requires_grad


def test_facts_tell_sets_of_features_apart():
    """What has to be stored with statistics, so that others are refused."""
    small, large = (make_features("mnist-classifier", (1, n, n)).facts for n in (28, 32))
    assert small == large  # the padded images are the same
    assert small["preprocessing"] == asdict(Preprocessing((1, 32, 32), fit="pad"))
    assert make_features("pixels", (1, 28, 28)).facts != make_features("pixels", (1, 32, 32)).facts


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 33, 28), r"images: shape \(2, 1, 33, 28\); \(n, 1, 32, 32\), or fewer pixels, is needed"),
        (torch.zeros(2, 3, 28, 28), r"images: shape \(2, 3, 28, 28\)"),
        (torch.zeros(1, 28, 28), r"images: shape \(1, 28, 28\)"),
        (torch.full((2, 1, 28, 28), 1.5), r"values from 1.5 to 1.5, outside \[0, 1\]; clip them \(x.clamp\) or name"),
        (torch.full((2, 1, 28, 28), torch.nan), "images: 1568 values are not finite"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.int64), "images: torch.int64; uint8, or floating point, is needed"),
    ],
)
def test_what_does_not_fit_is_refused(images, message):
    with pytest.raises(PrescoreError, match=message):
        make_features("mnist-classifier", (1, 28, 28))(images)


def test_images_of_another_size_are_refused_where_pixels_are_the_features():
    with pytest.raises(PrescoreError, match=r"images: shape \(1, 1, 28, 28\); \(n, 1, 32, 32\) is needed"):
        make_features("pixels", (1, 32, 32))(torch.zeros(1, 1, 28, 28))


def test_extractors_that_cannot_be_made():
    with pytest.raises(
        PrescoreError, match=r"features: unknown value 'mnist-clasifier'; did you mean mnist-classifier\?"
    ):
        make_features("mnist-clasifier", (1, 28, 28))
    with pytest.raises(PrescoreError, match=r"images: shape \(1, 3, 32, 32\)"):
        make_features("mnist-classifier", (3, 32, 32))
    with pytest.raises(PrescoreError, match="means-2x2: images of 5 x 4 pixels; even numbers"):
        make_features("means-2x2", (1, 4, 5))
    with pytest.raises(PrescoreError, match=r"means-2x2: samples of shape \(28, 28\); images \(C, H, W\) are needed"):
        make_features("means-2x2", (28, 28))
    with pytest.raises(PrescoreError, match=r"shape: \(28, 28\) is not the shape of a sample, \(C, H, W\) for images"):
        Preprocessing((28, 28), fit="resize")
    with pytest.raises(PrescoreError, match="fit: unknown value 'crop'"):
        Preprocessing((1, 2, 2), fit="crop")
    with pytest.raises(PrescoreError, match="data_range"):
        Preprocessing((1, 2, 2), data_range=(1.0, 0.0))


def test_functions_that_are_no_extractors():
    preprocessing = Preprocessing((1, 2, 2))
    with pytest.raises(PrescoreError, match=r"Flatten: the module is in training mode; call its eval\(\) first"):
        Features("Flatten", 4, preprocessing, nn.Flatten())
    with pytest.raises(PrescoreError, match=r"Identity: it returned \(1, 1, 2, 2\) for one image"):
        module_features(nn.Identity().eval(), preprocessing)
    with pytest.raises(PrescoreError, match=r"sum: it returned \(\) instead of shape \(3, 4\)"):
        Features("sum", 4, preprocessing, torch.sum)(torch.zeros(3, 1, 2, 2))
    with pytest.raises(PrescoreError, match="batch_size: 0"):
        make_features("pixels", (1, 2, 2)).moments(torch.zeros(3, 1, 2, 2), batch_size=0)
