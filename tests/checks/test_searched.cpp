// Level 3 searches everything a call writes: a NaN or an infinity in out, lse, dq, dk, dv or dsinks, and a byte beside each block of
// scratch and of kept memory, is found on the rank that wrote it, by ring, Ulysses and USP. The other ranks throw with it.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <string_view>

#include "checks/step_arguments.hpp"

namespace checks::test_searched {
namespace {

constexpr int ranks = 4;
constexpr sp::threads_options patient{.deadline = std::chrono::seconds(30)};
constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

/// A pool that knows what is handed out: under level 3, blocks with the canaries around them.
struct watched final : sp::allocator {
  sp::pool inner;
  std::vector<std::pair<unsigned char*, std::size_t>> live;
  void* allocate(std::size_t bytes) override {
    live.emplace_back(static_cast<unsigned char*>(inner.allocate(bytes)), bytes);
    return live.back().first;
  }
  void deallocate(void* p, std::size_t bytes) noexcept override {
    live.erase(std::find_if(live.begin(), live.end(), [&](auto const& b) { return b.first == p; }));
    inner.deallocate(p, bytes);
  }
};

/// What a kernel does wrong on its rank.
struct misdeed {
  char const* result = ""; ///< the result that gets a bad value, "" for none
  double value = nan;
  bool in_backward = false; ///< when it writes beside a block
  int block = -1;           ///< which one of those live then, -1 for none
  enum place { before, behind, at_the_end } where = before;
  std::vector<watched*> memory{};
  mutable int calls = 0;  ///< of this pass
  mutable int blocks = 0; ///< that were live in the pass in question

  void damage(bool backward) const {
    if (block < 0 || backward != in_backward || calls != 0) return;
    std::vector<std::pair<unsigned char*, std::size_t>> all;
    for (watched* m : memory) all.insert(all.end(), m->live.begin(), m->live.end());
    blocks = int(all.size());
    if (block >= blocks) return;
    auto const [begin, bytes] = all[std::size_t(block)];
    std::size_t const margin = sp::guarded::margin;
    begin[where == before ? margin - 1 : where == behind ? bytes - margin : bytes - 1] ^= 1;
  }
};

/// The reference, and a misdeed.
class spoiling {
public:
  using base = sp::reference<>;
  using memory_type = sp::host_memory;
  using plan = base::plan;
  using saved = base::saved;
  spoiling(misdeed const* what, int last_call) : what_(what), last_(last_call) {}

