import pytest
import torch
from runs import assert_equal, tiny

from prescore.processes import Processes
from prescore.training.ema import ema_decay
from prescore.training.state import averaged_network, generator_of_step, new_state, prepare, train_step

ALONE = Processes(torch.device("cpu"))


def stepped(task, config, steps=1, accumulate=1):
    state = new_state(task, config, ALONE)
    for step in range(steps):
        train_step(state, config, ALONE, prepare(task, config, ALONE, accumulate, step))
    return state


def test_the_global_random_state_is_neither_read_nor_moved():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(stepped(*tiny(dropout=0.5)).tensors())
        assert torch.equal(before, torch.get_rng_state())
    assert_equal(*results)


def test_a_step_is_adam_on_the_clipped_gradient_and_then_the_average():
    task, config = tiny(clip=0.01)
    state, other = stepped(task, config), new_state(task, config, ALONE)
    before = {name: value.clone() for name, value in other.network.state_dict().items()}
    draw = task.draw(config.batch_size, generator_of_step(config.seed, 0))
    other.objective(0, **task.batch(draw.part(0, config.batch_size))).backward()
    norm = torch.stack([p.grad.norm() for p in other.network.parameters()]).norm()
    assert norm > config.clip
    for name, p in other.network.named_parameters():
        g = p.grad * config.clip / norm
        moved = before[name] - config.learning_rate_at(0) * g / (g.abs() + 1e-8)  # Adam's first step
        assert torch.allclose(state.network.state_dict()[name], moved, atol=2e-6)
    decay = ema_decay(0, config.ema_decay)
    for name, value in state.average.items():
        expected = decay * before[name] + (1 - decay) * state.network.state_dict()[name]
        assert torch.allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"label_dropout": 0.0, "augment": 0.5}])
def test_accumulated_parts_make_the_same_step(changes):
    task, config = tiny(**changes)
    whole, parts = (stepped(task, config, 3, accumulate).tensors() for accumulate in (1, 4))
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], rtol=1e-4, atol=1e-6), name


def test_parts_of_a_batch_drop_out_differently():
    task, config = tiny(dropout=0.5)
    seen = []

    def remember(module, inputs):
        seen.append(torch.get_rng_state())

    state = new_state(task, config, ALONE)
    state.objective.register_forward_pre_hook(remember)
    train_step(state, config, ALONE, prepare(task, config, ALONE, 2, 0))
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_without_decay_the_average_is_the_last_weights():
    state = stepped(*tiny(ema_decay=0.0), steps=3)
    assert_equal(state.average, state.network.state_dict())


def test_the_averaged_network_is_a_copy():
    task, config = tiny()
    state = stepped(task, config, 2)
    network = averaged_network(task, state, torch.device("cpu"))
    assert_equal(network.state_dict(), state.average)
    for parameter in network.parameters():
        parameter.zero_()
    assert any(value.any() for value in state.average.values())


def test_steps_and_seeds_have_numbers_of_their_own():
    draws = {generator_of_step(seed, step).initial_seed() for seed in range(3) for step in range(-1, 50)}
    assert len(draws) == 3 * 51
