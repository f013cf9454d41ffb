"""Pictures: their pixels, depth, orientation and number are those of the files, and what is not read is named."""

import contextlib
import io
import os
import signal
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import pyvips
import torch
from pictures import png16, png_chunk, tiff
from PIL import Image, ImageOps

from prescore.data import DataWarning, left_out, load_images
from prescore.data.pictures import FORMATS
from prescore.errors import PrescoreError

GREY = np.random.default_rng(0).integers(0, 256, (6, 9, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 9, 7, 3), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(1000, 1256, (9, 7, 4), dtype=np.uint16)
QUARTERS = np.kron(np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [240, 240, 240]]]), np.ones((20, 12, 1)))
# Formats that Pillow has an ending for, and that are not read: it runs another program for them (EPS), has no decoder,
# cuts them to 8 bits in silence, loses their palette or will drop them, or they are films, brushes and textures.
OTHERS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "DDS", "FITS", "IM", "ICNS"}
OTHERS |= {"BLP", "CUR", "DCX", "FLI", "FTEX", "GBR", "IPTC", "PCD", "PIXAR", "SPIDER"}


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(PrescoreError) as caught:
        load_images(path, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


def noted(path: Path, **options: object) -> tuple[torch.Tensor, list[str]]:
    """What was read, and what was said about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = load_images(path, **options)
    assert all(note.category is DataWarning and note.filename == __file__ for note in caught)
    return images, [str(note.message) for note in caught]


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def only(path: Path, name: str, content: bytes) -> Path:
    path.mkdir(exist_ok=True)
    (path / name).write_bytes(content)
    return path


def turning(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@contextmanager
def no_waiting(seconds: int = 20) -> Iterator[None]:
    """Ends what would wait for ever."""

    def fail(*_: object) -> None:
        raise AssertionError(f"still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "TIFF, compressed", "PNG 16", "TIFF 16"])
def test_pictures_are_turned_as_they_say(tmp_path: Path, kind: str, orientation: int) -> None:
    pixels = QUARTERS.astype(np.uint8)
    name = kind.partition(",")[0]
    if name == "TIFF":
        options = {"compression": "tiff_lzw"} if "," in kind else {}
        content = encoded(pixels, name, tiffinfo={0x0112: orientation}, **options)
    elif kind == "PNG 16":
        content = png16(pixels.astype(np.uint16) * 257, after=png_chunk(b"eXIf", turning(orientation).tobytes()[6:]))
    elif kind == "TIFF 16":
        content = tiff(pixels.astype(np.uint16) * 257, orientation=orientation)
    else:
        content = encoded(pixels, name, exif=turning(orientation), **({} if name == "PNG" else {"quality": 95}))
    x = load_images(only(tmp_path, "a." + name[:4].strip().lower(), content))[0]
    found = x.double() * (255 if x.is_floating_point() else 1)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(pixels, "PNG", exif=turning(orientation)))))
    wanted = torch.from_numpy(np.array(turned)).movedim(-1, 0).double()
    assert found.shape == wanted.shape
    assert (found - wanted).abs().mean() < 12  # of what the lossy ones change; another turn changes more than 100


@pytest.mark.parametrize("exif", [b"Exif\0\0nothing", b"Exif\0\0II*\0\xff\xff\xff\xff", turning(77).tobytes()])
def test_damaged_exif_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    pixels = QUARTERS.astype(np.uint8)
    plain = load_images(only(tmp_path / "a", "a.jpg", encoded(pixels, "JPEG")))
    assert torch.equal(load_images(only(tmp_path / "b", "a.jpg", encoded(pixels, "JPEG", exif=exif))), plain)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["PNG", "TIFF, little-endian", "TIFF, big-endian", "TIFF, planes"])
def test_16_bits_are_kept(tmp_path: Path, kind: str, channels: int) -> None:
    pixels = DEEP[..., :channels].copy()
    if channels in (2, 4):
        pixels[..., -1] = 65535  # opaque
    order = ">" if "big" in kind else "<"
    extra = 2 if channels in (2, 4) else None
    if kind == "PNG":
        path = only(tmp_path, "a.png", png16(pixels))
    else:
        path = only(tmp_path, "a.tif", tiff(pixels, order, extra=extra, planes=2 if "planes" in kind else 1))
    if "planes" in kind and channels == 2:
        assert "grey and opacity in separate planes" in refusal(path)
        return
    colours = pixels[..., : 1 if channels < 3 else 3]
    for low, high in ((0.0, 1.0), (-1.0, 3.0)):
        wanted = (low + (high - low) * (colours / 65535)).astype(np.float32)
        x = load_images(path, data_range=(low, high))
        assert x.dtype == torch.float32
        assert torch.equal(x[0], torch.from_numpy(wanted).movedim(-1, 0))


def test_16_bits_whose_white_is_0(tmp_path: Path) -> None:
    x = load_images(only(tmp_path, "a.tif", tiff(DEEP[..., :1], photometric=0)))
    assert torch.equal(x[0, 0], torch.from_numpy((65535 - DEEP[..., 0]) / np.float32(65535)))


def test_one_deep_picture_makes_all_of_them_floats(tmp_path: Path) -> None:
    only(tmp_path, "a.png", encoded(GREY[0], "PNG"))
    x = load_images(only(tmp_path, "b.png", png16(DEEP[..., :3])), data_range=(-1, 1))
    assert x.shape == (2, 3, 9, 7)
    assert torch.allclose(x[0], torch.from_numpy(GREY[0] / 127.5 - 1).float().expand(3, 9, 7))
    assert torch.allclose(x[1], torch.from_numpy(DEEP[..., :3] / 32767.5 - 1).float().movedim(-1, 0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floating_point_pictures_keep_their_units(tmp_path: Path, channels: int, order: str) -> None:
    heights = np.random.default_rng(0).uniform(-300, 900, (9, 7, channels)).astype(np.float32)
    path = only(tmp_path, "a.tif", tiff(heights, order))
    assert torch.equal(load_images(path, data_range=(-300, 900))[0], torch.from_numpy(heights).movedim(-1, 0))
    assert "outside [0, 1]" in refusal(path)


def deeper_pictures() -> dict[str, bytes]:
    grey, high = DEEP[..., 0], np.random.default_rng(0).integers(0, 65536, (9, 7, 3)).astype(">u2").tobytes()
    sgi = bytearray(encoded(COLOUR[0], "SGI")[:512]) + high
    sgi[3] = 2  # bytes a channel
    jpeg2000 = bytearray(encoded(COLOUR[0], "JPEG2000"))
    jpeg2000[jpeg2000.index(b"\xff\x4f\xff\x51") + 42] = 11  # 12 bits
    deep = pyvips.Image.new_from_array(DEEP[..., :3]).copy(interpretation="rgb16")
    return {
        "16 bits.ppm": b"P6 7 9 65535\n" + high,
        "10 bits.ppm": b"P6 7 9 1023\n" + high,
        "16 bits.pgm": b"P5 7 9 65535\n" + grey.astype(">u2").tobytes(),
        "float.pfm": b"Pf 7 9 -1\n" + grey.astype("<f4").tobytes(),
        "16 bits.sgi": bytes(sgi),
        "16 bits, grey.jp2": encoded(grey, "JPEG2000"),
        "12 bits.jp2": bytes(jpeg2000),
        "10 bits.avif": deep.heifsave_buffer(compression="av1", bitdepth=10),
        "12 bits.avif": deep.heifsave_buffer(compression="av1", bitdepth=12),
        "signed.tif": tiff(grey[..., None].astype(np.int16)),
        "32 bits.tif": tiff(DEEP.astype(np.uint32)),
        "12 bits.tif": tiff(grey[..., None], bits=12),
        "cmyk.tif": tiff(DEEP, photometric=5),
        "five channels.tif": tiff(np.concatenate([DEEP, DEEP], axis=-1)[..., :5], extra=0),
    }


@pytest.mark.parametrize("name", deeper_pictures())
def test_what_cannot_be_read_in_its_depth_is_refused(tmp_path: Path, name: str) -> None:
    message = refusal(only(tmp_path, name, deeper_pictures()[name]))
    assert name in message
    assert "bits a channel" in message or "cannot be read" in message


def test_without_pyvips_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvips", None)
    for name, content in (("a.png", png16(DEEP[..., :3])), ("a.tif", tiff(DEEP[..., :3]))):
        message = refusal(only(tmp_path / name, name, content))
        assert "pip install '.[cli]' in the clone" in message
        assert "pyvips" in message


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_truncated_deep_pictures_are_named(tmp_path: Path, kind: str) -> None:
    whole = png16(DEEP[..., :3]) if kind == "PNG" else tiff(DEEP[..., :3])
    for length in (40, 100, len(whole) // 2, len(whole) - 13):
        assert "a.tif" in refusal(only(tmp_path, "a.tif", whole[:length]))


def test_every_ending_that_pillow_knows_is_read_or_left_out_for_a_reason() -> None:
    Image.init()
    known = set(Image.registered_extensions().values()) - OTHERS
    assert known == FORMATS.keys()
    for kind in FORMATS:
        endings = {ending for ending, of in Image.registered_extensions().items() if of == kind}
        assert endings == set(FORMATS[kind].split())


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("PSD", "SUN", "XPM", "JPEG2000", "AVIF")])
def test_every_format_is_read(tmp_path: Path, kind: str) -> None:
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "MPO": {"quality": 95}}.get(kind, {})
    pixels = np.kron(GREY[0] > 128, np.ones((8, 8), bool)) if kind in ("XBM", "MSP") else QUARTERS.astype(np.uint8)
    pixels = np.array(Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST))
    content = encoded(pixels, kind, **lossless)
    for k, ending in enumerate(FORMATS[kind].split()):
        only(tmp_path, f"{k}{ending.upper() if k else ending}", content)
    x, notes = noted(tmp_path)
    assert len(x) == k + 1
    assert not notes
    wanted = np.broadcast_to(pixels[..., None] * 255 if pixels.ndim == 2 else pixels, (64, 64, len(x[0])))
    assert np.abs(x[-1].movedim(0, -1).numpy() - wanted.astype(float)).mean() < 6


def test_the_content_decides_and_no_program_is_run_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was run"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was run"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert "not an image" in refusal(only(tmp_path, "a.png", eps))
    assert load_images(only(tmp_path, "a.png", encoded(COLOUR[0], "BMP"))).shape == (1, 3, 9, 7)


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    for k, name in enumerate(["a.png", "b.jfif", "c.JPE", "sub/d.png"]):
        only(tmp_path / Path(name).parent, Path(name).name, encoded(COLOUR[k], "JPEG" if k in (1, 2) else "PNG"))
    for name in ("settings.json", ".DS_Store", "._a.png"):  # of `prescore sample`, and hidden
        only(tmp_path, name, b"{}")
    assert noted(tmp_path)[1] == []
    assert left_out(tmp_path) == []
    for name in ("x.heic", "y.npy", "z.txt"):
        only(tmp_path / "sub", name, b"")
    x, (note,) = noted(tmp_path)
    assert len(x) == 4
    assert left_out(tmp_path) == ["sub/x.heic", "sub/y.npy", "sub/z.txt"]
    assert "3 of 7 files left out" in note
    assert "sub/x.heic, sub/y.npy, sub/z.txt" in note
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("./a.png", encoded(COLOUR[0], "PNG"))
        archive.writestr("b.heic", b"")
        archive.mkdir("folder.png")
    assert left_out(tmp_path / "a.zip") == ["b.heic"]
    assert (
        "1 of 2 files left out (in no format that is read, or there twice): b.heic" in noted(tmp_path / "a.zip")[1][0]
    )
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("./a.png", encoded(COLOUR[1], "PNG"))
    assert torch.equal(noted(tmp_path / "a.zip")[0][0], torch.from_numpy(COLOUR[1]).movedim(-1, 0))
    assert left_out(tmp_path / "a.zip") == ["b.heic", "./a.png"]
    assert "there is b.heic" in refusal(only(tmp_path / "none", "b.heic", b""))


def test_many_names_are_cut(tmp_path: Path) -> None:
    only(tmp_path, "a.png", encoded(COLOUR[0], "PNG"))
    for k in range(50):
        only(tmp_path, f"{'x' * 150}{k:02}\n.txt", b"")
    (note,) = noted(tmp_path)[1]
    assert "50 of 51 files" in note
    assert "and 45 more" in note
    assert note.isprintable()
    assert len(note) < 600


def test_links_are_followed_and_end(tmp_path: Path) -> None:
    elsewhere = only(tmp_path / "elsewhere", "a.png", encoded(COLOUR[0], "PNG"))
    data = only(tmp_path / "data", "b.png", encoded(COLOUR[1], "PNG"))
    (data / "linked").symlink_to(elsewhere)
    (data / "c.png").symlink_to(elsewhere / "a.png")
    assert len(load_images(data)) == 3
    (elsewhere / "up").symlink_to(data)
    (data / "twice").symlink_to(elsewhere)
    (data / "itself").symlink_to(data / "itself")
    x, (note,) = noted(data)
    assert len(x) == 3
    assert left_out(data) == ["itself", "linked/up/", "twice/"]
    assert "itself, linked/up/, twice/" in note
    (data / "d.png").symlink_to(data / "d.png")
    assert "d.png: cannot be read (Too many levels of symbolic links)" in refusal(data)
    (data / "d.png").unlink()
    (data / "d.png").symlink_to(data / "missing")
    assert "d.png: no such file" in refusal(data)


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    only(tmp_path, "a.png", encoded(COLOUR[0], "PNG"))
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "b.png")
    with no_waiting():
        assert "b.png: not a regular file" in refusal(tmp_path)
        for name in ("pipe.npz", "pipe.npy", "pipe.zip", "pipe.idx"):
            os.mkfifo(tmp_path / name)
            assert f"{name}: not a regular file" in refusal(tmp_path / name)
        assert "not a regular file" in refusal(Path("/dev/zero"))
        (tmp_path / "b.png").unlink()
        x, (note,) = noted(tmp_path)
    assert len(x) == 1
    assert "pipe" in note


def test_transparent_pixels_stand_before_the_background(tmp_path: Path) -> None:
    opacity = np.arange(63, dtype=np.uint8).reshape(9, 7, 1) * 4
    path = only(tmp_path, "a.png", encoded(np.concatenate([COLOUR[0], opacity], axis=-1), "PNG"))
    assert "--background" in refusal(path)
    share = opacity / 255
    for name, behind in {"white": [255] * 3, "black": [0] * 3, "#ff8001": [255, 128, 1]}.items():
        wanted = np.rint(share * COLOUR[0] + (1 - share) * np.array(behind)).astype(np.uint8)
        assert torch.equal(load_images(path, background=name)[0], torch.from_numpy(wanted).movedim(-1, 0))
    for wrong in ("", "whiter", "#ff", "#ffffff80", "rgba(0, 0, 0, 0)", "x" * 1000):
        assert "background" in refusal(path, background=wrong)


def test_grey_stays_grey_before_grey(tmp_path: Path) -> None:
    half = np.full((9, 7), 128, np.uint8)
    path = only(tmp_path, "a.png", encoded(np.stack([GREY[0], half], axis=-1), "PNG"))
    wanted = torch.from_numpy(np.rint(GREY[0] * (128 / 255) + 127).astype(np.uint8))
    assert torch.equal(load_images(path, background="white"), wanted[None, None])
    red = load_images(path, background="red")
    assert torch.equal(red[0, 0], wanted)
    assert torch.equal(red[0, 1], red[0, 2])
    assert red[0, 1].max() <= 128


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, multiplied"])
def test_transparent_pixels_of_16_bits(tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 7, 4), dtype=np.uint16)
    stored = pixels.copy()
    if "multiplied" in kind:
        pixels[..., 3] = stored[..., 3] = 32768
        stored[..., :3] = pixels[..., :3] // 2
    extra = 1 if "multiplied" in kind else 2
    path = only(tmp_path, "a.png", png16(stored) if kind == "PNG" else tiff(stored, extra=extra))
    assert "transparent" in refusal(path)
    share = pixels[..., 3:] / 65535
    wanted = share * pixels[..., :3] / 65535 + 1 - share
    x = load_images(path, background="white")
    assert np.allclose(x[0].movedim(0, -1).numpy(), wanted, rtol=0, atol=2 / 65535)


def test_grey_of_8_bits_that_is_multiplied_by_its_opacity(tmp_path: Path) -> None:
    pixels = np.stack([GREY[0] // 2, np.full_like(GREY[0], 128)], axis=-1)
    x = load_images(only(tmp_path, "a.tif", tiff(pixels, extra=1)), background="black")
    assert x.dtype == torch.uint8
    assert np.allclose(x[0, 0].numpy(), pixels[..., 0], rtol=0, atol=1)


def test_more_frames_are_named(tmp_path: Path) -> None:
    frames = [Image.fromarray(image) for image in COLOUR]
    for kind in ("gif", "webp", "tif", "png"):
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
        frames[0].save(tmp_path / f"b.{kind}")
    x, (note,) = noted(tmp_path)
    assert len(x) == 8
    assert note.endswith("only the first frame is read of a.gif, a.png, a.tif, a.webp")


def test_a_file_that_is_too_large_for_its_pixels_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("a.tif", encoded(COLOUR[0], "TIFF")), ("a.png", png16(DEEP[..., :3]))):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content + bytes(2**26 + 2**14))
        assert f"{name}: 0.06" in refusal(tmp_path / f"{name}.zip")
    monkeypatch.setattr("prescore.data.pictures.MAX_FILE", 100)
    assert "for one picture" in refusal(only(tmp_path / "f", "a.png", encoded(COLOUR[0], "PNG")))


def whole_pictures() -> Iterator[tuple[str, bytes]]:
    for kind in FORMATS:
        for mode in ("RGB", "RGBA", "L", "P", "1"):
            buffer = io.BytesIO()
            with contextlib.suppress(OSError, KeyError, ValueError):  # of modes that a format does not have
                Image.fromarray(COLOUR[0]).resize((16, 16)).convert(mode).save(buffer, kind)
                yield f"{kind} {mode}", buffer.getvalue()
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        yield compression, encoded(COLOUR[0], "TIFF", compression=compression)
    yield "PNG of 16 bits", png16(DEEP)
    yield "TIFF of 16 bits", tiff(DEEP, extra=1)


@pytest.mark.filterwarnings("ignore::prescore.data.DataWarning")
@pytest.mark.parametrize("whole", [pytest.param(whole, id=name) for name, whole in whole_pictures()])
def test_damage_anywhere_is_read_or_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2**21)
    rng, messages = np.random.default_rng(0), []
    load_images(only(tmp_path, "a.png", whole), background="white")
    for k in range(30):
        damaged = bytearray(whole[: rng.integers(len(whole))] if k % 3 == 0 else whole)
        for place in rng.integers(0, min(len(damaged), 200), 2) if damaged else ():
            damaged[place] ^= int(rng.integers(1, 256))
        try:
            assert load_images(only(tmp_path, "a.png", damaged), background="white").ndim == 4
        except PrescoreError as error:
            messages.append(str(error))
    assert messages
    for message in messages:
        assert message.startswith(f"{tmp_path}/a.png: ")
        assert message.isprintable()
        assert len(message) < 1000


def test_the_shape_is_checked_before_the_others_are_opened(tmp_path: Path) -> None:
    shapes = []

    def check(shape: tuple[int, ...]) -> None:
        shapes.append(shape)
        raise PrescoreError("another shape is needed")

    only(tmp_path, "a.png", encoded(COLOUR[0], "PNG"))
    for k in range(20):
        only(tmp_path, f"b{k}.png", b"damaged")
    assert refusal(tmp_path, check=check) == "another shape is needed"
    assert refusal(tmp_path, check=check, fit=(5, 4)) == "another shape is needed"
    assert shapes == [(21, 3, 9, 7), (21, 3, 5, 4)]


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder that everybody may use, as somebody whom permissions bind."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


def test_folders_that_may_not_be_entered_are_named() -> None:
    with as_nobody() as folder:
        only(folder, "a.png", encoded(COLOUR[0], "PNG"))
        locked = only(folder / "locked", "b.png", encoded(COLOUR[0], "PNG"))
        for mode in (0o000, 0o600):  # 600: its names can be read, and nothing behind them
            locked.chmod(mode)
            assert "Permission denied" in refusal(folder)
            for path in (locked, locked / "b.png", locked / "c.npz", locked / "d.zip"):
                assert str(path) in (message := refusal(path))
                assert "Permission denied" in message
        locked.chmod(0o700)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b", "a\nb\x1b[31m", os.fsdecode(b"\xff\xfe")])
def test_impossible_names_are_one_line(tmp_path: Path, name: str) -> None:
    for suffix in ("", ".npz", ".zip"):
        refusal(tmp_path / f"{name}{suffix}")


def test_names_that_are_no_text_are_read(tmp_path: Path) -> None:
    only(tmp_path, os.fsdecode(b"\xff\xfe.png"), encoded(COLOUR[0], "PNG"))
    assert len(load_images(tmp_path)) == 1
    only(tmp_path, os.fsdecode(b"\xff\x1b[31m.png"), b"damaged")
    assert "\\udcff\\x1b[31m.png" in refusal(tmp_path)
