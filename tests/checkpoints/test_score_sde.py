import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from support import REFERENCE, relative

from prescore.checkpoints import load, ncsn, score_sde
from prescore.checkpoints.score_sde import PUBLISHED, Configuration, full_name, matches, read
from prescore.checkpoints.stored import build
from prescore.errors import PrescoreError
from prescore.models.ncsnpp import NCSNpp
from prescore.schedule import VP, Tabulated

SCORE_SDE = REFERENCE / "score_sde"
SHAPES = [
    "cifar10-ncsnpp-deep-continuous-ve",
    "cifar10-ncsnpp-continuous-ve",
    "cifar10-ncsnpp-discrete-ve",
    "celeba64-ncsnpp-discrete-ve",
    "cifar10-ddpm-continuous-vp",
    "cifar10-ddpmpp-continuous-vp",
    "cifar10-ddpmpp-deep-continuous-vp",
    "bedroom256-ncsnpp-continuous-ve",
    "church256-ncsnpp-continuous-ve",
    "celebahq256-ncsnpp-continuous-ve",
    "ffhq256-ncsnpp-continuous-ve",
    "ffhq1024-ncsnpp-continuous-ve",
]
COUNTS = {"cifar10-ncsnpp-deep-continuous-ve": 107_587_075, "ffhq1024-ncsnpp-continuous-ve": 105_785_896}
SAME_EVERYWHERE = ("conditional", "name", "nonlinearity")
TINY = {"image_size": 8, "nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,), "num_scales": 10}
ONE = Configuration(TINY)


def sdes(config):
    """sde and continuous of a recorded configuration."""
    return config["training"]["sde"].removesuffix("sde"), config["training"]["continuous"]


@pytest.mark.parametrize("name", SHAPES)
def test_names_shapes_and_order_of_the_published_configurations(name):
    path = SCORE_SDE / f"shapes-{name}.json"
    if not path.exists():
        pytest.skip(f"no recorded shapes score_sde/{path.name} beside the repository")
    recorded = json.loads(path.read_text())
    network = PUBLISHED[name].network()
    trained = {key: parameter.requires_grad for key, parameter in network.named_parameters()}
    rows = [
        [key, list(value.shape), trained.get(key, "buffer"), str(value.dtype).removeprefix("torch.")]
        for key, value in network.state_dict().items()
    ]
    assert rows == recorded["state_dict"]
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == recorded["parameter_count"] == COUNTS.get(name, count)
    assert sum(trained.values()) == recorded["ema_shadow_params_length"]


@pytest.mark.parametrize("name", SHAPES)
def test_entries_of_the_published_configurations(name):
    path = SCORE_SDE / f"shapes-{name}.json"
    if not path.exists():
        pytest.skip(f"no recorded configuration score_sde/{path.name} beside the repository")
    config = json.loads(path.read_text())["config"]
    known = {"embedding_type"} if "-ddpm-" in name else set()  # the class DDPM has no choice and ignores the entry
    arguments = score_sde._complete(PUBLISHED[name].arguments)
    compared = arguments.keys() & (config["model"] | config["data"]).keys() - known
    assert len(compared) >= 10
    for entry in compared:
        assert arguments[entry] == (config["model"] | config["data"])[entry], entry
    assert (PUBLISHED[name].sde, PUBLISHED[name].continuous) == sdes(config)


def test_continuous_networks_of_64_pixels_are_known(path):
    names = [f"{data}64-ncsnpp-continuous-ve" for data in ("celeba", "imagenet", "coco")]
    discrete, *continuous = (PUBLISHED[name] for name in ("celeba64-ncsnpp-discrete-ve", *names))
    for configuration in continuous:
        changed = {"embedding_type": "fourier"}
        assert configuration.arguments == {**discrete.arguments, **changed}
        assert configuration.continuous


# Files in the published layout


def checkpoint(state, network, scale=1.0, **changes):
    """The content of a checkpoint whose average is the state and whose raw weights are `scale` times that."""
    trained = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    raw = {f"module.{key}": value * scale if key in trained else value for key, value in state.items()}
    average = [state[key].clone() for key in trained]
    moments = {i: {"step": 7, "exp_avg": value, "exp_avg_sq": value} for i, value in enumerate(average)}
    optimizer = {"state": moments, "param_groups": [{"lr": 2e-4, "params": list(range(len(trained)))}]}
    ema = {"decay": 0.999, "num_updates": 6, "shadow_params": average}
    return {"optimizer": optimizer, "model": raw, "ema": ema, "step": 7} | changes


def tiny(configuration=ONE, scale=1.0):
    """A network of a configuration with random weights, and the content of its checkpoint."""
    network = NCSNpp(**configuration.arguments, init_scale=1.0, generator=torch.Generator().manual_seed(0))
    return network, checkpoint(network.state_dict(), network, scale)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint_7.pth"


def recorded(name):
    """Tensors of a network, its configuration, and the network itself."""
    file = SCORE_SDE / f"net-{name}.safetensors"
    if not file.exists():
        pytest.skip(f"no recorded numbers score_sde/{file.name} beside the repository")
    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        config = json.loads(opened.metadata()["config"])
    arguments = {key: value for key, value in (config["model"] | config["data"]).items() if key not in SAME_EVERYWHERE}
    sde = "ve" if arguments["scale_by_sigma"] else "vp"
    return tensors, Configuration(arguments, sde, config["training"]["continuous"])


def loaded(tensors, configuration, path):
    """The denoiser in double precision of recorded weights that were written to a checkpoint."""
    state = {key.removeprefix("param/"): value for key, value in tensors.items() if key.startswith("param/")}
    torch.save(checkpoint(state, configuration.network(), scale=2.0), path)
    assert matches(path)
    return build(read(path, config=configuration), dtype=torch.float64)


@pytest.mark.parametrize("name", ["residual", "skip-skip", "skip-skip-cat"])
def test_continuous_ve(name, path):
    tensors, configuration = recorded(f"ncsnpp-fourier-{name}")
    denoise = loaded(tensors, configuration, path)
    x, sigma = tensors["in/x"].double(), tensors["in/time_cond"].double()
    score = (denoise(x, sigma) - x) / sigma[:, None, None, None] ** 2
    for k in range(len(x)):  # the sample at the smallest noise has the largest score by far
        assert relative(score[k], tensors["out_f64"][k]) < 1e-9
    assert (denoise.sigma_min, denoise.sigma_max, denoise.data_range) == (0.01, 50.0, (0.0, 1.0))
    assert denoise.event_shape == (3, 16, 16)


def test_discrete_ve(path):
    tensors, configuration = recorded("ncsnpp-positional-discrete")
    denoise = loaded(tensors, configuration, path)
    x, sigma = tensors["in/x"].double(), tensors["param/sigmas"][tensors["in/time_cond"]]
    score = (denoise(x, sigma) - x) / sigma[:, None, None, None] ** 2
    for k in range(len(x)):
        assert relative(score[k], tensors["out_f64"][k]) < 1e-9
    assert (denoise.sigma_min, denoise.sigma_max, denoise.data_range) == (0.01, 50.0, (0.0, 1.0))


@pytest.mark.parametrize("kind", ["vp", "discrete-vp"])
def test_vp(kind, path):
    tensors, configuration = recorded("ddpmpp-positional")
    denoise = loaded(tensors, replace(configuration, continuous=kind == "vp"), path)
    schedule, scale = (VP(), 999) if kind == "vp" else (Tabulated.linear(1000, 1e-4, 0.02), 1)
    sigma = schedule.sigma(tensors["in/time_cond"].double() / scale)
    per_sample = sigma[:, None, None, None]
    x = tensors["in/x"].double() / schedule.scale(per_sample)
    noise = (x - denoise(x, sigma)) / per_sample
    assert relative(noise, tensors["out_f64"]) < 1e-5  # the rounding of the time to float32 is that of the network
    assert (denoise.sigma_min, denoise.sigma_max) == (schedule.sigma_min, schedule.sigma_max)
    assert denoise.data_range == (-1.0, 1.0)


def test_average_or_raw_weights(path):
    network, content = tiny(scale=3.0)
    torch.save(content, path)
    average, raw = (read(path, config=ONE, weights=weights) for weights in ("ema", "raw"))
    assert (average.description.weights, raw.description.weights) == ("ema", "raw")
    assert average.description.training["step"] == 7
    for name, value in network.state_dict().items():
        is_trained = name not in ("sigmas", "all_modules.0.W")
        assert torch.equal(average.state[name], value)
        assert torch.equal(raw.state[name], value * 3 if is_trained else value)
    with pytest.raises(PrescoreError, match="weights: unknown value 'best'"):
        read(path, config=ONE, weights="best")


def test_description_builds_the_same_network(path):
    network, content = tiny()
    torch.save(content, path)
    description = read(path, config=ONE).description
    json.dumps(description.arguments)
    again = NCSNpp(**description.arguments)
    assert [(k, v.shape) for k, v in again.state_dict().items()] == [
        (k, v.shape) for k, v in network.state_dict().items()
    ]
    assert (description.network, description.preconditioning) == ("NCSNpp", "score")


def test_older_layout_of_torch(path):
    network, content = tiny()
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert matches(path)
    state = read(path, config=ONE).state
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


# Which configuration it is


@pytest.fixture
def narrow(monkeypatch):
    """The published configurations with networks of few channels and blocks."""
    small = {
        name: replace(known, arguments={**known.arguments, "nf": 4, "num_res_blocks": 2 if "deep" in name else 1})
        for name, known in PUBLISHED.items()
    }
    monkeypatch.setattr(score_sde, "PUBLISHED", small)
    return small


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("cifar10-ncsnpp-continuous-ve", None),
        ("cifar10-ncsnpp-deep-continuous-ve", None),
        ("cifar10-ncsnpp-discrete-ve", None),
        ("celeba64-ncsnpp-discrete-ve", None),
        ("bedroom256-ncsnpp-continuous-ve", None),
        ("church256-ncsnpp-continuous-ve", None),
        ("ffhq256-ncsnpp-continuous-ve", "celebahq256-ncsnpp-continuous-ve or ffhq256-ncsnpp-continuous-ve"),
    ],
)
def test_configuration_is_found(name, found, path, narrow):
    torch.save(tiny(narrow[name])[1], path)
    description = read(path).description
    assert description.name == (found or name)
    assert description.sigma_max == narrow[name].arguments["sigma_max"]
    assert description.event_shape[1] == narrow[name].arguments["image_size"]
    assert description.preconditioning == ("score" if "continuous" in name else "score-labels")


