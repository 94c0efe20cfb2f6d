# SPDX-License-Identifier: MIT
"""A hunk that found room in another function or structure than its author meant is told, no other is."""

from __future__ import annotations

import re

import pytest

from harness.build.diff import Hunk
from harness.build.landing import Scope, Sections
from harness.build.place import Place

SOURCE = """\
// SPDX-License-Identifier: GPL-2.0
#include <linux/init.h>
#include <linux/slab.h>

struct box {
	int width;
	int height;
};

static DEFINE_MUTEX(box_lock);
static const struct ops box_ops = {
	.open = box_open,
};

static inline int area(struct box *b) { return b->width; }

/*
 * Says how many.
 */
#define COUNT(x) \\
	do { \\
		count(x); \\
	} while (0)

static int first(struct box *b,
			int more)
{
	int ret = 0;

	lock();
	ret = work(b);
again:
	unlock();
	return ret;
}
EXPORT_SYMBOL_GPL(first);

extern int far_away(int one,
			int two);

SYSCALL_DEFINE2(box, int, a, int, b)
{
	switch (a) {
	case 1:
		return one();
	}
	return -EINVAL;
}

static int
second(void)
{
	int ret = 0;

	lock();
	ret = other();
	unlock();
	return ret;
}
"""
LINES = [line + "\n" for line in SOURCE.splitlines()]


def line(text: str, nth: int = 1) -> int:
    """The index of a line of SOURCE."""
    return [n for n, found in enumerate(LINES) if found.strip() == text][nth - 1]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (line("#include <linux/slab.h>"), Scope(b"", False)),
        (line("int width;"), Scope(b"struct box {", True)),
        (line(".open = box_open,"), Scope(b"static const struct ops box_ops = {", True)),
        (
            line("* Says how many."),
            Scope(b"static inline int area(struct box *b) { return b->width; }", False),
        ),
        (line("int more)"), Scope(b"static int first(struct box *b,", True)),
        (line("unlock();"), Scope(b"static int first(struct box *b,", True)),
        (line("EXPORT_SYMBOL_GPL(first);"), Scope(b"static int first(struct box *b,", False)),
        (line("return one();"), Scope(b"SYSCALL_DEFINE2(box, int, a, int, b)", True)),
        (line("unlock();", 2), Scope(b"second(void)", True)),
        (len(LINES), Scope(b"second(void)", False)),
    ],
)
def test_scope_of_a_line(at, expected):
    found = Sections("box.c", [text.encode() for text in LINES]).scope(at)
    assert (found.declaration.strip(), found.inside) == (expected.declaration, expected.inside)


@pytest.mark.parametrize(
    ("declaration", "name"),
    [
        (b"static int first(struct box *b,", b"first"),
        (b"asmlinkage __visible void __init __noreturn start(char *data)", b"start"),
        (b"static const __initconst struct idt_data apic_idts[] = {", b"apic_idts"),
        (b"struct smp_ops smp_ops = {", b"smp_ops"),
        (b"struct box {", b"struct box"),
        (b"void __first(struct box *b)", b"__first"),
        (b"static char *names[] __initdata = {", b"names"),
        (b"SYSCALL_DEFINE4(reboot, int, magic1, int, magic2,", b"SYSCALL_DEFINE4(reboot"),
        (
            b"DEFINE_IDTENTRY_SYSVEC(sysvec_call_function_single)",
            b"DEFINE_IDTENTRY_SYSVEC(sysvec_call_function_single",
        ),
        (b"bool kexec_in_progress = false;", b"kexec_in_progress"),
        (b"struct kimage *kexec_image;", b"kexec_image"),
        (b"static DEFINE_MUTEX(box_lock);", b"DEFINE_MUTEX(box_lock"),
    ],
)
def test_name_of_a_declaration(declaration, name):
    assert Scope(declaration, None).name == name


def check(section: str, hunk: str, at: int, fuzz: int = 0, path: str = "box.c") -> str:
    """Judge a hunk, given as the lines of a diff, that was put where its first line is line ``at``."""
    lines = tuple(line.encode() for line in hunk.splitlines(keepends=True))
    where = Place(at, 0, fuzz, fuzz, fuzz)
    return Sections(path, [line.encode() for line in LINES]).check(Hunk(at + 1, section, lines), where)


