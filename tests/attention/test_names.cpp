// A communicator whose namespace, and that of its template argument, has functions named like those of sp: none of them is called.
// Unqualified calls would find them by their argument: std::exchange fits any type that names one of std.
#include <doctest/doctest.h>

#include <mutex>
#include <string>
#include <vector>

#include <sp/gather_loss.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/reference.hpp>
#include <sp/relayout.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

namespace foreign {

thread_local std::string called; ///< which functions of this namespace the library has called

template <class Tag>
class comm {
public:
  using memory_type = sp::host_memory;
  explicit comm(sp::threads const& ranks) : ranks_(ranks) {}
  int rank() const { return ranks_.rank(); }
  int size() const { return ranks_.size(); }
  auto exchange(sp::traffic const& t) const { return ranks_.exchange(t); }

private:
  sp::threads ranks_;
};

// Each fits better than the function of sp that it is named like.
template <class Tag, class Traffic>
auto exchange(comm<Tag> const& c, Traffic&& t) {
  called += "exchange ";
  return c.exchange(t);
}
template <class Tag, class Traffic, class... More>
auto all_to_all_v(comm<Tag> const& c, Traffic&& t, More&&... more) {
  called += "all_to_all_v ";
  return sp::all_to_all_v(c, t, more...);
}
template <class Tag, class... More>
auto all_gather_v(comm<Tag> const& c, char const* primitive, More&&... more) {
  called += "all_gather_v ";
  return sp::all_gather_v(c, primitive, more...);
}
template <class Tag, class... More>
void reduce_scatter(comm<Tag> const& c, sp::view<float, 1> const* parts, More&&... more) {
  called += "reduce_scatter ";
  sp::reduce_scatter(c, {parts, std::size_t(c.size())}, more...);
}
template <class Tag, class... More>
void all_reduce(comm<Tag> const& c, More&&... more) {
  called += "all_reduce ";
  sp::all_reduce(c, more...);
}
template <class Tag, class Queue>
void agree(comm<Tag> const& c, sp::fingerprint const& mine, sp::context<Queue> const& ctx) {
  called += "agree ";
  sp::agree(c, mine, ctx);
}
template <class Tag>
sp::index_t group_stride(comm<Tag> const&) {
  called += "group_stride ";
  return 1;
}

/// An element that is moved, never computed with.
struct label {
  int value = 0;
  explicit operator sp::index_t() const { return value; }
  bool operator==(label const&) const = default;
};
template <class Queue, int Rank>
void fill(Queue const& q, sp::view<label, Rank> to, label const& value) {
  called += "fill ";
  sp::fill(q, to, value);
}

} // namespace foreign

