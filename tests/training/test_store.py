import dataclasses
import json
from functools import partial

import pytest
import torch
from runs import QUIET, assert_equal, digits, newest, rewrite, tensors, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prescore.errors import PrescoreError
from prescore.training.data import TrainingData
from prescore.training.loop import train
from prescore.training.score import ScoreTask
from prescore.training.store import ENTRY, FACTS, LENGTHS

OFTEN = dataclasses.replace(QUIET, checkpoint_every=2, keep=3)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys, damage):
    task, config = tiny()
    train(task, config, tmp_path, OFTEN)
    whole = tensors(tmp_path)
    damage(newest(tmp_path))
    result = train(task, config, tmp_path, QUIET)
    note = capsys.readouterr().err
    assert note.count("\n") == 1
    assert "checkpoint-0000006.safetensors" in note
    assert "going on from checkpoint-0000004.safetensors" in note
    assert result.steps == 6
    assert_equal(tensors(tmp_path), whole)


def test_no_whole_checkpoint_is_an_error_and_not_a_new_start(tmp_path):
    task, config = tiny()
    train(task, config, tmp_path, QUIET)
    truncate(newest(tmp_path))
    with pytest.raises(PrescoreError, match=r"truncated .*; there is no other checkpoint to go on from"):
        train(task, config, tmp_path, QUIET)


def test_other_files_under_the_name_of_a_checkpoint(tmp_path):
    task, config = tiny()
    model = train(task, config, tmp_path, QUIET).model
    newest(tmp_path).write_bytes(model.read_bytes())
    with pytest.raises(PrescoreError, match="not a checkpoint of prescore's training"):
        train(task, config, tmp_path, QUIET)
    for metadata in ("[]", "{", "[" * 100_000):
        save_file({"a": torch.zeros(1)}, newest(tmp_path), metadata={"prescore-training": metadata})
        with pytest.raises(PrescoreError, match=r"checkpoint-0000006.safetensors: not a checkpoint"):
            train(task, config, tmp_path, QUIET)


def remove(facts, _, name):
    del (facts["config"] if name in LENGTHS else facts)[name]


def test_a_checkpoint_that_lacks_a_fact(tmp_path):
    train(*tiny(), tmp_path, QUIET)
    whole = newest(tmp_path).read_bytes()
    for name in (*(FACTS.keys() - {"init"}), *LENGTHS):
        newest(tmp_path).write_bytes(whole)
        rewrite(newest(tmp_path), partial(remove, name=name))
        with pytest.raises(
            PrescoreError, match=rf"written by another version of prescore \(it lacks '{name}'\); there"
        ):
            train(*tiny(), tmp_path, QUIET)


WEIGHT = "weights/map_layer0.bias"


def test_a_checkpoint_of_another_network_under_the_same_settings(tmp_path):
    train(*tiny(), tmp_path, QUIET)
    whole = newest(tmp_path).read_bytes()
    for change, name in [
        (lambda _, found: found.pop(WEIGHT), WEIGHT),
        (lambda _, found: found.update({WEIGHT: found[WEIGHT][:-1].clone()}), WEIGHT),
        (lambda _, found: found.update({"weights/more": torch.zeros(1)}), "weights/more"),
        (lambda facts, _: facts.update(scaler={"scale": 1.0}), "scale"),
    ]:
        newest(tmp_path).write_bytes(whole)
        rewrite(newest(tmp_path), change)
        with pytest.raises(PrescoreError, match=f"by another version of prescore .it has another '{name}'.; take"):
            train(*tiny(), tmp_path, QUIET)


def test_a_run_of_version_0_1_is_left_alone(tmp_path):
    save_file({"weights/a": torch.zeros(1)}, tmp_path / "checkpoint.safetensors", metadata={ENTRY: '{"step": 1}'})
    with pytest.raises(PrescoreError, match=r"holds a run of version 0\.1, which cannot be gone on with"):
        train(*tiny(), tmp_path, QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize(
    ("recipe", "data", "changes", "message"),
    [
        ("edm", None, {"seed": 1}, r"seed: the run in .* has 0, not 1"),
        ("edm", None, {"P_mean": -1.0}, r"P_mean: the run in .* has -1.2, not -1.0"),
        ("vp", None, {}, r"preconditioning: the run in .* has edm, not vp"),
        ("edm", TrainingData(digits(seed=1)), {}, "holds a run on other data"),
        ("edm", TrainingData(digits().flip(0)), {}, "holds a run on other data"),
    ],
)
def test_a_folder_with_another_run_is_left_alone(tmp_path, recipe, data, changes, message):
    train(*tiny(), tmp_path, QUIET)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(PrescoreError, match=message):
        train(*tiny(recipe, data, **changes), tmp_path, QUIET)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_run_goes_on_with_its_own_parts_of_batches(tmp_path):
    train(*tiny(cooldown=0), tmp_path, QUIET)
    with pytest.raises(PrescoreError, match=r"accumulate: the run in .* has 1, not 2; give the same settings, or"):
        train(*tiny(cooldown=0), tmp_path, dataclasses.replace(QUIET, accumulate=2))
    rewrite(newest(tmp_path), lambda facts, _: facts.pop("accumulate"))  # then it was 1
    assert train(*tiny(steps=7, cooldown=0), tmp_path, QUIET).steps == 7


def test_a_run_from_before_a_setting_had_its_default(tmp_path):
    task, config = tiny(cooldown=0)
    train(task, config, tmp_path, QUIET)
    rewrite(newest(tmp_path), lambda facts, _: facts["settings"].pop("patch_size"))
    with pytest.raises(PrescoreError, match=r"patch_size: the run in .* has 1, not 2"):
        train(ScoreTask(dataclasses.replace(task.settings, patch_size=2), task.data), config, tmp_path, QUIET)
    assert train(*tiny(steps=7, cooldown=0), tmp_path, QUIET).steps == 7


@pytest.fixture
def small_disk():
    """No file may be larger than half of a checkpoint."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path, request):
    task, config = tiny(cooldown=0)
    train(task, config, tmp_path, QUIET)
    before = newest(tmp_path).read_bytes()
    assert len(before) > 200_000
    longer = dataclasses.replace(config, steps=8)
    request.getfixturevalue("small_disk")
    with pytest.raises(PrescoreError, match=r"checkpoint-0000008.safetensors: cannot be written \(File too large\)"):
        train(task, longer, tmp_path, QUIET)
    assert newest(tmp_path).name == "checkpoint-0000006.safetensors"
    assert newest(tmp_path).read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))


def test_a_checkpoint_holds_full_precision_and_its_checksum(tmp_path):
    train(*tiny(precision="bfloat16"), tmp_path, QUIET)
    assert {value.dtype for value in load_file(newest(tmp_path)).values()} == {torch.float32}
    with safe_open(newest(tmp_path), "pt") as file:
        facts = json.loads(file.metadata()["prescore-training"])
    assert facts["step"] == 6
    assert facts["settings"]["network"] == "ddpmpp"
    assert facts["measured"]["sigma_data"] > 0
