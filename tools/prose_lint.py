"""Count phrases that are not standard technical English, and compare the counts with a budget that may only decrease.

    python tools/prose_lint.py             # fail if a folder has more findings than its budget
    python tools/prose_lint.py --strict    # fail also if a folder has fewer findings than its budget
    python tools/prose_lint.py --update    # lower the budget to the measured counts
    python tools/prose_lint.py --all       # print all findings, not only those in folders over budget
    python tools/prose_lint.py --rates     # print findings per 1000 words by folder

The tool checks docstrings, comments, test names, messages of errors and warnings, and Markdown outside of code. A
listed phrase can be appropriate in its context, but most often the suggested word is shorter and more common.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUDGET = ROOT / "tools" / "prose_budget.json"
CHECKED = ("src", "tests", "docs", "examples", "benchmarks", "tools", "*.md")

# Subjects that must not be personified.
_CODE = "engine|stage|kernel|optimizer|learner|callback|group|recipe|loader|function|class|code|it"

# Pattern and suggested replacement, by the kind of phrase. Patterns match whole words in any case.
PHRASES: tuple[tuple[str, str], ...] = (
    # Everyday verbs in place of standard terms.
    (r"go(?:es|ne|ing)? on|went on", "continue, resume, happen"),
    (r"go(?:es)? with", "belong to, combine with"),
    (r"tells?|told|telling|untold", "report, notify, distinguish, specify"),
    (r"tak(?:e|es|en|ing) in", "accumulate, accept, read"),
    (r"looks? (?:at|over|through|again)|looked (?:at|over|through|up)", "check, inspect, search"),
    (r"stands? (?:in|for|beside|at|still|there)", "is in, denote, replace"),
    (r"lies? (?:in|on|close|beside)", "is in, is near"),
    (r"puts? (?:back|aside|right)", "restore, save, fix"),
    (r"let(?:s)? go of", "release"),
    (r"gives? (?:itself|way|up)", "yield, stop, fail"),
    (r"mend(?:s|ed|ing)?", "fix, repair"),
    (r"comes? to an end", "end, finish"),
    (r"anew", "again, from the start"),
    (r"hands? (?:over|on)|handed (?:over|on)", "pass, forward"),
    (r"do(?:es)? without", "need only, omit"),
    (r"comes? by", "obtain"),
    (r"refus(?:e|es|ed|ing|als?)", "reject, raise, error"),
    (r"(?:is|are) left out", "is omitted, is excluded"),
    (r"thrown away|throws? away", "discard"),
    (r"stays? as (?:it|they)", "is unchanged"),
    # Personification.
    (r"nobody|anybody|somebody|everybody|whoever", "no caller, any caller, the caller"),
    (r"wish(?:es|ed)?", "request"),
    (r"has a say|have a say", "affect"),
    (rf"(?:{_CODE}) (?:knows?|wants?|thinks?|sees|notices|remembers|believes|likes)", "has, requires, reads, detects"),
    (r"ask(?:s|ed) for", "requested, required"),
    (r"newcomers?", "new parameter, first occurrence"),
    (r"says? (?:so|what|why|which|how)", "report, state, explain"),
    # Negation and comparison.
    (r"(?<!there )(?:is|are) no(?!-op)", "is not a, there is no"),
    (r"of another", "different, of a different"),
    (r"another one|in another order", "a different"),
    (r"(?:is|are) of (?:the|a|no)|are of", "has, belongs to"),
    (r"there and here|here and there", "saved and current"),
    (r"nothing but", "only"),
    (r"alike", "equal, both, equally"),
    # Clauses in place of noun phrases.
    (r"of which", "split the sentence"),
    (r"none where|where there (?:is|are) (?:none|no)", "None if, without"),
    (r"that there (?:is|was|are)", "the noun alone"),
    (r"as far as", "if, up to"),
    (r"what (?:a|an|the|each|every) \w+ (?:needs?|wants?|has to|is about|is for)", "requirements, fields, purpose"),
    (r"(?:and|of|for|from|with|in|to|by) what (?:is|was|are|were|has|it|they|torch|the|a|an|each|one)", "a noun"),
    (r"\w+Error: (?:it|they|there|one|that|an?|the|for|where|what|its|no|none)", "XError: If `name` is ..."),
    (r"raises `?\w+Error`?,? (?:for|where|if|when|on)", "a `Raises:` section"),
    (r"of one's own", "user-defined, custom"),
    (r"to be had", "available"),
    (r"be seen", "is visible, is shown"),
    # Figures of speech and rare words.
    (r"beside", "next to, compared with, besides"),
    (r"dear(?:er)?", "expensive"),
    (r"tidy|tidied|tidies", "clean up, consistent"),
    (r"spoilt|spoiled|askew", "corrupt, inconsistent"),
    (r"in the way", "blocking, unsupported"),
    (r"at hand|to hand", "available, given"),
    (r"now and then|every so often", "periodically, every n steps"),
    (r"half[ -]way", "halfway, in the middle of"),
    (r"for good|for ever", "permanently"),
    (r"cures?", "fix, workaround"),
    (r"(?:with|by|as|in|are|is) (?:one|a) sentence", "error message, one-line error"),
    (r"without a word", "silently"),
    (r"in force", "current"),
    (r"on the spot", "immediately, inline"),
    (r"bystanders?", "unrelated object, observer"),
)
_PATTERN = re.compile("|".join(rf"(?P<p{i}>\b(?:{p})\b)" for i, (p, _) in enumerate(PHRASES)), re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """A listed phrase in a file."""

    path: Path
    line: int
    phrase: str
    suggestion: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.phrase!r} -> {self.suggestion}"


def markdown_prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the text of every Markdown line, without code blocks and inline code."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            yield number, re.sub(r"`[^`]*`", "", line)


def python_prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the first line number and the text of comments, docstrings without doctests, test names and messages."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("#! ")
    messages: dict[int, ast.Constant] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstring(node)
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.lineno, node.name.replace("_", " ")
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _reports(node)):
            parts = (part for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))
            messages.update({id(part): part for part in parts})
    yield from ((part.lineno, str(part.value)) for part in messages.values())


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[int, str]]:
    if ast.get_docstring(node) is None:
        return
    first = node.body[0]
    text = first.value.value if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else ""
    yield first.lineno, re.sub(r"(?m)^\s*(?:>>>|\.\.\.).*$", "", str(text))


def _reports(call: ast.Call) -> bool:
    """Return whether a call creates an error or issues a warning: `warnings.warn`, `warn_once`, `ArgumentError`, ..."""
    name = ast.unparse(call.func).rpartition(".")[2]
    return "warn" in name or name.endswith("Error")


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line numbers and texts of the prose in a Python or Markdown file."""
    text = path.read_text(encoding="utf-8")
    return markdown_prose(text) if path.suffix == ".md" else python_prose(text)


