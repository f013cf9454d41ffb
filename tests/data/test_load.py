"""Reading images: what is read is what was stored, and what cannot be read is said in one line."""

import gzip
import struct
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prescore.data import DataWarning, load_images
from prescore.errors import PrescoreError
from prescore.output import open_output

GREY = np.random.default_rng(0).integers(0, 256, (6, 9, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 9, 7, 3), dtype=np.uint8)


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(PrescoreError) as caught:
        load_images(path, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


def folder_of(path: Path, images: np.ndarray) -> Path:
    (path / "sub").mkdir(parents=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(path / ("sub" if k % 2 else "") / f"{k}.png")
    return path


def idx_bytes(array: np.ndarray, code: int = 8) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def test_a_folder_is_read_recursively_in_the_order_of_names(tmp_path: Path) -> None:
    x = load_images(folder_of(tmp_path / "f", GREY))
    assert x.dtype == torch.uint8
    assert torch.equal(x[:, 0], torch.from_numpy(GREY[[0, 2, 4, 1, 3, 5]]))


def test_colour_is_channels_first(tmp_path: Path) -> None:
    x = load_images(folder_of(tmp_path / "f", COLOUR))
    assert torch.equal(x, torch.from_numpy(COLOUR[[0, 2, 4, 1, 3, 5]]).movedim(-1, 1))


def test_one_colour_image_makes_all_of_them_colour(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", GREY[:2])
    Image.fromarray(COLOUR[0]).save(folder / "z.png")
    x = load_images(folder)
    assert x.shape == (3, 3, 9, 7)
    assert torch.equal(x[0], torch.from_numpy(GREY[0]).expand(3, 9, 7))


def test_hidden_files_are_not_images(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", GREY)
    (folder / "._0.png").write_bytes(b"not an image")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "1.png").write_bytes(b"not an image")
    assert len(load_images(folder)) == 6


def test_a_zip_is_read_like_a_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", COLOUR)
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        for name in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(name, name.relative_to(folder))
        archive.writestr("__MACOSX/._0.png", b"not an image")
    assert torch.equal(load_images(tmp_path / "f.zip"), load_images(folder))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "1"])
def test_other_modes_keep_their_pixels(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOUR[0]).quantize(256).convert("RGB").convert(mode)
    image.save(tmp_path / "a.png")
    grey = mode in ("LA", "1")
    expected = np.array(image.convert("L" if grey else "RGB")).reshape(9, 7, -1)
    assert torch.equal(load_images(tmp_path)[0], torch.from_numpy(expected).movedim(-1, 0))


def test_a_subset_is_drawn_by_its_seed_and_opens_nothing_else(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", GREY)
    every, some = load_images(folder), load_images(folder, n=3, seed=1)
    kept = [k for k in range(6) if any(torch.equal(every[k], image) for image in some)]
    assert torch.equal(some, every[kept])
    assert len(kept) == 3
    assert any(not torch.equal(load_images(folder, n=3, seed=seed), some) for seed in range(5))
    for k, name in enumerate(sorted(folder.rglob("*.png"), key=lambda p: p.relative_to(folder).as_posix())):
        if k not in kept:
            name.write_bytes(b"never opened")
    assert torch.equal(load_images(folder, n=3, seed=1), some)


def test_a_subset_of_an_array_is_in_order_and_n_may_exceed_the_data(tmp_path: Path) -> None:
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1) + np.zeros((1, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "a.npz", images)
    values = load_images(tmp_path / "a.npz", n=20, seed=3)[:, 0, 0, 0].tolist()
    assert values == sorted(set(values))
    assert values != list(range(20))
    assert load_images(tmp_path / "a.npz", n=51).shape == (50, 1, 8, 8)


@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW", "fortran"])
def test_layouts_of_arrays(tmp_path: Path, layout: str) -> None:
    first = COLOUR.transpose(0, 3, 1, 2)
    stored = {"NHW": GREY, "NHWC": COLOUR, "NCHW": first, "fortran": np.asfortranarray(COLOUR)}[layout]
    np.save(tmp_path / "a.npy", stored)
    expected = GREY[:, None] if layout == "NHW" else first
    assert torch.equal(load_images(tmp_path / "a.npy"), torch.from_numpy(np.ascontiguousarray(expected)))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8"])
def test_floats_become_float32(tmp_path: Path, dtype: str) -> None:
    stored = (GREY / 255).astype(dtype)
    np.save(tmp_path / "a.npy", stored)
    x = load_images(tmp_path / "a.npy")
    assert x.dtype == torch.float32
    assert np.array_equal(x[:, 0].numpy(), stored.astype(np.float32))


def test_a_rounding_beyond_the_ends_is_clamped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((1, 8, 8), 1.000001))
    assert load_images(tmp_path / "a.npy").max() == 1


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, test=COLOUR, train=GREY, train_labels=np.zeros(6, np.int64))
    assert load_images(path).shape == (6, 1, 9, 7)
    assert load_images(path, key="test").shape == (6, 3, 9, 7)
    np.savez_compressed(path, odd=GREY)
    assert load_images(path).shape == (6, 1, 9, 7)
    np.savez(path, a=GREY, b=GREY)
    assert "a, b" in refusal(path)


