"""Times torch_chunk_gated_delta_rule of transformers' Qwen3-Next beside sp::gated_delta: the same shapes, float, one thread each.

The two run in turns, and times are those of the processor: a busy machine does not change who is faster. Flops are those that
bench_linear counts: with chunks of C and dim K, forward 4 C K + 6 K^2 and backward 10 C K + 12 K^2 for each token and head.
`sp / peer` is the speed of the one over that of the other: the median over rounds, and between which numbers all rounds are.
Forward of the peer records nothing for backward, which makes it faster; sp's keeps what backward needs. `both` is a training step:
the peer's forward records there. Backward of the peer is autograd's.
"""
import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # before torch reads them
    os.environ[variable] = "1"

import torch
import transformers
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

HEADS, CHUNK = 2, 64  # as bench_linear has them
BAR = 3.0


def flops(back, dim):
    return 10 * CHUNK * dim + 12 * dim * dim if back else 4 * CHUNK * dim + 6 * dim * dim


def sp_seconds(bench, back, tokens, dim):
    """One run of bench_linear, which repeats the call for half a second."""
    name = f"gated_delta/{'backward' if back else 'forward'}/float/tokens:{tokens}/dim:{dim}/chunk:{CHUNK}/keep:128"
    text = subprocess.run([bench, f"--benchmark_filter=^{name}$", "--benchmark_format=json", "--benchmark_min_time=0.5"],
                          check=True, capture_output=True, text=True).stdout
    [run] = json.loads(text)["benchmarks"]
    return 1e-9 * flops(back, dim) * tokens * HEADS / run["GF/s"], run["share"]


class Peer:
    def __init__(self, tokens, dim):
        torch.manual_seed(1)
        rows = lambda: torch.rand(1, tokens, HEADS, dim) * 2 - 1
        self.inputs = [rows(), rows(), rows(), torch.rand(1, tokens, HEADS) * -0.1, torch.rand(1, tokens, HEADS)]
        self.dout = rows()

    def forward(self, inputs):
        q, k, v, g, beta = inputs
        return torch_chunk_gated_delta_rule(q, k, v, g=g, beta=beta, chunk_size=CHUNK, use_qk_l2norm_in_kernel=True)[0]

    def seconds(self, repeats):
        """The medians of forward that records nothing, forward that does, and backward."""
        times = [[], [], []]
        for _ in range(repeats):
            with torch.no_grad():
                start = time.process_time()
                self.forward(self.inputs)
                times[0].append(time.process_time() - start)
            leaves = [x.clone().requires_grad_() for x in self.inputs]
            start = time.process_time()
            out = self.forward(leaves)
            recorded = time.process_time()
            out.backward(self.dout)
            times[1].append(recorded - start)
            times[2].append(time.process_time() - recorded)
            assert all(x.grad is not None for x in leaves)
        return [statistics.median(t) for t in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program bench_linear")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5, help="calls of the peer in a round")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--json", help="write the figures to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    peer = Peer(args.tokens, args.dim)
    peer.seconds(1)  # what is done once
    own, theirs, shares = [], [], []
    for _ in range(args.rounds):
        (forward, share), (backward, back_share) = (sp_seconds(args.bench, back, args.tokens, args.dim) for back in (False, True))
        own.append((forward, backward, forward + backward))
        shares.append((share, back_share))
        plain, recording, back = peer.seconds(args.repeats)
        theirs.append((plain, back, recording + back))

    work = [1e-9 * flops(back, args.dim) * args.tokens * HEADS for back in (False, True)]
    work.append(sum(work))
    rows = []
    for i, name in enumerate(("forward", "backward", "both")):
        ratios = [t[i] / o[i] for o, t in zip(own, theirs)]
        mine, other = (statistics.median(x[i] for x in xs) for xs in (own, theirs))
        rows.append({"pass": name, "sp_ms": 1e3 * mine, "peer_ms": 1e3 * other, "sp_gflops": work[i] / mine,
                     "peer_gflops": work[i] / other, "sp_over_peer": statistics.median(ratios), "least": min(ratios),
                     "most": max(ratios), **({"sp_share_of_peak": statistics.median(s[i] for s in shares)} if i < 2 else {})})
    about = {"tokens": args.tokens, "heads": HEADS, "dim": args.dim, "chunk": CHUNK, "rounds": args.rounds, "bar": BAR,
             "torch": torch.__version__, "transformers": transformers.__version__}
    print(f"gated delta rule, {args.tokens} tokens, {HEADS} heads, dim {args.dim}, chunks of {CHUNK}, float, one thread; "
          f"torch {about['torch']}, transformers {about['transformers']}")
    print(f"{'':10}{'sp ms':>9}{'peer ms':>9}{'sp GF/s':>9}{'peer GF/s':>11}{'sp / peer':>11}{'rounds':>15}")
    for r in rows:
        print(f"{r['pass']:10}{r['sp_ms']:9.2f}{r['peer_ms']:9.2f}{r['sp_gflops']:9.1f}{r['peer_gflops']:11.1f}"
              f"{r['sp_over_peer']:11.2f}{r['least']:9.2f} - {r['most']:.2f}")
    met = all(r["sp_over_peer"] >= BAR for r in rows)
    print(f"bar: {BAR:g} times the peer's speed: {'met' if met else 'missed'}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"about": about, "passes": rows}, file, indent=2)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
