"""Muon as an inner optimiser: what it makes of a matrix, which parameters it moves, that its state is handed over."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.customers_model import Customer
from trainers.light_torch import postpone_compiler
from trainers.loop import InnerLoop
from trainers.muon import Muon, hidden_matrices, orthogonal
from trainers.preparing import shard
from trainers.sharding import is_sharded, whole
from trainers.workloads.byte_lm import GPT, Shape
from trainers.workloads.digits import Digits


@pytest.fixture(autouse=True, scope="module")
def light():
    """As in a trainer child."""
    postpone_compiler()


class Repeated(Customer):
    """Two blocks between an input and an output layer."""

    def model(self):
        return torch.nn.Sequential(
            torch.nn.Linear(4, 6),
            torch.nn.Sequential(Blocks(), torch.nn.LayerNorm(6)),
            torch.nn.Linear(6, 1),
        )


class Blocks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return x


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_singular_values_come_near_one_and_directions_stay(rows, columns, seed, scale):
    made = np.random.default_rng(seed)
    left, _ = np.linalg.qr(made.normal(size=(rows, min(rows, columns))))
    right, _ = np.linalg.qr(made.normal(size=(columns, min(rows, columns))))
    values = made.uniform(0.1, 1.0, size=min(rows, columns)) * scale
    found = orthogonal(torch.tensor((left * values) @ right.T, dtype=torch.float32)).double().numpy()
    inner = left.T @ found @ right
    assert np.allclose(inner - np.diag(np.diag(inner)), 0, atol=2e-3)
    assert np.all((np.diag(inner) > 0.6) & (np.diag(inner) < 1.3)), np.diag(inner)
    assert np.allclose(found, left @ inner @ right.T, atol=2e-3), "nothing outside the matrix's own rows and columns"


def test_no_gradient_moves_no_matrix():
    assert not orthogonal(torch.zeros(3, 5)).any()


def test_only_what_repeats_inside_is_moved_by_muon():
    model = GPT(Shape.of("10k"), 16)
    moved = {id(one) for one in hidden_matrices(model)}
    names = {name for name, one in model.named_parameters() if id(one) in moved}
    assert names == {name for name, one in model.named_parameters() if name.startswith("blocks.") and one.ndim == 2}
    digits = Digits({"model": "cnn", "optimizer": "muon"}, None, 1).model()
    without_blocks = [one for one in digits.parameters() if one.ndim >= 2]
    assert [id(one) for one in hidden_matrices(digits)] == [id(one) for one in without_blocks[:-1]]


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_digits_are_learnt_with_the_options_alone(kind):
    loop = InnerLoop(Digits({"model": kind, "optimizer": "muon", "lr": 0.02}, None, 1), 1, 60)
    assert isinstance(loop.optimizer, Muon)
    before = loop.evaluate()
    loop.train(0, 60, 0)
    assert loop.evaluate() < before / 2, "in 60 steps"


def test_one_step_is_the_equation():
    model, rate = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 1)), 0.01
    made = Muon(model, rate)
    [matrix] = hidden_matrices(model)
    before = matrix.detach().clone()
    gradients = [torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 0.25]]), torch.tensor([[-1.0, 0.0, 2.0], [3.0, 1.0, 1.0]])]
    momentum = torch.zeros(2, 3)
    for gradient in gradients:
        matrix.grad = gradient.clone()
        made.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        before = before * (1 - rate * 0.1) - rate * 0.2 * 3**0.5 * orthogonal(0.05 * gradient + 0.95 * momentum)
        assert torch.allclose(matrix, before, atol=1e-6)


def test_vectors_and_outputs_move_as_adamw_moves_them():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    twin = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    twin.load_state_dict(model.state_dict())
    made = Muon(model, 0.01)
    groups = [
        {"params": [twin[1].weight], "weight_decay": 0.1},
        {"params": [twin[0].bias, twin[1].bias], "weight_decay": 0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99))
    for step in range(5):
        for one, other in zip(model.parameters(), twin.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(step))
            other.grad = one.grad.clone()
        made.step()
        reference.step()
    for one, other in [(model[1].weight, twin[1].weight), (model[0].bias, twin[0].bias), (model[1].bias, twin[1].bias)]:
        assert torch.allclose(one, other, atol=1e-6)


def test_its_state_is_handed_over_bit_for_bit():
    donor, newcomer = (InnerLoop(Repeated({"optimizer": "muon"}, None, 3), 3, 40) for _ in range(2))
    donor.train(0, 7, 0)
    flat = np.empty(donor.flat.elements, dtype=np.float32)
    donor.write_parameters(flat)
    newcomer.read_parameters(flat)
    newcomer.import_inner(donor.export_inner())
    losses = [loop.train(7, 5, 0).losses for loop in (donor, newcomer)]
    assert losses[0] == losses[1]
    assert donor.export_inner() == newcomer.export_inner()


def test_sharded_parameters_move_as_whole_ones():
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(3)
        plain, sharded = Repeated({}, None, 3).model(), Repeated({}, None, 3).model()
        sharded.load_state_dict(plain.state_dict())
        shard(sharded)
        assert all(map(is_sharded, sharded.parameters()))
        inputs = torch.arange(20.0).view(5, 4) / 20
        for model in (plain, sharded):
            made = Muon(model, 0.01)
            for _ in range(3):
                made.zero_grad()
                model(inputs).square().mean().backward()
                made.step()
        for one, other in zip(plain.parameters(), sharded.parameters(), strict=True):
            assert torch.allclose(one, whole(other), atol=1e-6)
    finally:
        distributed.destroy_process_group()


def test_an_optimizer_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"options\.optimizer is 'sgd'; it must be adamw or muon"):
        InnerLoop(Customer({"optimizer": "sgd"}, None, 3), 3, 40)
