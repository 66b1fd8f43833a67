# Bugs planted in: the CUDA queue, its copies, sums and memory. Their tests run over emulated blocks and a fake of the runtime.
from mutants.mutant import Mutant

SMALL = ("cuda.pieces", "cuda pieces: * of small shapes*")
RANDOM = ("cuda.pieces", "cuda pieces: * of random lists*")
LARGE = ("cuda.pieces", "cuda pieces: lists of many gigabytes*")
SUMS = ("cuda.queue", "cuda queue: a sum*")
UPLOAD = ("cuda.queue", "cuda queue: uploaded*")
LANE = ("cuda.queue", "cuda queue: the lane*")
REPLAY = ("cuda.capture", "cuda capture: work*")

MUTANTS = [
    Mutant(
        "piece_inner_stride",
        "a kernel counts the dimensions between rows and runs from the wrong end",
        "cuda/copy.hpp",
        "s.strides[d - 1 + 4 - b.dims] = b.strides[d];",
        "s.strides[d - 1] = b.strides[d];",
        *SMALL,
    ),
    Mutant(
        "piece_skip",
        "a launch that begins in the midst of a piece begins with the piece",
        "cuda/copy.hpp",
        "    p += skip;\n",
        "",
        *RANDOM,
    ),
    Mutant(
        "copy_first_word_alone",
        "a thread moves one word of the four that are its own",
        "cuda/copy.hpp",
        "    for (int n = 0; n < Words; ++n) target[n] = words[n];",
        "    target[0] = words[0];",
        "cuda.queue",
        "cuda queue: lists of pieces*",
    ),
    Mutant(
        "piece_words",
        "words are as large as addresses allow, whatever the strides",
        "cuda/copy.hpp",
        "places_ |= address(b.first) | std::uint64_t(stride);",
        "places_ |= address(b.first);",
        "cuda.pieces",
        "cuda pieces: words of sixteen*",
    ),
    Mutant(
        "piece_search",
        "a word behind the end of a block is looked for in that block",
        "cuda/copy.hpp",
        "if (blocks[middle].end > p)",
        "if (blocks[middle].end >= p)",
        *SMALL,
    ),
    Mutant(
        "rows_of_large_blocks",
        "the rows of a block that is walked in parts begin with its first row again",
        "cuda/blocks.hpp",
        "b.first += skipped * b.strides[0];",
        "",
        *LARGE,
    ),
    Mutant(
        "division_rounds_down",
        "the multiplier in place of a division is one too small",
        "cuda/divider.hpp",
        "(std::uint64_t(1) << shift) + d - 1) / d",
        "std::uint64_t(1) << shift) / d",
        "cuda.pieces",
        "cuda pieces: division*",
    ),
    Mutant(
        "sums_by_number_of_sums",
        "groups of terms are added last to first where each has a block of its own: few sums have other bits than many",
        "cuda/kernels.hpp",
        "for (index_t g = 1; g < groups; ++g) sum = sum + parts[i * groups + g];",
        "for (index_t g = groups - 1; g > 0; --g) sum = sum + parts[i * groups + g];",
        *SUMS,
    ),
    Mutant(
        "sums_of_threads_meet_too_early",
        "threads add up sums of others that are not there yet",
        "cuda/kernels.hpp",
        "  all[b.thread()] = sum;\n  b.barrier();\n",
        "  all[b.thread()] = sum;\n",
        *SUMS,
    ),
    Mutant(
        "staging_used_too_early",
        "pinned memory is written again before the device has read it",
        "cuda/staging.hpp",
        'if (next.used > 0) cuda_check(cudaEventSynchronize(next.read), "cudaEventSynchronize", primitive);',
        "",
        *UPLOAD,
    ),
    Mutant(
        "staging_never_full",
        "bytes of one upload are written over those of another that wait beside them",
        "cuda/staging.hpp",
        "h.used = round_up(h.used + n, 64);",
        "h.used = n == half_bytes - h.used ? half_bytes : 64;",
        *UPLOAD,
    ),
    Mutant(
        "wait_missing",
        "a queue does not wait for an event of its lane",
        "cuda/queue.hpp",
        "if (!point || (own && point->of_lane == is_lane())) return;",
        "if (!point || own) return;",
        *LANE,
    ),
    Mutant(
        "wait_known_too_soon",
        "an event that is waited for in a capture counts as waited for outside of it",
        "cuda/queue.hpp",
        "if (own && before_capture) mine_->seen = point->number;",
        "if (own) mine_->seen = point->number;",
        *REPLAY,
    ),
    Mutant(
        "memory_of_a_capture",
        "a block that comes back during a capture is given back as part of the graph",
        "cuda/pool.hpp",
        "captured ? late_.push_back({p, bytes}) : give_back({p, bytes});",
        "give_back({p, bytes});",
        "cuda.capture",
        "cuda pool: a block that comes back during*",
    ),
]
