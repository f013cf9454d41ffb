import pytest
import torch

from prescore.device import open_device
from prescore.errors import PrescoreError


def test_a_device_by_its_name():
    assert open_device("cpu") == open_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpuu", "meta", "cuda:99"])
def test_devices_that_cannot_be_used(name):
    with pytest.raises(PrescoreError, match=f"device: '{name}' cannot be used") as caught:
        open_device(name)
    assert len(str(caught.value).splitlines()) == 1
