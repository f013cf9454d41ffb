"""The style of all figures, and the files that they are written to."""

import pytest
import torch
from matplotlib import rcParams
from PIL import Image

import prescore
from prescore.cli import plots


def noise(size):
    figure = plots.new_figure(1, 1)
    figure.figimage(torch.rand(size, size, 3, generator=torch.Generator().manual_seed(0)).numpy())
    return figure


@pytest.mark.parametrize(("limit", "mode"), [(10**6, "RGBA"), (10_000, "P")])
def test_a_large_figure_has_fewer_colours(limit, mode, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "LARGE", limit)
    plots.save_figure(noise(100), tmp_path / "noise.png")
    with Image.open(tmp_path / "noise.png") as picture:
        assert picture.mode == mode


def test_the_style_is_left_as_it_was():
    before = dict(rcParams)
    with plots.style():
        assert rcParams["font.size"] == rcParams["xtick.labelsize"] == rcParams["legend.fontsize"] == 9
    assert dict(rcParams) == before


def test_statistics_have_a_picture_of_a_page(tmp_path):
    plots.plot_statistics(prescore.load_statistics("mnist-ve"), tmp_path / "statistics.png")
    with Image.open(tmp_path / "statistics.png") as picture, plots.style():
        assert picture.width == pytest.approx(plots.PAGE * rcParams["savefig.dpi"], abs=1)
