// libFuzzer target: masks from outside: rules, prefixes, image spans and user slices over documents of any size.
// What is accepted covers, pair by pair, exactly what the rule says, and blocks over any cut cover it once.
#include <sp/layout/layout.hpp>
#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>

#include "documents.hpp"

namespace fuzz_target {
namespace {

sp::mask draw_mask(input& in, index_t documents) {
  sp::mask m;
  std::uint8_t const kind = in.byte();
  if (kind & 1) m.lo = in.number();
  if (kind & 2) m.hi = in.number();
  if (kind & 128) m.at = sp::align::begin;
  if (kind & 4) m.at = sp::align::end;
  m.only_user = kind & 8;
  if (kind & 16) {
    m.prefix.resize(std::size_t(in.byte() < 230 ? documents : in.below(9)));
    for (index_t& p : m.prefix) p = in.number();
  }
  if (kind & 32)
    for (index_t n = in.below(4); n > 0; --n) {
      index_t const a = in.number(), b = in.number();
      m.spans.push_back({a, b, a, b});
    }
  if (kind & 64)
    for (index_t n = in.below(6); n > 0; --n) {
      sp::slice s{in.number(), in.number(), in.number(), in.number()};
      if (in.byte() & 1) s.lo = in.number();
      if (in.byte() & 1) s.hi = in.number();
      m.user.push_back(s);
    }
  return m;
}

/// The rule, written again from positions alone.
bool sees(sp::mask const& m, sp::documents const& q, sp::documents const& k, index_t i, index_t j) {
  auto within = [&](sp::slice const& s) { return s.q0 <= i && i < s.q1 && s.k0 <= j && j < s.k1; };
  for (sp::slice const& s : m.user)
    if (within(s) && s.lo <= j - i && j - i <= s.hi) return true;
  for (std::size_t d = 0; d < q.size(); ++d) {
    if (i < q[d].begin || i >= q[d].end() || j < k[d].begin || j >= k[d].end()) continue;
    if (m.only_user) return false;
    if (!m.prefix.empty() && j - k[d].begin < m.prefix[d]) return true;
    index_t const shift = m.at == sp::align::end ? k[d].count - q[d].count : 0;
    index_t const stands = k[d].begin + (i - q[d].begin) + shift, distance = j - stands; // in the stream of keys
    for (sp::slice const& s : m.spans)
      if (s.q0 <= stands && stands < s.q1 && s.k0 <= j && j < s.k1) return true;
    return m.lo <= distance && distance <= m.hi;
  }
  return false;
}

template <class Sharding>
void cut(Sharding how, int parts, sp::documents const& q, sp::documents const& k, std::vector<sp::slice> const& list,
         std::vector<int> const& wanted) {
  sp::layout const lq(q, how, parts), lk(k, how, parts);
  std::vector<int> seen(wanted.size());
  for (int p = 0; p < parts; ++p)
    for (int o = 0; o < parts; ++o) {
      auto const mine = sp::place(lq.runs(p), p), theirs = sp::place(lk.runs(o), o);
      for (sp::block const& b : sp::blocks(mine, theirs, list))
        for (index_t i = 0; i < b.rows; ++i)
          for (index_t j = 0; j < b.keys; ++j)
            if (b.sees(i, j)) ++seen[std::size_t((b.q_pos + i * b.q_stride) * k.length() + b.k_pos + j * b.k_stride)];
    }
  require(seen == wanted, "blocks: a pair is missing or counted twice");
}

void brute_force(input& in, sp::mask const& m, sp::documents const& q, sp::documents const& k,
                 std::vector<sp::slice> const& list) {
  std::vector<int> covered;
  for (index_t i = 0; i < q.length(); ++i)
    for (index_t j = 0; j < k.length(); ++j) {
      int n = 0;
      for (sp::slice const& s : list) n += s.sees(i, j);
      require(n == int(sees(m, q, k, i, j)), "slices: a pair is missing, too many, or counted twice");
      covered.push_back(n);
    }
  int const parts = int(in.below(4)) + 1;
  sp::scope const over = in.byte() & 1 ? sp::scope::stream : sp::scope::document;
  switch (in.below(3)) {
  case 0:
    return cut(sp::contiguous{over}, parts, q, k, list, covered);
  case 1:
    return cut(sp::zigzag{over}, parts, q, k, list, covered);
  default:
    return cut(sp::striped{over}, parts, q, k, list, covered);
  }
}

} // namespace

static void test_one(std::uint8_t const* data, std::size_t size) {
  input in(data, size);
  std::uint8_t const kind = in.byte();
  bool const small = kind < 224;
  index_t const count = kind % 5;
  sp::documents q, k;
  if (!accepted([&] {
        q = small ? small_documents(in, count) : any_documents(in, count);
        k = kind & 32 ? q : small ? small_documents(in, in.byte() < 250 ? count : count + 1) : any_documents(in, count);
      }))
    return;
  sp::mask const m = draw_mask(in, count);
  std::vector<sp::slice> list;
  if (!accepted([&] { list = sp::slices(m, q, k); })) return;
  for (sp::slice const& s : list) {
    auto const d = std::size_t(s.document);
    require(d < q.size() && s.q0 >= q[d].begin && s.q1 <= q[d].end() && s.k0 >= k[d].begin && s.k1 <= k[d].end(),
            "slices: one leaves its document");
  }
  if (small) brute_force(in, m, q, k, list);
}

} // namespace fuzz_target

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  fuzz_target::test_one(data, size);
  return 0;
}
