"""Statistics files."""

import hashlib
import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import with_moments

from prescore import calibrate
from prescore.errors import PrescoreError
from prescore.statistics import FittedWeights, ModelStatistics, Tuning, load_statistics, save_statistics
from prescore.statistics.io import COMPONENTS, SCORE
from prescore.statistics.score import ScoreStatistics
from prescore.statistics.shrinkage import Shrinkage
from prescore.statistics.steps import PREDICTIONS, SolverErrors, StepErrors


@pytest.fixture
def statistics():
    x = torch.rand(5, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return calibrate(2 * x - 1, data_range=(-1, 1))


@pytest.fixture
def path(statistics, tmp_path):
    save_statistics(statistics, tmp_path / "s.safetensors")
    return tmp_path / "s.safetensors"


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def rewrite(path, tensors=None, **metadata):
    """The file with some of its tensors or metadata replaced; None removes one."""
    kept = {**load_file(path), **(tensors or {})}
    kept = {name: value for name, value in kept.items() if value is not None}
    texts = {name: text for name, text in {**metadata_of(path), **metadata}.items() if text is not None}
    save_file(kept, path, texts)


def test_round_trip_is_exact(statistics, path):
    loaded = load_statistics(path)
    for name in ("mean", "mean_square", "power", "power_centred", "cosine_variance", "scales"):
        assert torch.equal(getattr(loaded.moments, name), getattr(statistics.moments, name))
    for name in ("count", "event_shape", "axes", "data_range", "minimum", "maximum"):
        assert getattr(loaded.moments, name) == getattr(statistics.moments, name)
        assert type(getattr(loaded.moments, name)) is type(getattr(statistics.moments, name))
    assert loaded.version == statistics.version
    assert loaded.source == str(path)
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_what_the_file_says_of_itself(path):
    metadata = metadata_of(path)
    assert metadata["format"] == "prescore-statistics"
    values = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
    assert values["format_version"] == 1
    assert (values["count"], values["event_shape"], values["axes"]) == (5, [2, 4, 5], 2)
    assert values["data_range"] == [-1, 1]
    assert values["library_version"]


def test_writing_leaves_nothing_else_behind(statistics, path):
    save_statistics(statistics, path)
    assert [p.name for p in path.parent.iterdir()] == ["s.safetensors"]


def test_a_path_that_cannot_be_written(statistics, tmp_path):
    for path in (tmp_path / "no" / "s.safetensors", tmp_path):
        with pytest.raises(PrescoreError, match=f"{path.name}.*cannot be written|{path.name}.*folder"):
            save_statistics(statistics, path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(PrescoreError, match=path.name) as error:
            load_statistics(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 4, 100, 800, -1])
def test_a_truncated_file(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PrescoreError, match=r"s\.safetensors: not a whole safetensors file") as error:
        load_statistics(path)
    assert "\n" not in str(error.value)


def test_a_file_of_another_kind(path):
    path.write_bytes(b"not safetensors at all, but long enough to be read as a header")
    with pytest.raises(PrescoreError, match="not a whole safetensors file"):
        load_statistics(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(PrescoreError, match="not a statistics file; `prescore calibrate` writes one"):
        load_statistics(path)
    save_file({"weight": torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(PrescoreError, match="not a statistics file"):
        load_statistics(path)


def test_a_newer_version(path):
    rewrite(path, format_version="2", count=None)
    with pytest.raises(PrescoreError, match="format version 2, this library reads up to 1; upgrade it"):
        load_statistics(path)


# Numbers that none of ours are: not whole, not finite, of a thousand digits, and what a reader of JSON gives up on.
FORGED = ("NaN", "Infinity", "1" * 1000, "1" * 5000, "[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000)


@pytest.mark.parametrize(
    "metadata",
    [
        {"count": None},
        {"count": "many"},
        {"count": "[]"},
        {"event_shape": "3"},
        {"event_shape": '["x"]'},
        {"data_range": "[0]"},
        {"data_range": "[0, 1, 2]"},
        {"format_version": None},
        {"format_version": '"new"'},
        {"minimum": "null"},
        {"count": "0"},
        {"axes": "0"},
        {"axes": "true"},
        {"event_shape": "[2, 0, 5]"},
        *({name: text} for name in ("count", "axes", "format_version") for text in FORGED),
        *({name: text} for name in ("minimum", "maximum", "library_version") for text in FORGED[3:]),
        *({"event_shape": f"[2, 4, {text}]"} for text in FORGED),
        *({"data_range": f"[0, {text}]"} for text in FORGED[3:]),
    ],
)
def test_unreadable_metadata(path, metadata):
    rewrite(path, **metadata)
    with pytest.raises(PrescoreError, match="damaged statistics file, its metadata cannot be read"):
        load_statistics(path)


@pytest.mark.parametrize("name", ["minimum", "maximum", "data_range"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_metadata_that_are_not_finite(path, name, number):
    rewrite(path, **{name: f"[0, {number}]" if name == "data_range" else number})
    with pytest.raises(PrescoreError, match="damaged statistics file, its metadata have numbers that are not finite"):
        load_statistics(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"axes": "4"},
        {"data_range": "[1, 0]"},
        {"minimum": "0.9", "maximum": "0.1"},
        {"data_range": "[0, 1e-300]"},  # of values that are far apart
        {"data_range": "[1, 1.0000000000000002]"},
    ],
)
def test_contradictory_metadata(path, metadata):
    rewrite(path, **metadata)
    with pytest.raises(PrescoreError, match="its metadata contradict each other"):
        load_statistics(path)


@pytest.mark.parametrize("width", [1e-300, 5e-324, 1e101, 1e308])
def test_a_data_range_whose_square_is_no_number(path, width):
    rewrite(path, data_range=f"[0, {width!r}]", minimum="0.0", maximum="0.0")
    with pytest.raises(PrescoreError, match=re.escape(f"damaged statistics file, its data_range is {width:g} wide")):
        load_statistics(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("power", None, "tensor power is missing"),
        (
            "mean",
            torch.ones(2, 4, 4, dtype=torch.float64),
            r"tensor mean is torch\.float64 \(2, 4, 4\), not float64 \(2, 4, 5\)",
        ),
        ("power_centred", torch.ones(2, 4, 5, dtype=torch.float64), r"not float64 \(2, 4, 3\)"),
        ("mean_square", torch.ones(2, 4, 5), r"tensor mean_square is torch\.float32"),
        ("power", torch.full((2, 4, 3), torch.nan, dtype=torch.float64), "tensor power has values that are not finite"),
        ("scales", torch.tensor([-1.0, 3.0], dtype=torch.float64), "tensor scales has negative values"),
        ("scales", torch.empty(0, dtype=torch.float64), r"tensor scales is torch\.float64 \(0,\), not float64 \(1,\)"),
    ],
)
def test_unusable_tensors(path, name, value, message):
    rewrite(path, {name: value})
    with pytest.raises(PrescoreError, match=message):
        load_statistics(path)


def test_early_files_have_neither_cosines_nor_scales(path):
    rewrite(path, {"cosine_variance": None, "scales": None})
    loaded = load_statistics(path)
    assert loaded.moments.cosine_variance is None
    assert loaded.moments.scales is None


@pytest.fixture
def full(tmp_path):
    """Statistics with components and a score, and their file."""
    x = torch.rand(9, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = ScoreStatistics(
        levels=torch.tensor([3.0, 1.0, 0.1], dtype=torch.float64),
        score_square=torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64),
        residual_square=torch.tensor([0.01, 0.5, 0.8], dtype=torch.float64),
        count=7,
        model="some model",
    )
    rows = torch.rand(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    steps = StepErrors(
        levels=torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64),
        widths=torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64),
        variances=torch.tensor([0.1, 1.0], dtype=torch.float64),
        shares=torch.tensor([0.75, 0.25], dtype=torch.float64),
        solvers={name: SolverErrors.of(k * rows) for k, name in enumerate(PREDICTIONS)},
        count=6,
        model="some model",
    )
    statistics = replace(
        calibrate(x, components=3),
        model=ModelStatistics(score=score, steps=steps),
        tuning=Tuning(rules={"unipc": {5: "gaussian", 8: 0.25}}),
    )
    save_statistics(statistics, tmp_path / "f.safetensors")
    return statistics, tmp_path / "f.safetensors"


def test_components_and_score_come_back(full):
    statistics, path = full
    loaded = load_statistics(path)
    for name in COMPONENTS:
        assert torch.equal(getattr(loaded.moments, name), getattr(statistics.moments, name))
    assert loaded.moments.remainder_variance == statistics.moments.remainder_variance
    for name in ("levels", "score_square", "residual_square"):
        assert torch.equal(getattr(loaded.model.score, name), getattr(statistics.model.score, name))
    assert (loaded.model.score.count, loaded.model.score.model) == (7, "some model")


def test_errors_of_steps_come_back(full):
    steps, loaded = full[0].model.steps, load_statistics(full[1]).model.steps
    for name in ("levels", "widths", "variances", "shares"):
        assert torch.equal(getattr(loaded, name), getattr(steps, name))
    for name in PREDICTIONS:
        for part in ("first", "inner", "last"):
            assert torch.equal(getattr(loaded.solvers[name], part), getattr(steps.solvers[name], part))
    assert (loaded.count, loaded.model) == (6, "some model")
    assert loaded.solvers["gaussian"].inner.shape == (3, 4)
    assert load_statistics(full[1]).tuning.rules == {"unipc": {5: "gaussian", 8: 0.25}}


def test_guidance_comes_back_and_is_1_where_nothing_is_said(full):
    statistics, path = full
    assert load_statistics(path).model.guidance == 1
    save_statistics(replace(statistics, model=replace(statistics.model, guidance=2.5)), path)
    assert load_statistics(path).model.guidance == 2.5
    save_statistics(replace(statistics, model=replace(statistics.model, guidance="strong")), path)
    with pytest.raises(PrescoreError, match="its guidance 'strong' is not a finite number"):
        load_statistics(path)


def test_files_without_them_have_none(path):
    loaded = load_statistics(path)
    assert (
        loaded.moments.components,
        loaded.moments.component_variances,
        loaded.moments.remainder_variance,
        loaded.model.score,
    ) == (None,) * 4
    assert (loaded.model.score, loaded.model.steps) == (None, None)


def test_tensors_that_share_memory_are_written(full):
    statistics, path = full
    save_statistics(with_moments(statistics, mean_square=statistics.moments.mean), path)
    assert torch.equal(load_statistics(path).moments.mean_square, statistics.moments.mean)


def test_each_comes_without_the_other(full):
    statistics, path = full
    save_statistics(replace(statistics, model=ModelStatistics()), path)
    assert load_statistics(path).model.score is None
    assert load_statistics(path).moments.components.shape == (3, 2, 4, 5)
    save_statistics(
        replace(statistics, moments=replace(statistics.moments, components=None, component_variances=None)), path
    )
    assert load_statistics(path).model.score.model == "some model"
    assert load_statistics(path).moments.components is None


F64 = torch.float64


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("component_variances", None, "tensor component_variances is missing"),
        ("component_variances", torch.ones(2, dtype=F64), r"\(2,\), not float64 \(3,\)"),
        ("component_variances", -torch.ones(3, dtype=F64), "tensor component_variances has negative values"),
        ("components", torch.ones(3, 2, 4, dtype=F64), r"tensor components is torch\.float64 \(3, 2, 4\)"),
        ("components", torch.ones((), dtype=F64), "tensor components is"),
        ("components", torch.ones(0, 2, 4, 5, dtype=F64), "tensor components is"),
        ("score_square", None, "tensor score_square is missing"),
        ("residual_square", torch.ones(2, dtype=F64), r"\(2,\), not float64 \(3,\)"),
        ("score_square", torch.full((3,), torch.nan, dtype=F64), "values that are not finite"),
        ("residual_square", -torch.ones(3, dtype=F64), "tensor residual_square has negative values"),
        ("score_levels", torch.ones(3, dtype=F64), "score_levels is not a row of decreasing noise levels"),
        ("score_levels", torch.tensor([1.0, 0.5, 0.0], dtype=F64), "score_levels is not a row of decreasing"),
        ("score_levels", torch.ones(1, 3, dtype=F64), r"\(1, 3\), not float64 \(3,\)"),
        ("step_widths", None, "tensor step_widths is missing"),
        ("step_widths", torch.tensor([1.0, 0.5, 2.0], dtype=F64), "step_widths is not a row of rising widths"),
        ("step_levels", torch.ones(4, dtype=F64), "step_levels is not a row of decreasing noise levels"),
        ("step_shares", torch.ones(3, dtype=F64), r"\(3,\), not float64 \(2,\)"),
        ("step_errors_data", None, "tensor step_errors_data is missing"),
        ("step_errors_data", torch.ones(4, 4, dtype=F64), r"\(4, 4\), not float64 \(5, 4\)"),
        ("step_errors_gaussian", -torch.ones(5, 4, dtype=F64), "tensor step_errors_gaussian has negative values"),
    ],
)
def test_unusable_optional_tensors(full, name, value, message):
    rewrite(full[1], {name: value})
    with pytest.raises(PrescoreError, match=message) as error:
        load_statistics(full[1])
    assert "\n" not in str(error.value)


def test_one_level_is_not_a_row(full):
    rewrite(full[1], {name: torch.ones(1, dtype=F64) for name in SCORE})
    with pytest.raises(PrescoreError, match="score_levels is not a row of decreasing noise levels"):
        load_statistics(full[1])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3", "is not a table of rules"),
        ('{"unipc": 3}', "is not a table of rules"),
        ('{"unipc": {"five": 0.5}}', "is not a table of rules"),
        ('{"unipc": {"0": 0.5}}', "has the rule 0.5 for 0 steps of unipc"),
        ('{"unipc": {"5": "karras"}}', "has the rule 'karras' for 5 steps of unipc"),
        ('{"unipc": {"5": -1}}', "has the rule -1 for"),
        ('{"unipc": {"5": Infinity}}', "has the rule inf for"),
        ('{"unipc": {"5": NaN}}', "has the rule nan for"),
        ('{"unipc": {"5": true}}', "has the rule True for"),
        ('{"unipc": {"5": [1]}}', r"has the rule \[1\] for"),
    ],
)
def test_unusable_rules(full, value, message):
    rewrite(full[1], step_tried=value)
    with pytest.raises(PrescoreError, match=f"damaged statistics file, step_tried in its metadata {message}"):
        load_statistics(full[1])


