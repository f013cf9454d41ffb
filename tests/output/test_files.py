"""Folders of samples that several runs want at once, or that a killed one left."""

import json
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

import prescore
from prescore import Denoiser
from prescore.cli.compare.folder import RunFolder
from prescore.errors import PrescoreError
from prescore.output.files import Folder, refuse_other_settings

PICTURE = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)


def test_of_two_runs_that_begin_at_once_the_first_has_the_folder(tmp_path: Path) -> None:
    first, same, other = (Folder(tmp_path / "f", [seed], {"steps": T}) for seed, T in ((0, 5), (1, 5), (2, 6)))
    for output, seed in ((first, 0), (same, 1)):
        output.add([seed], PICTURE)
    with pytest.raises(PrescoreError, match="holds samples drawn with steps = 5, now it is 6; choose another folder"):
        other.add([2], PICTURE)
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["000000.png", "000001.png", "settings.json"]
    assert json.loads((tmp_path / "f" / "settings.json").read_bytes()) == {"steps": 5}


def test_of_two_comparisons_that_begin_at_once_the_first_has_the_folder(tmp_path: Path) -> None:
    first, same, other = (RunFolder(tmp_path / "f", {"n": n}) for n in (8, 8, 9))
    first.open()
    same.open()
    with pytest.raises(PrescoreError, match="holds samples drawn with n = 8, now it is 9"):
        other.open()


def test_what_a_killed_run_left_half_written_goes(tmp_path: Path) -> None:
    ours = [".settings.json.a1b2c3d4.part", ".000007.png.a1b2c3d4.part"]
    for name in (*ours, ".photo.png.a1b2c3d4.part"):
        (tmp_path / name).touch()
    Folder(tmp_path, [7], {})
    assert [p.name for p in tmp_path.iterdir()] == [".photo.png.a1b2c3d4.part"]


def test_a_comparison_killed_before_its_settings_were_written_goes_on(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in (".settings.json.a1b2c3d4.part", "runs/.ddim-5.npz.a1b2c3d4.part"):
        (tmp_path / name).touch()
    (tmp_path / "settings.json").write_text("{}")
    RunFolder(tmp_path, {})
    assert not list(tmp_path.rglob(".*.part"))
    (tmp_path / "settings.json").rename(tmp_path / ".settings.json.a1b2c3d4.part")
    (tmp_path / "runs").rmdir()
    RunFolder(tmp_path, {}).open()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "settings.json"]


@pytest.mark.parametrize("shard_size", [None, 3])
def test_a_folder_that_goes_on_with_other_batches_says_so(tmp_path: Path, shard_size: int | None) -> None:
    model = Denoiser(lambda x, sigma: 0 * x, (1, 4, 4), 0.1, 1.0, data_range=(-1, 1))
    plan = prescore.plan(model, sampler="ddim", steps=2)

    def said(n: int, batch_size: int) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            how = {"batch_size": batch_size, "shard_size": shard_size, "progress": False}
            prescore.write_samples(plan, tmp_path / "f", range(n), **how)
        return [str(warning.message) for warning in found]

    assert said(2, 2) == said(4, 2) == said(4, 3) == []  # the last call has nothing to draw
    (line,) = said(6, 3)
    assert line.endswith(
        "f: was begun with batches of 2 samples, now they are of 3: a sample may differ within rounding from that of a "
        "run of one size; batch_size 2 goes on alike"
    )
    assert said(8, 2) == []
    assert json.loads((tmp_path / "f" / "settings.json").read_bytes())["batch_size"] == 2
    settings = json.loads((tmp_path / "f" / "settings.json").read_bytes())
    del settings["batch_size"]  # as folders of earlier versions are
    (tmp_path / "f" / "settings.json").write_text(json.dumps(settings))
    assert said(9, 3) == []


def test_where_the_batch_decides_samples_another_is_refused(tmp_path: Path) -> None:
    Folder(tmp_path, [0], {"batch_size": 2}).add([0], PICTURE)
    with pytest.raises(PrescoreError, match="drawn with batch_size = 2, now it is 3"):
        Folder(tmp_path, [1], {"batch_size": 3})


def test_other_settings_are_named_and_reasons_are_none(tmp_path: Path) -> None:
    before = {"sampler": "unipc", "start_chosen": "nearer", "start": "noise"}
    check = partial(refuse_other_settings, tmp_path, before)
    check({"sampler": "unipc", "start": "noise"})  # the same, asked for
    with pytest.raises(PrescoreError, match="drawn with start = noise, now it is gaussian;"):
        check({"sampler": "unipc", "start": "gaussian"})
    with pytest.raises(PrescoreError, match="drawn with start = noise, now it is not given;"):
        check({"sampler": "unipc"})
