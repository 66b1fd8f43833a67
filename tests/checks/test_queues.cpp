// Check levels 2 and 3 of attention whose tensors the host cannot touch: ranks are told what ranks of the host are told, and go on.
// Forward, backward and their results; what a call computes does not depend on its level.
#include <doctest/doctest.h>

#include <limits>

#include <sp/reference.hpp>
#include <sp/ring.hpp>

#include "support/failure.hpp"
#include "support/places.hpp"

namespace checks::test_queues {
namespace {

using sp::index_t;
using support::host_place;
using support::late_place;
using values = std::vector<float>;

/// What one rank of three was told by calls that cannot be made, and what it computed by those that can.
struct outcome {
  std::vector<std::string> told;
  values computed;
  std::string without_context; ///< of prepare(): why it cannot be
};

template <class Place>
class rank_of_three {
  using tensor = typename Place::template tensor<float, 3>;
  using memory = typename Place::ranks::memory_type;
  using ring = sp::ring_attention<typename Place::ranks, sp::basic_reference<memory>>;

public:
  rank_of_three(Place& place, int level)
      : here(place), b(sp::packed{0, 7, 20}, sp::zigzag{}, place.comm),
        object(place.comm, sp::basic_reference<memory>{}, {.mask = sp::causal(), .checks = level}),
        other(place.comm, sp::basic_reference<memory>{},
              {.mask = sp::causal(), .scale = rank() == 1 ? 3.0 : 1.0, .checks = level}) {}

  outcome run() {
    auto const ctx = here.context();
    auto const plan = object.prepare(b, ctx);
    outcome o;
    auto told = [&](auto&& call) {
      auto const e = support::failure_of(call);
      o.told.push_back(std::string(sp::name(e.code)) + " " + e.problem);
    };
    if (!std::is_same_v<memory, sp::host_memory> && object.checks() > 1)
      o.without_context = sp::name(support::failure_of([&] { static_cast<void>(object.prepare(b)); }).code);
    if (object.checks() > 1)
      told([&] {
        auto const other_plan = other.prepare(b, ctx);
        static_cast<void>(other.forward(other_plan, ctx, *q, *k, *v, *out));
      });
    if (object.checks() > 2) told([&] { static_cast<void>(object.forward(plan, ctx, *q, *k, *bad, *out)); });
    auto saved = object.forward(plan, ctx, *q, *k, *v, *out);
    if (object.checks() > 2) told([&] { object.backward(plan, ctx, std::move(saved), *q, *k, *v, *out, *bad, *dq, *dk, *dv); });
    object.backward(plan, ctx, std::move(saved), *q, *k, *v, *out, *dout, *dq, *dk, *dv);
    for (tensor* t : {&out, &dq, &dk, &dv}) {
      values const some = t->download();
      o.computed.insert(o.computed.end(), some.begin(), some.end());
    }
    return o;
  }

private:
  int rank() const { return here.comm.rank(); }
  tensor made(index_t heads, int seed, bool nan = false) {
    values x(std::size_t(b.tokens() * heads * 4));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = float((int(i) * 37 + seed * 11 + rank() * 5) % 17) / 8 - 1;
    if (nan && rank() == 2) x[6] = std::numeric_limits<float>::quiet_NaN();
    return {here, {b.tokens(), heads, 4}, x};
  }

  Place& here;
  sp::batch b;
  ring object, other;
  tensor q = made(2, 1), k = made(2, 2), v = made(2, 3), bad = made(2, 4, true), out = made(2, 5), dout = made(2, 6),
         dq = made(2, 7), dk = made(2, 8), dv = made(2, 9);
};

template <class Place>
std::vector<outcome> outcomes(int level) {
  return support::on_all_ranks<Place>(3, [&](Place& here) { return rank_of_three<Place>(here, level).run(); });
}

} // namespace

TEST_CASE("levels 2 and 3 elsewhere: ranks are told what ranks of the host are told, and results do not change [asan]") {
  auto const wanted = outcomes<host_place>(1);
  for (int level : {2, 3}) {
    CAPTURE(level);
    auto const host = outcomes<host_place>(level), late = outcomes<late_place>(level);
    for (std::size_t r = 0; r < 3; ++r) {
      CHECK(late[r].told == host[r].told);
      CHECK(late[r].computed == host[r].computed);
      CHECK(late[r].computed == wanted[r].computed);
      CHECK(late[r].without_context == "unsupported");
    }
    CHECK(late[0].told[0].find("rank 1 differs from ranks 0, 2 in scale") != std::string::npos);
    if (level == 2) continue;
    CHECK(late[2].told[1].find("v holds NaN at row 0, head 1, channel 2") != std::string::npos);
    CHECK(late[2].told[2].find("dout holds NaN") != std::string::npos);
    CHECK(late[0].told[2].find("rank 2 refused") != std::string::npos);
  }
}

} // namespace checks::test_queues
