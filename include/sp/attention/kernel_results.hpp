// What kernels returned from forward besides out, found in a `saved`, whatever attention objects are around the one that called them.
// Pointers into the `saved`: they live as long as it does. A kernel that returns void has none.
#pragma once

#include <type_traits>
#include <vector>

#include <sp/core/index.hpp>

namespace sp {

namespace detail {

/// f(result) for each, in the order of the calls.
template <class Saved, class F>
void each_kernel_result(Saved const& s, F&& f) {
  if constexpr (requires { s.entries; }) {
    for (auto const& one : s.entries) f(one);
  } else if constexpr (requires { s.by_backend; }) {
    for (auto const& one : s.by_backend.all()) f(one);
  } else if constexpr (requires { s.inner.count(); }) {
    for (index_t i = 0; i < s.inner.count(); ++i) each_kernel_result(s.inner.at(i), f);
  } else {
    static_assert(
        requires { s.inner; }, "sp::kernel_results: this is not what forward of an attention object of sp returned.");
    each_kernel_result(s.inner, f);
  }
}

template <class Saved>
auto kernel_result_type() {
  if constexpr (requires(Saved const& s) { s.entries; })
    return std::type_identity<typename Saved::entry>{};
  else if constexpr (requires(Saved const& s) { s.by_backend; })
    return std::type_identity<typename decltype(Saved::by_backend)::value_type>{};
  else if constexpr (requires(Saved const& s) { s.inner.count(); })
    return kernel_result_type<std::remove_cvref_t<decltype(std::declval<Saved const&>().inner.at(0))>>();
  else
    return kernel_result_type<std::remove_cvref_t<decltype(std::declval<Saved const&>().inner)>>();
}

} // namespace detail

/// What `saved`, which forward returned, holds of a kernel. Of a whole_kernel one entry per document and range of heads, in the order of
/// its calls: chunk of heads by chunk, document by document, by ascending heads. Of an attention_backend one per call of it: per step of a
/// rotating ring and chunk of heads; for sp::blockwise that is a struct whose member `calls` lists what the kernel returned
/// per block and range of heads.
template <class Saved>
[[nodiscard]] auto kernel_results(Saved const& saved) {
  using entry = typename decltype(detail::kernel_result_type<Saved>())::type;
  std::vector<entry const*> list;
  detail::each_kernel_result(saved, [&](entry const& one) { list.push_back(&one); });
  return list;
}
template <class Saved>
void kernel_results(Saved const&&) = delete; // they would be gone

} // namespace sp
