import pickle
import shutil
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from formats import KINDS, edit_weights, write
from safetensors.torch import save_file
from support import relative

import prescore
from prescore.checkpoints import open_model, save_model
from prescore.checkpoints.detect import FORMATS, locate, read
from prescore.checkpoints.labels import classes_of
from prescore.errors import PrescoreError

EDITED = [kind for kind in KINDS if kind != "edm"]  # whose weights can be given other names
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=KINDS)
def model(request, tmp_path, monkeypatch):
    return request.param, *write(request.param, tmp_path, monkeypatch)


def answer(denoise):
    """What a model makes of an input of its own shape at three noise levels."""
    channels, *sides = denoise.event_shape
    x = X.repeat(1, channels, 1, 1)[:, :, : sides[0], : sides[1]].to(denoise.dtype)
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    sigmas = (denoise.sigma_min ** (1 - levels) * denoise.sigma_max**levels).to(denoise.dtype)
    with torch.no_grad():
        return torch.stack([denoise(x, sigma) for sigma in sigmas])


def test_every_format_is_found_by_its_content(model, tmp_path):
    kind, path, options = model
    other = path.with_name("no-ending")
    shutil.move(path, other)
    description, denoise = open_model(other, **options)
    assert denoise.event_shape == description.event_shape
    assert denoise.event_shape[0] in (1, 3)
    out = answer(denoise)
    assert out.shape == (3, 2, *denoise.event_shape)
    assert out.isfinite().all()
    assert torch.equal(answer(prescore.load(other, **options)), out)
    matching = [name for name, reader in FORMATS.items() if reader.matches(other)]
    assert len(matching) == 1
    assert kind.replace("-", "_")[:4] in matching[0].lower() or (kind, matching[0][:8]) == ("native", "prescore")


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-5), ("bfloat16", 8 * 0.02), ("float16", 0.02)])
def test_every_format_runs_in_other_precisions(model, dtype, limit):
    """bfloat16 has 3 bits less than float16."""
    kind, path, options = model
    if kind == "score-sde":  # angles of hundreds of radians are known to 3e-5 in float32
        limit = max(limit, 1e-4)
    other = prescore.load(path, **options, dtype=getattr(torch, dtype))
    expected = answer(prescore.load(path, **options))
    found = answer(other)
    assert other.dtype == found.dtype == torch.promote_types(getattr(torch, dtype), torch.float32)
    for level in range(len(expected)):
        assert relative(found[level], expected[level]) < limit


WRAPPED = {
    "none": lambda name: name,
    "compiled": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "twice": lambda name: f"module.module.{name}",
    "parts": lambda name: name.replace(".", "._orig_mod.", 1),
    "some": lambda name: f"module.{name}" if "weight" in name else name,
}


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("kind", EDITED)
def test_names_of_what_a_network_was_wrapped_in(kind, wrapped, tmp_path, monkeypatch):
    path, options = write(kind, tmp_path, monkeypatch)
    plain = {weights: read(path, weights=weights, **options) for weights in ("ema", *(["raw"] * (kind != "native")))}
    edit_weights(kind, path, lambda state: {WRAPPED[wrapped](n.removeprefix("module.")): v for n, v in state.items()})
    for weights, expected in plain.items():
        found = read(path, weights=weights, **options)
        assert found.description == expected.description
        assert found.state.keys() == expected.state.keys()
        assert all(torch.equal(value, expected.state[name]) for name, value in found.state.items())


@pytest.mark.parametrize("kind", EDITED)
def test_names_that_are_refused(kind, tmp_path, monkeypatch):
    path, options = write(kind, tmp_path, monkeypatch)
    edit_weights(kind, path, lambda state: state | {"module.a.b": torch.zeros(1), "a.b": torch.zeros(1)})
    with pytest.raises(PrescoreError, match=r"the weight 'a\.b' is there twice, once as '(module\.)?a\.b'$"):
        open_model(path, **options)
    path, options = write(kind, tmp_path, monkeypatch)
    edit_weights(kind, path, lambda state: state | {"\x1b[2Ja\nb": torch.zeros(1)})
    with pytest.raises(PrescoreError, match=r"the weight '\\x1b\[2Ja\\nb' does not belong to th") as caught:
        open_model(path, **options)
    assert str(caught.value).isprintable()


