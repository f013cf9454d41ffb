"""Every experiment draws its figure, and writes its section, from what is stored, without a run."""

import json
import re
import shutil

import pytest
from matplotlib.text import Text
from PIL import Image
from test_experiments import ROOT, experiment

import prescore
from prescore import PrescoreError
from prescore.cli import plots
from prescore.denoiser import Denoiser

STORED = sorted(path.stem for path in (ROOT / "experiments" / "results").glob("*.json"))


@pytest.fixture(scope="module")
def redraw():
    return experiment("redraw")


def test_all_results_are_known(redraw):
    assert sorted(redraw.stored()) == STORED
    figures = re.findall(r"\]\(figures/(\w+)\.png\)", (ROOT / "docs" / "results.md").read_text())
    assert sorted(figures) == STORED


@pytest.mark.parametrize("name", STORED)
def test_redraw(redraw, name, tmp_path, monkeypatch):
    """No network is called and nothing is sampled; the section is that of docs/results.md, and letters can be read."""

    def never(*_, **__):
        raise AssertionError("an experiment computes where it is to draw")

    monkeypatch.setattr(Denoiser, "__call__", never)
    monkeypatch.setattr(prescore, "sample", never)
    figures = []

    def laid_out(figure):
        """Everything but the pixels and the places of panels, which take most of the time."""
        figures.append(figure)
        figure.set_layout_engine("none")
        figure.draw_without_rendering()
        return b"a picture"

    monkeypatch.setitem(redraw.publish.__globals__, "png", laid_out)
    redraw.main([name, "--folder", str(tmp_path)])
    document = (ROOT / "docs" / "results.md").read_text()
    section = re.search(rf"^<!-- {name} -->\n(.*?)^<!-- end {name} -->$", document, re.M | re.S)[1]
    assert (tmp_path / f"{name}.md").read_text() == section.replace(f"figures/{name}.png", f"{name}.png")
    assert (tmp_path / f"{name}.json").read_text() == (ROOT / "experiments" / "results" / f"{name}.json").read_text()
    (figure,) = figures
    assert figure.get_figwidth() == plots.PAGE
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert all(text.get_window_extent().width <= figure.bbox.width for text in texts)
    small = [text for text in texts if text.get_size() < 9]
    assert not [text for text in small if not text.get_text().startswith("$\\mathdefault")]


@pytest.mark.parametrize("name", STORED)
def test_figures_are_moderate(name):
    """Files of at most 350 kB, as wide as text of the style needs."""
    path = ROOT / "docs" / "figures" / f"{name}.png"
    with Image.open(path) as picture:
        assert 1000 <= picture.width <= 1200
    assert path.stat().st_size < 350_000


@pytest.fixture
def results(redraw, tmp_path, monkeypatch):
    """A copy of the stored results, which `redraw` reads."""
    folder = tmp_path / "experiments" / "results"
    shutil.copytree(ROOT / "experiments" / "results", folder)
    monkeypatch.setitem(redraw.numbers_file.__globals__, "ROOT", tmp_path)
    return folder


CUT, SCRIPT = None, {"settings": {"n": 1}}


@pytest.mark.parametrize(
    "content", [CUT, b"", b"\xff\xfe", b"[" * 10**5, b"null", b"[]", b"{}", json.dumps(SCRIPT).encode()]
)
@pytest.mark.parametrize("name", ["subspace.json", "skew.json", "skew.npz", "steps_grid_mnist_ve.npz"])
def test_damaged_results_are_one_line(redraw, results, tmp_path, name, content):
    """And so are those of an older script."""
    file = results / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is CUT else content)
    with pytest.raises(PrescoreError, match=rf"{name}(, skew.npz)?: (cannot be read|damaged, or of another)") as raised:
        redraw.main([file.stem, "--folder", str(tmp_path / "out")])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_other_results_are_refused(redraw):
    with pytest.raises(PrescoreError, match="unknown value 'subspaces'"):
        redraw.main(["subspaces"])