def test_configuration_that_must_be_named(path, narrow):
    torch.save(tiny(narrow["cifar10-ddpmpp-deep-continuous-vp"])[1], path)
    with pytest.raises(
        PrescoreError, match=r"^config: the weights fit cifar10-ddpmpp-deep-continuous-vp and .*subvp; nam"
    ):
        read(path)
    kinds = {"vp": (0.01, 0.011, 152, 153), "subvp": (1e-4, 1.2e-4, 152, 153)}
    for sde, (low, below, high, above) in kinds.items():
        description = read(path, config=f"{sde}/cifar10_ddpmpp_deep_continuous").description
        assert description.preconditioning_arguments["schedule"]["kind"] == sde
        assert low < description.sigma_min < below
        assert high < description.sigma_max < above


def test_wrong_configuration(path, narrow):
    torch.save(tiny(narrow["cifar10-ncsnpp-continuous-ve"])[1], path)
    message = (
        r"^config: cifar10-ncsnpp-deep-continuous-ve does not fit the file, which fits cifar10-ncsnpp-continuous-ve: "
    )
    with pytest.raises(PrescoreError, match=message + r"the weight 'all_modules\.6\.\w+\.weight' \w+"):
        read(path, config="cifar10-ncsnpp-deep-ve")
    with pytest.raises(
        PrescoreError, match=r"^config: it does not fit the file: the weight '.*' has shape .*, the net"
    ):
        read(path, config=ONE)
    torch.save(tiny(narrow["church256-ncsnpp-continuous-ve"])[1], path)
    message = r"fits church256-ncsnpp-continuous-ve: its noise levels are 0.01 to 380, not up to 378$"
    with pytest.raises(PrescoreError, match=message):
        read(path, config="bedroom")
    torch.save(tiny()[1], path)
    with pytest.raises(PrescoreError, match="config: the weights fit no published configuration"):
        read(path)


