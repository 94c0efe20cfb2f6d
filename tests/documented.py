# SPDX-License-Identifier: MIT
"""The commands of README, CONTRIBUTING and docs/, and how each is held to its word.

``SMALL`` are run by tests/unit/test_docs_commands.py, ``ON_THE_REFERENCE`` by tests/vm/test_docs_machines.py,
``ELSEWHERE`` by the test that is named; ``READ`` are only parsed, by the real parser, for the reason that is
given. Keys are regular expressions of whole commands; a command in none or in two of them fails a test.
"""

from __future__ import annotations

import re

from harness import paths

FILES = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{file.name}" for file in paths.CHECKOUT.glob("docs/*.md")),
)
PROGRAMS = ("mkh", "pytest", "make", "git", "pip", "apt-get", "source", "cd", "bash", "sudo")
IN_LINE = re.compile(r"`((?:\.venv/bin/)?(?:mkh|pytest|make) [^`]+)`")

OWN = "(reference|rfc-v1|rfc-v2|NAME)"
"""The kernels that the tests put the reference in the place of; its series in that of FOLDER."""
ONE = "one claim, not all"
SMALL = {
    r"mkh (doctor|completion bash|test --list)": "",
    r"mkh (reproduce( --list| last( --script)?)?|debug( RUN)?)": "a failure kept before",
    r"mkh reproduce FOLDER/report\.json --test test_stops": "a report written before",
    r"mkh coverage FOLDER( --lines)?( --json)?": "a folder of no objects",
    r"mkh store (list|gc|gc --dry-run)": "an empty cache",
    r"mkh series show (thread\.mbox|SERIES --json)": "a patch of two lines",
    r"mkh series apply SERIES --base /path/to/linux( --fuzz 2)?": "that, and a tree of three files",
    r"mkh test --bisect --kernel rfc-v2 .*": "a repository with no Linux in it, so each revision is skipped",
    r"git (bisect (start|reset)\b.*|pull -q)": "that repository",
    r"cd \S+": "",
}
ON_THE_REFERENCE = {
    rf"mkh build {OWN} --series FOLDER --base \S+ --json|mkh build (mine|/path/mine\.toml)": "without --base",
    rf"mkh store show {OWN}": "",
    r"mkh runs( --gaps)?( --since \S+| --carry \S+| --all)?": "",
    rf"mkh bench --messages( --kernel {OWN})?": "one round, not ten",
    rf"mkh map( --kernel {OWN} --series FOLDER)?": "",
    rf"(mkh test|mkh test( tests/\S+)+|mkh test --kernel {OWN} --series (FOLDER|~/patches))"
    r"( -k \S+| -n 0| --json| --report [^-]+?( --against \S+)?| --against \S+| --retry)*": ONE,
    r"mkh test --bisect": ONE,
    rf"pytest tests/\S+( --kernel {OWN} --series FOLDER| --(report|against) \S+| --no-oracles| -k \S+)*": ONE,
}
ELSEWHERE = {
    rf"mkh demo|mkh demo --kernel (mine|{OWN})( --series FOLDER)?": "tests/lab/test_demo.py",
    r"mkh console( --kernel \S+)?( --spawned N)?( --series FOLDER)?": "tests/vm/test_console_view.py",
    r"mkh console --attach NAME( --go-on)?|mkh test --pause-on-fail( -k WORDS)?": "tests/vm/test_pause.py",
    r"make (check|setup|test)": ".ci/run",
}
READ = {
    r"mkh demo --bzimage .*|mkh (demo|update) .*--base .*": "needs a kernel of somebody's, or builds one",
    r"(mkh demo|mkh test|pytest) --kernel (reference|NAME)\+.*": "builds another kernel",
    r"mkh test --kernel mainline -k handover": "builds another kernel",
    r"mkh build \S+( --series FOLDER)? --each": "builds a kernel for each patch; cf. tests/unit/test_each.py",
    r"mkh check NAME --series FOLDER": "takes minutes; tests/unit/test_check.py does its parts",
    r"mkh selfcheck.*|make selfcheck": "builds kernels; tests/vm/test_seeded_faults.py tries twelve",
    r"mkh test --series ~/\.cache/\S+ -k": "a series that `mkh selfcheck` leaves behind",
    r"mkh isolation.*": "takes minutes; its experiments are run by tests/lab/test_experiments.py",
    r"mkh update.*": "tests/lab/test_update.py calls what it calls",
    r"mkh bench": "measures for minutes",
    r"mkh store gc --machines": "would take those of other tests; tests/unit/test_store_gc.py calls it",
    r"mkh debug RUN .+": "opens a debugger for a person; tests/lab/test_debuggers.py talks to both",
    r"make demo": "one line, `mkh demo`",
    r"make -s setup": "`make setup`, told to be quiet",
    r"apt-get (update|install -y git make)": "would change this computer",
}
WAYS = {"small": SMALL, "on the reference": ON_THE_REFERENCE, "elsewhere": ELSEWHERE, "read": READ}


def commands(text: str) -> list[str]:
    """Return the commands of a document: of its indented and fenced blocks, and in its lines."""
    found, fenced, part = [], False, ""
    for whole in text.split("\n"):
        line = whole
        if line.startswith("```"):
            fenced = not fenced
            continue
        if not (fenced or line.startswith("    ")):
            found += IN_LINE.findall(line)
            continue
        # YAML's and Groovy's ways to say that this is a command.
        line = re.sub(r"^\s*(?:- )?(?:run: |sh ')?|(?<=\S)'$|^\s*\$ ", "", line)
        part += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        for one in re.split(r" && | \|(?= )(?![^\[]*\])", part):
            words = re.sub(r"\s+#\s.*| > .*| 2>.*", "", one).strip()
            first = words.split(" ", 1)[0].removeprefix(".venv/bin/")
            if (first in PROGRAMS or words.startswith(".venv/bin/")) and " " in words and "=" not in first:
                found.append(words)
        part = ""
    return found


def variants(command: str) -> set[str]:
    """Return a command with and without each part in brackets, without the dots that stand for more."""
    command = command.replace(" ...", "").removeprefix("source <(").removesuffix(")")
    command = re.sub(r"\.venv/bin/", "", command)
    command = re.sub(r"^git bisect run ", "", command)
    return {" ".join(one.split()) for one in expanded(command)}


def expanded(command: str) -> set[str]:
    """Return a text with and without what is in brackets, the innermost first."""
    part = re.search(r"\[([^\[\]]*)\]", command)
    if part is None:
        return {command}
    return {
        one
        for inside in ("", *part[1].split(" | "))
        for one in expanded(command[: part.start()] + inside + command[part.end() :])
    }


TEXTS = {file: (paths.CHECKOUT / file).read_text() for file in FILES}
EVERY = sorted({one for text in TEXTS.values() for command in commands(text) for one in variants(command)})


def ways(command: str) -> list[str]:
    """Return the ways in which a command is held to its word: one, if all is well."""
    return [
        f"{way}: {pattern}"
        for way, held in WAYS.items()
        for pattern in held
        if re.fullmatch(pattern, command)
    ]


def held(way: str) -> list[str]:
    """Return the commands that are held to their word in one way."""
    return [one for one in EVERY if any(re.fullmatch(pattern, one) for pattern in WAYS[way])]
