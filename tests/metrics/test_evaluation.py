"""Metrics of two sets: what each function gives by itself, whatever the batches, and clear where there can be none."""

from dataclasses import replace

import pytest
import torch
from scipy import linalg
from torch import nn

from prescore.errors import PrescoreError
from prescore.metrics import (
    METRICS,
    Features,
    PixelMoments,
    Preprocessing,
    cautions,
    evaluate,
    frechet_distance,
    hold_out,
    inception_score,
    kernel_distance,
    make_features,
    measure,
    neighbour_metrics,
    obstacles,
    pixel_errors,
    power_spectrum_error,
    sliced_wasserstein,
)
from prescore.metrics.sets import image_power

SHAPE = (2, 3, 5)
PREPROCESSING = Preprocessing(SHAPE)


def images(n=30, seed=0, shape=SHAPE):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) ** 2


def linear(classes=4, dimension=6):
    """Features and logits that are linear in the image."""
    generator = torch.Generator().manual_seed(5)
    A, B = (torch.randn(*size, generator=generator) for size in ((30, dimension), (dimension, classes)))
    return Features("linear", dimension, PREPROCESSING, lambda x: x.flatten(1) @ A, logits=lambda f: f @ B)


def test_each_metric_is_that_of_its_function():
    features, x, y = linear(), images(), images(40, seed=1)
    f, g = features(x), features(y)
    expected = {"frechet": frechet_distance(f, g), "kernel": kernel_distance(f, g)}
    expected |= vars(neighbour_metrics(f, g, k=5))
    expected |= {"inception-score": inception_score(features.logits(f)), "sliced-wasserstein": sliced_wasserstein(f, g)}
    expected["spectrum"] = power_spectrum_error(x, image_power(y), axes=2)
    pixels = pixel_errors(PixelMoments.of(x), PixelMoments.of(y))
    expected |= dict(zip(("pixel-mean", "pixel-deviation"), pixels, strict=True))
    found = evaluate(measure(x, features), measure(y, features))
    assert found == pytest.approx(expected, rel=1e-6)
    assert tuple(found) == METRICS


def test_the_batch_size_does_not_matter():
    """Nor does the way in which batches are given; the extractor's own rounding is all there may be."""
    features, x, y = linear(), images(), measure(images(40, seed=1), linear())
    whole = measure(x, features, batch_size=30)
    for given, size in ((x, 1), (x, 7), (x.split(11), 4), (iter(x.split([20, 10])), 256)):
        other = measure(given, features, batch_size=size)
        assert (other.count, other.digest) == (30, whole.digest)
        assert (other.lowest, other.highest) == (x.min().item(), x.max().item())
        assert evaluate(other, y) == pytest.approx(evaluate(whole, y), rel=1e-5)


def test_pixels_do_not_round():
    """Where the extractor has no arithmetic, batches leave float64's rounding only."""
    features, x, y = make_features("pixels", SHAPE), images(), images(40, seed=1)
    reference = measure(y, features)
    values = [evaluate(measure(x, features, batch_size=size), reference) for size in (3, 30)]
    assert values[0] == pytest.approx(values[1], rel=1e-11)


