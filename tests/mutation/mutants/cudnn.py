# Bugs planted in: the backend over cuDNN. Their tests run over a fake of cuDNN that refuses what cuDNN cannot do.
from mutants.mutant import Mutant

SMALL = ("backend.cudnn", "cudnn: every small causal block*")
PACKED = ("backend.cudnn", "cudnn: packed documents*")
RESULTS = ("backend.cudnn", "cudnn: what calls give*")
REFUSED = ("backend.cudnn", "cudnn: tensors*")

MUTANTS = [
    Mutant(
        "sequences_share_keys",
        "sequences of one call have keys in common, whose gradients then overwrite each other",
        "backend/cudnn/sequences.hpp",
        " &&\n          o.q_span() <= b.q && o.k_span() <= b.k",
        " &&\n          o.q_span() <= b.q",
        *PACKED,
    ),
    Mutant(
        "any_number_of_sequences",
        "calls have as many sequences as there are: a plan for every batch",
        "backend/cudnn/sequences.hpp",
        "std::bit_floor(o.list.size() - first)",
        "o.list.size() - first",
        *PACKED,
    ),
    Mutant(
        "full_pieces_causal",
        "full pieces of a causal block are computed as causal ones",
        "backend/cudnn/sequences.hpp",
        "out.add(piece, !piece.is_full())",
        "out.add(piece, true)",
        *SMALL,
    ),
    Mutant(
        "uneven_taken_for_even",
        "sequences at unequal distances are computed without their lists",
        "backend/cudnn/sequences.hpp",
        "      if (s.q - last.q != last.q - before.q || s.k - last.k != last.k - before.k) return false;\n",
        "",
        *PACKED,
    ),
    Mutant(
        "even_without_distance",
        "sequences of one length are taken to follow each other",
        "backend/cudnn/kernel.hpp",
        "(batch_.even && batch_.count() > 1 ? step : length) * s.row",
        "length * s.row",
        *RESULTS,
    ),
    Mutant(
        "state_not_weighted",
        "merging a result leaves the weight of what was there as it was",
        "backend/cudnn/passes.hpp",
        "merge_four(w, &state.out(row, h, first), &out(packed, h, first));",
        "merge_four({w.lse, 1, w.second}, &state.out(row, h, first), &out(packed, h, first));",
        *RESULTS,
    ),
    Mutant(
        "lse_of_absent_rows",
        "cuDNN is given minus infinity for rows that a sequence does not have",
        "backend/cudnn/passes.hpp",
        "lse(row, h) : 0.0f",
        "lse(row, h) : minus_infinity<float>",
        *RESULTS,
    ),
    Mutant(
        "gradients_of_keys_by_rows",
        "gradients of keys are looked for where those of queries are",
        "backend/cudnn/passes.hpp",
        "packed = (keys ? s.packed_k : s.packed_q) + i;",
        "packed = s.packed_q + i;",
        *RESULTS,
    ),
    Mutant(
        "no_end",
        "the entry behind the last sequence does not say where it ends",
        "backend/cudnn/kernel.hpp",
        "sdpa_sequence{std::int32_t(batch_.q_span()), std::int32_t(batch_.k_span()), 0, 0}",
        "sdpa_sequence{}",
        *RESULTS,
    ),
    Mutant(
        "long_lists",
        "the second part of a long list is written over the end of the first",
        "backend/cudnn/kernel.hpp",
        "pass.first = b + 1;",
        "pass.first = b;",
        *RESULTS,
    ),
    Mutant(
        "scratch_of_forward",
        "scratch_bytes counts what forward takes alone",
        "backend/cudnn/kernel.hpp",
        "for (bool const backward : {false, true})",
        "for (bool const backward : {false})",
        *RESULTS,
    ),
    Mutant(
        "misaligned",
        "tensors may start anywhere",
        "backend/cudnn/kernel.hpp",
        "reinterpret_cast<std::uintptr_t>(v.data) % 16 == 0",
        "reinterpret_cast<std::uintptr_t>(v.data) % 2 == 0",
        *REFUSED,
    ),
]