MEMBER = " \tint depth;\n \tint colour;\n \tint weight;\n+\tint price;\n };\n \n /* end */\n"
FUNCTION = " }\n #endif\n \n+static int third(void)\n+{\n+}\n int next(void)\n {\n \tint a;\n"
CASE = " \t\tresult = one();\n \t\tbreak;\n #endif\n+\tcase 2:\n+\t\tbreak;\n \t}\n \n \treturn;\n"
LOCKED = " \tint ret = 0;\n \n \tlock();\n+\tnew();\n \tx = y;\n"
BETWEEN = " }\n EXPORT_SYMBOL_GPL(first);\n \n+int new;\n extern int far_away(int one,\n"
COMMENT = "  *\n  * Says how many.\n+ * And why.\n  */\n"
MACRO = " \tdo { \\\n \t\tcount(x); \\\n+\t\tmore(x); \\\n \t} while (0)\n"
HEADER = " static int\n second(void)\n {\n+\tint more;\n \tint ret = 0;\n"
INCLUDE = " #include <a.h>\n #include <b.h>\n #include <c.h>\n+#include <new.h>\n \n #d\n #e\n"
BOX_CALL = "SYSCALL_DEFINE2(box, int, a, int, b)"
IN_FIRST, IN_SECOND = line("int ret = 0;"), line("int ret = 0;", 2)


@pytest.mark.parametrize(
    ("section", "hunk", "at", "fuzz", "told"),
    [
        ("struct box {", MEMBER, line("case 1:"), 3, "SYSCALL_DEFINE2.box.* means struct box, .* line 5"),
        ("int before(int a)", FUNCTION, IN_FIRST, 3, "in first.* means file scope, behind before"),
        ("static int first(struct box *b,", FUNCTION, IN_FIRST, 3, "in first.* means file scope"),
        (BOX_CALL, CASE, len(LINES) - 3, 3, "file scope, behind second.* means SYSCALL_DEFINE2"),
        (BOX_CALL, CASE, line("case 1:") + 2, 3, "file scope, behind SYSCALL_DEFINE2"),
        ("int removed(int a)", LOCKED, IN_FIRST, 1, "means removed, which is not in this file"),
        ("int second(void)", LOCKED, IN_FIRST, 0, "landed in first.* means second, which begins at line 51"),
        ("int removed(void)", "+int x;\n", len(LINES), 0, "behind second"),
        ("", INCLUDE, IN_FIRST, 3, "landed in first.* means the top of the file"),
    ],
)
def test_misplaced(section, hunk, at, fuzz, told):
    assert re.search(told, check(section, hunk, at, fuzz))


@pytest.mark.parametrize(
    ("section", "hunk", "at", "fuzz"),
    [
        ("static int first(struct box *b,", LOCKED, IN_FIRST, 0),
        ("static int first(struct box *b, int less)", LOCKED, IN_FIRST, 1),
        ("int renamed_since(void)", LOCKED, IN_FIRST, 0),
        ("", LOCKED, IN_FIRST, 1),
        ("int was_before(void)", BETWEEN, line("EXPORT_SYMBOL_GPL(first);") - 1, 0),
        ("int was_before(void)", BETWEEN, line("EXPORT_SYMBOL_GPL(first);") - 1, 1),
        ("int before(void)", COMMENT, line("* Says how many.") - 1, 0),
        ("int before(void)", COMMENT, line("* Says how many.") - 1, 1),
        ("int before(void)", MACRO, line("count(x); \\") - 1, 0),
        ("int before(void)", MACRO, line("count(x); \\") - 1, 1),
        ("int before(void)", HEADER, line("second(void)") - 1, 0),
        ("int before(void)", HEADER, line("second(void)") - 1, 1),
        ("", INCLUDE, 1, 3),
    ],
)
def test_no_false_alarm(section, hunk, at, fuzz):
    assert check(section, hunk, at, fuzz) == ""


@pytest.mark.parametrize("path", ["Makefile", "box.S", "Kconfig"])
def test_only_c_has_functions_and_structures(path):
    assert check("int second(void)", LOCKED, IN_FIRST, path="box.h")
    assert check("int second(void)", LOCKED, IN_FIRST, path=path) == ""


@pytest.mark.parametrize("cut", [40, 80])
def test_section_that_diff_cut_short_is_the_same(cut):
    head = b"static inline __must_check struct some_quite_long_type *an_even_longer_function_name(int a)\n"
    lines = [
        b"int an_even_longer(int b)\n",
        b"{\n",
        b"}\n",
        head,
        b"{\n",
        b"\tint ret = 0;\n",
        b"\n",
        b"\tlock();\n",
    ]
    hunk = Hunk(1, head[:cut].decode(), tuple(line.encode() for line in LOCKED.splitlines(keepends=True)))
    assert Sections("a.c", lines).check(hunk, Place(5, 5, 1, 1, 1)) == ""
