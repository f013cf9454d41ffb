import math

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.metrics.inception_score import inception_score


def test_the_score_is_the_mutual_information():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    marginal = p.mean(0)
    expected = math.exp(sum((q * (q / marginal).log()).sum() for q in p) / 2)
    assert inception_score(p.log() + 3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("logits", "message"), [(torch.zeros(3), "shape"), (torch.full((2, 2), torch.inf), "not finite")]
)
def test_bad_input_is_refused(logits, message):
    with pytest.raises(PrescoreError, match=message):
        inception_score(logits)
