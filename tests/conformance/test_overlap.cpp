// Overlap: the order in which a ring and Ulysses post, compute and wait, seen by a recording communicator and a recording kernel.
// While a block is computed the next keys, or inputs, are in flight; the whole sequence is written down here.
#include <doctest/doctest.h>

#include "simple.hpp"

namespace conformance::test_overlap {
namespace {

using journal = std::vector<std::string>;

/// Notes each exchange when it is posted and when it is waited for.
template <class C>
class recording {
public:
  using memory_type = typename C::memory_type;
  struct token {
    decltype(std::declval<C const&>().exchange({})) inner;
    journal* notes;
    std::string name;
    void wait() {
      notes->push_back("wait " + name);
      inner.wait();
    }
  };
  recording(C inner, journal& notes) : inner_(std::move(inner)), notes_(&notes) {}
  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  token exchange(sp::traffic const& t) const {
    std::string name = t.primitive;
    name = name.substr(name.rfind('.') + 1);
    notes_->push_back("post " + name);
    return {inner_.exchange(t), notes_, name};
  }

private:
  C inner_;
  journal* notes_;
};

/// The cpu kernel, with a note when it computes.
class noting {
public:
  using memory_type = sp::host_memory;
  using plan = sp::cpu<>::plan;
  using saved = sp::cpu<>::saved;
  explicit noting(journal& notes) : notes_(&notes) {}
  plan prepare(sp::problem const& p) const { return kernel_.prepare(p); }
  template <class T>
  saved forward(plan const& p, sp::allocator& a, sp::call_params const& n, sp::view<T const, 3> q,
                std::span<sp::kv_views<T> const> k, sp::attention_state<T> s) const {
    notes_->push_back("compute");
    return kernel_.forward<T>(p, a, n, q, k, s);
  }
  template <class T>
  void backward(plan const& p, sp::allocator& a, sp::call_params const& n, std::span<sp::query_grad<T> const> q,
                std::span<sp::key_grad<T> const> k, saved const& x) const {
    notes_->push_back("compute");
    kernel_.backward<T>(p, a, n, q, k, x);
  }
  template <class T>
  sp::index_t scratch_bytes(plan const& p, sp::heads const& h, sp::index_t dim, sp::index_t value_dim) const {
    return kernel_.scratch_bytes<T>(p, h, dim, value_dim);
  }

private:
  sp::cpu<> kernel_;
  journal* notes_;
};

struct notes {
  journal forward, backward;
};

/// make(recording communicator, recording kernel) is the object; every rank has `heads` q and kv heads.
template <class Make>
std::vector<notes> record(int ranks, sp::index_t heads, Make make) {
  std::vector<notes> out{std::size_t(ranks)};
  sp::threads::run(
      ranks,
      [&](sp::threads const& comm) {
        journal now;
        sp::batch b(sp::packed{0, 33}, sp::zigzag{}, comm);
        attention_tensors<float> x(b, {heads, heads, 8, 8});
        auto const attn = make(recording(comm, now), noting(now));
        sp::pool memory;
        sp::context ctx(memory, memory);
        auto prepared = attn.prepare(b);
        auto saved = x.forward(attn, prepared, ctx);
        out[std::size_t(comm.rank())].forward = std::exchange(now, {});
        x.backward(attn, prepared, ctx, std::move(saved));
        out[std::size_t(comm.rank())].backward = now;
      },
      impatient());
  return out;
}

std::vector<notes> record(int ranks, sp::attention_options options) {
  return record(ranks, 4, [&](auto comm, noting kernel) { return sp::ring_attention{comm, kernel, options}; });
}
std::vector<notes> record(int ranks, sp::index_t heads, sp::ulysses_options options) {
  return record(ranks, heads, [&](auto comm, noting kernel) { return sp::ulysses_attention{comm, kernel, {}, options}; });
}

} // namespace

TEST_CASE("rotate: the next keys are posted before a block is computed and waited for after") {
  for (auto const& n : record(4, {.schedule = sp::schedule::rotate})) {
    CHECK(n.forward == journal{"post keys", "compute", "wait keys", "post keys", "compute", "wait keys", "post keys", "compute",
                               "wait keys", "compute"});
    CHECK(n.backward == journal{"post keys", "compute", "wait keys",                                     // the own block stays
                                "post keys", "compute", "post gradients", "wait keys",                   // nobody was here before
                                "post keys", "compute", "wait gradients", "post gradients", "wait keys", // add, pass on
                                "compute", "wait gradients", "post gradients", "wait gradients"});       // the last hop home
  }
}

TEST_CASE("cast: the next group of heads is in flight while one is computed") {
  for (auto const& n : record(3, {.schedule = sp::schedule::cast, .head_chunks = 3})) {
    CHECK(n.forward ==
          journal{"post cast", "wait cast", "post cast", "compute", "wait cast", "post cast", "compute", "wait cast", "compute"});
    CHECK(n.backward == journal{"post cast", "wait cast", "post cast", "compute", "post gradients", "wait gradients", "wait cast",
                                "post cast", "compute", "post gradients", "wait gradients", "wait cast", "compute",
                                "post gradients", "wait gradients"});
  }
}

TEST_CASE("pass_q: the queries of the next group of heads are in flight while one is computed") {
  for (auto const& n : record(3, {.schedule = sp::schedule::pass_q, .head_chunks = 2})) {
    CHECK(n.forward == journal{"post queries", "wait queries", "post queries", "compute", "post partials", "wait partials",
                               "wait queries", "compute", "post partials", "wait partials"});
    CHECK(n.backward == journal{"post queries", "wait queries", "post queries", "compute", "post gradients", "wait gradients",
                                "wait queries", "compute", "post gradients", "wait gradients"});
  }
}

/// What a pass does in one chunk, and in three, where `results` go home.
journal at_once(std::string const& results) {
  return {"post inputs", "wait inputs", "compute", "post " + results, "wait " + results};
}
journal in_three(std::string const& results) {
  return {"post inputs", "wait inputs",                                                          // nothing to compute yet
          "post inputs", "compute",         "post " + results, "wait inputs",                    // the first chunk
          "post inputs", "compute",         "wait " + results, "post " + results, "wait inputs", // between two
          "compute",     "wait " + results, "post " + results, "wait " + results};               // the last one
}

TEST_CASE("ulysses: the inputs of the next chunk and the results of the one before are in flight while one is computed") {
  for (sp::keep keep : {sp::keep::heads, sp::keep::output})
    for (int ranks : {1, 2}) {
      for (auto const& n : record(ranks, 3 * ranks, {keep, 3})) {
        CHECK(n.forward == in_three("output"));
        CHECK(n.backward == in_three("gradients"));
      }
      for (auto const& n : record(ranks, 3 * ranks, sp::ulysses_options{keep})) {
        CHECK(n.forward == at_once("output"));
        CHECK(n.backward == at_once("gradients"));
      }
    }
}

TEST_CASE("one rank exchanges nothing") {
  for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pass_q, sp::schedule::automatic}) {
    auto n = record(1, {.schedule = how});
    CHECK(n[0].forward == journal{"compute"});
    CHECK(n[0].backward == journal{"compute"});
  }
}

} // namespace conformance::test_overlap
