"""How experiments leave their results: files, sections in order, tables, runs that are kept."""

import argparse
import json
import math
import re
import sys

import pytest
import torch
from matplotlib.figure import Figure
from test_experiments import experiment

from prescore import PrescoreError


@pytest.fixture
def publish(tmp_path, monkeypatch):
    module = experiment("publish")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "QUICK", tmp_path / "quick")
    monkeypatch.setattr(module, "ORDER", ("first", "second", "third"))
    return module


def options(publish, *arguments):
    parser = argparse.ArgumentParser()
    publish.add_options(parser)
    return parser.parse_args(arguments)


def figure(_):
    return Figure()


def drawn(section):
    """A text of any numbers."""
    return lambda _: section


def test_a_folder_gets_three_files(publish, tmp_path):
    folder = publish.output_folder(options(publish, "--quick"))
    assert folder == tmp_path / "quick"
    seen, pictures = [], {"plain": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}

    def draw(*results):
        seen.append(results)
        return Figure()

    publish.publish(folder, "second", draw, drawn("## B\n\n![b](figures/second.png)"), {"a": [math.inf, 1.5]}, pictures)
    assert sorted(p.name for p in folder.iterdir()) == ["second.json", "second.md", "second.npz", "second.png"]
    assert seen == [({"a": [None, 1.5]}, pictures)], "a figure is of what is stored"
    assert (folder / "second.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "second.json").read_text()) == {"a": [None, 1.5]}
    assert (folder / "second.md").read_text() == "## B\n\n![b](second.png)\n"
    assert not (tmp_path / "docs").exists()


def test_sections_stand_in_order_whatever_order_they_come_in(publish, tmp_path):
    assert publish.output_folder(options(publish)) is None
    for name in ("third", "other", "first", "another", "second"):
        publish.publish(None, name, figure, drawn(f"## {name}\n\ntext"), {})
    document = tmp_path / "docs" / "results.md"
    heads = [line[3:] for line in document.read_text().splitlines() if line.startswith("## ")]
    assert heads == ["first", "second", "third", "another", "other"]
    assert document.read_text().startswith("# Results\n")
    before = document.read_text()
    publish.publish(None, "second", figure, drawn("## second\n\nnew text, with \\1 in it"), {})
    assert document.read_text() == before.replace("## second\n\ntext", "## second\n\nnew text, with \\1 in it")
    assert (tmp_path / "docs" / "figures" / "other.png").is_file()
    assert (tmp_path / "experiments" / "results" / "other.json").is_file()


def test_what_stands_between_sections_is_kept(publish):
    document = "# Mine\n\n<!-- first -->\na\n<!-- end first -->\n\nA remark.\n\n<!-- third -->\nc\n<!-- end third -->\n"
    assert "\n\nA remark.\n\n<!-- second -->\nb\n<!-- end second -->\n\n<!-- third -->\n" in publish.with_section(
        document, "second", "b\n"
    )


def test_nothing_is_written_if_the_figure_fails(publish, tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish.publish(None, "first", figure, drawn("## first"), {})
    assert list(tmp_path.iterdir()) == []


def test_table(publish):
    text = publish.table(["solver", "T = 10", "20"], [["plain", 0.12345, None], ["p-ode-2m", 1234.4, math.nan]])
    assert text.splitlines() == [
        "| solver | T = 10 | 20 |",
        "| --- | --- | --- |",
        "| plain | 0.123 | – |",
        "| p-ode-2m | 1234 | – |",
    ]
    assert [publish.cell(x) for x in (7, 999.4, 999.6, 99999.0, 123456.0, 1e-5)] == [
        "7", "999", "1000", "99999", "1.23e+05", "1e-05",
    ]  # fmt: skip


def test_runs_go_on_where_they_were(publish, tmp_path):
    def never():
        raise AssertionError

    given = options(publish, "--folder", str(tmp_path / "out"))
    runs = publish.Runs.open(given, "first", {"n": 10, "T": (5, 10)})
    assert runs.get("plain, 5", lambda: {"frechet": math.inf, "seconds": 1.0}) == {"frechet": None, "seconds": 1.0}
    again = publish.Runs.open(given, "first", {"n": 10, "T": (5, 10)})
    assert again.get("plain, 5", never) == {"frechet": None, "seconds": 1.0}
    publish.publish(tmp_path / "out", "first", figure, drawn("## first"), again.numbers | {"best": 5})
    assert publish.Runs.open(given, "first", {"n": 10, "T": [5, 10]}).runs.keys() == {"plain, 5"}
    with pytest.raises(PrescoreError, match="other settings"):
        publish.Runs.open(given, "first", {"n": 20, "T": (5, 10)})
    for flag in ("--fresh", "--quick"):
        fresh = options(publish, flag, "--folder", str(tmp_path / "out"))
        assert publish.Runs.open(fresh, "first", {"n": 20}).runs == {}
    (tmp_path / "out" / "first.json").write_text("[]")
    with pytest.raises(PrescoreError, match="holds no runs"):
        publish.Runs.open(given, "first", {"n": 10})


def test_pictures_are_kept_beside_the_numbers(publish, tmp_path):
    def never():
        raise AssertionError

    given = options(publish, "--folder", str(tmp_path))
    pictures, x = publish.Pictures.open(given, "first"), torch.arange(32, dtype=torch.uint8).reshape(2, 1, 4, 4)
    assert pictures.get("plain, T = 5", lambda: x) is x
    assert len(pictures.get("diverged", lambda: None)) == 0
    publish.publish(tmp_path, "first", lambda *_: Figure(), drawn("## first"), {}, pictures.pictures)
    again = publish.Pictures.open(given, "first")
    assert torch.equal(again.get("plain, T = 5", never), x)
    assert len(again.get("diverged", never)) == 0
    assert publish.Pictures.open(options(publish, "--fresh", "--folder", str(tmp_path)), "first").pictures == {}


def test_a_folder_that_is_a_file(publish, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PrescoreError, match="--folder"):
        publish.output_folder(options(publish, "--folder", str(tmp_path / "file")))


def test_an_error_is_one_line_and_code_2(publish, capsys):
    def main():
        raise PrescoreError("--data: no such file")

    with pytest.raises(SystemExit) as stopped:
        publish.command(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: --data: no such file\n"


def test_benchmark_modules_are_found(publish, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert callable(publish.benchmark("mixtures").fitted)


def test_paragraphs_are_wrapped_and_nothing_else(publish):
    table = "| a | b |\n| --- | --- |\n| " + "x" * 130 + " | 1 |"
    section = "\n## Head\n\n" + ("word " * 60).strip() + "\nnext\n\n" + table + "\n\n![c](figures/c.png)\n"
    lines = publish.wrapped(section).splitlines()
    assert max(len(line) for line in lines if line.startswith("word")) <= 118
    assert " ".join(lines[2:5]) == ("word " * 60).strip() + " next"
    assert lines[6:9] == table.splitlines()
    for n in range(110, 120):
        signs = publish.wrapped("x" * n + " - 1 + y * z")
        assert not any(line.startswith(("-", "+", "*")) for line in signs.splitlines())
        assert " ".join(signs.split()) == "x" * n + " - 1 + y * z"


def test_make_runs_every_script_that_publishes():
    """All of them, in the order of docs/results.md; a script that draws for several models names them in ORDER."""
    module = experiment("publish")
    text = (module.ROOT / "Makefile").read_text().replace("\\\n", " ")
    made = re.search(r"^EXPERIMENTS = (.*)$", text, re.M)[1].split()
    publishing = {
        path.stem for path in (module.ROOT / "experiments").glob("*.py") if "publish(output_folder" in path.read_text()
    }
    assert publishing - {"publish"} <= set(made)
    assert all((module.ROOT / "experiments" / f"{name}.py").is_file() for name in made)
    places = [next(i for i, known in enumerate(module.ORDER) if known.startswith(name)) for name in made]
    assert places == sorted(places)