def test_noise_levels_are_those_of_the_file(path, narrow):
    known = narrow["cifar10-ncsnpp-continuous-ve"]
    own = replace(known, arguments={**known.arguments, "sigma_max": 70.0, "sigma_min": 0.02})
    torch.save(tiny(own)[1], path)
    for config in (None, "cifar10-ncsnpp-continuous", known):
        description = read(path, config=config).description
        assert (description.sigma_min, description.sigma_max) == (0.02, 70.0)
        assert description.arguments["sigma_max"] == 70.0


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("cifar10-ncsnpp-deep-ve", "cifar10-ncsnpp-deep-continuous-ve"),
        ("ve/cifar10_ncsnpp_deep_continuous", "cifar10-ncsnpp-deep-continuous-ve"),
        ("cifar10-ncsnpp-discrete", "cifar10-ncsnpp-discrete-ve"),
        ("celeba discrete", "celeba64-ncsnpp-discrete-ve"),
        ("FFHQ 1024", "ffhq1024-ncsnpp-continuous-ve"),
        ("ffhq_256_ncsnpp_continuous", "ffhq256-ncsnpp-continuous-ve"),
        ("church", "church256-ncsnpp-continuous-ve"),
        ("subvp/cifar10_ddpm_continuous", "cifar10-ddpm-continuous-subvp"),
        *((name, name) for name in PUBLISHED),
    ],
)
def test_names(given, meant):
    assert full_name(given) == meant


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cifar10-ncsnpp-ve", "'cifar10-ncsnpp-ve' may be cifar10-ncsnpp-discrete-ve or cifar10-ncsnpp-continuous-ve"),
        ("ffhq", "may be ffhq256-ncsnpp-continuous-ve or ffhq1024-ncsnpp-continuous-ve; say which"),
        ("cfar10-ncsnpp-deep-continuous-ve", "did you mean cifar10-ncsnpp-deep-continuous-ve"),
        ("cifar10-ncsnpp-deep-continuous-vp", "unknown"),
        ("afhq", "unknown 'afhq'"),
        ("", "unknown ''"),
        ("x" * 10_000, "unknown 'xxx"),
    ],
)
def test_names_that_mean_none_or_several(given, message):
    with pytest.raises(PrescoreError, match=f"^config: .*{message}") as caught:
        full_name(given)
    assert len(str(caught.value)) < 1000


