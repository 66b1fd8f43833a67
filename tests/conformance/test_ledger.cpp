// Bytes: what the counting decorator sees equals sums over tokens and heads that are enumerated here, one by one,
// apart from the code that sends; for even cuts they are the closed forms of docs/performance.md.
#include <doctest/doctest.h>

#include <sp/collective/decorators/counting.hpp>

#include "simple.hpp"

namespace conformance::test_ledger {
namespace {

/// Owner of token i of n under a sharding over P ranks, from the formulas.
int owner_of(int kind, index_t i, index_t n, index_t P) {
  if (kind == 2) return int(i % P);
  index_t chunks = kind == 1 ? 2 * P : P, c = 0;
  while (!(c * n / chunks <= i && i < (c + 1) * n / chunks)) ++c;
  return int(c < P ? c : 2 * P - 1 - c);
}

/// Rows of each rank: every token of every document is looked up. With a ulysses degree, a ring rank's tokens of a document are
/// cut again into contiguous pieces.
std::vector<index_t> rows_of(std::vector<index_t> const& lengths, int kind, index_t ring, index_t ulysses) {
  std::vector<index_t> rows(std::size_t(ring * ulysses));
  for (index_t n : lengths) {
    std::vector<index_t> held(std::size_t(ring), 0), seen(std::size_t(ring), 0);
    for (index_t i = 0; i < n; ++i) ++held[std::size_t(owner_of(kind, i, n, ring))];
    for (index_t i = 0; i < n; ++i) {
      auto r = std::size_t(owner_of(kind, i, n, ring));
      ++rows[r * std::size_t(ulysses) + std::size_t(owner_of(0, seen[r]++, held[r], ulysses))];
    }
  }
  return rows;
}

struct share {
  index_t q = 0, kv = 0;
};
std::vector<share> heads_of(sp::attention_shape const& s, index_t P) {
  std::vector<share> out;
  for (index_t r = 0; r < P; ++r) {
    std::set<index_t> kv;
    index_t q = 0;
    for (index_t h = 0; h < s.q_heads; ++h)
      if (r * s.q_heads / P <= h && h < (r + 1) * s.q_heads / P) ++q, kv.insert(h / (s.q_heads / s.kv_heads));
    out.push_back({q, index_t(kv.size())});
  }
  return out;
}

struct tally {
  index_t bytes = 0, messages = 0;
  void send(index_t n) { bytes += n, messages += n > 0; }
};

/// What one rank of a ulysses group sends: rows and heads by member.
struct ulysses_bytes {
  tally inputs, output, dout, gradients;
  ulysses_bytes(std::vector<index_t> const& rows, std::vector<share> const& heads, sp::attention_shape const& s, std::size_t r,
                index_t e, bool again) {
    index_t copies = 0;
    for (share const& h : heads) copies += h.kv;
    index_t kv_e =
        copies > s.kv_heads ? std::max<index_t>(e, sizeof(float)) : e; // shared kv heads: shares travel in the type of sums
    for (std::size_t p = 0; p < rows.size(); ++p) {
      if (p == r) continue;
      index_t qkv = heads[p].q * s.dim + heads[p].kv * (s.dim + s.value_dim);
      inputs.send(rows[r] * qkv * e);
      output.send(rows[p] * heads[r].q * s.value_dim * e);
      dout.send(rows[r] * (heads[p].q * s.value_dim + (again ? qkv : 0)) * e);
      gradients.send(rows[p] * (heads[r].q * s.dim * e + heads[r].kv * (s.dim + s.value_dim) * kv_e));
    }
  }
};

/// Rows of `owner` that some query of `reader` sees under a causal mask, token by token.
index_t rows_seen(std::vector<index_t> const& lengths, int kind, index_t ranks, index_t reader, index_t owner) {
  index_t rows = 0;
  for (index_t n : lengths) {
    index_t last = -1; // query of the reader
    for (index_t i = 0; i < n; ++i)
      if (owner_of(kind, i, n, ranks) == reader) last = i;
    for (index_t j = 0; j <= last; ++j) rows += owner_of(kind, j, n, ranks) == owner;
  }
  return rows;
}

/// Query rows of `asker` that see some key of `owner` under a causal mask, token by token.
index_t rows_seeing(std::vector<index_t> const& lengths, int kind, index_t ranks, index_t asker, index_t owner) {
  index_t rows = 0;
  for (index_t n : lengths) {
    index_t first = n; // key of the owner
    for (index_t j = n - 1; j >= 0; --j)
      if (owner_of(kind, j, n, ranks) == owner) first = j;
    for (index_t i = first; i < n; ++i) rows += owner_of(kind, i, n, ranks) == asker;
  }
  return rows;
}

/// What one rank of a ring sends when queries travel. seeing(asker, owner): how many rows.
struct pass_q_bytes {
  tally queries, partials, queries_again, gradients;
  template <class Seeing>
  pass_q_bytes(std::size_t P, Seeing const& seeing, sp::attention_shape const& s, std::size_t r, index_t e, index_t acc_e) {
    for (std::size_t p = 0; p < P; ++p) {
      if (p == r) continue;
      index_t const out = seeing(r, p) * s.q_heads, home = seeing(p, r) * s.q_heads;
      queries.send(out * s.dim * e), partials.send(home * (s.value_dim + 1) * acc_e);
      queries_again.send(out * ((s.dim + 2 * s.value_dim) * e + 2 * acc_e)), gradients.send(home * s.dim * acc_e);
    }
  }
};

/// What one rank of a ring sends: rows by member, kv heads of the call. seen(reader, owner): how many rows.
struct ring_bytes {
  tally keys, gradients, cast, returned;
  template <class Seen>
  ring_bytes(std::vector<index_t> const& rows, Seen const& seen, index_t kv_heads, sp::attention_shape const& s, std::size_t r,
             index_t e, index_t acc_e) {
    std::size_t P = rows.size();
    index_t width = kv_heads * (s.dim + s.value_dim);
    for (std::size_t step = 0; step + 1 < P; ++step)
      keys.send(rows[(r + P - step) % P] * width * e); // my own, then what I received
    for (std::size_t step = 1; step < P; ++step) gradients.send(rows[(r + P - step) % P] * width * acc_e); // of everybody but me
    for (std::size_t p = 0; p < P; ++p)
      if (p != r) cast.send(seen(p, r) * width * e), returned.send(seen(r, p) * width * acc_e);
  }
};

void check(sp::ledger const& l, char const* primitive, tally const& want) {
  INFO(std::string(primitive));
  CHECK(l.of(primitive).bytes_sent == want.bytes);
  CHECK(l.of(primitive).messages == want.messages);
}

struct scene {
  std::vector<index_t> lengths;
  int kind;
  sp::attention_shape shape;
  sp::documents docs() const {
    std::vector<index_t> cu{0};
    for (index_t n : lengths) cu.push_back(cu.back() + n);
    return sp::packed(std::span<index_t const>(cu));
  }
  any_sharding sharding() const { return {kind, sp::scope::document}; }
};

/// A kernel that computes nothing.
struct idle {
  using memory_type = sp::host_memory;
  struct plan {};
  using saved = sp::nothing;
  plan prepare(sp::problem const&) const { return {}; }
  template <class T>
  saved forward(plan const&, sp::allocator&, sp::call_params const&, sp::view<T const, 3>, std::span<sp::kv_views<T> const>,
                sp::attention_state<T>) const {
    return {};
  }
  template <class T>
  void backward(plan const&, sp::allocator&, sp::call_params const&, std::span<sp::query_grad<T> const>,
                std::span<sp::key_grad<T> const>, saved const&) const {}
};

template <class T, class Make>
std::vector<sp::ledger> step_ledgers(int ranks, scene const& s, any_sharding how, Make make) {
  std::vector<sp::ledger> ledgers{std::size_t(ranks)};
  sp::threads::run(
      ranks,
      [&](sp::threads const& comm) {
        sp::batch b(s.docs(), how, comm);
        attention_tensors<T> x(b, s.shape);
        sp::pool memory;
        auto attn = make(sp::counting(comm, ledgers[std::size_t(comm.rank())]));
        x.both(attn, attn.prepare(b), {memory, memory});
      },
      impatient());
  return ledgers;
}

std::vector<scene> scenes() {
  std::vector<scene> out;
  for (int kind : {0, 1, 2}) {
    out.push_back({{37}, kind, {7, 7, 5, 3}});
    out.push_back({{0, 11, 1, 0, 23}, kind, {12, 4, 8, 8}});
    out.push_back({{3}, kind, {5, 1, 4, 2}}); // fewer tokens than ranks: empty ranks send nothing
    out.push_back({{64}, kind, {6, 3, 16, 16}});
  }
  return out;
}

template <class T>
void ulysses_ledger() {
  index_t e = sizeof(T);
  for (auto const& s : scenes())
    for (int P : {1, 2, 3, 6, 8})
      for (auto kept : {sp::keep::heads, sp::keep::output}) {
        auto ledgers = step_ledgers<T>(P, s, s.sharding(), [&](auto comm) {
          return sp::ulysses_attention{comm, sp::cpu{}, {}, {kept}};
        });
        auto rows = rows_of(s.lengths, s.kind, P, 1);
        auto heads = heads_of(s.shape, P);
        for (std::size_t r = 0; r < std::size_t(P); ++r) {
          ulysses_bytes want(rows, heads, s.shape, r, e, kept == sp::keep::output);
          check(ledgers[r], "ulysses.forward.inputs", want.inputs);
          check(ledgers[r], "ulysses.forward.output", want.output);
          check(ledgers[r], "ulysses.backward.inputs", want.dout);
          check(ledgers[r], "ulysses.backward.gradients", want.gradients);
          CHECK(ledgers[r].total().bytes_sent == want.inputs.bytes + want.output.bytes + want.dout.bytes + want.gradients.bytes);
        }
      }
}

} // namespace

TEST_CASE("ulysses: bytes are rows x heads, enumerated token by token and head by head") {
  ulysses_ledger<float>();
  ulysses_ledger<sp::bf16>();
}

TEST_CASE("ring: bytes of rotate, cast and pull, enumerated token by token") {
  for (auto const& s : scenes())
    for (int P : {1, 2, 3, 5, 8})
      for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull}) {
        using T = sp::bf16;
        sp::attention_options options{.schedule = how, .head_chunks = 1};
        auto ledgers = step_ledgers<T>(P, s, s.sharding(), [&](auto comm) {
          return sp::ring_attention{comm, sp::cpu{}, options};
        });
        auto rows = rows_of(s.lengths, s.kind, P, 1);
        for (std::size_t r = 0; r < std::size_t(P); ++r) {
          auto seen = [&](std::size_t a, std::size_t b) { return rows_seen(s.lengths, s.kind, P, index_t(a), index_t(b)); };
          ring_bytes want(rows, seen, s.shape.kv_heads, s.shape, r, sizeof(T), sizeof(float));
          tally none;
          bool rotates = how == sp::schedule::rotate || P == 1, casts = how == sp::schedule::cast && !rotates;
          check(ledgers[r], "ring.forward.keys", rotates ? want.keys : none);
          check(ledgers[r], "ring.backward.keys", rotates ? want.keys : none);
          check(ledgers[r], "ring.backward.gradients", rotates ? want.gradients : casts ? want.returned : none);
          check(ledgers[r], "ring.forward.cast", casts ? want.cast : none);
          check(ledgers[r], "ring.backward.cast", casts ? want.cast : none);
          index_t all = rotates ? 2 * want.keys.bytes + want.gradients.bytes
                        : casts ? 2 * want.cast.bytes + want.returned.bytes
                                : 0;
          CHECK(ledgers[r].total().bytes_sent == all);
        }
      }
}

