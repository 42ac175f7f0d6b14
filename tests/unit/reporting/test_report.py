"""The report page: whole, self-contained, and never taken in by what environments and models wrote."""

import base64
import hashlib
import html.parser
import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ors_gym.redaction import visible
from ors_gym.reporting.page import Measurement, ReportLimits, RunRecord, Sample, StepRecord, write_report
from ors_gym.trajectory import Exchange, Failure, Reply, StopReason, TaskRef, Trajectory, TrajectoryGroup, Transition
from ors_gym.types import (
    ImageBlock,
    Message,
    TextBlock,
    ToolCall,
    ToolCallBlock,
    ToolOutput,
    ToolResultBlock,
)
from tests.support.browser import needs_browser, rendered

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><!--\u2028 &"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TASK = TaskRef("rooms", "train", 3)


def user(*blocks):
    return Message("user", tuple(TextBlock(block) if isinstance(block, str) else block for block in blocks))


def played(name, input=None, *, said="", **output):
    if "text" in output:
        output["blocks"] = (TextBlock(output.pop("text")),)
    call = ToolCall(name, input or {})
    return Exchange(Reply(said, (call,)), (Transition(call, ToolOutput(**output), 0.25),))


def two_turns(**changes):
    record = {
        "episode_id": "e1",
        "task": TASK,
        "stop_reason": StopReason.FINISHED,
        "prompt": (user("Press the right button."),),
        "exchanges": (
            played("look", said="Let me see.", text="It says red."),
            played("press", {"color": "red"}, text="Open.", reward=1.0, finished=True),
        ),
    }
    return Trajectory(**(record | changes))


