// The forward pass of cuda_flash: a block has a tile of queries of one head and meets its tiles of keys in order, by an online softmax.
// The state goes on from (out, lse) in float; a row that sees nothing keeps its bits, and results do not depend on the rows beside it.
#pragma once

#include <sp/backend/cuda/flash_scores.hpp>

namespace sp::detail {

/// Keys and values of at most so many tensors in one call.
inline constexpr int flash_tensors = 16;

template <class T>
struct flash_keys {
  flash_rows<T const> k, v;
};

/// The arguments. D is a class of head dims: those up to it, and beyond the class below.
template <class T, int D, flash_shape Shape, class... Features>
struct flash_forward {
  using element = T;
  using features_type = flash_features<Features...>;
  static constexpr int rows = Shape.forward_rows, columns = Shape.keys, width = D;
  static constexpr int slabs = D <= 128 ? Shape.slabs : 1;
  static constexpr int warps = rows / (16 * slabs), threads = 32 * warps;
  static constexpr int blocks_per_processor = D <= 128 ? 2 : 1;
  static_assert(warps * 16 * slabs == rows && columns % 16 == 0);

  // shared memory: queries, keys, values, places of queries and of two tiles of keys
  using matrix = flash_matrix<T, D>;
  static constexpr index_t k_at = matrix::bytes(rows), v_at = k_at + matrix::bytes(columns);
  static constexpr index_t q_places_at = v_at + matrix::bytes(columns), k_places_at = q_places_at + flash_places::bytes(rows);
  static constexpr index_t shared_bytes = k_places_at + 2 * flash_places::bytes(columns);

  flash_lists lists;
  sp::heads heads;
  int dim = 0, value_dim = 0;
  features_type features;
  flash_rows<T const> q;               // (rows, q heads, dim)
  flash_rows<float> out, lse;          // (rows, q heads, value dim), (rows, q heads)
  flash_keys<T> keys[flash_tensors]{}; // (rows, kv heads, dim), (rows, kv heads, value dim)

  template <class Block>
  SP_DEVICE void operator()(Block& b) const;
};

/// One block of it, as a thread has it.
template <class Block, class Kernel>
struct flash_forward_block {
  using matrix = typename Kernel::matrix;
  using mod = typename Kernel::features_type::mod;
  static constexpr int slabs = Kernel::slabs, columns = Kernel::columns, width = Kernel::width, at_once = flash_at_once(columns);

  Block& b;
  Kernel const& kernel;
  flash_item item;
  int head, kv_head;
  matrix q, k, v;
  flash_places q_places;
  mod modify;
  int first_row; // of this warp
  float m[std::size_t(slabs)][2],
      l[std::size_t(slabs)][2]; // of this thread's rows: the maximum in units of log 2, and the sum of this lane
  flash_tile_of_sums<slabs, at_once / 8> scores;
  flash_tile_of_sums<slabs, width / 8> sums;

  SP_DEVICE flash_forward_block(Block& block, Kernel const& of, flash_item const& work, int q_head)
      : b(block), kernel(of), item(work), head(q_head),
        kv_head(int(of.heads.kv_of(q_head))), q{b.template shared<typename Kernel::element>(0)},
        k{b.template shared<typename Kernel::element>(Kernel::k_at)}, v{b.template shared<typename Kernel::element>(
                                                                          Kernel::v_at)},
        q_places(flash_places::at(b, Kernel::q_places_at, Kernel::rows)),
        modify(of.features.of(of.heads.q_head(q_head), of.lists.row_tile(work.tile))), first_row(b.warp() * 16 * slabs) {}

  SP_DEVICE void run() {
    flash_cursor const at(kernel.lists, item);
    flash_tile const& t = kernel.lists.row_tile(item.tile);
    for (int i = b.thread(); i < Kernel::rows; i += b.threads()) q_places.set(i, place_of(kernel.lists.row_segments(t), t, i));
    find(at, 0);
    b.barrier();
    q.copy(
        b, 0, Kernel::rows, q_places, kernel.dim, head, [&](int) -> auto const& { return kernel.q; });
    copy(at, 0, 0);
    load();
    meet_columns(b, *this, at);
    store();
  }

