import math

import pytest
import torch

from prescore.training.augment import LABELS, augmentation_labels, augmented, draw_augmentation

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(2, 3, 8, 8, generator=GENERATOR, dtype=torch.float64)


def parameters(**values):
    """a_0 to a_7 of two images, alike."""
    a = torch.zeros(2, 8, dtype=torch.float64)
    for name, number in values.items():
        a[:, int(name[1])] = number
    return a


def test_labels_are_zero_exactly_where_nothing_is_done():
    a = draw_augmentation(4000, 0.3, torch.Generator().manual_seed(1))
    x = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(2)).expand(4000, 1, 4, 4)
    is_untouched = (augmented(x, a) == x).flatten(1).all(1)
    assert torch.equal(is_untouched, (augmentation_labels(a) == 0).all(1))
    assert pytest.approx(is_untouched.double().mean().item(), abs=0.02) == 0.5 * 0.7**5


def test_mirrors_are_exact():
    assert torch.equal(augmented(X, parameters(a0=1)), X.flip(3))
    assert torch.equal(augmented(X, parameters(a1=1)), X.flip(2))
    assert torch.equal(augmented(X, parameters(a0=1, a1=1)), X.flip(2, 3))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_those_of_rot90(quarters):
    turned = augmented(X, parameters(a3=quarters * math.pi / 2))
    assert torch.allclose(turned, torch.rot90(X, -quarters, (2, 3)), atol=1e-12)


@pytest.mark.parametrize(("name", "dim"), [("a6", 3), ("a7", 2)])
def test_a_translation_by_whole_pixels_is_a_roll_inside(name, dim):
    moved = augmented(X, parameters(**{name: 2}))  # 2 R / 8 = 2 pixels
    inside = torch.roll(X, 2, dim).narrow(dim, 3, 5)
    assert torch.allclose(moved.narrow(dim, 3, 5), inside, atol=1e-12)


def test_images_are_continued_by_reflection():
    moved = augmented(X, parameters(a6=2))
    assert torch.allclose(moved[..., :2], X[..., :2].flip(3), atol=1e-12)


def test_a_ramp_is_moved_by_the_matrix_of_the_parameters():
    """f(p) = c . p becomes c . A^-1 (p - shift), to within what torch's cubics (a = -0.75) miss of a straight line."""
    size, c = 64, torch.tensor([0.3, -0.8], dtype=torch.float64)
    centres = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    p = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)
    a2, a3, a4, a5, a6, a7 = 0.4, 0.5, 1.1, -0.7, 0.3, -0.2
    moved = augmented((p @ c)[None, None], parameters(a2=a2, a3=a3, a4=a4, a5=a5, a6=a6, a7=a7)[:1])

    def rotation(angle):
        cos, sin = math.cos(angle), math.sin(angle)
        return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)

    stretch = rotation(a4) @ torch.diag(2 ** torch.tensor([0.2 * a5, -0.2 * a5]).double()) @ rotation(-a4)
    A = rotation(a3) @ stretch * 2 ** (0.2 * a2)
    origin = (p - size / 8 * torch.tensor([a6, a7]).double()) @ torch.linalg.inv(A).T
    inside = slice(size // 2 - 12, size // 2 + 12)
    missed = (moved[0, 0] - origin @ c)[inside, inside].abs().max()
    assert missed < 0.05 * c.abs().sum()


def test_labels_of_the_table():
    a = torch.tensor([[1, 0, 0.5, 0.3, 0.2, -0.4, 0.6, 0.7]])
    expected = [1, 0, 0.5, math.cos(0.3) - 1, math.sin(0.3), -0.4 * math.cos(0.2), -0.4 * math.sin(0.2), 0.6, 0.7]
    assert augmentation_labels(a).tolist() == [pytest.approx(expected, rel=1e-6)]
    assert augmentation_labels(a).shape == (1, LABELS)


def test_parameters_have_the_distributions_of_the_table():
    a = draw_augmentation(20_000, 0.25, torch.Generator().manual_seed(0))
    assert a[:, 0].mean().item() == pytest.approx(0.5, abs=0.02)
    assert a[:, 1].mean().item() == pytest.approx(0.125, abs=0.01)
    for column in (2, 3, 5, 6, 7):
        is_on = a[:, column] != 0
        assert is_on.double().mean().item() == pytest.approx(0.25, abs=0.015)
        std = math.pi / math.sqrt(3) if column == 3 else 1
        assert a[is_on, column].std().item() == pytest.approx(std, rel=0.04)
        assert abs(a[is_on, column].mean().item()) < 0.1
    assert torch.equal(a[:, 4] != 0, a[:, 5] != 0)
    assert torch.equal(a[:, 6] != 0, a[:, 7] != 0)


def test_no_probability_leaves_the_mirror_alone():
    a = draw_augmentation(100, 0.0, torch.Generator().manual_seed(0))
    assert (a[:, 1:] == 0).all()
    assert 30 < a[:, 0].sum() < 70