TEST_CASE("ring: bytes of pass_q, enumerated token by token") {
  using T = sp::bf16;
  for (auto const& s : scenes())
    for (int P : {1, 3, 8}) {
      auto ledgers = step_ledgers<T>(P, s, s.sharding(), [&](auto comm) {
        return sp::ring_attention{comm, sp::cpu{}, {.schedule = sp::schedule::pass_q}};
      });
      for (std::size_t r = 0; r < std::size_t(P); ++r) {
        auto seeing = [&](std::size_t a, std::size_t b) { return rows_seeing(s.lengths, s.kind, P, index_t(a), index_t(b)); };
        pass_q_bytes want(std::size_t(P), seeing, s.shape, r, sizeof(T), sizeof(float));
        check(ledgers[r], "ring.forward.queries", want.queries);
        check(ledgers[r], "ring.forward.partials", want.partials);
        check(ledgers[r], "ring.backward.queries", want.queries_again);
        check(ledgers[r], "ring.backward.gradients", want.gradients);
        CHECK(ledgers[r].total().bytes_sent ==
              want.queries.bytes + want.partials.bytes + want.queries_again.bytes + want.gradients.bytes);
      }
    }
}

TEST_CASE(
    "pass_q: one query of each sequence over 64K keys on 8 ranks sends what its form says, rotate a thousand times as much") {
  constexpr int P = 8;
  constexpr index_t sequences = 3, q_heads = 4, dim = 2, value_dim = 1, e = 2;
  std::vector<index_t> ends, lengths;
  for (index_t d = 0; d <= sequences; ++d) ends.push_back(d), lengths.push_back(65536 * d);
  sp::documents const last = sp::packed(std::span<index_t const>(ends)), cache = sp::packed(std::span<index_t const>(lengths));
  auto ledgers = [&](sp::schedule how) {
    std::vector<sp::ledger> all{std::size_t(P)};
    sp::threads::run(
        P,
        [&](sp::threads const& comm) {
          auto const me = std::size_t(comm.rank());
          sp::batch const q(last, sp::contiguous{sp::scope::stream}, comm), k(cache, sp::contiguous{sp::scope::document}, comm);
          support::attention_tensors<sp::bf16> x(q.tokens(), k.tokens(), {q_heads, 1, dim, value_dim});
          sp::ring_attention const ring{
              sp::counting(comm, all[me]), idle{}, {.mask = sp::causal(sp::align::end), .schedule = how}};
          sp::pool memory;
          ring.infer(ring.prepare(q, k), sp::context(memory, memory), x.q, x.k, x.v, x.out);
        },
        impatient());
    return all;
  };
  auto const found = ledgers(sp::schedule::pass_q), rotated = ledgers(sp::schedule::rotate);
  sp::layout const q(last, sp::contiguous{sp::scope::stream}, P), k(cache, sp::contiguous{sp::scope::document}, P);
  auto const mask = sp::slices(sp::causal(sp::align::end), last, cache);
  for (int r = 0; r < P; ++r) {
    sp::query_cast const rows(q, k, mask, r);
    auto const rank = std::size_t(r);
    // whoever has a query asks the seven others, and answers those who have one
    CHECK(rows.rows_sent() == (P - 1) * q.tokens(r));
    CHECK(rows.rows_received() == sequences - q.tokens(r));
    CHECK(found[rank].of("ring.forward.queries").bytes_sent == rows.rows_sent() * q_heads * dim * e);
    CHECK(found[rank].of("ring.forward.partials").bytes_sent == rows.rows_received() * q_heads * (value_dim + 1) * 4);
    CHECK(1000 * found[rank].total().bytes_sent < rotated[rank].total().bytes_sent);
  }
}

