// Fusion: text embeddings and visual features become a decoder's hidden states, by one exchange along routes; gradients go back by one.
// Which row comes from where a splice says; where rows lie, the shardings of text, visual features and decoder say, each its own.
#pragma once

#include <optional>

#include <sp/collective/check/agreement.hpp>
#include <sp/core/footprint.hpp>
#include <sp/layout/digests.hpp>
#include <sp/layout/route_exchange.hpp>
#include <sp/multimodal/fused_batch.hpp>
#include <sp/multimodal/fused_checks.hpp>

namespace sp {

/// What a fusion is made with. One value for all ranks.
struct fusion_options {
  index_t ignore_index = -100;   ///< label of rows that do not count
  index_t limit = 0;             ///< rows of a fused sample at most; 0: any number
  shapes local = shapes::ragged; ///< how the fused batch is cut, as in batch_options
  int checks =
      1; ///< 0 and 1: samples, rows and shapes, always. 2, 3: also, ranks compare samples, layouts and options in prepare(), and
         ///< what they move before each pass
};

/// Operands of a forward pass by name, rows of this rank.
template <class T, class M = host_memory>
struct fusion_forward {
  view<T const, 2, M> text{};    ///< (text.tokens(), dim)
  view<T const, 2, M> visual{};  ///< (visual.tokens(), dim)
  view<T const, 2, M> learned{}; ///< (learned rows, dim), equal on every rank; left out where the splice has none
  view<T, 2, M> hidden{};        ///< (fused.tokens(), dim), written
};
/// Operands of a backward pass by name.
template <class T, class M = host_memory>
struct fusion_backward {
  view<T const, 2, M> dhidden{}; ///< (fused.tokens(), dim)
  view<T, 2, M> dtext{};         ///< (text.tokens(), dim), written
  view<T, 2, M> dvisual{};       ///< (visual.tokens(), dim), written
  view<T, 2, M> dlearned{};      ///< (learned rows, dim), written: this rank's share, to be summed over ranks as parameters are
};

namespace detail {

/// The one sentence for what is no communicator.
template <class Comm>
constexpr bool require_fusion_communicator() {
  static_assert(communicator<Comm>,
                "sp::fusion: the group must be a communicator: copyable, with memory_type, rank(), size() and exchange(traffic); "
                "sp::threads, sp::solo or a mesh group is one.");
  return true;
}

/// A tensor of a pass and the rows that this rank has of it.
template <class View>
struct fused_rows {
  char const* name;
  View const& tensor;
  index_t rows;
};
template <class View>
fused_rows(char const*, View const&, index_t) -> fused_rows<View>;

template <class View>
void check_fused_count(fused_rows<View> const& x) {
  if (x.tensor.extent(0) != x.rows)
    fail({errc::invalid_shape,
          std::string(x.name) + " " + shape(x.tensor) + " has " + std::to_string(x.tensor.extent(0)) + " rows, this rank has " +
              std::to_string(x.rows),
          "Pass the rows that the batch gives this rank"});
}
/// The tensors of a pass: rows as the layouts give them to this rank, of one shape behind the rows.
template <class Hidden, class... Sources>
void check_fused_rows(fused_rows<Hidden> const& hidden, fused_rows<Sources> const&... sources) {
  auto check = [&](auto const& x) {
    check_fused_count(x);
    auto want = hidden.tensor.extents;
    want[0] = x.tensor.extent(0);
    if (x.tensor.extents != want)
      fail({errc::invalid_shape,
            std::string(x.name) + " " + shape(x.tensor) + " and " + hidden.name + " " + shape(hidden.tensor) +
                " do not fit behind the rows",
            "Give all tensors of a call equal extents behind the first"});
  };
  check_fused_count(hidden);
  (check(sources), ...);
}
/// What is left out where there are no rows takes the shape of the others.
template <class T, int R, class M, class U>
view<T, R, M> or_no_rows(view<T, R, M> v, index_t rows, view<U, R, M> const& like) {
  if (rows > 0 || v.data || v.extents != view<T, R, M>().extents) return v;
  v.extents = like.extents;
  v.extents[0] = 0;
  return view<T, R, M>(nullptr, v.extents);
}

/// Refuses a fused batch of another group or fusion. `object` 0: of any fusion of the group.
inline void require_fused_here(fused_origin const& of, group_place const& here, std::uint64_t object) {
  if (of.place == here && (object == 0 || of.object == object)) [[likely]]
    return;
  fail({errc::bad_state,
        of.place != here ? "the fused batch was made for " + of.place.text() + ", this is " + here.text() + " of the group"
                         : std::string("the fused batch was made by another fusion"),
        "Pass what prepare of this object returned; copies of an object count as the same"});
}

template <class Queue, class T, int R>
using fused_in = std::type_identity_t<view<T const, R, typename Queue::memory_type>>;
template <class Queue, class T, int R>
using fused_out = std::type_identity_t<view<T, R, typename Queue::memory_type>>;

/// Before a pass: what this rank's operands must be, and from check level 2 on what all ranks do.
template <class T, int R, class M, class C, class Queue, class Local>
void check_pass(int checks, C const& comm, site const& here, std::uint64_t fused, view<T, R, M> const& rows,
                context<Queue> const& ctx, Local&& local) {
  if (checks < 2) return local();
  fingerprint f(here.object, here.call, comm.rank());
  digest row(R);
  for (int d = 1; d < R; ++d) row.add(rows.extent(d));
  f.number("check level", checks).element<std::remove_const_t<T>>("element type").hash("fused batch", fused);
  f.hash("row shape", row.value());
  check_together(ctx.queue, f, local, [&](fingerprint const& mine) { sp::agree(comm, mine, ctx); });
}

/// What the ranks' comparison in front of a pass takes from scratch.
template <class C, class Queue>
index_t agreement_bytes(int checks, C const& comm, Queue const& queue) {
  return checks > 1 ? agreement_scratch(comm.size(), queue) : 0;
}

/// The gradient of a source: stored where each of its rows is used once at most, summed otherwise.
template <class T, int R, class M>
auto gradient_along(fused_way const& way, view<T const, R, M> const& dhidden, view<T, R, M> const& to,
                    landing_table<M> const* table) {
  return routed(way.back, dhidden, to, head_cut{}, way.once ? landing::store : landing::sum, way.once ? nullptr : table);
}
/// Before it: rows that nothing is stored in get 0.
template <class Queue, class T, int R, class M>
void zero_dropped(Queue const& q, fused_way const& way, view<T, R, M> const& to) {
  if (way.once && way.drops) sp::fill(q, to, T{});
}

/// Calls with operands by name, for tensors of T: braces carry no type, so there is one of these for each element type.
template <class Object, class T>
class fusion_by_name {
public:
  template <class Queue>
  void forward(fused_batch const& f, context<Queue> const& ctx, fusion_forward<T, typename Queue::memory_type> const& o) const {
    object().forward(f, ctx, o.text, o.visual, o.learned, o.hidden);
  }
  template <class Queue>
  void backward(fused_batch const& f, context<Queue> const& ctx, fusion_backward<T, typename Queue::memory_type> const& o) const {
    object().backward(f, ctx, o.dhidden, o.dtext, o.dvisual, o.dlearned);
  }
  /// The short forms, with memory of the batch.
  void forward(fused_batch const& f, fusion_forward<T> const& o) const {
    forward(f, context(f.batch().memory(), f.batch().memory()), o);
  }
  void backward(fused_batch const& f, fusion_backward<T> const& o) const {
    backward(f, context(f.batch().memory(), f.batch().memory()), o);
  }

private:
  fusion_by_name() = default;
  friend Object;
  Object const& object() const { return static_cast<Object const&>(*this); }
};

} // namespace detail

/// Makes hidden states of text embeddings and visual features: `group` holds all ranks of the sequence.
template <class Splice, class Comm>
class fusion : public detail::fusion_by_name<fusion<Splice, Comm>, float>,
               public detail::fusion_by_name<fusion<Splice, Comm>, double>,
               public detail::fusion_by_name<fusion<Splice, Comm>, bf16>,
               public detail::fusion_by_name<fusion<Splice, Comm>, fp16> {
  static_assert(detail::require_splice<Splice>() && detail::require_fusion_communicator<Comm>());

public:
  using memory_type = typename Comm::memory_type;

  fusion(Comm group, Splice splice, fusion_options options = {})
      : comm_(std::move(group)), splice_(std::move(splice)), options_(options) {
    detail::check_level(options_.checks, "fusion", comm_.rank(), comm_.size());
  }

  [[nodiscard]] Comm const& group() const noexcept { return comm_; }
  [[nodiscard]] Splice const& splice() const noexcept { return splice_; }
  [[nodiscard]] fusion_options const& options() const noexcept { return options_; }

  /// The batch behind the splice, cut by `how`. `text`: a batch over the samples' token ids, a document each; `visual`: a batch of all
  /// visual rows of the step, images one behind the other; `order`: [visual row, line by line] -> token of `visual`
  /// (images::merged_rows()), empty where they are in that order. All ranks hold the same samples, so nothing is sent below check level 2;
  /// from there on they prepare together, which over other memory than the host's takes a context. bad_documents, naming sample and both
  /// numbers, for placeholders without image, grids without features, samples over the limit.
  template <sharding How>
  [[nodiscard]] fused_batch prepare(std::span<splice_sample const> samples, batch const& text, batch const& visual,
                                    std::span<index_t const> order, How const& how) const {
    return located(at(".prepare"), [&] {
      if (options_.checks < 2) return made(samples, text, visual, order, how);
      if constexpr (std::is_same_v<memory_type, host_memory>) {
        pool memory;
        return made_together(context(memory, memory), samples, text, visual, order, how);
      } else {
        fail({errc::unsupported, "from check level 2 on ranks compare what they prepare, over memory of a queue",
              "Call prepare(context, ...)"});
      }
    });
  }
  template <sharding How>
  [[nodiscard]] fused_batch prepare(std::span<splice_sample const> samples, batch const& text, batch const& visual,
                                    How const& how) const {
    return prepare(samples, text, visual, std::span<index_t const>(), how);
  }
  /// The same with tables in memory of context.kept, by which sums on a queue of other memory are one pass.
  template <class Queue, sharding How>
  [[nodiscard]] fused_batch prepare(context<Queue> const& ctx, std::span<splice_sample const> samples, batch const& text,
                                    batch const& visual, std::span<index_t const> order, How const& how) const {
    fused_batch f = located(at(".prepare"), [&] {
      return options_.checks < 2 ? made(samples, text, visual, order, how)
                                 : made_together(ctx, samples, text, visual, order, how);
    });
    using M = typename Queue::memory_type;
    static_assert(std::is_same_v<M, memory_type>, "sp::fusion: the context and the group are of different memories.");
    if constexpr (!std::is_same_v<M, host_memory>) {
      auto* const tables = new detail::fused_tables<M>;
      f.tables_ = detail::box(tables);
      if (!f.ways_.text.once) tables->text.assign(ctx, f.ways_.text.back);
      if (!f.ways_.visual.once) tables->visual.assign(ctx, f.ways_.visual.back);
      if (f.learned_rows() > 0) tables->learned.assign(ctx, f.ways_.learned.back);
      tables->features.assign(ctx, f.ways_.visual.there);
      f.has_tables_ = true;
    }
    return f;
  }

  // ---- calls by name: forward(fused, context, {.text = text, .visual = visual, .hidden = hidden}), rows of one dimension -----------

  using detail::fusion_by_name<fusion, float>::forward;
  using detail::fusion_by_name<fusion, double>::forward;
  using detail::fusion_by_name<fusion, bf16>::forward;
  using detail::fusion_by_name<fusion, fp16>::forward;
  using detail::fusion_by_name<fusion, float>::backward;
  using detail::fusion_by_name<fusion, double>::backward;
  using detail::fusion_by_name<fusion, bf16>::backward;
  using detail::fusion_by_name<fusion, fp16>::backward;

  // ---- the same by position, rows of any dimensions ----------------------------------------------------------------------------------

  /// hidden (fused.tokens(), ...) = text embeddings (text.tokens(), ...), visual features (visual.tokens(), ...) and learned rows
  /// (learned rows, ...) where the splice puts them; slack rows 0. One exchange; ordered before all later work of the context's queue.
  template <class Queue, class T, int R>
  void forward(fused_batch const& f, context<Queue> const& ctx, detail::fused_in<Queue, T, R> text,
               detail::fused_in<Queue, T, R> visual, detail::fused_in<Queue, T, R> learned,
               detail::view_on<Queue, T, R> hidden) const {
    auto const range = detail::named_work(ctx.queue, "fusion", ".forward");
    located(at(".forward"), [&] {
      text = detail::or_no_rows(text, f.text_tokens(), hidden);
      visual = detail::or_no_rows(visual, f.visual_tokens(), hidden);
      learned = detail::or_no_rows(learned, f.learned_rows(), hidden);
      detail::check_pass(options_.checks, comm_, at(".forward"), f.origin_.digest, hidden, ctx, [&] {
        detail::require_fused_here(f.origin_, detail::group_place::in(comm_), id_);
        detail::check_fused_rows(
            detail::fused_rows{"hidden", hidden, f.tokens()}, detail::fused_rows{"text", text, f.text_tokens()},
            detail::fused_rows{"visual", visual, f.visual_tokens()}, detail::fused_rows{"learned", learned, f.learned_rows()});
        detail::refuse_aliasing({{"hidden", hidden}}, {{"text", text}, {"visual", visual}, {"learned", learned}});
      });
      if (f.has_slack()) sp::fill(ctx.queue, hidden, T{});
      sp::exchange(comm_, "fusion.forward", ctx, routed(f.ways_.text.there, text, hidden),
                   routed(f.ways_.visual.there, visual, hidden), routed(f.ways_.learned.there, learned, hidden))
          .wait();
    });
  }

  /// Gradients of what forward() moved: a row that was dropped gets 0, a row that was used several times the sum. dlearned (learned rows,
  /// ...) is this rank's share: summed over the ranks it is the gradient.
  template <class Queue, class T, int R>
  void backward(fused_batch const& f, context<Queue> const& ctx, detail::fused_in<Queue, T, R> dhidden,
                detail::view_on<Queue, T, R> dtext, detail::fused_out<Queue, T, R> dvisual,
                detail::fused_out<Queue, T, R> dlearned) const {
    auto const range = detail::named_work(ctx.queue, "fusion", ".backward");
    located(at(".backward"), [&] {
      dtext = detail::or_no_rows(dtext, f.text_tokens(), dhidden);
      dvisual = detail::or_no_rows(dvisual, f.visual_tokens(), dhidden);
      dlearned = detail::or_no_rows(dlearned, f.learned_rows(), dhidden);
      detail::check_pass(options_.checks, comm_, at(".backward"), f.origin_.digest, dhidden, ctx, [&] {
        detail::require_fused_here(f.origin_, detail::group_place::in(comm_), id_);
        detail::check_fused_rows(detail::fused_rows{"dhidden", dhidden, f.tokens()},
                                 detail::fused_rows{"dtext", dtext, f.text_tokens()},
                                 detail::fused_rows{"dvisual", dvisual, f.visual_tokens()},
                                 detail::fused_rows{"dlearned", dlearned, f.learned_rows()});
        detail::refuse_aliasing({{"dtext", dtext}, {"dvisual", dvisual}, {"dlearned", dlearned}}, {{"dhidden", dhidden}});
      });
      auto const* const tables = f.template tables<typename Queue::memory_type>();
      detail::zero_dropped(ctx.queue, f.ways_.text, dtext);
      detail::zero_dropped(ctx.queue, f.ways_.visual, dvisual);
      detail::zero_dropped(ctx.queue, f.ways_.learned, dlearned);
      sp::exchange(comm_, "fusion.backward", ctx,
                   detail::gradient_along(f.ways_.text, dhidden, dtext, tables ? &tables->text : nullptr),
                   detail::gradient_along(f.ways_.visual, dhidden, dvisual, tables ? &tables->visual : nullptr),
                   detail::gradient_along(f.ways_.learned, dhidden, dlearned, tables ? &tables->learned : nullptr))
          .wait();
    });
  }

  /// Bytes that forward() or backward() takes from context.scratch at most, for rows of `dim` entries of T (all extents behind the first
  /// multiplied), on the queue of the context.
  template <class T, class Queue = inline_queue>
  [[nodiscard]] index_t scratch_bytes(fused_batch const& f, index_t dim, Queue const& queue = {}) const {
    using memory = typename Queue::memory_type;
    return located(at(".scratch_bytes"), [&] {
      detail::require_fused_here(f.origin_, detail::group_place::in(comm_), id_);
      auto rows = [dim](index_t n) { return view<T, 2, memory>(nullptr, {n, dim}); };
      view<T, 2, memory> const hidden = rows(f.tokens()), text = rows(f.text_tokens()), visual = rows(f.visual_tokens()),
                               learned = rows(f.learned_rows());
      view<T const, 2, memory> const dhidden = hidden;
      auto const* const tables = f.template tables<memory>();
      index_t const there =
          sp::exchange_scratch(comm_, queue, routed(f.ways_.text.there, text, hidden),
                               routed(f.ways_.visual.there, visual, hidden), routed(f.ways_.learned.there, learned, hidden));
      index_t const back = sp::exchange_scratch(
          comm_, queue, detail::gradient_along(f.ways_.text, dhidden, text, tables ? &tables->text : nullptr),
          detail::gradient_along(f.ways_.visual, dhidden, visual, tables ? &tables->visual : nullptr),
          detail::gradient_along(f.ways_.learned, dhidden, learned, tables ? &tables->learned : nullptr));
      return max(detail::agreement_bytes(options_.checks, comm_, queue), max(there, back));
    });
  }

private:
  template <class>
  friend class deepstack;

  [[nodiscard]] site at(char const* call) const { return {"fusion", call, comm_.rank(), comm_.size()}; }

  template <class How>
  fused_batch made(std::span<splice_sample const> samples, batch const& text, batch const& visual, std::span<index_t const> order,
                   How const& how) const {
    auto const here = detail::group_place::in(comm_);
    detail::check_fused_place(text, here, "text");
    detail::check_fused_place(visual, here, "visual");
    detail::check_fused_text(samples, text.source());
    detail::fused_pieces pieces = detail::pieces_of(splice_, samples, options_.limit);
    detail::check_fused_features(pieces, visual.source());
    detail::check_fused_order(order, pieces.visual_rows());
    batch fused(detail::fused_documents(pieces, text.source()), how, comm_, {options_.local});
    detail::fused_ways ways = detail::ways_of(pieces, fused, text, visual, order);
    return {std::move(fused), std::move(pieces), std::move(ways), samples, options_.ignore_index, {here, id_}};
  }

  /// From check level 2 on.
  template <class Queue, class How>
  fused_batch made_together(context<Queue> const& ctx, std::span<splice_sample const> samples, batch const& text,
                            batch const& visual, std::span<index_t const> order, How const& how) const {
    std::optional<fused_batch> all;
    fingerprint f("fusion", ".prepare", comm_.rank());
    auto local = [&] {
      f.number("check level", options_.checks).number("limit", options_.limit).number("ignore_index", options_.ignore_index);
      f.hash("tokens and images", detail::digest_of(samples)).hash("order of visual rows", detail::digest_of(order));
      f.hash("sharding of the text", detail::digest_of(text.layout()));
      f.hash("sharding of the visual rows", detail::digest_of(visual.layout()));
      all = made(samples, text, visual, order, how);
      all->origin_.digest = detail::digest_of(all->pieces_, all->batch().layout());
      f.hash("fused batch", all->origin_.digest);
    };
    detail::check_together(ctx.queue, f, local, [&](fingerprint const& mine) { sp::agree(comm_, mine, ctx); });
    return std::move(*all);
  }

  Comm comm_;
  Splice splice_;
  fusion_options options_;
  std::uint64_t id_ = detail::new_serial(); ///< copies share it
};

} // namespace sp