@pytest.mark.parametrize(
    "metadata", [{"score_count": None}, {"score_count": '"x"'}, {"score_model": None}, {"step_count": None}]
)
def test_unreadable_metadata_of_a_measurement(full, metadata):
    rewrite(full[1], **metadata)
    with pytest.raises(PrescoreError, match="damaged statistics file, its metadata cannot be read"):
        load_statistics(full[1])


@pytest.fixture
def fitted(statistics, tmp_path):
    fit = FittedWeights(
        levels=torch.tensor([9.0, 1.0, 0.0], dtype=torch.float64),
        edges=torch.tensor([0.5], dtype=torch.float64),
        weights=torch.arange(16, dtype=torch.float64).reshape(2, 2, 4),
        gains=torch.tensor([1.0, 1.1], dtype=torch.float64),
        errors={"p-fit": 0.1, "unipc": 0.2},
        count=3,
        model="m",
    )
    save_statistics(replace(statistics, tuning=Tuning(fits={2: fit})), tmp_path / "f.safetensors")
    return fit, tmp_path / "f.safetensors"


def test_fitted_weights_are_kept_exactly(fitted):
    fit, path = fitted
    (loaded,) = load_statistics(path).tuning.fits.values()
    for name in ("levels", "edges", "weights", "gains"):
        assert torch.equal(getattr(loaded, name), getattr(fit, name))
    assert (loaded.errors, loaded.count, loaded.model) == (fit.errors, 3, "m")


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"fit_2_gains": None}, {}),
        ({"fit_2_gains": torch.zeros(2, dtype=torch.float64)}, {}),
        ({"fit_2_gains": torch.ones(2)}, {}),
        ({"fit_2_weights": torch.zeros(3, 2, 4, dtype=torch.float64)}, {}),
        ({"fit_2_weights": torch.zeros(2, 2, 1, dtype=torch.float64)}, {}),
        ({"fit_2_weights": torch.full((2, 2, 4), torch.inf, dtype=torch.float64)}, {}),
        ({"fit_2_weights": torch.zeros((), dtype=torch.float64)}, {}),
        ({"fit_2_gains": torch.ones((), dtype=torch.float64)}, {}),
        ({"fit_2_edges": torch.ones(3, dtype=torch.float64)}, {}),
        ({"fit_2_levels": torch.tensor([1.0, 9.0, 0.0], dtype=torch.float64)}, {}),
        ({"fit_2_levels": torch.tensor([9.0, 1.0, 0.5], dtype=torch.float64)}, {}),
        ({}, {"fits": "[]"}),
        ({}, {"fits": '{"two": {}}'}),
        ({}, {"fits": '{"2": {}}'}),
        ({}, {"fits": '{"0": {"errors": {"p-fit": 1}, "count": 1, "model": ""}}'}),
        ({}, {"fits": '{"2": {"errors": {"unipc": 1}, "count": 1, "model": ""}}'}),
        ({}, {"fits": '{"2": {"errors": {"p-fit": NaN}, "count": 1, "model": ""}}'}),
        ({}, {"fits": '{"2": {"errors": {"p-fit": 1}, "count": 0, "model": ""}}'}),
        ({}, {"fits": '{"2": {"errors": {"p-fit": 1, "x": -1}, "count": 1, "model": ""}}'}),
    ],
)
def test_unusable_fitted_weights(fitted, tensors, metadata):
    path = fitted[1]
    rewrite(path, tensors, **metadata)
    with pytest.raises(PrescoreError, match=r"damaged statistics file, .*fit"):
        load_statistics(path)


