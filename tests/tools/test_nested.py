"""Tensors are found in batches of any kind, without the object's own code for attributes."""

import copyreg
from collections.abc import MutableMapping
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mfu_callback.tools.nested import parts_of, tensors_in

ONE, TWO = torch.zeros(2, 3), torch.ones(4)


class Store(MutableMapping):
    """Keeps values for an object that it knows, as torch_geometric's storages do."""

    def __init__(self, owner):
        self.values_by_name, self.owner = {}, owner

    def __getitem__(self, name):
        return self.values_by_name[name]

    def __setitem__(self, name, value):
        self.values_by_name[name] = value

    def __delitem__(self, name):
        del self.values_by_name[name]

    def __iter__(self):
        return iter(self.values_by_name)

    def __len__(self):
        return len(self.values_by_name)


class Graph:
    """Hands its store's values out as its attributes, and makes up those that it lacks."""

    def __init__(self, **values):
        self.__dict__["_store"] = Store(self)
        self._store.update(values)

    def __getattr__(self, name):
        return self._store.get(name, torch.zeros(99))


class Slots:
    __slots__ = ("ids", "__hidden", "unset")  # noqa: RUF023 - the first tensor is the input

    def __init__(self):
        self.ids, self.__hidden = ONE, [TWO]


class MoreSlots(Slots):
    __slots__ = ("more",)

    def __init__(self):
        super().__init__()
        self.more = TWO


@dataclass
class Sample:
    graph: Graph
    number: int = 3


class Opaque:
    """Holds tensors where only pickle looks, as an object of an extension in C does."""

    __slots__ = ()
    tried = 0

    def __reduce_ex__(self, protocol):
        type(self).tried += 1
        return copyreg.__newobj__, (Opaque,), {"x": ONE}


class Empty(Opaque):
    __slots__ = ()
    tried = 0

    def __reduce_ex__(self, protocol):
        type(self).tried += 1
        raise TypeError("cannot be pickled")


@pytest.mark.parametrize(
    ("batch", "tensors"),
    [
        (Graph(x=ONE, edge_index=TWO, y=None), [ONE, TWO]),
        (Slots(), [ONE, TWO]),
        (MoreSlots(), [TWO, ONE, TWO]),
        (Sample(Graph(x=ONE)), [ONE]),
        (SimpleNamespace(inputs={"x": [ONE, SimpleNamespace(y=TWO)]}, name="a"), [ONE, TWO]),
        ([Graph(x=ONE), {"y": Slots()}], [ONE, ONE, TWO]),
        (SimpleNamespace(both={"only"}, x=ONE), [ONE]),
        (Opaque(), [ONE]),
        (SimpleNamespace(model=nn.Linear(2, 2), kind=torch.Tensor, x=TWO), [TWO]),
    ],
)
def test_tensors_are_found_in_objects_of_any_kind(batch, tensors):
    found = list(tensors_in(batch))
    assert len(found) == len(tensors)
    assert all(one is other for one, other in zip(found, tensors, strict=True))


@pytest.mark.parametrize(
    "value", [3, "text", b"bytes", None, object(), np.zeros(3), np.float32(1), nn.Linear(2, 2), torch.Tensor, len]
)
def test_what_holds_no_tensors_has_no_parts(value):
    assert parts_of(value) is None


def test_an_object_that_refers_to_itself_is_walked_once():
    batch = SimpleNamespace(x=ONE)
    batch.again, batch.list = batch, [batch]
    assert parts_of(batch) == [("x", ONE)]


def test_names_tell_the_way():
    batch = SimpleNamespace(inputs={"x": [ONE]}, y=TWO)
    assert [name for name, _ in parts_of(batch)] == ["inputs.x.0", "y"]


def test_an_iterator_is_not_consumed():
    numbers = iter([ONE, TWO])
    generator = (tensor for tensor in [ONE, TWO])
    assert parts_of(numbers) is None
    assert parts_of(generator) is None
    assert parts_of(SimpleNamespace(rest=generator)) is None
    assert len(list(numbers)) == len(list(generator)) == 2


def test_pickle_is_asked_once_for_a_kind_that_has_nothing():
    assert [parts_of(Empty()) for _ in range(3)] == [None] * 3
    assert Empty.tried == 1


def test_a_large_web_of_objects_ends():
    first = last = SimpleNamespace()
    for _ in range(100_000):
        last.next = SimpleNamespace()
        last = last.next
    last.x = ONE
    assert parts_of(first) is None
