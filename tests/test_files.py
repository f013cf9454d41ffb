"""Files that appear whole or not at all, whatever stands at their path, and folders that one process has for itself."""

import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from prescore.errors import PrescoreError
from prescore.files import check_writable, held, named_in_text, sweep, write_atomically, write_once


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("given", ["pipe", "link"])
def test_what_is_no_file_is_written_into_and_stays(tmp_path: Path, given: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    check_writable(tmp_path / given)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_atomically(tmp_path / given, b"content")
    reader.join()
    assert read == [b"content"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path) == ["link", "pipe"]


def test_a_file_whose_name_is_no_text_has_one_that_is(tmp_path: Path) -> None:
    for name in (b"name", b"na\xffme"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(b"content")
        with named_in_text(path) as text:
            assert Path(text.encode().decode()).read_bytes() == b"content"


def test_a_device_that_is_full_is_one_line() -> None:
    with pytest.raises(PrescoreError, match=r"^/dev/full: cannot be written \(No space left on device\)$"):
        write_atomically("/dev/full", b"content")


@pytest.mark.parametrize("write", [check_writable, lambda path: write_atomically(path, b"")])
def test_what_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        before = names(tmp_path)
        for path in ("loop", "loop/a", "folder", "socket", "none/a", "file/a", "n" * 300, "/".join(["d" * 200] * 30)):
            with pytest.raises(PrescoreError, match=r": (cannot be written|is a (folder|socket))") as refusal:
                write(Path(path))
            assert str(refusal.value).startswith(path[:400])  # the middle of a very long one is left out
        assert names(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search every folder")
def test_a_folder_that_may_not_be_searched(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    for write in (check_writable, lambda path: write_atomically(path, b"")):
        with pytest.raises(PrescoreError, match=r"locked/a: cannot be written \(Permission denied\)"):
            write(tmp_path / "locked" / "a")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, there: bool) -> None:
    (tmp_path / "folder").mkdir()
    if there:
        (tmp_path / "folder" / "file").write_bytes(b"before")
    (tmp_path / "link").symlink_to(Path("folder") / "file")
    check_writable(tmp_path / "link")
    write_atomically(tmp_path / "link", b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"after"
    assert names(tmp_path / "folder") == ["file"]


def test_what_killed_writers_left_is_told_from_what_another_one_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (".a.png.12345678.part", ".b.png.12345678.part", ".a.png.notes"):
        (tmp_path / name).touch()
    living: list[str] = []
    replace = os.replace

    def swept(part: str, path: str) -> None:
        before = names(tmp_path)
        sweep(tmp_path, "a.png")
        living.extend(set(names(tmp_path)) & {Path(part).name})
        assert len(names(tmp_path)) == len(before) - 1
        replace(part, path)

    monkeypatch.setattr(os, "replace", swept)
    write_atomically(tmp_path / "a.png", b"content")
    assert len(living) == 1
    assert names(tmp_path) == [".a.png.notes", ".b.png.12345678.part", "a.png"]
    check_writable(tmp_path / "b.png")
    assert names(tmp_path) == [".a.png.notes", "a.png"]


@pytest.mark.parametrize("has_links", [True, False])
def test_of_several_writers_one_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    count = 4 if has_links else 1  # without links, two that begin at the same instant are not told apart
    barrier, firsts = threading.Barrier(count), []

    def write(number: int) -> None:
        barrier.wait()
        if write_once(tmp_path / "file", b"%d" % number):
            firsts.append(number)

    threads = [threading.Thread(target=write, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(firsts) == 1
    assert not write_once(tmp_path / "file", b"later")
    assert (tmp_path / "file").read_bytes() == b"%d" % firsts[0]
    assert names(tmp_path) == ["file"]


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(PrescoreError, match="another run is at work in this folder"), held(tmp_path):
        pass
    with pytest.raises(OSError, match="of the work"), held(tmp_path):
        raise OSError("of the work")
    with held(tmp_path):
        assert names(tmp_path) == []
