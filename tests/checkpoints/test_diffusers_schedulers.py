import pytest

from prescore.checkpoints.diffusers_schedulers import SCHEDULER, scheduler_meaning
from prescore.errors import PrescoreError

POSITIONAL = {"time_embedding_type": "positional"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, f"{SCHEDULER}: it has no _class_name"),
        ({"_class_name": ["os"]}, "it has no _class_name"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "under 'CMStochasticIterativeScheduler' is not known"),
        ({"prediction_type": "epsilom"}, "prediction_type: unknown value 'epsilom'; did you mean epsilon?"),
        ({"beta_schedule": "linea"}, "beta_schedule: unknown value 'linea'; did you mean linear or"),
        ({"beta_schedule": ["linear"]}, "beta_schedule: unknown value"),
        ({"prediction_type": {}}, "prediction_type: unknown value"),
        ({"prediction_type": "x" * 10**6}, "prediction_type: unknown value"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps = 1000000000000 is not a number from 2 to"),
        ({"num_train_timesteps": True}, "num_train_timesteps = True"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps = '1000'"),
        ({"num_train_timesteps": 1}, "num_train_timesteps = 1 is"),
        ({"beta_start": "0"}, "beta_start = '0' is not a positive number"),
        ({"beta_start": float("nan")}, "beta_start = nan is not a positive number"),
        ({"beta_end": float("inf")}, "beta_end = inf is not a positive number"),
        ({"beta_end": 10**400}, "beta_end = 1000"),
        (
            {"rescale_betas_zero_snr": True, "num_train_timesteps": 2, "beta_end": 0.9},
            "at least two numbers inside (0, 1)",
        ),
        ({"beta_end": 1.5}, "its betas are not all between 0 and 1"),
        ({"beta_start": -1}, "beta_start = -1 is not a positive number"),
        ({"trained_betas": "0.1"}, "trained_betas is not a list of 2 to"),
        ({"trained_betas": [0.1]}, "trained_betas is not a list of 2 to"),
        ({"trained_betas": [0.1, None]}, "trained_betas is not a list of 2 to"),
        ({"trained_betas": [0.1, float("nan")]}, "trained_betas is not a list of 2 to"),
        ({"trained_betas": [0.1] * 20_000}, "trained_betas is not a list of 2 to"),
        ({"trained_betas": [0.1, 0.0]}, "its betas are not all between 0 and 1"),
        ({"trained_betas": [[0.1], [0.2]]}, "trained_betas is not a list of 2 to"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": "big"}, "sigma_max = 'big' is not a positive number"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0}, "sigma_data = 0 is not a positive number"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "prediction_type: unknown value 'sample'"),
        ({"_class_name": "ScoreSdeVpScheduler", "beta_max": [20]}, "beta_max = [20] is not a positive number"),
        ({"_class_name": "ScoreSdeVpScheduler", "sampling_eps": 2}, "noise must rise"),
    ],
    ids=lambda v: str(v)[:60],
)
def test_schedulers_that_are_refused(config, message):
    named = {"_class_name": "DDPMScheduler"} if config else {}
    with pytest.raises(PrescoreError) as caught:
        scheduler_meaning(named | config, POSITIONAL)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_old_choice_between_noise_and_sample():
    config = {"_class_name": "DDPMScheduler", "predict_epsilon": False, "tensor_format": "pt"}
    assert scheduler_meaning(config, POSITIONAL).preconditioning == "sample"
    assert scheduler_meaning(config | {"predict_epsilon": True}, POSITIONAL).preconditioning == "noise"


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 3.0},
        {"_class_name": "DEISMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 3.0},
    ],
)
def test_flow_matching(config):
    meaning = scheduler_meaning(config, {"time_embedding_type": "positional"})
    assert (meaning.preconditioning, meaning.arguments) == ("flow", {"time_scale": 1000.0})
    assert meaning.sigma_min == pytest.approx(3 * 0.001 / 0.999)
    assert meaning.sigma_max == 1e9  # stands for t = 1