TEST_CASE("head chunks change the messages of cast and pass_q, not their bytes") {
  scene s{{41, 6}, 1, {12, 4, 8, 4}};
  for (auto how : {sp::schedule::cast, sp::schedule::pass_q}) {
    auto bytes = [&](index_t chunks) {
      sp::attention_options options{.schedule = how, .head_chunks = chunks};
      return step_ledgers<float>(3, s, s.sharding(), [&](auto comm) { return sp::ring_attention{comm, sp::cpu{}, options}; });
    };
    auto one = bytes(1), three = bytes(3);
    char const* const first = how == sp::schedule::cast ? "ring.forward.cast" : "ring.forward.queries";
    for (std::size_t r = 0; r < 3; ++r) {
      CHECK(one[r].total().bytes_sent == three[r].total().bytes_sent);
      CHECK(three[r].of(first).messages == 3 * one[r].of(first).messages);
    }
  }
}

TEST_CASE("usp: bytes of both groups, enumerated token by token") {
  using T = float;
  for (auto const& s : scenes())
    for (auto [ring, uly] : {std::pair{2, 2}, {2, 3}, {3, 2}, {2, 4}}) {
      any_sharding how = s.sharding();
      how.inner = uly;
      auto ledgers = step_ledgers<T>(ring * uly, s, how, [&, uly = uly](auto comm) {
        return make_usp(comm, uly, sp::cpu{}, {.schedule = sp::schedule::rotate});
      });
      auto rows = rows_of(s.lengths, s.kind, ring, uly);
      auto heads = heads_of(s.shape, uly);
      for (int r = 0; r < ring * uly; ++r) {
        auto first = rows.begin() + r / uly * uly;
        std::vector<index_t> group(first, first + uly), shards;
        for (int i = 0; i < ring; ++i) {
          shards.push_back(0);
          for (int j = 0; j < uly; ++j) shards.back() += rows[std::size_t(i * uly + j)];
        }
        ulysses_bytes u(group, heads, s.shape, std::size_t(r % uly), sizeof(T), false);
        auto none = [](std::size_t, std::size_t) { return index_t{0}; };
        ring_bytes g(shards, none, heads[std::size_t(r % uly)].kv, s.shape, std::size_t(r / uly), sizeof(T), sizeof(float));
        auto const& l = ledgers[std::size_t(r)];
        check(l, "ulysses.forward.inputs", u.inputs);
        check(l, "ulysses.forward.output", u.output);
        check(l, "ulysses.backward.inputs", u.dout);
        check(l, "ulysses.backward.gradients", u.gradients);
        check(l, "ring.forward.keys", g.keys);
        check(l, "ring.backward.keys", g.keys);
        check(l, "ring.backward.gradients", g.gradients);
      }
    }
}

