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
    Mutant(
        "fused_labels_not_moved",
        "labels stand where their tokens stood before the splice",
        "multimodal/fused_batch.hpp",
        "          all[std::size_t(p.at + i)] = T(own",
        "          all[std::size_t(min(index_t(token), pieces_.length() - 1))] = T(own",
        "multimodal.fusion",
        "fusion: every splice*",
    ),
    Mutant(
        "fused_last_visual_row_ignored",
        "the last row of an image does not predict the text behind it",
        "multimodal/fused_batch.hpp",
        """        for (index_t i = 0; i < p.rows.count; ++i) {
          auto const token""",
        """        for (index_t i = p.at > pieces_.begins[p.sample] ? 1 : 0; i < p.rows.count; ++i) {
          auto const token""",
        "multimodal.fusion",
        "fusion: every splice*",
    ),
    Mutant(
        "fused_labels_shifted_behind_the_cut",
        "labels are shifted among a rank's rows instead of in the stream",
        "multimodal/fused_batch.hpp",
        """    shifted_labels(batch_, stream, view<T, 1>(mine.data(), {tokens()}), T(ignore_));
""",
        """    sp::split(batch_, stream, view<T, 1>(mine.data(), {tokens()}), T(ignore_));
    for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = i + 1 < mine.size() ? mine[i + 1] : T(ignore_);
""",
        "multimodal.fusion",
        "fusion: every splice*",
    ),
    Mutant(
        "fused_order_not_undone",
        "visual rows stand in the order of the tower's windows",
        "multimodal/fused_routes.hpp",
        "      if (!is_text && !order.empty()) entry",
        "      if (!is_text && order.size() == 1) entry",
        "multimodal.fusion",
        "fusion: the order of windows*",
    ),
    Mutant(
        "fused_dropped_rows_garbage",
        "gradients of rows that the splice drops are what the tensor held",
        "multimodal/fusion.hpp",
        """  if (way.once && way.drops) sp::fill(q, to, T{});
""",
        "",
        "multimodal.fusion",
        "fusion: every splice*",
    ),
    Mutant(
        "fused_repeated_rows_stored",
        "of a row that is used several times one gradient counts",
        "multimodal/fusion.hpp",
        "way.once ? landing::store : landing::sum, way.once",
        "landing::store, way.once",
        "multimodal.fusion",
        "fusion: every splice*",
    ),
    Mutant(
        "fused_learned_counted_by_rank",
        "every rank holds the whole gradient of learned rows, so that their sum counts it once for each rank",
        "multimodal/fused_routes.hpp",
        """        from_learned.use(row, {to.part, row}, to);
""",
        """        for (int p = 0; p < parts; ++p) from_learned.use(row, {p, row}, to);
""",
        "multimodal.fusion",
        "fusion: every splice*",
    ),
    Mutant(
        "fused_slack_not_zero",
        "slack rows of hidden states are what the tensor held",
        "multimodal/fusion.hpp",
        """      if (f.has_slack()) sp::fill(ctx.queue, hidden, T{});
""",
        "",
        "multimodal.fusion",
        "fusion: every splice*",
    ),
    Mutant(
        "fused_from_another_fusion",
        "a fused batch of another fusion passes for one's own",
        "multimodal/fusion.hpp",
        "of.place == here && (object == 0 || of.object == object)",
        "of.place == here",
        "multimodal.fusion",
        "fusion: what belongs to another*",
    ),
    Mutant(
        "deepstack_at_text_rows",
        "deepstack adds a feature at text rows too",
        "multimodal/deepstack.hpp",
        """        detail::refuse_aliasing({{"hidden", hidden}}, {{"features", features}});
      });
""",
        """      });
      for (index_t i = 0, v = 0; features.extent(0) > 0 && i < hidden.extent(0); ++i)
        if (v < index_t(f.visual_rows_.size()) && f.visual_rows_[std::size_t(v)] == i)
          ++v;
        else
          detail::add(ctx.queue, hidden.rows(i, 1), features.rows(0, 1));
""",
        "multimodal.fusion",
        "fusion: every splice*",
    ),
    Mutant(
        "deepstack_over_hidden",
        "deepstack clears the hidden states of text",
        "multimodal/deepstack.hpp",
        "landing::sum_to,",
        "landing::sum,",
        "multimodal.fusion",
        "fusion: every splice*",
    ),
    Mutant(
        "rotary_time_not_scaled",
        "frames of a video are one position apart, whatever their time step",
        "multimodal/fused_positions.hpp",
        "options_.time_step * x.seconds : 1",
        "float(x.seconds > 0) : 1",
        "multimodal.splices",
        "splices: rotary positions*",
    ),
    Mutant(
        "rotary_frames_count_on",
        "a frame behind text counts from the first frame of its video",
        "multimodal/rotary_segments.hpp",
        "frames = row / (height * width) - frame;",
        "frames = row / (height * width) - frame * index_t(step != 1);",
        "multimodal.splices",
        "splices: rotary positions*",
    ),
    Mutant(
        "between_marks_hold_one_item",
        "frames of a video that have marks of their own are all the first frame",
        "multimodal/splices/between.hpp",
        """      row += inside;
""",
        """      row += whole ? inside : 0;
""",
        "multimodal.splices",
        "splices: what each says*",
    ),
    Mutant(
        "spans_over_text",
        "frames of a video see each other over the text between them",
        "multimodal/fused_batch.hpp",
        "      if (open == item && only_learned(end, at))",
        "      if (open == item)",
        "multimodal.splices",
        "splices: masks*",
    ),
    Mutant(
        "fused_limit_not_reached",
        "a sample of as many rows as the limit allows is refused",
        "multimodal/fused_pieces.hpp",
        "limit > 0 && rows > limit",
        "limit > 0 && rows >= limit",
        "multimodal.splices",
        "splices: what does not fit*",
    ),
]
