"""`load` gives back what `save` was given, to us and to others."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from safetensors.torch import load_file
from torch import Tensor, nn

import functional_train as ft
from tests.global_rng import seeded
from tests.runs.checkpoints.trees import RARE_DTYPES, Boxed, Pair, assert_same, trees


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "tree.ckpt"


@given(tree=trees())
def test_what_is_loaded_is_what_was_saved(place: Path, tree: Any) -> None:
    """With a tree to be like, for every tree."""
    ft.save(place, tree, fsync=False)
    assert_same(ft.load(place, like=tree), tree)
    assert_same(ft.load(place, like=tree, mmap=False), tree)


@given(tree=trees())
def test_the_numbers_of_like_do_not_matter(place: Path, tree: Any) -> None:
    """What is loaded comes from the file alone; `like` may have no numbers at all."""
    ft.save(place, tree, fsync=False)
    meta = ft.tree.map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, tree)
    assert_same(ft.load(place, like=meta), tree)


def known(tree: Any) -> Any:
    """The same tree without classes of ours, which load makes only when it is shown one."""
    kinds = Pair | Boxed
    if isinstance(tree, kinds):
        return [known(child) for child in (tree if isinstance(tree, Pair) else [tree.value])]
    below = [known(child) for _, child in ft.tree._structure.children(tree) or ()]
    return ft.tree._structure.with_children(tree, below) if below else tree


@given(tree=trees())
def test_a_file_says_itself_what_it_holds(place: Path, tree: Any) -> None:
    """Without `like`, for containers of Python and of the library."""
    tree = known(tree)
    ft.save(place, tree, fsync=False)
    assert_same(ft.load(place), tree)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", RARE_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)], ids=str)
def test_rare_dtypes(place: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Also those that safetensors does not have."""
    whole = torch.arange(torch.Size(shape).numel() * dtype.itemsize, dtype=torch.uint8)
    leaf = whole.view(dtype).reshape(shape)
    ft.save(place, {"x": leaf, "y": (leaf, 1)}, fsync=False)
    assert_same(ft.load(place), {"x": leaf, "y": (leaf, 1)})


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "adafactor", "soap", "lbfgs", "schedule_free_adamw", "muon"])
def test_states_of_optimizers(place: Path, name: str) -> None:
    """A training state comes back whole with nothing to be like."""
    params = ft.Params({"w": torch.ones(4, 3), "u": torch.zeros(2, 2)})
    optimizer = ft.chain(ft.clip_by_global_norm(1.0), getattr(ft, name)(lr=0.1))
    state = ft.init_state(params, optimizer, key=ft.random.key(3), buffers={"n": torch.tensor(2)})
    ft.save(place, state, fsync=False)
    assert_same(ft.load(place), state)
    assert isinstance(ft.load(place), ft.TrainState)


def layouts() -> dict[str, Tensor]:
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    return {
        "contiguous": base.clone(),
        "channels last": base.to(memory_format=torch.channels_last),
        "transposed": base.permute(3, 1, 0, 2),
        "scalar": base[0, 0, 0, 0].clone(),
    }


@pytest.mark.parametrize("name", layouts())
def test_strides_survive(place: Path, name: str) -> None:
    """Kernels choose by strides, and so the last bits of a resumed run depend on them."""
    leaf = layouts()[name]
    ft.save(place, [leaf], fsync=False)
    (found,) = ft.load(place)
    assert found.stride() == leaf.stride()
    assert torch.equal(found, leaf)
    assert torch.equal(load_file(place)["0"], leaf)  # others find its elements in their order


def test_shared_memory_survives(place: Path) -> None:
    """Leaves that were one are one, views see each other, and what was separate stays so."""
    base = torch.arange(20.0)
    tied = torch.ones(3)
    tree = {
        "a": tied, "b": [tied, torch.ones(3)], "low": base[:12], "high": base[8:], "bits": base[2:4].view(torch.int32),
        "cut": torch.zeros(6).split(3), "turned": tied[:2],
    }  # fmt: skip
    ft.save(place, tree, fsync=False)
    for found in (ft.load(place), ft.load(place, like=tree), ft.load(place, mmap=False)):
        assert_same(found, tree)
        found["a"][0] = 7
        assert found["b"][0][0] == found["turned"][0] == 7
        assert found["b"][1][0] == 1
        found["low"][9] = -1
        assert found["high"][1] == -1
        found["low"][2] = 1.0
        assert found["bits"][0] == torch.tensor(1.0).view(torch.int32)
        found["cut"][0][0] = 5
        assert found["cut"][1].sum() == 0
        assert base[9] == 9  # what was saved is nobody's business any more
        assert tied[0] == 1


@given(tree=trees())
def test_loading_twice_gives_two_trees(place: Path, tree: Any) -> None:
    """Writing to what was loaded changes neither the file nor another load."""
    ft.save(place, tree, fsync=False)
    before = place.read_bytes()
    first = ft.load(place, like=tree)
    for leaf in ft.tree.leaves(first):
        if isinstance(leaf, Tensor) and leaf.numel() and leaf.is_floating_point():
            leaf.mul_(0).add_(1)
    assert place.read_bytes() == before
    assert_same(ft.load(place, like=tree), tree)


@given(tree=trees())
def test_equal_trees_make_equal_files(place: Path, tree: Any) -> None:
    """A file is a function of the tree, so files can be compared."""
    ft.save(place, tree, fsync=False)
    first = place.read_bytes()
    ft.save(place, tree, fsync=False)
    assert place.read_bytes() == first


