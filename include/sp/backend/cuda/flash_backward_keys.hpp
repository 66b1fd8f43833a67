// The pass of cuda_flash for dk and dv: a block has a tile of keys of one kv head and meets the queries of all heads that share it.
// dk and dv sum heads, then queries in order: the same bits whenever it runs. With dq it adds to that as blocks come, in any order.
#pragma once

#include <sp/backend/cuda/flash_backward.hpp>

namespace sp::detail {

/// What features have by q head. Two philox calls make the site, so it is found once for a head.
struct flash_head_numbers {
  float slope;
  random_site site;
};

template <class T, int D, bool WithQueries, flash_shape Shape, class... Features>
struct flash_backward_keys : flash_gradients<T, Features...> {
  static constexpr bool with_queries = WithQueries;
  static constexpr int rows = Shape.keys, columns = Shape.backward_rows, width = D;
  static constexpr int parts = D <= 128 ? 1 : 2, part_width = D / parts; ///< columns of dk and dv that a block has
  static constexpr int warps = rows / 16, threads = 32 * warps;
  static constexpr int blocks_per_processor = D <= 128 ? 2 : 1;
  static_assert(rows % 16 == 0 && columns % 16 == 0 && part_width % 16 == 0);

  // shared memory: keys, values, queries, dout, gradients of scores, places of keys and of two tiles of queries, lse and delta of these,
  // numbers of two heads
  using matrix = flash_matrix<T, D>;
  using square = flash_matrix<T, columns>;
  static constexpr index_t v_at = matrix::bytes(rows), q_at = 2 * v_at, dout_at = q_at + matrix::bytes(columns);
  static constexpr index_t grads_at = dout_at + matrix::bytes(columns);
  static constexpr index_t k_places_at = grads_at + (with_queries ? square::bytes(rows) : 0);
  static constexpr index_t q_places_at = k_places_at + flash_places::bytes(rows);
  static constexpr index_t lse_at = q_places_at + 2 * flash_places::bytes(columns);
  static constexpr index_t heads_at = lse_at + index_t{16} * columns; // two of each, 4 bytes a column
  using mod = typename flash_features<Features...>::mod;
  static constexpr bool by_head = mod::biased || mod::drops;
  static constexpr index_t shared_bytes = heads_at + (by_head ? 2 * index_t(sizeof(flash_head_numbers)) : 0);

  template <class Block>
  SP_DEVICE void operator()(Block& b) const;
};

/// One block of it, as a thread has it.
template <class Block, class Kernel>
struct flash_keys_block {
  using element = typename Kernel::element;
  using matrix = typename Kernel::matrix;
  using square = typename Kernel::square;
  using mod = typename Kernel::features_type::mod;
  static constexpr int rows = Kernel::rows, columns = Kernel::columns, part_width = Kernel::part_width,
                       at_once = flash_at_once(columns);

  Block& b;
  Kernel const& kernel;
  flash_item item;
  int kv_head, column; ///< from which column of dk, dv and dq on
  int last_head = 0;   ///< one behind the q heads that share the kv head
  matrix k, v, q, dout;
  square grads_of_all;
  flash_places k_places;
  flash_tile_of_sums<1, at_once / 8> scores, grads;
  flash_tile_of_sums<1, part_width / 8> dk, dv;

  SP_DEVICE flash_keys_block(Block& block, Kernel const& of, flash_item const& work, int head, int part)
      : b(block), kernel(of), item(work), kv_head(head),
        column(part * part_width), k{shared(0)}, v{shared(Kernel::v_at)}, q{shared(Kernel::q_at)}, dout{shared(Kernel::dout_at)},
        grads_of_all{shared(Kernel::grads_at)}, k_places(flash_places::at(b, Kernel::k_places_at, rows)) {}

  /// For one q head after the other, its tiles of queries in order.
  SP_DEVICE void run() {
    sp::heads const& h = kernel.heads;
    last_head = int(min((h.kv_begin + kv_head + 1) * h.q_per_kv - h.q_begin, h.q_count));
    cursor const first{flash_cursor(kernel.lists, item), int(max((h.kv_begin + kv_head) * h.q_per_kv - h.q_begin, 0))};
    if (!more(first)) return;
    begin(first);
    meet_columns(b, *this, first);
    store();
  }

  // ---- for meet_columns

