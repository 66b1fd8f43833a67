#!/usr/bin/env python3
"""Makes the sequence-parallel train_gpt2_sp.cpp from your own train_gpt2.c of llm.c: an edited copy, beside it.

sequence_parallel.py [--mpi] [--out FILE] PATH     PATH: train_gpt2.c, or the folder it lies in
sequence_parallel.py --table                       the edits, as the table of README.md

Every edit looks for one piece of C inside one function, whatever its white space. A piece that is missing, or found twice, is an
error that names the edit, the function and the piece; nothing is written then. Nothing of llm.c is kept here but these pieces.
"""
import argparse
import dataclasses
import pathlib
import re
import shlex
import sys

HERE = pathlib.Path(__file__).resolve().parent
TRIED = "train_gpt2.c of llm.c at f1e2ace (May 2025), and at every revision of it since b7972ff (April 2024)"
# llm.c's loops need sums in any order, sp needs infinities: all of -Ofast but the promise that there are none.
FLAGS = "-O3 -ffast-math -fno-finite-math-only"


@dataclasses.dataclass
class Edit:
    name: str
    piece: str  # what is looked for: C, whatever its white space; `...` is anything up to the next semicolon
    new: str    # what stands there instead
    how: str = "replace"  # "remove": its lines; "before", "after": a line there; "every": wherever it stands, at least once
    pattern: re.Pattern | None = None  # what is looked for, where `piece` only describes it


def every_print(name, piece, pattern):
    return Edit(name, piece, "llmc::say(", "every", re.compile(pattern))


# A number for the reader, such as printf("num_layers: %zu\n", ...). What llm.c prints before it exits is left to every rank.
PROGRESS = ('printf("name: %zu\\n", ...)', r'\bprintf\((?="(\[GPT-2\]|\w+: %zu)\\n")')