def test_gaussian_pixels_in_closed_form():
    """Independent pixels N(0.5, 0.01) beside N(0.6, 0.0025): d (0.1^2 + (0.1 - 0.05)^2), and what else is known."""
    shape = (1, 2, 2)
    z = torch.randn(2, 20000, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = make_features("pixels", shape)
    names = ["frechet", "spectrum", "pixel-mean", "pixel-deviation"]
    x, y = (measure(part.clamp(0, 1), features, names) for part in (0.5 + 0.1 * z[0], 0.6 + 0.05 * z[1]))
    found = evaluate(x, y)
    assert found["frechet"] == pytest.approx(4 * (0.01 + 0.0025), rel=0.02)
    assert found["pixel-mean"] == pytest.approx(0.1, rel=0.01)
    assert found["pixel-deviation"] == pytest.approx(0.05, rel=0.02)
    power = torch.tensor([[4 * 0.01, 4 * 0.0025]]) + torch.tensor([[16 * 0.25, 16 * 0.36], [0, 0], [0, 0], [0, 0]])
    expected = (power[:, 0] / power[:, 1]).log().square().mean().sqrt()
    assert found["spectrum"] == pytest.approx(expected.item(), rel=0.01)


def test_scipy_agrees_on_the_frechet_distance():
    features, x, y = linear(), images(60), images(50, seed=1)
    f, g = features(x).double(), features(y).double()
    C, D = f.mT.cov(), g.mT.cov()
    root = torch.from_numpy(linalg.sqrtm((C @ D).numpy()).real)
    expected = (f.mean(0) - g.mean(0)).square().sum() + (C + D - 2 * root).trace()
    found = evaluate(measure(x, features), measure(y, features), ["frechet"])
    assert found == {"frechet": pytest.approx(expected.item(), rel=1e-6)}


class Extractor(nn.Module):
    """What torchmetrics takes: bytes, and the number of features beside them."""

    num_features = 6

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.float() / 255)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_torchmetrics_agrees():
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance
    kid = pytest.importorskip("torchmetrics.image.kid").KernelInceptionDistance
    score = pytest.importorskip("torchmetrics.image.inception").InceptionScore
    features = linear()
    x, y = ((255 * part).round().to(torch.uint8) for part in (images(60), images(50, seed=1)))
    found = evaluate(measure(x, features), measure(y, features))
    distance = fid(feature=Extractor(features.function)).set_dtype(torch.float64)
    # All pairs of equally many, which a subset of all of them is.
    kernel = kid(feature=Extractor(features.function), subsets=1, subset_size=50)
    logits = score(feature=Extractor(lambda z: features.logits(features.function(z))), splits=1)
    for real, part in ((True, y), (False, x)):
        distance.update(part, real=real)
        kernel.update(part[:50], real=real)
    logits.update(x)
    assert found["frechet"] == pytest.approx(distance.compute().item(), rel=1e-5)
    assert found["inception-score"] == pytest.approx(logits.compute()[0].item(), rel=1e-5)
    equal = evaluate(measure(x[:50], features), measure(y, features), ["kernel"])
    assert equal["kernel"] == pytest.approx(kernel.compute()[0].item(), rel=1e-4)


def test_only_what_is_asked_for_is_kept():
    x = measure(images(), linear(), ["frechet", "pixel-mean"])
    assert x.moments is not None
    assert x.pixels is not None
    assert (x.rows, x.answers, x.power) == ((), None, None)
    assert set(evaluate(x, x)) == {"frechet", "pixel-mean", "pixel-deviation"}
    assert evaluate(x, x, ["pixel-mean"]) == {"pixel-mean": 0.0}
    with pytest.raises(
        PrescoreError, match="kernel: the samples were measured without keeping the features; valid are frechet"
    ):
        evaluate(x, x, ["kernel"])


def test_the_score_needs_no_reference():
    y = measure(images(40, seed=1), linear(), ["pixel-mean"])
    assert "inception-score" in evaluate(measure(images(), linear()), y)


def test_what_features_do_not_allow():
    pixels = make_features("pixels", SHAPE)
    assert "inception-score" not in evaluate(measure(images(), pixels), measure(images(), pixels))
    with pytest.raises(PrescoreError, match="inception-score: pixels gives no logits of a classifier; leave it out"):
        measure(images(), pixels, ["inception-score"])
    wide = make_features("pixels", (1, 96, 96))
    assert measure(images(3, shape=(1, 96, 96)), wide).moments is None
    with pytest.raises(PrescoreError, match="frechet: 9216 features of pixels, at most 8192"):
        measure(images(3, shape=(1, 96, 96)), wide, ["frechet"])