  // ---- for meet_columns

  using cursor = flash_cursor;
  static constexpr bool meets = false;
  SP_DEVICE bool more(flash_cursor const& at) const { return at.more(item); }
  SP_DEVICE flash_cursor next(flash_cursor at) const {
    at.next(kernel.lists, item);
    return at;
  }
  SP_DEVICE void find(flash_cursor const& at, int slot) {
    flash_tile const& t = kernel.lists.column_tile(at.tile);
    flash_places const to = k_places(slot);
    for (int i = b.thread(); i < columns; i += b.threads()) to.set(i, place_of(kernel.lists.column_segments(t), t, i));
  }
  SP_DEVICE void copy(flash_cursor const&, int slot, int first) {
    k.copy(
        b, first, at_once, k_places(slot), kernel.dim, kv_head, [&](int n) -> auto const& { return kernel.keys[n].k; });
    v.copy(
        b, first, at_once, k_places(slot), kernel.value_dim, kv_head, [&](int n) -> auto const& { return kernel.keys[n].v; });
    b.copy_async_commit();
  }
  SP_DEVICE void compute(flash_cursor const& at, int slot, int first) {
    flash_range const range = kernel.lists.range(at.range);
    scores.clear();
    scores.add_rows_by_rows(b, q, first_row, k, first);
    softmax(range, k_places(slot).offset + first);
    sums.add_product(b, scores, v, first, 0);
  }
  SP_DEVICE void finish(flash_cursor const&, int) {}

private:
  /// Of two tiles of keys in turn. Computed, because what is indexed by a number that is not known when compiled cannot be in registers.
  SP_DEVICE flash_places k_places(int slot) const {
    return flash_places::at(b, Kernel::k_places_at + slot * flash_places::bytes(columns), columns);
  }
  SP_DEVICE flash_place place(int s, int eight) const { return q_places[first_row + 16 * s + 8 * eight + b.lane() / 4]; }
  SP_DEVICE int column(int n) const { return 8 * n + 2 * (b.lane() % 4); }

  /// The state so far is an online softmax with m = lse, l = 1, sums = out. One lane of each row has l.
  SP_DEVICE void load() {
    sums.clear();
    SP_UNROLL
    for (int s = 0; s < slabs; ++s) {
      SP_UNROLL
      for (int h = 0; h < 2; ++h) {
        flash_place const p = place(s, h);
        m[s][h] = maximum_so_far(p);
        bool const empty = is_minus_infinity(m[s][h]);
        l[s][h] = empty || b.lane() % 4 != 0 ? 0.0f : 1.0f;
        if (empty) continue;
        SP_UNROLL
        for (int n = 0; n < width / 8; ++n) {
          if (column(n) >= kernel.value_dim) continue;
          two_floats const x = *reinterpret_cast<two_floats const*>(kernel.out.at(p.row, head) + column(n));
          sums.x[s][n][2 * h] = x.of[0];
          sums.x[s][n][2 * h + 1] = x.of[1];
        }
      }
    }
  }
  SP_DEVICE float maximum_so_far(flash_place const& p) const {
    return p.tensor < 0 ? minus_infinity<float> : *kernel.lse.at(p.row, head) * log2_of_e;
  }