  struct cursor {
    flash_cursor tiles;
    int head;
  };
  static constexpr bool meets = Kernel::with_queries; // warps read the gradients of scores of others
  SP_DEVICE bool more(cursor const& at) const { return at.head < last_head; }
  SP_DEVICE cursor next(cursor at) const {
    at.tiles.next(kernel.lists, item);
    return at.tiles.more(item) ? at : cursor{flash_cursor(kernel.lists, item), at.head + 1};
  }
  SP_DEVICE void find(cursor const& of, int slot) {
    flash_tile const& t = kernel.lists.column_tile(of.tiles.tile);
    flash_places const to = q_places(slot);
    float* const numbers = lse(slot);
    for (int i = b.thread(); i < columns; i += b.threads()) {
      flash_place const p = place_of(kernel.lists.column_segments(t), t, i);
      to.set(i, p);
      float const natural = p.tensor < 0 ? minus_infinity<float> : *kernel.queries[p.tensor].lse.at(p.row, of.head);
      numbers[i] = flash_lse(natural);
      numbers[columns + i] = is_minus_infinity(natural) ? 0.0f : *kernel.queries[p.tensor].delta.at(p.row, of.head);
    }
    if constexpr (Kernel::by_head) find_head(of);
  }
  SP_DEVICE void copy(cursor const& of, int slot, int first) {
    q.copy(
        b, first, at_once, q_places(slot), kernel.dim, of.head, [&](int n) -> auto const& { return kernel.queries[n].q; });
    dout.copy(
        b, first, at_once, q_places(slot), kernel.value_dim,
        of.head, [&](int n) -> auto const& { return kernel.queries[n].dout; });
    b.copy_async_commit();
  }
  SP_DEVICE void compute(cursor const& of, int slot, int first) {
    products(kernel.lists.range(of.tiles.range), of.head, slot, first);
  }
  SP_DEVICE void finish(cursor const& of, int slot) {
    if constexpr (Kernel::with_queries) add_dq(of.head, slot);
  }

private:
  SP_DEVICE element* shared(index_t byte) const { return b.template shared<element>(byte); }
  SP_DEVICE flash_places q_places(int slot) const {
    return flash_places::at(b, Kernel::q_places_at + slot * flash_places::bytes(columns), columns);
  }
  /// lse of a tile of queries, and delta behind it.
  SP_DEVICE float* lse(int slot) const { return b.template shared<float>(Kernel::lse_at + 8 * slot * columns); }

  /// Of two heads in turn: the next is found while warps compute on the one before.
  SP_DEVICE flash_head_numbers* numbers_of(int head) const {
    return b.template shared<flash_head_numbers>(Kernel::heads_at) + head % 2;
  }
  /// With the first tile of a head, by a thread that has no row of it in most shapes.
  SP_DEVICE void find_head(cursor const& of) {
    if (b.thread() != b.threads() - 1 || of.tiles.range != item.first_range) return;
    if (of.tiles.tile != kernel.lists.range(item.first_range).first) return;
    mod const m = kernel.features.of(kernel.heads.q_head(of.head), kernel.lists.row_tile(item.tile));
    *numbers_of(of.head) = {m.slope, m.site};
  }
  SP_DEVICE mod modifier(int head) const {
    mod m = kernel.features.numbers;
    if constexpr (mod::biased) m.slope = numbers_of(head)->slope;
    if constexpr (mod::drops) m.site = numbers_of(head)->site;
    return m;
  }

  SP_DEVICE void begin(cursor const& first) {
    flash_tile const& t = kernel.lists.row_tile(item.tile);
    for (int i = b.thread(); i < rows; i += b.threads()) k_places.set(i, place_of(kernel.lists.row_segments(t), t, i));
    find(first, 0);
    b.barrier();
    k.copy(
        b, 0, rows, k_places, kernel.dim, kv_head, [&](int n) -> auto const& { return kernel.keys[n].k; });
    v.copy(
        b, 0, rows, k_places, kernel.value_dim, kv_head, [&](int n) -> auto const& { return kernel.keys[n].v; });
    copy(first, 0, 0);
    dk.clear();
    dv.clear();
  }

