// What a causal convolution does with elements, as bodies of a queue: outputs, gradients of rows, and shares of gradients of weights.
// Tiles of channels and rows: of every row of a tile the same sums in the same order, whichever tensor holds the rows it reads.
#pragma once

#include <sp/core/queue.hpp>
#include <sp/core/view.hpp>
#include <sp/linear/sigmoid.hpp>

namespace sp::detail {

/// How much one call of a body does. On the host what it works on stays in the nearest cache, on a device in registers.
template <bool Host>
struct conv1d_sizes {
  static constexpr index_t channels = Host ? 256 : 4, rows = Host ? 16 : 8; ///< of a tile
  static constexpr index_t ahead = 8;                                       ///< rows
  static constexpr index_t span = Host ? 256 : 64; ///< rows whose gradients of weights are added up first
  static constexpr int registers = Host ? 32 : 4;  ///< channels whose sums are in registers
  static constexpr index_t taps = 8; ///< whose weights are at hand; those of wider filters are read again for every row
};

/// Entries of one row that a tap reads, `step` apart; null: zeros.
template <class T>
struct conv1d_entries {
  T const* at = nullptr;
  index_t step = 1;
};

/// sum(c) += factor(c) x(c).
template <class A, class T>
SP_BOTH void add_products(A* __restrict__ sum, A const* __restrict__ factor, conv1d_entries<T> x, index_t n) {
  T const* __restrict__ const at = x.at;
  if (x.step == 1)
    for (index_t c = 0; c < n; ++c) sum[c] += factor[c] * static_cast<A>(to_acc(at[c]));
  else
    for (index_t c = 0; c < n; ++c) sum[c] += factor[c] * static_cast<A>(to_acc(at[c * x.step]));
}

/// to(c) = x(c), and the other way round, rounded once.
template <class A, class T>
SP_BOTH void read_entries(A* __restrict__ to, conv1d_entries<T> x, index_t n) {
  T const* __restrict__ const at = x.at;
  if (x.step == 1)
    for (index_t c = 0; c < n; ++c) to[c] = to_acc(at[c]);
  else
    for (index_t c = 0; c < n; ++c) to[c] = to_acc(at[c * x.step]);
}
template <class A, class T>
SP_BOTH void write_entries(T* __restrict__ to, index_t step, A const* __restrict__ from, index_t n) {
  if (step == 1)
    for (index_t c = 0; c < n; ++c) to[c] = from_acc<T>(from[c]);
  else
    for (index_t c = 0; c < n; ++c) to[c * step] = from_acc<T>(from[c]);
}

/// sum(c) += factor(c) x(c) for four factors and rows, in this order, whose entries follow each other: sums are loaded and stored once.
template <class A, class T>
SP_BOTH void add_four_products(A* __restrict__ sum, A const* const* factors, T const* const* x, index_t n) {
  A const *const f0 = factors[0], *const f1 = factors[1], *const f2 = factors[2], *const f3 = factors[3];
  T const *const x0 = x[0], *const x1 = x[1], *const x2 = x[2], *const x3 = x[3];
  for (index_t c = 0; c < n; ++c) {
    A s = sum[c];
    s += f0[c] * static_cast<A>(to_acc(x0[c]));
    s += f1[c] * static_cast<A>(to_acc(x1[c]));
    s += f2[c] * static_cast<A>(to_acc(x2[c]));
    s += f3[c] * static_cast<A>(to_acc(x3[c]));
    sum[c] = s;
  }
}

/// A row that will be asked for soon: the cache of a host is told, whose own guesses end with a page, and rows are far apart.
template <class T>
SP_BOTH void expect([[maybe_unused]] T const* at, [[maybe_unused]] index_t n) {
#ifndef __CUDA_ARCH__
  for (index_t c = 0; c < n; c += 64 / index_t(sizeof(T))) __builtin_prefetch(at + c);
#endif
}

/// The tensors of a call as bodies read them. Rows are numbered as in conv1d_rows: own ones, the halo, states.
template <class T, class M>
struct conv1d_tensors {
  view<T const, 3, M> x, halo, states; // (rows, heads, dim), (halo, heads, dim), (documents x (width - 1), heads, dim) or null
  view<T const, 2, M> weights;         // (heads x dim, width)
  view<T const, 1, M> bias;            // (heads x dim) or null
  view<index_t const, 1, M> sources, users; // (rows x width), (all rows x width)
  index_t width = 1;
  bool silu = false;

