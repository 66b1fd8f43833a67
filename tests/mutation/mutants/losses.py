# Bugs planted in: losses.
from mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        "loss_scaled_by_group",
        "gradients are scaled by the size of the loss's group whatever will happen to parameter gradients",
        "loss/gather_loss.hpp",
        "index_t(both.tensor(1)), contract_.factor()};",
        "index_t(both.tensor(1)), double(comm_.size())};",
        "loss.loss",
        "*Megatron#673*",
    ),
    Mutant(
        "loss_divided_twice",
        "the number of tokens is divided out of gradients twice",
        "loss/gather_loss.hpp",
        "r.scale *= inverse;",
        "r.scale *= inverse * inverse;",
        "loss.loss",
        "*Megatron#673*",
    ),
    Mutant(
        "loss_local_count",
        "tokens whose label is ignored count in the mean",
        "loss/gather_loss.hpp",
        "both.tensor(1) = double(count);",
        "both.tensor(1) = double(losses.extent(0));",
        "loss.loss",
        "loss: ignore_index*",
    ),
    Mutant(
        "loss_gradient_of_ignored",
        "tokens whose label is ignored get a gradient",
        "loss/gather_loss.hpp",
        "dlosses(i) = index_t(labels(i)) == options_.ignore_index ? T{} :",
        "dlosses(i) =",
        "loss.loss",
        "loss: ignore_index*",
    ),
    Mutant(
        "gather_leaves_gaps",
        "positions in no document keep what the global tensor held",
        "loss/gather_tokens.hpp",
        "    fill(global, value);\n",
        "    static_cast<void>(value);\n",
        "loss.gather_tokens",
        "gather_tokens: stream order*",
    ),
]
