"""Writing images: what is written reads back, and nothing else is left in the folder."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prescore.data import load_images
from prescore.errors import PrescoreError
from prescore.images import grid, save_grid, save_npz, save_png, to_uint8


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_uint8_survives_the_way_to_the_unit_interval_and_back() -> None:
    x = torch.arange(256, dtype=torch.uint8)
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (-3.0, 5.0)):
        for dtype in (torch.float32, torch.float64):
            assert torch.equal(to_uint8(x.to(dtype) / 255 * (high - low) + low, (low, high)), x)


def test_values_outside_the_range_are_clipped() -> None:
    assert to_uint8(torch.tensor([-0.1, 1.1, float("inf")])).tolist() == [0, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_reads_back(tmp_path: Path, channels: int) -> None:
    image = random_images(channels, 9, 7)
    save_png(tmp_path / "a.png", image)
    assert torch.equal(load_images(tmp_path)[0], image)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_grid_holds_every_image_in_its_place() -> None:
    images = random_images(5, 3, 9, 7)
    sheet = grid(images)
    assert sheet.shape == (3, 9 + 2 + 9, 7 + 2 + 7 + 2 + 7)
    assert torch.equal(sheet[:, :9, 9:16], images[1])
    assert torch.equal(sheet[:, 11:, 9:16], images[4])
    assert (sheet[:, 11:, 18:] == 255).all()
    assert (sheet[:, 9:11] == 255).all()
    assert grid(images, columns=5).shape == (3, 9, 5 * 9 - 2)


def test_a_grid_file_is_the_grid(tmp_path: Path) -> None:
    images = random_images(4, 1, 9, 7)
    save_grid(tmp_path / "a.png", images)
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png")), grid(images)[0].numpy())


def test_npz_reads_back_without_pickle(tmp_path: Path) -> None:
    save_npz(tmp_path / "a.npz", {"images": random_images(4, 9, 7, 3).numpy(), "settings": np.array("{}")})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["settings"].item() == "{}"
    assert torch.equal(load_images(tmp_path / "a.npz"), random_images(4, 9, 7, 3).movedim(-1, 1))


@pytest.mark.parametrize("shape", [(2, 9, 7), (9, 7), (3, 4, 9, 7)])
def test_what_is_no_picture_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(PrescoreError, match=r"not grey or RGB pictures; write an \.npz"):
        save_png(tmp_path / "a.png", random_images(*shape))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_png(tmp_path / "a.png", random_images(1, 9, 7))
    before = (tmp_path / "a.png").read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(PrescoreError, match=r"a\.png: cannot be written \(No space left on device\)"):
        save_png(tmp_path / "a.png", random_images(1, 12, 7))
    assert (tmp_path / "a.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_without_pillow_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(PrescoreError, match=r"pip install '.\[cli\]' in the clone"):
        save_png(tmp_path / "a.png", random_images(1, 9, 7))