EDITS = {
    "encoder_forward": [
        Edit("takes positions", "float* wte, float* wpe,", "float* wte, float* wpe, sp::index_t const* positions,"),
        Edit("uses positions", "wpe + t * C", "wpe + positions[b * T + t] * C"),
    ],
    "encoder_backward": [
        Edit("takes positions", "float* dwte, float* dwpe,", "float* dwte, float* dwpe, sp::index_t const* positions,"),
        Edit("uses positions", "dwpe + t * C", "dwpe + positions[b * T + t] * C"),
    ],
    "": [  # the whole file
        Edit("no preatt", "act_sizes[6] = L * B * NH * T * T;", "act_sizes[6] = 0;"),
        Edit("no att", "act_sizes[7] = L * B * NH * T * T;", "act_sizes[7] = 0;"),
    ],
    "gpt2_build_from_checkpoint": [every_print("only rank 0 prints", *PROGRESS)],
    "gpt2_forward": [
        Edit("takes the sequence", "GPT2 *model, int* inputs, int* targets, size_t B, size_t T) {",
             "GPT2 *model, llmc::sequence& seq) {\n"
             "    int *inputs = seq.inputs(), *targets = seq.targets();\n"
             "    size_t B = 1, T = seq.rows();"),
        every_print("only rank 0 prints", *PROGRESS),
        Edit("encoder", "params.wte, params.wpe, B, T, C);", "params.wte, params.wpe, seq.positions(), B, T, C);"),
        Edit("no preatt", "float* l_preatt = acts.preatt + l * B * NH * T * T;", "", "remove"),
        Edit("no att", "float* l_att = acts.att + l * B * NH * T * T;", "", "remove"),
        Edit("attention", "attention_forward(l_atty, l_preatt, l_att, l_qkv, B, T, C, NH);",
             "seq.attention_forward(l, l_atty, l_qkv, C, NH);"),
        Edit("loss", "float mean_loss = 0.0f; for (int i=0; i<B*T; i++) { mean_loss += model->acts.losses[i]; } mean_loss /= B*T; "
             "model->mean_loss = mean_loss;", "model->mean_loss = seq.loss_forward(model->acts.losses);"),
    ],
    "gpt2_backward": [
        Edit("takes the sequence", "GPT2 *model) {", "GPT2 *model, llmc::sequence& seq) {"),
        Edit("loss", "float dloss_mean = 1.0f / (B*T); for (int i = 0; i < B*T; i++) { grads_acts.losses[i] = dloss_mean; }",
             "seq.loss_backward(grads_acts.losses);"),
        Edit("no att", "float* l_att = acts.att + l * B * NH * T * T;", "", "remove"),
        Edit("no gradient of preatt", "float* dl_preatt = grads_acts.preatt + l * B * NH * T * T;", "", "remove"),
        Edit("no gradient of att", "float* dl_att = grads_acts.att + l * B * NH * T * T;", "", "remove"),
        Edit("attention", "attention_backward(dl_qkv, dl_preatt, dl_att, dl_atty, l_qkv, l_att, B, T, C, NH);",
             "seq.attention_backward(l, dl_qkv, dl_atty, l_qkv, l_atty, C, NH);"),
        Edit("encoder", "grads.wte, grads.wpe, grads_acts.encoded,", "grads.wte, grads.wpe, seq.positions(), grads_acts.encoded,"),
    ],
    "main": [
        Edit("the sequence", "int T = ...;", "    llmc::sequence seq(job, B, T, model.config.num_layers);", "after"),
        Edit("validation", "gpt2_forward(&model, val_loader.inputs, val_loader.targets, B, T);",
             "gpt2_forward(&model, seq.load(val_loader.inputs, val_loader.targets));"),
        Edit("sampling: model", "gpt2_forward(&model, gen_tokens, NULL, B, T);",
             "gpt2_forward(&model, seq.load(gen_tokens, NULL));"),
        Edit("sampling: probabilities", "float* probs = model.acts.probs + (t-1) * model.config.padded_vocab_size;",
             "float* probs = seq.row_of(model.acts.probs, 0, t-1, model.config.padded_vocab_size);"),
        Edit("sampling: only rank 0 prints", "safe_printf(token_str);", "if (llmc::speaks) safe_printf(token_str);"),
        Edit("training: forward", "gpt2_forward(&model, train_loader.inputs, train_loader.targets, B, T);",
             "gpt2_forward(&model, seq.load(train_loader.inputs, train_loader.targets));"),
        Edit("training: backward", "gpt2_backward(&model);", "gpt2_backward(&model, seq);"),
        Edit("training: sum of gradients", "gpt2_update(&model, ...;",
             "        seq.sum_gradients(model.grads_memory, model.num_parameters);", "before"),
        every_print("only rank 0 prints", "printf(...)", r"\bprintf\("),
        Edit("is the body of every rank", "int main() {", "int train_rank(llmc::job const& job) {"),
    ],
}
MAIN = "\n\nint main(int argc, char** argv) { return llmc::run(argc, argv, train_rank); }"


def pattern_of(edit):
    """The regular expression of an edit: the tokens of its piece, with any white space between them."""
    if edit.pattern:
        return edit.pattern
    tokens = re.findall(r"\.\.\.|\w+|[^\w\s]", edit.piece)
    return re.compile(r"\b" + r"\s*".join(r"[^;]*?" if t == "..." else re.escape(t) for t in tokens))


def definition(text, function):
    """Begin and end of the one definition of a function: from the beginning of a line to a brace at the beginning of a line."""
    if not function:
        return 0, len(text)
    heads = list(re.finditer(rf"^\w[\w \*]*\b{function}\s*\([^;{{]*\{{", text, re.MULTILINE))
    if len(heads) != 1:
        raise ValueError(f"{function}(): defined {len(heads)} times, not once")
    end = re.compile(r"^\}", re.MULTILINE).search(text, heads[0].end())
    if not end:
        raise ValueError(f"{function}(): no closing brace at the beginning of a line")
    return heads[0].start(), end.end()