  /// Scores become probabilities, times dropout factors; the sums so far move on to the new maximum. `offset` is by column of them. Without
  /// features a score takes a maximum, a multiplication with an addition in one, an exponential and an addition.
  SP_DEVICE void softmax(flash_range const& range, int const* offset) {
    float const unit = kernel.features.unit();
    SP_UNROLL
    for (int s = 0; s < slabs; ++s) {
      SP_UNROLL
      for (int h = 0; h < 2; ++h) {
        int const row = place(s, h).offset;
        modify_row(s, h, row, offset);
        if (range.slices > 0)
          scores.hide(s, h, flash_visible<at_once / 8>(kernel.lists, range, row, offset, b.lane()), minus_infinity<float>);
        float const most = max_of(m[s][h], unit * largest(s, h));
        float const shift = is_minus_infinity(most) ? 0.0f : most;
        float const rescale = b.exp2(m[s][h] - shift);
        m[s][h] = most;
        l[s][h] = l[s][h] * rescale + exponentiate(s, h, unit, shift, row, offset);
        if (!b.any(rescale != 1)) continue; // most often, once a few tiles are through
        SP_UNROLL
        for (int n = 0; n < width / 8; ++n) {
          sums.x[s][n][2 * h] *= rescale;
          sums.x[s][n][2 * h + 1] *= rescale;
        }
      }
    }
  }
  /// The numbers of the features, read when they are needed: a slope that is kept pushes others out of the registers. What dropout draws
  /// from takes long to compute, and is kept.
  SP_DEVICE decltype(auto) modifier() const {
    if constexpr (mod::drops)
      return (modify);
    else
      return kernel.features.of(kernel.heads.q_head(head), kernel.lists.row_tile(item.tile));
  }
  SP_DEVICE void modify_row(int s, int h, int row, int const* offset) {
    if (kernel.features.products_are_scores()) return;
    mod const& here = modifier();
    float unused = 1;
    SP_UNROLL
    for (int n = 0; n < at_once / 8; ++n) {
      SP_UNROLL
      for (int c = 0; c < 2; ++c) {
        float& x = scores.x[s][n][2 * h + c];
        x = kernel.features.score(here, x, row, mod::biased ? offset[column(n) + c] : 0, unused);
      }
    }
  }
  SP_DEVICE float largest(int s, int h) {
    float most = minus_infinity<float>;
    SP_UNROLL
    for (int n = 0; n < at_once / 8; ++n) most = max_of(most, max_of(scores.x[s][n][2 * h], scores.x[s][n][2 * h + 1]));
    return largest_of_row(b, most);
  }
  SP_DEVICE float exponentiate(int s, int h, float unit, float shift, int row, int const* offset) {
    mod const here = modify; // apart from the sums, which are to stay in registers
    auto factor = here.dropout_of_row(row);
    float sum = 0;
    SP_UNROLL
    for (int n = 0; n < at_once / 8; ++n) {
      SP_UNROLL
      for (int c = 0; c < 2; ++c) {
        float& x = scores.x[s][n][2 * h + c];
        x = b.exp2(x * unit - shift);
        sum += x;
        if constexpr (mod::drops) x *= factor(offset[column(n) + c]);
      }
    }
    return sum;
  }

  SP_DEVICE void store() {
    SP_UNROLL
    for (int s = 0; s < slabs; ++s) {
      SP_UNROLL
      for (int h = 0; h < 2; ++h) {
        flash_place const p = place(s, h);
        float const sum = sum_of_row(b, l[s][h]), before = maximum_so_far(p);
        bool const saw_nothing = m[s][h] == before && sum == (is_minus_infinity(before) ? 0.0f : 1.0f);
        b.warp_barrier(); // all lanes of the row have read lse
        if (p.tensor < 0 || saw_nothing) continue;
        if (b.lane() % 4 == 0) *kernel.lse.at(p.row, head) = (m[s][h] + b.log2(sum)) * ln_of_2;
        float const inverse = 1 / sum;
        SP_UNROLL
        for (int n = 0; n < width / 8; ++n) // + 0: no -0, visited or not
          if (column(n) < kernel.value_dim)
            *reinterpret_cast<two_floats*>(kernel.out.at(p.row, head) + column(n)) = {sums.x[s][n][2 * h] * inverse + 0.0f,
                                                                                      sums.x[s][n][2 * h + 1] * inverse + 0.0f};
      }
    }
  }
};

template <class T, int D, flash_shape Shape, class... Features>
template <class Block>
SP_DEVICE void flash_forward<T, D, Shape, Features...>::operator()(Block& b) const {
  share_units(b, lists.head().items * heads.q_count, [&](index_t unit) {
    flash_item const& item = lists.item(int(unit / heads.q_count));
    flash_forward_block<Block, flash_forward>(b, *this, item, int(unit % heads.q_count)).run();
  });
}

} // namespace sp::detail
