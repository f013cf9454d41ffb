"""The mask files of the authors of PDS, as their script writes them."""

import json

import numpy as np
import pytest
import torch

import prescore
from prescore import calibrate, load_mask, load_statistics, plan
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.precondition import PIXEL_MASKS, frequency_preconditioner

SHAPE = (3, 6, 8)
IMAGES = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(0)).cumsum(-1).cumsum(-2) / 48


def published(images):
    """The two masks, step for step as the script makes them, float32: one image in a batch."""
    power = sum(torch.fft.fft2(image).abs() ** 2 for image in images) / len(images)
    square = sum(image**2 for image in images) / len(images)
    return torch.log(1 + power).numpy(), square.numpy()


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "freq_mask.npy", tmp_path / "space_mask.npy"]
    for path, values in zip(paths, published(IMAGES), strict=True):
        np.save(path, values)
    return paths


def model(**known):
    return Denoiser(Gaussian.power_law(SHAPE), SHAPE, 0.01, 50.0, data_range=(0, 1), **known)


def test_masks_are_the_preconditioners_of_the_same_images(files):
    statistics, x = calibrate(IMAGES), torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    for alpha in (1.5, 5.0):
        frequency, pixel = (load_mask(path, kind) for path, kind in zip(files, ("frequency", "pixel"), strict=True))
        for mask, expected in (
            (frequency, frequency_preconditioner(statistics, alpha)),
            (pixel, PIXEL_MASKS["square"](statistics, alpha)),
        ):
            made = mask.preconditioner(alpha)
            assert torch.allclose(made.noise(x), expected.noise(x), rtol=1e-4, atol=1e-5)
            assert torch.allclose(made.drift(x), expected.drift(x), rtol=1e-4, atol=1e-5)
    assert frequency.event_shape == SHAPE


def test_a_plan_takes_them_as_statistics(files):
    frequency, pixel = map(str, files)
    bare, measured = model(), model(statistics=calibrate(IMAGES))
    given = {"sampler": "pds", "steps": 4, "alpha": 5}
    decided = plan(bare, statistics=frequency, **given)
    expected = plan(measured, **given)
    samples = [each.sample(range(2), progress=False) for each in (decided, expected)]
    assert torch.allclose(*samples, rtol=1e-3, atol=1e-3)
    assert decided.settings["mask"] == frequency
    assert len(decided.settings["mask_sha256"]) == 16
    assert "statistics" not in decided.settings
    both = plan(bare, statistics=load_mask(frequency), pixel=True, pixel_mask=pixel, **given)
    expected = plan(measured, pixel=True, pixel_mask="square", **given)
    samples = [each.sample(range(2), progress=False) for each in (both, expected)]
    assert torch.allclose(*samples, rtol=1e-3, atol=1e-3)
    assert both.settings["pixel_mask"] == pixel
    # A mask of pixels may stand beside measured statistics, and a relation may stand for alpha.
    assert plan(measured, pixel=True, pixel_mask=pixel, **given).settings["pixel_mask"] == pixel
    related = plan(bare, statistics=frequency, sampler="pds", steps=100, alpha_relation={100: 5, 1000: 50})
    assert related.settings["alpha"] == pytest.approx(5)


def test_presets_take_them(files):
    with pytest.warns(prescore.presets.PresetWarning):
        decided = plan(model(), preset="pds-cifar10-t50", statistics=files[0], steps=2)
    assert (decided.settings["alpha"], decided.settings["mask"]) == (1.8, str(files[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "^statistics: .*freq_mask.npy is a mask, .* name a sampler that takes one, such as pds"),
        ({"sampler": "p-ode-3m"}, "^statistics: .* is a mask"),
        ({"sampler": "pds"}, "^alpha: cannot be chosen from the mask .*; give a number, such as 5"),
        ({"sampler": "pds", "alpha": 5, "pixel": True}, "^pixel_mask: a mask of frequencies says nothing of pixels"),
        ({"sampler": "pds", "radial": (0.2, 1.6)}, "does nothing beside a preconditioner that is given"),
    ],
)
def test_what_a_mask_does_not_say(files, options, message):
    with pytest.raises(PrescoreError, match=message):
        plan(model(), statistics=files[0], steps=3, **options)


