// One rank's work together with the others: splice, deepstack, attention's memory, the loss, sums. All that crosses ranks is here.
// What the splice, deepstack and attention send is counted; the loss and sums of gradients are not.
#pragma once

#include <optional>
#include <variant>

#include <sp/counting.hpp>
#include <sp/gather_loss.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/mesh.hpp>

#include "multimodal/training/step.hpp"
#include "trainer/training/group_work.hpp"

namespace multimodal {

using trainer::usage;

/// Comm: the communicator of the program.
template <class T, class Comm>
class rank_group {
  using counted = sp::counting<Comm>;
  using sequence_type = decltype(std::declval<sp::mesh const&>().sequence(std::declval<counted const&>()));
  template <class Splice>
  using fusion = sp::fusion<Splice, sequence_type>;

public:
  rank_group(Comm const& world, plan const& how, settings const& asked)
      : world_(world), plan_(how), settings_(asked), counted_(world_, sent_),
        mesh_(sp::axis::data{how.data}, sp::axis::ring{how.text.ring}, sp::axis::ulysses{how.text.ulysses}),
        sequence_(mesh_.sequence(counted_)), fusion_(make_fusion()), deepstack_(sequence_),
        loss_(world_, sp::summed{}, sp::loss_options{.reduce = sp::reduction::mean, .ignore_index = ignored}) {}
  rank_group(rank_group const&) = delete;

  sequence_type const& sequence() const { return sequence_; }
  sp::context<> context() { return {scratch_, kept_}; }
  int data_rank() const { return mesh_.data_rank(world_.rank()); }

  sp::fused_batch prepare(step const& s, step_batches const& mine) const {
    return std::visit(
        [&](auto const& f) {
          return with_sharding(plan_, [&](auto const& how) {
            return f.prepare(s.spliced, mine.text, mine.merged, std::span<index_t const>(s.images.merged_rows()), how);
          });
        },
        fusion_);
  }
  void fuse(sp::fused_batch const& f, sp::fusion_forward<T> const& rows) {
    std::visit([&](auto const& with) { with.forward(f, context(), rows); }, fusion_);
  }
  void fuse_backward(sp::fused_batch const& f, sp::fusion_backward<T> const& rows) {
    std::visit([&](auto const& with) { with.backward(f, context(), rows); }, fusion_);
  }
  sp::deepstack<sequence_type> const& deepstack() const { return deepstack_; }

  /// The mean over the tokens of all ranks that count, the same number on each, and its gradients by this rank's losses.
  double loss(std::vector<T>& losses, std::vector<std::int64_t>& labels, std::vector<T>& dlosses) {
    sp::context<> const c(other_, other_);
    sp::loss_result const result = sp::read(c.queue, loss_.forward(c, view_of(losses), view_of(labels)));
    loss_.backward(c, result, view_of(labels), view_of(dlosses));
    return result.loss;
  }
  /// Numbers become the sums over all ranks.
  template <class Numbers>
  void sum(Numbers& numbers) {
    sp::view<T, 1> const all(numbers.data(), {index_t(numbers.size())});
    sp::all_reduce(world_, all, sp::context<>(other_, other_)).wait();
  }

  usage used() const { return {sent_.total().bytes_sent, index_t(scratch_.peak_bytes() + kept_.peak_bytes())}; }

private:
  auto make_fusion() const
      -> std::variant<fusion<sp::splice::placeholder>, fusion<sp::splice::one_to_one>, fusion<sp::splice::between>> {
    switch (settings_.splice) {
    case splice_kind::llava:
      return fusion<sp::splice::placeholder>(sequence_, {.token = picture_token, .newline = true});
    case splice_kind::internvl:
      return fusion<sp::splice::one_to_one>(sequence_, {.image = picture_token});
    default:
      return fusion<sp::splice::between>(sequence_, {begin_token, end_token});
    }
  }

  Comm world_;
  plan plan_;
  settings settings_;
  sp::ledger sent_;
  counted counted_;
  sp::mesh mesh_;
  sequence_type sequence_;
  std::variant<fusion<sp::splice::placeholder>, fusion<sp::splice::one_to_one>, fusion<sp::splice::between>> fusion_;
  sp::deepstack<sequence_type> deepstack_;
  sp::gather_loss<Comm, sp::summed> loss_;
  sp::pool scratch_, kept_, other_; ///< of attention, splice and deepstack: within a call, from forward to backward; of the rest
};

/// The joints of a model in one step, by the objects of a rank_group.
template <class T, class Comm>
class step_joints final : public joints<T> {
public:
  step_joints(rank_group<T, Comm>& group, step const& s, plan const& how)
      : group_(group), batches_(s, how, group.sequence()), fused_(group.prepare(s, batches_)), context_(group.context()) {}

  step_batches const& batches() const { return batches_; }
  sp::fused_batch const& fused_rows() const { return fused_; }

  attended patches() const override { return {batches_.patches, context_}; }
  attended fused() const override { return {fused_.batch(), context_}; }
  void fuse(sp::fusion_forward<T> const& rows) const override { group_.fuse(fused_, rows); }
  void fuse_backward(sp::fusion_backward<T> const& rows) const override { group_.fuse_backward(fused_, rows); }
  void add(sp::view<T const, 2> features, sp::view<T, 2> hidden) const override {
    group_.deepstack().forward(fused_, context_, features, hidden);
  }
  void add_backward(sp::view<T const, 2> dhidden, sp::view<T, 2> dfeatures) const override {
    group_.deepstack().backward(fused_, context_, dhidden, dfeatures);
  }

private:
  rank_group<T, Comm>& group_;
  step_batches batches_;
  sp::fused_batch fused_;
  sp::context<> context_;
};

} // namespace multimodal
