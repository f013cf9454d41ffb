"""Extractors of features that have a name: `make_features`.

Which of them to take decides what a distance means: features that were learned on natural images say little about
digits, and pixels little about what a picture shows. Values of different extractors cannot be compared.
"""

from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType

import torch
from torch import nn

from prescore.assets import EXTRACTOR_SUFFIX, FOLDER
from prescore.checkpoints.native import read_safetensors
from prescore.errors import PrescoreError, check_choice
from prescore.metrics.features import Features, Preprocessing, Shape
from prescore.metrics.pretrained import efficientnet_lite0, file_digest, inception
from prescore.models.classifier import FEATURES, SHAPE, DigitClassifier

CLASSIFIER = FOLDER / ("mnist-classifier" + EXTRACTOR_SUFFIX)


def make_features(name: str, shape: Shape, device: torch.device | str = "cpu") -> Features:
    """One of `EXTRACTORS` for images of a shape.

        mnist-classifier   last hidden layer of the shipped digit classifier, 64 values; grey images up to 32 x 32
        pixels             the pixels, or the numbers of samples of any shape
        means-2x2          the means of blocks of 2 x 2 pixels, per channel
        efficientnet-lite0 last layer of a small classifier of photographs, 1280 values; any size, grey or colour
        inception          last layer of the network that the literature's FID is made of, 2048 values; the same

    The last two need packages of others, and the last a file that is downloaded by hand; without these they are
    refused in a line that says how to get them.

    Args:
        name: of the extractor.
        shape: (C, H, W) of the images that will come, or that of other samples.
        device: where it works.

    Raises:
        PrescoreError: the name is unknown, or the images do not fit it.

    >>> make_features("means-2x2", (1, 28, 28)).dimension
    196
    """
    check_choice("features", name, EXTRACTORS)
    return EXTRACTORS[name](tuple(shape), torch.device(device))


def load_classifier(device: torch.device | str = "cpu") -> DigitClassifier:
    """The shipped digit classifier, in evaluation mode."""
    _, state = read_safetensors(CLASSIFIER)
    with torch.device("meta"):
        network = DigitClassifier()
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return network.eval().requires_grad_(False).to(device)


def _mnist_classifier(shape: tuple[int, ...], device: torch.device) -> Features:
    preprocessing = Preprocessing(SHAPE, fit="pad")
    preprocessing.check_shape((1, *shape))
    network, digest = load_classifier(device), file_digest(CLASSIFIER)
    return Features("mnist-classifier", FEATURES, preprocessing, network.features, device, network.logits, digest)


def _pixels(shape: tuple[int, ...], device: torch.device) -> Features:
    return Features("pixels", prod(shape), Preprocessing(shape), lambda x: x.flatten(1), device)


def _means(shape: tuple[int, ...], device: torch.device) -> Features:
    preprocessing = Preprocessing(shape)
    if len(shape) != 3:
        raise PrescoreError(f"means-2x2: samples of shape {shape}; images (C, H, W) are needed, pixels take any shape")
    C, H, W = shape
    if H % 2 or W % 2:
        raise PrescoreError(f"means-2x2: images of {W} x {H} pixels; even numbers of pixels are needed")
    return Features(
        "means-2x2", C * H * W // 4, preprocessing, lambda x: nn.functional.avg_pool2d(x, 2).flatten(1), device
    )


EXTRACTORS: Mapping[str, Callable[[tuple[int, ...], torch.device], Features]] = MappingProxyType(
    {
        "mnist-classifier": _mnist_classifier,
        "pixels": _pixels,
        "means-2x2": _means,
        "efficientnet-lite0": efficientnet_lite0,
        "inception": inception,
    }
)