  [[nodiscard]] SP_BOTH index_t source(index_t row, index_t tap) const { return sources(row * width + tap); }
  [[nodiscard]] SP_BOTH bool slack(index_t row) const { return source(row, width - 1) < 0; }
  /// Entries of a row from channel c of a head on.
  [[nodiscard]] SP_BOTH conv1d_entries<T> entries(index_t row, index_t head, index_t c) const {
    if (row < 0) return {};
    if (row < x.extent(0)) return {&x(row, head, c), x.stride(2)};
    row -= x.extent(0);
    if (row < halo.extent(0)) return {&halo(row, head, c), halo.stride(2)};
    if (!states.data) return {};
    return {&states(row - halo.extent(0), head, c), states.stride(2)};
  }
};

/// Products that are added to one sum, in the order in which they are given, four of them at once.
template <class A, class T>
class conv1d_products {
public:
  SP_BOTH conv1d_products(A* sum, index_t n) : sum_(sum), n_(n) {}
  /// factor is there, as it is, until flush().
  SP_BOTH void add(A const* factor, conv1d_entries<T> x) {
    if (!x.at) return;
    if (x.step != 1) return add_now(factor, x);
    factors_[count_] = factor, x_[count_] = x.at;
    if (++count_ < 4) return;
    add_four_products(sum_, factors_, x_, n_);
    count_ = 0;
  }
  /// factor may be another one afterwards.
  SP_BOTH void add_now(A const* factor, conv1d_entries<T> x) {
    flush();
    if (x.at) add_products(sum_, factor, x, n_);
  }
  SP_BOTH void flush() {
    for (int i = 0; i < count_; ++i) add_products(sum_, factors_[i], conv1d_entries<T>{x_[i]}, n_);
    count_ = 0;
  }

private:
  A* sum_;
  index_t n_;
  int count_ = 0;
  A const* factors_[4];
  T const* x_[4];
};

/// Some neighbouring channels of one head in a body: their weights, and what is computed of one row.
template <class T, class M, class Sizes>
struct conv1d_tile {
  using A = accumulate_t<T>;
  conv1d_tensors<T, M> const& t;
  index_t head, first, n; ///< channels [first, first + n) of the head
  A taps[std::size_t(Sizes::taps + 1)][std::size_t(Sizes::channels)];

  SP_BOTH conv1d_tile(conv1d_tensors<T, M> const& of, index_t h, index_t tile)
      : t(of), head(h), first(tile * Sizes::channels), n(min(Sizes::channels, of.x.extent(2) - first)) {
    for (index_t j = 0; j < min(Sizes::taps, t.width); ++j) load(j, taps[j]);
  }
  /// Of all channels.
  [[nodiscard]] SP_BOTH index_t channel() const { return head * t.x.extent(2) + first; }
  [[nodiscard]] SP_BOTH conv1d_entries<T> entries(index_t row) const { return t.entries(row, head, first); }
  /// The weights of a tap, valid until those of another one are asked for.
  SP_BOTH A const* tap(index_t j) {
    if (j < Sizes::taps) return taps[j];
    load(j, taps[Sizes::taps]);
    return taps[Sizes::taps];
  }
  /// sum = what the activation is given in a row that is no slack.
  SP_BOTH void before_activation(index_t row, A* sum) {
    for (index_t c = 0; c < n; ++c) sum[c] = t.bias.data ? to_acc(t.bias(channel() + c)) : A{};
    conv1d_products<A, T> products(sum, n);
    for (index_t j = 0; j < t.width; ++j) {
      auto const x = entries(t.source(row, j));
      j < Sizes::taps ? products.add(taps[j], x) : products.add_now(tap(j), x);
    }
    products.flush();
  }
  SP_BOTH void output(index_t row, A* sum) {
    before_activation(row, sum);
    if (t.silu)
      for (index_t c = 0; c < n; ++c) sum[c] = detail::silu(sum[c]);
  }
  /// g = the gradient of what the activation is given; 0 in slack.
  SP_BOTH void gradient(view<T const, 3, M> const& dout, index_t row, A* g) {
    if (t.slack(row)) {
      for (index_t c = 0; c < n; ++c) g[c] = A{};
      return;
    }
    conv1d_entries<T> const upstream{&dout(row, head, first), dout.stride(2)};
    if (!t.silu) return read_entries(g, upstream, n);
    A factor[std::size_t(Sizes::channels)];
    before_activation(row, factor);
    for (index_t c = 0; c < n; ++c) factor[c] = silu_derivative(factor[c]);
    for (index_t c = 0; c < n; ++c) g[c] = A{};
    add_products(g, factor, upstream, n);
  }

private:
  SP_BOTH void load(index_t j, A* to) const {
    for (index_t c = 0; c < n; ++c) to[c] = to_acc(t.weights(channel() + c, j));
  }
};

/// Outputs of a tile; slack gets 0.
template <class T, class M, class Sizes>
struct conv1d_forward_body {
  using A = accumulate_t<T>;
  conv1d_tensors<T, M> t;
  view<T, 3, M> out; // (rows, heads, dim)

