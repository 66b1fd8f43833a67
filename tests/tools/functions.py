#!/usr/bin/env python3
"""Checks that the functions in headers stay short: fewer than 40 lines of code, without blank lines and comments.

functions.py ROOT        checks the headers under ROOT
functions.py --self-test plants long and short functions and demands that exactly the long ones are found
"""
import pathlib
import re
import sys

MAX_LINES = 40
TOKEN = re.compile(r"[A-Za-z_]\w*|\n|[^\s\w]|\d[\w.']*")


def code_of(text):
    """The text with comments, literals and preprocessor lines blanked; line breaks stay where they are."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())
    raw_string = r'R"([^(\s]*)\([\s\S]*?\)\1"'
    literal = r'"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\''
    text = re.sub(rf"/\*[\s\S]*?\*/|//[^\n]*|{raw_string}|{literal}", lambda m: ("" if m.group()[0] == "/" else "0") + blank(m), text)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.MULTILINE)


def outline(head):
    """The tokens without template parameters and alignas(...); of parentheses only the opening one stays."""
    words, parentheses, angles, before = [], 0, 0, ""
    for token in head:
        if token in "<>" and (angles or before == "template"):
            angles += 1 if token == "<" else -1
        elif token in "()":
            parentheses += 1 if token == "(" else -1
            if token == "(" and parentheses == 1 and before != "alignas":
                words.append(token)
        elif not parentheses and not angles and token != "alignas":
            words.append(token)
        before = token
    return words


def kind_of(head):
    """What a brace behind the tokens `head` opens in a namespace or a class: a scope, a function, or a list (anything else)."""
    words = outline(head)
    declared = words[: words.index("(")] if "(" in words else words
    if "namespace" in words or any(w in declared for w in ("class", "struct", "union")) and "enum" not in declared:
        return "scope"
    if "(" not in words or "concept" in words or "=" in words and "operator" not in words:
        return "list"  # an enumeration, a concept, the value of a variable
    if words[-1] == "requires" or words[-2:] == ["requires", "("] and words.count("(") == 1:
        return "list"  # the constraint in front of a function
    initialisers = any(w == ":" and words[i - 1] != ":" and words[i + 1 : i + 2] != [":"] for i, w in enumerate(words))
    return "list" if initialisers and words[-1] not in ("(", "}") else "function"  # member{value}, or the body behind it


def functions(text):
    """(name, line, lines of code) of every function with a body, from its first line on. Lambdas count where they stand."""
    code = code_of(text)
    filled = [bool(line.strip()) for line in code.splitlines()]
    found, line, parentheses = [], 1, 0
    head = []  # (token, line) since the last declaration
    scopes = []  # open braces around the current token: their kinds and heads
    for token in TOKEN.findall(code):
        free = not parentheses and all(kind == "scope" for kind, _ in scopes)  # at the level of a namespace or a class
        if token == "\n":
            line += 1
        elif token == "{":
            scopes.append((kind_of([t for t, _ in head]) if free else "list", head))
            if free and scopes[-1][0] != "list":
                head = []
        elif token == "}":
            if not scopes:
                raise ValueError("brackets do not match")
            kind, own = scopes.pop()
            if kind == "function":
                words = outline([t for t, _ in own])
                named = [w for i, w in enumerate(words[:-1]) if words[i + 1] == "(" and w != "requires"]
                found.append(((named or ["?"])[0], own[0][1], sum(filled[own[0][1] - 1 : line])))
            if kind == "list":
                head.append((token, line))
            else:
                head = []
        elif any(kind != "scope" for kind, _ in scopes):
            continue
        else:
            parentheses += {"(": 1, ")": -1}.get(token, 0)
            head.append((token, line))
            access = len(head) == 2 and token == ":" and head[0][0] in ("public", "private", "protected")
            if not parentheses and (token == ";" or access):
                head = []
    if scopes or parentheses:
        raise ValueError("brackets do not match")
    return found


def check(root):
    complaints, count = [], 0
    for path in sorted(root.rglob("*.hpp")):
        try:
            found = functions(path.read_text())
        except ValueError as problem:
            complaints.append(f"{path.relative_to(root)}: {problem}")
            continue
        for name, line, lines in found:
            count += 1
            if lines >= MAX_LINES:
                where = f"{path.relative_to(root)}:{line}"
                complaints.append(f"{where}: {name} has {lines} lines of code, fewer than {MAX_LINES} are allowed")
    return complaints, count


def self_test():
    statements = lambda n: "\n\n  // a comment\n".join(["  x();"] * (n - 2))  # of a function with n lines of code
    forms = {  # name: the function up to its body
        "plain": "void plain(int a = f({1}))",
        "over_lines": "template <class T>\n  requires(sizeof(T) > 1)\nauto over_lines(T x) -> decltype(x)",
        "constrained": "template <class K> requires requires(K k) { k.f(); } void constrained(K k) noexcept",
        "constructed": "constructed(int a) : b{a}, c(a) , d{std::vector<int>{a}}",
        "operator": "bool operator==(type const&) const",
    }
    around = ["namespace n {", "struct alignas(64) s : base<(1 < 2)> {", "template <class T> class c {\npublic:"]
    other = ["enum class e { a, b };", "int list[] = {\n" + "1,\n" * 50 + "};", "struct big {\n" + "int a;\n" * 50 + "};"]
    other.append('#define OPEN {\nchar c = \'{\', *s = "}{"; // {')
    failures = []
    for name, form in forms.items():
        for lines in (MAX_LINES - 1, MAX_LINES):
            extra = form.count("\n")
            body = form + " {\n" + statements(lines - extra) + "\n}"
            for scope in around:
                text = "\n".join([*other, scope, *other, body, "};", "void last() {}"])
                got = [(n, count) for n, _, count in functions(text)]
                if got != [(name if name != "operator" else "=", lines), ("last", 1)]:
                    failures.append(f"{body.splitlines()[0]} in {scope}: {got}")
    for text in ("void f() {", "void f() {}}", "void f(("):
        try:
            failures.append(f"brackets of '{text}' are not missed: {functions(text)}")
        except ValueError:
            pass
    print("\n".join(failures) or f"{len(forms) * 2 * len(around)} planted functions found with their lengths")
    return 1 if failures else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test())
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found, count = check(pathlib.Path(sys.argv[1]))
    print("\n".join(found) or f"{count} functions have fewer than {MAX_LINES} lines of code")
    sys.exit(1 if found or not count else 0)


if __name__ == "__main__":
    main()
