"""The rules in an environment's documentation for a player, without text for developers."""

from __future__ import annotations

import inspect
import itertools
import re
from typing import Any

import gymnasium

from ors_gym_server.adapters.known_environments import known_of

__all__ = ["has_no_rules", "players_text", "rules_of"]

_TOLD = ("description", "rewards", "reward", "episode end", "episode termination", "termination", "truncation", "rules")
_LONGEST_SECTION = 3000
"""Maximum characters of a section. The tables of MuJoCo's observations are longer, and do not help models."""
_FEW_WORDS = 15
"""Documentation with fewer words contains no rules."""

_HEADING = re.compile(r"^\s*#+ *(.+?) *$", re.MULTILINE)
_DEVELOPERS = re.compile(
    r"^(args|arguments|parameters|keyword arguments|attributes|properties|returns?|raises|yields|examples?|usage|"
    r"notes?|references?|see also|version history|credits|citation|registered configurations)\s*:?\s*$",
    re.IGNORECASE,
)
_UNDERLINE = re.compile(r"^\s*([-=~^])\1{2,}\s*$")
_CODE = (
    r"\b(arguments?|parameters?|keyword|kwargs?|constructor|subclass(es)?|wrappers?|docstring|API|numpy|Python|gym(nasium)?|"
    r"ndarray|dtype|default reward|reward threshold|info|registered|implementation|implemented)\b"
    r"|render_mode|time_limit|action_mask|__\w+__|\bself\.|\bnp\.|\bint\(\)|step\(\)|reset\(\)|\w\s?=\s?(True|False)|\bsection\b"
)
_CREDITS = (
    r"https?://|arxiv|@\w+\{|et al\b|adapted from|inspiration|inspired by|pixel art|Farama|by Sutton|^\s*From \""
    r"|\b(described|introduced|proposed) (in|by)|, run:$|\bTo (run|play|see)\b.*:$"
    r"|^\s*Keys \*|This environment is part of the|^Please read\b"
)
_FOR_DEVELOPERS = re.compile(f"{_CODE}|{_CREDITS}", re.IGNORECASE)
_ASIDE = re.compile(rf"\s*\((?:[^()]*(?:{_CODE})[^()]*|see [^()]*)\)", re.IGNORECASE)
"""Parentheses that the sentence does not need."""


def rules_of(env: gymnasium.Env[Any, Any], *, actions: bool = True, observations: bool = True) -> str:
    """The rules, optionally with the description of actions and observations."""
    classes = itertools.takewhile(lambda cls: cls is not gymnasium.Env, type(env.unwrapped).__mro__)
    document = next((cls.__doc__ for cls in classes if cls.__doc__), "")
    before, *sections = _HEADING.split(inspect.cleandoc(document))
    spaces = {"action space": actions, "observation space": observations}
    wanted = (*_TOLD, *(title for title, is_told in spaces.items() if is_told))
    told = [players_text(before)]
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        rules = players_text(inspect.cleandoc(text))
        if title.lower().rstrip(" :") in wanted and 0 < len(rules) <= _LONGEST_SECTION:
            told.append(f"{title}\n{rules}")
    rules = "\n\n".join(part for part in told if 0 < len(part) <= _LONGEST_SECTION)
    edited = known_of(env).rules
    if edited is not None:
        rules = edited(env, rules)
    steps = getattr(env.spec, "max_episode_steps", None) or getattr(env.unwrapped, "max_steps", None)
    if isinstance(steps, int) and not re.search(rf"\b{steps}\b", rules):
        rules += f"\n\nThe episode is cut off after {steps} steps."
    return re.sub(r"\n{3,}", "\n\n", rules).strip()


def has_no_rules(rules: str) -> bool:
    """Whether the text tells a player nothing beyond the game's name."""
    return len(rules.split()) < _FEW_WORDS


