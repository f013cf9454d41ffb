"""Images of one size: what padding, cropping and fitting keep, and what they refuse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from prescore.data import load_images
from prescore.data.sizes import Frame
from prescore.errors import PrescoreError

GREY = np.random.default_rng(0).integers(0, 256, (6, 9, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(PrescoreError) as caught:
        load_images(path, **options)
    return str(caught.value)


def pictures(path: Path) -> Path:
    """Three of different sizes."""
    for name, image in {"a": COLOUR, "b": COLOUR.transpose(1, 0, 2), "c": COLOUR[:, :25]}.items():
        Image.fromarray(image).save(path / f"{name}.png")
    return path


def test_pictures_of_different_sizes_need_one(tmp_path: Path) -> None:
    message = refusal(pictures(tmp_path))
    for option in ("--pad", "--crop", "--fit"):
        assert option in message
    for options in ({"pad": 40}, {"crop": 25}, {"fit": 16}, {"fit": (20, 12)}):
        (size,) = options.values()
        height, width = (size, size) if isinstance(size, int) else size
        assert load_images(tmp_path, **options).shape == (3, 3, height, width)


def test_the_middle_is_cut_out(tmp_path: Path) -> None:
    x = load_images(pictures(tmp_path), crop=(20, 10))
    whole = torch.from_numpy(COLOUR).movedim(-1, 0)
    assert torch.equal(x[0], whole[:, 10:30, 10:20])
    assert torch.equal(x[2], whole[:, 10:30, 7:17])
    assert "crop: 28 x 28 is more than the 40 x 25 pixels" in refusal(tmp_path, crop=28)


def test_padding_is_even_and_of_the_background(tmp_path: Path) -> None:
    x = load_images(pictures(tmp_path), pad=(44, 40), background="#ff8001")
    assert torch.equal(x[0, :, 2:42, 5:35], torch.from_numpy(COLOUR).movedim(-1, 0))
    x[0, :, 2:42, 5:35] = torch.tensor([255, 128, 1])[:, None, None]
    assert torch.equal(x[0], torch.tensor([255, 128, 1], dtype=torch.uint8)[:, None, None].expand(3, 44, 40))
    assert "pad: 39 x 39 is less than the 40 x 30 pixels" in refusal(tmp_path, pad=39)
    np.save(tmp_path / "a.npy", GREY)
    assert (load_images(tmp_path / "a.npy", pad=11, background="white")[:, :, 0] == 255).all()
    assert "6 x 9 pixels" not in (message := refusal(tmp_path / "a.npy", pad=11, background="red"))
    assert "background" in message
    np.save(tmp_path / "a.npy", GREY / 255)
    x = load_images(tmp_path / "a.npy", pad=11, background="white", data_range=(-1, 3))
    assert (x[:, :, 0] == 3).all()


def test_fitting_is_pillows(tmp_path: Path) -> None:
    x = load_images(pictures(tmp_path), fit=(16, 10))
    fitted = ImageOps.fit(Image.fromarray(COLOUR), (10, 16), Image.Resampling.BICUBIC)
    assert (x[0].movedim(0, -1).int() - torch.from_numpy(np.array(fitted)).int()).abs().max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_fitting_keeps_brightness_and_range(dtype: type) -> None:
    step = np.zeros((1, 1, 64, 96), dtype)
    step[..., 48:] = 200
    x = Frame.of(fit=32)("a", step)
    assert x.dtype == dtype
    assert x.shape == (1, 1, 32, 32)
    assert x.min() == 0
    assert x.max() == 200
    assert abs(float(x.mean()) - 100) < 1
    larger = Frame.of(fit=(128, 192))("a", step)
    assert (larger.min(), larger.max()) == (0, 200)
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, None, :, None].repeat(64, -1)
    assert np.allclose(Frame.of(fit=16)("a", ramp)[0, 0, 2:-2, 0], (np.arange(16) * 4 + 1.5)[2:-2] / 63, atol=1e-3)


def test_the_same_size_changes_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    for how in ("pad", "crop", "fit"):
        assert torch.equal(load_images(tmp_path / "a.npy", **{how: (9, 7)})[:, 0], torch.from_numpy(GREY))


def test_wrong_sizes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    path = tmp_path / "a.npy"
    assert refusal(path, pad=32, crop=8) == "pad: given together with crop; one of them is possible"
    for size in (0, -3, (8, 0)):
        assert "at least 1 x 1" in refusal(path, fit=size)
    for how in ("pad", "fit"):
        assert "are allowed" in refusal(path, **{how: 10**9})
    np.save(path, GREY.reshape(6, 3, 21))
    assert refusal(path, layout="NCL", pad=8) == "pad: samples of the shape (3, 21) are no images"


def test_without_pillow_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", GREY)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    for options in ({"fit": 4}, {"background": "white", "pad": 16}):
        assert "pip install '.[cli]' in the clone" in refusal(tmp_path / "a.npy", **options)
    assert load_images(tmp_path / "a.npy", pad=16).shape == (6, 1, 16, 16)
