#!/usr/bin/env python3
"""Draws the pictures of docs/architecture.md. draw.py writes them beside itself; draw.py --check says whether they are up to date."""
import pathlib
import sys

RANKS = ["#4477aa", "#ee9944", "#55aa66", "#cc5577"]
INK, PALE, GRID = "#333333", "#eeeeee", "#bbbbbb"


class Picture:
    def __init__(self, width, height):
        self.size, self.items = (width, height), []

    def box(self, x, y, w, h, fill, stroke="white", width=1.0):
        self.items.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="{fill}" stroke="{stroke}" stroke-width="{width:g}"/>')

    def text(self, x, y, words, size=13, anchor="start", fill=INK, weight="normal"):
        self.items.append(f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}">{words}</text>')

    def line(self, x1, y1, x2, y2, stroke=INK, width=1.5, arrow=False):
        end = ' marker-end="url(#tip)"' if arrow else ""
        self.items.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{stroke}" stroke-width="{width:g}"{end}/>')

    def legend(self, x, y, ranks):
        for r in range(ranks):
            self.box(x + 78 * r, y, 14, 14, RANKS[r])
            self.text(x + 78 * r + 19, y + 12, f"rank {r}")

    def svg(self):
        w, h = self.size
        tip = f'<defs><marker id="tip" markerWidth="9" markerHeight="9" refX="7" refY="4" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" font-family="sans-serif">'
        return "\n".join([head, tip, f'<rect width="{w}" height="{h}" fill="white"/>', *self.items, "</svg>\n"])


def cut(n, p, parts):
    return p * n // parts


def zigzag(n, r, ranks):
    chunk = lambda i: list(range(cut(n, i, 2 * ranks), cut(n, i + 1, 2 * ranks)))
    return chunk(r) + chunk(2 * ranks - 1 - r)


SHARDINGS = {
    "contiguous": lambda n, r, ranks: list(range(cut(n, r, ranks), cut(n, r + 1, ranks))),
    "zigzag": zigzag,
    "striped": lambda n, r, ranks: list(range(r, n, ranks)),
}


def owners(sharding, n, ranks):
    who = [0] * n
    for r in range(ranks):
        for token in SHARDINGS[sharding](n, r, ranks):
            who[token] = r
    return who


def spans(numbers):
    """Maximal ranges [begin, end) of ascending numbers."""
    out = []
    for x in numbers:
        if out and out[-1][1] == x:
            out[-1][1] = x + 1
        else:
            out.append([x, x + 1])
    return out


def sharding_picture():
    """Who owns which tokens of three packed documents: contiguous over the stream, the others per document (the defaults)."""
    lengths, ranks, w = [32, 11, 21], 4, 12
    p = Picture(900, 190)
    for d, n in enumerate(lengths):
        x = 110 + sum(lengths[:d]) * w + 8 * d
        p.text(x + n * w / 2, 18, f"document {d}: {n} tokens", anchor="middle")
    for row, name in enumerate(SHARDINGS):
        y = 30 + 40 * row
        p.text(100, y + 19, name, anchor="end")
        for d, n in enumerate(lengths):
            x = 110 + sum(lengths[:d]) * w + 8 * d
            stream = owners(name, sum(lengths), ranks)[sum(lengths[:d]):] if name == "contiguous" else owners(name, n, ranks)
            for token, r in enumerate(stream[:n]):
                p.box(x + token * w, y, w, 28, RANKS[r], width=0.6)
    p.legend(110, 160, ranks)
    return p


def blocks_picture():
    """Rank 1's blocks in a causal zigzag ring of four, step by step."""
    n, ranks, me, w = 32, 4, 1, 4.6
    p = Picture(900, 236)
    mine = set(zigzag(n, me, ranks))
    for step in range(ranks):
        source = (me - step) % ranks
        theirs = set(zigzag(n, source, ranks))
        x0, y0 = 60 + step * 212, 48
        p.text(x0 + n * w / 2, 20, f"step {step}: keys of rank {source}", anchor="middle", weight="bold")
        for q in range(n):
            p.box(x0, y0 + q * w, (q + 1) * w, w, PALE, GRID, 0.3)
            for begin, end in spans(k for k in range(q + 1) if q in mine and k in theirs):
                p.box(x0 + begin * w, y0 + q * w, (end - begin) * w, w, RANKS[source], width=0.3)
        for token, r in enumerate(owners("zigzag", n, ranks)):
            p.box(x0 + token * w, y0 - 9, w, 6, RANKS[r], width=0.3)
            p.box(x0 - 9, y0 + token * w, 6, w, RANKS[r], width=0.3)
    p.text(24, 130, "queries", anchor="middle", size=12)
    p.text(60 + n * w / 2, 44 - 10, "keys", anchor="middle", size=11)
    p.legend(60, 212, ranks)
    return p