TEST_CASE("even cuts: the closed forms, exactly") {
  using T = sp::bf16;
  index_t const e = 2, P = 4, tokens = 16, D = 8;
  for (auto [hq, hk] : {std::pair<index_t, index_t>{8, 4}, {8, 8}, {8, 2}, {8, 1}}) {
    scene s{{P * tokens}, 1, {hq, hk, D, D}};
    index_t q = tokens * hq * D * e, kv = tokens * hk * D * e,
            copies = hk < P ? P : hk;                                         // kv heads over all ranks: kv c = kv copies / hk
    index_t kvc = kv * copies / hk, shares = copies > hk ? 4 * kvc / e : kvc; // shares of dk, dv are fp32 where heads are shared
    auto total = [&](auto const& ledgers, char const* prefix) {
      std::vector<index_t> sums;
      for (auto const& l : ledgers) {
        sums.push_back(0);
        for (auto const& [name, entry] : l.entries())
          if (name.find(prefix) != std::string::npos) sums.back() += entry.bytes_sent;
      }
      return sums;
    };
    auto all = [&](index_t n) { return std::vector<index_t>(std::size_t(P), n); };

    auto u = step_ledgers<T>(int(P), s, s.sharding(), [](auto comm) { return sp::ulysses_attention{comm, sp::cpu{}}; });
    CHECK(total(u, "forward") == all((P - 1) * (2 * q + 2 * kvc) / P));
    CHECK(total(u, "backward") == all((P - 1) * (2 * q + 2 * shares) / P));
    u = step_ledgers<T>(int(P), s, s.sharding(), [](auto comm) {
      return sp::ulysses_attention{comm, sp::cpu{}, {}, {sp::keep::output}};
    });
    CHECK(total(u, "forward") == all((P - 1) * (2 * q + 2 * kvc) / P));
    CHECK(total(u, "backward") == all((P - 1) * (3 * q + 2 * kvc + 2 * shares) / P));

    auto ring = [&](sp::schedule how) {
      return step_ledgers<T>(int(P), s, s.sharding(), [&](auto comm) {
        return sp::ring_attention{comm, sp::cpu{}, {.mask = sp::full(), .schedule = how}};
      });
    };
    for (auto how : {sp::schedule::rotate, sp::schedule::cast}) {
      auto l = ring(how);
      CHECK(total(l, "forward") == all((P - 1) * 2 * kv));
      CHECK(total(l, "backward") == all((P - 1) * 2 * kv + (P - 1) * 2 * kv * 4 / e));
    }
    CHECK(total(ring(sp::schedule::pull), "") == all(0));

    if (hk < 2) continue;
    any_sharding nested = s.sharding();
    nested.inner = 2;
    auto usp = step_ledgers<T>(int(P), s, nested,
                               [](auto comm) { return make_usp(comm, 2, sp::cpu{}, {.schedule = sp::schedule::rotate}); });
    index_t exchanged = (2 * q + 2 * kv) / 2, travelled = 2 * kv;
    CHECK(total(usp, "forward") == all(exchanged + travelled));
    CHECK(total(usp, "backward") == all(exchanged + travelled + travelled * 4 / e));
  }
}

