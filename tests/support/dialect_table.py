"""What is read back of what chat templates write. Run it to write ``docs/dialects.md``.

python -m tests.support.dialect_table
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trl
from transformers.utils.chat_template_utils import render_jinja_template

from ors_gym.dialects import DIALECTS, UnknownDialectError, dialect_of
from ors_gym.dialects.proof import PROBES, Template, TemplateRenderer, same
from ors_gym.trajectory import Reply
from ors_gym.types import ToolCall, ToolSpec
from tests.support.argument_set import argument_set
from tests.support.documented_templates import DOCUMENTED

__all__ = ["FOLDER", "Outcome", "RenderedTemplate", "document", "outcome", "templates"]

FOLDER = Path(trl.__file__).parent / "chat_templates"
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "dialects.md"


class RenderedTemplate:
    """A chat template as transformers renders it, without a tokenizer."""

    def __init__(self, template: str, name: str = "template") -> None:
        self.chat_template = template
        self.name_or_path = name

    def apply_chat_template(self, conversation: list[dict[str, Any]], tokenize: bool, **options: Any) -> str:
        return render_jinja_template(
            [conversation], chat_template=self.chat_template, bos_token="<bos>", eos_token="<eos>", **options
        )[0][0]


def templates() -> Iterator[RenderedTemplate]:
    """Those that TRL ships."""
    for path in sorted(FOLDER.glob("*.jinja")):
        yield RenderedTemplate(path.read_text(), path.stem)


@dataclass
class Outcome:
    """How many of the argument set's calls came back, and which did not."""

    dialect: str
    exact: int = 0
    changed: list[ToolCall] = field(default_factory=list)
    refused: list[ToolCall] = field(default_factory=list)
    plain: list[ToolCall] = field(default_factory=list)

    def add(self, call: ToolCall, parsed: Reply) -> None:
        if parsed.error is not None:
            self.refused.append(call)
        elif not parsed.tool_calls:
            self.plain.append(call)
        elif parsed.text or not same([plain(each) for each in parsed.tool_calls], [plain(call)]):
            self.changed.append(call)
        else:
            self.exact += 1


def plain(call: ToolCall) -> Any:
    return [call.name, dict(call.input)]


def written(template: Template, call: ToolCall, tool: ToolSpec) -> tuple[str, bool]:
    return TemplateRenderer(template, tools=(tool,)).call(call)


def outcome(template: Template) -> Outcome:
    """Write the whole argument set with a template, and read it back."""
    dialect = dialect_of(template)
    result = Outcome(dialect.name)
    writer = TemplateRenderer(template)
    writer.call(PROBES[0])  # the way in which the template takes messages
    for call, tool in argument_set(dialect.name):
        text, thinking_open = writer.with_tools(tool).call(call)
        result.add(call, dialect.parse(text, tools=[tool], thinking_open=thinking_open))
    return result


HEAD = """\
# Dialects: how models write tool calls

`dialect_of(tokenizer)` renders probe calls through the tokenizer's chat template and takes the dialect that reads all
of them back exactly. This table is written by `python -m tests.support.dialect_table` and checked by a test. It holds
every chat template that TRL {version} ships and that writes tool calls.

Each template writes the calls of the argument set (`tests/support/argument_set.py`): strings that look like numbers,
several lines, white space at the ends, marks of the dialect as text, nested and empty values, unusual names. *Exact*
calls come back equal, types included. *Changed* ones come back with another type: the template writes a string and
another value with the same characters, and the tool's schema allows both. *Refused* ones hold marks that end a value:
no call is made, and the model sees the error. No call comes back as plain text.

| template | dialect | calls | exact | changed | refused |
|---|---|---|---|---|---|
"""


DOCUMENTED_HEAD = """
Families whose templates TRL does not ship write the same calls as their documentation says
(`tests/support/documented_templates.py`). A template of such a model is proven like any other before it is used.

| family | dialect | calls | exact | changed | refused |
|---|---|---|---|---|---|
"""


def row(name: str, result: Outcome) -> str:
    assert not result.plain
    changed, refused = len(result.changed), len(result.refused)
    cells = (name, result.dialect, result.exact + changed + refused, result.exact, changed, refused)
    return f"| {' | '.join(map(str, cells))} |\n"


def document() -> str:
    """The tables, and the templates that have no dialect."""
    rows: list[str] = []
    without: list[str] = []
    for template in templates():
        try:
            rows.append(row(template.name_or_path, outcome(template)))
        except UnknownDialectError:
            without.append(template.name_or_path)
    documented = "".join(row(template.name_or_path, outcome(template)) for template in DOCUMENTED)
    forms = "".join(f"### {name}\n\n```\n{one.form}\n```\n\n" for name, one in DIALECTS.items() if name != "plain")
    return (
        HEAD.replace("{version}", trl.__version__)
        + "".join(rows)
        + f"\nTemplates of TRL that write no tool calls, and are refused: {', '.join(without)}.\n"
        + DOCUMENTED_HEAD
        + documented
        + f"\n## How a call is written\n\n{forms}"
    ).rstrip() + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