def test_fields_with_a_range_keep_their_units(tmp_path: Path) -> None:
    heights = np.random.default_rng(0).uniform(-300, 900, (4, 8, 8))
    np.save(tmp_path / "a.npy", heights)
    x = load_images(tmp_path / "a.npy", data_range=(-300, 900), pad=10)
    assert np.array_equal(x[:, 0, 1:9, 1:9].numpy(), heights.astype(np.float32))
    assert x[0, 0, 0, 0] == -300


def test_padding_is_even_and_of_the_lowest_value(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    x = load_images(tmp_path / "a.npy", pad=12)
    assert torch.equal(x[:, 0, 1:10, 2:9], torch.from_numpy(GREY))
    assert x.sum() == int(GREY.sum())
    assert "9 x 7" in refusal(tmp_path / "a.npy", pad=8)


@pytest.mark.parametrize("suffix", ["-ubyte", ".gz"])
def test_idx(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train-images-idx3{suffix}"
    content = idx_bytes(GREY)
    path.write_bytes(gzip.compress(content) if suffix == ".gz" else content)
    assert torch.equal(load_images(path)[:, 0], torch.from_numpy(GREY))


def test_idx_of_floats(tmp_path: Path) -> None:
    path = tmp_path / "floats"
    path.write_bytes(idx_bytes((GREY / 255).astype(">f8"), code=14))
    assert np.array_equal(load_images(path)[:, 0].numpy(), (GREY / 255).astype(np.float32))


def test_no_such_path_and_nothing_in_it(tmp_path: Path) -> None:
    assert "no such" in refusal(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("no image")
    assert "no images" in refusal(tmp_path)
    assert "not a folder, .zip" in refusal(tmp_path / "notes.txt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.txt", "no image")
    assert "no images" in refusal(tmp_path / "a.zip")
    np.save(tmp_path / "a.npy", GREY[:0])
    assert "no images" in refusal(tmp_path / "a.npy")


def test_mixed_sizes_names_two_files_and_both_sizes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", GREY)
    Image.fromarray(GREY[0].T.copy()).save(folder / "z.png")
    message = refusal(folder)
    assert "0.png is 9 x 7" in message
    assert "z.png is 7 x 9" in message


def test_a_truncated_png_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", COLOUR)
    whole = (folder / "2.png").read_bytes()
    for length in (0, 5, 40, len(whole) // 2):
        (folder / "2.png").write_bytes(whole[:length])
        assert str(folder / "2.png") in refusal(folder)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "f", GREY)
    for limit in (40, 20):  # Pillow warns above its limit and raises above twice of it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert f"more than {limit} pixels" in refusal(folder)


@pytest.mark.parametrize("array", [GREY.astype(np.int64), GREY > 3, GREY.astype(str), GREY.astype(np.uint16)])
def test_wrong_types_are_named(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=array)
    message = refusal(tmp_path / "a.npz")
    assert str(array.dtype) in message
    assert "a.npz" in message


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.array([{"a": 1}, None], dtype=object))
    assert "object" in refusal(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.array([{"a": 1}, None], dtype=object))
    assert "object" in refusal(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(), (6,), (9, 7, 3), (6, 9, 7, 5), (6, 3, 9, 1), (2, 3, 9, 7, 1)])
def test_wrong_shapes_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros(shape, np.uint8))
    assert f"shape {shape}" in refusal(tmp_path / "a.npz")


def test_a_wrong_key_names_those_present(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train=GREY, test=GREY)
    message = refusal(tmp_path / "a.npz", key="valid")
    assert "'valid'" in message
    assert "train, test" in message
    np.save(tmp_path / "a.npy", GREY)
    assert "key" in refusal(tmp_path / "a.npy", key="train")


