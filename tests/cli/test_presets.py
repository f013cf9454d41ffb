"""`prescore presets`, and presets and preconditioners of `prescore sample`."""

import json

import numpy as np
import pytest

from prescore.presets import PRESETS


def settings(path):
    with np.load(path) as file:
        return json.loads(str(file["settings"]))


def test_presets_are_listed_and_shown(cli):
    code, out, _ = cli("presets")
    assert code == 0
    assert all(name in out for name in PRESETS)
    assert max(map(len, out.splitlines())) < 80
    # Each is set out with all that it sets, what several share above them.
    for block in out.split("\n\n")[:-1]:
        text = " ".join(block.split())
        for name in PRESETS.keys() & set(text.split()):
            options = PRESETS[name].options
            assert PRESETS[name].source in text
            for key, value in options.items():
                word = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                assert {"True": key, "False": f"no {key}"}.get(word, f"{key} {word}") in text, (name, key)
    for name in PRESETS:
        assert max(map(len, cli("presets", name).out.splitlines())) < 80
    code, out, _ = cli("presets", "pds-church96-t157")
    assert code == 0
    for part in ("LSUN church, NCSNv2", "church96-ncsnv2", "0.2, 1.6", "supplement, Table 1", "3152"):
        assert part in out


def test_a_preset_that_is_overridden(cli, shipped, tmp_path):
    out = tmp_path / "a.npz"
    code, _, err = cli(
        "sample", shipped, "--preset", "pds-cifar10-t50", "--steps", 2, "--snr", 0.1, "--n", 1, "--out", out
    )
    assert code == 0
    assert "the preset pds-cifar10-t50 is for samples of shape" in err
    own = settings(out)
    assert [own[key] for key in ("preset", "sampler", "steps", "alpha", "snr")] == [
        "pds-cifar10-t50",
        "pds",
        2,
        1.8,
        0.1,
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--sampler", "ald", "--radial", "0.2,1.6"), {"radial": [0.2, 1.6]}),
        (("--sampler", "pds", "--alpha", 5, "--skew", "S1", "--omega", 2), {"skew": "S1", "omega": 2.0}),
        (("--sampler", "pds", "--alpha-relation", "2=5,4=9"), {"alpha": 5.0}),
        (("--sampler", "pc", "--alpha", 5, "--pixel", "--pixel-alpha", 8), {"alpha": 5.0, "pixel_alpha": 8.0}),
    ],
)
def test_preconditioners(words, expected, cli, shipped, tmp_path):
    out = tmp_path / "a.npz"
    code, _, err = cli("sample", shipped, *words, "--steps", 2, "--n", 1, "--out", out)
    assert code == 0, err
    assert {key: settings(out)[key] for key in expected} == expected


def test_what_cannot_be_read(refused, shipped, tmp_path):
    common = ("sample", shipped, "--sampler", "pds", "--out", tmp_path / "a.png")
    assert "--radial: '0.2' given; two numbers are needed" in refused(*common, "--radial", "0.2")
    assert "--alpha-relation: '5' given; pairs such as" in refused(*common, "--alpha-relation", "5")
    assert "preset: unknown name 'pds'" in refused("sample", shipped, "--preset", "pds", "--out", tmp_path / "a.png")