def test_masks_of_other_events(files):
    other = Denoiser(Gaussian.power_law((3, 8, 8)), (3, 8, 8), 0.01, 50.0)
    with pytest.raises(PrescoreError, match=r"is a mask for events of shape \(3, 6, 8\), the model's have \(3, 8, 8\)"):
        plan(other, sampler="pds", alpha=5, statistics=files[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((6, 8)), r"an array of shape \(6, 8\); a mask is \(C, H, W\)"),
        (np.ones((2, 3, 6, 8)), r"an array of shape \(2, 3, 6, 8\)"),
        (np.ones(SHAPE, np.uint8), "uint8 values; a mask is floating point"),
        (np.ones(SHAPE, np.int64), "int64 values; a mask is floating point"),
        (np.array([{}]), "object values"),
        (np.full(SHAPE, np.nan), "finite values of at least 0"),
        (np.zeros(SHAPE), "some above"),
        (-np.ones(SHAPE), "at least 0"),
        (published(IMAGES)[1], "is not the same at k and -k, .* a mask of pixels is given as pixel_mask"),
    ],
)
def test_what_is_no_mask(tmp_path, values, message):
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(PrescoreError, match=message) as caught:
        load_mask(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)


def test_other_refusals(files, tmp_path, monkeypatch):
    with pytest.raises(PrescoreError, match="mean squares of images in \\[0, 1\\] are needed"):
        load_mask(files[0], "pixel")
    with pytest.raises(PrescoreError, match="no such file"):
        load_mask(tmp_path / "none.npy")
    with pytest.raises(PrescoreError, match="an array and no statistics; if it is a mask"):
        load_statistics(files[0])
    (tmp_path / "cut.npy").write_bytes(files[0].read_bytes()[:-4])
    with pytest.raises(PrescoreError, match="damaged"):
        load_mask(tmp_path / "cut.npy")
    monkeypatch.setattr("prescore.precondition.published.MAX_BYTES", 100)
    with pytest.raises(PrescoreError, match="a mask has at most 100"):
        load_mask(files[0])


def test_from_the_command_line(files, tmp_path):
    pytest.importorskip("typer")
    from prescore.cli import main

    shape = (1, 32, 32)
    power, square = published(torch.rand(10, *shape, generator=torch.Generator().manual_seed(0)))
    np.save(tmp_path / "f.npy", power)
    np.save(tmp_path / "s.npy", square)
    words = [
        "sample",
        "mnist-ve",
        "--sampler",
        "pds",
        "--alpha",
        5,
        "--steps",
        2,
        "--n",
        1,
        "--out",
        tmp_path / "a.npz",
    ]
    words += ["--statistics", tmp_path / "f.npy", "--pixel", "--pixel-mask", tmp_path / "s.npy"]
    assert main([str(word) for word in words]) == 0
    with np.load(tmp_path / "a.npz") as file:
        settings = json.loads(str(file["settings"]))
    assert (settings["mask"], settings["pixel_mask"]) == (str(tmp_path / "f.npy"), str(tmp_path / "s.npy"))
    words = ["compare", "mnist-ve", "--samplers", "pds[alpha=5],pc", "--calls", 4, "--n", 2, "--out", tmp_path / "out"]
    words += ["--statistics", tmp_path / "f.npy"]
    assert main([str(word) for word in words]) == 0
    plain, masked = (
        json.loads((tmp_path / "out/runs" / f"{name}-2.json").read_text()) for name in ("pc", "pds[alpha=5]")
    )
    assert "mask" not in plain["settings"]
    assert masked["settings"]["mask"] == str(tmp_path / "f.npy")