def with_shrinkage(statistics, path):
    known = Shrinkage(
        levels=torch.tensor([3.0, 1.0], dtype=torch.float64),
        edges=torch.tensor([0.2, 0.1], dtype=torch.float64),
        weights=torch.tensor([[0.0, 0.1, 0.0], [1.0, 0.5, 0.2]], dtype=torch.float64),
    )
    save_statistics(replace(statistics, model=ModelStatistics(shrinkage=known)), path)
    return known


def test_a_shrinkage_is_kept(statistics, path):
    known = with_shrinkage(statistics, path)
    loaded = load_statistics(path).model.shrinkage
    for name in ("levels", "edges", "weights"):
        assert torch.equal(getattr(loaded, name), getattr(known, name))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("levels", torch.tensor([1.0, 3.0], dtype=torch.float64), "not a row of decreasing noise levels"),
        ("edges", torch.tensor([0.1, 0.2], dtype=torch.float64), "edges of its shrinkage do not decrease"),
        ("edges", None, "shrinkage_edges is not float64"),
        ("weights", torch.full((2, 3), 1.5, dtype=torch.float64), "a weight is not from 0 to 1"),
        ("weights", torch.zeros(3, 3, dtype=torch.float64), r"shrinkage_weights is not float64 \(2, 3\)"),
        ("weights", torch.full((2, 3), torch.nan, dtype=torch.float64), "all finite"),
    ],
)
def test_a_damaged_shrinkage(statistics, path, name, value, message):
    with_shrinkage(statistics, path)
    rewrite(path, {f"shrinkage_{name}": value})
    with pytest.raises(PrescoreError, match=message):
        load_statistics(path)
