# The bugs that the tests must catch, as data: what each breaks, the text it replaces in a header, and the test meant for it.
# A text must occur exactly once in its file; when code changes, the suite says which entry to bring up to date.
from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    breaks: str  # one sentence: what is wrong with the mutant in place
    file: str  # below include/sp
    old: str
    new: str
    test: str  # <layer>.<name> of tests/<layer>/test_<name>.cpp
    case: str  # doctest filter: which of its cases must fail (a comma would separate two filters)
    faults: bool = False  # it is a fault of the host (SIGSEGV) that the cases must end by