TEST_CASE("cast: a window of 256 at 64K tokens over 8 ranks sends what its form says, less than a tenth of what rotate sends") {
  constexpr int P = 8;
  constexpr index_t window = 256, width = 1 + 2; // one kv head, dim 1, value dim 2
  sp::mask const mask = sp::window(window - 1);
  for (int kind : {0, 1}) { // contiguous, zigzag
    scene const s{{65536}, kind, {1, 1, 1, 2}};
    auto ledgers = [&](sp::schedule how) {
      return step_ledgers<sp::bf16>(P, s, s.sharding(), [&](auto comm) {
        return sp::ring_attention{comm, idle{}, {.mask = mask, .schedule = how}};
      });
    };
    auto const cast = ledgers(sp::schedule::cast);
    index_t const rotated = (P - 1) * (65536 / P) * width * (2 + 2 + 4);
    if (kind == 0) CHECK(ledgers(sp::schedule::rotate)[3].total().bytes_sent == rotated);
    sp::layout const l(s.docs(), s.sharding(), P);
    for (int r = 0; r < P; ++r) {
      auto const rank = std::size_t(r);
      sp::key_cast const rows(l, l, sp::slices(mask, s.docs(), s.docs()), r);
      index_t const keys = rows.rows_sent() * width * 2, gradients = rows.rows_received() * width * 4;
      CHECK(cast[rank].of("ring.forward.cast").bytes_sent == keys);
      CHECK(cast[rank].of("ring.backward.cast").bytes_sent == keys);
      CHECK(cast[rank].of("ring.backward.gradients").bytes_sent == gradients);
      CHECK(cast[rank].total().bytes_sent == 2 * keys + gradients);
      CHECK(10 * cast[rank].total().bytes_sent < rotated);
    }
  }
}