def findings(path: Path, root: Path) -> list[Finding]:
    """Return the findings in one file, in the order of lines."""
    found: list[Finding] = []
    for line, text in prose(path):
        flat = re.sub(r"\s", " ", text)
        for match in _PATTERN.finditer(flat):
            suggestion = PHRASES[int((match.lastgroup or "p0")[1:])][1]
            number = line + text.count("\n", 0, match.start())
            found.append(Finding(path.relative_to(root), number, match.group(), suggestion))
    return sorted(found, key=lambda finding: finding.line)


def checked_files(root: Path) -> list[Path]:
    """Return the Python and Markdown files that are checked."""
    files: set[Path] = set()
    for name in CHECKED:
        files.update(root.glob(name) if "*" in name else (root / name).rglob("*.py"))
        files.update(() if "*" in name else (root / name).rglob("*.md"))
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts))


def by_folder(found: list[Finding]) -> dict[str, int]:
    """Return the number of findings in each folder that contains any."""
    counts: dict[str, int] = {}
    for finding in found:
        folder = finding.path.parent.as_posix()
        counts[folder] = counts.get(folder, 0) + 1
    return dict(sorted(counts.items()))


def compare(counts: dict[str, int], budget: dict[str, int], *, strict: bool) -> tuple[list[str], set[str]]:
    """Return messages about folders, and the set of folders over budget."""
    complaints: list[str] = []
    over = {folder for folder, count in counts.items() if count > budget.get(folder, 0)}
    for folder in sorted(counts.keys() | budget.keys()):
        count, allowed = counts.get(folder, 0), budget.get(folder, 0)
        if count > allowed:
            complaints.append(f"{folder}: {count} phrases, budget {allowed}")
        elif strict and count < allowed:
            complaints.append(f"{folder}: {count} phrases, budget {allowed}; lower the budget to {count} (--update)")
    return complaints, over


def lowered(counts: dict[str, int], budget: dict[str, int]) -> dict[str, int]:
    """Return the budget with every number lowered to the measured count; numbers are never raised or added."""
    return {folder: min(allowed, counts[folder]) for folder, allowed in sorted(budget.items()) if counts.get(folder)}


def rates(files: list[Path], counts: dict[str, int], root: Path) -> list[str]:
    """Return one line for each folder, with findings per 1000 words, findings and words."""
    words: dict[str, int] = {}
    for path in files:
        folder = path.relative_to(root).parent.as_posix()
        words[folder] = words.get(folder, 0) + sum(len(text.split()) for _, text in prose(path))
    words["total"], total = sum(words.values()), sum(counts.values())
    rows = [(counts.get(folder, total if folder == "total" else 0), number, folder) for folder, number in words.items()]
    return [f"{1000 * found / max(n, 1):6.1f}  {found:5d} in {n:6d} words  {folder}" for found, n, folder in rows]


def main(arguments: list[str] | None = None) -> int:
    """Run the check and return the exit status."""
    parser = argparse.ArgumentParser(description="Check prose against a list of phrases and a budget.")
    parser.add_argument("--strict", action="store_true", help="fail also if a folder is below its budget")
    parser.add_argument("--update", action="store_true", help="lower the budget to the measured counts")
    parser.add_argument("--all", action="store_true", help="print every finding")
    parser.add_argument("--rates", action="store_true", help="print findings per 1000 words by folder")
    options = parser.parse_args(arguments)
    files = checked_files(ROOT)
    found = [finding for file in files for finding in findings(file, ROOT)]
    counts, budget = by_folder(found), json.loads(BUDGET.read_text())
    if options.update:
        budget = lowered(counts, budget)
        BUDGET.write_text(json.dumps(budget, indent=2) + "\n")
    if options.rates:
        print("\n".join(rates(files, counts, ROOT)))
    complaints, over = compare(counts, budget, strict=options.strict)
    shown = [finding for finding in found if options.all or finding.path.parent.as_posix() in over]
    print("\n".join([*map(str, shown), *complaints]) or f"Prose: {len(found)} phrases, within budget.")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
