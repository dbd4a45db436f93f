"""Trees, tensors and files of unusual kinds: right, or refused before anything is lost."""

import os
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import functional_train as ft
from tests.runs.checkpoints.trees import assert_same


@pytest.fixture
def place(tmp_path: Path) -> Path:
    ft.save(tmp_path / "tree.ckpt", "before", fsync=False)
    return tmp_path / "tree.ckpt"


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.NAdam, torch.optim.SGD])
def test_states_of_wrapped_classes(place: Path, cls: Any) -> None:
    """What no file can name, a class among static values, is compared with what `like=` has."""
    optimizer = ft.wrap_torch_optimizer(cls, lr=0.1)
    state = ft.init_state({"w": torch.ones(3)}, optimizer)
    ft.save(place, state)
    assert_same(ft.load(place, like=state), state)
    other = ft.init_state({"w": torch.ones(3)}, ft.wrap_torch_optimizer(torch.optim.Adagrad, lr=0.1))
    with pytest.raises(ft.StructureError, match="at 'opt_state': the file has static"):
        ft.load(place, like=other)
    with pytest.raises(ft.StructureError, match="load makes only when it is shown one"):
        ft.load(place)


def test_many_plain_values(place: Path) -> None:
    """What is saved can be loaded; what could not is refused, and the old file stays."""
    for tree in ({"log": list(range(200_000))}, {"text": "," * 200_000, "more": "[{" * 100_000}):
        ft.save(place, tree, fsync=False)
        assert ft.load(place) == tree
    ft.save(place, "before", fsync=False)
    for tree, words in [
        (list(range(600_000)), r"cannot be saved: its tree has \d+ parts .* Put many numbers into one tensor"),
        ({float("nan"): 1, -float("nan"): 2}, "two children of one name.*give keys that differ"),
    ]:
        with pytest.raises(ft.StructureError, match=words):
            ft.save(place, tree)
        assert ft.load(place) == "before"


class Wrapper(Tensor):
    """A tensor that keeps its numbers elsewhere."""

    @staticmethod
    def __new__(cls: Any, shape: tuple[int, ...]) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, shape)  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(func)


def test_tensors_without_memory(place: Path) -> None:
    """Reading theirs would be the end of the process."""
    with FakeTensorMode():
        fake = torch.ones(4_000_000)
    for leaf, words in [
        (fake, "inside of a transform or trace"),
        (Wrapper((4_000_000,)), "without memory of its own"),
        (torch._efficientzerotensor((4_000_000,)), "without memory of its own"),
    ]:
        with pytest.raises(ft.StructureError, match=f"'x' is a .*{words}"):
            ft.save(place, {"x": leaf})
        assert ft.load(place) == "before"
    with pytest.raises(ft.FunctionalTrainError, match="trace"):
        ft.compile(lambda x: (ft.save(place, {"x": x + 1}), x * 2)[1], backend="eager")(torch.ones(3))
    assert ft.load(place) == "before"