def shared(state):
    """All weights as views of the numbers of the largest one."""
    numbers = max(state.values(), key=torch.Tensor.numel).flatten().clone()
    return {name: numbers[: value.numel()].view(value.shape) for name, value in state.items()}


@pytest.mark.parametrize("kind", [kind for kind in EDITED if kind != "native"])  # whose format has no such weights
def test_weights_that_are_views_of_a_few_numbers(kind, tmp_path, monkeypatch):
    path, options = write(kind, tmp_path, monkeypatch)
    edit_weights(kind, path, shared)
    with pytest.raises(PrescoreError, match=r"its \w+: its tensors take \d+ bytes, of which only \d+ are stored"):
        open_model(path, **options)


@pytest.mark.parametrize("kind", [kind for kind in EDITED if kind != "native"])
def test_a_weight_under_two_names_is_opened_and_saved(kind, tmp_path, monkeypatch):
    path, options = write(kind, tmp_path, monkeypatch)

    def tied(state):
        [(shape, _)] = Counter(value.shape for value in state.values() if value.ndim > 1).most_common(1)
        first, second = [name for name, value in state.items() if value.shape == shape][:2]
        return state | {second: state[first]}

    edit_weights(kind, path, tied)
    stored = read(path, weights="raw", **options)
    storages = [value.untyped_storage().data_ptr() for value in stored.weights.values()]
    assert kind == "score-sde" or len(set(storages)) == len(storages) - 1  # that reader makes copies
    save_model(tmp_path / "saved.safetensors", stored.description, stored.state, None)
    written = read(tmp_path / "saved.safetensors", weights=stored.description.weights)
    assert written.state.keys() == stored.state.keys()
    assert all(torch.equal(value, stored.state[name]) for name, value in written.state.items())


