// Exchanges of chunks behind each other: what the next chunk needs is on its way while one is computed.
#pragma once

#include <optional>
#include <type_traits>

#include <sp/core/index.hpp>

namespace sp::detail {

/// What make() returns, made where it stays: tokens are large.
template <class Make>
struct made_in_place {
  Make const& make;
  operator std::invoke_result_t<Make const&>() const { return make(); }
};

/// An exchange on its way, of either of two kinds, or none.
template <class First, class Second = First>
class in_flight {
public:
  template <class Make>
  void start_first(Make const& make) {
    first_.emplace(made_in_place<Make>{make});
  }
  template <class Make>
  void start_second(Make const& make) {
    second_.emplace(made_in_place<Make>{make});
  }
  void wait() {
    wait(first_);
    wait(second_);
  }

private:
  template <class Token>
  static void wait(std::optional<Token>& flight) {
    if (!flight) return;
    flight->wait();
    flight.reset();
  }
  std::optional<First> first_;
  std::optional<Second> second_;
};

/// For each chunk: arrive(i) starts `inputs`, compute(i). While chunk i is computed, the inputs of i + 1 are on their way.
template <class Inputs, class Arrive, class Compute>
void one_ahead(index_t chunks, Inputs& inputs, Arrive const& arrive, Compute const& compute) {
  arrive(0);
  for (index_t i = 0; i < chunks; ++i) {
    inputs.wait();
    if (i + 1 < chunks) arrive(i + 1);
    compute(i);
  }
}

/// The same, and leave(i) starts `results`, which are on their way while chunk i + 1 is computed: no more than these two exchanges
/// ever are.
template <class Inputs, class Results, class Arrive, class Compute, class Leave>
void one_ahead(index_t chunks, Inputs& inputs, Results& results, Arrive const& arrive, Compute const& compute,
               Leave const& leave) {
  one_ahead(chunks, inputs, arrive, [&](index_t i) {
    compute(i);
    results.wait();
    leave(i);
  });
  results.wait();
}

} // namespace sp::detail