# Damaged and hostile files


def assert_refused(path, content, message, **options):
    torch.save(content, path)
    with pytest.raises(PrescoreError, match=message) as caught:
        read(path, config=ONE, **options)
    assert "\n" not in str(caught.value)


def test_contents_that_are_wrong(path):
    _, content = tiny()
    model, ema = content["model"], content["ema"]
    without = {key: value for key, value in model.items() if key != "module.all_modules.2.bias"}
    assert_refused(path, [1], "not a checkpoint of score_sde_pytorch")
    assert_refused(path, content | {"model": [1]}, "its model is not a mapping of names to tensors")
    assert_refused(path, content | {"model": without}, "the weight 'all_modules.2.bias' is missing")
    assert_refused(path, content | {"model": model | {"module.x": torch.ones(1)}}, "the weight 'x' does not belong")
    short = model | {"module.all_modules.2.bias": torch.ones(3)}
    assert_refused(
        path, content | {"model": short}, r"'all_modules.2.bias' has shape \(3,\), the network needs \(32,\)"
    )
    levels = model | {"module.sigmas": model["module.sigmas"].flip(0)}
    assert_refused(
        path, content | {"model": levels}, "the noise levels 'sigmas' are not positive numbers that decrease"
    )
    count = len(ema["shadow_params"])
    for changed in (ema["shadow_params"][1:], [*ema["shadow_params"], torch.ones(1)]):
        message = f"its EMA holds {len(changed)} tensors, the network has {count} trained parameters"
        assert_refused(path, content | {"ema": ema | {"shadow_params": changed}}, message)
    swapped = [*ema["shadow_params"][1:], ema["shadow_params"][0]]
    message = r"its EMA of 'all_modules.1.weight' has shape \(32,\), the network needs \(32, 16\)"
    assert_refused(path, content | {"ema": ema | {"shadow_params": swapped}}, message)
    assert_refused(
        path, content | {"ema": ema | {"shadow_params": [1] * count}}, "'all_modules.1.weight' is not a plain"
    )
    assert_refused(path, content | {"ema": None}, "weights: the file holds no EMA .*; 'raw' takes the others")
    for odd in ({"ema": [1], "step": "7"}, {"ema": {}, "step": None}):
        torch.save(content | odd, path)
        assert read(path, config=ONE, weights="raw").description.weights == "raw"


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("layout", [True, False])
def test_code_in_a_checkpoint_is_not_run(layout, path, tmp_path):
    _, content = tiny()
    trap = tmp_path / "run"
    for call in ((os.system, f"touch {trap}"), (eval, f"open({str(trap)!r}, 'w')"), (open, str(trap), "w")):
        torch.save(content | {"step": Attack(*call)}, path, _use_new_zipfile_serialization=layout)
        assert matches(path)
        with pytest.raises(PrescoreError, match="refused, not run") as caught:
            read(path, config=ONE)
        assert "\n" not in str(caught.value)
        assert not trap.exists()


