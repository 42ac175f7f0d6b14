"""How families whose chat templates TRL does not ship write calls, by their documentation: as templates of our own."""

# ruff: noqa: RUF001
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["DOCUMENTED", "DocumentedTemplate"]

Call = Mapping[str, Any]
DSML = "｜DSML｜"


@dataclass
class DocumentedTemplate:
    """A template that writes a message's calls with ``write``."""

    name_or_path: str
    write: Callable[[Sequence[Call]], str]
    stop: str
    chat_template: str = "by the documentation"

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> str:
        text = f"<|tools|>{json.dumps(options['tools'])}\n"
        for message in conversation:
            calls = [{"id": call["id"], **call["function"]} for call in message.get("tool_calls", ())]
            text += f"<|{message['role']}|>{message['content']}{self.write(calls) if calls else ''}{self.stop}\n"
        return text + ("<|assistant|>" if options["add_generation_prompt"] else "")


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def raw(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value)


def objects(calls: Sequence[Call]) -> list[str]:
    return [as_json({"name": call["name"], "arguments": call["arguments"]}) for call in calls]


def kimi(calls: Sequence[Call]) -> str:
    made = "".join(
        f"<|tool_call_begin|>{call['id']}<|tool_call_argument_begin|>{as_json(call['arguments'])}<|tool_call_end|>"
        for call in calls
    )
    return f"<|tool_calls_section_begin|>{made}<|tool_calls_section_end|>"


def minimax_m1(calls: Sequence[Call]) -> str:
    return "<tool_calls>\n" + "".join(f"{each}\n" for each in objects(calls)) + "</tool_calls>"


def minimax_m2(calls: Sequence[Call]) -> str:
    def one(call: Call) -> str:
        values = (f'<parameter name="{key}">{raw(value)}</parameter>\n' for key, value in call["arguments"].items())
        return f'<invoke name="{call["name"]}">\n{"".join(values)}</invoke>\n'

    return "\n<minimax:tool_call>\n" + "".join(map(one, calls)) + "</minimax:tool_call>"


def dsml(around: str) -> Callable[[Sequence[Call]], str]:
    def one(call: Call) -> str:
        values: list[str] = []
        for key, value in call["arguments"].items():
            is_text = "true" if isinstance(value, str) else "false"
            values.append(f'<{DSML}parameter name="{key}" string="{is_text}">{raw(value)}</{DSML}parameter>')
        return f'<{DSML}invoke name="{call["name"]}">\n' + "\n".join(values) + f"\n</{DSML}invoke>"

    def write(calls: Sequence[Call]) -> str:
        return f"\n\n<{DSML}{around}>\n" + "\n".join(map(one, calls)) + f"\n</{DSML}{around}>"

    return write


def deepseek_v31(calls: Sequence[Call]) -> str:
    begin, sep, end = ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")
    made = "".join(f"{begin}{call['name']}{sep}{as_json(call['arguments'])}{end}" for call in calls)
    return f"<｜tool▁calls▁begin｜>{made}<｜tool▁calls▁end｜>"


def glm_5(calls: Sequence[Call]) -> str:
    def one(call: Call) -> str:
        values = (
            f"<arg_key>{key}</arg_key><arg_value>{raw(value)}</arg_value>" for key, value in call["arguments"].items()
        )
        return f"<tool_call>{call['name']}{''.join(values)}</tool_call>"

    return "".join(map(one, calls))


def hunyuan_3(calls: Sequence[Call]) -> str:
    def tagged(name: str, text: str) -> str:
        return f"<{name}:opensource>{text}</{name}:opensource>\n"

    def one(call: Call) -> str:
        values = (tagged("arg_key", key) + tagged("arg_value", raw(value)) for key, value in call["arguments"].items())
        return tagged("tool_call", f"{call['name']}<tool_sep:opensource>\n{''.join(values)}")

    return tagged("tool_calls", "\n" + "".join(map(one, calls)))


def hunyuan(calls: Sequence[Call]) -> str:
    return f"<tool_calls>[{', '.join(objects(calls))}]</tool_calls>"


def granite_4(calls: Sequence[Call]) -> str:
    return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in objects(calls))


def command(calls: Sequence[Call]) -> str:
    actions = (
        f'    {{"tool_call_id": "{place}", "tool_name": "{call["name"]}", "parameters": {as_json(call["arguments"])}}}'
        for place, call in enumerate(calls)
    )
    return "<|START_ACTION|>[\n" + ",\n".join(actions) + "\n]<|END_ACTION|>"


def mistral_array(calls: Sequence[Call]) -> str:
    made = [{"name": call["name"], "arguments": call["arguments"], "id": call["id"]} for call in calls]
    return f"[TOOL_CALLS]{as_json(made)}"


def mistral_names(calls: Sequence[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{call['name']}[ARGS]{as_json(call['arguments'])}" for call in calls)


DOCUMENTED = (
    DocumentedTemplate("Command A, Command R7B", command, "<|END_OF_TURN_TOKEN|>"),
    DocumentedTemplate("DeepSeek V3.1", deepseek_v31, "<｜end▁of▁sentence｜>"),
    DocumentedTemplate("DeepSeek V3.2", dsml("function_calls"), "<｜end▁of▁sentence｜>"),
    DocumentedTemplate("DeepSeek V4", dsml("tool_calls"), "<｜end▁of▁sentence｜>"),
    DocumentedTemplate("GLM 4.7, GLM 5", glm_5, "<|observation|>"),
    DocumentedTemplate("Granite 4", granite_4, "<|end_of_text|>"),
    DocumentedTemplate("Hunyuan A13B", hunyuan, "<|eos|>"),
    DocumentedTemplate("Hunyuan 3", hunyuan_3, "<｜hy_eos:opensource｜>"),
    DocumentedTemplate("Kimi K2", kimi, "<|im_end|>"),
    DocumentedTemplate("MiniMax M1", minimax_m1, "<end_of_sentence>"),
    DocumentedTemplate("MiniMax M2", minimax_m2, "[e~["),
    DocumentedTemplate("Mistral Small 3.1 and before", mistral_array, "</s>"),
    DocumentedTemplate("Mistral Small 3.2, Magistral", mistral_names, "</s>"),
)
