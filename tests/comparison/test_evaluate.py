"""Samples beside true ones, in Python, as the command line has it."""

import json

import numpy as np
import pytest
import torch

import prescore
from prescore import PrescoreError
from prescore.cli import main


def vectors(n, seed, shift=0.0):
    return (torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)) + shift) * torch.tensor([1, 10, 0.1, 2, 3])


@pytest.mark.parametrize("layout", ["vectors", "signals", "fields", "six", "pictures"])
def test_python_and_the_command_line_agree(tmp_path, layout):
    event = {"vectors": (5,), "signals": (2, 40), "fields": (2, 4, 5, 6), "six": (6, 4, 4), "pictures": (3, 4, 4)}[
        layout
    ]
    letters = {"vectors": "NC", "signals": "NCL", "fields": "NCDHW", "six": "NCHW", "pictures": "NCHW"}[layout]
    a, b = (torch.rand(n, *event, generator=torch.Generator().manual_seed(n)) for n in (30, 70))
    for name, x in (("a", a), ("b", b)):
        np.save(tmp_path / f"{name}.npy", x.numpy())
    words = ["evaluate", f"{tmp_path}/a.npy", "--reference", f"{tmp_path}/b.npy", "--features", "pixels", "--floor"]
    assert main([*words, "--layout", letters, "--json", f"{tmp_path}/out.json"]) == 0
    command = json.loads((tmp_path / "out.json").read_text())
    found = prescore.evaluate(a, b.numpy(), floor=True)
    assert dict(found.metrics) == pytest.approx(command["metrics"])
    assert found.floor == pytest.approx(command["floor"]["metrics"])
    assert list(found.notes) == command["notes"]
    assert ("spectrum" in found.metrics) == (layout != "vectors")
    assert "30 samples beside 70 true ones" in repr(found)


def test_vectors_are_measured_in_their_own_units():
    found = prescore.evaluate(vectors(500, 0, 1.0), vectors(500, 1), metrics=["frechet", "pixel-mean"])
    assert found.metrics["pixel-mean"] == pytest.approx((114.01 / 5) ** 0.5, rel=0.15)
    assert found.metrics["frechet"] > prescore.evaluate(vectors(500, 0), vectors(500, 1)).metrics["frechet"] * 5


@pytest.mark.parametrize(
    ("samples", "reference", "options", "message"),
    [
        (torch.zeros(5), vectors(9, 0), {}, r"samples: \(5,\) given; a tensor or an array \(N, \*event\)"),
        ([1, 2], vectors(9, 0), {}, "samples: list given"),
        (vectors(5, 0), torch.zeros(9, 4), {}, "samples: images 5, those of the reference are 4"),
        (vectors(5, 0), vectors(9, 0), {"features": "means-2x2"}, "means-2x2: samples of shape"),
        (vectors(5, 0), vectors(9, 0), {"metrics": ["spectrum"]}, "spectrum: the samples were measured without"),
        (vectors(5, 0), vectors(9, 0), {"n": 0}, "n: 0 samples"),
    ],
)
def test_bad_input(samples, reference, options, message):
    with pytest.raises(PrescoreError, match=message):
        prescore.evaluate(samples, reference, **options)
