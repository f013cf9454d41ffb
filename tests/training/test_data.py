import io
import zipfile

import numpy as np
import pytest
import torch
from runs import digits

from prescore.errors import PrescoreError
from prescore.training.data import TrainingData, load_labels

LABELS = torch.tensor([0, 2, 1])


@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0), (-5.0, 2.0)])
def test_bytes_and_unit_floats_are_scaled_alike(data_range):
    images = digits(3)
    a = TrainingData(images).scaled(images, data_range)
    b = TrainingData(images.float() / 255).scaled(images.float() / 255, data_range)
    assert torch.equal(a, b)
    assert a.dtype == torch.float32
    low, high = data_range
    assert torch.allclose(a.double(), low + (high - low) * images.double() / 255, atol=1e-6)


def test_floats_in_the_units_of_the_model_are_left_alone():
    fields = 10 * torch.rand(3, 1, 4, 4, dtype=torch.float64) - 5
    data = TrainingData(fields, (-5.0, 5.0))
    assert torch.equal(data.scaled(fields, (-5.0, 5.0)), fields.float())
    assert torch.allclose(data.scaled(fields, (-1.0, 1.0)), fields.float() / 5, atol=1e-6)
    assert torch.allclose(data.scaled(fields, (0.0, 1.0)), fields.float() / 10 + 0.5, atol=1e-6)


def test_root_mean_square_in_parts():
    images = digits(2500)
    expected = (images.double() / 255).square().mean().sqrt().item()
    assert TrainingData(images).root_mean_square((0.0, 1.0)) == pytest.approx(expected, rel=1e-6)


def test_largest_distance_is_that_of_the_two_examples_that_differ_most():
    images = digits(30)
    x = images.double().flatten(1) / 255 * 2 - 1
    expected = max((a - b).norm().item() for a in x for b in x)
    assert TrainingData(images).largest_distance((-1.0, 1.0)) == pytest.approx(expected, rel=1e-5)


def test_other_values_order_or_labels_have_another_fingerprint():
    images = digits(3)
    versions = [TrainingData(images), TrainingData(images.flip(0)), TrainingData(images, labels=LABELS)]
    versions += [TrainingData(images, labels=LABELS.flip(0)), TrainingData(digits(3, seed=1))]
    assert len({data.fingerprint for data in versions}) == 5
    assert TrainingData(images.clone()).fingerprint == versions[0].fingerprint


def test_classes_are_counted():
    assert TrainingData(digits(3), labels=LABELS).classes == 3
    assert TrainingData(digits(3)).classes == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(0, 1, 4, 4),), "N at least 1"),
        ((torch.zeros(3, 1, 4, 4, dtype=torch.int64),), "examples: dtype torch.int64"),
        ((torch.full((3, 1, 4, 4), 1.5),), "examples: values from 1.5 to 1.5"),
        ((torch.full((3, 1, 4, 4), torch.nan),), "examples: values from nan"),
        ((torch.zeros(3, 1, 4, 4), (1.0, 0.0)), "data_range"),
        ((digits(3), (0.0, 1.0), torch.tensor([0, 1])), r"labels: shape \(2,\); one whole number for each of the 3"),
        ((digits(3), (0.0, 1.0), torch.tensor([0, -1, 1])), "labels: values from -1 to 1"),
        ((digits(3), (0.0, 1.0), torch.tensor([0, 1, 70_000])), "labels: values from 0 to 70000"),
    ],
)
def test_wrong_data(arguments, message):
    with pytest.raises(PrescoreError, match=message):
        TrainingData(*arguments)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_of_an_npz(tmp_path, dtype):
    np.savez(tmp_path / "d.npz", labels=np.array([0, 2, 1], dtype), column=np.array([[0], [2], [1]], dtype))
    assert load_labels(tmp_path / "d.npz", "labels", 3).tolist() == [0, 2, 1]
    assert load_labels(tmp_path / "d.npz", "column", 3).tolist() == [0, 2, 1]


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_wrong_labels(tmp_path):
    path = tmp_path / "d.npz"
    arrays = {
        "labels": np.arange(3),
        "words": np.array(["a"]),
        "large": np.zeros(20_000, np.int64),
        "real": np.zeros(3),
    }
    np.savez(path, **arrays, rows=np.eye(4)[:3], ones=np.eye(4, dtype=np.int64)[:3])
    with zipfile.ZipFile(path, "a") as archive:
        pickled = io.BytesIO()
        np.save(pickled, np.array([Evil()], dtype=object), allow_pickle=True)
        archive.writestr("evil.npy", pickled.getvalue())
        archive.writestr("cut.npy", pickled.getvalue()[:20])
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
        archive.writestr("huge.npy", header.getvalue() + bytes(24))
    for key, count, message in [
        ("label", 3, "has no array 'label'; it has labels, words"),
        ("labels", 4, r"labels: shape \(3,\); one whole number for each of the 4"),
        ("words", 3, "<U1 values; whole numbers"),
        ("real", 3, r"float64 values; whole numbers are needed, labels.astype\(int\)"),
        ("large", 3, "is larger than one number"),
        ("rows", 3, r"rows\]: rows of 4 numbers, as of one-hot labels; one whole .*, labels.argmax\(1\)"),
        ("ones", 3, r"ones\]: rows of 4 numbers, as of one-hot labels"),
        ("evil", 3, "object values; whole numbers"),
        ("cut", 3, "cannot be read"),
        ("huge", 3, r"huge\]: damaged, its header promises 8000000000000 bytes and 24 are there"),
    ]:
        with pytest.raises(PrescoreError, match=message):
            load_labels(path, key, count)
    with pytest.raises(PrescoreError, match=r"is not an \.npz file"):
        load_labels(tmp_path, "labels", 3)
    (tmp_path / "bad.npz").write_bytes(b"PK not a zip")
    with pytest.raises(PrescoreError, match="cannot be read"):
        load_labels(tmp_path / "bad.npz", "labels", 3)
