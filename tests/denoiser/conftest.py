import pytest
import torch
from predictions import SHAPE, B
from torch import Tensor


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
