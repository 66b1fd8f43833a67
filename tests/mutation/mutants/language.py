# Bugs planted in: what depends on how a program is compiled, and on the names and types it hands in.
from mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        "finite_by_arithmetic",
        "level 3 compares numbers, which -Ofast answers in advance, where it must look at bits",
        "core/dtype.hpp",
        "return magnitude_bits(x) < infinity_bits<T>;",
        "return x - x == 0;",
        "attention.fast_math",
        "fast math: level 3 finds NaN and infinities*",
    ),
    Mutant(
        "infinity_by_comparison",
        "an lse of -inf is asked for by comparison, which -Ofast answers in advance",
        "core/dtype.hpp",
        "return std::bit_cast<bits_t<T>>(x) == (sign_bit<T> | infinity_bits<T>);",
        "return x < -static_cast<float>(3e38) && x - x != 0;",
        "attention.fast_math",
        "fast math: level 3 finds NaN in sinks*",
    ),
    Mutant(
        "fp16_infinity_of_bf16",
        "the largest numbers of fp16 count as infinite",
        "core/dtype.hpp",
        "std::is_same_v<T, bf16> ? 7 : 10",
        "std::is_same_v<T, bf16> ? 7 : 11",
        "attention.fast_math",
        "fast math: bits tell*",
    ),
    Mutant(
        "all_to_all_unqualified",
        "a function of the communicator's namespace that is named like a collective of sp is called in its place",
        "attention/heads_exchange.hpp",
        "sp::all_to_all_v(comm_,",
        "all_to_all_v(comm_,",
        "attention.names",
        "names: attention*",
    ),
    Mutant(
        "fill_unqualified",
        "rows of a caller's own element type are filled by a function of the caller's namespace",
        "layout/tokens.hpp",
        "sp::fill(local, value);",
        "fill(local, value);",
        "attention.names",
        "names: what moves tokens*",
    ),
    Mutant(
        "agree_unqualified",
        "the ranks of a gather agree by a function of the communicator's namespace",
        "loss/gather_tokens.hpp",
        "sp::agree(comm_,",
        "agree(comm_,",
        "attention.names",
        "names: what moves tokens*",
    ),
]