def test_too_few_images():
    few, many = measure(images(5), linear()), measure(images(), linear())
    for sets in ((few, many), (many, few)):
        found = obstacles(*sets)
        assert set(found) == {"precision", "recall", "density", "coverage"}
        assert "5 images in the" in found["recall"]
        assert set(evaluate(*sets)) == set(METRICS) - set(found)
    with pytest.raises(PrescoreError, match="coverage: 5 images in the samples, 6 are needed; valid are frechet,"):
        evaluate(few, many, ["coverage"])
    one = measure(images(1), linear())
    assert set(evaluate(one, many)) == {"inception-score", "sliced-wasserstein", "spectrum"}


def test_cautions():
    features = linear()
    y = measure(images(40, seed=1), features)
    assert cautions(measure(images(30), features), y, METRICS) == []
    assert "29 images are few for 6 features" in cautions(measure(images(29), features), y, METRICS)[0]
    assert (
        "6 images for 6 features, fewer than a covariance needs"
        in cautions(measure(images(6), features), y, METRICS)[0]
    )
    assert cautions(measure(images(6), features), y, ["kernel"]) == []
    assert "was one scaled otherwise?" in cautions(measure(images(30) / 2, features), y, METRICS)[0]
    assert cautions(y, y, METRICS) == ["samples: they are the images of the reference"]
    shuffled = measure(images(40, seed=1).flip(0), features, batch_size=9)
    assert cautions(shuffled, y, METRICS) == ["samples: they are the images of the reference"]


def test_sets_that_cannot_be_compared():
    x = measure(images(), linear())
    other = make_features("pixels", SHAPE)
    with pytest.raises(PrescoreError, match="reference: its features have name = pixels, those of the samples linear"):
        evaluate(x, measure(images(), other))
    changed = {**x.extractor, "preprocessing": {**x.extractor["preprocessing"], "fit": "pad"}}
    with pytest.raises(PrescoreError, match="its features have fit = pad, those of the samples none; both have to be"):
        evaluate(x, replace(x, extractor=changed))
    with pytest.raises(PrescoreError, match="its features have weights = 1"):
        evaluate(x, replace(x, extractor={**x.extractor, "weights": "1"}))
    with pytest.raises(PrescoreError, match="samples: images 2 x 3 x 5, those of the reference are 2 x 5 x 3"):
        evaluate(x, replace(x, shape=(2, 5, 3)))


def test_mistakes():
    x = measure(images(), linear())
    for call in (lambda names: evaluate(x, x, names), lambda names: measure(images(), linear(), names)):
        with pytest.raises(PrescoreError, match=r"metrics: unknown value 'frechett'; did you mean frechet\?"):
            call(["frechett"])
    with pytest.raises(PrescoreError, match="batch_size: 0"):
        measure(images(), linear(), batch_size=0)
    for none in ([], images(0)):
        with pytest.raises(PrescoreError, match="images: none given"):
            measure(none, linear())
    with pytest.raises(PrescoreError, match="30 values are not finite"):
        measure(torch.full((1, *SHAPE), torch.nan), linear())


def test_held_out_images_and_the_others_are_the_whole():
    x = images(21)
    held, others = hold_out(x, 10, seed=3)
    assert (len(held), len(others)) == (10, 11)
    assert measure(held, linear()).digest != measure(x[:10], linear()).digest
    total = measure(held, linear()) + measure(others, linear())
    assert total.digest == measure(x, linear()).digest
    y = measure(images(40, seed=1), linear())
    assert evaluate(total, y) == pytest.approx(evaluate(measure(x, linear()), y), rel=1e-6)
    assert hold_out(x, 11) is None


def test_vectors_of_unlike_scale_are_named() -> None:
    """The largest decide what a distance is; of like scales nothing is said."""
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    for scales, is_said in (([1.0, 2.0, 0.5], False), ([1.0, 100.0, 1.0], True)):
        sets = [
            measure(half * torch.tensor(scales), make_features("pixels", (3,)), data_range=None) for half in x.split(25)
        ]
        notes = cautions(sets[0], sets[1], ["frechet"])
        assert any("distances are in the units of the data" in note for note in notes) is is_said