def edited(body, function, edit):
    found = list(pattern_of(edit).finditer(body))
    if not found or (len(found) > 1 and edit.how != "every"):
        times = "does not hold" if not found else f"holds {len(found)} times"
        where, what = (f"{function}()", "function") if function else ("anywhere", "file")
        raise ValueError(f"{where}: the edit '{edit.name}' looks for one piece, which the {what} {times}:\n    {edit.piece}")
    for m in reversed(found):
        a, b, new = m.start(), m.end(), edit.new
        if edit.how in ("remove", "before", "after"):
            a, b = body.rfind("\n", 0, a) + 1, body.find("\n", b) + 1
            new = {"remove": "", "before": f"{new}\n{body[a:b]}", "after": f"{body[a:b]}{new}\n"}[edit.how]
        body = body[:a] + new + body[b:]
    return body


def made(text, name, header):
    """The text of the made program, or a ValueError with all that was not found."""
    complaints = []
    for function, edits in EDITS.items():
        try:
            begin, end = definition(text, function)
        except ValueError as problem:
            complaints.append(str(problem))
            continue
        body = text[begin:end]
        for edit in edits:
            try:
                body = edited(body, function, edit)
            except ValueError as problem:
                complaints.append(str(problem))
        text = text[:begin] + body + (MAIN if function == "main" else "") + text[end:]
    if complaints:
        raise ValueError("\n".join(complaints))
    return f"// Made from {name} by sp's examples/llmc/sequence_parallel.py: edit that file and make this one again.\n" \
           f'#include "{header}"\n\n{text}'


def table():
    rows = ["| In | Edit | Looks for | Writes |", "|---|---|---|---|"]
    for function, edits in EDITS.items():
        for edit in edits:
            new = " ".join(edit.new.split())
            writes = {"remove": "nothing", "before": f"before it: `{new}`", "after": f"behind it: `{new}`"}.get(edit.how, f"`{new}`")
            rows.append(f"| {f'`{function}`' if function else 'the file'} | {edit.name} | `{edit.piece}` | {writes} |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mpi", action="store_true", help="ranks are processes that mpirun starts; without it, threads")
    parser.add_argument("--out", type=pathlib.Path, help="the made file; default: train_gpt2_sp.cpp beside the one that is read")
    parser.add_argument("--table", action="store_true", help="print the edits and do nothing else")
    parser.add_argument("path", type=pathlib.Path, nargs="?")
    options = parser.parse_args()
    if options.table:
        return print(table())
    if not options.path:
        parser.error("name the train_gpt2.c of llm.c, or the folder it lies in")
    source = options.path / "train_gpt2.c" if options.path.is_dir() else options.path
    target = options.out or source.with_name(source.stem + "_sp.cpp")
    try:
        text = made(source.read_text(), source.name, "on_mpi.hpp" if options.mpi else "on_threads.hpp")
        target.write_text(text)
    except (OSError, UnicodeError) as problem:
        sys.exit(f"sequence_parallel.py: {problem}")
    except ValueError as problem:
        sys.exit(f"sequence_parallel.py: {source} is not edited:\n{problem}\nTried with {TRIED}.\n"
                 f"If yours has changed there, change the piece in EDITS of {HERE / 'sequence_parallel.py'}.")
    print(f"wrote {target}\n{how_to_build(target, options.mpi)}")


def how_to_build(target, mpi):
    compiler, start, ranks = ("mpicxx", "mpirun -n 4 ", "") if mpi else ("g++", "", " 4")
    folders = [f"-I {shlex.quote(str(folder))}" for folder in (HERE, HERE.parents[1] / "include")]
    words = [compiler, f"-std=c++20 {FLAGS} -march=native", *folders, shlex.quote(target.name), "-o", shlex.quote(target.stem), "-pthread"]
    return (f"in the folder {target.resolve().parent}\ncompile: {' '.join(words)}\n"
            f"start:   {start}{shlex.quote('./' + target.stem)}{ranks}")


if __name__ == "__main__":
    main()
