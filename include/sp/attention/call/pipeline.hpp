// Exchanges of chunks behind each other: what the next chunk needs is on its way while one is computed.
// Chunks of heads of cast, pass_q and Ulysses overlap by these loops.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

#include <sp/core/index.hpp>

namespace sp::detail {

/// An exchange on its way, or none. Made where it stays, because tokens are large; no std::optional, of whose contents g++ 12 says that
/// they may be uninitialised.
template <class Token>
class in_flight {
public:
  in_flight() = default;
  in_flight(in_flight const&) = delete;
  in_flight& operator=(in_flight const&) = delete;
  ~in_flight() { end(); }

  /// make() returns the token. None is on its way.
  template <class Make>
  void start(Make const& make) {
    token_ = ::new (static_cast<void*>(room_)) Token(make());
  }
  void wait() {
    if (!token_) return;
    token_->wait();
    end();
  }

private:
  void end() noexcept {
    if (Token* const t = std::exchange(token_, nullptr)) t->~Token();
  }
  alignas(Token) std::byte room_[sizeof(Token)];
  Token* token_ = nullptr;
};

/// An exchange on its way, of one of two kinds, or none.
template <class First, class Second>
struct either_in_flight {
  in_flight<First> first;
  in_flight<Second> second;
  void wait() {
    first.wait();
    second.wait();
  }
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

/// The same where all inputs, or all results, are one kind of exchange: what send(i) returns.
template <class Send, class Compute>
void pipelined(index_t chunks, Send const& send, Compute const& compute) {
  in_flight<decltype(send(index_t{}))> inputs;
  one_ahead(
      chunks, inputs, [&](index_t i) { inputs.start([&] { return send(i); }); }, compute);
}
template <class Send, class Compute, class Return>
void pipelined(index_t chunks, Send const& send, Compute const& compute, Return const& send_back) {
  in_flight<decltype(send(index_t{}))> inputs;
  in_flight<decltype(send_back(index_t{}))> results;
  one_ahead(
      chunks, inputs, results, [&](index_t i) { inputs.start([&] { return send(i); }); }, compute,
      [&](index_t i) { results.start([&] { return send_back(i); }); });
}

} // namespace sp::detail
