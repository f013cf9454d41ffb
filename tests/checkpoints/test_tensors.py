import pytest
import torch

from prescore.checkpoints.tensors import check_tensors, checked_levels, own_names
from prescore.errors import PrescoreError


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("a.weight", "a.weight"),
        ("module.a.weight", "a.weight"),
        ("module._orig_mod.module.a.weight", "a.weight"),
        ("a._orig_mod.weight", "a.weight"),
        ("autoencoder.module.a.weight", "autoencoder.a.weight"),
        ("_fsdp_wrapped_module.a._checkpoint_wrapped_module.weight", "a.weight"),
        ("modules.module_list.0.submodule.weight", "modules.module_list.0.submodule.weight"),
    ],
)
def test_names_of_wrappers_are_left_out(name, own):
    assert list(own_names({name: torch.zeros(1)})) == [own]


def test_two_weights_of_one_name_are_refused():
    with pytest.raises(PrescoreError, match=r"the weight 'a' is there twice, once as '_orig_mod\.a'"):
        own_names({"a": torch.zeros(1), "_orig_mod.a": torch.ones(1)})


def test_views_of_a_few_numbers_are_refused_before_they_are_copied():
    numbers = torch.zeros(1000)
    with pytest.raises(PrescoreError, match="its model: its tensors take 12000 bytes, of which only 4000 are stored"):
        check_tensors("its model", {"a": numbers, "b": numbers.reshape(10, 100), "c": numbers[:]})
    with pytest.raises(PrescoreError, match="its model: 'a' is not stored in full"):
        check_tensors("its model", {"a": torch.zeros(1).expand(1000)})


def test_parts_of_one_storage_and_a_weight_under_two_names_are_taken():
    numbers = torch.arange(1000.0)
    state = {"q": numbers[:500], "k": numbers[500:], "tied": numbers[:500], "again": numbers[500:], "none": numbers[:0]}
    found = check_tensors("its model", state)
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "levels", [[], [1.0], [1.0, 1.0], [1.0, 2.0], [1.0, -1.0], [torch.inf, 1.0], [[2.0, 1.0]], 1.0]
)
def test_levels_that_are_none(levels):
    with pytest.raises(PrescoreError, match="are not positive numbers that decrease"):
        checked_levels(torch.tensor(levels))
