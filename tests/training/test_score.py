import dataclasses

import pytest
import torch
from runs import digits, tiny
from support import relative

from prescore.checkpoints import open_model
from prescore.checkpoints.labels import Classes, classes_of
from prescore.denoiser import from_flow
from prescore.errors import PrescoreError
from prescore.plan import plan
from prescore.training import score
from prescore.training.augment import augmentation_labels, augmented
from prescore.training.data import TrainingData
from prescore.training.losses import LOSSES
from prescore.training.recipes import find_recipe
from prescore.training.state import generator_of_step

NAMES = ("ncsn", "ncsnv2", "ve", "vp", "flow", "edm")
LABELLED = TrainingData(digits(9), labels=torch.arange(9) % 3)


def parts(task, count=4):
    """(network, objective, batch) of a first step."""
    network = task.build(generator_of_step(0, -1))
    return network, task.objective(network), task.batch(task.draw(count, generator_of_step(0, 0)).part(0, count))


@pytest.mark.parametrize(
    ("name", "loss"), [*(("edm", loss) for loss in LOSSES), *((name, "ssm-vr") for name in NAMES if name != "edm")]
)
def test_losses_train_the_networks_of_recipes(name, loss):
    changes = {"attn_resolutions": (4,)} if name in ("ve", "vp", "flow", "edm") else {}
    task, _ = tiny(name, loss=loss, **changes)
    network, objective, batch = parts(task)
    value = objective(0, **batch)
    value.backward()
    assert value.shape == ()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert any(g.any() for g in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_recipe_is_that_of_the_table(name):
    """weight |D - x0|^2, with the weight of the row written out."""
    task, _ = tiny(name)
    network, objective, batch = parts(task)
    x0, n, sigma = (batch[key].double() for key in ("x0", "n", "sigma"))
    level = sigma.reshape(-1, 1, 1, 1)
    with torch.no_grad():
        error = task._preconditioned(network)(x0 + level * n, sigma) - x0
    sd = task.sigma_data
    weight = {"edm": (level**2 + sd**2) / (level * sd) ** 2, "ve": 1 / level**2, "vp": 1 / level**2}
    weight["flow"] = (1 + 1 / level) ** 2
    expected = (weight.get(name, 1 / (2 * level**2)) * error**2).mean()
    assert objective(0, **batch).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_loss_of_flow_matching_is_that_of_n_minus_x0():
    task, _ = tiny("flow")
    network, objective, batch = parts(task, 8)
    x0, n, t = batch["x0"].double(), batch["n"].double(), (batch["sigma"].double() / (1 + batch["sigma"].double()))
    t = t.reshape(-1, 1, 1, 1)
    with torch.no_grad():
        v = network(((1 - t) * x0 + t * n).float(), (1000 * t).flatten().float())
    assert objective(0, **batch).item() == pytest.approx((v - (n - x0)).square().mean().item(), rel=1e-4)
    times = task.draw(1000, generator_of_step(0, 0)).numbers["sigma"].double()
    times = (times / (1 + times)).sort().values
    torch.testing.assert_close(times, torch.linspace(1e-3, 1, 1000).double(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("noise", [{}, {"noise": "log-normal", "P_mean": 0.0, "P_std": 1.0, "sigma_max": 200.0}])
def test_the_file_of_a_flow_model_is_that_of_from_flow(tmp_path, noise):
    task, _ = tiny("flow", **noise)
    network = task.build(generator_of_step(0, -1)).eval()
    task.save(tmp_path / "m.safetensors", network.state_dict(), "m", {})
    model = open_model(tmp_path / "m.safetensors")[1]
    own = from_flow(network)
    if not noise:
        assert (model.sigma_min, model.sigma_max) == (own.sigma_min, own.sigma_max)
    x = torch.randn(4, *model.event_shape, generator=torch.Generator().manual_seed(0))
    for level in (0.01, 1.0, 50.0, 1e9):
        sigma = torch.tensor(level)
        with torch.no_grad():
            expected = own(x * (1 + level), sigma)
            torch.testing.assert_close(model(x * (1 + level), sigma), expected, rtol=2e-3, atol=2e-3)
    samples = plan(model, sampler="dpmpp-2m", calls=6).sample([0, 1], progress=False)
    assert samples.abs().max() < 10
    assert task.preview(network, 2, 0).abs().max() < 10


def test_the_scores_of_ncsn_begin_with_the_size_they_will_have():
    """1 / sigma, within a factor of 3, from sigma = 1 to 0.01."""
    task, _ = tiny("ncsn")
    network = task.build(generator_of_step(0, -1))
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    sizes = [network(x, torch.tensor([label])).std().item() for label in (0, 9)]
    assert 100 / 3 < sizes[1] / sizes[0] < 300


def test_sigma_data_is_measured_in_the_units_of_the_model():
    task, _ = tiny("edm")
    x = 2 * digits().double() / 255 - 1
    assert task.sigma_data == pytest.approx(x.square().mean().sqrt().item(), rel=1e-6)
    assert task.describe("m", {}).preconditioning_arguments == {"sigma_data": task.sigma_data}


def test_examples_are_drawn_scaled_and_mirrored():
    task, _ = tiny("edm", flip=True)
    numbers = task.draw(200, generator_of_step(0, 0)).part(0, 200)
    batch = task.batch(numbers)
    x = task.data.scaled(task.data.examples[numbers["index"]], (-1.0, 1.0))
    is_flipped = numbers["is_flipped"]
    assert torch.equal(batch["x0"][is_flipped], x[is_flipped].flip(3))
    assert torch.equal(batch["x0"][~is_flipped], x[~is_flipped])
    assert 70 < is_flipped.sum() < 130


def test_options_draw_after_the_others():
    """So that a choice changes no number that was drawn without it."""
    plain, _ = tiny("edm")
    more, _ = tiny("edm", LABELLED, flip=True, dropout=0.2, label_dropout=0.1, loss="ssm")
    a, b = (task.draw(4, generator_of_step(0, 3)).numbers for task in (plain, more))
    assert torch.equal(a["n"], b["n"])
    assert torch.equal(a["sigma"], b["sigma"])


def test_augmentation_and_its_labels_go_together():
    task, _ = tiny("edm", augment=0.5)
    numbers = task.draw(4, generator_of_step(0, 0)).part(0, 4)
    batch, a = task.batch(numbers), numbers["augmentation"]
    x = task.data.scaled(task.data.examples[numbers["index"]], (-1.0, 1.0))
    assert torch.equal(batch["x0"], augmented(x, a))
    assert torch.equal(batch["augment_labels"], augmentation_labels(a))
    assert task.describe("m", {}).arguments["augment_dim"] == 9
    network, objective, batch = parts(task)
    for parameter in network.parameters():  # at first the outputs are nearly zero
        parameter.data.normal_(0, 0.3, generator=generator_of_step(0, 0))
    without = {name: value for name, value in batch.items() if name != "augment_labels"}
    assert objective(0, **batch).item() != objective(0, **without).item()


def test_classes_are_one_hot_and_sometimes_left_out():
    task, _ = tiny("edm", LABELLED, label_dropout=0.3)
    numbers = task.draw(1000, generator_of_step(0, 0)).part(0, 1000)
    labels = task.batch(numbers)["class_labels"]
    expected = torch.nn.functional.one_hot(LABELLED.labels[numbers["index"]], 3).float()
    is_left_out = (labels == 0).all(1)
    assert torch.equal(labels[~is_left_out], expected[~is_left_out])
    assert is_left_out.float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert task.describe("m", {}).arguments["label_dim"] == 3


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_model_file_tells_whether_there_is_an_answer_without_a_class(tmp_path, share):
    """It is the objective that leaves classes out: the network of the run must not do so again."""
    task, _ = tiny("edm", LABELLED, label_dropout=share)
    network = task.build(generator_of_step(0, -1))
    assert network.label_dropout == 0
    task.save(tmp_path / "model.safetensors", network.state_dict(), "model", {})
    description, denoise = open_model(tmp_path / "model.safetensors")
    assert classes_of(description) == Classes(3, one_hot=True, optional=share > 0)
    x, sigma = torch.zeros(2, 1, 4, 4), torch.tensor(1.0)
    if share:
        assert relative(denoise(x, sigma), denoise(x, sigma, class_labels=torch.zeros(2, 3))) < 1e-5
    else:
        with pytest.raises(PrescoreError, match="class_labels: is missing; the model model draws samples of a class"):
            denoise(x, sigma)


@pytest.mark.parametrize("name", ["ncsnv2", "edm"])
def test_previews_are_samples_that_move_no_random_state(name, monkeypatch):
    monkeypatch.setattr(score, "PREVIEW_STEPS", 3)
    task, _ = tiny(name, LABELLED if name == "edm" else None)
    network, before = task.build(generator_of_step(0, -1)), torch.get_rng_state()
    a, b = (task.preview(network, 3, seed=0) for _ in range(2))
    assert a.shape == (3, 1, 4, 4)
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "ncsm"}, "network: unknown value 'ncsm'; did you mean ncsn"),
        ({"noise": "log-unifrom"}, "noise: unknown value 'log-unifrom'; did you mean log-uniform"),
        ({"network": "ncsn"}, "preconditioning: edm does not go with the network ncsn; give score-labels"),
        ({"network": "ncsn", "preconditioning": "score-labels"}, "noise: log-normal does .* ncsn, .*; give levels"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min 2.0, sigma_max 1.0"),
        ({"sigma_data": -1.0}, "sigma_data: -1.0 is not a positive number"),
        ({"augment": 1.5}, "augment: 1.5 is not a probability"),
        ({"augment": 0.1, "flip": True}, "flip: non-leaky augmentation mirrors already"),
        ({"dropout": 1.0}, "dropout: 1.0 is not in"),
        ({"num_blocks": 0}, "num_blocks: 0 is less than 1"),
        ({"sigma_max": 0.0}, "sigma_max: 0.0 is not a positive number"),
        ({"sigma_max": float("nan")}, "sigma_max: nan is not a positive number"),
        ({"channel_mult": ()}, r"channel_mult: \(\) given; a whole number"),
        ({"channel_mult": (1, 0)}, r"channel_mult: \(1, 0\) given"),
        ({"data_range": (1.0, -1.0)}, r"data_range: \(1.0, -1.0\) is not an interval"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(PrescoreError, match=message):
        dataclasses.replace(find_recipe("edm").settings, **changes)


@pytest.mark.parametrize(
    ("recipe", "data", "changes", "message"),
    [
        ("edm", TrainingData(torch.zeros(3, 1, 4, 5)), {}, "examples: 5 x 4 pixels; ddpmpp needs squares"),
        ("edm", TrainingData(digits(3, 6)), {"channel_mult": (1, 1, 1)}, "img_resolution: 6 cannot be halved"),
        ("ncsn", LABELLED, {}, "labels: the network ncsn takes no classes"),
        ("edm", None, {"label_dropout": 0.1}, "label_dropout: does nothing without labels"),
        (
            "edm",
            TrainingData(digits(3), labels=torch.arange(1, 4)),
            {},
            "labels: no example is of the class 0, .* 0 to 2",
        ),
        (
            "edm",
            TrainingData(digits(3), labels=torch.tensor([4, 0, 0])),
            {},
            "no example .* 1, .* 2 classes from 0 to 1",
        ),
        ("edm", TrainingData(digits(3, 32)), {"loss": "ism"}, "loss: ism needs one backward pass for each of 1024"),
        ("ncsn", None, {"levels": 0}, "levels: 0 noise levels; at least 2"),
        ("ncsnv2", TrainingData(digits(1)), {}, "sigma_max: no two examples are further apart than 0"),
        ("edm", TrainingData(torch.zeros(3, 1, 4, 4)), {"data_range": (0.0, 1.0)}, "sigma_data: the data are all 0"),
    ],
)
def test_data_that_do_not_fit(recipe, data, changes, message):
    with pytest.raises(PrescoreError, match=message):
        tiny(recipe, data, **changes)[0].build(torch.Generator())


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("edm", {"model_channels": 10**9}, "the network has .* numbers, whose training takes .* GB, and there are"),
        ("edm", {"model_channels": 10**5}, "the network has .* numbers, whose training takes .* GB, and there are"),
        ("edm", {"num_blocks": 10**9}, "the network has more than 50000 parts; make it smaller"),
        ("ncsn", {"model_channels": 10**9}, "the network has .* numbers, whose training takes .* GB, and there are"),
    ],
)
def test_a_network_for_no_machine_is_refused_before_it_is_built(recipe, changes, message):
    with pytest.raises(PrescoreError, match=message):
        tiny(recipe, **changes)[0].build(torch.Generator())
