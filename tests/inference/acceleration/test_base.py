"""What optimizations are made of is undone as a whole, and finds and changes what it is for and nothing else."""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from pipeline_webserver.inference.acceleration.base import NotApplicable, Optimization, encoder_layers, map_tensors
from tests.support.families import UNPADDABLE, make


class Hooked(Optimization):
    """Counts the calls of a module by each kind of change."""

    name = "hooked"
    calls = ""

    def apply(self) -> None:
        module = self.model.get_submodule("encoder.layer.0.intermediate.dense")
        forward = module.forward
        self._before(module, lambda module, args, kwargs: self._count("before"))
        self._after(module, lambda module, args, output: self._count("after"))

        def counted(inputs: torch.Tensor) -> torch.Tensor:
            self._count("forward")
            output: torch.Tensor = forward(inputs)
            return output

        self._replace_forward(module, counted)

    def _count(self, name: str) -> None:
        self.calls += f" {name}"


def test_hooks_and_replaced_functions_are_reverted_together() -> None:
    model = make(UNPADDABLE["bert"](), "bare")
    optimization, ids = Hooked(model), torch.tensor([[20, 30]])
    is_applied = [optimization.is_applied]
    for change in (optimization.apply, optimization.revert):
        change()
        is_applied.append(optimization.is_applied)
        with torch.no_grad():
            model(input_ids=ids)
    assert is_applied == [False, True, False]
    assert optimization.calls == " before forward after"


def test_everything_is_undone_last_first_even_where_a_step_fails() -> None:
    undone: list[str] = []
    optimization = Hooked(make(UNPADDABLE["bert"](), "bare"))
    optimization._undo = [lambda: undone.append("first"), lambda: 1 / 0, lambda: undone.append("last")]
    with pytest.raises(ZeroDivisionError):
        optimization.revert()
    assert undone == ["last", "first"]
    assert not optimization.is_applied


def test_an_optimization_is_the_default_and_removes_no_padding_unless_it_says_otherwise() -> None:
    optimization = Hooked(make(UNPADDABLE["bert"](), "bare"))
    assert optimization.is_default
    assert optimization.removes_padding == frozenset()


def test_selected_tensors_are_changed_in_tuples_and_outputs() -> None:
    one, row = torch.tensor(1.0), torch.tensor([2.0, 3.0])
    value = (one, {"a": row}, BaseModelOutput(last_hidden_state=row, hidden_states=(one, row)), None, "text")
    changed = map_tensors(value, lambda tensor: tensor.ndim == 1, lambda tensor: tensor * 10)
    assert changed[0] is one
    assert changed[1]["a"].tolist() == [20, 30]
    assert isinstance(changed[2], BaseModelOutput)
    assert changed[2].last_hidden_state.tolist() == [20, 30]
    assert [tensor.tolist() for tensor in changed[2].hidden_states] == [1, [20, 30]]
    assert changed[3:] == (None, "text")


def test_the_layers_of_an_encoder_are_its_largest_list() -> None:
    model = make(UNPADDABLE["bert"](), "bare")
    assert encoder_layers(model) is model.encoder.layer
    with pytest.raises(NotApplicable, match=r"^this model has no list of layers$"):
        encoder_layers(model.pooler)