  SP_BOTH void operator()(index_t some_rows, index_t head, index_t channels) const {
    conv1d_tile<T, M, Sizes> tile(t, head, channels);
    A sum[std::size_t(Sizes::channels)];
    index_t const begin = some_rows * Sizes::rows, end = min(begin + Sizes::rows, out.extent(0));
    for (index_t row = begin; row < end; ++row) {
      if (index_t const later = row + Sizes::ahead; later < out.extent(0) && out.stride(2) == 1) {
        expect(&t.x(later, head, tile.first), tile.n);
        expect(&out(later, head, tile.first), tile.n);
      }
      if (t.slack(row))
        for (index_t c = 0; c < tile.n; ++c) sum[c] = A{};
      else
        tile.output(row, sum);
      write_entries(&out(row, head, tile.first), out.stride(2), sum, tile.n);
    }
  }
};

/// sum = the gradient of a row: over the taps of own rows that read it, in the order of these rows. near(row) are gradients that are at
/// hand, or null.
template <class Sizes, class Tile, class T, class M, class A, class Near>
SP_BOTH void add_users(Tile& tile, view<T const, 3, M> const& dout, index_t row, A* sum, Near const& near) {
  A far[std::size_t(Sizes::channels)];
  for (index_t c = 0; c < tile.n; ++c) sum[c] = A{};
  conv1d_products<A, A> products(sum, tile.n);
  index_t const width = tile.t.width;
  for (index_t k = 0; k < width; ++k) {
    index_t const user = tile.t.users(row * width + k), j = width - 1 - k;
    if (user < 0) continue;
    A const* const g = near(user);
    if (g && j < Sizes::taps) {
      products.add(tile.taps[j], {g});
    } else {
      if (!g) tile.gradient(dout, user, far);
      products.add_now(tile.tap(j), {g ? g : far});
    }
  }
  products.flush();
}

/// Gradients of rows of x for a tile, and what a span of rows adds to those of weights and bias. Gradients before the activation are made
/// on the way, those of a tile and of the rows behind it once for all taps.
template <class T, class M, class Sizes>
struct conv1d_backward_body {
  using A = accumulate_t<T>;
  using tile_type = conv1d_tile<T, M, Sizes>;
  conv1d_tensors<T, M> t;
  view<T const, 3, M> dout; // (rows, heads, dim)
  view<T, 3, M> dx;         // (rows, heads, dim)
  view<A, 3, M> shares;     // (spans, width + 1, heads x dim), the last one of the bias; or null
  bool bias = false;        ///< whether that one is asked for

  /// Gradients before the activation of rows [begin, begin + count).
  struct window {
    index_t begin = 0, count = 0;
    A of[std::size_t(Sizes::rows + Sizes::taps - 1)][std::size_t(Sizes::channels)];
  };

