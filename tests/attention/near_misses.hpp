// An attention object that does nothing but what the inner-attention protocol asks for, and types that lack one member each.
// A deleted member hides the one it derives, as if it had never been written.
#pragma once

#include <sp/ulysses.hpp>

namespace near_miss {

using sp::heads;
using sp::index_t;
using sp::layout;
using sp::detail::backward_io;
using sp::detail::forward_io;

struct complete {
  using memory_type = sp::host_memory;
  struct prepared {
    index_t rows = 0;
    sp::detail::checked_geometry checked{};
  };
  template <class T>
  struct saved {
    using element_type = T;
    sp::detail::saved_token token;
  };
  static constexpr char const* name = "complete";
  sp::solo const& group() const { return alone; }
  sp::mask const& mask() const { return visible; }
  int checks() const { return 1; }
  heads local_heads_of(heads whole) const { return whole; }
  index_t q_rows(prepared const& p) const { return p.rows; }
  index_t k_rows(prepared const& p) const { return p.rows; }
  void check_call(heads, bool) const {}
  void prepare_layouts(prepared& p, layout const& q, layout const&, int part, std::vector<sp::slice> const&,
                       sp::mask const&) const {
    p.rows = q.tokens(part);
  }
  void identify(sp::digest&) const {}
  template <class F>
  void each_group(F&&) const {}
  int sequence_rank() const { return 0; }
  void describe(sp::fingerprint&, prepared const&, index_t, sp::random_key) const {}
  template <class T>
  saved<T> run_forward(prepared const&, sp::context<> const&, forward_io<T> const& io) const {
    sp::assign(io.out, io.q); // any function of whole heads will do
    return {sp::detail::saved_token(true)};
  }
  template <class T, class G>
  void run_backward(prepared const&, sp::context<> const&, saved<T> const&, backward_io<T, G> const& io) const {
    sp::assign(io.dq, io.dout);
    sp::fill(io.dk, G{});
    sp::fill(io.dv, G{});
  }
  template <class T>
  index_t scratch_for(prepared const&, heads, sp::attention_shape const&) const {
    return 0;
  }
  template <class T>
  index_t saved_for(prepared const&, heads, sp::attention_shape const&) const {
    return 0;
  }
  template <class T, class F>
  void each_lse(saved<T> const&, F&&) const {}

private:
  sp::solo alone;
  sp::mask visible = sp::causal();
};

struct unchecked_prepared : complete {
  struct prepared {};
};
struct prepared_without_default : complete {
  struct prepared : complete::prepared {
    explicit prepared(int);
  };
};
struct no_name : complete {
  static constexpr int name = 0;
};
struct no_group : complete {
  void group() const = delete;
};
struct no_mask : complete {
  void mask() const = delete;
};
struct no_checks : complete {
  void checks() const = delete;
};
struct no_local_heads : complete {
  void local_heads_of(heads) const = delete;
};
struct no_q_rows : complete {
  void q_rows(prepared const&) const = delete;
};
struct no_k_rows : complete {
  void k_rows(prepared const&) const = delete;
};
struct no_check_call : complete {
  void check_call(heads, bool) const = delete;
};
struct no_prepare_layouts : complete {
  void prepare_layouts() const = delete;
};
struct no_identify : complete {
  void identify() const = delete;
};
struct no_each_group : complete {
  void each_group() const = delete;
};
struct no_sequence_rank : complete {
  void sequence_rank() const = delete;
};
struct no_describe : complete {
  void describe() const = delete;
};

struct saved_without_token : complete {
  template <class T>
  struct saved {
    using element_type = T;
  };
};
struct saved_of_no_type : complete {
  template <class>
  struct saved {
    using element_type = void;
    sp::detail::saved_token token;
  };
};
struct no_run_forward : complete {
  void run_forward() const = delete;
};
struct no_run_backward : complete {
  void run_backward() const = delete;
};
/// It takes gradients of the tensors' type alone, not in the type of sums.
struct no_backward_of_sums : complete {
  template <class T>
  void run_backward(prepared const&, sp::context<> const&, saved<T> const&, backward_io<T, T> const&) const {}
};
struct no_scratch : complete {
  void scratch_for() const = delete;
};
struct no_saved_bytes : complete {
  void saved_for() const = delete;
};
struct no_each_lse : complete {
  void each_lse() const = delete;
};

} // namespace near_miss