  plan prepare(sp::problem const& p) const { return kernel_.prepare(p); }
  template <class T>
  index_t scratch_bytes(plan const& p, sp::heads const& h, index_t dim, index_t value_dim) const {
    return kernel_.scratch_bytes<T>(p, h, dim, value_dim);
  }
  template <class T>
  saved forward(plan const& p, sp::allocator& scratch, sp::call_params const& n, sp::view<T const, 3> q,
                std::span<sp::kv_views<T> const> keys, sp::attention_state<T> state) const {
    what_->damage(false);
    saved back = kernel_.forward<T>(p, scratch, n, q, keys, state);
    std::string_view const result = what_->result;
    if (what_->calls++ == last_) { // nothing is merged with it any more
      if (result == "out") state.out(0, 0, 0) = T(what_->value);
      if (result == "lse") state.lse(0, 0) = T(what_->value);
    }
    return back;
  }
  template <class T>
  void backward(plan const& p, sp::allocator& scratch, sp::call_params const& n, std::span<sp::query_grad<T> const> queries,
                std::span<sp::key_grad<T> const> keys, saved const& x) const {
    what_->damage(true);
    kernel_.backward<T>(p, scratch, n, queries, keys, x);
    std::string_view const result = what_->result;
    if (what_->calls++ > 0) return; // the first block is of this rank's own keys
    if (result == "dq") queries[0].dq(0, 0, 0) = T(what_->value);
    if (result == "dk") keys[0].dk(0, 0, 0) = T(what_->value);
    if (result == "dv") keys[0].dv(0, 0, 0) = T(what_->value);
  }

private:
  base kernel_;
  misdeed const* what_;
  int last_;
};

/// The rank by which an object's own errors name this one: its place in the object's group.
int place_in_group(kind k, sp::threads const& c) { return k == kind::usp ? c.rank() % 2 : c.rank(); }

/// What happened to a step of forward and backward on this rank, with a kernel that misbehaves on the victim.
outcome step(kind k, sp::threads const& c, misdeed const& what, watched& scratch, watched& kept, bool sinks) {
  place<sp::threads> const at(k, c);
  arguments a;
  a.sinks = sinks, a.accumulate = true; // sinks would carry a bad lse on to out, which is searched first
  sp::batch const b = at.batch(a);
  tensors<double> x(b, a);
  if (std::string_view(what.result) == "dsinks") x.dsinks[2] = what.value;
  sp::attention_options const o{sp::causal(), 0.5, sp::schedule::rotate, 1, 3};
  sp::context const ctx(scratch, kept);
  auto run = [&](auto const& object) {
    auto const p = object.prepare(b);
    return outcome_of([&] {
      what.calls = 0;
      auto saved = x.forward(object, p, ctx);
      what.calls = 0;
      x.backward(object, p, ctx, std::move(saved));
    });
  };
  spoiling const kernel(&what, at.ring.size() - 1);
  if (k == kind::ring) return run(sp::ring_attention{at.all, kernel, o});
  return run(sp::ulysses_attention{at.ulysses, sp::ring_attention{at.ring, kernel, o}});
}

} // namespace

TEST_CASE("level 3: a bad value in any result of any rank is found after the call, with its place") {
  struct {
    char const* name;
    double value;
    bool forward;
    char const* place;
  } const results[] = {{"out", nan, true, " at row 0, head 0, channel 0: position "},
                       {"out", inf, true, " at row 0, head 0, channel 0: position "},
                       {"lse", nan, true, " at row 0, head 0"},
                       {"lse", inf, true, " at row 0, head 0"},
                       {"dq", nan, false, " at row 0, head 0, channel 0: position "},
                       {"dq", -inf, false, " at row 0, head 0, channel 0: position "},
                       {"dk", nan, false, " at row 0, head 0, channel 0: position "},
                       {"dv", -inf, false, " at row 0, head 0, channel 0: position "},
                       {"dsinks", nan, false, " at head 2"},
                       {"dsinks", inf, false, " at head 2"}};
  for (kind k : {kind::ring, kind::ulysses, kind::usp})
    for (auto const& r : results)
      for (int victim = 0; victim < ranks; ++victim) {
        std::atomic<int> own = 0, others = 0, left = 0;
        sp::threads::run(
            ranks,
            [&](sp::threads const& c) {
              misdeed what;
              if (c.rank() == victim) what.result = r.name, what.value = r.value;
              watched scratch, kept;
              outcome const o = step(k, c, what, scratch, kept, std::string_view(r.name) == "dsinks");
              left += int(scratch.live.size()) + int(r.forward ? kept.live.size() : 0);
              std::string const call = std::string(r.forward ? ".forward" : ".backward"), value = r.value != r.value ? "NaN"
                                                                                                  : r.value > 0      ? "inf"
                                                                                                                     : "-inf";
              if (o.is(errc::non_finite)) {
                // under Ulysses a bad row or head is found by the rank that owns it, wherever it was computed
                std::string place = k == kind::ring || r.place[4] == 'h' || std::string_view(r.name) == "lse" ? r.place : "";
                own += o.says(std::string(r.name) + " holds " + value + place) && o.failure->step == (r.forward ? 1 : 2) &&
                       o.failure->rank == place_in_group(k, c) && (k != kind::ring || c.rank() == victim) &&
                       o.failure->primitive.find("_attention" + call) != std::string::npos;
              } else {
                others += o.is(errc::rank_mismatch) && o.says("_attention" + call + ".results with non_finite") &&
                          o.failure->peer >= 0 && (k != kind::ring || o.failure->peer == victim);
              }
            },
            patient);
        CAPTURE(std::string(name_of(k)));
        CAPTURE(std::string(r.name));
        CAPTURE(r.value);
        CAPTURE(victim);
        CHECK(own == 1);
        CHECK(others == ranks - 1);
        CHECK(left == 0);
      }
}

TEST_CASE("level 3: a write beside any block of scratch or kept memory, in either pass, is told on its rank") {
  int blocks = 0;
  for (kind k : {kind::ring, kind::ulysses, kind::usp})
    for (bool backward : {false, true})
      for (int block = 0, live = 1; block < live; ++block) {
        int const victim = (block + backward) % ranks; // drawn; rank 0 too
        for (auto where : {misdeed::before, misdeed::behind, misdeed::at_the_end}) {
          std::atomic<int> own = 0, others = 0, seen = 0;
          sp::threads::run(
              ranks,
              [&](sp::threads const& c) {
                watched scratch, kept;
                misdeed what;
                if (c.rank() == victim) what.block = block, what.in_backward = backward, what.where = where;
                what.memory = {&scratch, &kept};
                outcome const o = step(k, c, what, scratch, kept, true);
                std::string const call = std::string("_attention") + (backward ? ".backward" : ".forward");
                if (c.rank() == victim) {
                  seen = what.blocks;
                  own += o.is(errc::backend_error) && o.says(" bytes, allocated in ") && o.says("was written outside: byte ") &&
                         o.says(where == misdeed::before ? " before its begin" : " behind its end") &&
                         o.failure->rank == place_in_group(k, c) && o.failure->primitive.find(call) != std::string::npos;
                } else {
                  others += o.is(errc::rank_mismatch) && o.says("rank " + std::to_string(victim) + " refused ") &&
                            o.says(call + ".results with backend_error") && o.failure->peer == victim;
                }
              },
              patient);
          CAPTURE(std::string(name_of(k)));
          CAPTURE(backward);
          CAPTURE(block);
          CAPTURE(int(where));
          CHECK(own == 1);
          CHECK(others == ranks - 1);
          live = seen;
        }
        ++blocks;
      }
  CHECK(blocks >= 3 * 12);
}

} // namespace checks::test_searched
