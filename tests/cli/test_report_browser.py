"""The report of `prescore compare` as a browser shows it: Chromium, where it is installed."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Runs in the page: clicks on headers, and tells the page around it, whose frame has the width of a window.
PROBE = """
<script>
// How many rules are for paper, and the width of the table over that of its box, on a page of 10 inches.
const printed = (runs) => {
  const rules = Array.from(document.styleSheets[0].cssRules).filter((rule) => rule.media?.mediaText === "print");
  for (const rule of rules) rule.media.mediaText = "all";
  document.body.style.width = "10in";
  const width = runs.getBoundingClientRect().width / runs.parentElement.getBoundingClientRect().width;
  for (const rule of rules) rule.media.mediaText = "print";
  document.body.style.width = "";
  return [rules.length, width];
};
addEventListener("load", () => {
  const runs = document.querySelector("table.runs"), box = runs.closest(".scroll");
  const column = (k) => Array.from(runs.tBodies[0].rows, (row) => row.cells[k].dataset.value);
  const header = Array.from(runs.tHead.rows[0].cells).findIndex((cell) => cell.textContent.trim() === "spectrum");
  const click = (k) => runs.tHead.rows[0].cells[k].querySelector("button").click();
  const sorted = [];
  for (const k of [header, header, 0]) { click(k); sorted.push(column(k)); }
  box.scrollLeft = box.scrollWidth;
  const last = runs.rows[1].cells[runs.rows[1].cells.length - 1].getBoundingClientRect();
  const first = runs.rows[1].cells[0].getBoundingClientRect(), frame = box.getBoundingClientRect();
  parent.postMessage({
    page: document.documentElement.scrollWidth, window: innerWidth, box: box.scrollWidth > box.clientWidth, sorted,
    last: last.right - frame.right, first: first.left - frame.left, covered: first.right - last.left,
    shades: getComputedStyle(box).backgroundAttachment, printed: printed(runs),
    colours: [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color],
  }, "*");
});
</script>
</body>"""
AROUND = """<!doctype html><body><iframe src="probed.html" width="{width}" height="900" style="border: 0"></iframe>
<script>addEventListener("message", (event) => {{
  document.body.textContent = "FOUND" + JSON.stringify(event.data) + "END";
}});</script></body>"""


@pytest.fixture
def report(cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("quality_panel", "spectrum_panel"):
        monkeypatch.setattr(f"prescore.cli.compare.page.{name}", lambda *_: "<svg></svg>")
    folder = tmp_path / ("a-long-name-of-a-folder" * 4)
    folder.mkdir()
    file = folder / "weights.safetensors"
    shutil.copy(model, file)
    np.save(tmp_path / "data.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    samplers = "dpmpp-2m,ddim,edm-heun[alpha=0.5,schedule=iddpm]@karras"
    code, _, err = cli(
        *("compare", file, "--samplers", samplers, "--calls", "3,5", "--n", 10, "--out", tmp_path / "out"),
        *("--reference", tmp_path / "data.npy"),
    )
    assert code == 0, err
    return tmp_path / "out" / "report.html"


def shown(report: Path, width: int, dark: bool) -> dict[str, Any]:
    """What the page says of itself in a window of this width."""
    (report.parent / "probed.html").write_text(report.read_text().replace("</body>", PROBE))
    (report.parent / "around.html").write_text(AROUND.format(width=width))
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,1000", "--dump-dom"]
    command += ["--virtual-time-budget=5000", f"--user-data-dir={report.parent / 'profile'}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run([*command, (report.parent / "around.html").as_uri()], capture_output=True, text=True)
    text = done.stdout.rpartition("FOUND")[2].partition("END")[0]
    return json.loads(text)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_fits_its_window_and_its_table_sorts(report: Path) -> None:
    for width, dark in ((1280, False), (420, True)):
        found = shown(report, width, dark)
        assert found["window"] == width
        assert found["page"] <= width
        assert found["box"]  # the table is wider than its box, which scrolls
        assert found["last"] <= 1  # to its last column,
        assert abs(found["first"]) <= 1  # while the first one stays
        assert found["covered"] <= 0  # and does not hide the last
        assert found["shades"] == "local, scroll"  # a shade at the edge, which the content covers at its end
        assert found["printed"] == [1, 1]  # on paper nothing is cut off
        up, down, names = found["sorted"]
        assert [float(value) for value in up] == sorted(map(float, up))
        assert down == up[::-1]
        assert len(set(up)) == 6
        assert names == sorted(names)
        assert found["colours"] == (
            ["rgb(20, 23, 28)", "rgb(228, 231, 236)"] if dark else ["rgb(255, 255, 255)", "rgb(29, 33, 41)"]
        )


def test_a_model_is_called_by_its_name(report: Path) -> None:
    text = report.read_text()
    assert "<title>weights.safetensors" not in text
    assert "<dt>file</dt><dd>" in text
    assert text.count("weights.safetensors") == 2  # the file, and the command