def data_of(path):
    page = path.read_text(encoding="utf-8")
    block = re.search(r'<script type="application/json" id="run">(.*?)</script>', page, re.DOTALL)
    return json.loads(block[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def written(tmp_path, record, **options):
    return data_of(write_report(tmp_path / "report.html", record, **options))


def events_of(tmp_path, trajectory):
    return written(tmp_path, RunRecord("run", samples=[Sample(trajectory, 1)]))["samples"][0]["events"]


class Elements(html.parser.HTMLParser):
    """Every start tag of a page with its attributes, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.found += [("/script", {})] if tag == "script" else []

    def handle_data(self, data):
        if self.found and self.found[-1][0] == "script":
            self.scripts[-1] += data


def hostile_record():
    trajectory = two_turns(
        episode_id=HOSTILE,
        task=TaskRef(HOSTILE, task={HOSTILE: HOSTILE}),
        prompt=(user(HOSTILE),),
        exchanges=(
            played(
                HOSTILE,
                {HOSTILE: HOSTILE},
                said=HOSTILE,
                blocks=(TextBlock(HOSTILE), ImageBlock(HOSTILE, HOSTILE)),
            ),
            played("x", ok=False, error=HOSTILE, reason=HOSTILE),
            Exchange(Reply(HOSTILE, error=HOSTILE, reason=HOSTILE, reasoning=HOSTILE), notices=(TextBlock(HOSTILE),)),
        ),
        stop_reason=StopReason.FAILED,
        failure=Failure(HOSTILE, HOSTILE),
    )
    names: list[dict[str, int]] = [{HOSTILE: 2, "__proto__": 2, "constructor": 1}, {HOSTILE: 2}]
    steps = [
        StepRecord(step, 1.0 * step, 1, 0.5, failures=counts, tool_calls=counts) for step, counts in enumerate(names, 1)
    ]
    return RunRecord(
        HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, warmup=HOSTILE, ended=HOSTILE,
        steps=steps, samples=[Sample(trajectory, 1, HOSTILE, group=HOSTILE)],
    )  # fmt: skip


def test_the_page_names_nothing_that_would_be_loaded(tmp_path):
    page = write_report(tmp_path / "report.html", RunRecord("run", samples=[Sample(two_turns(), 1)])).read_text()
    elements = Elements(page)
    assert {"img", "iframe", "base", "object", "embed", "form"}.isdisjoint(tag for tag, _ in elements.found)
    assert [attributes["href"] for tag, attributes in elements.found if tag == "link"] == ["data:,"]
    assert not any("src" in attributes for _, attributes in elements.found)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(|innerHTML|insertAdjacentHTML|\beval\b", page)


def test_the_policy_admits_exactly_the_one_script(tmp_path):
    elements = Elements(write_report(tmp_path / "report.html", RunRecord("run")).read_text(encoding="utf-8"))
    policy = next(a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(elements.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_hostile_text_stays_text(tmp_path):
    path = write_report(tmp_path / "report.html", hostile_record())
    elements = Elements(path.read_text(encoding="utf-8"))
    assert len(elements.scripts) == 2
    assert "img" not in {tag for tag, _ in elements.found}
    assert "\u2028" not in path.read_text(encoding="utf-8").partition("<body>")[2]
    run = data_of(path)
    assert run["title"] == run["samples"][0]["events"][0]["parts"][0]["text"] == HOSTILE
    assert run["samples"][0]["events"][2]["parts"][1] == {
        "left_out": "an image that is not base64 data of an image type"
    }


@given(text=st.text(st.characters(exclude_categories=())))
def test_any_text_comes_through_unchanged_but_for_what_is_not_shown(tmp_path_factory, text):
    run = written(tmp_path_factory.getbasetemp(), RunRecord("run", text))
    assert run["description"] == re.sub("[\ud800-\udfff]", "\ufffd", visible(text)) or "://" in text


@pytest.mark.parametrize("text", ["\x1b]52;c;eA==\x07", "\x9b2J", "a\u202ecba", "\u2066x\u2069", "\r"])
def test_what_drives_a_terminal_or_turns_text_around_is_not_on_the_page(tmp_path, text):
    run = written(tmp_path, RunRecord(text, samples=[Sample(two_turns(prompt=(user(text),)))]))
    shown = json.dumps(run, ensure_ascii=False)
    assert visible(shown) == shown
    assert shown.count("\ufffd") >= 2


def test_placeholders_in_texts_are_not_filled_in(tmp_path):
    run = written(tmp_path, RunRecord("{{data}}", "{{title}} {{script_source}} \\1"))
    assert (run["title"], run["description"]) == ("{{data}}", "{{title}} {{script_source}} \\1")


@needs_browser
def test_a_browser_draws_hostile_text_without_running_it(tmp_path):
    page, complaints = rendered(write_report(tmp_path / "report.html", hostile_record()), tmp_path)
    assert complaints == []
    assert "<title>owned" not in page
    drawn = page.partition('<script type="application/json"')[0]
    assert "<img" not in drawn
    assert drawn.count("&lt;img src=x onerror=") > 10
    assert "__proto__" in drawn
    assert not re.search("NaN|native code|\\[object", drawn)


@needs_browser
def test_a_browser_draws_the_run(tmp_path):
    steps = [StepRecord(n, 2.0 * n, 8, n / 40, 0.1, 2.5, stop_reasons={"finished": 8}) for n in range(1, 41)]
    image = played("photo", blocks=(ImageBlock(PIXEL, "image/png"),))
    samples = [Sample(two_turns(exchanges=(*two_turns().exchanges, image)), 40, episode_return=1.0)]
    record = RunRecord("A run", steps=steps, samples=samples, baseline_reward=Measurement(0.0625, 512))
    record.reward_after_warmup = Measurement(0.125, 64)
    page, complaints = rendered(write_report(tmp_path / "report.html", record), tmp_path)
    assert complaints == []
    text = re.sub(r"<[^>]+>", " ", page.partition('<script type="application/json"')[0])
    numbers = ("random policy 0.06", "after warm-up 0.13", "0.89", "320", "None in 320 episodes")
    for expected in (*numbers, "It says red.", "no reward given", "reward 1.00", "The environment ended the episode."):
        assert expected in text, expected
    assert f'src="data:image/png;base64,{PIXEL}"' in page


@needs_browser
def test_a_batch_that_several_steps_are_made_with_is_called_a_batch(tmp_path):
    steps = [StepRecord(4 * n + 1, 1.0 * n, 8, n / 40) for n in range(40)]
    page, _ = rendered(write_report(tmp_path / "report.html", RunRecord("run", steps=steps)), tmp_path)
    assert "last 10 batches" in page
    assert "last 10 steps" not in page


@needs_browser
def test_episodes_are_browsed_and_curves_read_with_the_keyboard_alone(tmp_path):
    steps = [StepRecord(n, 1.0 * n, 8, n / 40) for n in range(1, 41)]
    samples = [Sample(two_turns(episode_id=f"e{n}"), n, episode_return=n % 3 - 1.0) for n in range(1, 41)]
    page = write_report(tmp_path / "report.html", RunRecord("run", steps=steps, samples=samples))
    keys = """
        const $ = selector => document.querySelector(selector), seen = [];
        const key = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
        const look = () => seen.push($(".episode h3").textContent.split(" · ")[0]);
        const set = (node, value) => { node.value = value; node.dispatchEvent(new Event("input")); };
        const list = $("[role=listbox]"), curve = $("svg"), tip = $(".tip");
        look();
        for (const name of ["ArrowDown", "End", "j", "Home"]) { key(list, name); look(); }
        for (const name of ["End", "ArrowLeft"]) { key(curve, name); seen.push(tip.innerText); }
        key(curve, "Escape"); seen.push(tip.hidden);
        set($("[aria-label=Return]"), "negative"); seen.push(list.childElementCount); look();
        set($("[aria-label=Search]"), "E9 RED"); seen.push(list.childElementCount); look();
        set($("[aria-label=Search]"), "nowhere"); seen.push($(".episode").textContent);
        document.body.dataset.seen = JSON.stringify(seen);
    """
    html = page.read_text(encoding="utf-8").replace("Content-Security-Policy", "x")  # lets the test's own script in
    page.write_text(html.replace("</body>", f"<script>setTimeout(() => {{ {keys} }}, 300)</script></body>"))
    drawn, complaints = rendered(page, tmp_path)
    assert complaints == []
    seen = json.loads(next(a["data-seen"] for tag, a in Elements(drawn).found if tag == "body"))
    assert seen[:5] == ["Step 40", "Step 39", "Step 1", "Step 1", "Step 40"]
    assert re.sub(r"\s+", " ", seen[5]).startswith("Step 40 reward 1.00 mean of 10 steps 0.89")
    assert seen[6].startswith("Step 39")
    assert seen[7:] == [True, 13, "Step 39", 1, "Step 9", "No episode matches."]


def test_an_episode_reads_prompt_then_each_turn_with_its_call_result_and_reward(tmp_path):
    prompt, thought, look, press = events_of(tmp_path, two_turns())
    assert prompt == {
        "kind": "message", "role": "user", "turn": -1, "parts": [{"text": "Press the right button."}]
    }  # fmt: skip
    assert (thought["role"], thought["turn"], thought["parts"]) == ("assistant", 0, [{"text": "Let me see."}])
    assert (look["name"], look["reward"], look["parts"]) == ("look", None, [{"text": "It says red."}])
    assert (press["arguments"], press["reward"], press["finished"]) == ([["color", {"text": '"red"'}]], 1.0, True)


def test_a_call_without_an_answer_is_shown_as_such(tmp_path):
    first, second = two_turns().exchanges
    broken = two_turns(
        exchanges=(first, Exchange(second.reply)), stop_reason=StopReason.FAILED, failure=Failure("connection", "cut")
    )
    assert [event["kind"] for event in events_of(tmp_path, broken)] == ["message", "message", "call", "unanswered"]


def test_notices_next_to_results_are_shown(tmp_path):
    unreadable = Exchange(Reply("<tool_call>{", error="No tool was called", reason="invalid_json"))
    late = Exchange(Reply("well,"), notices=(TextBlock("Your time is over."),))
    events = events_of(tmp_path, two_turns(prompt=(), exchanges=(unreadable, late)))
    assert [(event["role"], event["turn"], event["parts"][0]["text"]) for event in events] == [
        ("assistant", 0, "<tool_call>{"),
        ("user", 0, "No tool was called"),
        ("assistant", 1, "well,"),
        ("user", 1, "Your time is over."),
    ]


def test_turns_of_the_prompt_are_not_taken_for_the_policys(tmp_path):
    shown_before = (
        user("For example:"),
        Message("assistant", (ToolCallBlock("c", "look", {}),)),
        user(ToolResultBlock("c", (TextBlock("It says blue."),))),
    )
    events = events_of(tmp_path, two_turns(prompt=(*shown_before, *two_turns().prompt)))
    assert [(event["kind"], event["turn"]) for event in events] == [
        ("message", -2), ("message", -1), ("message", -1), ("message", -1), ("message", 0), ("call", 0), ("call", 1)
    ]  # fmt: skip
    assert events[1]["parts"] == [{"text": "look({})"}]
    assert events[2]["parts"] == [{"text": "It says blue."}]


def test_reasoning_is_marked_and_arguments_of_several_lines_stay_as_they_are(tmp_path):
    call = ToolCall("run", {"code": "a\nb", "n": "1"})
    thoughtful = Exchange(Reply(reasoning="hm", tool_calls=(call,)), (Transition(call, ToolOutput()),))
    _, reasoning, run = events_of(tmp_path, two_turns(exchanges=(thoughtful,)))
    assert reasoning["parts"] == [{"reasoning": True, "text": "hm"}]
    assert run["arguments"] == [["code", {"text": "a\nb"}], ["n", {"text": '"1"'}]]


def test_arguments_that_no_json_holds_are_shown_all_the_same(tmp_path):
    deep = []
    for _ in range(5000):
        deep = [deep]
    *_, call = events_of(tmp_path, two_turns(exchanges=(played("run", {"deep": deep, "long": 10**5000}),)))
    assert [name for name, _ in call["arguments"]] == ["deep", "long"]


def test_long_texts_and_many_images_and_samples_are_cut_and_said_to_be(tmp_path):
    images = tuple(ImageBlock(PIXEL, "image/png") for _ in range(2))
    long = two_turns(prompt=(user("x" * 30),), exchanges=(played("look", blocks=images),))
    record = RunRecord("run", samples=[Sample(long, step) for step in range(101)])
    limits = ReportLimits(samples=5, text_characters=10, image_bytes=len(PIXEL) + 1)
    run = written(tmp_path, record, limits=limits)
    assert [sample["step"] for sample in run["samples"]] == [0, 25, 50, 75, 100]
    assert run["numSamples"] == 101
    prompt, call = run["samples"][0]["events"]
    assert prompt["parts"] == [{"text": "x" * 10, "cut": 20}]
    assert call["parts"] == [{"image": f"data:image/png;base64,{PIXEL}"}, {"left_out": "image/png, 72 bytes"}]


@pytest.mark.parametrize(
    "name", ["api_key", "API-KEY", "openai_apikey", "password", "hub_token", "token", "client_secret", "authorization"]
)
def test_settings_whose_names_are_secret_are_masked(tmp_path, name):
    assert "hunter2" not in json.dumps(written(tmp_path, RunRecord("run", settings={name: "hunter2"})))


@pytest.mark.parametrize("name", ["max_tokens", "tokenizer", "keyboard", "num_secretaries", "token_limit"])
def test_settings_that_only_look_secret_are_shown(tmp_path, name):
    assert written(tmp_path, RunRecord("run", settings={name: 7}))["settings"] == [[name, "7"]]


def test_secrets_are_masked_wherever_they_occur(tmp_path):
    secret = "sk-<live>&42"
    trajectory = two_turns(
        episode_id=secret,
        prompt=(user(f"use {secret}!"),),
        exchanges=(played(secret, {secret: [secret]}, said=secret, text=secret),),
        stop_reason=StopReason.FAILED,
        failure=Failure("connect", f"http://me:pw@host/?key={secret}"),
    )
    record = RunRecord(secret, secret, {"x": secret}, samples=[Sample(trajectory, 1, secret)], warmup=secret)
    record.steps.append(StepRecord(1, 1.0, tool_calls={secret: 1}))
    page = write_report(tmp_path / "report.html", record, secrets=[secret, ""]).read_text(encoding="utf-8")
    assert "42" not in page.partition("<body>")[2].partition("<script>")[0].replace("342", "")
    assert "sk-" not in page
    assert "me:pw" not in page


def test_a_secret_is_masked_also_where_the_text_is_cut(tmp_path):
    trajectory = two_turns(prompt=(user("0123456 SECRETSECRET"),))
    run = written(
        tmp_path, RunRecord("r", samples=[Sample(trajectory, 1)]),
        secrets=["SECRETSECRET"], limits=ReportLimits(text_characters=10),
    )  # fmt: skip
    assert "SE" not in run["samples"][0]["events"][0]["parts"][0]["text"]


def test_numbers_that_json_has_not_are_left_out(tmp_path):
    step = StepRecord(1, 1.0, reward=float("nan"), turns=float("inf"))
    run = written(tmp_path, RunRecord("run", steps=[step], samples=[Sample(two_turns(), 1, episode_return=-0.0)]))
    assert (run["steps"][0]["reward"], run["steps"][0]["turns"]) == (None, None)


def test_the_page_replaces_the_old_one_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "report.html"
    assert write_report(str(path), RunRecord("first")) == path
    write_report(path, RunRecord("second"))
    assert data_of(path)["title"] == "second"
    with pytest.raises(AttributeError):
        write_report(path, RunRecord("third", samples=[None]))
    assert data_of(path)["title"] == "second"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_record_is_picklable():
    record = hostile_record()
    assert pickle.loads(pickle.dumps(record)) == record


def test_a_step_counts_what_its_groups_hold_and_never_scores_a_failure():
    cut = Failure("connection", "cut")
    failed = two_turns(stop_reason=StopReason.FAILED, failure=cut)
    limited = two_turns(stop_reason=StopReason.MAX_TURNS, exchanges=(played("look"), *[Exchange(Reply("hm"))] * 3))
    groups = [
        TrajectoryGroup(TASK, (two_turns(), limited), (cut,)),
        TrajectoryGroup(TASK, (two_turns(), failed), (cut, Failure("tool_failed", "boom"), cut), dropped=True),
    ]
    step = StepRecord.from_groups(7, groups, seconds=3.0, tokens=12.5)
    assert (step.step, step.episodes) == (7, 4)
    assert (step.reward, step.reward_std) == pytest.approx((2 / 3, (2 / 9) ** 0.5))
    assert step.turns == pytest.approx(8 / 3)
    assert step.stop_reasons == {"finished": 2, "max_turns": 1, "failed": 1}
    assert step.tool_calls == {"look": 4, "press": 3}
    assert step.failures == {"connection": 3, "tool_failed": 1}
    assert (step.dropped_groups, step.tokens) == (1, 12.5)


def test_a_step_without_a_scored_episode_has_no_reward():
    broken = two_turns(stop_reason=StopReason.FAILED, failure=Failure("connection", "cut"))
    unscored = TrajectoryGroup(TASK, (broken,))
    step = StepRecord.from_groups(1, [unscored], seconds=1.0)
    assert (step.reward, step.reward_std, step.episodes) == (None, None, 1)


def test_the_score_of_a_step_is_the_callers_choice():
    step = StepRecord.from_groups(1, [TrajectoryGroup(TASK, (two_turns(),))], seconds=1.0, score=lambda episode: -2.0)
    assert step.reward == -2.0