def test_shared_memory_that_is_written_to_meanwhile(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views count writes together, and are seen to."""
    base = torch.zeros(8)
    real = os.pwrite

    def pwrite(handle: int, data: Any, at: int) -> int:
        base.add_(1)
        return real(handle, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(ft.OwnershipError, match="'all' was written to while it was saved"):
        ft.save(place, {"all": base, "some": base[:4]})
    assert ft.load(place) == "before"


def test_strides_of_dimensions_of_length_one(place: Path) -> None:
    """Kernels of convolutions look at those too."""
    leaf = torch.randn(8, 1, 3, 3, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    ft.save(place, leaf)
    assert ft.load(place).stride() == leaf.stride()


def test_deep_trees(place: Path) -> None:
    """Those that Python cannot go through are refused in words."""
    deep: Any = torch.ones(1)
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ft.StructureError, match="nested too deeply"):
        ft.save(place, deep)
    assert ft.load(place) == "before"


class Params(NamedTuple):
    """Another class of a name that is known."""

    w: Any


tensor = NamedTuple("tensor", [("w", Any)])  # noqa: UP014 - the name is the point


def test_classes_named_like_others(place: Path) -> None:
    """Are others, both ways."""
    for ours, theirs in [(ft.Params({"w": 1}), Params(1)), (torch.ones(1), tensor(1)), (3, tensor(3))]:
        for saved, like in [(ours, theirs), (theirs, ours)]:
            ft.save(place, saved, fsync=False)
            with pytest.raises(ft.StructureError, match="at the top"):
                ft.load(place, like=like)
            assert_same(ft.load(place, like=saved), saved)


def test_paths_that_collide_and_parts(place: Path) -> None:
    """Which of the two is meant cannot be said by path."""
    tree = {"a/b": torch.tensor(1.0), "a": {"b": torch.tensor(2.0)}}
    ft.save(place, tree)
    with pytest.raises(ft.StructureError, match="the file has two leaves at 'a/b'"):
        ft.load(place, like={"a/b": torch.tensor(0.0)}, partial=True)


def test_memory_of_a_fork_is_its_own(place: Path) -> None:
    """What a child writes to what was loaded, its parent does not see."""
    ft.save(place, torch.zeros(1000))
    for mmap in (True, False):
        found = ft.load(place, mmap=mmap)
        child = os.fork()
        if child == 0:
            found.fill_(7)
            os._exit(0)
        os.waitpid(child, 0)
        assert found.sum() == 0


def test_special_files_stay(tmp_path: Path) -> None:
    """A pipe or a device is not replaced by a file."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="a pipe or a device"):
        ft.save(tmp_path / "pipe", 1)
    assert (tmp_path / "pipe").is_fifo()


def test_long_names(tmp_path: Path) -> None:
    """As long as the file system has room for."""
    path = tmp_path / ("ä" * 120)
    ft.save(path, 1)
    assert ft.load(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_many_threads_and_one_path(tmp_path: Path) -> None:
    """Each save is whole, each load finds one of them, and nothing is left."""
    path = tmp_path / "tree.ckpt"
    ft.save(path, {"n": 0, "w": torch.zeros(5000)}, fsync=False)
    stop, problems = time.monotonic() + 2, []

    def work(number: int) -> None:
        try:
            while time.monotonic() < stop:
                if number < 4:
                    ft.save(path, {"n": number, "w": torch.full((5000,), float(number))}, fsync=False)
                else:
                    found = ft.load(path)
                    assert found["w"].unique().tolist() == [found["n"]]
        except Exception as error:  # noqa: BLE001 - shown below
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert list(tmp_path.iterdir()) == [path]


def test_other_default_devices(place: Path) -> None:
    """What is loaded lies on the CPU, or where `like` does."""
    ft.save(place, {"w": torch.ones(2), "none": torch.empty(0)})
    with torch.device("meta"):
        found = ft.load(place)
    assert found["w"].device.type == found["none"].device.type == "cpu"
    like = {"w": torch.ones(2), "none": torch.empty(0, device="cpu")}
    assert_same(ft.load(place, like=like), like)


def test_conjugate_and_negative_views(tmp_path: Path) -> None:
    """Are written as what they say."""
    views = {"c": torch.tensor([1 + 2j]).conj(), "n": torch.tensor([1 + 2j]).conj().imag}
    ft.save(tmp_path / "a", views)
    ft.save_weights(tmp_path / "a.safetensors", views)
    for found in (ft.load(tmp_path / "a"), ft.load_weights(tmp_path / "a.safetensors")):
        assert found["c"].tolist() == [1 - 2j]
        assert found["n"].tolist() == [-2]


def test_folders_of_weights_that_are_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stay the old ones: the index alone says which files belong together."""
    old, new = ({f"l{i}": torch.full((4,), float(number)) for i in range(4)} for number in (0, 1))
    ft.save_weights(tmp_path, old, max_shard_size=16)
    real = os.fsync
    for writes in range(9):
        calls = iter(range(100))

        def fsync(handle: int, writes: int = writes, calls: Any = calls) -> None:
            if next(calls) >= writes:
                raise OSError(28, "No space left on device")
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            with pytest.raises(OSError, match="No space left"):
                ft.save_weights(tmp_path, new, max_shard_size=16)
        assert_same(ft.load_weights(tmp_path, like=old), ft.Params(old))
    ft.save_weights(tmp_path, new, max_shard_size=16)
    assert_same(ft.load_weights(tmp_path, like=old), ft.Params(new))
    assert len(list(tmp_path.iterdir())) == 5
