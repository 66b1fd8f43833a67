// The caller's tensors as operands: sp::view, anything mdspan-like, or a type with tensor_traits, mixed freely in one call.
// What cannot be an operand is refused in one sentence; what is missing, null or of another rank is named in the error.
#pragma once

#include <sp/core/adapt.hpp>

namespace sp {

namespace detail {

template <class>
inline constexpr int view_rank = 0; ///< 0: not a view
template <class T, int R, class M>
inline constexpr int view_rank<view<T, R, M>> = R;

/// Anything that can be read as (tokens, heads, dim), of whatever element type and memory.
template <class Tensor>
concept tensor_like = view_rank<Tensor>
== 3 || adapted<Tensor> || (mdspan_like<Tensor> && requires {
  requires Tensor::rank()
  == 3;
});

/// A tensor as it describes itself, and its number of dimensions, which only an adapted type says late. Empty if that is not three.
template <class T, class M>
struct found_tensor {
  view<T, 3, M> tensor{};
  int rank = 3;
};

/// Any tensor, unchecked. What the user says of a type wins over what it looks like.
template <tensor_like Tensor>
auto read_tensor(Tensor const& t) {
  if constexpr (view_rank<Tensor> == 3) {
    return found_tensor<typename Tensor::element_type, typename Tensor::memory_type>{t, 3};
  } else if constexpr (adapted<Tensor>) {
    using traits = tensor_traits<Tensor>;
    found_tensor<typename traits::element_type, typename traits::memory_type> found{{}, int(traits::rank(t))};
    if (found.rank == 3) found.tensor = described_view<3>(t);
    return found;
  } else {
    return found_tensor<typename Tensor::element_type, host_memory>{described_mdspan<host_memory>(t), 3};
  }
}

template <class Tensor>
using view_in = decltype(read_tensor(std::declval<Tensor const&>()).tensor);

/// Tensors that may stand for a view<E, 3, M>.
template <class Tensor, class E, class M>
concept reads_as = tensor_like<Tensor> && std::is_convertible_v<view_in<Tensor>, view<E, 3, M>>;

/// The one sentence for what cannot be an operand.
template <bool readable>
constexpr void require_operand() {
  static_assert(readable,
                "sp: the tensors of one attention call must be (tokens, heads, dim) of one element type, in the memory of the "
                "context's queue (host memory without one), and outputs must not be const; sinks and dsinks are "
                "sp::view<float, 1>, for tensors of double sp::view<double, 1>.");
}

template <class Tensor>
struct element_in {
  using type = float; // not a tensor: operand_of says so
};
template <tensor_like Tensor>
struct element_in<Tensor> {
  using type = typename view_in<Tensor>::value_type;
};
/// Element type of a tensor, const removed.
template <class Tensor>
using element_of = typename element_in<Tensor>::type;

} // namespace detail

/// One tensor of a call, (tokens, heads, dim): made implicitly of a view, an mdspan or an adapted type with elements of E.
/// It holds no reference to the caller's object, only to its elements.
template <class E, class M = host_memory>
class operand {
public:
  constexpr operand() = default;
  template <class Tensor>
    requires detail::reads_as<Tensor, E, M>
  constexpr operand(Tensor const& t) : foreign_(detail::view_rank<Tensor> == 0) {
    auto const found = detail::read_tensor(t);
    tensor_ = found.tensor;
    rank_ = found.rank;
  }

  /// The tensor; bad_pointer if it was not given or is null, invalid_shape if it is not (tokens, heads, dim).
  [[nodiscard]] view<E, 3, M> get(char const* name) const {
    if (rank_ == missing)
      fail({errc::bad_pointer, std::string(name) + " is missing",
            "Name every tensor of the call; a rank without tokens passes (0, heads, dim)"});
    if (rank_ != 3)
      fail({errc::invalid_shape, std::string(name) + " has " + std::to_string(rank_) + " dimensions, 3 are expected",
            "Pass (tokens, heads, dim)"});
    if (!foreign_) return tensor_;
    if (!tensor_.data && !tensor_.empty())
      fail({errc::bad_pointer, std::string(name) + " " + shape(tensor_) + " is null", "Pass memory for every non-empty tensor"});
    return checked_view(tensor_);
  }

private:
  static constexpr int missing = -1;
  view<E, 3, M> tensor_{};
  int rank_ = missing;
  bool foreign_ = false; ///< described by a trait or its members: sizes and strides are checked before they are used
};

namespace detail {

/// An operand of a positional call.
template <class E, class M, class Tensor>
operand<E, M> operand_of(Tensor const& t) {
  require_operand<reads_as<Tensor, E, M>>();
  if constexpr (reads_as<Tensor, E, M>) return t;
}

} // namespace detail
} // namespace sp