namespace test_names {
namespace {

using sp::index_t;
using comm = foreign::comm<std::vector<int>>;

/// Runs f(communicator, batch) on three ranks; what of namespace foreign was called there.
template <class F>
std::string called_by(F&& f) {
  std::string all;
  std::mutex mutex;
  sp::threads::run(3, [&](sp::threads const& ranks) {
    foreign::called.clear();
    f(comm(ranks), sp::batch{sp::packed{0, 7, 20}, sp::zigzag{}, ranks});
    std::scoped_lock const lock(mutex);
    all += foreign::called;
  });
  return all;
}

struct tensors {
  std::vector<float> memory;
  index_t n;
  explicit tensors(sp::batch const& b) : memory(std::size_t(8 * b.tokens() * 3 * 4), 0.5f), n(b.tokens()) {}
  sp::view<float, 3> at(int t) { return {memory.data() + t * n * 3 * 4, {n, 3, 4}}; }
};

template <class Attention>
void step(Attention const& attention, sp::batch const& b) {
  tensors x(b);
  auto saved = attention.forward(b, {.q = x.at(0), .k = x.at(1), .v = x.at(2), .out = x.at(3)});
  attention.backward(
      b, std::move(saved),
      {.q = x.at(0), .k = x.at(1), .v = x.at(2), .out = x.at(3), .dout = x.at(4), .dq = x.at(5), .dk = x.at(6), .dv = x.at(7)});
}

} // namespace

TEST_CASE("names: attention over a communicator of another namespace calls nothing of that namespace") {
  CHECK(called_by([](comm const& c, sp::batch const& b) {
          for (auto how : {sp::schedule::rotate, sp::schedule::cast})
            step(sp::ring_attention{c, sp::reference{}, {.schedule = how, .checks = 2}}, b);
        }) == "");
  CHECK(called_by([](comm const& c, sp::batch const& b) { step(sp::ulysses_attention{c, sp::reference{}}, b); }) == "");
}

TEST_CASE("names: what moves tokens and sums losses calls nothing of the namespaces of its arguments") {
  CHECK(called_by([](comm const& c, sp::batch const& b) {
          std::vector<foreign::label> mine(std::size_t(b.tokens())), all(20, foreign::label{3});
          sp::view<foreign::label, 1> const local(mine.data(), {b.tokens()}), global(all.data(), {20});
          sp::split(b, global, local, foreign::label{1});
          CHECK(mine[0].value == 3);
          sp::gather_tokens const gather{c, {.checks = 2}};
          gather.forward(b, sp::view<foreign::label const, 1>(local), global, foreign::label{2});
          CHECK(all[19].value == 3);
        }) == "");
  CHECK(
      called_by([](comm const& c, sp::batch const& b) {
        std::vector<float> losses(std::size_t(b.tokens()), 1.0f);
        std::vector<int> labels(losses.size(), 1);
        sp::view<float, 1> const l(losses.data(), {b.tokens()});
        auto const r = sp::gather_loss{c, sp::summed{}, {.checks = 2}}.forward(l, sp::view<int, 1>(labels.data(), {b.tokens()}));
        CHECK(r.num_tokens == 20);
      }) == "");
}

TEST_CASE("names: what is only read may be a view of values or of const values, everywhere") {
  sp::solo const alone;
  sp::batch const b{sp::packed{0, 5}, sp::contiguous{}, alone};
  sp::relayout const moved(b.layout(), b.layout(), sp::document_map(b.docs(), b.docs()), 0);
  sp::pool memory;
  std::vector<float> from = {1, 2, 3, 4, 5}, to(5), weights(5);
  std::vector<int> labels = {1, -100, 1, 1, 1};
  std::vector<char> marks = {0, 1, 0, 0, 1};
  auto each = [&](auto read, auto known) {
    sp::view<float, 1> const written(to.data(), {5});
    auto check = [&](char const* what) {
      CAPTURE(what);
      CHECK(to == from);
      sp::fill(written, 0);
    };
    sp::split(b, read, written), check("split");
    sp::gather_tokens{alone}.forward(b, read, written), check("gather_tokens.forward");
    sp::gather_tokens{alone}.backward(b, read, written), check("gather_tokens.backward");
    sp::gather(alone, b, read, written), check("gather");
    moved.apply(alone, read, written, memory), check("relayout");
    moved.apply_transposed(alone, read, written, memory), check("its transpose");
    sp::gather_loss const loss{alone, sp::summed{}};
    CHECK(loss.forward(read, known).num_tokens == 4);
    CHECK(loss.forward(read, known, memory).num_tokens == 4);
    sp::loss_weights(b, known, sp::view<float, 1>(weights.data(), {5}), -100);
    CHECK(weights == std::vector<float>{1, 0, 1, 1, 1});
  };
  each(sp::view<float, 1>(from.data(), {5}), sp::view<int, 1>(labels.data(), {5}));
  each(sp::view<float const, 1>(from.data(), {5}), sp::view<int const, 1>(labels.data(), {5}));
  CHECK(sp::local_rows(b, std::span(marks)) == sp::local_rows(b, std::span<char const>(marks)));
}

} // namespace test_names