  SP_BOTH void operator()(index_t span, index_t head, index_t channels) const {
    tile_type tile(t, head, channels);
    window near;
    A sums[std::size_t(Sizes::taps + 1)][std::size_t(Sizes::channels)];
    index_t const begin = span * Sizes::span, end = min(begin + Sizes::span, dx.extent(0));
    for (index_t tap = 0; tap < (shares.data ? t.width : 1); tap += Sizes::taps) {
      for (auto& of_tap : sums)
        for (A& sum : of_tap) sum = A{};
      for (index_t row = begin; row < end; row += Sizes::rows) {
        index_t const last = min(row + Sizes::rows, end);
        fill(tile, near, row, last);
        if (tap == 0) rows(tile, near, row, last);
        if (shares.data) add_shares(tile, near, row, last, tap, sums);
      }
      if (shares.data) store(tile, span, tap, sums);
    }
  }

private:
  SP_BOTH void fill(tile_type& tile, window& near, index_t begin, index_t end) const {
    index_t const behind = min(end + min(t.width, Sizes::taps) - 1, dx.extent(0));
    near.begin = begin, near.count = behind - begin;
    for (index_t i = 0; i < near.count; ++i) {
      if (index_t const later = begin + i + Sizes::ahead; later < dx.extent(0) && dx.stride(2) == 1) {
        expect(&t.x(later, tile.head, tile.first), tile.n);
        expect(&dout(later, tile.head, tile.first), tile.n);
        expect(&dx(later, tile.head, tile.first), tile.n);
      }
      tile.gradient(dout, begin + i, near.of[i]);
    }
  }
  SP_BOTH void rows(tile_type& tile, window const& near, index_t begin, index_t end) const {
    A sum[std::size_t(Sizes::channels)];
    for (index_t row = begin; row < end; ++row) {
      add_users<Sizes>(tile, dout, row, sum, [&](index_t user) -> A const* {
        return user >= near.begin && user < near.begin + near.count ? near.of[user - near.begin] : nullptr;
      });
      write_entries(&dx(row, tile.head, tile.first), dx.stride(2), sum, tile.n);
    }
  }
  /// Taps [tap, tap + taps) and the bias.
  SP_BOTH void add_shares(tile_type& tile, window const& near, index_t begin, index_t end, index_t tap,
                          A (&sums)[std::size_t(Sizes::taps + 1)][std::size_t(Sizes::channels)]) const {
    for (index_t j = tap; j < min(t.width, tap + Sizes::taps); ++j) {
      conv1d_products<A, T> products(sums[j - tap], tile.n);
      for (index_t row = begin; row < end; ++row) products.add(near.of[row - begin], tile.entries(t.source(row, j)));
      products.flush();
    }
    if (!bias || tap > 0) return;
    for (index_t row = begin; row < end; ++row)
      for (index_t c = 0; c < tile.n; ++c) sums[Sizes::taps][c] += near.of[row - begin][c];
  }
  SP_BOTH void store(tile_type const& tile, index_t span, index_t tap,
                     A const (&sums)[std::size_t(Sizes::taps + 1)][std::size_t(Sizes::channels)]) const {
    for (index_t c = 0; c < tile.n; ++c) {
      index_t const channel = tile.channel() + c;
      for (index_t j = tap; j < min(t.width, tap + Sizes::taps); ++j) shares(span, j, channel) = sums[j - tap][c];
      if (tap == 0) shares(span, t.width, channel) = sums[Sizes::taps][c];
    }
  }
};

/// Gradients of rows that are not own ones, the halo or states. Those of states also get what final states give that hold them:
/// `dfinal`, where a document is shorter than the reach of a filter.
template <class T, class M, class Sizes>
struct conv1d_gradient_of_others_body {
  using A = accumulate_t<T>;
  conv1d_tensors<T, M> t;
  view<T const, 3, M> dout;            // (rows, heads, dim)
  index_t first;                       ///< the number of row 0 of `to`
  view<A, 3, M> to;                    // (halo or states, heads, dim)
  view<A const, 3, M> dfinal{};        // (states, heads, dim) or null
  view<index_t const, 1, M> lengths{}; // (documents)

  SP_BOTH void operator()(index_t i, index_t head, index_t channels) const {
    conv1d_tile<T, M, Sizes> tile(t, head, channels);
    A sum[std::size_t(Sizes::channels)];
    add_users<Sizes>(tile, dout, first + i, sum, [](index_t) -> A const* { return nullptr; });
    index_t later = -1; // the row of the final state that holds this row of the initial one
    if (dfinal.data) {
      index_t const reach = t.width - 1, length = lengths(i / reach);
      if (length <= i % reach) later = i - length;
    }
    for (index_t c = 0; c < tile.n; ++c)
      to(i, head, tile.first + c) = later < 0 ? sum[c] : sum[c] + dfinal(later, head, tile.first + c);
  }
};

/// Rows of the final state that documents are too short for: rows of the initial one, or zeros.
template <class T, class M>
struct conv1d_short_state_body {
  view<T const, 3, M> initial; // (states, heads, dim) or null
  view<T, 3, M> final;         // (states, heads, dim)
  view<index_t const, 1, M> lengths;
  index_t reach;

  SP_BOTH void operator()(index_t i, index_t head, index_t c) const {
    index_t const length = lengths(i / reach);
    if (i % reach + length < reach) final(i, head, c) = initial.data ? initial(i + length, head, c) : T{};
  }
};

/// Shares of all spans, added up in their order: entry i is of tap i / channels, or of the bias.
template <class A, class M>
struct conv1d_share_term {
  view<A const, 3, M> shares; // (spans, width + 1, channels)
  SP_BOTH A operator()(index_t i, index_t span) const { return shares(span, i / shares.extent(2), i % shares.extent(2)); }
};
template <class A, class M>
struct conv1d_share_store {
  view<A, 2, M> dweights; // (channels, width) or null
  view<A, 1, M> dbias;    // (channels) or null
  index_t channels, width;
  SP_BOTH void operator()(index_t i, A const& sum) const {
    index_t const tap = i / channels, channel = i % channels;
    if (tap < width && dweights.data) dweights(channel, tap) = sum;
    if (tap == width && dbias.data) dbias(channel) = sum;
  }
};

} // namespace sp::detail