def test_values_out_of_range_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.linspace(-1, 1, 192).reshape(3, 8, 8))
    assert "from -1 to 1, outside [0, 1]" in refusal(path)
    assert "outside [-0.5, 2]" in refusal(path, data_range=(-0.5, 2))
    np.save(path, np.linspace(0, 255, 192).reshape(3, 8, 8))
    assert "from 0 to 255" in refusal(path)
    np.save(path, np.where(np.arange(192).reshape(3, 8, 8) == 5, np.nan, 0.5))
    assert "1 values are NaN or infinite" in refusal(path)


def test_arguments_out_of_range(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    assert refusal(tmp_path / "a.npy", n=0).startswith("n: 0")
    assert refusal(tmp_path / "a.npy", data_range=(1, 1)).startswith("data_range: (1, 1)")


@pytest.mark.parametrize("event", [(1, 8, 8), (5, 6, 7), (3, 9, 4), (2, 3, 3), (13, 3, 8), (2,), (4, 10), (2, 3, 4, 5)])
@pytest.mark.parametrize("as_numbers", [False, True])
def test_what_sample_writes_is_read(tmp_path: Path, event: tuple[int, ...], as_numbers: bool) -> None:
    samples = torch.rand(3, *event, generator=torch.Generator().manual_seed(0))
    samples = samples if as_numbers else (255 * samples).to(torch.uint8)
    output = open_output(tmp_path / "a.npz", range(3), {"model": "a"}, event, as_numbers=as_numbers)
    output.write(samples)
    assert torch.equal(load_images(tmp_path / "a.npz"), samples)
    assert torch.equal(load_images(tmp_path / "a.npz", n=3, seed=1), samples)


@pytest.mark.parametrize(
    ("shape", "first", "last"),
    [
        ((6, 9, 7, 5), "NCHW", "NHWC"),
        ((6, 13, 64, 64), "NCHW", "NHWC"),
        ((6, 3, 9, 3), "NCHW", "NHWC"),
        ((6, 3, 8), "NCL", "NLC"),
        ((6, 2, 3, 4, 5), "NCDHW", "NDHWC"),
        ((6, 2), "NC", "nc"),
    ],
)
def test_which_axis_is_which_can_be_said(tmp_path: Path, shape: tuple[int, ...], first: str, last: str) -> None:
    stored = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", stored)
    x = torch.from_numpy(stored)
    if len(shape) == 4 and shape[1:] != (3, 9, 3):
        assert "--layout" in refusal(tmp_path / "a.npy")
    assert torch.equal(load_images(tmp_path / "a.npy", layout=first), x)
    assert torch.equal(load_images(tmp_path / "a.npy", layout=last), x.movedim(-1, 1))
    for wrong in ("middle", "", "NHH", "HWC", "N"):
        assert f"layout: {wrong!r} given" in refusal(tmp_path / "a.npy", layout=wrong)
    assert "axes, the layout NABCDEFG has 8" in refusal(tmp_path / "a.npy", layout="NABCDEFG")


def test_what_is_no_picture_keeps_its_values(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(5, 100, (30, 6)).astype(np.float32)
    np.save(tmp_path / "a.npy", vectors)
    assert np.array_equal(load_images(tmp_path / "a.npy").numpy(), vectors)
    np.save(tmp_path / "b.npy", vectors.reshape(5, 2, 18))
    assert "NCL for signals" in refusal(tmp_path / "b.npy")
    assert np.array_equal(load_images(tmp_path / "b.npy", layout="NCL").numpy(), vectors.reshape(5, 2, 18))
    np.save(tmp_path / "c.npy", vectors.reshape(5, 3, 3, 4, 1))
    assert "NCDHW for fields" in refusal(tmp_path / "c.npy")  # the last axis might be one of channels as well
    np.save(tmp_path / "c.npy", vectors.reshape(5, 1, 3, 2, 6))
    assert np.array_equal(load_images(tmp_path / "c.npy").numpy(), vectors.reshape(5, 1, 3, 2, 6))
    np.save(tmp_path / "d.npy", np.where(vectors > 100, np.nan, vectors))
    assert "are NaN or infinite" in refusal(tmp_path / "d.npy")


def test_floats_that_may_be_signals_are_read_as_pictures_with_a_word(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((4, 8, 9), dtype=np.float32))
    with pytest.warns(DataWarning, match="read as grey pictures; signals would be layout NCL"):
        assert load_images(tmp_path / "a.npy").shape == (4, 1, 8, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_images(tmp_path / "a.npy", layout="NHW").shape == (4, 1, 8, 9)


@pytest.mark.parametrize("layout", ["N" * 5000, 3, ["NC", "NL"], "HW"])
def test_a_forged_layout_is_refused(tmp_path: Path, layout: object) -> None:
    np.savez(tmp_path / "a.npz", samples=np.zeros((3, 2), np.float32), layout=np.array(layout))
    assert "layout" in refusal(tmp_path / "a.npz")


def test_samples_may_overshoot_and_are_clipped_and_counted(tmp_path: Path) -> None:
    path, values = tmp_path / "a.npy", np.linspace(-1.25, 1, 10 * 64).reshape(10, 8, 8).astype(np.float32)
    np.save(path, values)
    assert "outside [-1, 1]" in refusal(path, data_range=(-1, 1), layout="NHW")
    with pytest.warns(DataWarning) as notes:
        x = load_images(path, data_range=(-1, 1), clip=True, layout="NHW")
    (note,) = notes
    assert str(note.message).startswith(
        f"{path}: {(values < -1).sum()} of 640 values lie outside [-1, 1], from -1.25 to 1"
    )
    assert torch.equal(x[:, 0], torch.from_numpy(values).clamp(-1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_images(path, data_range=(-1.25, 1), clip=True, layout="NHW")


def test_what_is_no_overshoot_is_refused_unless_the_range_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.linspace(-1, 1, 192).reshape(3, 8, 8))
    assert "outside [0, 1]" in refusal(tmp_path / "a.npy", clip=True, layout="NHW")
    with pytest.warns(DataWarning):
        assert load_images(tmp_path / "a.npy", data_range=(0, 1), clip=True, layout="NHW").min() == 0
    np.save(tmp_path / "a.npy", np.where(np.arange(192).reshape(3, 8, 8) == 5, np.nan, 0.5))
    assert "NaN" in refusal(tmp_path / "a.npy", clip=True, layout="NHW")


@pytest.mark.parametrize("kind", ["npy", "npz", "idx", "idx.gz"])
def test_of_a_large_array_only_the_wanted_rows_take_memory(tmp_path: Path, kind: str) -> None:
    path, stored = tmp_path / f"a.{kind}", np.zeros((1000, 256, 256), np.uint8)
    stored[:] = np.arange(1000)[:, None, None] % 251
    if kind == "npy":
        np.save(path, stored)
    elif kind == "npz":
        np.savez_compressed(path, stored)
    else:
        path.write_bytes(gzip.compress(idx_bytes(stored)) if kind == "idx.gz" else idx_bytes(stored))
    tracemalloc.start()
    x, peak = load_images(path, n=5, seed=2), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    chosen = torch.randperm(1000, generator=torch.Generator().manual_seed(2))[:5].sort().values
    assert torch.equal(x, (chosen % 251).to(torch.uint8)[:, None, None, None].expand(5, 1, 256, 256))
    assert peak < 6 * 2**20  # of 66 MB


@pytest.mark.parametrize("kind", ["npy", "npz", "idx", "idx.gz"])
def test_the_shape_is_checked_before_the_values_are_read(tmp_path: Path, kind: str) -> None:
    path, shape = tmp_path / f"a.{kind}", (2**10, 2**8, 2**8)
    if kind == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", forged_npy((6, 9, 7), GREY.tobytes()))
        shape = GREY.shape
    elif kind == "npy":
        path.write_bytes(forged_npy(shape, bytes(2**26)))
    else:
        content = struct.pack(">BBBB3I", 0, 0, 8, 3, *shape) + bytes(2**26)
        path.write_bytes(gzip.compress(content, 1) if kind == "idx.gz" else content)
    shapes = []

    def check(shape: tuple[int, ...]) -> None:
        shapes.append(shape)
        raise PrescoreError("another shape is needed")

    tracemalloc.start()
    assert refusal(path, check=check) == "another shape is needed"
    assert refusal(path, check=check, n=5, pad=300) == "another shape is needed"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shapes == [(shape[0], 1, *shape[1:]), (5, 1, 300, 300)]
    assert peak < 2**20


def npy_with(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 10, 10",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -10, 10)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"1, " * 300 + b")}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 4000 + b", 8, 8)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b", 8, 8)}",
        b"{'descr': (), 'fortran_order': False, 'shape': (1, 10, 10)}",
        b"{'descr': [('\x1b[31m', '<f4', 3)], 'fortran_order': False, 'shape': (1, 10, 10)}",
        b"(" * 9000,
        b"[" * 500 + b"]" * 500,
        b"'" + b"x" * 3000,
        b"\xff\0\n",
    ],
)
def test_forged_headers_are_one_line(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(npy_with(header))
    assert "a.npy: " in refusal(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", npy_with(header))
    assert "a.npz[images]: " in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("axes", [[], [2**32 - 1] * 255, [2**32 - 1] * 4, [2**31, 1, 8], [1, 2**32 - 1, 2**32 - 1]])
@pytest.mark.parametrize("is_zipped", [False, True])
def test_huge_axes_of_an_idx_file_are_refused_at_once(tmp_path: Path, axes: list[int], is_zipped: bool) -> None:
    content = struct.pack(f">BBBB{len(axes)}I", 0, 0, 8, len(axes), *axes) + bytes(100)
    (tmp_path / "a.idx").write_bytes(gzip.compress(content) if is_zipped else content)
    for n in (None, 2):
        tracemalloc.start()
        message, peak = refusal(tmp_path / "a.idx", n=n), tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "a.idx: " in message
        assert peak < 2**20


def test_names_of_arrays_reach_the_terminal_spelled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"\x1b[31mred": GREY, "x" * 5000: GREY})
    assert "\\x1b[31mred" in refusal(tmp_path / "a.npz")
    assert "\\x1b[31mred" in refusal(tmp_path / "a.npz", key="\x1b[2J")


