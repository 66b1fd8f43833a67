#!/usr/bin/env python3
"""Compares what examples/llmc/sequence_parallel.py makes with the trainer it was made from: losses, gradients, sampled tokens.

llmc_check.py --plain PROGRAM --made PROGRAM --out DIR [-- mpirun...]   the look-alike, built by CMake
llmc_check.py --real --sources DIR --out DIR [-- mpirun...]             llm.c's own, which SP_LLMC names, built here; 77: skipped
llmc_check.py --measure --sources DIR --out DIR                         llm.c's own again: the numbers of examples/llmc/README.md
llmc_check.py --pages --sources DIR                                     what the two pages show is in the header and in the script
llmc_check.py --self-test --sources DIR                                 the script's complaints, and whether a wrong number is noticed
"""
import argparse
import array
import os
import pathlib
import random
import re
import resource
import shutil
import struct
import subprocess
import sys

LINE = re.compile(r"(?:^|[ \n])(val loss|gradient \d+|step \d+: train loss) ([-+.\w]+)")
TEXT = re.compile(r"generating:\n---\n(.*?)\n---\n", re.DOTALL)
RANKS = (1, 2, 3, 4)


class Wrong(Exception):
    pass


def run(command, folder, settings, code=0):
    environment = dict(os.environ, OMP_NUM_THREADS="1", **{name: str(value) for name, value in settings.items()})
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired as late:
        raise Wrong(f"{' '.join(words)} has not ended after {late.timeout:.0f} seconds") from None
    if done.returncode != code:
        raise Wrong(f"{' '.join(words)} ends with {done.returncode}, not {code}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout if code == 0 else done.stderr


def numbers(output):
    found = [(name, float(value)) for name, value in LINE.findall(output)]
    if not found:
        raise Wrong(f"no numbers in\n{output[-2000:]}")
    return found


def difference(one, other, tolerance):
    """The largest relative difference of two outputs, or Wrong where it is above the tolerance."""
    a, b = numbers(one), numbers(other)
    if [name for name, _ in a] != [name for name, _ in b]:
        raise Wrong(f"{len(a)} numbers against {len(b)}, or of other names")
    worst = 0.0
    for (name, x), (_, y) in zip(a, b):
        apart = abs(x - y) / max(abs(x), 1e-2)
        if not apart <= tolerance:
            raise Wrong(f"{name}: {y} against {x}, a difference of {apart:.1e}; allowed: {tolerance:.0e}")
        worst = max(worst, apart)
    return worst


class Trainer:
    """One trainer in two builds; `start` is what starts the made one: nothing for threads, mpirun for processes."""

    def __init__(self, plain, made, folder, end_of_text, tolerance, start):
        self.plain, self.made, self.folder = plain, made, folder
        self.end_of_text, self.tolerance, self.start = end_of_text, tolerance, start

    def plain_output(self, rows, length, tokens):
        return run([self.plain], self.folder, {"ROWS": rows, "LENGTH": length, "TOKENS": tokens})

    def made_output(self, ranks, rows, length, tokens, documents=False, code=0):
        command = [*self.start, ranks, self.made] if self.start else [self.made, ranks]
        command += [f"--documents={self.end_of_text}"] if documents else []
        return run(command, self.folder, {"ROWS": rows, "LENGTH": length, "TOKENS": tokens}, code)

    def agree(self, what, expected, got, with_text):
        worst = difference(expected, got, self.tolerance)
        if with_text and TEXT.findall(expected) != TEXT.findall(got):
            raise Wrong(f"{what}: sampled\n{TEXT.findall(got)}\nnot\n{TEXT.findall(expected)}")
        print(f"{what}: {len(numbers(got))} numbers agree to {worst:.0e}", flush=True)

    def check(self, rows, length, ranks):
        """`halves`: a document ends in the middle of every row and at its end. `uneven`: anywhere."""
        plain = self.plain_output(rows, length, "halves")
        if not TEXT.findall(plain):
            raise Wrong("nothing was sampled")
        short = self.plain_output(2 * rows, length // 2, "halves")
        alone = self.made_output(1, rows, length, "uneven", documents=True)
        whole = self.made_output(1, rows, length, "uneven")
        if numbers(alone) == numbers(whole):
            raise Wrong("--documents changes nothing")
        for p in ranks:
            self.agree(f"{p} ranks, the plain trainer", plain, self.made_output(p, rows, length, "halves"), True)
            # A document of half a row is a row of a trainer with twice as many rows of half the length.
            self.agree(f"{p} ranks, documents as rows", short, self.made_output(p, rows, length, "halves", True), False)
            if p > 1:
                self.agree(f"{p} ranks, any documents", alone, self.made_output(p, rows, length, "uneven", True), True)

    def check_edges(self):
        """More ranks than tokens: a rank without rows has targets all the same. A command line that makes no sense ends with 2."""
        self.agree("5 ranks for 3 tokens", self.plain_output(1, 3, "halves"), self.made_output(5, 1, 3, "halves"), True)
        if not self.start and "usage" not in self.made_output("none", 1, 3, "halves", code=2):
            raise Wrong("a wrong command line is not answered by the usage")


def streams(count, length, vocabulary, end_of_text):
    """Tokens whose documents are half a row long, and tokens whose documents have any length."""
    r = random.Random(5)
    words = [r.randrange(vocabulary) for _ in range(count)]
    uneven = [end_of_text if r.random() < 3 / length else w for w in words]
    return {"halves": [end_of_text if i % (length // 2) == 0 else w for i, w in enumerate(words)], "uneven": uneven}


def check_look_alike(options):
    rows, length = 4, 24
    options.out.mkdir(parents=True, exist_ok=True)
    for name, tokens in streams(rows * length * 12 + 1, length, 16, 16).items():
        (options.out / name).write_bytes(array.array("i", tokens).tobytes())
    trainer = Trainer(options.plain, options.made, options.out, 16, 2e-5, options.start)
    trainer.check(rows, length, (2, 3) if options.start else RANKS)
    trainer.check_edges()


# ---- llm.c itself -------------------------------------------------------------------------------------------------------------------

RECOMMENDED = ["-O3", "-ffast-math", "-fno-finite-math-only"]
OTHER_FLAGS = [["-Ofast"], ["-O3"]]  # llm.c's own, and what keeps every promise of sp
SMALL = dict(maxT=64, V=120, L=2, NH=4, C=32, Vp=128)
END_OF_TEXT = 119
ROWS, LENGTH = 4, 32
PROBE = """
        float* probe = model.grads_memory;
        for (int i = 0; i < NUM_PARAMETER_TENSORS; probe += model.param_sizes[i++]) {
            double sum = 0;
            for (size_t j = 0; j < model.param_sizes[i]; j++) { sum += (double)probe[j] * probe[j] * (1 + j % 7); }
            printf("gradient %d %.8f\\n", i, sqrt(sum));
        }
"""


def checkpoint(m):
    """A model in llm.c's format: large enough weights that attention matters, layer norms of one."""
    r = random.Random(1)
    sizes = [("w", m["Vp"] * m["C"]), ("w", m["maxT"] * m["C"])]
    for one, many in (("1", 1), ("0", 1), ("w", 3 * m["C"]), ("0", 3), ("w", m["C"]), ("0", 1), ("1", 1), ("0", 1), ("w", 4 * m["C"]),
                      ("0", 4), ("w", 4 * m["C"]), ("0", 1)):
        sizes.append((one, m["L"] * many * m["C"]))
    sizes += [("1", m["C"]), ("0", m["C"])]
    some = array.array("f", (r.gauss(0, 0.2) for _ in range(40961)))
    values = array.array("f")
    for kind, count in sizes:
        values.extend((some * (count // len(some) + 1))[:count] if kind == "w" else array.array("f", [float(kind)]) * count)
    header = [20240326, 3, m["maxT"], m["V"], m["L"], m["NH"], m["C"], m["Vp"]]
    return struct.pack("256i", *header, *[0] * 248) + values.tobytes()


def tokenizer(m):
    words = b"".join(bytes([len(w)]) + w for w in (f"t{i} ".encode() for i in range(m["V"])))
    return struct.pack("256I", 20240328, 2, m["V"], END_OF_TEXT, *[0] * 252) + words


def token_file(tokens):
    return struct.pack("256i", 20240520, 1, len(tokens), *[0] * 253) + array.array("H", tokens).tobytes()


def substitute(text, old, new):
    if text.count(old) != 1:
        raise Wrong(f"the test looks for one '{old}' in train_gpt2.c and finds {text.count(old)}")
    return text.replace(old, new)


def prepare(clone, out, model, probe):
    """A copy of the sources whose main takes its shape, steps and tokens from the environment, and the files it reads but tokens."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copytree(clone / "llmc", out / "llmc")
    text = (clone / "train_gpt2.c").read_text()
    text = substitute(text, "int B = 4;", 'int B = atoi(getenv("ROWS"));')
    text = substitute(text, "int T = 64;", 'int T = atoi(getenv("LENGTH"));')
    text = substitute(text, "int genT = 64;", f"int genT = {LENGTH // 2};")
    text = substitute(text, "step <= 40", 'step < atoi(getenv("STEPS"))')
    for which in ("train", "val"):
        text = substitute(text, f'"dev/data/tinyshakespeare/tiny_shakespeare_{which}.bin"', 'getenv("TOKENS")')
    update = re.search(r"gpt2_update\(&model,.*;\n", text)
    if not update:
        raise Wrong("the test looks for a call 'gpt2_update(&model, ...);' in train_gpt2.c and finds none")
    text = text[:update.end()] + probe + text[update.end():]
    (out / "train_gpt2.c").write_text(text)
    (out / "gpt2_124M.bin").write_bytes(checkpoint(model))
    (out / "gpt2_tokenizer.bin").write_bytes(tokenizer(model))


def make(options, kind):
    mpi = ["--mpi"] if kind == "mpi" else []
    run([sys.executable, options.sources / "sequence_parallel.py", *mpi, "--out", f"{kind}.cpp", "train_gpt2.c"], options.out, {})


def build(options, source, target, *flags):
    """The command that compiles llm.c's program, or what the script made of it, as its makefile and the script say."""
    if source.endswith(".c"):
        return ["gcc", *flags, "-march=native", "-w", source, "-o", target, "-lm"]
    folders = [f"-I{options.sources}", f"-I{options.sources.parents[1] / 'include'}"]
    return ["mpicxx" if "mpi" in source else "g++", "-std=c++20", *flags, "-march=native", "-w", *folders, source, "-o", target, "-pthread"]


def compile_all(commands, folder):
    started = [subprocess.Popen(c, cwd=folder, stderr=subprocess.PIPE, text=True) for c in commands]
    for command, process in zip(commands, started):
        complaint = process.communicate()[1]
        if process.returncode:
            raise Wrong(f"{' '.join(command)}:\n{complaint}")


def clone_of_llmc():
    path = os.environ.get("SP_LLMC", "")
    if not path:
        print("skipped: set SP_LLMC to train_gpt2.c of llm.c, or to the clone that holds it")
        sys.exit(77)
    clone = pathlib.Path(path) if pathlib.Path(path).is_dir() else pathlib.Path(path).parent
    if not (clone / "train_gpt2.c").exists():
        raise Wrong(f"SP_LLMC is {path}, which holds no train_gpt2.c")
    return clone


def check_real(options):
    prepare(clone_of_llmc(), options.out, SMALL, PROBE)
    for name, tokens in streams(ROWS * LENGTH * 30 + 1, LENGTH, END_OF_TEXT, END_OF_TEXT).items():
        (options.out / name).write_bytes(token_file(tokens))
    kinds = {"threads": ([], RANKS), "mpi": (options.start, (2, 3))} if options.start else {"threads": ([], RANKS)}
    for kind in kinds:
        make(options, kind)
    flags = options.flags.split() or RECOMMENDED
    made = [build(options, f"{kind}.cpp", kind, *flags) for kind in kinds]
    compile_all([build(options, "train_gpt2.c", "plain", "-Ofast"), *made], options.out)
    for kind, (start, ranks) in kinds.items():
        trainer = Trainer("./plain", f"./{kind}", options.out, END_OF_TEXT, 2e-4, start)
        os.environ["STEPS"] = "21"
        trainer.check(ROWS, LENGTH, ranks)
        os.environ["STEPS"] = "8"
        trainer.check_edges()


MEDIUM = dict(maxT=1024, V=1000, L=2, NH=4, C=256, Vp=1024)
WIDE = dict(maxT=1024, V=1000, L=1, NH=12, C=768, Vp=1024)


def step_cost(options, command, length):
    """Processor seconds of one training step, of all ranks together: six steps less two, so that what is done once falls out."""
    spent = []
    for steps in (2, 6):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = run(command, options.out, {"ROWS": 1, "LENGTH": length, "TOKENS": "halves", "STEPS": steps})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return (spent[1] - spent[0]) / 4, output


def measure_flags(options):
    print(f"{MEDIUM}, B = 1, T = 512: processor seconds of one step, all ranks together; the loss of step 5; numbers that a rank holds")
    for flags in [*OTHER_FLAGS, RECOMMENDED]:
        for source, ranks in (("train_gpt2.c", []), ("threads.cpp", [1]), ("threads.cpp", [2])):
            cost, output = step_cost(options, [f"./{source}{''.join(flags)}", *ranks], 512)
            held = " ".join(re.findall("num_(?:parameters|activations): [0-9]+", output))
            print(f"{' '.join(flags)}: {source} {ranks}: {cost:.2f} s, loss {numbers(output)[-1][1]}, {held}", flush=True)


def measure_lengths(options):
    programs = [["./train_gpt2.c-Ofast"], ["./threads.cpp-Ofast", 1]]
    plain, made = (step_cost(options, program, 1024)[0] for program in programs)
    print(f"-Ofast, T = 1024: train_gpt2.c {plain:.2f} s, one rank {made:.2f} s", flush=True)
    for model in (MEDIUM, WIDE):
        (options.out / "gpt2_124M.bin").write_bytes(checkpoint(model))
        for flags in (RECOMMENDED, ["-O3"]):
            for length in (256, 258):
                cost, _ = step_cost(options, [f"./threads.cpp{''.join(flags)}", 2], length)
                print(f"{model}, {' '.join(flags)}, 2 ranks of {length // 2} rows: {cost / length * 1e3:.2f} ms a token", flush=True)


def measure(options):
    prepare(clone_of_llmc(), options.out, MEDIUM, "")
    (options.out / "halves").write_bytes(token_file(streams(6 * 1024 + 1, 512, 1000, END_OF_TEXT)["halves"]))
    make(options, "threads")
    for flags in [*OTHER_FLAGS, RECOMMENDED]:  # the name of a program is its source and its flags
        sources = ("train_gpt2.c", "threads.cpp")
        compile_all([build(options, source, source + "".join(flags), *flags) for source in sources], options.out)
    measure_flags(options)
    measure_lengths(options)


# ---- the pages ----------------------------------------------------------------------------------------------------------------------

def check_pages(options):
    sys.path.insert(0, str(options.sources))
    import sequence_parallel as script
    header, shown = (options.sources / "sequence.hpp").read_text(), 0
    for page in (options.sources.parents[1] / "README.md", options.sources / "README.md"):
        for excerpt in re.findall(r"^```cc\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            shown += 1
            if excerpt not in header:
                raise Wrong(f"{page} shows what sequence.hpp does not hold:\n{excerpt}")
    if not shown:
        raise Wrong("no page shows anything of sequence.hpp")
    if script.table() not in (options.sources / "README.md").read_text():
        raise Wrong(f"the table of {options.sources / 'README.md'} is not what sequence_parallel.py --table prints")
    print(f"{'one excerpt is' if shown == 1 else f'{shown} excerpts are'} in sequence.hpp, the table is the script's")


# ---- the checks, checked ------------------------------------------------------------------------------------------------------------

def self_test(options):
    sys.path.insert(0, str(options.sources))
    import sequence_parallel as script
    text = (options.sources / "look_alike.c").read_text()
    script.made(text, "look_alike.c", "x.hpp")
    planted = 0
    for function, edits in script.EDITS.items():
        begin, end = script.definition(text, function)
        for edit in edits:
            found = script.pattern_of(edit).search(text, begin, end)
            wrong = {"does not hold": text[begin:end].replace(found[0], "")}
            if edit.how != "every" and edit.piece != "int main() {":
                wrong["holds 2 times"] = text[begin:found.end()] + "\n" + found[0] + text[found.end():end]
            for complaint, body in wrong.items():
                planted += 1
                try:
                    script.made(text[:begin] + body + text[end:], "look_alike.c", "x.hpp")
                    raise Wrong(f"{function}(): '{edit.name}': nothing is said of a piece that the function {complaint}")
                except ValueError as problem:
                    told = str(problem)
                named = f"'{edit.name}'" in told and complaint in told
                if not named and f"{function}(): defined 0 times" not in told:  # the piece was the head of the function
                    raise Wrong(f"{function}(): '{edit.name}': a piece that the function {complaint} is told as\n{told}")
    trainer = Trainer(None, None, None, 0, 1e-5, [])
    right = "val loss 2.0\ngenerating:\n---\na b\n---\n"
    trainer.agree("the same output", right, right, True)
    for what, output in {"a wrong loss": right.replace("2.0", "2.001"), "another text": right.replace("a b", "a c"),
                         "one more number": right + "val loss 2.0\n"}.items():
        try:
            trainer.agree(what, right, output, True)
        except Wrong:
            continue
        raise Wrong(f"{what} is not noticed")
    print(f"{planted} planted changes of the source are named, a wrong loss, text and count of numbers are noticed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain", type=pathlib.Path)
    parser.add_argument("--made", type=pathlib.Path)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--flags", default="", help="of the made program, with --real: '--flags=-O3 -g'")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--pages", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--sources", type=pathlib.Path, help="the folder examples/llmc")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("start", nargs="*", help="mpirun and its options, up to the number of processes")
    options = parser.parse_args()
    for name in ("plain", "made", "sources", "out"):  # programs run in a folder of their own
        if path := getattr(options, name):
            setattr(options, name, path.resolve())
    for mode, needed in (("self_test", "sources"), ("pages", "sources"), ("real", "sources out"), ("measure", "sources out")):
        if getattr(options, mode) and not all(getattr(options, name) for name in needed.split()):
            parser.error(f"--{mode.replace('_', '-')} needs --{needed.replace(' ', ' and --')}")
    try:
        if options.self_test:
            self_test(options)
        elif options.pages:
            check_pages(options)
        elif options.real:
            check_real(options)
        elif options.measure:
            measure(options)
        elif options.plain and options.made and options.out:
            check_look_alike(options)
        else:
            parser.error("say what to do: --plain, --made and --out, or --real, --measure, --pages or --self-test")
    except Wrong as problem:
        sys.exit(f"llmc_check: {problem}")


if __name__ == "__main__":
    main()