def exchange_picture():
    """Ulysses: before, every rank has all heads of its tokens; after, all tokens of its heads."""
    tokens, heads, ranks, w, h = 16, 8, 4, 18, 16
    p = Picture(900, 210)
    for side, x0 in enumerate((70, 520)):
        for t in range(tokens):
            for head in range(heads):
                part = next(r for r in range(ranks) if t < cut(tokens, r + 1, ranks)) if side == 0 else head * ranks // heads
                p.box(x0 + t * w, 34 + head * h, w, h, RANKS[part], width=0.6)
        p.text(x0 + tokens * w / 2, 24, ("a rank's tokens, all heads", "all tokens, a rank's heads")[side], anchor="middle", weight="bold")
        p.text(x0 - 8, 34 + heads * h / 2, "heads", anchor="end", size=12)
        p.text(x0 + tokens * w / 2, 34 + heads * h + 16, "tokens", anchor="middle", size=12)
    p.line(378, 80, 452, 80, arrow=True)
    p.text(412, 70, "q, k, v", anchor="middle", size=12)
    p.line(452, 118, 378, 118, arrow=True)
    p.text(412, 136, "out", anchor="middle", size=12)
    p.legend(70, 188, ranks)
    return p


def usp_picture():
    """USP 2 x 2: zigzag over two ring ranks, each shard cut for two Ulysses ranks, joined again by the exchange."""
    n, w, x0 = 32, 20, 150
    p = Picture(900, 262)
    shard = owners("zigzag", n, 2)
    member = {t: (2 * ring + (i >= len(s) // 2)) for ring in range(2) for s in [zigzag(n, ring, 2)] for i, t in enumerate(s)}
    rows = [
        ("the stream", [PALE] * n, "one document of 32 tokens, four zigzag chunks"),
        ("ring shards", [("#99bbdd", "#ddbb99")[r] for r in shard], "outer sharding: zigzag over 2 ring ranks"),
        ("ranks", [RANKS[member[t]] for t in range(n)], "inner cut: each shard in 2 contiguous pieces of its own order"),
        ("after exchange", [("#99bbdd", "#ddbb99")[r] for r in shard], "each Ulysses group holds its whole ring shard, half the heads per rank"),
    ]
    for row, (name, colours, note) in enumerate(rows):
        y = 14 + 56 * row
        p.text(x0 - 10, y + 18, name, anchor="end")
        for t in range(n):
            p.box(x0 + t * w, y, w, 26, colours[t], GRID if row == 0 else "white", 0.6)
        p.text(x0, y + 41, note, size=12, fill="#666666")
    p.legend(x0, 242, 4)
    return p


def layers_picture():
    """Folders of include/sp, each including only what is below it; under the name of a layer stand the folders inside of it."""
    p = Picture(900, 440)
    rows = [
        [("sp/*.hpp: one entry point for each thing a program uses (ulysses, ring, usp, batch, mesh, threads, mpi, cpu, ...)", "", 0, 860)],
        [("multimodal: images, splices, slots of a model", "splices/", 0, 860)],
        [("linear: convolution, linear attention", "cpu/", 0, 860)],
        [
            ("attention: prepare, forward, backward", "call/ ring/ ulysses/", 0, 420),
            ("loss: the same on every rank", "", 430, 430),
        ],
        [("layout: documents + sharding + group = everybody's runs; batch, relayout", "", 0, 860)],
        [("mesh: axes, groups, degrees", "", 0, 860)],
        [
            ("sharding: who owns what", "", 0, 230),
            ("collective: messages between ranks", "threads/ mpi/ family/ decorators/ check/", 240, 330),
            ("backend: kernels over blocks", "cpu/", 580, 280),
        ],
        [
            ("geometry: documents, runs, slices, blocks", "", 0, 330),
            ("cuda: a queue on a device", "", 340, 230),
            ("diagnosis: records, logs, traces", "", 580, 280),
        ],
        [("core: view, element types, errors, memory, random numbers", "", 0, 860)],
    ]
    y = 12
    for row, boxes in enumerate(rows):
        height = 50 if any(folders for _, folders, _, _ in boxes) else 32
        for words, folders, x, w in boxes:
            p.box(20 + x, y, w, height, "#dde6f0" if row else "#cfe3cf", "#8899aa")
            p.text(20 + x + w / 2, y + (21 if folders else height / 2 + 5), words, anchor="middle")
            if folders:
                p.text(20 + x + w / 2, y + 40, folders, size=12, anchor="middle")
        y += height + 8
    return p


PICTURES = {"sharding": sharding_picture, "blocks": blocks_picture, "exchange": exchange_picture, "usp": usp_picture, "layers": layers_picture}


def main():
    here, stale = pathlib.Path(__file__).parent, []
    for name, draw in PICTURES.items():
        path, text = here / f"{name}.svg", draw().svg()
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"run docs/pictures/draw.py: {', '.join(stale)} out of date")


if __name__ == "__main__":
    main()
