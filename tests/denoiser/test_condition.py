import numpy as np
import pytest
import torch

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.plan import draw


@pytest.mark.parametrize("rows", [[2.0], np.full(4, 2.0), torch.full((1,), 2.0), [2.0] * 4])
def test_conditions_may_be_lists_and_arrays_and_one_row_for_all(rows):
    model = Denoiser(lambda x, sigma, shift: 0 * x + shift.reshape(-1, 1), (3,), 0.02, 80.0)
    x = draw(model, n=4, sampler="ddim", calls=3, condition={"shift": rows}, progress=False)
    assert torch.equal(x, torch.full((4, 3), 2.0, dtype=torch.float64))
    with pytest.raises(PrescoreError, match="condition 'shift' has 3 rows for 4 samples"):
        draw(model, n=4, sampler="ddim", calls=3, condition={"shift": [1.0, 2.0, 3.0]}, progress=False)
    with pytest.raises(PrescoreError, match="condition 'shift': a tensor with a row for each sample, or one for all"):
        draw(model, n=4, sampler="ddim", calls=3, condition={"shift": ["a"]}, progress=False)
