"""The digit classifier: its shape, what it ships as, and that it tells digits apart."""

import torch

from prescore.assets import EXTRACTOR_SUFFIX, FOLDER, shipped_models
from prescore.metrics.extractors import load_classifier
from prescore.models.classifier import FEATURES, DigitClassifier


def stroke(rows, columns):
    """A light rectangle on black."""
    x = torch.zeros(1, 1, 32, 32)
    x[..., rows, columns] = 1.0
    return x


def ring():
    """A zero of a pen three pixels wide."""
    h, w = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    radius = (((h - 15.5) / 9) ** 2 + ((w - 15.5) / 6) ** 2).sqrt()
    return ((radius - 0.85).abs() < 0.18).float()[None, None]


def test_logits_are_linear_in_the_features():
    network = DigitClassifier(torch.Generator().manual_seed(0))
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    features = network.features(x)
    assert features.shape == (3, FEATURES)
    assert torch.equal(network(x), features @ network.logits.weight.T + network.logits.bias)


def test_the_generator_decides_the_weights():
    first, again, other = (DigitClassifier(torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["hidden.weight"], other["hidden.weight"])


def test_the_shipped_one_reads_a_one_and_a_zero():
    network = load_classifier()
    assert not network.training
    assert network(stroke(slice(6, 26), slice(15, 18))).argmax().item() == 1
    assert network(ring()).argmax().item() == 0


def test_it_ships_small_with_its_card_and_is_no_model_to_sample():
    file = FOLDER / ("mnist-classifier" + EXTRACTOR_SUFFIX)
    assert file.stat().st_size < 500_000
    card = (FOLDER / "mnist-classifier.md").read_text()
    for word in ("accuracy", "icence", "experiments/mnist_classifier.py", "steps", "seconds"):
        assert word in card
    assert "mnist-classifier" not in shipped_models()
