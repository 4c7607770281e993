"""Points are found in the source, and a process dies at the one it was told, in a small module made for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from faults.failpoints import EVERY_POINT, Failpoint, Target, daemon_targets, enumerate_points

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).parent.parent.parent
SAMPLE = """
from __future__ import annotations

import asyncio
import functools
from contextlib import asynccontextmanager


@asynccontextmanager
async def opened():
    say("opening")
    await asyncio.sleep(0)
    yield "it"
    say("closing")


async def numbers():
    for each in (1, 2):
        await asyncio.sleep(0)
        yield each


def say(word):
    print(word, flush=True)


async def give(word):
    say(word)
    return word


class Worker:
    def __init__(self):
        self.word = "mine"

    async def work(self):
        async def inside():
            await give("inside")
            return self.word

        try:
            say(await inside())
        finally:
            await give("finally")

    @functools.cache
    def plain(self):
        return 1


async def managed():
    async with opened() as it:
        await give(it)
    async for each in numbers():
        say(each)


async def gathered():
    await asyncio.gather(give(await give("argument")), give("other"))
    say([await give("listed") async for _ in numbers()])


async def everything():
    await Worker().work()
    await managed()
    await gathered()
"""
FIRST = "fault_sample_module"


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of that name that can be imported, by the processes that a test starts too."""
    path = tmp_path / f"{FIRST}.py"
    path.write_text(SAMPLE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPO}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    yield path
    sys.modules.pop(FIRST, None)


def run(failpoint: Failpoint | None, *, check: bool = False) -> tuple[int, list[str], list[dict[str, object]]]:
    """Return exit code, what the sample said and what the failpoint said, of a process that runs all of it."""
    armed = f"arm({failpoint!r}, [Target({FIRST!r})])" if failpoint else ""
    script = (
        f"import asyncio, {FIRST}\nfrom faults.failpoints import Failpoint, Target, arm\n"
        f"held = {FIRST}.everything\n{armed}\nasyncio.run(held())"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=check, cwd=REPO)
    said = [json.loads(line) for line in told.stderr.splitlines() if line.startswith("{")]
    return told.returncode, told.stdout.split("\n")[:-1], said


def short(point: str) -> str:
    return point.removeprefix(f"{FIRST}:")


@pytest.mark.usefixtures("sample")
def test_every_place_where_a_coroutine_may_be_suspended_is_listed() -> None:
    assert [short(each) for each in enumerate_points([Target(FIRST)])] == [
        "opened:1:await asyncio.sleep(0)",
        "numbers:1:await asyncio.sleep(0)",
        "Worker.work.<locals>.inside:1:await give('inside')",
        "Worker.work:1:await inside()",
        "Worker.work:2:await give('finally')",
        "managed:1:async with opened(): enter",
        "managed:2:async with opened(): exit",
        "managed:3:await give(it)",
        "managed:4:async for each in numbers()",
        "gathered:1:await asyncio.gather(give(await give('argument')), give('other'))",
        "gathered:2:await give('argument')",
        "gathered:3:await give('listed')",
        "gathered:4:async for _ in numbers()",
        "everything:1:await Worker().work()",
        "everything:2:await managed()",
        "everything:3:await gathered()",
    ]


@pytest.mark.usefixtures("sample")
def test_a_target_may_be_one_function_with_what_is_inside_it() -> None:
    assert [short(each).rsplit(":", 1)[0] for each in enumerate_points([Target(FIRST, ("Worker.work",))])] == [
        "Worker.work.<locals>.inside:1",
        "Worker.work:1",
        "Worker.work:2",
    ]
    with pytest.raises(ValueError, match=r"fault_sample_module has no function Worker\.rest"):
        enumerate_points([Target(FIRST, ("Worker.rest",))])


def test_an_await_added_to_the_source_is_listed_by_itself(sample: Path) -> None:
    before = enumerate_points([Target(FIRST)])
    sample.write_text(
        SAMPLE.replace('        say("opened")', "").replace("        say(each)", "        await give(each)")
    )
    sys.modules.pop(FIRST)
    assert set(enumerate_points([Target(FIRST)])) - set(before) == {f"{FIRST}:managed:5:await give(each)"}


@pytest.mark.usefixtures("sample")
def test_with_a_call_around_every_point_the_code_does_what_it_did() -> None:
    code, plain, _ = run(None, check=True)
    assert (code, "finally" in plain) == (0, True)
    same, instrumented, told = run(Failpoint(EVERY_POINT, "after", 0, "tell"))
    assert (same, instrumented) == (0, plain)
    assert {each["point"] for each in told} == set(enumerate_points([Target(FIRST)]))


@pytest.mark.usefixtures("sample")
@pytest.mark.parametrize("when", ["before", "after"])
def test_at_every_point_the_process_can_be_killed(when: str) -> None:
    for point in enumerate_points([Target(FIRST)]):
        code, _, told = run(Failpoint(point, when))  # type: ignore[arg-type]
        assert (code, [each["point"] for each in told]) == (-signal.SIGKILL, [point]), point


@pytest.mark.usefixtures("sample")
@pytest.mark.parametrize(
    ("point", "when", "hit", "last"),
    [
        ("Worker.work.<locals>.inside:1:await give('inside')", "before", 1, None),
        ("Worker.work.<locals>.inside:1:await give('inside')", "after", 1, "inside"),
        ("Worker.work:2:await give('finally')", "before", 1, "mine"),
        ("managed:1:async with opened(): enter", "before", 1, "finally"),
        ("managed:1:async with opened(): enter", "after", 1, "opening"),
        ("managed:2:async with opened(): exit", "before", 1, "it"),
        ("managed:2:async with opened(): exit", "after", 1, "closing"),
        ("managed:4:async for each in numbers()", "after", 2, "1"),
        ("gathered:1:await asyncio.gather(give(await give('argument')), give('other'))", "before", 1, "2"),
        ("gathered:2:await give('argument')", "after", 1, "argument"),
        ("gathered:3:await give('listed')", "after", 2, "listed"),
    ],
)
def test_before_and_after_a_point_are_where_they_say(point: str, when: str, hit: int, last: str | None) -> None:
    code, said, _ = run(Failpoint(f"{FIRST}:{point}", when, hit))  # type: ignore[arg-type]
    assert (code, said[-1] if said else None) == (-signal.SIGKILL, last)


@pytest.mark.usefixtures("sample")
def test_a_hit_that_never_comes_changes_nothing() -> None:
    assert run(Failpoint(f"{FIRST}:everything:1:await Worker().work()", "before", 2))[0] == 0


@pytest.mark.usefixtures("sample")
def test_a_point_that_is_not_in_the_source_is_refused() -> None:
    code, said, _ = run(Failpoint(f"{FIRST}:everything:9:await nothing"))
    assert (code, said) == (1, [])


def test_the_daemons_own_points_are_many_and_have_names_of_their_own() -> None:
    points = enumerate_points(daemon_targets())
    assert len(points) == len(set(points)) > 40