TEST_CASE("copies of kv heads under uneven cuts") {
  auto copies = [](index_t hq, index_t hk, index_t P) {
    index_t n = 0;
    for (auto const& h : heads_of({hq, hk, 1, 1}, P)) n += h.kv;
    return n;
  };
  CHECK(copies(12, 4, 6) == 8);
  CHECK(copies(6, 3, 2) == 4);
  for (auto [hq, hk, P] : {std::tuple<index_t, index_t, index_t>{12, 4, 6}, {6, 3, 2}, {7, 7, 4}, {5, 1, 8}}) {
    index_t n = 0;
    for (index_t r = 0; r < P; ++r) n += sp::heads_of(hq, hk, r, P).kv_count;
    CHECK(n == copies(hq, hk, P));
  }
}

TEST_CASE("ranks without tokens send and receive nothing") {
  scene s{{2}, 0, {4, 2, 8, 8}};
  for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pass_q}) {
    auto ledgers = step_ledgers<float>(6, s, s.sharding(), [&](auto comm) {
      return sp::ring_attention{comm, sp::cpu{}, {.schedule = how}};
    });
    auto rows = rows_of(s.lengths, s.kind, 6, 1);
    for (std::size_t r = 0; r < 6; ++r)
      if (rows[r] == 0 && how != sp::schedule::rotate) CHECK(ledgers[r].total().messages == 0);
  }
  auto ledgers = step_ledgers<float>(6, s, s.sharding(), [&](auto comm) { return sp::ulysses_attention{comm, sp::cpu{}}; });
  auto rows = rows_of(s.lengths, s.kind, 6, 1);
  for (std::size_t r = 0; r < 6; ++r)
    if (rows[r] == 0) CHECK(ledgers[r].of("ulysses.forward.inputs").messages == 0);
  scene empty{{0, 0}, 1, {4, 2, 8, 8}};
  for (auto const& l : step_ledgers<float>(3, empty, empty.sharding(), [&](auto comm) {
         return sp::ulysses_attention{comm, sp::cpu{}};
       }))
    CHECK(l.total().messages == 0);
}

} // namespace conformance::test_ledger