def test_half_of_the_memory_is_not_exceeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", GREY)
    monkeypatch.setattr("prescore.data.guards.memory", lambda: 2 * GREY.nbytes - 2)
    assert "are allowed" in refusal(tmp_path / "a.npy")
    assert load_images(tmp_path / "a.npy", n=5).shape == (5, 1, 9, 7)
    assert "are allowed" in refusal(tmp_path / "a.npy", n=5, pad=10)


def forged_npy(shape: tuple[int, ...], content: bytes) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize("size", [2**20, 2**32, 2**50])
@pytest.mark.parametrize("kind", ["npy", "npz", "idx", "idx.gz"])
def test_a_header_that_lies_about_the_size_takes_no_memory(tmp_path: Path, kind: str, size: int) -> None:
    path, shape = tmp_path / f"a.{kind}", (size // 2**16, 2**8, 2**8)
    if kind == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", forged_npy(shape, b"few"))
    elif kind == "npy":
        path.write_bytes(forged_npy(shape, b"few"))
    else:
        content = struct.pack(">BBBB4I", 0, 0, 8, 4, shape[0] // 16, 16, *shape[1:]) + b"few"
        path.write_bytes(gzip.compress(content) if kind == "idx.gz" else content)
    tracemalloc.start()
    message, peak = refusal(path), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in message
    assert peak < 2**26


@pytest.mark.parametrize("kind", ["npy", "npz", "idx", "idx.gz", "zip"])
def test_damage_anywhere_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(folder_of(tmp_path / "f", GREY) / "0.png", "0.png")
    elif kind in ("npy", "npz"):
        np.save(path, GREY) if kind == "npy" else np.savez_compressed(path, images=GREY)
    else:
        path.write_bytes(gzip.compress(idx_bytes(GREY)) if kind == "idx.gz" else idx_bytes(GREY))
    whole = path.read_bytes()
    load_images(path)
    for length in range(0, len(whole) - 1, max(1, len(whole) // 23)):
        path.write_bytes(whole[:length])
        assert str(path) in refusal(path)


@pytest.mark.parametrize("kind", ["npy", "idx", "idx.gz"])
def test_more_than_the_header_promises_is_damage_too(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    content = idx_bytes(GREY) + b"x"
    if kind == "npy":
        content = forged_npy(GREY.shape, GREY.tobytes() + b"x")
    path.write_bytes(gzip.compress(content) if kind == "idx.gz" else content)
    assert "damaged" in refusal(path)


def test_flipped_bytes_are_read_or_refused(tmp_path: Path) -> None:
    """Whatever the byte, the outcome is a tensor or one line, never another exception."""
    rng, path = np.random.default_rng(0), tmp_path / "a.npz"
    np.savez(path, images=GREY)
    whole = path.read_bytes()
    outcomes = set()
    for place in rng.integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            outcomes.add(load_images(path).shape == (6, 1, 9, 7))
        except PrescoreError:
            outcomes.add("refused")
    assert outcomes == {True, "refused"}


def test_more_bytes_than_allowed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prescore.data.guards.MAX_BYTES", 100)
    folder = folder_of(tmp_path / "f", GREY)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(folder / "0.png", "0.png")
        archive.write(folder / "0.png", "1.png")
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((6, 9, 7), np.uint8))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(GREY)))
    for path in (tmp_path / "a.zip", tmp_path / "a.npz", tmp_path / "a.gz", folder):
        assert "are allowed" in refusal(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder_of(tmp_path / "f", GREY) / "0.png", "0.png")
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag in the local header and, below, in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "0.png" in refusal(path)


def test_without_pillow_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "f", GREY)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "pip install '.[cli]' in the clone" in refusal(folder)