def test_truncated_files(path):
    torch.save(tiny()[1], path)
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        matches(path)
        with pytest.raises(PrescoreError) as caught:
            read(path, config=ONE)
        assert "\n" not in str(caught.value)


def test_single_bytes_that_are_wrong(path):
    torch.save(tiny()[1], path)
    whole = path.read_bytes()
    right = read(path, config=ONE).state
    start = whole.index(b"data.pkl")
    positions = [*range(start, start + 20_000, 800), *range(0, len(whole), len(whole) // 15)]
    refusals = []
    for position in positions:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        matches(path)
        try:
            state = read(path, config=ONE).state
        except PrescoreError as error:
            refusals.append(str(error))
        else:  # a byte of padding
            assert all(torch.equal(state[name], value) for name, value in right.items())
    assert len(refusals) > len(positions) / 2
    assert not any("\n" in message for message in refusals)


def test_other_files_do_not_match(path):
    assert not matches(path)
    for content in (b"", b"PK\x03\x04", b"\x80\x02", b"module.all_modules."):
        path.write_bytes(content)
        assert not matches(path)
    torch.save({"model": {"module.begin_conv.weight": torch.ones(1)}}, path)
    assert not matches(path)
    assert not matches(path.parent)


# Configurations of one's own

SECTIONS = {
    "data": {"image_size": 8, "num_channels": 3, "centered": False, "dataset": "CELEBA"},
    "model": {key: value for key, value in TINY.items() if key != "image_size"} | {"name": "ncsnpp", "sigma_max": 50.0},
    "training": {"sde": "vesde", "continuous": True, "n_iters": 7},
    "sampling": {"predictor": "reverse_diffusion", "corrector": "langevin", "n_steps_each": 1, "snr": 0.17},
}


def test_any_model_by_a_json_or_yml_of_its_configuration(path, tmp_path):
    yaml = pytest.importorskip("yaml")
    torch.save(tiny()[1], path)
    plain = json.loads(json.dumps(SECTIONS))  # lists, as files have them
    (tmp_path / "own.json").write_text(json.dumps(plain))
    (tmp_path / "own.yml").write_text(yaml.dump(plain))
    expected = build(read(path, config=ONE))
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for name in ("own.json", "own.yml"):
        denoise = load(path, config=str(tmp_path / name))
        assert torch.equal(denoise(x, torch.tensor(2.0)), expected(x, torch.tensor(2.0)))
        assert (denoise.sampling.snr, denoise.sampling.iterations) == (0.17, 10)
        assert denoise.sampling.configuration == ""
    assert torch.equal(load(path, config=ONE)(x, torch.tensor(2.0)), expected(x, torch.tensor(2.0)))


@pytest.mark.parametrize(
    ("section", "entries", "message"),
    [
        ("model", {"nonlinearity": "relu"}, "nonlinearity: 'relu' is not supported, only swish is"),
        ("model", {"beta_max": 30.0}, "beta_max: 30.0 is not supported"),
        ("model", {"name": "unet"}, "name: unknown value 'unet'"),
        ("model", {"nf": "many"}, "the argument nf = 'many'"),
        ("model", {"nf": 16}, "it does not fit the file: the weight"),
        ("training", {"sde": "cosine"}, "sde: unknown value 'cosine'"),
        ("training", {"continuous": None}, "the entry 'continuous' is missing"),
        ("sampling", {"predictor": "leapfrog"}, "predictor: unknown value 'leapfrog'"),
    ],
)
def test_files_that_are_no_configuration_of_it(section, entries, message, path, tmp_path):
    torch.save(tiny()[1], path)
    wrong = SECTIONS | {section: SECTIONS[section] | entries}
    (tmp_path / "own.json").write_text(json.dumps(wrong))
    with pytest.raises(PrescoreError, match=f"config: .*{message}"):
        read(path, config=str(tmp_path / "own.json"))


def test_the_nearest_configuration_is_named(path, monkeypatch):
    near = Configuration(TINY | {"num_channels": 1})
    far = Configuration(TINY | {"nf": 16})
    monkeypatch.setattr(score_sde, "PUBLISHED", {"far": far, "near": near})
    torch.save(tiny()[1], path)
    with pytest.raises(PrescoreError, match=r"the nearest is near, from which \d+ of \d+ weights differ: the weight"):
        read(path)


def test_a_configuration_of_another_format(path):
    torch.save(tiny()[1], path)
    with pytest.raises(PrescoreError, match="config: this is a checkpoint of score_sde"):
        read(path, config=ncsn.Configuration())
