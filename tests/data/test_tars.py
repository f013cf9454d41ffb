"""Tars in the layout of WebDataset: what `prescore sample` writes, and what is refused."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from prescore.data import DataWarning, load_images, open_images
from prescore.errors import PrescoreError
from prescore.output.shards import INDEX, Shards
from prescore.processes import Processes

ALONE = Processes(torch.device("cpu"))
FIRST = "000000000-000000003.tar"


def images_of(seeds: list[int], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    x = torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return (255 * x).to(torch.uint8) if dtype == torch.uint8 else x


def fill(folder: Path, seeds: list[int], shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> list[int]:
    """Draws what is missing, and returns its seeds."""
    shards = Shards(folder, seeds, {"model": "a"}, 4, dtype != torch.uint8, "webdataset")
    present, drawn = shards.present(), []
    for unit in shards.units(3):
        for batch in unit:
            new = [seed for seed in batch if seed not in present]
            if new:
                shards.add(new, images_of(new, shape, dtype))
            drawn += new
    shards.finish(ALONE)
    return drawn


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


KINDS = [((1, 5, 7), torch.uint8), ((3, 4, 6), torch.uint8), ((2, 4, 6), torch.uint8)]
KINDS += [((3, 4, 6), torch.float32), ((5,), torch.float32), ((2, 9), torch.float32)]


@pytest.mark.parametrize(("shape", "dtype"), KINDS)
def test_what_is_written_is_read_back_and_grows(tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    fill(tmp_path / "whole", list(range(10)), shape, dtype)
    assert fill(tmp_path / "parts", [1, 2, 9], shape, dtype) == [1, 2, 9]
    assert fill(tmp_path / "parts", list(range(10)), shape, dtype) == [0, 3, 4, 5, 6, 7, 8]
    assert fill(tmp_path / "parts", list(range(10)), shape, dtype) == []
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    expected = images_of(list(range(10)), shape, dtype)
    assert torch.equal(load_images(tmp_path / "whole"), expected)
    assert torch.equal(load_images(tmp_path / "whole" / FIRST), expected[:4])
    assert torch.equal(
        load_images(tmp_path / "whole", n=5, seed=1),
        torch.cat(list(open_images([tmp_path / "whole"], n=5, seed=1).batches(2))),
    )
    with tarfile.open(tmp_path / "whole" / FIRST) as archive:
        ending = "png" if dtype == torch.uint8 and shape[0] != 2 else "npy"
        assert archive.getnames() == [f"00000000{k}.{e}" for k in range(4) for e in (ending, "json")]
        known = json.load(archive.extractfile("000000002.json"))  # type: ignore[arg-type]
        assert known["seed"] == 2


def test_a_folder_of_one_form_is_not_gone_on_with_in_the_other(tmp_path: Path) -> None:
    fill(tmp_path, [0, 1], (1, 2, 2))
    with pytest.raises(PrescoreError, match="shard_format = webdataset, now it is not given"):
        Shards(tmp_path, [0, 1], {"model": "a"}, 4)
    with pytest.raises(PrescoreError, match="shard_format: unknown value 'tar'; known: npz, webdataset"):
        Shards(tmp_path, [0, 1], {"model": "a"}, 4, kind="tar")


def test_the_package_webdataset_reads_the_same(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    fill(tmp_path / "p", list(range(6)), (3, 4, 6))
    fill(tmp_path / "n", list(range(6)), (2, 9), torch.float32)
    for folder, ending, dtype in (("p", "png", torch.uint8), ("n", "npy", torch.float32)):
        names = [str(file) for file in sorted((tmp_path / folder).glob("*.tar"))]
        read = webdataset.WebDataset(names, shardshuffle=False, empty_check=False).decode("rgb8")
        samples = list(read)
        assert [sample["__key__"] for sample in samples] == [f"00000000{k}" for k in range(6)]
        assert [sample["json"]["seed"] for sample in samples] == list(range(6))
        x = torch.from_numpy(np.stack([np.asarray(sample[ending]) for sample in samples]))
        own = load_images(tmp_path / folder)
        assert own.dtype == dtype
        assert torch.equal(x.movedim(-1, 1) if folder == "p" else x, own)


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def numbers(values: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def link(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("a.npy")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([(link(tarfile.SYMTYPE), b"")], "a.npy is no regular file; links and the like are not read"),
        ([(link(tarfile.LNKTYPE), b"")], "no regular file"),
        ([(link(tarfile.FIFOTYPE), b"")], "no regular file"),
        ([(tarfile.TarInfo("../a.npy"), b"")], "leads out of the archive"),
        ([(tarfile.TarInfo("/a.npy"), b"")], "leads out of the archive"),
        (
            [(tarfile.TarInfo("a.npy"), numbers([1.0])), (tarfile.TarInfo("b.npy"), numbers([1.0, 2.0]))],
            "b.npy: float64",
        ),
        ([(tarfile.TarInfo("a.npy"), numbers(["x"]))], "values; uint8, or floating point"),
        ([(tarfile.TarInfo("a.npy"), numbers([1.0])[:-3])], "damaged, its header promises 8 bytes and 5 are there"),
        ([(tarfile.TarInfo("a.npy"), numbers([1.0])), (tarfile.TarInfo("a.json"), b"{")], "cannot be read"),
        ([(tarfile.TarInfo("a.npy"), numbers([1.0])), (tarfile.TarInfo("a.json"), b"[]")], "no JSON object"),
        ([(tarfile.TarInfo("a.txt"), b"text")], "no images in it"),
        ([], "no images in it"),
    ],
)
def test_what_is_refused(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], message: str) -> None:
    path = tar(tmp_path / "x.tar", *members)
    with pytest.raises(PrescoreError, match=message) as raised:
        load_images(path)
    assert "\n" not in str(raised.value)
    assert "x.tar" in str(raised.value)


def test_damage_is_one_line(tmp_path: Path) -> None:
    fill(tmp_path, list(range(4)), (1, 5, 7))
    (tmp_path / INDEX).unlink()
    file = tmp_path / FIRST
    whole = file.read_bytes()
    for cut in (b"", whole[:700], whole[:3000], whole[: len(whole) // 2], b"\xff" * 5000):
        file.write_bytes(cut)
        with pytest.raises(PrescoreError, match=r"000000000-000000003\.tar") as raised:
            load_images(file)
        assert "\n" not in str(raised.value)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        middle = archive.getmember("000000001.png").offset
    file.write_bytes(whole[:middle] + b"\xff" * 512 + whole[middle + 512 :])
    with pytest.raises(PrescoreError, match="damaged, or cut off, after 2 files"):
        load_images(file)


def test_tars_of_others(tmp_path: Path) -> None:
    """Pictures with captions; what belongs to no picture is named, and what is there twice counts once."""
    from prescore.images import as_png

    png = as_png(torch.zeros(3, 2, 2, dtype=torch.uint8))
    names = ["d/a.png", "d/a.txt", "d/a.json", "d/b.PNG", "d/c.txt", "d/b.PNG"]
    path = tar(tmp_path / "x.tar", *((tarfile.TarInfo(name), png if name[-1] in "gG" else b"{}") for name in names))
    with pytest.warns(DataWarning, match=r"2 of 4 files left out .*d/c.txt, d/b.PNG"):
        assert load_images(path).shape == (2, 3, 2, 2)


def test_a_sample_counts_once_and_what_belongs_to_none_is_named(tmp_path: Path) -> None:
    picture = b"not opened"
    path = tar(tmp_path / "x.tar", *((tarfile.TarInfo(name), picture) for name in ("d/0.png", "d/1.png", "d/1.jpg")))
    with pytest.raises(PrescoreError, match=r"x\.tar: d/1\.jpg and d/1\.png are of one sample"):
        open_images([path])
    array = numbers(np.zeros((4, 4, 1), np.float32))
    path = tar(tmp_path / "y.tar", *((tarfile.TarInfo(name), array) for name in ("0.npy", "0.cls", "1.txt", "2.npy")))
    with pytest.warns(DataWarning, match=r"y\.tar: left out, being of none of its samples: 1\.txt$"):
        assert load_images(path, layout="NHWC").shape == (2, 1, 4, 4)


@pytest.mark.parametrize("cut", [0, 700, 3000])
def test_a_damaged_tar_is_named_in_its_folder(tmp_path: Path, cut: int) -> None:
    for dtype in (torch.uint8, torch.float32):
        folder = tmp_path / str(dtype)
        fill(folder, list(range(8)), (3, 8, 8), dtype)
        second = folder / "000000004-000000007.tar"
        second.write_bytes(second.read_bytes()[:cut])
        with pytest.raises(PrescoreError, match=r"000000004-000000007\.tar: (is empty|cannot be read|.* are there)"):
            load_images(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("0.png", b"x"), ("1.npy", None)], r"pictures \(0.png\) beside .npy files"),
        ([("0.npy", None), ("0.npy", None)], "0.npy is in it more than once"),
        ([("0.a.npy", None), ("1.npy", None), ("0.b.npy", None)], "0.a.npy and 0.b.npy are of one sample"),
        (
            [("0.npy", None), ("0.json", b'{"layout": "NHWC"}'), ("1.npy", None), ("1.json", b'{"layout": "NWHC"}')],
            "its layout is 'NWHC', that of the first of the tar 'NHWC'",
        ),
    ],
)
def test_a_tar_of_arrays_that_are_not_alike_is_refused(tmp_path, files, message):
    array = io.BytesIO()
    np.save(array, np.zeros((4, 4, 1), np.float32))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in files:
            content = array.getvalue() if content is None else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(PrescoreError, match=message):
        load_images(tmp_path / "x.tar")
