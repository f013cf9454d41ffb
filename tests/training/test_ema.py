import torch

from prescore.training.ema import ema_decay, ema_update


def test_decay_warms_up_to_its_limit():
    assert ema_decay(0, 0.999) == 1 / 10
    assert ema_decay(90, 0.999) == 91 / 100
    assert ema_decay(10**6, 0.999) == 0.999


def test_average_against_its_closed_form():
    generator, decay, count = torch.Generator().manual_seed(0), 0.9, 200
    weights = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    start = torch.full((3,), 7.0, dtype=torch.float64)
    average = {"w": start.clone()}
    for k in range(count):
        ema_update(average, {"w": weights[k]}, ema_decay(k, decay))
    decays = torch.tensor([ema_decay(k, decay) for k in range(count)], dtype=torch.float64)
    # share of update k that is left at the end: (1 - d_k) d_{k+1} ... d_{count-1}
    left = torch.cat([decays.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.float64)])
    expected = decays.prod() * start + ((1 - decays) * left) @ weights
    assert torch.allclose(average["w"], expected, atol=1e-12)
    assert not torch.allclose(average["w"], weights[-1], atol=1e-2)
