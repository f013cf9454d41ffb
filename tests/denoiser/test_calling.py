import pytest
import torch
from predictions import SHAPE, B, a_denoiser, close
from torch import Tensor

from prescore.denoiser import Denoiser, Evaluator, failure_of, from_edm, from_score, guided, score_from_denoised
from prescore.errors import SamplingError
from prescore.plan import draw


def writes(x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
    """Into all that it is given."""
    x0 = a_denoiser(x, sigma)
    for tensor in (x, sigma, *condition.values()):
        tensor.zero_()
    return x0


class Buffer:
    """Returns the same tensor each time."""

    def __init__(self) -> None:
        self.kept = torch.empty(0)

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        self.kept = torch.empty_like(x) if self.kept.shape != x.shape else self.kept
        return self.kept.copy_(a_denoiser(x, sigma))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [lambda: writes, Buffer, lambda: lambda x, sigma, **_: x])
def test_what_a_model_writes_into_or_returns_again_is_its_own(x, make, dtype):
    sigma, rows = torch.tensor(0.5).double(), torch.ones(B)
    model = Denoiser(make(), SHAPE, 0.01, 50.0, dtype=dtype)
    evaluate, before = Evaluator(model, {"label": rows}, dtype), x.to(dtype).clone()
    given = before.clone()
    first = evaluate(given, sigma)
    kept = first.clone()
    evaluate(2 * given, sigma)
    assert torch.equal(first, kept)
    first.zero_()
    assert torch.equal(given, before)
    assert sigma == 0.5
    assert rows.all()


@pytest.mark.parametrize("make", [lambda: writes, Buffer])
def test_what_calls_a_model_twice_or_needs_x_afterwards_keeps_its_own(x, make):
    sigma = torch.tensor(0.5).double()
    close(guided(make(), 3.0)(x.clone(), sigma.clone()), a_denoiser(x, sigma))
    score = lambda x, sigma: score_from_denoised(make()(x, sigma.clone()), x, sigma)  # noqa: E731
    if make is Buffer:
        close(from_score(score)(x.clone(), sigma), a_denoiser(x, sigma))
    assert torch.equal(from_score(lambda y, s: y.zero_())(x.clone(), sigma), x)


WRONG = {
    "int64 instead of floating-point numbers": lambda x: x.long(),
    "uint8 instead of floating-point numbers": lambda x: x.byte(),
    "bool instead of floating-point numbers": lambda x: x > 0,
    "complex64 instead of floating-point numbers": lambda x: x.to(torch.complex64),
    "a meta tensor instead of shape": lambda x: x.to("meta"),
    "a sparse tensor instead of shape": lambda x: x.to_sparse(),
    "a nested tensor instead of shape": lambda x: torch.nested.nested_tensor(list(x)),
    "a quantised tensor instead of shape": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    "tuple instead of shape": lambda x: (x,),
    "dict instead of shape": lambda x: {"sample": x},
    "NoneType instead of shape": lambda x: None,
    "float instead of shape": lambda x: 1.0,
    "ndarray instead of shape": lambda x: x.numpy(),
    r"\(\) instead of shape": lambda x: x.sum(),
    r"\(4, 4, 3, 5\) instead of shape": lambda x: torch.cat([x, x], 1),
    r"\(4, 1, 3, 5\) instead of shape": lambda x: x[:, :1],
}


@pytest.mark.filterwarnings("ignore:.*(nested|quantiz):UserWarning")
@pytest.mark.parametrize("expected", WRONG)
def test_answers_that_are_no_samples(x, expected):
    """Of a denoiser, and of a network that is made one."""
    sigma = torch.tensor(0.5).double()
    for wrap in (lambda model: model, from_score, from_edm):
        evaluate = Evaluator(wrap(lambda x, sigma: WRONG[expected](x)))
        evaluate.where = "at step 1 of 1"
        with pytest.raises(SamplingError, match=f"returned .*{expected}.* at step 1 of 1"):
            evaluate(x, sigma)


def test_what_a_model_raises_passes_with_a_note(x):
    def fails(x: Tensor, sigma: Tensor) -> Tensor:
        raise KeyError("mine")

    evaluate = Evaluator(fails)
    evaluate.where = "at step 3 of 5 (sigma = 0.5)"
    with pytest.raises(KeyError, match="mine") as caught:
        evaluate(x, torch.tensor(0.5))
    assert caught.value.__notes__ == ["raised by the model at step 3 of 5 (sigma = 0.5)"]
    assert failure_of(caught.value) == "the model failed at step 3 of 5 (sigma = 0.5): KeyError: 'mine'"
    assert failure_of(KeyError("other")) is None


def test_a_wrong_shape_is_one_line():
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    model = Denoiser(lambda x, sigma: network(x), (1, 8, 8), 0.02, 80.0)
    with pytest.raises(SamplingError, match=r"event_shape: the model does not take samples of shape \(1, 8") as error:
        draw(model, n=2, sampler="ddim", calls=3, progress=False)
    assert "to have 3 channels" in str(error.value)