  /// Queries [query, query + at_once) of a tile: adds to dv and dk. Scores have keys as rows, so that they are at hand as first factors.
  SP_DEVICE void products(flash_range const& range, int head, int slot, int query) {
    scores.clear();
    scores.add_rows_by_rows(b, k, 16 * b.warp(), q, query);
    grads.clear();
    grads.add_rows_by_rows(b, v, 16 * b.warp(), dout, query);
    score_gradients(range, head, q_places(slot).offset + query, lse(slot) + query);
    dv.add_product(b, scores, dout, query, column);
    dk.add_product(b, grads, q, query, column);
    if constexpr (Kernel::with_queries) {
      SP_UNROLL
      for (int n = 0; n < at_once / 8; ++n) {
        SP_UNROLL
        for (int eight = 0; eight < 2; ++eight) {
          element* const to = grads_of_all.piece(16 * b.warp() + 8 * eight + b.lane() / 4, query / 8 + n) + 2 * (b.lane() % 4);
          *reinterpret_cast<unsigned*>(to) = packed<element>(grads.x[0][n][2 * eight], grads.x[0][n][2 * eight + 1]);
        }
      }
    }
  }
  /// Offsets and numbers (lse, and delta behind them) are by column of the scores.
  SP_DEVICE void score_gradients(flash_range const& range, int head, int const* offset, float const* numbers) {
    mod const modify = modifier(head);
    SP_UNROLL
    for (int n = 0; n < at_once / 8; ++n) {
      SP_UNROLL
      for (int c = 0; c < 2; ++c) {
        int const i = 8 * n + 2 * (b.lane() % 4) + c, query = mod::biased || mod::drops ? offset[i] : 0;
        float const of_query = numbers[i], delta = numbers[columns + i];
        auto factor = modify.dropout_of_row(query);
        SP_UNROLL
        for (int eight = 0; eight < 2; ++eight) {
          int const key = mod::biased || mod::drops ? row(eight) : 0;
          float keep = 1;
          if constexpr (mod::drops) keep = factor(key);
          probability_and_gradient(b, kernel.features, modify, scores.x[0][n][2 * eight + c], grads.x[0][n][2 * eight + c], query,
                                   key, of_query, delta, keep);
        }
      }
    }
    if (range.slices == 0) return;
    SP_UNROLL
    for (int eight = 0; eight < 2; ++eight) {
      unsigned const visible = flash_visible<at_once / 8>(kernel.lists, range, row(eight), offset, b.lane());
      scores.hide(0, eight, visible, 0.0f);
      grads.hide(0, eight, visible, 0.0f);
    }
  }
  /// The offset of a key of this thread.
  SP_DEVICE int row(int eight) const { return k_places.offset[16 * b.warp() + 8 * eight + b.lane() / 4]; }

  /// dq of the tile of queries: gradients of scores times keys, 64 columns at a time.
  SP_DEVICE void add_dq(int head, int slot) {
    constexpr int chunk = part_width < 64 ? part_width : 64;
    SP_ROLLED
    for (int first = 16 * b.warp(); first < columns; first += 16 * Kernel::warps) {
      SP_ROLLED
      for (int at_column = column; at_column < column + part_width; at_column += chunk) {
        flash_tile_of_sums<1, chunk / 8> sums;
        sums.clear();
        SP_UNROLL
        for (int key = 0; key < rows; key += 16) {
          unsigned a[4];
          grads_of_all.load_columns(b, a, key, first);
          SP_UNROLL
          for (int n = 0; n < chunk / 8; n += 2) {
            unsigned two[2][2];
            k.load_factor_of_columns(b, two, key, at_column + 8 * n);
            b.template multiply_add<element>(sums.x[0][n], a, two[0]);
            b.template multiply_add<element>(sums.x[0][n + 1], a, two[1]);
          }
        }
        add_atomically(sums, first, at_column, head, slot);
      }
    }
  }
  template <class Sums>
  SP_DEVICE void add_atomically(Sums const& sums, int first, int at_column, int head, int slot) {
    SP_UNROLL
    for (int eight = 0; eight < 2; ++eight) {
      flash_place const p = q_places(slot)[first + 8 * eight + b.lane() / 4];
      if (p.tensor < 0 || !kernel.queries[p.tensor].dq.data) continue;
      float* const to = kernel.queries[p.tensor].dq.at(p.row, head);
      SP_UNROLL
      for (int n = 0; n < Sums::eights; ++n) {
        int const i = at_column + 8 * n + 2 * (b.lane() % 4);
        if (i >= kernel.dim) continue;
        b.add_to(reinterpret_cast<two_floats*>(to + i),
                 {kernel.features.scale * sums.x[0][n][2 * eight], kernel.features.scale * sums.x[0][n][2 * eight + 1]});
      }
    }
  }

  SP_DEVICE void store() {
    SP_UNROLL
    for (int eight = 0; eight < 2; ++eight) {
      flash_place const p = k_places[16 * b.warp() + 8 * eight + b.lane() / 4];
      if (p.tensor < 0) continue;
      flash_key_grad<element> const& to = kernel.keys[p.tensor];
      if (to.dk.data) add_row(dk, eight, b.lane(), kernel.features.scale, to.dk.at(p.row, kv_head), column, kernel.dim);
      if (to.dv.data) add_row(dv, eight, b.lane(), 1.0f, to.dv.at(p.row, kv_head), column, kernel.value_dim);
    }
  }
};

template <class T, int D, bool WithQueries, flash_shape Shape, class... Features>
template <class Block>
SP_DEVICE void flash_backward_keys<T, D, WithQueries, Shape, Features...>::operator()(Block& b) const {
  index_t const of_item = this->heads.kv_count * parts;
  share_units(b, this->lists.head().items * of_item, [&](index_t unit) {
    flash_item const& item = this->lists.item(int(unit / of_item));
    int const head = int(unit % of_item) / parts, part = int(unit % parts);
    flash_keys_block<Block, flash_backward_keys>(b, *this, item, head, part).run();
  });
}

} // namespace sp::detail
