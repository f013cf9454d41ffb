"""Checkpoints of a run: checkpoint-0001200.safetensors holds all that is needed to go on after step 1200.

A checkpoint appears whole or not at all, and older ones are deleted only when a newer one is there. If the newest one
is damaged the one before it is taken; a checksum tells.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from prescore.checkpoints.native import read_safetensors
from prescore.errors import PrescoreError
from prescore.files import write_atomically
from prescore.training.config import TrainingConfig
from prescore.training.state import TrainingState, checksum
from prescore.training.task import Task

ENTRY = "prescore-training"
PATTERN = "checkpoint-*.safetensors"
OLD = "checkpoint.safetensors"  # of version 0.1
LENGTHS = ("steps", "cooldown")  # that may change while a run goes on
FACTS: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "settings": dict,
    "config": dict,
    "measured": dict,
    "data": int,
    "step": int,
    "seconds": (int, float),
    "scaler": dict,
    "init": (str, type(None)),  # None as well where it is missing: checkpoints of older versions
    "crc32": int,
}


class DamagedError(PrescoreError):
    """A checkpoint that cannot be used, whatever the run."""


def checkpoints(folder: Path) -> list[Path]:
    """Those of a folder, newest first."""
    return sorted(folder.glob(PATTERN), reverse=True)


def save_checkpoint(
    folder: Path, state: TrainingState, task: Task, config: TrainingConfig, accumulate: int, keep: int
) -> None:
    """Writes one more, then deletes all but the newest `keep`.

    Raises:
        PrescoreError: it cannot be written; the others are left as they are.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.tensors().items()}
    facts = _facts(task, config, accumulate) | {
        "step": state.step,
        "seconds": state.seconds,
        "scaler": state.scaler.state_dict(),
        "init": state.init,
        "crc32": checksum(tensors),
    }
    path = folder / f"checkpoint-{state.step:07d}.safetensors"
    write_atomically(path, save(tensors, metadata={ENTRY: json.dumps(facts)}))
    for old in checkpoints(folder)[keep:]:
        old.unlink()


def resume(
    folder: Path,
    state: TrainingState,
    task: Task,
    config: TrainingConfig,
    accumulate: int,
    warn: Callable[[str], None],
) -> None:
    """Puts the newest whole checkpoint of a folder, if there is any, into a state made for the same run.

    A run that began with the weights of a model needs them no more, so the state may have begun with random ones.

    Raises:
        PrescoreError: all of them are damaged, or the newest whole one is of other settings or data, or of another
            version of prescore.
    """
    problem = ""
    for path in checkpoints(folder):
        try:
            facts, tensors = _read(path)
        except DamagedError as error:
            problem = problem or str(error)
            continue
        facts["settings"] = _defaults(task) | facts["settings"]
        _check_same_run(folder, facts, _facts(task, config, accumulate))
        _check_same_start(folder, facts.get("init"), state.init)
        if problem:
            warn(f"{problem}; going on from {path.name}")
        _check_tensors(path, state, facts, tensors)
        _restore(state, facts, tensors)
        return
    if problem:
        raise PrescoreError(f"{problem}; there is no other checkpoint to go on from, take another folder")
    if (folder / OLD).exists():
        raise PrescoreError(f"{folder} holds a run of version 0.1, which cannot be gone on with; take another folder")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of a checkpoint, which are those that were written."""
    try:
        metadata, tensors = read_safetensors(path)
    except PrescoreError as error:
        raise DamagedError(str(error)) from None
    try:
        facts = json.loads(metadata.get(ENTRY, ""))
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise DamagedError(f"{path}: not a checkpoint of prescore's training")
    lacking = [name for name, kind in FACTS.items() if not isinstance(facts.get(name), kind)]
    lacking = lacking or [name for name in LENGTHS if not isinstance(facts["config"].get(name), int)]
    if lacking:
        raise DamagedError(f"{path}: written by another version of prescore (it lacks {lacking[0]!r})")
    if checksum(tensors) != facts["crc32"]:
        raise DamagedError(f"{path}: damaged (its checksum is wrong)")
    return facts, tensors


def _check_tensors(path: Path, state: TrainingState, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise PrescoreError unless these are the tensors, and the scaler, of such a state."""
    ours, theirs = ({name: value.shape for name, value in each.items()} for each in (state.tensors(), tensors))
    other = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    other += sorted(state.scaler.state_dict().keys() ^ facts["scaler"].keys())
    if other:
        raise PrescoreError(
            f"{path}: written by another version of prescore (it has another {other[0]!r}); take another folder"
        )


@torch.no_grad()
def _restore(state: TrainingState, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    for name, value in state.tensors().items():
        value.copy_(tensors[name])
    if facts["scaler"]:
        state.scaler.load_state_dict(facts["scaler"])
    state.step, state.seconds, state.init = facts["step"], facts["seconds"], facts.get("init")


def _facts(task: Task, config: TrainingConfig, accumulate: int) -> dict[str, Any]:
    """What two runs must have in common to be the same, in JSON's types."""
    facts = {
        "kind": type(task.settings).__name__,
        "settings": dataclasses.asdict(task.settings),
        "config": dataclasses.asdict(config),
        "accumulate": accumulate,
        "measured": dict(task.measured),
        "data": task.data.fingerprint,
    }
    return json.loads(json.dumps(facts))


def _defaults(task: Task) -> dict[str, Any]:
    """Settings that a run did not know yet: their default is what it did."""
    settings = {field.name: field.default for field in dataclasses.fields(task.settings)}
    return json.loads(json.dumps(settings, default=lambda _: None))


def _check_same_run(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    if theirs["kind"] != ours["kind"]:
        raise PrescoreError(f"recipe: {folder} holds a run of another kind ({theirs['kind']}); take another folder")
    for part in ("settings", "config"):
        for name, value in ours[part].items():
            if name not in LENGTHS:
                _check_same(folder, name, theirs[part].get(name), value)
    _check_same(folder, "accumulate", theirs.get("accumulate", 1), ours["accumulate"])
    if (theirs["data"], theirs["measured"]) != (ours["data"], ours["measured"]):
        raise PrescoreError(f"{folder} holds a run on other data; give the same data, or another folder")
    step, (old, new) = theirs["step"], (theirs["config"], ours["config"])
    constant_until = min(run["steps"] - run["cooldown"] for run in (old, new))
    if any(old[name] != new[name] for name in LENGTHS) and step > constant_until:
        raise PrescoreError(
            f"steps: the run in {folder} is at step {step} of {old['steps']}; with {new['steps']} steps, "
            f"{new['cooldown']} of them cool-down, it would have had another learning rate before that"
        )


def _check_same_start(folder: Path, theirs: str | None, ours: str | None) -> None:
    if ours not in (None, theirs):
        began_with = "random weights" if theirs is None else f"other weights ({theirs}, not {ours})"
        raise PrescoreError(f"init: the run in {folder} began with {began_with}; leave it out, or take another folder")


def _check_same(folder: Path, name: str, theirs: object, ours: object) -> None:
    if theirs != ours:
        raise PrescoreError(
            f"{name}: the run in {folder} has {theirs}, not {ours}; give the same settings, or another folder"
        )