def test_other_tools_read_the_tensors(place: Path) -> None:
    """The file is safetensors, tensors stand under their paths, and each begins where its dtype wants it to."""
    state = ft.init_state({"w": torch.randn(3, generator=torch.Generator().manual_seed(0))}, ft.adamw())
    ft.save(place, {"odd": torch.ones(3, dtype=torch.uint8), "state": state, "half": torch.ones(1, dtype=torch.half)})
    found = load_file(place)
    assert torch.equal(found["state/params/w"], state.params["w"])
    assert set(found) == {"odd", "half", *[f"state/{path}" for path in ft.tree.paths(state)]}
    with safetensors.safe_open(place, "pt") as file:
        assert file.metadata()["format"] == "pt"
    size = int.from_bytes(place.read_bytes()[:8], "little")
    assert (8 + size) % 64 == 0


@pytest.mark.parametrize("mmap", [True, False])
def test_memory_begins_where_torch_would_let_it(place: Path, mmap: bool) -> None:
    """Sums round otherwise elsewhere, and a resumed run would differ in the last bit."""
    tree = [torch.ones(length, dtype=dtype) for length in (16, 3, 1, 64, 7) for dtype in (torch.uint8, torch.float64)]
    ft.save(place, tree, fsync=False)
    found = ft.load(place, mmap=mmap)
    assert_same(found, tree)
    assert [leaf.data_ptr() % 64 for leaf in found] == [0] * len(tree)


def test_paths_that_collide(place: Path) -> None:
    """Names in the file are unique even where paths are not."""
    tree = {1: torch.tensor(1), "1": torch.tensor(2), "a/b": torch.tensor(3), "a": {"b": torch.tensor(4)}}
    ft.save(place, tree, fsync=False)
    assert_same(ft.load(place, like=tree), tree)
    assert_same(ft.load(place), tree)
    ft.save(place, {"__metadata__": torch.tensor(1)}, fsync=False)
    assert_same(ft.load(place), {"__metadata__": torch.tensor(1)})


def test_a_leaf_alone(place: Path) -> None:
    for tree in (torch.ones(2), 3, None, (), {}, "x"):
        ft.save(place, tree, fsync=False)
        assert_same(ft.load(place), tree)


def test_parameters_are_saved_as_values(place: Path) -> None:
    """Modules' own parameters can be saved, and come back as tensors that nothing is recorded for."""
    with seeded(0):
        module = nn.Linear(2, 2)
    ft.save(place, dict(module.named_parameters()), fsync=False)
    found = ft.load(place)
    assert torch.equal(found["weight"], module.weight)
    assert not found["weight"].requires_grad


class Color:
    """Something that is no data."""


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": [Color()]}, r"'a/0' is a Color, which cannot be written"),
        ({"f": len}, r"'f' is a builtin_function_or_method"),
        (Boxed(1, Color()), r"the static field 'label' is a Color"),  # pyright: ignore[reportArgumentType]
        ({"s": torch.eye(2).to_sparse()}, r"'s' is a torch.sparse_coo tensor.*to_dense"),
        ({"m": torch.ones(2, device="meta")}, r"'m' is on the meta device"),
        ({Color(): 1}, r"the key <.*Color.* cannot be written"),
        ({"e": ...}, r"'e' is a ellipsis"),
    ],
)
def test_what_cannot_be_saved(place: Path, tree: Any, words: str) -> None:
    """An error with the path, before anything is written."""
    ft.save(place, "before", fsync=False)
    with pytest.raises(ft.StructureError, match=words):
        ft.save(place, tree)
    assert ft.load(place) == "before"
    assert list(place.parent.iterdir()) == [place]


def test_what_is_written_to_while_it_is_saved(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half of the old and a half of the new never becomes a file."""
    leaf = torch.zeros(3)
    real = os.pwrite

    def pwrite(handle: int, data: Any, at: int) -> int:
        leaf.add_(1)
        return real(handle, data, at)

    ft.save(place, "before", fsync=False)
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(ft.OwnershipError, match=r"'w' was written to while it was saved to .*tree.ckpt"):
        ft.save(place, {"w": leaf})
    assert ft.load(place) == "before"


def test_a_class_of_ours_needs_to_be_shown(place: Path) -> None:
    """A file cannot have a constructor run that its reader did not ask for."""
    ft.save(place, Pair(torch.ones(1), Boxed(2)), fsync=False)
    with pytest.raises(
        ft.StructureError, match=r"holds a (Pair|Boxed), which load makes only when it is shown one: pass like="
    ):
        ft.load(place)


_MEMORY = """
import sys, resource, torch, functional_train as ft
path, megabytes = sys.argv[1], int(sys.argv[2])
tree = {str(i): torch.ones(1 << 20, dtype=torch.uint8) for i in range(megabytes)}
ft.save(path, {"warm": torch.zeros(1)}, fsync=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ft.save(path, tree, fsync=False)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_saving_takes_no_memory(tmp_path: Path) -> None:
    """A tree is written in place: 400 MB of leaves need hardly any more."""
    command = [sys.executable, "-c", _MEMORY, str(tmp_path / "big.ckpt"), "400"]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 40


@pytest.mark.parametrize("call", [ft.load, lambda path: ft.load(path, mmap=False)])
def test_missing_and_other_files(tmp_path: Path, call: Callable[[Path], Any]) -> None:
    """What is no file of ours is told apart, and named."""
    with pytest.raises(FileNotFoundError, match="nothing"):
        call(tmp_path / "nothing.ckpt")
    with pytest.raises(ft.CheckpointError, match=r"it is a folder.*load_weights"):
        call(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ft.CheckpointError, match="no regular file"):
        call(tmp_path / "pipe")