def test_channels_last_changes_nothing_but_the_layout(model):
    _, path, options = model
    plain, last = prescore.load(path, **options), prescore.load(path, **options, channels_last=True)
    weights = [p for p in last.function.model.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert relative(answer(last), answer(plain)) < 1e-5


def test_raw_weights(model):
    kind, path, options = model
    if kind in ("native", "edm"):  # these hold one kind
        with pytest.raises(PrescoreError, match="weights"):
            prescore.load(path, **options, weights="raw")
        return
    description, raw = open_model(path, **options, weights="raw")
    assert description.weights == "raw"
    if kind in ("score-sde", "ncsnv2"):
        assert not torch.equal(answer(raw), answer(prescore.load(path, **options)))
    with pytest.raises(PrescoreError, match="weights: unknown value 'best'"):
        prescore.load(path, **options, weights="best")


def test_shipped_names_and_paths(tmp_path):
    assert locate("mnist-ve").name == "mnist-ve.safetensors"
    assert locate(tmp_path) == tmp_path
    with pytest.raises(PrescoreError, match=r"mnist-vee: no such file, .* did you mean mnist-ve or"):
        prescore.load("mnist-vee")


class Thing:
    """Something that a pickle may hold."""


def contents_of(path):
    """Files that are no models, and what is said about each."""
    np.save(path / "a.npy", np.zeros(3))
    save_file({"a": torch.zeros(1)}, path / "a.safetensors")
    torch.save({"a": torch.zeros(1)}, path / "a.pt")
    torch.save({"a": torch.zeros(1)}, path / "old.pt", _use_new_zipfile_serialization=False)
    (path / "a.pickle").write_bytes(pickle.dumps(Thing()))
    (path / "empty").write_bytes(b"")
    (path / "a.html").write_text("<!doctype html><title>404</title>")
    (path / "a.json").write_text('{"a": 1}')
    (path / "lfs").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    (path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (path / "bytes").write_bytes(bytes(range(1, 200)))
    with zipfile.ZipFile(path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    (path / "folder").mkdir()
    (path / "folder" / "b.txt").write_text("hello")
    (path / "nothing").mkdir()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.npy", "is a NumPy array"),
        ("a.safetensors", "not a prescore model (its header has no entry 'prescore')"),
        ("a.pt", "is a zip file that is no checkpoint of a known layout"),
        ("old.pt", "is a pickle that is no checkpoint of a known layout"),
        ("a.pickle", "is a pickle that is no checkpoint of a known layout"),
        ("empty", "is an empty file"),
        ("a.html", "is a page of HTML or XML, as a download that failed leaves behind"),
        ("a.json", "is a text file that starts as JSON"),
        ("lfs", "is a pointer of Git LFS instead of the file itself"),
        ("a.png", "is a PNG picture"),
        ("bytes", r"is a file that starts with b'\x01\x02\x03\x04\x05\x06\x07\x08'"),
        ("a.zip", "is a zip file that is no checkpoint of a known layout"),
        ("folder", "is a folder without the files of a model (it holds b.txt)"),
        ("nothing", "is a folder without the files of a model (it holds nothing)"),
    ],
)
def test_other_things_are_named(tmp_path, name, message):
    contents_of(tmp_path)
    with pytest.raises(PrescoreError) as caught:
        prescore.load(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")
    assert "\n" not in str(caught.value)
    if message.startswith("is "):
        assert str(caught.value).endswith(
            "what can be read: prescore's own safetensors, score_sde_pytorch .pth, NCSN and NCSNv2 .pth, EDM .pkl, "
            "diffusers folders"
        )


def test_a_name_that_is_too_long():
    with pytest.raises(PrescoreError, match=r"x: cannot be read \(File name too long\)$") as caught:
        open_model("x" * 5000)
    assert len(str(caught.value)) <= 1000


def test_what_is_not_there(tmp_path):
    with pytest.raises(PrescoreError, match=r"cannot be read \(No such file or directory\)"):
        read(tmp_path / "none")


def test_a_truncated_file_of_any_format_is_refused(model):
    _, path, options = model
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        whole = file.read_bytes()
        for length in (0, len(whole) // 2, len(whole.strip()) - 1):
            file.write_bytes(whole[:length])
            with pytest.raises(PrescoreError) as caught:
                prescore.load(path, **options)
            assert str(caught.value).count(str(path)) == 1
            assert "\n" not in str(caught.value)
        file.write_bytes(whole)
    prescore.load(path, **options)


@pytest.mark.parametrize("kind", ["edm", "diffusers"])
def test_classes(kind, tmp_path, monkeypatch):
    import formats

    path, options = getattr(formats, kind)(tmp_path, monkeypatch, 3)
    description, denoise = open_model(path, **options)
    classes = classes_of(description)
    assert (classes.count, classes.one_hot, classes.optional) == (3, kind == "edm", False)
    x, sigma = X[:, :, :4, :4].repeat(1, denoise.event_shape[0], 1, 1), torch.tensor(1.0)
    both = denoise(x, sigma, **classes.condition([2, 0]))
    alone = [denoise(x[k : k + 1], sigma, **classes.condition([c])) for k, c in enumerate((2, 0))]
    assert relative(both, torch.cat(alone)) < 1e-6
    assert relative(denoise(x, sigma, **classes.condition([1, 1])), both) > 1e-4
    with pytest.raises(PrescoreError, match="class: 3 given; the model has the classes 0 to 2"):
        classes.condition([0, 3])
    with pytest.raises(PrescoreError, match="class: -1 given"):
        classes.condition([-1])


def test_models_without_classes(tmp_path, monkeypatch):
    path, options = write("edm", tmp_path, monkeypatch)
    assert classes_of(open_model(path, **options)[0]) is None


def test_a_device_that_is_not_there():
    with pytest.raises(PrescoreError, match="device: 'cuda:99' cannot be used"):
        prescore.load("mnist-ve", device="cuda:99")
