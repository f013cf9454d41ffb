import formats
import pytest
import torch

import prescore
from prescore.checkpoints.labels import classes_of
from prescore.checkpoints.stored import ModelDescription, StoredModel, build
from prescore.denoiser import guided
from prescore.errors import PrescoreError
from prescore.models import SongUNet

SONG = {"img_resolution": 4, "in_channels": 1, "out_channels": 1, "model_channels": 8, "channel_mult": [1]}
SONG |= {"num_blocks": 1, "attn_resolutions": []}
SIGMA = torch.tensor(1.0)


def conditional(**arguments):
    network = SongUNet(**SONG | arguments, generator=torch.Generator().manual_seed(0))
    description = ModelDescription("SongUNet", SONG | arguments, "edm", {}, 0.01, 50.0, (1, 4, 4), name="dots")
    return build(StoredModel(description, network.state_dict()))


def one_hot(*classes):
    return torch.nn.functional.one_hot(torch.tensor(classes), 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return formats.diffusers(tmp_path_factory.mktemp("diffusers"), patch, classes=3)[0]


@pytest.fixture(params=["one-hot", "indices"])
def model(request, folder):
    return conditional(label_dim=3) if request.param == "one-hot" else prescore.load(folder)


def refusal(denoise, **condition):
    x = torch.zeros(2, *denoise.event_shape)
    with pytest.raises(PrescoreError) as caught:
        denoise(x, SIGMA, **condition)
    return str(caught.value)


@pytest.mark.parametrize(
    "labels",
    [one_hot(0, 2), one_hot(1), one_hot(0, 2).half(), one_hot(0, 2).double(), one_hot(0, 2) / 2 + one_hot(1, 1) / 2],
    ids=["rows", "one for all", "half", "double", "mixed"],
)
def test_rows_that_are_taken(labels):
    denoise = conditional(label_dim=3)
    assert denoise(torch.zeros(2, 1, 4, 4), SIGMA, class_labels=labels).isfinite().all()


@pytest.mark.parametrize("labels", [torch.tensor([0, 2]), torch.tensor([1]), torch.tensor([2, 0], dtype=torch.int32)])
def test_indices_that_are_taken(folder, labels):
    assert prescore.load(folder)(torch.zeros(2, 1, 4, 4), SIGMA, class_labels=labels).isfinite().all()


WRONG = {
    "indices for rows": (torch.arange(3), torch.arange(2.0)),
    "one for three": (one_hot(0, 1, 2), torch.arange(3)),
    "another width": (torch.eye(4)[:2], torch.zeros(2, 1, dtype=torch.int64)),
    "another axis": (one_hot(0, 1)[None], torch.zeros((), dtype=torch.int64)),
    "beyond the last": (3 * one_hot(0, 1), torch.tensor([0, 3])),
    "negative": (torch.tensor([[2.0, -1.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([0, -1])),
    "two classes": (one_hot(0, 1) + one_hot(1, 2), torch.tensor([True, False])),
    "no number": (torch.full((2, 3), torch.nan), torch.tensor([torch.nan, 0.0])),
    "complex": (one_hot(0, 1) + 0j, torch.zeros(2) + 0j),
    "no sample": (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
    "no class": (torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), None),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_are_none(model, name):
    is_one_hot = isinstance(model.function.model, SongUNet)
    labels = WRONG[name][not is_one_hot]
    message = refusal(model, class_labels=labels)
    assert message.startswith("class_labels: is missing" if labels is None else "class_labels: shape ")
    assert ("rows of 3 numbers, a 1 for the class" if is_one_hot else "whole numbers from 0 to 2") in message


def test_labels_of_the_other_kind_are_told_how_to_become_those(model):
    """And the way that is named makes some that are taken; also where the model is called by a sampler."""
    is_one_hot = isinstance(model.function.model, SongUNet)
    other, way = (
        (torch.tensor([0, 2]), "torch.nn.functional.one_hot(labels, 3)")
        if is_one_hot
        else (
            one_hot(0, 2),
            "labels.argmax(1)",
        )
    )
    assert refusal(model, class_labels=other).endswith(f"; {way} makes them of these")
    made = eval(way, {"torch": torch, "labels": other})
    assert model(torch.zeros(2, 1, 4, 4), SIGMA, class_labels=made).isfinite().all()
    with pytest.raises(PrescoreError, match=r"^class_labels: shape "):
        prescore.draw(model, 2, sampler="ddim", calls=3, condition={"class_labels": other}, progress=False)


def test_a_class_that_is_needed(model):
    for condition in ({}, {"class_labels": None}):
        assert refusal(model, **condition).startswith("class_labels: is missing; the model dots draws samples of a cl")


def test_an_answer_without_a_class_where_it_was_learned():
    denoise = conditional(label_dim=3, label_dropout=0.1)
    x = torch.zeros(2, 1, 4, 4)
    without = denoise(x, SIGMA)
    assert torch.allclose(without, denoise(x, SIGMA, class_labels=torch.zeros(2, 3)), atol=1e-6)
    assert guided(denoise, 2.0)(x, SIGMA, class_labels=one_hot(0, 1)).shape == x.shape
    assert "or of zeros for none" in refusal(denoise, class_labels=torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"class_labels": one_hot(0, 1)}, "condition: the model dots takes no 'class_labels'; it takes none"),
        ({"augment_labels": torch.zeros(2, 9)}, "condition: the model dots takes no 'augment_labels'"),
        ({"clas_labels": one_hot(0, 1)}, "condition: the model dots takes no 'clas_labels'"),
    ],
)
def test_conditions_that_a_model_does_not_take(condition, message):
    assert message in refusal(conditional(), **condition)
    denoise = conditional(label_dim=3, label_dropout=0.1)
    assert refusal(denoise, class_labels=[0, 1]) == "class_labels: a list given; a tensor is needed"
    named = refusal(denoise, clas_labels=one_hot(0, 1))
    assert named.endswith("did you mean class_labels?")


@pytest.mark.parametrize("labels", [torch.zeros(9), torch.zeros(3, 9), torch.zeros(2, 3)])
def test_rows_of_augmentations(labels):
    denoise = conditional(augment_dim=9)
    assert denoise(torch.zeros(2, 1, 4, 4), SIGMA, augment_labels=torch.ones(2, 9)).isfinite().all()
    assert refusal(denoise, augment_labels=labels).endswith("given for 2 samples; (B, 9) is needed")


@pytest.mark.parametrize(("kind", "shape"), [("timestep", (2,)), ("identity", (2, 16))])
def test_embeddings_instead_of_classes(kind, shape):
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    arguments = {"sample_size": 4, "in_channels": 1, "out_channels": 1, "block_out_channels": [4, 8]} | blocks
    arguments |= {"norm_num_groups": 2, "class_embed_type": kind, "num_class_embeds": 3, "attention_head_dim": 4}
    network = diffusers.UNet2DModel(**arguments)
    description = ModelDescription("UNet2DModel", arguments, "edm", {}, 0.01, 50.0, (1, 4, 4), name="dots")
    denoise = build(StoredModel(description, network.state_dict()))
    assert classes_of(description) is None
    assert denoise(torch.zeros(2, 1, 4, 4), SIGMA, class_labels=torch.zeros(shape)).isfinite().all()
    assert "class_labels: is missing" in refusal(denoise)
