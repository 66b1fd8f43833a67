# Bugs planted in: the multimodal layer.
from mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        "vit_prefix_counted_by_rank",
        "every rank's copy of a prefix token is one key more",
        "multimodal/vit_attention.hpp",
        "      detail::prepare_layouts(inner_, out.inner, l, l,",
        """      for (std::size_t i = 0, n = list.size() * std::size_t(comm_.size() - 1); i < n; ++i) {
        slice again = list[i];
        again.k1 = again.k0 + options_.prefix;
        list.push_back(again);
      }
      detail::prepare_layouts(inner_, out.inner, l, l,""",
        "multimodal.vit_attention",
        "vit_attention: every strategy*",
    ),
    Mutant(
        "vit_upstream_counted_by_rank",
        "under `same` the upstream gradients of a prefix token, which are equal on all ranks, are added up",
        "multimodal/vit_attention.hpp",
        "if (!sends(p) || std::is_same_v<Contract, same>) {",
        "if (!sends(p)) {",
        "multimodal.vit_attention",
        "vit_attention: every strategy*",
    ),
    Mutant(
        "vit_upstream_of_owner_lost",
        "under `shares` the owner's own share of the upstream gradient does not count",
        "multimodal/vit_attention.hpp",
        "landing::sum_to, &p.sums_of_owner",
        "landing::sum, &p.sums_of_owner",
        "multimodal.vit_attention",
        "vit_attention: every strategy*",
    ),
    Mutant(
        "vit_foreign_patches_lost",
        "what a prefix token saw of the patches of all ranks gets no gradient",
        "multimodal/vit_attention.hpp",
        "    backward_inside(p, ctx, s, io, owns() ?",
        """    sp::fill(ctx.queue, summed.tensor.rows(0, owns() ? p.prefix_rows : 0), T{});
    backward_inside(p, ctx, s, io, owns() ?""",
        "multimodal.vit_attention",
        "vit_attention: every strategy*",
    ),
    Mutant(
        "vit_others_not_zeroed",
        "under `shares` the gradients of prefix rows of all ranks but the owner are what their memory held",
        "multimodal/vit_attention.hpp",
        "if (owns() || io.extras.accumulate) return;",
        "return;",
        "multimodal.vit_attention",
        "vit_attention: every strategy*",
    ),
    Mutant(
        "vit_accumulated_zeroed",
        "under `shares` ranks that own no prefix rows overwrite the gradients that were to be added to",
        "multimodal/vit_attention.hpp",
        "if (owns() || io.extras.accumulate) return;",
        "if (owns()) return;",
        "multimodal.vit_attention",
        "vit_attention: every strategy*",
    ),
    Mutant(
        "vit_output_of_owner_alone",
        "the output of prefix tokens stays on the rank that computed it",
        "multimodal/vit_attention.hpp",
        """    if (sends(p)) sp::exchange(comm_, "vit_attention.forward", ctx, to_everybody(p, io.out)).wait();\n""",
        "",
        "multimodal.vit_attention",
        "vit_attention: every strategy*",
    ),
    Mutant(
        "vit_gradients_of_values_stay",
        "under `same` dv of prefix tokens stays on the rank that computed it",
        "multimodal/vit_attention.hpp",
        "to_everybody(p, io.dk), to_everybody(p, io.dv)",
        "to_everybody(p, io.dk)",
        "multimodal.vit_attention",
        "vit_attention: every strategy*",
    ),
    Mutant(
        "vit_scratch_too_small",
        "scratch_bytes leaves out the summed upstream gradient",
        "multimodal/vit_attention.hpp",
        "c.bytes() + max(inside",
        "max(inside",
        "multimodal.vit_attention",
        "vit_attention: every strategy*",
    ),
    Mutant(
        "vit_prefix_not_in_identity",
        "geometry of another number of prefix tokens passes for one's own",
        "multimodal/vit_attention.hpp",
        "    d.add(options_.prefix);\n",
        "",
        "multimodal.vit_calls",
        "vit_attention: geometry and saved*",
    ),
    Mutant(
        "vit_rows_searched_in_front",
        "the search for NaN takes prefix rows for patches",
        "attention/call/checked_geometry.hpp",
        "for (real_rows& r : *list) r.row += prefix * index_t(documents_of_batch);",
        "",
        "multimodal.vit_calls",
        "vit_attention: from level 2*",
    ),
]
