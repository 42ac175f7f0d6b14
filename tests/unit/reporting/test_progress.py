"""The progress display: live on a terminal, plain elsewhere, and the terminal put right whatever happens."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ors_gym.reporting import progress as progress_module
from ors_gym.reporting.progress import RunProgress, duration, sparkline

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Clock:
    """A clock that tests set."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def plain():
    file = io.StringIO()
    return file, RunProgress("GRPO", console=Console(file=file, highlight=False, width=200))


def live():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, highlight=False, legacy_windows=False)
    return file, RunProgress("GRPO", console=console, live=True)


def broken_off(progress, error):
    with progress:
        progress.steps(10)
        progress.update(3, reward=0.5)
        with progress.phase("Evaluating"):
            raise error


def screen(renderable):
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_log_gets_plain_lines_without_control_characters(clock):
    file, progress = plain()
    with progress:
        with progress.phase("Starting the server"):
            clock.now += 2
        with progress.phase("Something quick"):
            pass
        progress.steps(3)
        for step in (1, 2, 3):
            clock.now += 1
            progress.update(step, reward=step / 4, episodes=8, failures={"connection": 1} if step == 2 else {})
        progress.finish("The report is at [report.html]")
    assert file.getvalue().splitlines() == [
        "GRPO",
        "Starting the server ...",
        "Starting the server: took 2.0 s",
        "Something quick ...",
        "step 1/3  reward: 0.250  episodes: 8, 8.0/s  failures: none  left: 2.0 s",
        "step 3/3  reward: 0.750  episodes: 24, 8.0/s  failures: connection 1",
        "The report is at [report.html]",
    ]


def test_a_log_gets_few_lines_however_many_steps_there_are(clock):
    file, progress = plain()
    with progress:
        progress.steps(1000)
        for step in range(1, 1001):
            clock.now += 0.1
            progress.update(step, reward=0.0, episodes=1)
    assert sum(line.startswith("step ") for line in file.getvalue().splitlines()) == 11


def test_forced_color_in_a_pipe_is_not_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with RunProgress("GRPO", console=Console(file=file)) as progress:
        progress.steps(1)
    assert HIDE_CURSOR not in file.getvalue()


def test_the_live_lines_show_phase_steps_reward_speed_failures_and_time_left(clock):
    file, progress = live()
    with progress:
        with progress.phase("Warming up") as phase:
            phase.advance_to(0.5)
            assert "Warming up ━" in screen(progress._render())
        progress.steps(10)
        for step in (1, 2, 3, 4):
            clock.now += 2
            progress.update(step, reward=step / 10, episodes=16, failures={"tool_failed": 1})
        clock.now += 1
        shown = screen(progress._render())
    for expected in ("step 4/10", "9.0 s, 11 s left", "0.400  ▃▅▆█", "64, 8.0/s", "tool_failed 4"):
        assert expected in shown
    assert "✓ \x1b[0mWarming up" in file.getvalue()


def test_what_the_run_prints_stands_above_the_live_lines():
    file, progress = live()
    with progress:
        progress.steps(10)
        progress.update(1, reward=0.5)
        print("{'loss': 0.1}")
        progress.update(2, reward=0.5)
    assert "{'loss': 0.1}" in file.getvalue()


def test_nothing_is_live_after_the_end_and_the_numbers_stay():
    file, progress = live()
    with progress:
        progress.steps(2)
        progress.update(2, reward=0.5, episodes=4)
        progress.finish("Look at file:///" + "long/" * 40)
    text = file.getvalue()
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    tail = text[text.rindex("Training, 2 steps") :]
    assert "0.500" in tail
    assert "long/" * 40 in tail


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_a_run_that_is_broken_off_leaves_the_terminal_as_it_was(error):
    file, progress = live()
    with pytest.raises(error):
        broken_off(progress, error)
    text = file.getvalue()
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    assert "✗ \x1b[0mEvaluating" in text
    assert "✗ \x1b[0mTraining, 3 steps" in text


def test_a_log_says_where_a_run_was_broken_off(clock):
    file, progress = plain()
    with pytest.raises(KeyboardInterrupt):
        broken_off(progress, KeyboardInterrupt)
    assert file.getvalue().splitlines()[-2:] == [
        "Evaluating: did not complete",
        "Stopped after 3 steps: step 3/10  reward: 0.500  episodes: 0  failures: none",
    ]


def test_speed_and_time_left_are_judged_by_recent_steps(clock):
    file, progress = plain()
    with progress:
        progress.steps(100)
        for step in range(1, 41):
            clock.now += 100 if step <= 10 else 1
            progress.update(step, episodes=4)
    assert file.getvalue().splitlines()[-1].endswith("episodes: 160, 4.0/s  failures: none  left: 60 s")


def test_no_reward_is_not_reward_zero(clock):
    file, progress = plain()
    with progress:
        progress.steps()
        progress.update(1, reward=None, episodes=1)
        clock.now += 20
        progress.update(2, reward=0.0, episodes=1)
        clock.now += 20
        progress.update(3, reward=float("nan"), episodes=1)
    rewards = [line.split("  ")[1] for line in file.getvalue().splitlines() if line.startswith("step ")]
    assert rewards == ["reward: none given yet", "reward: 0.000", "reward: none in the last batch"]


def test_steps_must_be_announced():
    _, progress = plain()
    with progress, pytest.raises(RuntimeError, match=r"update\(\) before steps\(\)"):
        progress.update(1)


@given(values=st.lists(st.floats(-1e6, 1e6), max_size=200), width=st.integers(1, 40))
def test_a_sparkline_has_a_mark_for_each_share_of_the_values(values, width):
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(progress_module.SPARKS)


def test_a_sparkline_rises_with_its_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0.0] * 3) == "▁▁▁"
    assert sparkline([1.0] * 3) == "███"
    assert sparkline([-2, -1]) == "▁█"
    assert sparkline([10, 10.1]) == "██"
    assert sparkline([0, 0, 1, 1], width=2) == "▁█"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.6, "60 s"),
        (99.6, "1 min 40 s"),
        (3599.7, "60 min 0 s"),
        (7260, "2 h 1 min"),
    ],
)
def test_durations_read_quickly(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize("display", [plain, live])
def test_names_of_servers_and_models_do_not_drive_the_terminal(display):
    evil = "a\x1b]52;c;eA==\x07\u202eb"
    file, progress = display()
    progress = RunProgress(evil, console=progress.console, live=display is live)
    with progress:
        with progress.phase(evil):
            pass
        progress.steps(1, name=evil, unit=evil)
        progress.update(1, estimates={evil: evil}, failures={evil: 1})
        progress.finish(evil)
    shown = file.getvalue()
    assert "a\ufffd]52;c;eA==\ufffd\ufffdb" in shown
    assert not {"\x1b]", "\x07", "\u202e"} & {shown[at : at + size] for at in range(len(shown)) for size in (1, 2)}
