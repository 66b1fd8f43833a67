#!/usr/bin/env python3
"""Compiles the kernels of cuda_flash and reads what ptxas says they take: registers that are spilled, or a stack, are a failure.

resources.py NVCC SOURCE INCLUDE [--all] [nvcc flags]   prints a line for each kernel; exit status 0 only if none spills
resources.py --self-test                                the same of reports that are made up
--all: every element type, head dim and architecture with no feature and with all of them, and each feature alone for bf16 and head dim
128; else bf16, head dim 128, no feature, for sm_80.
How many blocks a multiprocessor shall hold is in the launch bounds of each kernel, so that too many registers show as spills.
"""
import itertools
import re
import subprocess
import sys
import tempfile

NAME = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
NUMBERS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
KERNELS = ("flash_forward", "flash_backward_queries", "flash_backward_keys", "flash_backward_keys + dq")


def read(report):
    """[(kernel, architecture, stack, spills, registers)] of a report of ptxas -v."""
    found, name, numbers = [], None, None
    for line in report.splitlines():
        if match := NAME.search(line):
            name, numbers = match.groups(), None
        elif match := NUMBERS.search(line):
            numbers = [int(n) for n in match.groups()]
        elif (match := REGISTERS.search(line)) and name and numbers:
            kernel = re.search(r"flash_(?:forward|backward_queries|backward_keys)", name[0])
            with_dq = " + dq" if kernel and kernel[0] == "flash_backward_keys" and "Lb1E" in name[0] else ""
            found.append((kernel[0] + with_dq if kernel else name[0], name[1], numbers[0], numbers[1] + numbers[2], int(match[1])))
            name = None
    return found


def judge(found, features="none"):
    """Complaints about a report of one configuration. Dropout indexes the four numbers of a draw, which takes some stack."""
    complaints = [
        f"{kernel} for {arch}: {stack} bytes of stack, {spills} bytes spilled"
        for kernel, arch, stack, spills, _ in found
        if spills or stack > (96 if features in ("dropout", "all") else 0)
    ]
    if sorted(k for k, *_ in found) != sorted(KERNELS):
        complaints.append(f"expected {', '.join(KERNELS)}, the report has {', '.join(k for k, *_ in found) or 'nothing'}")
    return complaints


def configurations(wide):
    """(architecture, element type, head dim, features)"""
    if not wide:
        return [("sm_80", "bf16", 128, "none")]
    shapes = list(itertools.product(("sm_80", "sm_90a"), ("bf16", "fp16"), (64, 128, 256), ("none", "all")))
    return shapes + list(itertools.product(("sm_80", "sm_90a"), ("bf16",), (128,), ("softcap", "alibi", "dropout")))


def compile_one(nvcc, source, include, configuration, flags):
    arch, element, dim, features = configuration
    with tempfile.TemporaryDirectory() as folder:
        one = ["-gencode", f"arch={arch.replace('sm_', 'compute_')},code={arch}"]  # nvcc 13 compiles twice for -arch=sm_80
        command = [nvcc, "-std=c++20", f"-I{include}", *one, "-Werror", "all-warnings", "-Xptxas", "-v"]
        command += [f"-DSP_TEST_TYPE={element}", f"-DSP_TEST_DIM={dim}", f"-DSP_TEST_FEATURES={features}"]
        command += [*flags, "-cubin", source, "-o", f"{folder}/flash.cubin"]  # no code for the host, which cuda.compile and others have
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def self_test():
    def report(spill):
        names = ["13flash_forward", "22flash_backward_queries", "19flash_backward_keysILb0E", "19flash_backward_keysILb1E"]
        return "".join(
            f"ptxas info    : Compiling entry function '_Z{n}' for 'sm_80'\n    0 bytes stack frame, {spill} bytes spill stores, 0 bytes "
            "spill loads\nptxas info    : Used 255 registers, used 1 barriers\n"
            for n in names
        )

    assert judge(read(report(0))) == []
    with_stack = read(report(0).replace("0 bytes stack", "72 bytes stack"))
    assert judge(with_stack, "dropout") == [] and len(judge(with_stack, "alibi")) == 4
    assert len(judge(read(report(4)))) == 4
    assert "expected" in judge(read(report(0).split("_Z19", 1)[0]))[0]
    assert judge(read(""))
    print("reports are read, and spills are found")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    nvcc, source, include, *flags = sys.argv[1:]
    complaints = []
    for configuration in configurations("--all" in flags):
        code, output = compile_one(nvcc, source, include, configuration, [f for f in flags if f != "--all"])
        if code != 0:
            sys.exit(output)
        found = read(output)
        arch, element, dim, features = configuration
        text = f"{element}, head dim {dim}, features: {features}"
        complaints += [f"{text}: {c}" for c in judge(found, features)]
        for kernel, arch, stack, spills, registers in found:
            print(f"{text:39} {arch:7} {kernel:25} {registers:4} registers, {spills} bytes spilled, {stack} of stack")
    print("\n".join(complaints) or "no kernel spills")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
