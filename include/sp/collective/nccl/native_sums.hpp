// The decorator `sp::native_sums`: all_reduce is NCCL's own, over a communicator of exactly the ranks of a group.
// Everything else is the communicator inside. Never of its own accord: sums of NCCL have other bits than those of the library.
#pragma once

#include <optional>

#include <sp/collective/decorators/forwarding.hpp>
#include <sp/collective/nccl/nccl.hpp>

namespace sp {

namespace detail {

inline constexpr int oldest_nccl_of_bf16 = nccl_version_number(2, 10, 0);

/// What NCCL calls elements of T; nothing where it does not add them up.
template <class T>
constexpr std::optional<ncclDataType_t> nccl_type_of() {
  if (std::is_same_v<T, float>) return ncclFloat32;
  if (std::is_same_v<T, double>) return ncclFloat64;
  if (std::is_same_v<T, fp16>) return ncclFloat16;
  // since 2.10 of every header, which names it only in some
  if (std::is_same_v<T, bf16> && NCCL_VERSION_CODE >= oldest_nccl_of_bf16) return static_cast<ncclDataType_t>(9);
  if (!std::is_integral_v<T> || std::is_same_v<T, bool>) return {};
  if (sizeof(T) == 1) return std::is_signed_v<T> ? ncclInt8 : ncclUint8;
  if (sizeof(T) == 4) return std::is_signed_v<T> ? ncclInt32 : ncclUint32;
  if (sizeof(T) == 8) return std::is_signed_v<T> ? ncclInt64 : ncclUint64;
  return {};
}
template <class T>
concept nccl_adds = bool(nccl_type_of<T>());

/// The sp::nccl in decorators and groups.
template <class C>
constexpr auto const& nccl_inside(C const& c) {
  if constexpr (requires { c.inner(); })
    return nccl_inside(c.inner());
  else
    return c;
}

/// The communicator of NCCL over the ranks of a group; ends with it. Null where it is the borrowed one, because the group has all its ranks:
/// a group of one rank has its own, for NCCL splits a communicator by all ranks or by none.
template <class Queue>
class nccl_sum_ranks {
public:
  explicit nccl_sum_ranks(std::shared_ptr<nccl_group<Queue>> group) : group_(std::move(group)) {
    if (!group_->has_all_ranks()) child_ = group_->communicator_of_group();
  }
  nccl_sum_ranks(nccl_sum_ranks const&) = delete;
  ~nccl_sum_ranks() {
    if (child_) group_->family().disown(child_);
  }
  ncclComm_t comm() const noexcept { return child_; }
  std::shared_ptr<nccl_group<Queue>> const& group() const noexcept { return group_; }

private:
  std::shared_ptr<nccl_group<Queue>> group_;
  ncclComm_t child_ = nullptr;
};

} // namespace detail

/// C, a sp::nccl or a group of one, whose all_reduce is one ncclAllReduce: of float, double, bf16, fp16 and integers of 1, 4 and 8 bytes. The
/// same bits on every rank, but in an order that NCCL chooses: not those of other communicators, and others when NCCL chooses otherwise. For
/// sums of a trainer, as of losses and of gradients of weights; attention adds nothing up this way. Sums of bf16 and fp16 are rounded to
/// these types on their way, as often as NCCL sends them on: widen them to float where that matters. Integers of 2 bytes and bool, which NCCL
/// does not add, take the fallback; all else is as inside, and a group split from this one is undecorated.
///
/// For a group that has not all ranks of the borrowed communicator the constructor is collective over that whole communicator, waits on
/// the host, and calls ncclCommSplit: every rank constructs one at the same time, for its group of one mesh or split. Its communicator ends
/// with the last copy; NCCL may wait there for the other ranks of the node, so that all ranks let go of theirs in the same order. It waits there
/// for graphs that have captured such sums, too: the cudaGraphExec_t and the cudaGraph_t go first.
///
/// bad_state, in the constructor: a graph is being captured, or a token has not been waited for; the operations of the trainer on the borrowed
/// communicator must have ended too, which is not looked at. unsupported: a group, and a header or library of NCCL below 2.18; in
/// all_reduce bf16, and a library below 2.10.
template <class C>
class native_sums : public detail::forwarding<native_sums<C>, C> {
  using base = detail::forwarding<native_sums<C>, C>;
  using nccl_type = std::remove_cvref_t<decltype(detail::nccl_inside(std::declval<C const&>()))>;
  using queue_type = std::remove_cvref_t<decltype(std::declval<nccl_type const&>().queue())>;
  static_assert(std::is_same_v<nccl_type, basic_nccl<queue_type>>,
                "sp::native_sums sums by NCCL: give it a sp::nccl, or a group or decorator of one.");

public:
  explicit native_sums(C inner)
      : base(std::move(inner)),
        ranks_(std::make_shared<detail::nccl_sum_ranks<queue_type>>(detail::nccl_inside(this->inner()).group_)) {}

  template <class T>
    requires(detail::nccl_adds<T>)
  [[nodiscard]] typename nccl_type::token all_reduce(view<T, 1, device_memory> values) const {
    auto const& group = ranks_->group();
    if constexpr (std::is_same_v<T, bf16>) group->needs_nccl(detail::oldest_nccl_of_bf16, "sums of bf16", "all_reduce");
    return {group, group->all_reduce(ranks_->comm(), *detail::nccl_type_of<T>(), as_piece(values))};
  }

private:
  std::shared_ptr<detail::nccl_sum_ranks<queue_type>> ranks_;
};

static_assert(detail::nccl_adds<float> && detail::nccl_adds<fp16> && detail::nccl_adds<std::int64_t> &&
              !detail::nccl_adds<short> &&
              !detail::nccl_adds<bool>); // that it is a communicator is asked where work for a device is compiled

} // namespace sp
