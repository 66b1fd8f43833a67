"""Several bugs in one program, each behind a switch: what a function does with a bug is a second body of it, taken when the program is
asked for that bug by its number, so that one compilation serves every bug that one test is meant for.

A bug outside of functions, in what is evaluated at compile time, or that changes a type, cannot be switched: it is planted alone.
"""
import re

# Included before everything else. What is evaluated at compile time has no bugs.
SWITCH = """#pragma once
#include <cstdlib>
#include <type_traits>
namespace planted {
inline int number() {
  static int const asked = std::getenv("SP_PLANTED") ? std::atoi(std::getenv("SP_PLANTED")) : 0;
  return asked;
}
constexpr bool is(int n) { return !std::is_constant_evaluated() && number() == n; }
template <class... N> constexpr bool none(N... n) { return (!is(n) && ...); }
} // namespace planted
"""


def code_alone(text):
    """The text with comments, literals and directives blanked; every character keeps its place."""
    blank = lambda found: re.sub(r"[^\n]", " ", found[0])
    skipped = r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|(?<![0-9a-fA-F])\'(?:[^\'\\\n]|\\.)+\'|^[ \t]*#(?:[^\n\\]|\\.|\\\n)*'
    return re.sub(skipped, blank, text, flags=re.MULTILINE | re.DOTALL)


def opens_scope(head):
    """Whether the brace behind this text opens a namespace or a class; of a function otherwise, or of what is initialised."""
    depth, plain = 0, ""
    for part in re.split(r"(\btemplate\s*<|[<>])", head):  # without lists of template parameters, which say class
        if part.startswith("template") or (depth and part == "<"):
            depth += 1
        elif depth and part == ">":
            depth -= 1
        elif not depth:
            plain += part
    plain = re.sub(r"\balignas\([^()]*\)", "", plain)
    return bool(re.search(r"\bnamespace\b|\b(?:struct|class|union|enum)\b[^()]*$|\bextern\s*$", plain))


def bodies(text):
    """[begin, end) of what the braces of functions enclose that are in no other function; nothing where braces do not match."""
    code, found, scopes, head = code_alone(text), [], [], 0
    for i, c in enumerate(code):
        if c == "{":
            scopes.append((i, opens_scope(code[head:i])))
        elif c == "}":
            if not scopes:
                return []
            begin, scope = scopes.pop()
            initialises = code[i + 1 :].lstrip()[:1] in (",", ";", ")", "{")
            if not scope and not initialises and all(outer for _, outer in scopes):
                found.append((begin + 1, i))
        if c in "{};":
            head = i + 1
    return found if not scopes else []


def switched(text, bugs):
    """The text with those bugs (number, old, new) that lie in functions, and of each its first and last line: the others are not planted."""
    places = {}
    for number, old, new in bugs:
        at = text.find(old)
        if at < 0 or text.count(old) != 1:
            continue
        for begin, end in bodies(text):
            if begin <= at and at + len(old) <= end:
                places.setdefault((begin, end), []).append((number, text[begin:at] + new + text[at + len(old) : end]))
    out, lines, done = "", {}, 0
    for (begin, end), copies in sorted(places.items()):
        numbers = ", ".join(str(number) for number, _ in copies)
        out += f"{text[done:begin]} if (planted::none({numbers})) {{{text[begin:end]}}}\n"
        for number, body in copies:
            first = out.count("\n") + 1
            out += (f"else if (planted::is({number})) {{" if number != copies[-1][0] else "else {") + f"{body}}}\n"
            lines[number] = (first, out.count("\n"))
        done = end
    return out + text[done:], lines