def players_text(text: str) -> str:
    r"""Documentation without the sections, code, markup and sentences for developers.

    >>> players_text("Walk. See the `size` argument for larger maps.\n\nArgs:\n    size: Of the map.")
    'Walk.'
    """
    text = re.sub(r"```.*?```|~~~.*?~~~|<!--.*?-->|\$\$.*?\$\$", "", text, flags=re.DOTALL)
    kept = _without_code(_without_sections(text.splitlines()))
    plain = "\n".join(_sentences_for_players(_plain(line)) for line in _paragraphs(kept))
    return re.sub(r"\n{3,}", "\n\n", plain).strip()


def _without_sections(lines: list[str]) -> list[str]:
    """Remove ``Args:`` and similar sections, with the text indented below them or following to the end."""
    kept: list[str] = []
    indent: int | None = None
    for number, line in enumerate(lines):
        depth = len(line) - len(line.lstrip())
        if indent is not None and line.strip() and depth <= indent:
            indent = None
        if indent is None and _DEVELOPERS.match(line.strip()):
            if number + 1 < len(lines) and _UNDERLINE.match(lines[number + 1]):
                return kept  # numpy style: these sections come last
            indent = depth
        if indent is None and not _UNDERLINE.match(line):
            kept.append(line)
    return kept


def _without_code(lines: list[str]) -> list[str]:
    """Remove doctests up to the next blank line, and directives with the text indented below them."""
    kept: list[str] = []
    indent: int | None = None
    in_doctest = False
    for line in lines:
        depth = len(line) - len(line.lstrip())
        in_doctest = (in_doctest and bool(line.strip())) or line.lstrip().startswith(">>>")
        if indent is not None and line.strip() and depth <= indent:
            indent = None
        if re.match(r"\s*\.\. ", line):
            indent = depth
        if indent is None and not in_doctest:
            kept.append(line)
    return kept


def _paragraphs(lines: list[str]) -> list[str]:
    """Join the lines of a paragraph or item; keep tables, lists and drawings unchanged."""
    joined: list[str] = []
    for line in lines:
        before = joined[-1] if joined else ""
        depth, depth_before = (len(each) - len(each.lstrip()) for each in (line, before))
        goes_on = re.match(r"\s*[\w`\"'(\[:]", line) and not re.match(r"\s*\d+[.:)]", line)
        fits = depth <= depth_before + 1 or re.match(r"\s*(?:[-*]|\d+[.:)]) ", before)
        if before.strip() and goes_on and fits and not re.search(r"^\s*[|+#]|:\s*$", before):
            joined[-1] = f"{before.rstrip()} {line.strip()}"
        else:
            joined.append(line)
    return joined


def _plain(line: str) -> str:
    """A line without Markdown and reStructuredText markup."""
    line = re.sub(r"<sup>([^<]*)</sup>", r"^\1", line)
    line = re.sub(r"\[<a [^<>]*>[^<]*</a>\]|!\[[^\]]*\]\([^)]*\)|</?\w[^<>]*>", "", line)
    line = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", line)
    line = re.sub(r":[\w.+:-]+:`~?(?:[\w.]*\.)?([^`]+)`", r"\1", line)
    line = re.sub(r"\s*\[#?\w+\]_(?!\w)", "", line)
    line = re.sub(r"\s*(?:\\t|\t|\b|\\)ext\{([^{}]*)\}", r" \1", line)  # in formulas, with \t parsed as a tab or not
    line = line.replace("$", "").replace("``", "`")
    return re.sub(r"\*\*([^*]+)\*\*", r"\1", line).rstrip()


def _sentences_for_players(line: str) -> str:
    if line.lstrip().startswith("|"):  # a table is kept whole
        return line
    line = _ASIDE.sub("", line)
    if not _FOR_DEVELOPERS.search(line):
        return line
    marked = re.match(r"[\s*-]*(?:`\w+`:\s+)?", line)  # of a list, also of one that explains words
    start = marked[0] if marked else ""
    sentences = re.split(r"(?<=[.!?])\s+", line[len(start) :])
    kept = [sentence for sentence in sentences if not _FOR_DEVELOPERS.search(sentence)]
    return start + " ".join(kept) if kept else ""
